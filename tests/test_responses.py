"""The Responses API before a scripted upstream: the official SDK, unchanged, over connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import (
    APIError,
    AsyncOpenAI,
    BadRequestError,
    NotFoundError,
    OpenAI,
    PermissionDeniedError,
    RateLimitError,
)
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from comity import Memory, Rule
from comity.alignment.release import Release
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.records import Check, Decision
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway, Tenant
from comity.serving.upstream import Upstream
from test_gateway import Scripted, served

Body = dict[str, Any]
TOOL: Body = {
    "type": "function",
    "name": "give",
    "description": "Gives it.",
    "parameters": {"type": "object", "properties": {"d": {"type": "string"}}},
    "strict": False,
}
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "give", "arguments": '{"d": "one"}'}},
    {"id": "c2", "type": "function", "function": {"name": "give", "arguments": '{"d": "two"}'}},
]


RELEASES: tuple[Release, ...] = ("strict", "window", "observe")
LEASH = Rule(id="leash", text="Dogs are kept on a leash in the park", place="CN-SH")
CODED = Rule(
    id="doses",
    title="Chat Policy",
    article="Section 2",
    text="No doses are named.",
    mandatory=True,
    enforcement="block",
    check=Check(must_not_match=r"\d+ mg"),
)
JUDGED = Rule(
    id="kind",
    text="Answers are kind.",
    mandatory=True,
    enforcement="block",
    check=Check(judge="Is it kind?"),
)
MENDED = Rule(
    id="plain",
    text="No shouting.",
    mandatory=True,
    enforcement="revise",
    check=Check(must_not_match="LOUD"),
)

RULES = {"code": [LEASH, CODED], "judge": [JUDGED], "revise": [MENDED], "none": [LEASH]}


def mending(body: Body) -> Body:
    """Shouts, until it is told not to."""
    mended = any(turn["role"] == "assistant" for turn in body["messages"])
    return {"content": "Quiet now." if mended else "So LOUD. Again."}


def judging(request: Any) -> str:
    """Finds the word `fool` unkind."""
    answer = "\n".join(turn.content for turn in request.messages)
    verdict = {"critique": "It says so.", "quotation": "", "verdict": "not_applicable"}
    if "you fool" in answer:
        verdict = {**verdict, "quotation": "you fool", "verdict": "violated"}
    return json.dumps({"C1": verdict})


class Upstreamed(Scripted):
    """An upstream that can answer a request in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.asked.clear()
        self.says: Callable[[Body], Body] = lambda body: {"content": "On a leash [R1]."}
        self.replies: Callable[[Body], Response | None] = lambda body: None

    async def respond(self, request: Request) -> Response:
        body = await request.json()
        if (reply := self.replies(body)) is None:
            return await super().respond(request)
        self.asked.append(body)
        return reply


class House(NamedTuple):
    """A gateway for many tenants, with its memory, its upstream and clients."""

    url: str
    memory: Memory
    upstream: Upstreamed
    local: ScriptedModel
    sdk: OpenAI
    http: httpx.Client

    def tenant(self, name: str) -> Asking:
        """A client of this tenant."""
        self.upstream.reset()
        key = create_key(self.memory, name, "client").secret
        return Asking(self, name, key, self.sdk.with_options(api_key=key))


class Asking(NamedTuple):
    """One tenant's client."""

    house: House
    tenant: str
    key: str
    sdk: OpenAI

    @property
    def upstream(self) -> Upstreamed:
        return self.house.upstream

    @property
    def http(self) -> httpx.Client:
        return self.house.http

    def decided(self, answer: Any) -> Decision:
        """The record of a response."""
        name = answer.model_extra["comity"]["decision"]
        return self.house.memory.store.decision(self.tenant, name)

    def decisions(self) -> list[Decision]:
        """All records, oldest first."""
        return list(self.house.memory.store.decisions(self.tenant))


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    scripted, local = Upstreamed(), ScriptedModel({"Dogs are kept": "On a leash.", "": "No."})
    route = Route("/v1/chat/completions", scripted.respond, methods=["POST"])
    tenants = {
        f"{release}-{name}": Tenant(release=release) for release in RELEASES for name in RULES
    } | {"limited-none": Tenant(tokens_per_minute=5)}
    with (
        served(Starlette(routes=[route])) as upstream,
        Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory,
    ):
        for tenant in tenants:
            rules = RULES[tenant.partition("-")[2]]
            memory.add([rule.model_copy(update={"tenant": tenant}) for rule in rules])
        config = Gateway(
            upstreams={"bot": Upstream(base_url=upstream, model="real-bot")}, tenants=tenants
        )
        app = create_app(memory, config, judge=ScriptedModel(judging), models={"local": local})
        with (
            served(app) as url,
            OpenAI(base_url=url, api_key="-", max_retries=0) as sdk,
            httpx.Client() as http,
        ):
            yield House(url, memory, scripted, local, sdk, http)


