"""What `comity exam run` says: before it asks, of what and why not, and the scores after it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.exam_report import Floor, shortfalls
from comity.cli.output import note, say_table

if TYPE_CHECKING:
    from comity.evaluation.exams import Exam
    from comity.evaluation.run import Job
    from comity.evaluation.runs import Plan, Run
    from comity.evaluation.score import Score


def note_plan(plan: Plan, exams: Sequence[Exam], todo: Sequence[Job], folder: Path) -> None:
    """Say what will be asked, where it is kept, and what is not asked and why."""
    from comity.evaluation.run import names_gold

    note(f"{len(todo)} answers of {plan.model}, kept in {folder}")
    for exam, taken in zip(exams, plan.exams, strict=True):
        drawn = f"{len(taken.questions)} of {len(exam.active)} questions"
        note(f"{exam.name}: {drawn}" + (f", drawn with seed {plan.seed}" if plan.limit else ""))
        if taken.left_out:
            first = taken.left_out[0]
            note(f"  {len(taken.left_out)} left out, such as line {first.line}: {first.reason}")
        if taken.retired:
            name, reason = next(iter(taken.retired.items()))
            note(f"  {len(taken.retired)} retired, such as {name}: {reason}")
        if flagged := [q for q in exam.active if q.status == "flagged"]:
            note(f"  {len(flagged)} flagged, such as {flagged[0].id}: {flagged[0].reason}")
        asked = set(taken.questions)
        without = sum(q.id in asked and not names_gold(q) for q in exam.active)
        if "oracle" in plan.modes and without:
            note(f"  {without} name no gold rules and are not asked in mode oracle")


def say_scores(run: Run, floors: Sequence[Floor], *, changed: Path | None) -> list[str]:
    """Print a run's accuracies; returns which floors they miss, which is said too.

    With `changed`, the run from which equal prompts' answers were taken over, their number.
    """
    from comity.evaluation.score import scores

    items = run.latest().values()
    if changed:
        reused = sum(item.reused for item in items)
        note(f"{len(items) - reused} asked, {reused} taken over from {changed}")
    found = scores(items)
    say_table(
        ("exam", "mode", "asked", "scored", "right", "accuracy", "95 % interval"),
        [
            (s.exam, s.mode, s.asked, s.scored, s.right, _percent(s.accuracy), _interval(s))
            for s in found
        ],
    )
    there = {(score.exam, score.mode) for score in found}
    missed = list(shortfalls(found, floors)) + [
        f"{floor.exam}.{floor.mode}: nothing was asked, and {floor.percent:g} % is asked for"
        for floor in floors
        if (floor.exam, floor.mode) not in there
    ]
    for line in missed:
        note(line)
    note(f"comity exam report {run.folder} makes a page of it")
    return missed


def _percent(share: float | None) -> str:
    return "nothing scored" if share is None else f"{100 * share:.1f} %"


def _interval(score: Score) -> str:
    if score.interval is None:
        return ""
    return f"{100 * score.interval.low:.1f} to {100 * score.interval.high:.1f} %"
