"""The gateway before a scripted upstream: the official SDK, unchanged, over real connections."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from openai import (
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import prompt_server
from comity import Memory, Rule
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.records import Check
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway, Tenant
from comity.serving.upstream import Upstream

Body = dict[str, Any]
RULES = [
    Rule(id="leash", text="Dogs are kept on a leash in the park", place="CN-SH"),
    Rule(
        id="doses",
        title="Chat Policy",
        article="Section 2",
        text="No doses are named.",
        mandatory=True,
        enforcement="block",
        check=Check(must_not_match=r"\d+ mg"),
    ),
]


class Scripted:
    """An upstream that says what it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.says: Callable[[Body], Body] = lambda body: {"content": "On a leash [R1]."}
        self.asked: list[Body] = []
        self.answer: Response | None = None
        self.pause = 0.0

    async def respond(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if self.answer is not None:
            return self.answer
        messages = [{"role": "assistant", **self.says(body)} for _ in range(body.get("n") or 1)]
        head = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        if not body.get("stream"):
            choices = [
                {
                    "index": at,
                    "message": message,
                    "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
                }
                for at, message in enumerate(messages)
            ]
            return JSONResponse(
                {**head, "object": "chat.completion", "choices": choices, "usage": usage}
            )
        return StreamingResponse(
            self._events(head, messages, usage), media_type="text/event-stream"
        )

    async def _events(self, head: Body, messages: list[Body], usage: Body) -> Any:
        head = {**head, "object": "chat.completion.chunk"}
        for at, message in enumerate(messages):
            text = message.get("content") or ""
            deltas: list[Body] = [{"content": text[i : i + 3]} for i in range(0, len(text), 3)]
            for number, call in enumerate(message.get("tool_calls") or ()):
                deltas.append({"tool_calls": [{"index": number, **call}]})
            for delta in deltas:
                choice = {"index": at, "delta": delta, "finish_reason": None}
                await asyncio.sleep(self.pause)
                yield f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"
            end = {"index": at, "delta": {}, "finish_reason": "stop"}
            yield f"data: {json.dumps({**head, 'choices': [end]})}\n\n"
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The application on a port of its own."""
    with prompt_server.running(uvicorn.Config(app, log_level="error", lifespan="on")) as port:
        yield f"http://127.0.0.1:{port}/v1"


class Running:
    """A gateway with its memory, its upstream and a key."""

    def __init__(
        self, url: str, memory: Memory, upstream: Scripted, key: str, app: FastAPI
    ) -> None:
        self.url, self.memory, self.upstream = url, memory, upstream
        self.key, self.app = key, app

    def sdk(self, key: str | None = None) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=key or self.key, max_retries=0)


@pytest.fixture
def upstream() -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted()
    app = Starlette(routes=[Route("/v1/chat/completions", scripted.respond, methods=["POST"])])
    with served(app) as url:
        yield scripted, url


@pytest.fixture(params=["strict"])
def running(upstream: tuple[Scripted, str], request: pytest.FixtureRequest) -> Iterator[Running]:
    scripted, url = upstream
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES)
        key = create_key(memory, "default", "client").secret
        config = Gateway(
            upstreams={"bot": Upstream(base_url=url, model="real-bot")},
            tenants={"default": Tenant(release=request.param)},
        )
        app = create_app(memory, config)
        with served(app) as gateway:
            yield Running(gateway, memory, scripted, key, app)


MODES = pytest.mark.parametrize("running", ["strict", "window", "observe"], indirect=True)


def ask(sdk: OpenAI, text: str = "May dogs run free?", **more: Any) -> Any:
    turns: Any = [{"role": "user", "content": text}]
    return sdk.chat.completions.create(model="bot", messages=turns, **more)


def told(error: APIStatusError) -> str:
    """The error's own words, which releases of the SDK frame in different ways."""
    return str(error.response.json()["error"]["message"])


def test_the_rules_of_the_place_go_before_the_question_and_the_record_is_kept(
    running: Running,
) -> None:
    answer = ask(running.sdk(), metadata={"comity_place": "CN-SH", "mine": "yes"})
    assert answer.choices[0].message.content == "On a leash [R1]."
    (asked,) = running.upstream.asked
    assert asked["model"] == "real-bot"
    assert asked["metadata"] == {"mine": "yes"}
    assert "Dogs are kept on a leash" in asked["messages"][0]["content"]
    assert asked["messages"][1] == {"role": "user", "content": "May dogs run free?"}
    told = answer.model_extra["comity"]
    decision = running.memory.store.decision("default", told["decision"])
    assert decision.answer == "On a leash [R1]."
    assert decision.scope.place == ("CN-SH",)
    assert [c["id"] for c in told["citations"]] == [c.id for c in decision.citations] != []
    assert decision.usage.prompt_tokens == 7


def test_a_changed_rule_changes_the_next_answer(running: Running) -> None:
    running.upstream.says = lambda body: {"content": body["messages"][0]["content"]}
    place = {"comity_place": "CN-SH"}
    assert "kept on a leash" in ask(running.sdk(), metadata=place).choices[0].message.content
    running.memory.amend("leash", {"text": "Dogs may run free in the park"})
    assert (
        "may run free in the park" in ask(running.sdk(), metadata=place).choices[0].message.content
    )


def test_a_blocked_answer_is_a_400_that_names_the_rule(running: Running) -> None:
    running.upstream.says = lambda body: {"content": "Take 20 mg."}
    with pytest.raises(BadRequestError) as raised:
        ask(running.sdk(), "How much?")
    assert raised.value.code == "content_filter"
    assert "Chat Policy Section 2" in told(raised.value)
    assert "20 mg" not in told(raised.value)
    assert raised.value.response.headers["x-request-id"].startswith("req-")
    (decision,) = running.memory.store.decisions("default")
    assert decision.withheld


@MODES
@pytest.mark.parametrize("text", ["On a leash.", "Take 20 mg.", "Fine. Take 20 mg. Or so."])
def test_a_stream_and_a_plain_answer_get_the_same_verdict(running: Running, text: str) -> None:
    running.upstream.says = lambda body: {"content": text}
    try:
        plain = ask(running.sdk(), "How much?").choices[0]
        said, finish = plain.message.content, plain.finish_reason
    except BadRequestError as error:
        said, finish = told(error), "content_filter"
    chunks = list(ask(running.sdk(), "How much?", stream=True))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].choices[0].finish_reason == finish
    assert streamed in said or said in streamed
    one, other = running.memory.store.decisions("default")
    assert (one.answer, one.findings, one.withheld) == (
        other.answer,
        other.findings,
        other.withheld,
    )
    assert streamed == other.answer


