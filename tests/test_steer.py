"""Steering at the logits: its arithmetic, and the model that does it."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import ModelError, ModelNonsense, SettingsError
from comity.models.chat import ChatModel, complete
from comity.models.logits import LogitModel, NextTokens, ranked
from comity.models.scripted import ScriptedModel
from comity.models.steer import (
    Part,
    Steered,
    as_it_is,
    mixed,
    steered,
    weighted,
    with_system,
    without_after,
    without_system,
)
from comity.models.writing import drawn, written
from comity.records import Message, Reply, Request
from contracts.chat_model import CHOICE, SCHEMA, ChatModelContract
from letter_model import LetterModel

SYSTEM = Message(role="system", content="Be brief.")
USER = Message(role="user", content="Say hello.")
ASKED = Request(messages=(SYSTEM, USER), max_tokens=24)
PLAIN = Request(messages=(USER,), max_tokens=24)

SCORES = st.lists(st.floats(-20, 0), min_size=2, max_size=12)
PAIRS = SCORES.flatmap(
    lambda one: st.tuples(
        st.just(one), st.lists(st.floats(-20, 0), min_size=len(one), max_size=len(one))
    )
)


def candidates(scores: Sequence[float]) -> NextTokens:
    return ranked(np.arange(len(scores)), np.array(scores))


def by_id(tokens: NextTokens) -> dict[int, float]:
    return dict(zip(tokens.ids.tolist(), tokens.logprobs.tolist(), strict=True))


def text(model: ChatModel, request: Request) -> str:
    return asyncio.run(complete(model, request)).text


@given(PAIRS)
def test_what_weighs_nothing_changes_nothing(pair: tuple[list[float], list[float]]) -> None:
    one, other = map(candidates, pair)
    assert weighted([one, other], [1, 0]) is one
    assert weighted([one, other], [0, 1]) is other


@given(SCORES, st.floats(0.1, 5))
def test_a_contrast_with_itself_keeps_the_order_and_the_odds(
    scores: list[float], strength: float
) -> None:
    one = candidates(scores)
    result = weighted([one, one], [strength, 1 - strength], plausible=1e-12)
    known = by_id(one)
    for token, score in by_id(result).items():
        assert score - result.logprobs[0] == pytest.approx(known[token] - one.logprobs[0], abs=1e-6)


@given(PAIRS, st.floats(1.01, 5))
def test_a_contrast_moves_from_without_towards_with_by_its_strength(
    pair: tuple[list[float], list[float]], strength: float
) -> None:
    with_, without = map(candidates, pair)
    result = weighted([with_, without], [strength, 1 - strength])
    a, b = by_id(with_), by_id(without)
    scores = {i: b[i] + strength * (a[i] - b[i]) for i in by_id(result)}
    total = math.log(sum(math.exp(s - max(scores.values())) for s in scores.values()))
    for token, score in by_id(result).items():
        assert score == pytest.approx(scores[token] - max(scores.values()) - total, abs=1e-6)


@given(PAIRS, st.floats(1.01, 5))
def test_only_what_is_plausible_with_the_preference_can_be_said(
    pair: tuple[list[float], list[float]], strength: float
) -> None:
    with_, without = map(candidates, pair)
    result = weighted([with_, without], [strength, 1 - strength], plausible=0.1)
    known = by_id(with_)
    for token in result.ids.tolist():
        assert known[token] >= with_.logprobs[0] + math.log(0.1)
    assert with_.ids[0] in result.ids


@given(PAIRS, st.floats(0.05, 0.95))
def test_a_mix_is_the_weighted_mean_and_its_odds_lie_between_those_of_its_parts(
    pair: tuple[list[float], list[float]], weight: float
) -> None:
    one, other = map(candidates, pair)
    result = weighted([one, other], [weight, 1 - weight])
    a, b, mix = by_id(one), by_id(other), by_id(result)
    first, *rest = mix
    for token in rest:
        odds = (a[first] - a[token], b[first] - b[token])
        found = mix[first] - mix[token]
        assert found == pytest.approx(weight * odds[0] + (1 - weight) * odds[1], abs=1e-6)
        assert min(odds) - 1e-6 <= found <= max(odds) + 1e-6


@given(PAIRS, st.floats(0, 4))
def test_candidates_come_most_likely_first_and_sum_to_one(
    pair: tuple[list[float], list[float]], strength: float
) -> None:
    one, other = map(candidates, pair)
    result = weighted([one, other], [strength, 1 - strength])
    assert list(result.logprobs) == sorted(result.logprobs, reverse=True)
    assert np.exp(result.logprobs).sum() == pytest.approx(1)
    assert len(set(result.ids.tolist())) == len(result.ids)


def test_a_token_that_a_prompt_does_not_list_counts_as_the_last_one_it_lists() -> None:
    short = NextTokens(np.array([7, 3]), np.log([0.6, 0.1]))
    assert list(short.of(np.array([3, 9, 7, 0]))) == list(np.log([0.1, 0.1, 0.6, 0.1]))


def test_what_without_rules_out_is_not_infinitely_likely() -> None:
    with_ = NextTokens(np.array([0, 1]), np.log([0.8, 0.2]))
    without = NextTokens(np.array([1, 0]), np.array([0.0, -math.inf]))
    result = weighted([with_, without], [1.5, -0.5])
    assert np.isfinite(result.logprobs).all()
    assert result.ids[0] == 0


@given(SCORES, st.integers(0, 99))
def test_greedy_takes_the_first_and_a_temperature_near_nothing_does_too(
    scores: list[float], seed: int
) -> None:
    tokens = candidates([*scores, 1.0])
    random = np.random.default_rng(seed)
    assert drawn(tokens, 0, random) == drawn(tokens, 1e-320, random) == len(scores)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    tokens = NextTokens(np.array([4, 9, 2]), np.log([0.5, 0.3, 0.2]))
    random = np.random.default_rng(3)
    found = [drawn(tokens, 1.0, random) for _ in range(4000)]
    for token, share in ((4, 0.5), (9, 0.3), (2, 0.2)):
        assert found.count(token) / 4000 == pytest.approx(share, abs=0.03)


class TestSteered(ChatModelContract):
    @pytest.fixture
    def model(self) -> ChatModel:
        return steered(LetterModel(), strength=1.5, without=with_system("Be long."))

    async def test_a_schema_answers_with_json(self, model: ChatModel) -> None:
        request = PLAIN.model_copy(update={"json_schema": SCHEMA})
        with pytest.raises(ModelError, match="cannot keep to a JSON schema"):
            await complete(model, request)


def test_strength_0_is_the_plain_model_and_1_the_prompted_one() -> None:
    model = LetterModel()
    assert text(steered(model, strength=0), ASKED) == text(model, PLAIN)
    assert text(steered(model, strength=1), ASKED) == text(model, ASKED)
    assert text(model, PLAIN) != text(model, ASKED)
    assert text(steered(model, strength=1.5), ASKED) not in (text(model, PLAIN), text(model, ASKED))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(("weights", "same"), [((1, 0), ASKED), ((0, 1), PLAIN)])
async def test_two_prompts_read_side_by_side_end_where_the_weight_is(
    temperature: float, weights: tuple[float, float], same: Request
) -> None:
    model = LetterModel()
    request = ASKED.model_copy(update={"temperature": temperature, "seed": 5})
    opened = partial(model.open_session, [ASKED.messages, PLAIN.messages])
    items = [
        item async for item in written(opened, lambda two: weighted(two, weights), request, "both")
    ]
    alone = await complete(model, request.model_copy(update={"messages": same.messages}))
    assert cast(Reply, items[-1]).text == alone.text


@pytest.mark.parametrize(
    ("strength", "same"), [(1e-9, PLAIN), (1 - 1e-9, ASKED), (1 + 1e-9, ASKED)]
)
def test_nearly_0_and_nearly_1_say_the_same_as_0_and_1(strength: float, same: Request) -> None:
    model = LetterModel()
    assert text(steered(model, strength=strength), ASKED) == text(model, same)


def test_a_request_that_loses_nothing_is_answered_by_the_model_itself() -> None:
    model = LetterModel()
    plain = text(model, PLAIN)
    before = model.read
    assert text(steered(model, strength=3), PLAIN) == plain
    assert model.read - before == before  # one prompt was read, not two


def test_a_steered_answer_is_found_step_by_step_by_its_formula() -> None:
    model = LetterModel()
    session = model.open_session([ASKED.messages, PLAIN.messages])
    for _ in range(ASKED.max_tokens):
        a, b = map(by_id, session.next())
        likely = [i for i in a if a[i] >= max(a.values()) + math.log(0.1)]
        best = max(likely, key=lambda i: 2.5 * a[i] - 1.5 * b[i])
        if session.is_end(best):
            break
        session.push(best)
    assert text(steered(model, strength=2.5), ASKED) == session.text


async def test_tokens_of_both_prompts_are_counted_and_those_written_once() -> None:
    model = LetterModel()
    with_, without = [await complete(model, request) for request in (ASKED, PLAIN)]
    reply = await complete(steered(model, strength=2), ASKED)
    assert reply.usage.prompt_tokens == with_.usage.prompt_tokens + without.usage.prompt_tokens
    ended = reply.finish_reason == "stop"
    assert reply.usage.completion_tokens == len(reply.text) + ended


async def test_the_name_says_what_was_done() -> None:
    model = LetterModel()
    assert steered(model, strength=1.5).name == "letters+contrast 1.5"
    parts = [Part(0.25, as_it_is), Part(0.75, with_system("Be kind."))]
    mix = mixed(model, parts)
    assert (await complete(mix, ASKED)).model == mix.name == "letters+mix 0.25/0.75"


async def test_a_mix_of_one_is_the_model_under_that_prompt() -> None:
    model = LetterModel()
    alone = await complete(mixed(model, [Part(1, with_system("Be kind."))]), PLAIN)
    prompted = await complete(model, with_system("Be kind.")(PLAIN))
    assert (alone.text, alone.usage) == (prompted.text, prompted.usage)


def test_a_mix_of_the_same_prompt_is_that_prompt() -> None:
    model = LetterModel()
    parts = [Part(0.1, as_it_is) for _ in range(10)]
    assert text(mixed(model, parts), ASKED) == text(model, ASKED)


async def test_a_sampled_answer_can_be_repeated_by_its_seed() -> None:
    model = steered(LetterModel(), strength=1.3)
    first, again, other = [
        (await complete(model, ASKED.model_copy(update={"temperature": 1.0, "seed": seed}))).text
        for seed in (1, 1, 2)
    ]
    assert first == again != other


async def test_choices_are_weighed_as_wholes() -> None:
    model = LetterModel()
    asked = ASKED.model_copy(update={"choices": ("yes", "no", "nothing")})
    plain = asked.model_copy(update={"messages": PLAIN.messages})
    one, other = [(await complete(model, request)).choice_logprobs for request in (asked, plain)]
    reply = await complete(steered(model, strength=2), asked)
    assert one is not None
    assert other is not None
    assert reply.choice_logprobs is not None
    expected = {choice: 2 * one[choice] - other[choice] for choice in asked.choices}
    assert reply.text == max(expected, key=expected.__getitem__)
    assert sum(map(math.exp, reply.choice_logprobs.values())) == pytest.approx(1)
    gap = reply.choice_logprobs["yes"] - reply.choice_logprobs["no"]
    assert gap == pytest.approx(expected["yes"] - expected["no"])


async def test_choices_at_strength_1_are_the_models_own() -> None:
    model = LetterModel()
    own = await complete(model, CHOICE)
    reply = await complete(steered(model, strength=1), CHOICE)
    assert (reply.text, reply.choice_logprobs) == (own.text, own.choice_logprobs)


async def test_choices_that_the_model_does_not_score_are_an_error() -> None:
    class Silent(LetterModel):
        async def stream(self, request: Request):  # type: ignore[no-untyped-def]
            yield "yes"
            yield Reply(text="yes", model=self.name)

    asked = ASKED.model_copy(update={"choices": ("yes", "no")})
    with pytest.raises(ModelNonsense, match="letters did not score all choices: yes, no"):
        await complete(steered(Silent(), strength=2), asked)


async def test_a_stream_that_is_left_stops_the_work() -> None:
    model = LetterModel()
    request = ASKED.model_copy(update={"max_tokens": 3000})  # 6000 readings
    endless = mixed(model, [Part(0.5, as_it_is), Part(0.5, without_system)], plausible=1)
    model.ends = frozenset()
    stream = cast(AsyncGenerator[str | Reply], endless.stream(request))
    await anext(stream)
    await stream.aclose()
    for thread in threading.enumerate():
        if thread.name == endless.name:
            thread.join(timeout=30)
            assert not thread.is_alive()
    assert model.read < 6000


def test_a_short_list_of_candidates_is_enough() -> None:
    model = LetterModel(listed=8)
    assert text(steered(model, strength=1), ASKED) == text(model, ASKED)
    assert text(steered(model, strength=2), ASKED)


def test_a_model_that_does_not_tell_its_next_token_is_refused_with_what_to_do() -> None:
    assert isinstance(LetterModel(), LogitModel)
    for make in (partial(steered, strength=1.5), partial(mixed, parts=[Part(1, as_it_is)])):
        with pytest.raises(
            SettingsError, match=r"scripted does not tell its next token.*hf:FOLDER"
        ):
            make(ScriptedModel("hello"))


@pytest.mark.parametrize("strength", [-0.5, math.nan, math.inf])
def test_a_strength_that_makes_no_sense_is_refused(strength: float) -> None:
    with pytest.raises(SettingsError, match="must be 0 or more"):
        steered(LetterModel(), strength=strength)


def test_weights_that_make_no_sense_are_refused() -> None:
    model = LetterModel()
    with pytest.raises(SettingsError, match=r"sum to 0\.9, must sum to 1"):
        mixed(model, [Part(0.4, as_it_is), Part(0.5, without_system)])
    with pytest.raises(SettingsError, match="sum to 0, must sum to 1"):
        mixed(model, [])
    with pytest.raises(SettingsError, match="must be above 0"):
        mixed(model, [Part(1.5, as_it_is), Part(-0.5, without_system)])
    with pytest.raises(SettingsError, match="plausible is 0"):
        steered(model, strength=1, plausible=0)


def test_without_system_drops_system_messages_alone() -> None:
    assert without_system(ASKED).messages == (USER,)
    with pytest.raises(ModelError, match="nothing is left"):
        without_system(Request(messages=(SYSTEM,)))


def test_without_after_cuts_the_system_message_at_a_heading() -> None:
    system = Message(role="system", content="Rules.\n\n[R1] One.\n\nThe user:\n| old\n\nWishes: x")
    question = Message(role="user", content="Hello.\n\nThe user: me")
    cut = without_after("The user:", "Wishes:")
    found = cut(Request(messages=(system, question)))
    assert found.messages == (Message(role="system", content="Rules.\n\n[R1] One."), question)
    assert cut(ASKED) == ASKED


def test_without_after_leaves_out_a_message_of_which_nothing_is_left() -> None:
    system = Message(role="system", content="The user:\n| old")
    assert without_after("The user:")(Request(messages=(system, USER))).messages == (USER,)
    with pytest.raises(SettingsError, match="none of them empty"):
        without_after("")
    with pytest.raises(SettingsError, match="needs the beginnings"):
        without_after()


def test_with_system_adds_a_paragraph_or_a_message() -> None:
    add = with_system("Be kind.")
    assert add(ASKED).messages[0].content == "Be brief.\n\nBe kind."
    assert add(PLAIN).messages == (Message(role="system", content="Be kind."), USER)


def test_steered_takes_any_weights_that_sum_to_one() -> None:
    parts = [Part(2, as_it_is), Part(-0.5, without_system), Part(-0.5, with_system("Be kind."))]
    assert text(Steered(LetterModel(), parts, name="three"), ASKED)
