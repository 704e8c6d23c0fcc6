"""Asking in more than one order of the options, so that a liking for a letter evens out.

Models, small ones above all, prefer some letters whatever stands there (Zheng et al., Large
Language Models Are Not Robust Multiple Choice Selectors, arXiv 2309.03882), and written exams
favour some letters too; where the two agree, a model looks better than it is. So a question is
asked in two turns, the second with the options half way round. Where both choose the same
option, that is the answer. Where they differ, the remaining rotations are asked as well, and all
of them decide together: by the mean log-probability of each option, else by how often each was
chosen. Where two options are level, the model has chosen a letter and no option, and the question
is not scored. The prompt before the options is the same in all turns, so that a model that keeps
the beginning of a prompt reads little more than the options again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from comity.evaluation.ask import ExamOptions, Put, messages_of, tell
from comity.evaluation.exams import Question
from comity.evaluation.question_set import turns_freely
from comity.evaluation.runs import ScoredBy, Turn
from comity.models.chat import ChatModel
from comity.records import Usage

_LEVEL = 1e-9  # difference below which two options are equally likely
_UNTOLD = -25.0  # log-probability of a letter for which the told ones leave no room at all


class Choice(NamedTuple):
    """What a model chose, over all turns."""

    letter: str
    """The letter; empty if none could be read in any turn."""
    by: ScoredBy
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
    usage: Usage


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
    told = await tell(model, question, put, seed=options.seed, max_tokens=options.max_tokens)
    letters = question.letters
    own = {letter: letters[(at + start) % len(letters)] for at, letter in enumerate(letters)}
    turn = Turn(
        first=letters[start],
        letter=own.get(told.letter, ""),
        not_scored=told.not_scored,
        scored_by=told.by,
        logprobs={own[letter]: value for letter, value in told.logprobs.items()},
        text=told.reply.text,
    )
    return _Asked(turn, told.reply.usage)


def _decided(question: Question, asked: Sequence[_Asked]) -> Choice:
    turns = tuple(each.turn for each in asked)
    logprobs = _mean(question.letters, turns)
    chosen = Counter(turn.letter for turn in turns if turn.letter)
    best = [*chosen] if len({turn.letter for turn in turns}) == 1 else _best(logprobs or chosen)
    letter = best[0] if len(best) == 1 else ""
    told = ", ".join(f"{option} {count}" for option, count in sorted(chosen.items()))
    level = f"the orders of the options decide nothing: {told}" if best else ""
    return Choice(
        letter=letter,
        by=next((turn.scored_by for turn in turns if letter and turn.scored_by), ""),
        text=turns[0].text,
        logprobs=logprobs,
        turns=turns,
        usage=Usage(
            prompt_tokens=sum(each.usage.prompt_tokens for each in asked),
            completion_tokens=sum(each.usage.completion_tokens for each in asked),
        ),
        not_scored="" if letter else level or turns[0].not_scored,
    )


def _mean(letters: Sequence[str], turns: Sequence[Turn]) -> dict[str, float]:
    """Mean log-probabilities; empty unless every turn tells some.

    Endpoints tell the likeliest tokens only: a letter that is not among them counts as likely as
    the least likely one, and at most as likely as all that was not told.
    """
    if not all(turn.logprobs for turn in turns):
        return {}
    least = [_untold(turn.logprobs) for turn in turns]
    return {
        letter: sum(turn.logprobs.get(letter, low) for turn, low in zip(turns, least, strict=True))
        / len(turns)
        for letter in letters
    }


def _untold(logprobs: Mapping[str, float]) -> float:
    """The log-probability of a letter that an endpoint did not tell."""
    rest = 1 - math.fsum(math.exp(value) for value in logprobs.values())
    return min(*logprobs.values(), math.log(rest) if rest > math.exp(_UNTOLD) else _UNTOLD)


def _best(values: Mapping[str, float]) -> list[str]:
    """The options with the highest value."""
    top = max(values.values(), default=0.0)
    return [option for option, value in values.items() if top - value < _LEVEL]
