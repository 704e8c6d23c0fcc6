"""The answers that are compared: written by a chat model under each wish, and without any.

An answer is written under the wish alone, which the question repeats with a note to follow it
strictly; the model is trained without the note. It so learns to do from the meta-prompt what it
can do when told plainly.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from comity.errors import ModelError, ModelMissing
from comity.models.chat import ChatModel
from comity.preferences.meta_prompt import messages_of
from comity.records import VERBATIM, Message, Record, Request
from comity.training.contamination import alike
from comity.training.directions import Case
from comity.training.journal import Journal
from comity.wording import version_of, words_of

SAME = 0.9
"""Jaccard similarity of runs of four characters from which two answers are one."""

_WARMTH = 0.8  # temperature of further answers under the same wish

FromSide = Literal[0, 1] | None


class Writing(Record):
    """How answers are written."""

    answers: int = Field(1, ge=1, description="Answers under each wish; the first is greedy.")
    plain: bool = Field(False, description="Whether one is written without any wish, too.")
    max_tokens: int = Field(220, ge=8, description="Longest answer; what is cut off is dropped.")
    seed: int = Field(0, ge=0, description="For the answers that are not greedy.")


class Candidate(Record):
    """One answer to a question."""

    model_config = VERBATIM

    side: FromSide = Field(description="The wish under which it was written; None is without.")
    text: str = Field(description="The answer.")


class Written(Record):
    """The answers to one question, and what became of the others."""

    candidates: tuple[Candidate, ...] = Field((), description="No two of them are alike.")
    dropped: tuple[str, ...] = Field((), description="Why answers were dropped, one by one.")
    unanswered: int = Field(0, ge=0, description="How often the model failed.")


async def write(model: ChatModel, case: Case, writing: Writing, journal: Journal) -> Written:
    """Answers to a case's question under each of its wishes.

    Empty answers, cut off ones and those like an earlier one are dropped, and so is what the model
    failed to answer. Raises `ModelMissing`.
    """
    found: list[Candidate] = []
    dropped: list[str] = []
    unanswered = 0
    for side, number in _wanted(writing):
        request = _request(case, side, number, writing)
        try:
            reply = await journal.answer(model, request)
        except ModelMissing:
            raise  # it would be missing for every answer
        except ModelError as error:
            unanswered += 1
            dropped.append(f"the model failed: {error}")
            continue
        if reply.finish_reason == "length":
            dropped.append("an answer was cut off")
        elif not reply.text.strip():
            dropped.append("an answer was empty")
        else:
            found.append(Candidate(side=side, text=reply.text.strip()))
    doubles = alike([one.text for one in found], SAME)
    dropped += ["two answers were alike"] * len(doubles)
    kept = tuple(one for number, one in enumerate(found) if number not in doubles)
    return Written(candidates=kept, dropped=tuple(dropped), unanswered=unanswered)


def writing_version() -> str:
    """Version of the words under which answers are written."""
    words = [words_of("data", one, package="comity.training") for one in ("en", "zh")]
    return version_of([(each["writing"], each["stance"]) for each in words])


def _wanted(writing: Writing) -> list[tuple[FromSide, int]]:
    sides: tuple[FromSide, ...] = (0, 1)
    wanted: list[tuple[FromSide, int]] = [
        (side, number) for side in sides for number in range(writing.answers)
    ]
    return [*wanted, (None, 0)] if writing.plain else wanted


def _request(case: Case, side: FromSide, number: int, writing: Writing) -> Request:
    question = Message(role="user", content=case.seed.question)
    messages: tuple[Message, ...] = (question,)
    if side is not None:
        language = case.seed.language
        words = words_of("data", language, package="comity.training")
        told = words["writing"].format(question=case.seed.question, wish=case.sides[side].wish)
        messages = messages_of(case.sides[side].writing, told, language)
    return Request(
        messages=messages,
        max_tokens=writing.max_tokens,
        temperature=_WARMTH if number else 0.0,
        seed=writing.seed + number,
    )