def test_nothing_leaves_a_strict_stream_before_its_check(running: Running) -> None:
    running.upstream.says = lambda body: {"content": "Fine. Take 20 mg."}
    chunks = list(ask(running.sdk(), "How much?", stream=True))
    text = "".join(c.choices[0].delta.content or "" for c in chunks)
    assert "Fine" not in text
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert chunks[-1].choices[0].model_extra["comity"]["withheld"] is True


def test_usage_comes_last_in_a_stream_that_asks_for_it(running: Running) -> None:
    chunks = list(ask(running.sdk(), stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 10
    assert all(chunk.usage is None for chunk in list(ask(running.sdk(), stream=True)))


CALL = {"id": "c1", "type": "function", "function": {"name": "give", "arguments": '{"d": "9 mg"}'}}


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_that_breaks_a_rule_is_withheld(running: Running, stream: bool) -> None:
    running.upstream.says = lambda body: {"content": None, "tool_calls": [CALL]}
    tools = [{"type": "function", "function": {"name": "give", "parameters": {}}}]
    if stream:
        chunks = list(ask(running.sdk(), "How much?", tools=tools, stream=True))
        assert all(not c.choices[0].delta.tool_calls for c in chunks)
        assert chunks[-1].choices[0].finish_reason == "content_filter"
    else:
        with pytest.raises(BadRequestError, match="withheld"):
            ask(running.sdk(), "How much?", tools=tools)
    assert running.upstream.asked[0]["tools"] == tools


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said", [r"\u0039\u0020m\u0067", r"9\tmg", r"9\nm\u0067"])
def test_a_tool_call_is_read_as_its_json_says_it(running: Running, said: str, stream: bool) -> None:
    running.memory.amend("doses", {"check": {"must_not_match": r"\d+\s+mg"}})
    function = {"name": "give", "arguments": f'{{"d": "{said}"}}'}
    running.upstream.says = lambda body: {
        "content": None,
        "tool_calls": [{**CALL, "function": function}],
    }
    if stream:
        chunks = list(ask(running.sdk(), "How much?", stream=True))
        assert chunks[-1].choices[0].finish_reason == "content_filter"
    else:
        with pytest.raises(BadRequestError, match="withheld"):
            ask(running.sdk(), "How much?")


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_that_breaks_none_is_passed_on(running: Running, stream: bool) -> None:
    fine = {**CALL, "function": {"name": "give", "arguments": '{"d": "none"}'}}
    running.upstream.says = lambda body: {"content": None, "tool_calls": [fine]}
    tools = [{"type": "function", "function": {"name": "give", "parameters": {}}}]
    told = ask(running.sdk(), "How much?", tools=tools, stream=stream)
    if stream:
        calls = [c for chunk in told for c in (chunk.choices[0].delta.tool_calls or ())]
    else:
        calls = told.choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == ['{"d": "none"}']


def test_several_choices_are_each_checked_and_recorded(running: Running) -> None:
    answer = ask(running.sdk(), n=3)
    assert len(answer.choices) == 3
    ids = {choice.model_extra["comity"]["decision"] for choice in answer.choices}
    assert ids == {decision.id for decision in running.memory.store.decisions("default")}


@pytest.mark.parametrize("stream", [False, True])
def test_what_several_choices_cost_together_is_counted_once(running: Running, stream: bool) -> None:
    told = ask(running.sdk(), n=3, stream=stream)
    assert len(list(told)) if stream else told.choices
    made = list(running.memory.store.decisions("default"))
    assert len(made) == 3
    assert sum(decision.usage.prompt_tokens for decision in made) == 7
    assert sum(decision.usage.completion_tokens for decision in made) == 3


async def test_the_async_client_works_too(running: Running) -> None:
    async with AsyncOpenAI(base_url=running.url, api_key=running.key, max_retries=0) as sdk:
        answers = await asyncio.gather(
            *(
                sdk.chat.completions.create(
                    model="bot", messages=[{"role": "user", "content": f"Dogs {number}?"}]
                )
                for number in range(8)
            )
        )
        assert {a.choices[0].message.content for a in answers} == {"On a leash [R1]."}
        models = [model.id async for model in sdk.models.list()]
    assert models == ["bot"]


def test_an_unknown_or_revoked_key_and_model_are_refused(running: Running) -> None:
    with pytest.raises(AuthenticationError):
        ask(running.sdk("comity-wrong"))
    made = create_key(running.memory, "default", "client")
    assert ask(running.sdk(made.secret)).choices
    running.memory.store.revoke_key(made.key.id, running.memory.clock())
    with pytest.raises(AuthenticationError, match="revoked"):
        ask(running.sdk(made.secret))
    with pytest.raises(NotFoundError, match="no model 'other'"):
        running.sdk().chat.completions.create(
            model="other", messages=[{"role": "user", "content": "?"}]
        )


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"{}", "model"),
        (b'{"model": "bot"}', "messages"),
        (b'{"model": "bot", "messages": []}', "messages"),
        (b'{"model": "bot", "messages": [3]}', "messages[0]"),
        (b'{"model": "bot", "messages": [{"role": "boss"}]}', "messages[0].role"),
        (b'{"model": "bot", "messages": [{"role": "user", "content": 3}]}', "messages[0].content"),
        (
            b'{"model": "bot", "messages": [{"role": "user", "content": "x"}], "stream": 3}',
            "stream",
        ),
        (
            b'{"model": "bot", "messages": [{"role": "user", "content": "x"}],'
            b' "metadata": {"comity_at": "soon"}}',
            "metadata.comity_at",
        ),
    ],
)
def test_a_request_that_cannot_be_used_is_a_400_that_names_the_field(
    running: Running, raw: bytes, param: str | None
) -> None:
    told = httpx.post(
        f"{running.url}/chat/completions",
        content=raw,
        headers={"authorization": f"Bearer {running.key}"},
    )
    assert told.status_code == 400
    error = told.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert running.upstream.asked == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (JSONResponse({"error": {"message": "slow down"}}, 429), 429, "slow down"),
        (Response("<html>", 200, media_type="text/html"), 502, "endpoint"),
        (Response("<html>", 500, media_type="text/html"), 500, "endpoint answered 500"),
        (Response(status_code=307, headers={"location": "http://10.0.0.1/"}), 502, "307"),
    ],
    ids=["429", "html", "500", "redirect"],
)
def test_what_the_upstream_does_wrong_is_told(
    running: Running, answer: Response, status: int, message: str, stream: bool
) -> None:
    running.upstream.answer = answer
    told = httpx.post(
        f"{running.url}/chat/completions",
        json={
            "model": "bot",
            "messages": [{"role": "user", "content": "x"}],
            "stream": stream,
        },
        headers={"authorization": f"Bearer {running.key}"},
    )
    assert told.status_code == status
    assert message in told.json()["error"]["message"]
    assert list(running.memory.store.decisions("default")) == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_of_this_process_is_served_as_well(stream: bool) -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES)
        model = ScriptedModel({"Dogs are kept": "On a leash [R2].", "": "Nothing."})
        app = create_app(memory, Gateway(), models={"local": model})
        key = create_key(memory, "default", "client").secret
        with served(app) as url:
            sdk = OpenAI(base_url=url, api_key=key, max_retries=0)
            turns: Any = [{"role": "user", "content": "May dogs run free?"}]
            told: Any = sdk.chat.completions.create(
                model="local",
                messages=turns,
                stream=stream,
                metadata={"comity_place": "CN-SH"},
                temperature=0.5,
            )
            if stream:
                said = "".join(chunk.choices[0].delta.content or "" for chunk in told)
            else:
                said = told.choices[0].message.content
            with pytest.raises(BadRequestError, match="n must be 1"):
                sdk.chat.completions.create(model="local", messages=turns, n=2)
        assert said == "On a leash [R2]."
        assert model.requests[0].temperature == 0.5
        assert len(list(memory.store.decisions("default"))) == 1


