"""The remote guardrail: LiteLLM's own client and hooks against a gateway on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest

from comity import Memory, Rule
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.records import Check, Message
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway, Tenant
from comity.serving.guardrail_api import PATH, OpenCalls
from comity.serving.wire import Refused
from test_gateway import served

# LiteLLM's own types, of which pydantic says so when they are first used
pytestmark = pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning")

RULES = [
    Rule(id="leash", text="Dogs are kept on a leash in the park", place="CN-SH"),
    Rule(
        id="doses",
        title="Chat Policy",
        text="No doses are named.",
        mandatory=True,
        enforcement="block",
        check=Check(must_not_match=r"\d+ mg"),
    ),
    Rule(id="theirs", text="Dogs of the other tenant run free", mandatory=True, tenant="other"),
]


class Running:
    """A gateway, and LiteLLM before it."""

    def __init__(self, url: str, memory: Memory) -> None:
        self.url = url.removesuffix("/v1") + PATH
        self.memory = memory
        self.key = create_key(memory, "default", "client").secret

    def litellm(self, key: str | None = None, **settings: Any) -> Hooked:
        """A proxy's hooks, with the guardrail as its file would make it."""
        return Hooked(self.url, key or self.key, settings)

    def ask(self, body: dict[str, Any], key: str | None = None) -> httpx.Response:
        """A request in LiteLLM's form, by hand."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.post(self.url, json=body, headers=headers)


class Hooked:
    """LiteLLM's generic guardrail client, called by LiteLLM's own hooks."""

    def __init__(self, url: str, key: str, settings: dict[str, Any]) -> None:
        from litellm.proxy._types import UserAPIKeyAuth
        from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api import (
            generic_guardrail_api,
        )
        from litellm.proxy.guardrails.guardrail_hooks.unified_guardrail.unified_guardrail import (
            UnifiedLLMGuardrails,
        )

        self.guardrail = generic_guardrail_api.GenericGuardrailAPI(
            api_base=url,
            headers={"Authorization": f"Bearer {key}"},
            guardrail_name="comity",
            event_hook=["pre_call", "post_call"],
            default_on=True,
            **settings,
        )
        self._hooks: Any = UnifiedLLMGuardrails()  # type: ignore[no-untyped-call]
        self._user = UserAPIKeyAuth(request_route="/chat/completions")

    def call(self, question: str, call_id: str = "c1", **more: Any) -> dict[str, Any]:
        """A request as the proxy hands it to its hooks."""
        from litellm.litellm_core_utils.litellm_logging import Logging

        messages = [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": question},
        ]
        logging = Logging(
            model="bot",
            messages=messages,
            stream=False,
            call_type="acompletion",
            start_time=datetime.now(UTC),
            litellm_call_id=call_id,
            function_id="f1",
        )
        return {"model": "bot", "messages": messages, "litellm_logging_obj": logging, **more}

    async def before(self, data: dict[str, Any]) -> dict[str, Any]:
        """The pre-call hook."""
        from litellm.caching.dual_cache import DualCache

        data["guardrail_to_apply"] = self.guardrail
        asked: Any = await self._hooks.async_pre_call_hook(
            self._user, DualCache(), data, "acompletion"
        )
        return dict(asked)

    async def behind(self, data: dict[str, Any], **answer: Any) -> Any:
        """The post-call hook, with an answer of LiteLLM's mock."""
        import litellm

        response = await litellm.acompletion("openai/bot", data["messages"], **answer)
        data["guardrail_to_apply"] = self.guardrail
        return await self._hooks.async_post_call_success_hook(data, self._user, response)

    async def streamed(self, data: dict[str, Any], text: str) -> AsyncIterator[Any]:
        """What a client of a streamed call gets."""
        import litellm

        arriving = await litellm.acompletion(
            "openai/bot", data["messages"], mock_response=text, stream=True
        )
        hook = self._hooks.async_post_call_streaming_iterator_hook
        async for chunk in hook(self._user, arriving, data, guardrail_to_apply=self.guardrail):
            yield chunk


@pytest.fixture
def running() -> Iterator[Running]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES[:2])
        memory.add(RULES[2])
        with served(create_app(memory, Gateway())) as url:
            yield Running(url, memory)


async def test_the_rules_of_the_place_go_before_the_messages(running: Running) -> None:
    proxy = running.litellm(additional_provider_specific_params={"comity_place": "CN-SH"})
    data = await proxy.before(proxy.call("May dogs run free?"))
    system, question = data["messages"]
    assert "Dogs are kept on a leash" in system["content"]
    assert "Be kind." in system["content"]
    assert "other tenant" not in system["content"]
    assert question == {"role": "user", "content": "May dogs run free?"}


