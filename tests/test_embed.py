"""Embedders: the contract for the fake, names, and servers of embeddings."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import EmbedderError, MissingExtra, SettingsError
from comity.memory.embed import Embedder, HashEmbedder, OpenAIEmbedder, open_embedder
from contracts.embedder import EmbedderContract


class TestHashEmbedderKeepsTheContract(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder:
        return HashEmbedder()


# the fake


@given(st.text())
def test_the_fake_embeds_any_text_to_unit_length(text: str) -> None:
    assert np.linalg.norm(HashEmbedder(16).embed_query(text)) == pytest.approx(1.0, abs=1e-5)


def test_the_fake_gives_the_same_vector_in_another_process() -> None:
    code = (
        "from comity.memory.embed import HashEmbedder;"
        "print(HashEmbedder(8).embed_query('a dog, 一只狗').tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(printed) == HashEmbedder(8).embed_query("a dog, 一只狗").tolist()


def test_the_fake_ignores_case_and_width() -> None:
    fake = HashEmbedder()
    np.testing.assert_array_equal(fake.embed_query("ＤＯＧ park"), fake.embed_query("dog Park"))


def test_the_fake_refuses_no_dimensions() -> None:
    with pytest.raises(SettingsError, match="dimension 0"):
        HashEmbedder(0)


# names


def test_names_open_their_embedders() -> None:
    assert open_embedder("hash").id == "hash@256"
    assert isinstance(open_embedder("openai:m", base_url="http://localhost:1"), OpenAIEmbedder)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("E5", "did you mean e5?"),
        ("hsah", "did you mean hash?"),
        ("opnai:small", "did you mean openai:MODEL?"),
        ("openai:", "did you mean openai:MODEL?"),
        ("zzzzzz", "known are e5, hash"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        open_embedder(name)
    assert hint in str(refused.value)
    assert repr(name) in str(refused.value)


@pytest.mark.skipif(
    importlib.util.find_spec("fastembed") is not None, reason="fastembed is installed here"
)
def test_fastembed_names_its_pip_command_where_it_is_absent() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'comity\[fastembed\]'"):
        open_embedder("fastembed:any/model")


def test_importing_embedders_loads_no_heavy_package() -> None:
    heavy = ["onnx", "onnxruntime", "openai", "fastembed", "tokenizers", "httpx"]
    code = f"import sys, comity.memory.embed; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "[]"


# servers

Answer = Callable[[dict[str, Any]], tuple[int, Any]]


@contextmanager
def _server(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A local server of embeddings; yields its address and the requests it got."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body | {"path": self.path, "key": self.headers["Authorization"]})
            status, content = answer(body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", requests
        finally:
            server.shutdown()
            thread.join()


def _vectors(body: dict[str, Any]) -> tuple[int, Any]:
    """Twice the fake's vectors, last first, as an honest but untidy server would send them."""
    rows = 2 * HashEmbedder(body.get("dimensions", 32)).embed_passages(body["input"])
    data = [
        {"object": "embedding", "index": index, "embedding": row.tolist()}
        for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return 200, {"object": "list", "model": "m", "data": data[::-1], "usage": usage}


def _client(address: str, **options: Any) -> OpenAIEmbedder:
    return OpenAIEmbedder("m", base_url=address, max_retries=0, timeout=5, **options)


def test_vectors_of_a_server_are_ordered_normalised_and_batched() -> None:
    texts = [f"rule number {number}" for number in range(5)]
    with _server(_vectors) as (address, requests):
        embedder = _client(address, api_key="secret", batch_size=2)
        rows = embedder.embed_passages(texts)
        np.testing.assert_allclose(rows, HashEmbedder(32).embed_passages(texts), atol=1e-6)
        np.testing.assert_allclose(rows[3], embedder.embed_query(texts[3]), atol=1e-6)
    asked = [request["input"] for request in requests if "dimension" not in request["input"]]
    assert asked == [texts[:2], texts[2:4], texts[4:], [texts[3]]]
    assert {request["path"] for request in requests} == {"/v1/embeddings"}
    assert {request["key"] for request in requests} == {"Bearer secret"}


def test_the_dimension_of_a_server_is_found_out_once() -> None:
    with _server(_vectors) as (address, requests):
        embedder = _client(address)
        assert embedder.id == "openai:m@32"
        assert embedder.embed_passages([]).shape == (0, 32)
    assert len(requests) == 1


def test_a_wanted_dimension_is_asked_for() -> None:
    with _server(_vectors) as (address, requests):
        assert _client(address, dimension=16).embed_query("dog").shape == (16,)
    assert requests[0]["dimensions"] == 16


def _without_the_first(body: dict[str, Any]) -> tuple[int, Any]:
    status, content = _vectors(body)
    return status, content | {"data": content["data"][1:]}


def _ragged(body: dict[str, Any]) -> tuple[int, Any]:
    status, content = _vectors(body)
    content["data"][0]["embedding"].append(1.0)
    return status, content


def _zeros(body: dict[str, Any]) -> tuple[int, Any]:
    status, content = _vectors(body)
    content["data"][0]["embedding"] = [0.0] * 32
    return status, content


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda _: (401, {"error": {"message": "wrong key"}}), "wrong key"),
        (lambda _: (404, {"error": {"message": "no such model"}}), "no such model"),
        (lambda _: (429, {"error": {"message": "too many"}}), "too many"),
        (lambda _: (500, b"oops"), "500|oops"),
        (lambda _: (200, b"not json"), "embedding model m"),
        (lambda _: (200, {"data": None}), "embedding model m"),
        (lambda _: (200, {"data": [{"index": 0}]}), "embedding model m"),
        (_without_the_first, "1 vectors for 2 texts"),
        (_ragged, "holds no vectors"),
        (_zeros, "zero or not finite"),
    ],
)
def test_a_server_that_fails_is_named_in_the_error(answer: Answer, message: str) -> None:
    with _server(answer) as (address, _), pytest.raises(EmbedderError, match=message) as failed:
        _client(address, dimension=32).embed_passages(["a dog", "a cat"])
    assert "model m" in str(failed.value)


def test_a_server_that_is_not_there_is_named_in_the_error() -> None:
    with pytest.raises(EmbedderError, match=r"127\.0\.0\.1:9/"):
        _client("http://127.0.0.1:9/v1").embed_query("a dog")


def test_a_missing_key_is_an_embedder_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(EmbedderError, match="OPENAI_API_KEY"):
        OpenAIEmbedder("m").embed_query("a dog")