@pytest.mark.parametrize("running", ["observe"], indirect=True)
def test_a_client_that_goes_in_mid_stream_leaves_a_record_of_what_it_got(running: Running) -> None:
    running.upstream.says = lambda body: {"content": "word " * 2000}
    running.upstream.pause = 0.005
    with ask(running.sdk(), stream=True) as stream:
        for _ in zip(range(5), stream, strict=False):
            pass
    for _ in range(200):
        if found := list(running.memory.store.decisions("default")):
            break
        threading.Event().wait(0.02)
    (decision,) = found
    assert decision.finish_reason == "broken_off"
    assert 0 < len(decision.answer) < 10_000


def test_a_key_that_asks_too_much_waits(upstream: tuple[Scripted, str]) -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES)
        config = Gateway(
            upstreams={"*": Upstream(base_url=upstream[1])},
            tenants={"default": Tenant(tokens_per_minute=5)},
        )
        key = create_key(memory, "default", "client").secret
        with served(create_app(memory, config)) as url:
            sdk = OpenAI(base_url=url, api_key=key, max_retries=0)
            assert ask(sdk).choices  # its 10 tokens are more than a minute's
            with pytest.raises(RateLimitError) as raised:
                ask(sdk)
        assert int(raised.value.response.headers["retry-after"]) >= 1
        assert upstream[0].asked[0]["model"] == "bot"


