"""LiteLLM's own guardrail machinery calls the guardrail, with answers of LiteLLM's own mock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from comity import Memory, Rule
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.records import Check
from test_gateway import Scripted, served

# what pydantic says of LiteLLM's own types and code when they are first used
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item .* on TypedDict class:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_.*:DeprecationWarning"),
]

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
    Rule(
        id="kind",
        text="Nobody is called a fool.",
        mandatory=True,
        enforcement="revise",
        check=Check(must_not_match="fool"),
    ),
]


class Proxy:
    """What LiteLLM's proxy does with one guardrail, step by step."""

    def __init__(self, memory: Memory, **settings: Any) -> None:
        from litellm.proxy._types import UserAPIKeyAuth
        from litellm.proxy.guardrails.guardrail_hooks.unified_guardrail.unified_guardrail import (
            UnifiedLLMGuardrails,
        )

        from comity.integrations.litellm import ComityGuardrail

        self.guardrail = ComityGuardrail(
            memory,
            guardrail_name="comity",
            event_hook=["pre_call", "post_call"],
            default_on=True,
            **settings,
        )
        self._hooks: Any = UnifiedLLMGuardrails()  # type: ignore[no-untyped-call]
        self._user = UserAPIKeyAuth(request_route="/chat/completions")

    def call(self, question: str, **more: Any) -> dict[str, Any]:
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
            litellm_call_id="c1",
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

    async def plain(self, data: dict[str, Any], **answer: Any) -> Any:
        """The answer of a call that is not streamed, behind the post-call hook."""
        import litellm

        response = await litellm.acompletion("openai/bot", data["messages"], **answer)
        data["guardrail_to_apply"] = self.guardrail
        return await self._hooks.async_post_call_success_hook(data, self._user, response)

    async def streamed(self, data: dict[str, Any], text: str) -> list[Any]:
        """The chunks that a client of a streamed call gets."""
        hook = self.guardrail.async_post_call_streaming_iterator_hook
        arriving = await self._arriving(data, text)
        return [chunk async for chunk in hook(self._user, arriving, data)]

    async def streamed_in_another_form(self, data: dict[str, Any], text: str) -> AsyncIterator[Any]:
        """As the proxy treats the streams of other routes than chat: held until they are whole."""
        hook = self._hooks.async_post_call_streaming_iterator_hook
        async for chunk in hook(
            self._user,
            await self._arriving(data, text),
            data,
            guardrail_to_apply=self.guardrail,
            buffer_until_moderated_default=True,
        ):
            yield chunk

    async def _arriving(self, data: dict[str, Any], text: str) -> Any:
        import litellm

        return await litellm.acompletion(
            "openai/bot", data["messages"], mock_response=text, stream=True
        )


@pytest.fixture
def rules() -> Iterator[Memory]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES)
        yield memory


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_the_rules_of_the_place_go_before_the_messages(rules: Memory) -> None:
    proxy = Proxy(rules, place="CN-SH")
    data = await proxy.before(proxy.call("May dogs run free?"))
    system, question = data["messages"]
    assert "Dogs are kept on a leash" in system["content"]
    assert "Be kind." in system["content"]
    assert question == {"role": "user", "content": "May dogs run free?"}
    elsewhere = await proxy.before(
        proxy.call("May dogs run free?", metadata={"comity_place": "CN-BJ"})
    )
    assert "leash" not in elsewhere["messages"][0]["content"]
    named = {"headers": {"X-Comity-Place": "CN-BJ"}}
    by_header = await proxy.before(proxy.call("May dogs run free?", proxy_server_request=named))
    assert "leash" not in by_header["messages"][0]["content"]


async def test_an_answer_that_keeps_the_rules_is_released_and_recorded(rules: Memory) -> None:
    proxy = Proxy(rules, place="CN-SH")
    data = await proxy.before(proxy.call("May dogs run free?"))
    answer = await proxy.plain(data, mock_response="On a leash [R1].")
    assert answer.choices[0].message.content == "On a leash [R1]."
    (decision,) = rules.store.decisions("default")
    assert decision.answer == "On a leash [R1]."
    assert decision.question == "May dogs run free?"
    assert decision.scope.place == ("CN-SH",)
    assert {f.outcome for f in decision.findings} == {"passed"}