@pytest.fixture
def running(house: House) -> Asking:
    return house.tenant("strict-code")


def ask(running: Asking, given: Any = "May dogs run free?", **more: Any) -> Any:
    return running.sdk.responses.create(model="bot", input=given, **more)


def asked(running: Asking) -> Body:
    """What the upstream was asked, but for the rules."""
    body = running.upstream.asked[-1]
    assert body["messages"][0]["role"] == "system"
    return {**body, "messages": body["messages"][1:]}


def post(running: Asking, body: Any) -> httpx.Response:
    return running.http.post(
        f"{running.house.url}/responses",
        content=json.dumps(body).encode(),
        headers={"authorization": f"Bearer {running.key}"},
    )


def finishing(
    reason: str, content: str | None = "Half an answer", **more: Any
) -> Callable[[Body], Response]:
    """An answer of the upstream that ends for this reason, streamed or not."""

    def answer(body: Body) -> Response:
        message = {"role": "assistant", "content": content, **more}
        head = {"id": "chatcmpl-1", "created": 1, "model": "real-bot", "object": "chat.completion"}
        if not body["stream"]:
            choice = {"index": 0, "message": message, "finish_reason": reason}
            return JSONResponse({**head, "choices": [choice]})
        choices = [
            {"index": 0, "delta": message, "finish_reason": None},
            {"index": 0, "delta": {}, "finish_reason": reason},
        ]
        sent = [f"data: {json.dumps({**head, 'choices': [each]})}\n\n" for each in choices]
        return StreamingResponse(iter([*sent, "data: [DONE]\n\n"]), media_type="text/event-stream")

    return answer


def test_the_rules_go_before_the_question_and_the_record_is_kept(running: Asking) -> None:
    given = {"comity_place": "CN-SH", "mine": "yes"}
    answer = ask(running, instructions="Be kind.", metadata=given, user="u-1", temperature=0.5)
    assert answer.output_text == "On a leash [R1]."
    assert (answer.status, answer.model, answer.metadata) == ("completed", "real-bot", given)
    assert (answer.instructions, answer.user, answer.temperature) == ("Be kind.", "u-1", 0.5)
    sent = running.upstream.asked[0]
    assert "Dogs are kept on a leash" in sent["messages"][0]["content"]
    assert "Be kind." in sent["messages"][0]["content"]
    assert asked(running)["messages"] == [{"role": "user", "content": "May dogs run free?"}]
    assert (sent["metadata"], sent["user"], sent["temperature"]) == ({"mine": "yes"}, "u-1", 0.5)
    decision = running.decided(answer)
    assert decision.scope.place == ("CN-SH",)
    assert decision.answer == answer.output_text
    told = answer.model_extra["comity"]["citations"]
    assert [cited["id"] for cited in told] == [cited.id for cited in decision.citations] != []
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 3)
    assert answer.usage.total_tokens == 10


def test_a_stream_says_the_same_as_a_plain_answer_in_a_whole_life_cycle(running: Asking) -> None:
    place = {"comity_place": "CN-SH"}
    plain = ask(running, metadata=place)
    events = list(ask(running, metadata=place, stream=True))
    names = [event.type.removeprefix("response.") for event in events]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert names == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta" for _ in deltas),
        "output_text.annotation.added",
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    assert "".join(deltas) == last.output_text == plain.output_text
    assert {event.response.id for event in (*events[:2], events[-1])} == {last.id}
    assert (last.usage, last.status, last.store) == (plain.usage, "completed", False)
    assert last.output[0].content == plain.output[0].content
    assert running.decided(last).answer == running.decided(plain).answer == plain.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_a_citation_is_an_annotation_of_the_text_that_cites(running: Asking, stream: bool) -> None:
    told = ask(running, metadata={"comity_place": "CN-SH"}, stream=stream)
    events = list(told) if stream else []
    answer = events[-1].response if stream else told
    (cited,) = answer.model_extra["comity"]["citations"]
    (note,) = answer.output[0].content[0].annotations
    assert note.type == "url_citation"
    assert answer.output_text[note.start_index : note.end_index] == "[R1]"
    assert note.url == f"{running.house.url.removesuffix('/v1')}/rules/history?id={cited['id']}"
    added = [e for e in events if e.type == "response.output_text.annotation.added"]
    assert [event.to_dict()["annotation"] for event in added] == [note.to_dict()] * stream
    admin = create_key(running.house.memory, running.tenant, "admin").secret
    page = running.http.get(note.url, headers={"authorization": f"Bearer {admin}"})
    assert page.json()[0]["rule"]["id"] == cited["id"]