def test_a_stream_that_is_left_early_costs_what_had_left(upstream: tuple[Scripted, str]) -> None:
    scripted, there = upstream
    scripted.says = lambda body: {"content": "word " * 2000}
    scripted.pause = 0.005
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES[0])
        tenants = {"default": Tenant(tokens_per_minute=5)}
        config = Gateway(upstreams={"bot": Upstream(base_url=there)}, tenants=tenants)
        key = create_key(memory, "default", "client").secret
        with served(create_app(memory, config)) as url:
            sdk = OpenAI(base_url=url, api_key=key, max_retries=0)
            with ask(sdk, stream=True) as stream:
                for _ in zip(range(5), stream, strict=False):
                    pass
            page = url.removesuffix("/v1") + "/metrics"
            for _ in range(500):
                if 'gen_ai_token_type="output"' in httpx.get(page).text:
                    break
                threading.Event().wait(0.02)
            with pytest.raises(RateLimitError):
                ask(sdk)
        (decision,) = memory.store.decisions("default")
        assert decision.finish_reason == "broken_off"


def test_metrics_count_requests_tokens_and_what_was_withheld(running: Running) -> None:
    ask(running.sdk())
    running.upstream.says = lambda body: {"content": "Take 20 mg."}
    with pytest.raises(BadRequestError):
        ask(running.sdk(), "How much?")
    page = httpx.get(running.url.removesuffix("/v1") + "/metrics").text
    lines = page.splitlines()
    assert 'comity_requests_total{route="/v1/chat/completions",status="200"} 1.0' in lines
    assert 'comity_requests_total{route="/v1/chat/completions",status="400"} 1.0' in lines
    assert "comity_withheld_total 1.0" in lines
    assert (
        'gen_ai_client_token_usage_total{gen_ai_request_model="bot",gen_ai_token_type="input"} 14.0'
        in lines
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_span_tells_the_decision_and_its_findings(running: Running, stream: bool) -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    telemetry = running.app.state.telemetry
    telemetry.trace_with(provider)
    told = ask(running.sdk(), stream=stream)
    _ = list(told) if stream else told
    for _ in range(200):  # a stream's span ends after its last event
        if exported.get_finished_spans():
            break
        threading.Event().wait(0.02)
    (span,) = exported.get_finished_spans()
    assert span.name == "chat bot"
    assert span.attributes is not None
    (decision,) = running.memory.store.decisions("default")
    assert span.attributes["comity.decision.id"] == decision.id
    assert [event.name for event in span.events] == ["gen_ai.evaluation.result"]


@MODES
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dose", ["9 mg", "none"])
def test_a_tool_call_behind_text_gets_the_same_verdict_in_a_stream(
    running: Running, stream: bool, dose: str
) -> None:
    call = {**CALL, "function": {"name": "give", "arguments": json.dumps({"d": dose})}}
    running.upstream.says = lambda body: {"content": "I will. See below", "tool_calls": [call]}
    try:
        told = ask(running.sdk(), "How much?", stream=stream)
        if stream:
            deltas = [chunk.choices[0].delta for chunk in told]
            calls = [call for delta in deltas for call in delta.tool_calls or ()]
            text = "".join(delta.content or "" for delta in deltas)
        else:
            message = told.choices[0].message
            calls, text = message.tool_calls or [], message.content
    except BadRequestError:
        calls, text = [], ""
    (decision,) = running.memory.store.decisions("default")
    kept_back = dose == "9 mg" and decision.release != "observe"
    assert decision.withheld == kept_back
    assert bool(calls) != kept_back
    assert kept_back or text == "I will. See below"