async def test_a_withheld_answer_is_a_400_that_names_the_rule(rules: Memory) -> None:
    from litellm.exceptions import GuardrailRaisedException

    proxy = Proxy(rules)
    data = await proxy.before(proxy.call("How much?"))
    with pytest.raises(GuardrailRaisedException) as raised:
        await proxy.plain(data, mock_response="Take 20 mg.")
    assert raised.value.status_code == 400
    assert raised.value.blocked_content
    assert "Chat Policy" in raised.value.message
    assert "20 mg" not in raised.value.message
    (decision,) = rules.store.decisions("default")
    assert decision.withheld


async def test_the_arguments_of_a_tool_call_are_checked(rules: Memory) -> None:
    from litellm.exceptions import GuardrailRaisedException

    proxy = Proxy(rules)
    data = await proxy.before(proxy.call("How much?"))
    function = {"name": "note", "arguments": '{"dose": "20 mg"}'}
    calls = [{"id": "t1", "type": "function", "function": function}]
    with pytest.raises(GuardrailRaisedException, match="Chat Policy"):
        await proxy.plain(data, mock_response="", mock_tool_calls=calls)


@pytest.mark.parametrize(
    ("release", "left"), [("strict", ""), ("window", "Fine."), ("observe", "Fine. Take 20 mg.")]
)
async def test_a_stream_lets_out_what_its_release_says(
    rules: Memory, release: str, left: str
) -> None:
    proxy = Proxy(rules, release=release)
    data = await proxy.before(proxy.call("How much?"))
    chunks = await proxy.streamed(data, "Fine. Take 20 mg.")
    assert text_of(chunks).startswith(left)
    (decision,) = rules.store.decisions("default")
    if release == "observe":
        assert decision.disclosed
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert "20 mg" not in text_of(chunks)
        assert "Chat Policy" in text_of(chunks)
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        assert decision.withheld
    assert decision.answer == text_of(chunks)


async def test_a_stream_that_is_left_is_recorded_as_far_as_it_went(rules: Memory) -> None:
    proxy = Proxy(rules, release="observe")
    data = await proxy.before(proxy.call("How much?"))
    arriving = await proxy._arriving(data, "Take your time. Then come back.")
    stream = proxy.guardrail.async_post_call_streaming_iterator_hook(None, arriving, data)
    got = ""
    async for chunk in stream:
        got += chunk.choices[0].delta.content or ""
        if got:
            break
    await stream.aclose()
    (decision,) = rules.store.decisions("default")
    assert (decision.answer, decision.finish_reason) == (got, "broken_off")


@pytest.mark.parametrize("streams", [False, True])
async def test_what_breaks_a_revise_rule_is_rewritten_in_a_stream_too(
    rules: Memory, streams: bool
) -> None:
    proxy = Proxy(rules, rewriter=ScriptedModel(["You may err."]))
    data = await proxy.before(proxy.call("Am I wrong?", stream=streams))
    if streams:
        said = text_of(await proxy.streamed(data, "You are a fool."))
    else:
        answer = await proxy.plain(data, mock_response="You are a fool.")
        said = answer.choices[0].message.content
    assert said == "You may err."
    (decision,) = rules.store.decisions("default")
    assert [attempt.text for attempt in decision.attempts] == ["You are a fool.", "You may err."]


async def test_without_a_rewriter_a_breach_is_recorded_and_the_answer_released(
    rules: Memory,
) -> None:
    proxy = Proxy(rules)
    data = await proxy.before(proxy.call("Am I wrong?"))
    answer = await proxy.plain(data, mock_response="You are a fool.")
    assert answer.choices[0].message.content == "You are a fool."
    (decision,) = rules.store.decisions("default")
    assert [f.rule for f in decision.findings if f.outcome == "violated"] == ["kind"]


