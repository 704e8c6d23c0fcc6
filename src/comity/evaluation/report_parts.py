"""What a report reads: runs, and each exam of each run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from pydantic import Field

from comity.evaluation.runs import MODES, ExamTaken, Item, Mode, Plan
from comity.evaluation.score import (
    Change,
    Paired,
    Score,
    compare,
    got_better,
    got_worse,
    of,
    scores,
)
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
        planned, noted = set(self.taken.questions), self.taken.with_gold
        known = {item.question for item in self.items if item.gold}
        with_gold = known if noted is None else planned & set(noted)
        return all(
            self._asked(mode) >= (with_gold if mode == "oracle" else planned)
            for mode in self.sheet.plan.modes
        )

    @cached_property
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


class Pair(Record):
    """The same questions, answered twice."""

    name: str = Field(description="Exam, and what is compared: modes or runs.")
    exam: str = Field(description="Name of the exam.")
    labels: tuple[str, str] = Field(description="How the two are told apart: modes or runs.")
    mode: Mode = Field(description="Of the later answers.")
    before: tuple[Item, ...] = Field(description="The earlier answers.")
    after: tuple[Item, ...] = Field(description="The later answers.")

    @cached_property
    def paired(self) -> Paired:
        """The two compared."""
        return compare(self.before, self.after)

    @cached_property
    def worse(self) -> tuple[Change, ...]:
        """The questions that got worse."""
        return got_worse(self.before, self.after)

    @cached_property
    def better(self) -> tuple[Change, ...]:
        """The questions that got better."""
        return got_better(self.before, self.after)


def by_rules(parts: Sequence[Part]) -> Iterator[Pair]:
    """Without rules against with those of the pipeline: what the rules made of each exam."""
    for part in parts:
        before, after = part.in_modes("base", "comity")
        yield Pair(
            name=part.name,
            exam=part.exam,
            labels=("base", "comity"),
            mode="comity",
            before=tuple(before),
            after=tuple(after),
        )


def by_run(sheets: Sequence[Sheet]) -> Iterator[Pair]:
    """The first run against each later one, where questions were scored in both."""
    first = sheets[0]
    for later in sheets[1:]:
        for exam in (taken.name for taken in first.plan.exams):
            for mode in MODES:
                pair = Pair(
                    name=f"{exam}, {mode}, {first.label} → {later.label}",
                    exam=exam,
                    labels=(first.label, later.label),
                    mode=mode,
                    before=tuple(of(first.items, exam, mode)),
                    after=tuple(of(later.items, exam, mode)),
                )
                if pair.paired.questions:
                    yield pair


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
