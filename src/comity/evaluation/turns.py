"""Asking in more than one order of the options, so that a liking for a letter evens out.

Models, small ones above all, prefer some letters whatever stands there (Zheng et al., Large
Language Models Are Not Robust Multiple Choice Selectors, arXiv 2309.03882), and written exams
favour some letters too; where the two agree, a model looks better than it is. So a question is
asked in two turns, the second with the options half way round. Where both choose the same
option, that is the answer. Where they differ, the remaining rotations are asked as well, and all
of them decide together. The prompt before the options is the same in all turns, so that a model
that keeps the beginning of a prompt reads little more than the options again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from comity.evaluation.ask import ExamOptions, Put, Told, messages_of, tell
from comity.evaluation.exams import Question
from comity.evaluation.question_set import turns_freely
from comity.evaluation.runs import Turn
from comity.models.chat import ChatModel
from comity.records import Usage


class Choice(NamedTuple):
    """What a model chose, over all turns."""

    letter: str
    """The letter; empty if none could be read in any turn."""
    by: Literal["logprobs", "constrained", "text", ""]
    """How the letters were told."""
    text: str
    """What the model wrote in the first turn."""
    logprobs: Mapping[str, float]
    """Natural log-probability of each letter, the mean over the turns."""
    turns: tuple[Turn, ...]
    """The turns."""
    usage: Usage
    """Tokens of all turns together."""
    not_scored: str
    """Why there is no letter."""


class _Asked(NamedTuple):
    turn: Turn
    told: Told


async def tell_in_turns(
    model: ChatModel, question: Question, prepared: Put, options: ExamOptions
) -> Choice:
    """The letter that a model chooses over two turns, or over all where these differ.

    Questions whose options point at one another ("all of the above") are asked once, and so are
    all without `options.turns`. Raises the `ModelError` of a model that fails.
    """
    count = len(question.options)
    starts = [0, count // 2] if options.turns and turns_freely(question) else [0]
    asked = [await _ask(model, question, prepared, start, options) for start in starts]
    if len(asked) == 2 and asked[0].turn.letter != asked[1].turn.letter:
        others = [start for start in range(count) if start not in starts]
        asked += [await _ask(model, question, prepared, start, options) for start in others]
    return _decided(question, asked)


def turned(question: Question, start: int) -> Question:
    """The question with its options rotated, so that option number `start` stands first."""
    count = len(question.options)
    answer = question.letters[(question.letters.index(question.answer) - start) % count]
    options = question.options[start:] + question.options[:start]
    return question.model_copy(update={"options": options, "answer": answer})


async def _ask(
    model: ChatModel, question: Question, prepared: Put, start: int, options: ExamOptions
) -> _Asked:
    put = messages_of(turned(question, start), prepared.rules_text) if start else prepared.messages
    told = await tell(model, question, put, seed=options.seed)
    letters = question.letters
    own = {letter: letters[(at + start) % len(letters)] for at, letter in enumerate(letters)}
    turn = Turn(
        first=letters[start],
        letter=own.get(told.letter, ""),
        logprobs={own[letter]: value for letter, value in told.logprobs.items()},
    )
    return _Asked(turn, told)


def _decided(question: Question, asked: Sequence[_Asked]) -> Choice:
    turns = tuple(each.turn for each in asked)
    logprobs = _mean(question.letters, turns)
    first = asked[0].told
    letter = max(logprobs, key=logprobs.__getitem__) if logprobs else _most_chosen(turns)
    if len({turn.letter for turn in turns}) == 1:
        letter = turns[0].letter
    return Choice(
        letter=letter,
        by=next((each.told.by for each in asked if each.told.by), ""),
        text=first.reply.text,
        logprobs=logprobs,
        turns=turns,
        usage=Usage(
            prompt_tokens=sum(each.told.reply.usage.prompt_tokens for each in asked),
            completion_tokens=sum(each.told.reply.usage.completion_tokens for each in asked),
        ),
        not_scored="" if letter else first.not_scored,
    )


def _mean(letters: Sequence[str], turns: Sequence[Turn]) -> dict[str, float]:
    """Mean log-probabilities; empty unless every turn tells some.

    Endpoints tell the likeliest tokens only: a letter that is not among them counts as the least
    likely of those that are.
    """
    if not all(turn.logprobs for turn in turns):
        return {}
    least = [min(turn.logprobs.values()) for turn in turns]
    return {
        letter: sum(turn.logprobs.get(letter, low) for turn, low in zip(turns, least, strict=True))
        / len(turns)
        for letter in letters
    }


def _most_chosen(turns: Sequence[Turn]) -> str:
    """The option chosen most often, the first turn's among equals; empty if none was."""
    chosen = Counter(turn.letter for turn in turns if turn.letter)
    return chosen.most_common(1)[0][0] if chosen else ""
