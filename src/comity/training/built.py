"""What a build of preference data is told, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from comity.alignment.prefer import Preferred
from comity.records import FAMILIES, Record
from comity.training.candidates import Writing
from comity.training.lessons import FileWritten, Lesson
from comity.training.ranking import MOST_FIRST, Places

Stage = Literal["question", "answer", "ranking", "rule", "row"]


class Options(Record):
    """How data is built."""

    per_question: int = Field(1, ge=1, description="Pairs of opposite wishes for each question.")
    writing: Writing = Field(Writing(), description="How answers are written.")
    limit: int | None = Field(None, ge=0, description="So many questions, of each family alike.")
    eval_share: float = Field(0.15, ge=0, lt=1, description="Share of the questions held out.")
    most_first: float = Field(
        MOST_FIRST, gt=0.5, le=1, description="Share of a judge's choices on one place: no judge."
    )
    parallel: int = Field(1, ge=1, description="Questions that are worked on at once.")
    seed: int = Field(0, ge=0, description="Of all that is drawn.")


class Dropped(Record):
    """Something that was not used."""

    stage: Stage = Field(description="Where it was dropped.")
    what: str = Field(description="Id of the question, of its wishes, or of the rule.")
    reason: str = Field(description="Why.")


class Outcome(Record):
    """What became of one question under two wishes, or of one rule."""

    lessons: tuple[Lesson, ...] = Field((), description="What it teaches.")
    compared: tuple[Preferred, ...] = Field((), description="What was compared.")
    dropped: tuple[Dropped, ...] = Field((), description="What was not used, and why.")
    flipped: bool | None = Field(
        None, description="Whether the ranking turned with the wish; None where it cannot."
    )
    unanswered: bool = Field(False, description="Whether a model gave nothing.")


class Built(Record):
    """What came of a build."""

    lessons: tuple[Lesson, ...] = Field(description="The rows, in the order of the questions.")
    files: tuple[FileWritten, ...] = Field((), description="The files that were written.")
    dropped: tuple[Dropped, ...] = Field(description="What was not used, and why.")
    compared: tuple[Preferred, ...] = Field(description="Every comparison of two answers.")
    flipped: int = Field(ge=0, description="Questions whose ranking turned with the wish.")
    flippable: int = Field(ge=0, description="Questions under two wishes of which each holds once.")
    asked: int = Field(ge=0, description="New calls to models.")
    kept: int = Field(ge=0, description="Calls answered from the journal.")

    @property
    def places(self) -> Places:
        """How often the judge chose what stood first."""
        return places(self.compared)

    @property
    def missing(self) -> tuple[str, ...]:
        """Families of which there is no row."""
        named = {lesson.family for lesson in self.lessons}
        return tuple(family for family in FAMILIES if family not in named)


def places(compared: Sequence[Preferred], before: Places = Places()) -> Places:  # noqa: B008 - frozen
    """How often a judge chose what stood first, added to what was seen `before`."""
    total = before
    for said in compared:
        total = total.plus(said)
    return total
