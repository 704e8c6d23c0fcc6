"""Asking in several orders of the options: what a liking for a letter no longer does."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.evaluation.ask import ExamOptions, put
from comity.evaluation.exams import Question
from comity.evaluation.turns import Choice, tell_in_turns, turned
from comity.models.scripted import ScriptedModel
from comity.records import Reply, Request, Usage

OPTIONS = ("on a leash", "free", "at noon", "never")


def question(
    options: tuple[str, ...] = OPTIONS, answer: str = "A", stem: str = "How may dogs run?"
) -> Question:
    return Question(id="q", stem=stem, options=options, answer=answer)


def letter_of(request: Request, option: str) -> str:
    lines = request.messages[-1].content.splitlines()
    return next(line[0] for line in lines if line[1:] == f". {option}")


async def asked(
    about: Question, answer: Callable[[Request], str], *, turns: bool = True
) -> tuple[Choice, ScriptedModel]:
    model = ScriptedModel(answer)
    options = ExamOptions(turns=turns)
    prepared = put(about, "base", None, model.count_tokens, options)
    return await tell_in_turns(model, about, prepared, options), model


async def test_a_model_that_knows_is_asked_twice_and_its_letter_is_the_questions_own() -> None:
    choice, model = await asked(question(), lambda request: letter_of(request, "on a leash"))
    assert choice.letter == "A"
    assert [turn.first for turn in choice.turns] == ["A", "C"]
    assert [turn.letter for turn in choice.turns] == ["A", "A"]
    assert len(model.requests) == 2
    assert letter_of(model.requests[1], "at noon") == "A"


async def test_a_model_that_always_says_b_is_asked_in_every_order_and_chooses_nothing() -> None:
    choice, model = await asked(question(), lambda request: "B")
    assert len(model.requests) == 4
    assert [turn.first for turn in choice.turns] == ["A", "C", "B", "D"]
    assert sorted(turn.letter for turn in choice.turns) == ["A", "B", "C", "D"]
    assert len({round(value, 9) for value in choice.logprobs.values()}) == 1
    assert (choice.letter, choice.by) == ("", "")
    assert choice.not_scored == "the orders of the options decide nothing: A 1, B 1, C 1, D 1"


async def test_log_probabilities_over_all_turns_decide() -> None:
    def mostly_free(request: Request) -> str:
        """B at first, but the option that is meant in the three other orders."""
        first = letter_of(request, "on a leash") == "A"
        return "A" if first else letter_of(request, "free")

    choice, _ = await asked(question(), mostly_free)
    assert choice.turns[0].letter == "A"
    assert choice.letter == "B"


class Teller:
    """Tells of each order, by its first option, what it is scripted to."""

    name = "teller"

    def __init__(self, told: Mapping[str, str | Mapping[str, float]]) -> None:
        self.told = told

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        line = next(x for x in request.messages[-1].content.splitlines() if x.startswith("A. "))
        told = self.told[line.removeprefix("A. ")]
        text = told if isinstance(told, str) else max(told, key=told.__getitem__)
        yield text
        logprobs = None if isinstance(told, str) else dict(told)
        yield Reply(text=text, choice_logprobs=logprobs, usage=Usage(prompt_tokens=1))

    def count_tokens(self, text: str) -> int:
        return len(text)


async def told(about: Question, script: Mapping[str, str | Mapping[str, float]]) -> Choice:
    model, options = Teller(script), ExamOptions()
    return await tell_in_turns(
        model, about, put(about, "base", None, model.count_tokens, options), options
    )


async def test_without_log_probabilities_the_most_chosen_option_is_the_answer() -> None:
    script = {"on a leash": "A", "at noon": "D", "free": "A", "never": "A"}
    choice = await told(question(), script)
    assert [turn.letter for turn in choice.turns] == ["A", "B", "B", "D"]
    assert (choice.letter, choice.by, choice.logprobs) == ("B", "constrained", {})


async def test_a_model_that_always_gives_one_letter_without_chances_is_not_scored() -> None:
    choice = await told(question(("yes", "no")), {"yes": "A", "no": "A"})
    assert (choice.letter, choice.by) == ("", "")
    assert choice.not_scored == "the orders of the options decide nothing: A 1, B 1"


async def test_a_letter_that_is_not_told_is_at_most_as_likely_as_all_that_is_not() -> None:
    script = {"yes": {"A": -0.0001}, "no": {"A": -0.69, "B": -0.70}}
    choice = await told(question(("yes", "no")), script)
    assert [turn.letter for turn in choice.turns] == ["A", "B"]
    assert choice.letter == "A"
    assert choice.logprobs["B"] == pytest.approx((math.log(1e-4) - 0.69) / 2, abs=0.001)


async def test_a_letter_for_which_no_room_is_left_still_has_a_log_probability() -> None:
    script = {"yes": {"A": 0.0}, "no": {"A": -0.69, "B": -0.70}}
    choice = await told(question(("yes", "no")), script)
    assert choice.letter == "A"
    assert choice.logprobs["B"] == pytest.approx((-25 - 0.69) / 2)


async def test_each_turn_keeps_what_was_written_and_how_it_was_read() -> None:
    choice, _ = await asked(
        question(),
        lambda request: (
            "Answer: B" if "\nA. on" in str(request.messages[-1].content) else "Who knows?"
        ),
    )
    first, second, *_ = choice.turns
    assert (first.text, first.letter, first.scored_by, first.not_scored) == (
        "Answer: B",
        "B",
        "text",
        "",
    )
    assert (second.text, second.letter, second.scored_by, second.not_scored) == (
        "Who knows?",
        "",
        "",
        "no letter",
    )
    assert (choice.letter, choice.by, choice.text) == ("B", "text", "Answer: B")


async def test_the_tokens_of_all_turns_are_counted() -> None:
    once, _ = await asked(question(), lambda request: "B", turns=False)
    often, _ = await asked(question(), lambda request: "B")
    assert often.usage.prompt_tokens == 4 * once.usage.prompt_tokens


@pytest.mark.parametrize(
    "options",
    [("on a leash", "free", "both A and B", "never"), ("free", "never", "all of the above")],
)
async def test_options_that_point_at_one_another_stay_where_they_are(
    options: tuple[str, ...],
) -> None:
    choice, model = await asked(question(options), lambda request: "C")
    assert (choice.letter, len(model.requests)) == ("C", 1)


async def test_without_turns_a_question_is_asked_once() -> None:
    choice, model = await asked(question(), lambda request: "B", turns=False)
    assert (choice.letter, len(model.requests)) == ("B", 1)


async def test_two_options_have_two_orders() -> None:
    choice, model = await asked(question(("yes", "no")), lambda request: "A")
    assert [turn.first for turn in choice.turns] == ["A", "B"]
    assert len(model.requests) == 2


async def test_what_cannot_be_read_in_any_turn_is_not_scored() -> None:
    choice, _ = await asked(question(), lambda request: "I cannot tell.")
    assert choice.letter == ""
    assert choice.not_scored


@given(st.integers(2, 8), st.data())
def test_a_turned_question_keeps_its_right_option(count: int, data: st.DataObject) -> None:
    options = tuple(f"option {n}" for n in range(count))
    answer = data.draw(st.integers(0, count - 1))
    start = data.draw(st.integers(0, count - 1))
    about = question(options, "ABCDEFGH"[answer])
    made = turned(about, start)
    assert made.options[0] == options[start]
    assert sorted(made.options) == sorted(options)
    assert made.options[made.letters.index(made.answer)] == options[answer]