def test_the_helper_for_streams_follows_every_event(running: Asking) -> None:
    with running.sdk.responses.stream(model="bot", input="May dogs run free?") as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        answer = stream.get_final_response()
    assert snapshots[-1] == answer.output_text == "On a leash [R1]."
    assert answer.model_extra is not None
    assert answer.model_extra["comity"]["withheld"] is False


class Pet(BaseModel):
    name: str


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output_is_asked_for_and_parsed(running: Asking, stream: bool) -> None:
    running.upstream.says = lambda body: {"content": '{"name": "Rex"}'}
    responses = running.sdk.responses
    if stream:
        with responses.stream(model="bot", input="Whose?", text_format=Pet) as events:
            parsed = events.get_final_response()
    else:
        parsed = responses.parse(model="bot", input="Whose?", text_format=Pet)
    assert parsed.output_parsed == Pet(name="Rex")
    form = asked(running)["response_format"]
    assert form["type"] == "json_schema"
    assert (form["json_schema"]["name"], form["json_schema"]["strict"]) == ("Pet", True)
    assert form["json_schema"]["schema"]["required"] == ["name"]


@pytest.mark.parametrize("tenant", ["strict-code", "strict-none"])
@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_functions_come_back_in_their_flat_form(
    house: House, stream: bool, tenant: str
) -> None:
    running = house.tenant(tenant)
    running.upstream.says = lambda body: {"content": "I look.", "tool_calls": CALLS}
    told = ask(running, tools=[TOOL], tool_choice="required", stream=stream)
    events = list(told) if stream else []
    answer = events[-1].response if stream else told
    message, *calls = answer.output
    assert isinstance(message, ResponseOutputMessage)
    assert all(isinstance(call, ResponseFunctionToolCall) for call in calls)
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        ("c1", "give", '{"d": "one"}'),
        ("c2", "give", '{"d": "two"}'),
    ]
    assert answer.output_text == "I look."
    if stream:
        done = [e for e in events if e.type == "response.function_call_arguments.done"]
        deltas = [e for e in events if e.type == "response.function_call_arguments.delta"]
        assert [event.arguments for event in done] == [call.arguments for call in calls]
        assert {event.item_id for event in deltas} == {call.id for call in calls}
    function = {name: value for name, value in TOOL.items() if name != "type"}
    assert asked(running)["tools"] == [{"type": "function", "function": function}]
    assert (asked(running)["tool_choice"], answer.tool_choice) == ("required", "required")
    assert answer.tools[0].to_dict() == TOOL


def test_a_conversation_with_calls_and_results_is_one_of_chat_again(running: Asking) -> None:
    first = [{"role": "user", "content": [{"type": "input_text", "text": "How much?"}]}]
    running.upstream.says = lambda body: {"content": "I look.", "tool_calls": CALLS}
    answer = ask(running, first, tools=[TOOL])
    results = [
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [{"type": "input_text", "text": "2"}],
        },
    ]
    more = {"role": "assistant", "content": "Well."}
    items = [*first, *(item.to_dict() for item in answer.output), *results, more]
    last = {"role": "developer", "content": "Be short."}
    running.upstream.says = lambda body: {"content": "Enough."}
    assert ask(running, [*items, last, {"role": "user", "content": "So?"}]).output_text == "Enough."
    assert asked(running)["messages"] == [
        {"role": "user", "content": "How much?"},
        {"role": "assistant", "content": "I look.", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "assistant", "content": "Well."},
        {"role": "user", "content": "So?"},
    ]
    assert "Be short." in running.upstream.asked[-1]["messages"][0]["content"]


