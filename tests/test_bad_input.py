"""Requests that are malformed, huge, slow or given up, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comity.serving.strict_json import read_json
from raw_upstream import STREAM, Running, Step, event, gateway, piece, plain, says

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(
        ["\x00", "\ud800", " ", "😀", "user", "system", "text", "CN-SH", "2026-01-01"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = (
    ("model",),
    ("messages",),
    ("messages", 0),
    ("messages", 0, "role"),
    ("messages", 0, "content"),
    ("messages", 0, "content", 0),
    ("messages", 0, "content", 0, "type"),
    ("messages", 0, "content", 0, "text"),
    ("messages", 1, "tool_calls"),
    ("messages", 1, "content"),
    ("stream",),
    ("stream_options",),
    ("stream_options", "include_usage"),
    ("n",),
    ("max_tokens",),
    ("temperature",),
    ("tools",),
    ("metadata",),
    ("metadata", "comity_place"),
    ("metadata", "comity_audience"),
    ("metadata", "comity_at"),
    ("unheard_of",),
)


def whole_body() -> dict[str, Any]:
    return {
        "model": "bot",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "How much?"}]},
            {"role": "assistant", "content": "So much.", "tool_calls": []},
        ],
        "stream": False,
        "stream_options": {"include_usage": False},
        "metadata": {"comity_place": "CN-SH"},
    }


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with gateway(seconds=1.0, max_body_mb=2.0) as found:
        yield found


@pytest.fixture(scope="module")
def refusing() -> Iterator[Running]:
    """A gateway that is sent nothing but what it must refuse, so that nothing comes late."""
    with gateway(max_body_mb=2.0) as found:
        yield found


def put(body: Any, path: tuple[Any, ...], value: Any) -> None:
    for step in path[:-1]:
        body = body[step]
    body[path[-1]] = value


def post(running: Running, raw: bytes, **headers: str) -> Any:
    return running.client.post("/v1/chat/completions", content=raw, headers=headers)


@settings(max_examples=100)
@given(path=st.sampled_from(FIELDS), value=JSON)
def test_any_value_in_any_field_is_answered_or_a_400(
    running: Running, path: tuple[Any, ...], value: Any
) -> None:
    assume((path, value) != (("stream",), True))  # this upstream streams nothing
    body = whole_body()
    put(body, path, value)
    told = post(running, json.dumps(body).encode())
    assert told.status_code in (200, 400, 404), told.text
    if told.status_code != 200:
        assert set(told.json()["error"]) == {"message", "type", "param", "code"}
    elif body["stream"]:
        assert told.text.endswith("data: [DONE]\n\n") or '"error"' in told.text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff",
        b"nul",
        b'{"model": "bot", "messages": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": 1e999}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud800"}',
        b'{"model": "\xed\xa0\x80"}',
        b'{"a":' * 101 + b"1" + b"}" * 101,
        b"[" * 1_000_000,
        b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
        "\ufeff{}".encode(),
        '{"model": "bot"}'.encode("utf-16"),
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_a_body_that_is_no_json_is_a_400(refusing: Running, raw: bytes) -> None:
    told = post(refusing, raw)
    assert told.status_code == 400
    assert told.json()["error"]["message"].startswith("the body")
    assert refusing.upstream.asked == []


def test_of_a_name_given_twice_the_one_that_is_read_is_the_one_that_is_sent(
    running: Running,
) -> None:
    one, other = ([{"role": "user", "content": text}] for text in ("first", "second"))
    turns = f'"messages":{json.dumps(one)},"messages":{json.dumps(other)}'
    raw = f'{{"model":"no","model":"bot",{turns}}}'
    assert post(running, raw.encode()).status_code == 200
    asked = running.upstream.asked[-1]
    assert (asked["model"], asked["messages"][1]["content"]) == ("bot", "second")
    assert running.decisions()[-1].question == "second"


@pytest.mark.parametrize(
    "text", ["\x00", " ", "\n\t", "\u200b", "x\x00y", "'; DROP TABLE rule; --", "😀" * 5000]
)
def test_text_of_any_kind_is_answered_and_recorded(running: Running, text: str) -> None:
    told = running.ask(text=text)
    assert told.status_code == 200
    assert running.decisions()[-1].question == text


@pytest.mark.parametrize(
    "content",
    ["", [], None, [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]],
)
def test_a_request_without_any_text_of_a_user_is_a_400(running: Running, content: Any) -> None:
    body = {"model": "bot", "messages": [{"role": "user", "content": content}]}
    told = post(running, json.dumps(body).encode())
    assert told.status_code == 400
    assert told.json()["error"]["param"] == "messages"


def test_unknown_fields_go_to_the_upstream_as_they_came(running: Running) -> None:
    assert running.ask(top_k=3, guided={"a": [None, 1.5]}).status_code == 200
    asked = running.upstream.asked[-1]
    assert (asked["top_k"], asked["guided"]) == (3, {"a": [None, 1.5]})


def test_a_header_in_utf_8_names_a_place(running: Running) -> None:
    told = post(
        running,
        json.dumps(running.body()).encode(),
        **{"x-comity-place": "CN-HN/长沙市".encode()},  # type: ignore[arg-type]
    )
    assert told.status_code == 200
    assert running.decisions()[-1].scope.place == ("CN-HN/长沙市",)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/rules", "/decisions/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_every_error_has_openais_form_and_every_reply_a_name(
    running: Running, method: str, path: str
) -> None:
    told = running.client.request(method, path, content=b'{"rules": 3}')
    assert told.headers["x-request-id"].startswith("req-")
    assert 400 <= told.status_code < 500
    assert set(told.json()["error"]) == {"message", "type", "param", "code"}


def _memory_mb(name: str = "VmRSS") -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1000
    raise AssertionError(name)


def _flood(running: Running, head: bytes, parts: int) -> bytes:
    """Send a head and so many megabytes, and give what comes back."""
    part = b"x" * 1_000_000
    chunked = b"chunked" in head
    with running.connect() as sock:
        try:
            sock.sendall(head)
            for _ in range(parts):
                sock.sendall(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            return sock.recv(65536)
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/rules"])
@pytest.mark.parametrize(
    "length", [b"content-length: 100000000", b"transfer-encoding: chunked"], ids=["told", "chunked"]
)
def test_a_body_of_100_mb_is_refused_and_never_held(
    running: Running, path: str, length: bytes
) -> None:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
        "content-type: application/json\r\n"
    ).encode()
    before = _memory_mb()
    told = _flood(running, head + length + b"\r\n\r\n", 100)
    assert told.startswith(b"HTTP/1.1 413")
    assert b"larger than 2 MB" in told
    assert _memory_mb() - before < 50


def test_a_length_that_is_a_lie_ends_the_request_or_the_wait(running: Running) -> None:
    content = json.dumps(running.body()).encode()
    raw = running.request(content)
    length = b"content-length: %d" % len(content)
    lies = {
        b"%d" % (len(content) - 5): (b"400",),
        b"%d" % (len(content) + 5): (b"408",),
        b"-1": (b"400",),
        b"abc": (b"400",),
        b"9" * 40: (b"400", b"413"),
        b"5\r\ncontent-length: 6": (b"400",),
    }
    for lie, statuses in lies.items():
        with running.connect() as sock:
            sock.sendall(raw.replace(length, b"content-length: " + lie))
            assert sock.recv(65536).split()[1] in statuses


def test_a_compressed_body_is_not_unpacked(running: Running) -> None:
    bomb = gzip.compress(b"0" * 5_000_000)
    told = post(running, bomb, **{"content-encoding": "gzip"})
    assert told.status_code == 415
    assert "compressed" in told.json()["error"]["message"]


def _until(sock: socket.socket, mark: bytes, times: int = 1) -> bytes:
    """What comes until a mark has come so often."""
    told = b""
    while told.count(mark) < times:
        part = sock.recv(65536)
        assert part, told
        told += part
    return told


def _ended(sock: socket.socket) -> bytes:
    """What comes until the gateway closes the connection."""
    told = b""
    try:
        while part := sock.recv(65536):
            told += part
    except ConnectionResetError:
        pass
    return told


def test_headers_that_come_byte_by_byte_are_cut_off(running: Running) -> None:
    def dribble(sock: socket.socket) -> None:
        for _ in range(1000):
            sock.sendall(b"x")
            time.sleep(0.01)

    with running.connect() as silent, running.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nx-slow: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            dribble(slow)
        assert _ended(silent) == b""


def test_a_body_that_comes_byte_by_byte_is_cut_off(running: Running) -> None:
    raw = running.request(json.dumps(running.body(text="x" * 5000)).encode())
    with running.connect() as sock:
        sock.sendall(raw[:-5000])
        sock.settimeout(0.01)
        told = b""
        for at in range(len(raw) - 5000, len(raw)):
            sock.sendall(raw[at : at + 1])
            try:
                told = sock.recv(65536)
                break
            except TimeoutError:
                continue
    assert told.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in told


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200_000, b"GET / HTTP/1.1\r\nx: " + b"y" * 2_000_000],
    ids=["many", "long"],
)
def test_headers_without_end_are_cut_off(running: Running, head: bytes) -> None:
    with running.connect() as sock:
        try:
            sock.sendall(head)
        except (BrokenPipeError, ConnectionResetError):
            return
        told = _ended(sock)
    assert not told or told.startswith(b"HTTP/1.1 4")


def test_many_headers_do_no_harm(running: Running) -> None:
    more = {f"x-{number}": "y" * 50 for number in range(200)}
    assert post(running, json.dumps(running.body()).encode(), **more).status_code == 200


def test_a_client_that_does_not_take_its_answer_is_cut_off() -> None:
    text = "word " * 16_000
    with gateway(seconds=1.0, release="observe") as running:
        steps: list[Step] = [STREAM, *[event(piece({"content": text}))] * 40, 5.0]
        running.upstream.script = lambda body: steps
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", running.port))
            sock.sendall(running.request(json.dumps(running.body(stream=True)).encode()))
            running.wait_for(lambda: running.upstream.open == 1)
            running.wait_for(lambda: running.upstream.open == 0)
        assert running.upstream.broken == 1
        running.wait_for(lambda: len(running.decisions()) == 1)
        assert running.decisions()[0].finish_reason == "broken_off"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_the_upstreams_request_ends_when_the_client_goes(stream: bool, begun: bool) -> None:
    with gateway(release="observe") as running:
        first = [STREAM, *says("Yes. And so on.")[:3]] if begun and stream else [b""]
        running.upstream.script = lambda body: [*first, 20.0]
        sock = running.connect()
        sock.sendall(running.request(json.dumps(running.body(stream=stream)).encode()))
        running.wait_for(lambda: running.upstream.open == 1)
        if begun and stream:
            _until(sock, b'"content": " A"')
        sock.close()
        running.wait_for(lambda: running.upstream.open == 0)
        assert running.upstream.broken == 1
        if begun and stream:
            running.wait_for(lambda: len(running.decisions()) == 1)
            (decision,) = running.decisions()
            assert (decision.finish_reason, decision.answer) == ("broken_off", "Yes. A")
        else:
            assert running.decisions() == []
        running.upstream.script = lambda body: [plain({"content": "Yes."})]
        assert running.ask().status_code == 200


def test_a_client_that_half_closes_gets_its_answer_or_none(running: Running) -> None:
    with running.connect() as sock:
        sock.sendall(running.request(json.dumps(running.body()).encode()))
        sock.shutdown(socket.SHUT_WR)
        assert _ended(sock)[:12] in (b"", b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_turn(running: Running) -> None:
    raw = running.request(json.dumps(running.body()).encode())
    with running.connect() as sock:
        sock.sendall(raw * 3)
        told = _until(sock, b'"comity"', 6)
    assert told.count(b"HTTP/1.1 200") == 3


async def test_connections_that_come_and_go_leave_nothing_behind(running: Running) -> None:
    open_files = Path("/proc/self/fd")
    running.ask()
    before = len(list(open_files.iterdir()))

    async def come_and_go(number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        raw = running.request(json.dumps(running.body(stream=bool(number % 2))).encode())
        writer.write(raw[: number * 7])
        await writer.drain()
        await asyncio.sleep(0.002 * (number % 5))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(come_and_go(number) for number in range(100)))
    running.wait_for(lambda: running.upstream.open == 0)
    running.wait_for(lambda: len(list(open_files.iterdir())) <= before + 15)


@given(value=JSON)
def test_what_is_read_can_be_written_again(value: Any) -> None:
    try:
        read = read_json(json.dumps(value).encode())
    except ValueError:
        return
    json.dumps(read, ensure_ascii=False, allow_nan=False).encode()
