"""The table of models, the estimate of tokens, and the scripted fake."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import ModelError, ModelMissing, ModelNonsense, SettingsError
from comity.models.chat import ChatModel, complete, estimate_tokens, open_model
from comity.models.openai import OpenAIModel
from comity.models.scripted import ScriptedModel
from comity.records import Message, Request
from contracts.chat_model import CHOICE, GREETING, ChatModelContract, items


def asks(question: str) -> Request:
    return Request(messages=(Message(role="user", content=question),))


class TestScripted(ChatModelContract):
    @pytest.fixture
    def model(self) -> ChatModel:
        def answer(request: Request) -> str:
            if request.json_schema:
                return '{"ok": true}'
            return request.choices[0] if request.choices else "Hello to you all."

        return ScriptedModel(answer)


async def test_answers_from_a_list_come_in_order_and_the_last_one_stays() -> None:
    model = ScriptedModel(["one", "two"])
    said = [(await complete(model, asks("?"))).text for _ in range(3)]
    assert said == ["one", "two", "two"]


async def test_answers_by_substring_look_at_the_whole_conversation() -> None:
    model = ScriptedModel({"dog": "On a lead.", "": "I do not know."})
    assert (await complete(model, asks("May my dog run?"))).text == "On a lead."
    assert (await complete(model, asks("And a cat?"))).text == "I do not know."


async def test_a_question_without_a_scripted_answer_is_named() -> None:
    with pytest.raises(ModelNonsense, match="And a cat"):
        await complete(ScriptedModel({"dog": "On a lead."}), asks("And a cat?"))


async def test_requests_are_kept_for_the_test_to_look_at() -> None:
    model = ScriptedModel(["yes"])
    await complete(model, asks("first"))
    assert [request.messages[0].content for request in model.requests] == ["first"]


async def test_pieces_have_the_length_asked_for() -> None:
    *pieces, _ = await items(ScriptedModel(["abcdefg"], piece=3), GREETING)
    assert pieces == ["abc", "def", "g"]


async def test_a_scripted_failure_is_raised() -> None:
    with pytest.raises(ModelMissing, match="gone"):
        await complete(ScriptedModel(["x"], error=ModelMissing("gone")), GREETING)


async def test_a_cut_stream_fails_after_its_pieces() -> None:
    stream = ScriptedModel(["abcdef"], piece=2, cut_after=2).stream(GREETING)
    assert [await anext(stream), await anext(stream)] == ["ab", "cd"]
    with pytest.raises(ModelError, match="cut"):
        await anext(stream)


async def test_a_slow_model_can_be_given_up() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await complete(ScriptedModel(["abc"], delay=5), GREETING)


async def test_log_probabilities_of_choices_sum_to_one() -> None:
    reply = await complete(ScriptedModel(["B"], confidence=0.7), CHOICE)
    assert reply.text == "B"
    assert reply.choice_logprobs is not None
    assert reply.choice_logprobs["B"] == pytest.approx(math.log(0.7))
    assert sum(map(math.exp, reply.choice_logprobs.values())) == pytest.approx(1)


async def test_a_pick_outside_the_choices_is_refused() -> None:
    with pytest.raises(ModelNonsense, match="'C'"):
        await complete(ScriptedModel(["C"]), CHOICE)


def test_an_empty_script_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        ScriptedModel([])


def test_a_misspelt_model_gets_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="did you mean 'openai'"):
        open_model("opnai:gpt")


def test_a_misspelt_local_model_gets_a_suggestion() -> None:
    with pytest.raises(SettingsError, match=r"did you mean 'qwen2\.5-coder"):
        open_model("local:qwen2.5-coder-1.5b")


def test_a_local_model_that_was_not_pulled_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path))
    with pytest.raises(ModelMissing, match="comity models pull"):
        open_model("local")
    with pytest.raises(ModelMissing, match="comity models pull"):
        open_model(f"local:{tmp_path}/none.gguf")


def test_an_endpoint_is_opened_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    model = open_model("openai:some")
    assert isinstance(model, OpenAIModel)
    assert (model.name, model.base_url) == ("openai:some", "http://localhost:1/v1")


def test_openai_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="OPENAI_API_KEY"):
        open_model("openai:some")
    with pytest.raises(SettingsError, match="name"):
        open_model("openai:")


async def test_the_scripted_model_of_the_table_repeats_the_question() -> None:
    assert (await complete(open_model("scripted"), asks("Well?"))).text == "Well?"


@given(st.text(), st.text())
def test_the_estimate_grows_with_the_text(a: str, b: str) -> None:
    assert max(estimate_tokens(a), estimate_tokens(b)) <= estimate_tokens(a + b)


def test_chinese_counts_more_than_a_token_a_character() -> None:
    assert estimate_tokens("公园内遛犬") == 8
    assert estimate_tokens("dogs on leads") == 5


def test_opening_a_model_imports_nothing_heavy() -> None:
    code = "import sys, comity.models.local, comity.models.openai, comity.models.pull as p; "
    code += "sys.exit(bool({'openai', 'xllamacpp', 'httpx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