def test_pictures_and_several_parts_go_on_as_parts(running: Asking) -> None:
    parts = [
        {"type": "input_text", "text": "Dogs?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
    ]
    ask(running, [{"role": "user", "content": parts}])
    assert asked(running)["messages"][0]["content"] == [
        {"type": "text", "text": "Dogs?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"max_output_tokens": 50}, {"max_tokens": 50}),
        (
            {"top_p": 0.5, "parallel_tool_calls": False},
            {"top_p": 0.5, "parallel_tool_calls": False},
        ),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
        ({"extra_body": {"top_k": 3, "stop": ["."]}}, {"top_k": 3, "stop": ["."]}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "give"}},
            {"tool_choice": {"type": "function", "function": {"name": "give"}}},
        ),
        ({"store": True, "truncation": "disabled", "include": []}, {}),
    ],
)
def test_options_go_on_under_their_names_of_chat(running: Asking, given: Body, sent: Body) -> None:
    answer = ask(running, **given)
    body = {name: value for name, value in asked(running).items() if name != "tools"}
    plain = {"model": "real-bot", "stream": False}
    assert body == {**plain, "messages": body["messages"], **sent}
    assert answer.store is False


def test_a_choice_among_some_tools_leaves_the_others_out(running: Asking) -> None:
    other = {**TOOL, "name": "take"}
    some: Any = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "take"}],
    }
    answer = ask(running, tools=[TOOL, other], tool_choice=some)
    assert [tool["function"]["name"] for tool in asked(running)["tools"]] == ["take"]
    assert asked(running)["tool_choice"] == "required"
    assert answer.tool_choice.to_dict() == some
    assert len(answer.tools) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_renamed_the_limit_is_asked_again_under_its_name(
    running: Asking, stream: bool
) -> None:
    said = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    refused = JSONResponse({"error": {"message": said, "param": "max_tokens"}}, 400)
    running.upstream.replies = lambda body: refused if "max_tokens" in body else None
    told = ask(running, max_output_tokens=9, stream=stream)
    answer = list(told)[-1].response if stream else told
    assert (answer.output_text, answer.max_output_tokens) == ("On a leash [R1].", 9)
    assert asked(running)["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_the_model_did_not_end_is_incomplete(
    running: Asking, stream: bool, reason: str, told: str
) -> None:
    running.upstream.replies = finishing(reason)
    answer = ask(running, stream=stream)
    if stream:
        *_, last = answer
        assert last.type == "response.incomplete"
        answer = last.response
    assert (answer.status, answer.incomplete_details.reason) == ("incomplete", told)
    assert (answer.output_text, answer.output[0].status) == ("Half an answer", "incomplete")
    assert answer.usage is None


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_nothing_is_an_empty_text(running: Asking, stream: bool) -> None:
    running.upstream.replies = finishing("stop", "")
    answer = ask(running, stream=stream)
    if stream:
        *_, last = answer
        answer = last.response
    assert (answer.output_text, len(answer.output), answer.status) == ("", 1, "completed")


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_itself_refuses_is_a_refusal(running: Asking, stream: bool) -> None:
    running.upstream.replies = finishing("stop", None, refusal="I will not.")
    told = ask(running, stream=stream)
    events = list(told) if stream else []
    answer = events[-1].response if stream else told
    (part,) = answer.output[0].content
    assert (part.type, part.refusal, answer.output_text) == ("refusal", "I will not.", "")
    deltas = [event.delta for event in events if event.type == "response.refusal.delta"]
    assert "".join(deltas) == "I will not." * stream


def test_a_withheld_answer_is_a_400_that_names_the_rule(running: Asking) -> None:
    running.upstream.says = lambda body: {"content": "Take 20 mg."}
    with pytest.raises(BadRequestError) as raised:
        ask(running, "How much?")
    assert (raised.value.code, raised.value.param) == ("content_filter", "doses@1")
    assert "20 mg" not in raised.value.response.json()["error"]["message"]
    assert raised.value.response.headers["x-request-id"].startswith("req-")
    assert raised.value.response.json()["comity"]["withheld"] is True


