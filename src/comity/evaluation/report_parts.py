"""What a report reads: runs, and each exam of each run."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from comity.evaluation.runs import ExamTaken, Item, Mode, Plan
from comity.evaluation.score import Paired, Score, compare, of, scores
from comity.records import Record


class Sheet(Record):
    """A run as a report reads it."""

    label: str = Field(description="Name of the run, unlike that of the others.")
    plan: Plan = Field(description="What was asked.")
    items: tuple[Item, ...] = Field((), description="The last item of each question and mode.")


class Part(Record):
    """One exam of one run."""

    name: str = Field(description="The exam's name, with the run's where there are several.")
    exam: str = Field(description="Name of the exam.")
    sheet: Sheet = Field(description="The run.")
    taken: ExamTaken = Field(description="The exam as the run takes it.")
    items: tuple[Item, ...] = Field((), description="What was asked of it so far.")

    @property
    def finished(self) -> bool:
        """Whether every question was asked in every mode; in `oracle`, if it has gold rules."""
        planned = set(self.taken.questions)
        with_gold = {item.question for item in self.items if item.gold}
        return all(
            self._asked(mode) >= (with_gold if mode == "oracle" else planned)
            for mode in self.sheet.plan.modes
        )

    @property
    def scores(self) -> dict[Mode, Score]:
        """The score in each mode that was asked."""
        return {score.mode: score for score in scores(self.items)}

    def paired(self, before: Mode, after: Mode) -> Paired:
        """Two modes compared."""
        return compare(*self.in_modes(before, after))

    def in_modes(self, before: Mode, after: Mode) -> tuple[list[Item], list[Item]]:
        """The items of two modes."""
        return of(self.items, self.exam, before), of(self.items, self.exam, after)

    def _asked(self, mode: Mode) -> set[str]:
        return {item.question for item in self.items if item.mode == mode}


def parts_of(sheets: Sequence[Sheet]) -> list[Part]:
    """Each exam of each run; runs of the same exam stand next to one another."""
    names = dict.fromkeys(exam.name for sheet in sheets for exam in sheet.plan.exams)
    return [
        Part(
            name=f"{name} · {sheet.label}" if len(sheets) > 1 else name,
            exam=name,
            sheet=sheet,
            taken=taken,
            items=tuple(item for item in sheet.items if item.exam == name),
        )
        for name in names
        for sheet in sheets
        for taken in sheet.plan.exams
        if taken.name == name
    ]