async def test_headers_that_litellm_sends_on_say_the_place(running: Running) -> None:
    headers = {"headers": {"X-Comity-Place": "CN-SH"}}
    hidden = running.litellm()
    data = await hidden.before(hidden.call("May dogs run?", proxy_server_request=headers))
    assert "leash" not in data["messages"][0]["content"]
    shown = running.litellm(extra_headers=["x-comity-place"])
    data = await shown.before(shown.call("May dogs run?", "c2", proxy_server_request=headers))
    assert "leash" in data["messages"][0]["content"]


async def test_a_released_answer_is_as_it_was_and_recorded(running: Running) -> None:
    proxy = running.litellm()
    data = await proxy.before(proxy.call("How much?"))
    answer = await proxy.behind(data, mock_response="Ask a doctor.")
    assert answer.choices[0].message.content == "Ask a doctor."
    (decision,) = running.memory.store.decisions("default")
    assert (decision.question, decision.answer) == ("How much?", "Ask a doctor.")
    assert [f.outcome for f in decision.findings] == ["passed"]
    assert not list(running.memory.store.decisions("other"))


@pytest.mark.parametrize("said", ["content", "tool call"])
async def test_a_withheld_answer_is_a_400_that_names_the_rule(running: Running, said: str) -> None:
    from litellm.exceptions import GuardrailRaisedException

    proxy = running.litellm()
    data = await proxy.before(proxy.call("How much?"))
    function = {"name": "note", "arguments": '{"dose": "20 mg"}'}
    answer: Any = {"mock_response": "Take 20 mg."}
    if said == "tool call":
        calls = [{"id": "t1", "type": "function", "function": function}]
        answer = {"mock_response": "", "mock_tool_calls": calls}
    with pytest.raises(GuardrailRaisedException) as raised:
        await proxy.behind(data, **answer)
    assert raised.value.status_code == 400
    assert "Chat Policy" in raised.value.message
    assert "20 mg" not in raised.value.message
    (decision,) = running.memory.store.decisions("default")
    assert decision.withheld


async def test_nothing_of_a_stream_leaves_before_its_check_as_the_page_sets_it_up(
    running: Running,
) -> None:
    from litellm.exceptions import GuardrailRaisedException

    proxy = running.litellm(
        streaming_transform_mode="incremental_diff", streaming_end_of_stream_only=True
    )
    stream = proxy.streamed(await proxy.before(proxy.call("How much?")), "Fine. Take 20 mg. Or so.")
    with pytest.raises(GuardrailRaisedException, match="Chat Policy"):
        await anext(stream)
    data = await proxy.before(proxy.call("How much?", "c2"))
    chunks = [chunk async for chunk in proxy.streamed(data, "Ask a doctor.")]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Ask a doctor."
    withheld, released = running.memory.store.decisions("default")
    assert (withheld.withheld, released.withheld) == (True, False)


def test_an_answer_without_its_question_is_withheld_unless_the_file_says_so(
    running: Running,
) -> None:
    body: dict[str, Any] = {
        "input_type": "response",
        "litellm_call_id": "c9",
        "texts": ["Ask a doctor."],
    }
    told = running.ask(body).json()
    assert told["action"] == "BLOCKED"
    assert "pre_call" in told["blocked_reason"]
    assert not list(running.memory.store.decisions("default"))
    body["additional_provider_specific_params"] = {"comity_answer_only": True}
    assert running.ask(body).json()["action"] == "NONE"
    told = running.ask({**body, "texts": ["Fine.", "Take 20 mg."]}).json()
    assert (told["action"], len(told["comity"]["decisions"])) == ("BLOCKED", 2)


@pytest.mark.parametrize(
    "call", [{"function": "x"}, {"type": "custom", "custom": {"name": "f", "input": "20 mg"}}, {}]
)
def test_a_tool_call_that_cannot_be_read_is_blocked(running: Running, call: Any) -> None:
    asked = {"role": "user", "content": "How much?"}
    running.ask({"input_type": "request", "litellm_call_id": "c1", "structured_messages": [asked]})
    body = {"input_type": "response", "litellm_call_id": "c1", "tool_calls": [call]}
    told = running.ask(body)
    assert (told.status_code, told.json()["action"]) == (200, "BLOCKED")