@pytest.mark.parametrize("release", ["strict", "window"])
def test_a_withheld_stream_is_incomplete_with_what_had_left(house: House, release: str) -> None:
    running = house.tenant(f"{release}-code")
    running.upstream.says = lambda body: {"content": "Fine. Take 20 mg. Or so."}
    with running.sdk.responses.stream(model="bot", input="How much?") as stream:
        events: list[Any] = list(stream)
    assert events[-1].type == "response.incomplete"
    last = events[-1].response
    assert last.incomplete_details.reason == "content_filter"
    assert last.output_text.startswith("Fine.") == (release == "window")
    assert "Chat Policy Section 2" in last.output_text
    assert "20 mg" not in last.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == last.output_text
    assert running.decided(last).withheld
    assert running.decided(last).answer == last.output_text


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("code", lambda body: {"content": "On a leash."}),
        ("code", lambda body: {"content": "Fine. Take 20 mg. Or so."}),
        ("code", lambda body: {"content": "I look.", "tool_calls": CALLS}),
        (
            "code",
            lambda body: {
                "content": "I give.",
                "tool_calls": [
                    {**CALLS[0], "function": {"name": "give", "arguments": '{"d": "9 mg"}'}}
                ],
            },
        ),
        ("judge", lambda body: {"content": "No, you fool."}),
        ("judge", lambda body: {"content": "No, my friend."}),
        ("revise", mending),
    ],
    ids=["fine", "block", "calls", "blocked call", "judged", "judged fine", "revise"],
)
def test_a_stream_and_a_plain_answer_get_the_same_verdict(
    house: House, release: str, rules: str, says: Callable[[Body], Body]
) -> None:
    running = house.tenant(f"{release}-{rules}")
    running.upstream.says = says
    try:
        plain = ask(running, "How much?", tools=[TOOL])
        status, text = plain.status, plain.output_text
        calls = [item.arguments for item in plain.output[1:]]
    except BadRequestError:
        status, text, calls = "incomplete", None, []
    last = list(ask(running, "How much?", tools=[TOOL], stream=True))[-1].response
    one, other = running.decisions()[-2:]
    assert last.status == status
    assert text is None or last.output_text == text
    assert [item.arguments for item in last.output[1:]] == calls
    assert (one.answer, one.findings, one.withheld, one.disclosed) == (
        other.answer,
        other.findings,
        other.withheld,
        other.disclosed,
    )
    assert other.answer.startswith(last.output_text)
    assert one.withheld == (status == "incomplete")


