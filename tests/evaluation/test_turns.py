"""Asking in several orders of the options: what a liking for a letter no longer does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.evaluation.ask import ExamOptions, put
from comity.evaluation.exams import Question
from comity.evaluation.turns import Choice, tell_in_turns, turned
from comity.models.scripted import ScriptedModel
from comity.records import Reply, Request

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


async def test_a_model_that_always_says_b_is_asked_in_every_order() -> None:
    choice, model = await asked(question(), lambda request: "B")
    assert len(model.requests) == 4
    assert [turn.first for turn in choice.turns] == ["A", "C", "B", "D"]
    assert sorted(turn.letter for turn in choice.turns) == ["A", "B", "C", "D"]
    assert len({round(value, 9) for value in choice.logprobs.values()}) == 1


async def test_log_probabilities_over_all_turns_decide() -> None:
    def mostly_free(request: Request) -> str:
        """B at first, but the option that is meant in the three other orders."""
        first = letter_of(request, "on a leash") == "A"
        return "A" if first else letter_of(request, "free")

    choice, _ = await asked(question(), mostly_free)
    assert choice.turns[0].letter == "A"
    assert choice.letter == "B"


async def test_without_log_probabilities_the_most_chosen_option_is_the_answer() -> None:
    wanted = iter(["on a leash", "free", "free", "never"])

    class Votes(ScriptedModel):
        """Tells no log-probabilities, as an endpoint with constrained output only."""

        async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
            async for piece in super().stream(request):
                if isinstance(piece, Reply):
                    yield piece.model_copy(update={"choice_logprobs": None})
                else:
                    yield piece

    about = question()
    model = Votes(lambda request: letter_of(request, next(wanted)))
    options = ExamOptions()
    prepared = put(about, "base", None, model.count_tokens, options)
    choice = await tell_in_turns(model, about, prepared, options)
    assert (choice.letter, choice.by, choice.logprobs) == ("B", "constrained", {})


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