def test_answers_without_their_question_count_as_requests() -> None:
    config = Gateway(tenants={"default": Tenant(requests_per_minute=2)})
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES[:2])
        with served(create_app(memory, config)) as url:
            limited = Running(url, memory)
            body: dict[str, Any] = {
                "input_type": "response",
                "litellm_call_id": "c1",
                "texts": ["Ask a doctor."],
                "additional_provider_specific_params": {"comity_answer_only": True},
            }
            assert [limited.ask(body).status_code for _ in range(3)] == [200, 200, 429]


def test_an_answer_that_leaves_unchecked_is_counted() -> None:
    kind = Rule(id="kind", text="Be kind.", mandatory=True, enforcement="block")
    config = Gateway(tenants={"default": Tenant(fail_open=("checks",))})
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(kind)
        with served(create_app(memory, config, judge=ScriptedModel("no JSON"))) as url:
            body: dict[str, Any] = {
                "input_type": "response",
                "litellm_call_id": "c1",
                "texts": ["Ask a doctor."],
                "additional_provider_specific_params": {"comity_answer_only": True},
            }
            assert Running(url, memory).ask(body).json()["action"] == "NONE"
            page = httpx.get(url.removesuffix("/v1") + "/metrics").text
        assert 'comity_failed_open_total{part="checks"} 1.0' in page
        (decision,) = memory.store.decisions("default")
        assert decision.opened == ("checks",)


def test_one_clients_call_id_cannot_be_given_another_question(running: Running) -> None:
    def asked(question: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"input_type": "request", "litellm_call_id": "c1", "structured_messages": messages}

    assert running.ask(asked("How much?")).json()["action"] == "GUARDRAIL_INTERVENED"
    assert running.ask(asked("How much?")).json()["action"] == "GUARDRAIL_INTERVENED"
    told = running.ask(asked("Hello?")).json()
    assert told["action"] == "BLOCKED"
    assert "x-litellm-call-id" in told["blocked_reason"]
    elsewhere = create_key(running.memory, "other", "client").secret
    told = running.ask(asked("Hello?"), elsewhere).json()
    assert "other tenant" in told["structured_messages"][0]["content"]


def test_what_a_request_has_wrong_is_told_as_a_block(running: Running) -> None:
    asked: dict[str, Any] = {
        "input_type": "request",
        "litellm_call_id": "c1",
        "structured_messages": [{"role": "user", "content": "May I?"}],
        "additional_provider_specific_params": {"comity_place": "XX-Nowhere"},
    }
    told = running.ask(asked).json()
    assert told["action"] == "BLOCKED"
    assert "XX-Nowhere" in told["blocked_reason"]
    told = running.ask({**asked, "structured_messages": [{"role": "user", "content": ""}]}).json()
    assert (told["action"], "user" in told["blocked_reason"]) == ("BLOCKED", True)
    assert running.ask({"input_type": "other"}).status_code == 422
    texts = {"input_type": "request", "litellm_call_id": "c2", "texts": ["to be embedded"]}
    assert running.ask(texts).json() == {"action": "NONE"}


def test_the_key_decides_who_may_ask(running: Running) -> None:
    auditor = create_key(running.memory, "default", "auditor").secret
    assert running.ask({"input_type": "request"}, "comity-wrong").status_code == 401
    assert running.ask({"input_type": "request"}, auditor).status_code == 403


def test_calls_that_are_old_or_too_many_are_forgotten() -> None:
    now = [0.0]
    calls = OpenCalls(clock=lambda: now[0], most=2, seconds=10)
    case: Any = object()
    question = (Message(role="user", content="How much?"),)
    for name in ("a", "b", "c"):
        calls.keep("k", name, question, case)
    assert calls.find("k", "a") is None
    assert calls.find("other", "b") is None
    assert calls.find("k", "c") is not None
    now[0] = 9.0
    calls.keep("k", "c", question, case)
    with pytest.raises(Refused):
        calls.keep("k", "c", (Message(role="user", content="Hello?"),), case)
    now[0] = 12.0
    assert calls.find("k", "b") is None
    assert calls.find("k", "c") is not None
    now[0] = 20.0
    assert calls.find("k", "c") is None


def test_calls_with_too_much_text_in_all_are_forgotten_the_oldest_first() -> None:
    calls, case = OpenCalls(text=100), cast("Any", object())
    for name in ("a", "b", "b", "c"):
        calls.keep("k", name, (Message(role="user", content="x" * 40),), case)
    assert [calls.find("k", name) is not None for name in "abc"] == [False, True, True]
    calls.keep("k", "d", (Message(role="user", content="x" * 400),), case)
    assert [calls.find("k", name) is not None for name in "bcd"] == [False, False, True]