async def test_nothing_leaves_a_stream_of_another_form_before_it_is_checked(
    rules: Memory,
) -> None:
    from litellm.exceptions import GuardrailRaisedException

    proxy = Proxy(rules)
    data = await proxy.before(proxy.call("How much?", stream=True))
    stream = proxy.streamed_in_another_form(data, "Fine. Take 20 mg. Or so.")
    with pytest.raises(GuardrailRaisedException, match="Chat Policy"):
        await anext(stream)
    fine = await proxy.before(proxy.call("How much?", stream=True))
    chunks = [c async for c in proxy.streamed_in_another_form(fine, "Ask a doctor.")]
    assert text_of(chunks) == "Ask a doctor."


async def test_a_stream_of_responses_is_held_until_it_is_checked(rules: Memory) -> None:
    import litellm
    from litellm.exceptions import GuardrailRaisedException
    from litellm.proxy._types import UserAPIKeyAuth

    proxy = Proxy(rules)
    user = UserAPIKeyAuth(request_route="/v1/responses")
    hook = proxy.guardrail.async_post_call_streaming_iterator_hook

    async def arriving(text: str) -> Any:
        upstream.says = lambda _: {"content": text}
        return await litellm.aresponses(
            model="deepseek/bot", input="How much?", stream=True, api_base=url, api_key="x"
        )

    upstream = Scripted()
    routes = [Route("/v1/chat/completions", upstream.respond, methods=["POST"])]
    data = {**proxy.call("How much?", stream=True), "input": "How much?"}
    with served(Starlette(routes=routes)) as url:
        stream = hook(user, await arriving("Take 20 mg."), data)
        with pytest.raises(GuardrailRaisedException, match="Chat Policy"):
            await anext(stream)
        released = [event async for event in hook(user, await arriving("Ask a doctor."), data)]
    assert "Ask a doctor." in str(released)


def test_litellm_finds_our_hooks_for_plain_and_streamed_answers() -> None:
    from comity.integrations.litellm import ComityGuardrail

    # what the proxy looks for in a guardrail's own class
    assert {"apply_guardrail", "async_post_call_streaming_iterator_hook"} <= set(
        vars(ComityGuardrail)
    )
    assert not ComityGuardrail.use_native_lifecycle_hooks


async def test_a_place_that_nobody_knows_is_the_callers_mistake(rules: Memory) -> None:
    from litellm.exceptions import GuardrailRaisedException

    proxy = Proxy(rules)
    with pytest.raises(GuardrailRaisedException, match="XX-Nowhere") as raised:
        await proxy.before(proxy.call("May I?", metadata={"comity_place": "XX-Nowhere"}))
    assert raised.value.status_code == 400


async def test_the_page_s_configuration_makes_a_guardrail(tmp_path: Path, monkeypatch: Any) -> None:
    import re

    import yaml
    from litellm.proxy.types_utils.utils import get_instance_fn
    from litellm.types.guardrails import LitellmParams

    page = Path(__file__).parents[2] / "docs" / "integrations" / "litellm.md"
    here, remote = re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    (entry,) = yaml.safe_load(here)["guardrails"]
    given = LitellmParams(**{**entry["litellm_params"], "embedder": "hash"})
    made = get_instance_fn(given.guardrail, config_file_path=str(tmp_path / "config.yaml"))
    more = given.model_dump(exclude_none=True, exclude={"guardrail", "mode", "default_on"})
    guardrail = made(guardrail_name="comity", event_hook=given.mode, default_on=True, **more)
    guardrail._memory.add(RULES)
    data = {"model": "bot", "messages": [{"role": "user", "content": "How much?"}]}
    asked = {"texts": ["How much?"], "structured_messages": data["messages"]}
    got = await guardrail.apply_guardrail(asked, data, "request")
    assert "No doses are named." in got["structured_messages"][0]["content"]
    guardrail._memory.close()
    (other,) = yaml.safe_load(remote)["guardrails"]
    assert LitellmParams(**other["litellm_params"]).guardrail == "generic_guardrail_api"
