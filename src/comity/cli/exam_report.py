"""`comity exam report`: what runs came to, as a page and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from comity.cli.output import note, say

if TYPE_CHECKING:
    from comity.evaluation.runs import Run
    from comity.evaluation.score import Score

_NOT_SCORED = 0.1  # share of the answers above which an accuracy stands for too few of them


class Floor(NamedTuple):
    """The least accuracy that an exam must have in a mode."""

    exam: str
    mode: str
    percent: float


class FloorType(click.ParamType[Floor]):
    """`SET.MODE=PERCENT`."""

    name = "floor"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Floor:
        """The floor in an option's text."""
        from comity.evaluation.runs import MODES

        if isinstance(value, Floor):
            return value
        target, _, number = str(value).rpartition("=")
        exam, _, mode = target.rpartition(".")
        percent = _number(number)
        if not exam or mode not in MODES or not 0 <= percent <= 100:
            self.fail(
                f"{value!r} is no SET.MODE=PERCENT, such as a_law.comity=70 "
                f"(modes: {', '.join(MODES)}; percent from 0 to 100)",
                param,
                ctx,
            )
        return Floor(exam, mode, percent)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


fail_under_option = click.option(
    "--fail-under",
    "floors",
    type=FloorType(),
    multiple=True,
    metavar="SET.MODE=PERCENT",
    help="Exit code 1 where the accuracy is lower, or more than a tenth is not scored; repeatable.",
)


@click.command("report")
@click.argument(
    "runs",
    metavar="RUN…",
    nargs=-1,
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("report.html"),
    show_default=True,
    metavar="FILE",
    help="Where the page is written.",
)
@click.option("--published", is_flag=True, help="With OPO's published figures beside.")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Preference exams: labels that stand in the place of the judge's verdicts.",
)
@click.option(
    "--labelled-by", metavar="WHO", default="", help="Whose labels: a person, a model's name."
)
@fail_under_option
@click.pass_context
def report_command(
    context: click.Context,
    runs: tuple[Path, ...],
    out: Path,
    published: bool,
    labels: Path | None,
    labelled_by: str,
    floors: tuple[Floor, ...],
) -> None:
    """Report on runs of exams: a page with pictures, and a Markdown table on stdout.

    RUN is a run's folder; several are set side by side, and the first is compared with each of
    the others. The page is one file that needs nothing else.
    """
    from comity.evaluation.preference_runs import is_preference_run
    from comity.evaluation.report import report
    from comity.evaluation.runs import Run

    who = labelled_by.strip()
    if bool(labels) != bool(who):
        raise click.UsageError("--labels and --labelled-by go together: say who labelled")
    if any(map(is_preference_run, runs)):
        if len(runs) > 1 or published or floors:
            raise click.UsageError(
                "a preference exam is reported on alone, without --published and --fail-under: "
                "its modes stand side by side in one run"
            )
        _report_on_preferences(runs[0], out, labels, who)
        return
    if labels:
        raise click.UsageError("--labels are for the run of a preference exam")
    opened = [Run.read(folder) for folder in runs]
    made = report(opened, published=published)
    _write(out, made.html)
    say(made.markdown.rstrip("\n"))
    note(f"the page is in {out}")
    missed = _missed(opened, floors) if floors else []
    for line in missed:
        note(line)
    context.exit(1 if missed else 0)


def _report_on_preferences(folder: Path, out: Path, labels: Path | None, who: str) -> None:
    """The page of a preference exam, by the labels of a file where one is given."""
    from comity.evaluation.preference_labelled import labels_for
    from comity.evaluation.preference_report import preference_report
    from comity.evaluation.preference_runs import PreferenceRun
    from comity.evaluation.preference_verdicts import cases_of, scored_items

    run = PreferenceRun.read(folder)
    given = labels_for(scored_items(run), cases_of(run)[0], labels, who) if labels else None
    made = preference_report(run, given)
    _write(out, made.html)
    say(made.markdown.rstrip("\n"))
    note(f"the page is in {out}")


def shortfalls(found: Iterable[Score], floors: Sequence[Floor], run: str = "") -> Iterator[str]:
    """What is below its floor, or of which too much was not scored, in words."""
    where = f" in run {run}" if run else ""
    for score in found:
        for floor in floors:
            if (floor.exam, floor.mode) != (score.exam, score.mode):
                continue
            named = f"{floor.exam}.{floor.mode}{where}"
            counted = f"{score.scored} of {score.asked} scored"
            if score.accuracy is None:
                yield f"{named}: nothing was scored, and {floor.percent:g} % is asked for"
            elif score.asked - score.scored > _NOT_SCORED * score.asked:
                yield f"{named}: only {counted}, too few for a floor: see what was not scored"
            elif 100 * score.right < floor.percent * score.scored:
                percent = 100 * score.accuracy
                yield f"{named}: {percent:.2f} % is less than {floor.percent:g} % ({counted})"


def _missed(runs: Iterable[Run], floors: Sequence[Floor]) -> list[str]:
    from comity.evaluation.score import scores

    found = {str(run.folder): scores(run.latest().values()) for run in runs}
    missed = [line for name, some in found.items() for line in shortfalls(some, floors, name)]
    there = {(score.exam, score.mode) for some in found.values() for score in some}
    told = ", ".join(f"{exam}.{mode}" for exam, mode in sorted(there)) or "none"
    return missed + [
        f"{floor.exam}.{floor.mode} is in none of the runs (there are: {told})"
        for floor in floors
        if (floor.exam, floor.mode) not in there
    ]


def _write(path: Path, page: str) -> None:
    from comity.errors import ExamError

    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExamError(f"{path} cannot be written: {error.strerror}") from error
