"""Models behind an endpoint, against a small server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from comity.errors import ModelError, ModelGarbled, ModelMissing, ModelNonsense, ModelTimeout
from comity.models.chat import ChatModel, complete
from comity.models.openai import OpenAIModel, first_token_scores, without_credentials
from contracts.chat_model import CHOICE, GREETING, SCHEMA, ChatModelContract

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
SAYS = {"html": "<html>Welcome</html>", "empty": "", "prose": "Not JSON."}
STATUS = {"secret": 401, "absent": 404, "busy": 429, "broken": 500}


class Endpoint(BaseHTTPRequestHandler):
    """Behaves as the request's model name says."""

    protocol_version = "HTTP/1.0"
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        model = body["model"]
        if model in STATUS:
            self.error(STATUS[model], f"{model} sk-secret")
        elif model == "old" and (refused := {"max_tokens", "temperature"} & set(body)):
            self.error(400, f"Unsupported parameter: '{min(refused)}'")
        elif model != "good" and "logprobs" in body:
            self.error(400, "logprobs are not supported")
        elif model == "plain" and "response_format" in body:
            self.error(400, "response_format is not supported")
        elif model == "html":
            self.answer("text/html", SAYS["html"])
        elif body.get("stream"):
            self.stream(model, body)
        else:
            self.answer("application/json", json.dumps(self.whole(model, body)))

    def whole(self, model: str, body: dict[str, Any]) -> dict[str, Any]:
        logprobs = None
        if "logprobs" in body:
            top = [{"token": t, "logprob": p, "bytes": None} for t, p in (("B", -0.2), (" A", -2))]
            logprobs = {"content": [{**top[0], "top_logprobs": top}], "refusal": None}
        text = "B." if model == "plain" else "none" if model == "stray" else '{"choice": "B"}'
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}
        return {**self.frame("chat.completion", model), "choices": [choice], "usage": USAGE}

    def stream(self, model: str, body: dict[str, Any]) -> None:
        self.head(200, "text/event-stream")
        text = '{"ok": true}' if "response_format" in body else "Hello there, world."
        for start in range(0, len(text := SAYS.get(model, text)), 5):
            self.event({"content": text[start : start + 5]}, None, model)
            if model == "garbled":
                self.send("data: {not json\n\n")
            if model == "slow":
                time.sleep(1.5)
            if model == "cut":
                return
        self.event({}, "length" if model == "short" else "stop", model)
        self.send(
            f"data: {json.dumps({**self.frame('x', model), 'choices': [], 'usage': USAGE})}\n\n"
        )
        self.send("data: [DONE]\n\n")

    def event(self, delta: dict[str, str], finish: str | None, model: str) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = {**self.frame("chat.completion.chunk", model), "choices": [choice]}
        self.send(f"data: {json.dumps(chunk)}\n\n")

    def frame(self, kind: str, model: str) -> dict[str, Any]:
        return {"id": "1", "object": kind, "created": 1, "model": model}

    def error(self, status: int, message: str) -> None:
        self.answer("application/json", json.dumps({"error": {"message": message}}), status)

    def answer(self, kind: str, text: str, status: int = 200) -> None:
        self.head(status, kind)
        self.send(text)

    def head(self, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def send(self, text: str) -> None:
        try:
            self.wfile.write(text.encode())
        except ConnectionError:
            self.close_connection = True  # the client went away, as some tests have it

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


class Server:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        handler = type("Handler", (Endpoint,), {"asked": self.asked})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def model(self, name: str, *, timeout: float = 20.0, retries: int = 0) -> OpenAIModel:
        url = f"http://user:pass@127.0.0.1:{self.http.server_port}/v1"
        return OpenAIModel(name, base_url=url, timeout=timeout, retries=retries)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


class TestOpenAI(ChatModelContract):
    @pytest.fixture
    def model(self, server: Server) -> ChatModel:
        return server.model("good")


async def test_usage_and_finish_reason_come_from_the_stream(server: Server) -> None:
    reply = await complete(server.model("short"), GREETING)
    assert reply.finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 2)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("secret", ModelError, "OPENAI_API_KEY"),
        ("absent", ModelMissing, "check the model's name"),
        ("busy", ModelError, "wait"),
        ("broken", ModelError, "500"),
        ("html", ModelGarbled, "usually ends in /v1"),
        ("empty", ModelNonsense, "empty answer"),
        ("garbled", ModelGarbled, "no JSON"),
        ("cut", ModelError, "cut before its end"),
    ],
)
async def test_a_failure_says_which_model_where_and_what_to_do(
    server: Server, name: str, error: type[ModelError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        await complete(server.model(name), GREETING)
    assert type(caught.value) is error
    assert f"model {name} at http://127.0.0.1:{server.http.server_port}/v1" in str(caught.value)
    assert "pass" not in str(caught.value)


async def test_the_key_is_not_repeated_from_a_refusal(server: Server) -> None:
    with pytest.raises(ModelError) as caught:
        await complete(server.model("secret"), GREETING)
    assert "sk-secret" not in str(caught.value)


async def test_silence_longer_than_the_timeout_is_an_error(server: Server) -> None:
    with pytest.raises(ModelTimeout, match=r"0\.3 s"):
        await complete(server.model("slow", timeout=0.3), GREETING)


async def test_a_closed_port_is_an_error() -> None:
    model = OpenAIModel("any", base_url="http://127.0.0.1:9/v1", retries=0)
    with pytest.raises(ModelError, match="cannot be reached"):
        await complete(model, GREETING)


async def test_a_cut_answer_is_not_asked_for_again(server: Server) -> None:
    stream = server.model("cut", retries=2).stream(GREETING)
    assert await anext(stream) == "Hello"
    with pytest.raises(ModelError, match="cut"):
        await anext(stream)
    assert len(server.asked) == 1


async def test_fields_refused_by_name_are_renamed_or_left_out(server: Server) -> None:
    assert (await complete(server.model("old"), GREETING)).text == "Hello there, world."
    last = server.asked[-1]
    assert last["max_completion_tokens"] == GREETING.max_tokens
    assert not {"temperature", "max_tokens"} & set(last)


async def test_prose_instead_of_json_is_nonsense(server: Server) -> None:
    with pytest.raises(ModelNonsense, match=r"Not JSON\."):
        await complete(server.model("prose"), GREETING.model_copy(update={"json_schema": SCHEMA}))


async def test_choices_are_scored_by_the_first_token(server: Server) -> None:
    reply = await complete(server.model("good"), CHOICE)
    assert (reply.text, reply.choice_logprobs) == ("B", {"B": -0.2, "A": -2.0})
    assert server.asked[0]["top_logprobs"] == 20


@pytest.mark.parametrize("name", ["structured", "plain"])
async def test_without_log_probabilities_a_choice_has_no_scores(server: Server, name: str) -> None:
    reply = await complete(server.model(name), CHOICE)
    assert (reply.text, reply.choice_logprobs) == ("B", None)


async def test_an_answer_outside_the_choices_is_nonsense(server: Server) -> None:
    with pytest.raises(ModelNonsense, match="none of A, B"):
        await complete(server.model("stray"), CHOICE)


def test_spellings_of_one_choice_are_added_up() -> None:
    scores = first_token_scores({"A": -1.0, " A": -1.0, "A.": -3.0, "The": -0.1}, ("A", "B"))
    assert scores == {"A": pytest.approx(-0.2409, abs=1e-3)}


def test_choices_that_are_hardly_likely_score_none() -> None:
    assert first_token_scores({"<think>": -0.0001, "A": -17.2, "C": -16.9}, ("A", "C")) == {}
    assert first_token_scores({"The": -0.1, "A": -2.9}, ("A", "C")) == {"A": -2.9}


def test_a_token_that_begins_two_choices_scores_none() -> None:
    assert first_token_scores({"Ex": -0.1, "Taboo": -2.0}, ("Expected", "Exempt", "Taboo")) == {}


def test_credentials_are_taken_out_of_addresses() -> None:
    assert without_credentials("https://u:p@h:8/v1?key=1#x") == "https://h:8/v1"