def broken(*texts: str, error: Body | None = None) -> Response:
    """A stream that says these texts, and then fails or is cut."""
    head = {"id": "chatcmpl-1", "created": 1, "model": "real-bot"}
    chunks: list[Body] = [
        {**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in texts
    ]
    chunks += [{"error": error}] if error else []
    sent = (f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
    return StreamingResponse(sent, media_type="text/event-stream")


@pytest.mark.parametrize("error", [None, {"message": "overloaded"}])
def test_a_failure_in_mid_stream_is_told_and_raised(house: House, error: Body | None) -> None:
    running = house.tenant("observe-code")
    running.upstream.replies = lambda body: broken("On a leash", " always", error=error)
    with pytest.raises(APIError, match="overloaded" if error else "cut its answer short"):
        list(ask(running, stream=True))
    *_, last = told_until_it_fails(ask(running, stream=True))
    assert last.type == "response.failed"
    assert (last.response.status, last.response.error.code) == ("failed", "server_error")
    assert last.response.output_text == "On a leash always"
    decision = running.decisions()[-1]
    assert (decision.answer, decision.finish_reason) == ("On a leash always", "broken_off")


def told_until_it_fails(stream: Any) -> Iterator[Any]:
    with suppress(APIError):
        yield from stream


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "status", "param"),
    [
        (lambda: JSONResponse({"error": {"message": "slow down"}}, 429), 429, None),
        (
            lambda: JSONResponse({"error": {"message": "no", "param": "response_format"}}, 400),
            400,
            "text.format",
        ),
        (lambda: JSONResponse({"error": "no"}, 422), 422, None),
        (lambda: Response("<html>", 200, media_type="text/html"), 502, None),
        (lambda: StreamingResponse(iter(["data: [DONE]\n\n"]), 200), 502, None),
    ],
    ids=["429", "field", "word", "html", "nothing"],
)
def test_what_the_upstream_does_wrong_is_an_error_with_its_status(
    running: Asking, answer: Callable[[], Response], status: int, param: str | None, stream: bool
) -> None:
    running.upstream.replies = lambda body: answer()
    told = post(running, {"model": "bot", "input": "x", "stream": stream})
    assert told.status_code == status
    error = told.json()["error"]
    assert (error.get("param") if isinstance(error, dict) else None) == param


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"model": 3}, "model"),
        ({"input": None}, "input"),
        ({"input": 3}, "input"),
        ({"input": []}, "input"),
        ({"input": [3]}, "input[0]"),
        ({"input": [{"content": "x"}]}, "input[0].type"),
        ({"input": [{"role": "boss", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "m"}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"instructions": 3}, "instructions"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": True}, "top_p"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"comity_at": "soon"}}, "metadata.comity_at"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": {}}, "tools"),
        ({"tools": [{**TOOL, "parameters": "x"}]}, "tools[0].parameters"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"reasoning": {"effort": 3}}, "reasoning.effort"),
        ({"user": 3}, "user"),
        ({"store": "no"}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
        ({"n": 2}, "n"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_request_that_cannot_be_used_is_a_400_that_names_the_field(
    running: Asking, given: Body, param: str
) -> None:
    before = len(running.upstream.asked)
    told = post(running, {"model": "bot", "input": "Dogs?", **given})
    assert told.status_code == 400, told.text
    error = told.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert len(running.upstream.asked) == before


OPTIONS = (
    *("instructions", "stream", "tools", "tool_choice", "text", "metadata", "reasoning"),
    *("temperature", "top_p", "max_output_tokens", "include", "parallel_tool_calls", "user"),
)
FIELDS = ("role", "content", "output", "call_id", "name", "arguments")
NAMES = (*OPTIONS, *FIELDS, "model", "input", "type", "format", "parameters", "effort")
WORDS = (
    *("bot", "user", "assistant", "message", "function", "function_call", "input_text", "auto"),
    *("function_call_output", "json_schema", "allowed_tools", "reasoning", "json_object"),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(WORDS)},
    optional=dict.fromkeys(FIELDS, JSON),
)
BODIES = st.fixed_dictionaries(
    {"model": st.just("bot"), "input": st.just("Dogs?") | st.lists(ITEMS | JSON, max_size=3)},
    optional=dict.fromkeys(OPTIONS, JSON),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON | BODIES)
def test_no_body_is_ever_the_gateways_failure(running: Asking, body: Any) -> None:
    told = post(running, body)
    assert told.status_code < 500, told.text
    if told.status_code != 200:
        assert set(told.json()["error"]) == {"message", "type", "param", "code"}


def test_scope_keys_and_models_are_those_of_chat(running: Asking) -> None:
    answer = ask(
        running,
        extra_headers={"X-Comity-Place": "CN-SH"},
        metadata={"comity_place": "world"},
    )
    assert running.decided(answer).scope.place == ("CN-SH",)
    with pytest.raises(NotFoundError, match="no model 'other'"):
        running.sdk.responses.create(model="other", input="Dogs?")
    auditor = create_key(running.house.memory, running.tenant, "auditor").secret
    with pytest.raises(PermissionDeniedError):
        running.sdk.with_options(api_key=auditor).responses.create(model="bot", input="Dogs?")
    page = running.http.get(running.house.url.removesuffix("/v1") + "/metrics").text
    assert 'comity_requests_total{route="/v1/responses",status="403"} 1.0' in page.splitlines()


def test_a_key_that_asks_too_much_waits(house: House) -> None:
    running = house.tenant("limited-none")
    assert ask(running).output_text  # its 10 tokens are more than a minute's
    with pytest.raises(RateLimitError) as raised:
        ask(running)
    assert int(raised.value.response.headers["retry-after"]) >= 1


async def test_the_async_client_works_too(running: Asking) -> None:
    async with AsyncOpenAI(base_url=running.house.url, api_key=running.key, max_retries=0) as sdk:
        answers = await asyncio.gather(
            *(sdk.responses.create(model="bot", input=f"Dogs {number}?") for number in range(8))
        )
        assert {answer.output_text for answer in answers} == {"On a leash [R1]."}
        async with sdk.responses.stream(model="bot", input="Dogs?") as stream:
            names = [event.type async for event in stream]
            assert (await stream.get_final_response()).output_text == "On a leash [R1]."
        assert names[-1] == "response.completed"


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_of_this_process_answers_as_well(running: Asking, stream: bool) -> None:
    create: Any = running.sdk.responses.create
    more = {"max_output_tokens": 40} if stream else {}
    place = {"comity_place": "CN-SH"}
    told = create(model="local", input="Dogs?", metadata=place, stream=stream, **more)
    answer = list(told)[-1].response if stream else told
    assert answer.output_text == "On a leash."
    assert answer.usage.output_tokens > 0
    assert running.house.local.requests[-1].max_tokens == (40 if stream else 512)
    with pytest.raises(BadRequestError) as raised:
        create(model="local", input="Dogs?", text={"format": {"type": "json_object"}})
    assert raised.value.param == "text.format"
