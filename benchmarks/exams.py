"""Exams with the local model: accuracy without rules, with those found, and with the right ones.

`python -m benchmarks.exams --data FOLDER --runs FOLDER` puts samples of OPO's five sets (they are
not part of this project) to a model by `comity exam run`, and publishes what came out. A stopped
benchmark continues where it was. `--generated EXAM.jsonl` adds the share of generated questions
that survived, from the files that `comity exam generate` has left.

The sets with gold rules and the Chinese ones without are asked under OPO's laws and codes. For
H-Social the rules are `social_norms.csv`: what taboo, normal and expected mean. OPO took rules for
it from NormBank, which is not at hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.opo import rule_files
from benchmarks.quality import memory_of
from benchmarks.report import Measure, publish
from comity.evaluation.exams import Rejected, read_exam
from comity.evaluation.generate import rejected_file
from comity.evaluation.runs import Item, Mode, Run
from comity.evaluation.score import Interval, Score, compare, of, overhead_share, scores
from comity.evaluation.settle import Generated

WITH_GOLD = ("a_law", "a_professional_morality")
BY_PEOPLE = ("h_law", "h_basic_morality")
SOCIAL = ("h_social_morality",)
SEED = 1
SOCIAL_NORMS = Path(__file__).with_name("social_norms.csv")

# The questions on which the form of the prompt was chosen (docs/design/exams.md), by their ids.
TUNED_ON = {
    "a_law": "111 255 206 403 312 284 187 267 159 117 270 218 389 244 86 364 248 263 150 311",
    "a_professional_morality": "220 254 159 194 123 37 109 87 106 102 18 82 206 208 238 216 67 77 "
    "2 99",
}
_GOALS = {"gain_points": "> 0", "oracle_gap_points": "<= 2"}


class Sitting(NamedTuple):
    """Sets that are asked in one run, under one memory."""

    name: str
    """Folder of the run."""
    sets: tuple[str, ...]
    modes: str
    limit: int
    rules: tuple[Path, ...]
    place: str


def main() -> None:
    """Run what is asked for, then publish `results/exams.json` and the table in the README."""
    asked = _arguments()
    opo = tuple(rule_files(asked.data))
    sittings = (
        Sitting("a", WITH_GOLD, "base,comity,oracle", asked.limit, opo, "CN"),
        Sitting("h", BY_PEOPLE, "base,comity", asked.h_limit, opo, "CN"),
        Sitting("s", SOCIAL, "base,comity", asked.h_limit, (SOCIAL_NORMS,), "world"),
    )
    runs = [_run(asked, sitting) for sitting in sittings if sitting.limit]
    measures = [measure for run in runs for measure in _measures(run)]
    if asked.generated:
        measures.append(_survived(asked.generated))
    measures += _overhead([item for run in runs for item in run.latest().values()])
    publish("exams", measures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with OPO's data")
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--model", default="local")
    parser.add_argument("--base-url", default="")
    parser.add_argument("--limit", type=int, default=150, help="questions of each generated set")
    parser.add_argument("--h-limit", type=int, default=60, help="of each set written by people")
    parser.add_argument("--generated", type=Path, help="an exam of `comity exam generate`")
    return parser.parse_args()


def _run(asked: argparse.Namespace, sitting: Sitting) -> Run:
    asked.runs.mkdir(parents=True, exist_ok=True)
    memory = asked.runs / ("social.db" if sitting.name == "s" else "opo.db")
    memory_of(sitting.rules, memory).close()
    folder = asked.runs / sitting.name
    questions = [asked.data / "questions" / f"{name}.csv" for name in sitting.sets]
    command = [sys.executable, "-m", "comity", "--memory", f"sqlite:///{memory}", "exam", "run"]
    command += [part for file in questions for part in ("--questions", str(file))]
    command += ["--modes", sitting.modes, "--limit", str(sitting.limit), "--seed", str(SEED)]
    command += ["--place", sitting.place, "--model", asked.model, "--timeout", "900"]
    command += ["--parallel", "1", "--out", str(folder), "--resume"]
    if asked.base_url:
        command += ["--base-url", asked.base_url]
    subprocess.run(command, check=True)
    return Run.read(folder)


def _measures(run: Run) -> Iterator[Measure]:
    items = list(run.latest().values())
    for score in scores(items):
        yield _accuracy(score, run)
    for exam in dict.fromkeys(item.exam for item in items):
        yield from _compared(items, exam, "gain_points", "base", "comity")
        if exam in WITH_GOLD:
            yield from _compared(items, exam, "oracle_gap_points", "comity", "oracle")
            tuned = set(TUNED_ON[exam].split())
            others = [item for item in items if item.question not in tuned]
            yield from _compared(others, exam, "untuned_gain_points", "base", "comity")
            yield from _compared(others, exam, "untuned_oracle_gap_points", "comity", "oracle")


def _accuracy(score: Score, run: Run) -> Measure:
    if score.accuracy is None or score.interval is None:
        raise SystemExit(f"{score.exam}.{score.mode}: nothing was scored; see {run.folder}")
    low, high = 100 * score.interval.low, 100 * score.interval.high
    return Measure(
        measure=f"{score.exam}.{score.mode}",
        value=round(100 * score.accuracy, 2),
        unit="%",
        note=f"{score.scored} scored of {score.asked}, seed {run.plan.seed}, {run.plan.model}; "
        f"95 % interval {low:.1f} to {high:.1f}",
    )


def _compared(
    items: Sequence[Item], exam: str, name: str, before: Mode, after: Mode
) -> Iterator[Measure]:
    paired = compare(of(items, exam, before), of(items, exam, after))
    if paired.difference is None:
        return
    yield Measure(
        measure=f"{exam}.{name}",
        value=round(100 * paired.difference, 2),
        unit="points",
        goal=_GOALS.get(name, "") if exam in WITH_GOLD else "not below 0 beyond its interval",
        note=f"{after} minus {before}, {paired.questions} questions: {paired.gained} gained, "
        f"{paired.lost} lost, McNemar p {paired.p:.2g}{_within(paired.interval)}",
    )


def _within(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"; 95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _survived(file: Path) -> Measure:
    lines = rejected_file(file).read_text(encoding="utf-8").split("\n")
    rejected = [Rejected.model_validate_json(line) for line in lines if line]
    questions = read_exam(file).questions if file.stat().st_size else ()
    made = Generated(questions=questions, rejected=tuple(rejected))
    if made.survived_share is None:
        raise SystemExit(f"{file}: there is no draft of a model")
    return Measure(
        measure="generation.survived_share",
        value=round(made.survived_share, 4),
        unit="share",
        note=f"{made.drafts} drafts over the sample rules, written and judged by the local model",
    )


def _overhead(items: Sequence[Item]) -> Iterator[Measure]:
    share = overhead_share(items)
    if share is not None:
        yield Measure(
            measure="harness.overhead_share",
            value=round(share, 4),
            unit="share",
            goal="< 0.02",
            note="time beside the model's (scope, search, ruling, prompt) over the model's",
        )


if __name__ == "__main__":
    main()
