"""Preferences with the local model: meta-prompt, refinement, contrast and adapter side by side.

`python -m benchmarks.preferences --runs FOLDER` puts the packaged preference exam to a model by
`comity exam preferences`, under the sample rules, and publishes what came out. A stopped benchmark
continues where it was, also with more modes. `--label FILE` writes answers to be labelled instead
of publishing (`--label-count`; `--label-judged` for those alone that are left to the judge);
`--labels FILE --labelled-by NAME` reads them back, and adds how far the verdicts agree with NAME's;
with `--labels-decide` they also stand in the place of the judge's verdicts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality import memory_of
from benchmarks.report import Measure, publish
from comity.evaluation.preference_cases import read_questions
from comity.evaluation.preference_labelled import Labels, labels_for, with_labels
from comity.evaluation.preference_labels import agreement, to_label, write_labels
from comity.evaluation.preference_runs import PreferenceItem, PreferenceMode, PreferenceRun
from comity.evaluation.preference_score import (
    Gain,
    asked_in,
    broken,
    flips,
    follow,
    follow_in,
    gain,
    groups,
    judge_checks,
    leanings,
    rule_change,
    without_priority,
)
from comity.evaluation.preference_verdicts import cases_of, scored_items
from comity.evaluation.score import Interval
from comity.samples import sample_folder

SEED = 5
_BETTER: tuple[PreferenceMode, ...] = ("meta_prompt", "refined", "contrast", "adapter")
_GOALS = {
    "meta_prompt.gain_points": "> 0 beyond its interval",
    "rules_broken.change_points": "0 within its interval",
}


def main() -> None:
    """Run what is asked for, then publish `results/preferences.json` and the README's table."""
    asked = _arguments()
    run = PreferenceRun.read(asked.runs / "exam") if asked.only_publish else _run(asked)
    items = scored_items(run)
    if asked.label:
        judged = asked.label_judged
        drawn = to_label(
            items, read_questions(), count=asked.label_count, seed=SEED, judged_only=judged
        )
        write_labels(asked.label, drawn)
        print(f"written: {asked.label}; fill in each label: wish, opposite or neither")
        return
    labels = None
    if asked.labels:
        labels = labels_for(items, cases_of(run)[0], asked.labels, asked.labelled_by.strip())
    measures = list(measures_of(items, run, labels if asked.labels_decide else None))
    if labels:
        print(f"{labels.strange} labels of {asked.labels} fit no answer of the run: not used")
        measures += agreement_measures(items, labels)
    publish("preferences", measures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder that keeps the run")
    parser.add_argument("--model", default="local")
    parser.add_argument("--judge", default="", help="by default the model itself")
    parser.add_argument("--base-url", default="")
    parser.add_argument("--modes", default="none,plain,meta_prompt,refined,contrast")
    parser.add_argument("--adapter-model", default="", help="adds mode adapter")
    parser.add_argument("--limit", type=int, help="questions, drawn; all by default")
    parser.add_argument("--share", type=float, default=0.5, help="of them, refined and contrast")
    parser.add_argument("--samples", type=int, default=3, help="of refined")
    parser.add_argument("--refine-rounds", type=int, default=0, help="of refined")
    parser.add_argument("--max-tokens", type=int, default=80, help="longest answer")
    parser.add_argument("--only-publish", action="store_true", help="ask nothing more")
    parser.add_argument("--label", type=Path, help="write answers to be labelled")
    parser.add_argument("--labels", type=Path, help="read the labelled answers")
    parser.add_argument("--label-count", type=int, default=40, help="how many")
    parser.add_argument("--label-judged", action="store_true", help="only what is left to a judge")
    parser.add_argument("--labelled-by", default="", help="who labelled: a person, a model's name")
    parser.add_argument(
        "--labels-decide", action="store_true", help="labels stand in the judge's place"
    )
    asked = parser.parse_args()
    if bool(asked.labels) != bool(asked.labelled_by.strip()):
        parser.error("--labels and --labelled-by go together: say who labelled")
    if asked.labels_decide and not asked.labels:
        parser.error("--labels-decide needs --labels FILE")
    if asked.label_count < 1:
        parser.error("--label-count: at least 1")
    return asked


def _run(asked: argparse.Namespace) -> PreferenceRun:
    asked.runs.mkdir(parents=True, exist_ok=True)
    memory = asked.runs / "samples.db"
    if not memory.exists():
        memory_of((sample_folder(),), memory).close()
    folder = asked.runs / "exam"
    modes = asked.modes + (",adapter" if asked.adapter_model else "")
    command = [sys.executable, "-m", "comity", "--memory", f"sqlite:///{memory}"]
    command += ["exam", "preferences", "--out", str(folder), "--resume", "--modes", modes]
    command += ["--seed", str(SEED), "--share", str(asked.share), "--timeout", "900"]
    command += ["--model", asked.model, "--max-tokens", str(asked.max_tokens)]
    command += ["--samples", str(asked.samples), "--refine-rounds", str(asked.refine_rounds)]
    given = {
        "--judge": asked.judge,
        "--base-url": asked.base_url,
        "--adapter-model": asked.adapter_model,
        "--limit": asked.limit,
    }
    command += [part for name, value in given.items() if value for part in (name, str(value))]
    subprocess.run(command, check=True)
    return PreferenceRun.read(folder)


def measures_of(
    items: Sequence[PreferenceItem], run: PreferenceRun, labels: Labels | None = None
) -> Iterator[Measure]:
    """Every measure of a run; what was not asked, or not decided, has none.

    Labels stand in the place of the judge's verdicts; what is said of the judge stays its own.
    """
    decided = with_labels(items, labels) if labels else items
    judge = f"judge {run.plan.judge}"
    names = {"code": "code", "judge": judge, "label": labels.whose if labels else ""}
    by = names["label"] or judge
    yield from _followed(decided, f"{run.plan.model}, {by}, seed {run.plan.seed}")
    yield from _followed_by(decided, names)
    yield from _flipped(decided)
    for mode in _BETTER:
        yield from _gains(decided, mode, names["label"])
    yield from _rules(items)
    yield from _judge(items)


def _gains(items: Sequence[PreferenceItem], mode: PreferenceMode, whose: str) -> Iterator[Measure]:
    """The gains of a mode: first by what nobody but code has a say in."""
    for by, some in groups(items, "decided_by").items():  # code, then judge or label
        decided = f"wishes, decided by {whose}" if by == "label" else "wishes"
        yield from _gained(f"{mode}.gain_points_by_{by}", gain(some, "plain", mode), decided)
    decided = f"wishes, decided by code and {whose}" if whose else "wishes"
    yield from _gained(f"{mode}.gain_points", gain(items, "plain", mode), decided)
    of_all = gain(items, "plain", mode, undecided="not followed")
    told = "wishes, what is not decided counts as not followed"
    yield from _gained(f"{mode}.gain_points_of_asked", of_all, told)
    rest = gain(without_priority(items), "plain", mode)
    yield from _gained(f"{mode}.gain_points_without_priority", rest, "wishes of other families")
    yield from _gained(f"{mode}.gain_to_none_points", gain(items, "none", mode), "wishes")


def _followed(items: Sequence[PreferenceItem], sample: str) -> Iterator[Measure]:
    for one in follow(items):
        if one.share is not None and one.share_of_asked is not None:
            beside = _plain_beside(items, one.mode)
            yield _share(
                f"{one.mode}.followed",
                one.share,
                f"{one.decided} decided of {one.asked} question-preference pairs, {one.turned} "
                f"turned with the order, {one.failed} failed; {sample}{_within(one.interval)}",
            ).model_copy(update=beside)
            counted = "what is not decided counts as not followed"
            yield _share(f"{one.mode}.followed_of_asked", one.share_of_asked, counted)


def _followed_by(items: Sequence[PreferenceItem], names: Mapping[str, str]) -> Iterator[Measure]:
    """The same, of the wishes that code decides and of those that are left to judge or labels."""
    for by, some in groups(items, "decided_by").items():
        for one in follow(some, by):
            if one.share is not None:
                told = f"{one.followed} of {one.decided} decided; {one.asked} left to {names[by]}"
                yield _share(
                    f"{one.mode}.followed_by_{by}", one.share, told + _within(one.interval)
                )


def _plain_beside(items: Sequence[PreferenceItem], mode: PreferenceMode) -> dict[str, Any]:
    """As the peer of a mode, what `plain` came to on the very questions that it was asked."""
    plain = follow_in(asked_in(items, mode), "plain")
    if mode not in _BETTER or plain is None or plain.share is None:
        return {}
    return {"peer": round(plain.share, 4), "peer_name": f"plain, the same {plain.asked} pairs"}


def _flipped(items: Sequence[PreferenceItem]) -> Iterator[Measure]:
    for one in flips(items):
        if one.rate is not None:
            told = f"{one.questions} questions with a verdict under every wish"
            yield _share(f"{one.mode}.flip_rate", one.rate, told + _within(one.interval))
        if one.rate_of_asked is not None:
            told = f"{one.flipped} of {one.asked} questions; undecided counts as not followed"
            yield _share(f"{one.mode}.flip_rate_of_asked", one.rate_of_asked, told)


def _gained(name: str, found: Gain, what: str) -> Iterator[Measure]:
    if found.difference is not None:
        cells = found.cells
        more, less = ("newly broken", "no longer") if what == "rule cases" else ("gained", "lost")
        yield Measure(
            measure=name,
            value=round(100 * found.difference, 2),
            unit="points",
            goal=_GOALS.get(name, ""),
            note=f"{found.after} minus {found.before}, {cells.questions} {what}: {cells.gained} "
            f"{more}, {cells.lost} {less}, McNemar p {cells.p:.2g}{_within(found.interval)}",
        )


def _rules(items: Sequence[PreferenceItem]) -> Iterator[Measure]:
    for one in broken(items):
        if one.share is not None:
            told = f"{one.broken} of {one.scored} rule cases, the rule in force in {one.in_force}"
            yield _share(f"{one.mode}.rules_broken", one.share, told + _within(one.interval))
    for mode in _BETTER:
        name = "rules_broken" if mode == "meta_prompt" else f"{mode}.rules_broken"
        change = rule_change(items, mode)
        yield from _gained(f"{name}.change_points", change, "rule cases")
        if change.interval is not None:
            yield Measure(
                measure=f"{name}.change_points_upper",
                value=round(100 * change.interval.high, 2),
                unit="points",
                note=f"upper end of the 95 % interval (Agresti and Min's): what "
                f"{change.cells.questions} cases leave possible",
            )


def _judge(items: Sequence[PreferenceItem]) -> Iterator[Measure]:
    found = judge_checks(items)
    if found.consistency is not None:
        told = (
            f"same verdict in both orders, of {found.verdicts} answers; what stood first twice: "
            f"{found.first_twice}, second twice: {found.second_twice}, failed: {found.failed}"
        )
        yield _share("judge.consistency", found.consistency, told)
    for one in leanings(items):
        told = f"the judge's mean probability for the wish, both orders, {one.answers} answers"
        yield _share(f"{one.mode}.judge_leaning", one.share, told)
        if one.gain is not None:
            yield Measure(
                measure=f"{one.mode}.judge_leaning_gain_points",
                value=round(100 * one.gain, 2),
                unit="points",
                note=f"{one.mode} minus plain, wish by wish{_within(one.interval)}",
            )


def agreement_measures(items: Sequence[PreferenceItem], labels: Labels) -> Iterator[Measure]:
    """How far the verdicts of code and judge agree with labels, and whose labels they are."""
    whose = {"peer_name": labels.whose}
    for who, found in agreement(items, labels.labelled).items():
        if found.share is not None:
            told = f"same as the label, of {found.decided} answers decided by both"
            measure = _share(f"{who}.agreement", found.share, told + _within(found.interval))
            yield measure.model_copy(update=whose)
        if found.labelled:
            told = f"{found.labelled} labelled wish or opposite, {found.neither} neither"
            share = found.decided / found.labelled
            yield _share(f"{who}.decided_of_labelled", share, told).model_copy(update=whose)


def _share(name: str, share: float, told: str) -> Measure:
    return Measure(measure=name, value=round(share, 4), unit="share", note=told)


def _within(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"; 95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %"


if __name__ == "__main__":
    main()
