"""OPO's published figures, beside a run's own."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from comity.evaluation.report_parts import Part
from comity.evaluation.report_text import NONE, Table, percent, points
from comity.evaluation.runs import MODES


def published(parts: Sequence[Part]) -> Table:
    """OPO's own figures beside these, for the exams that bear its sets' names."""
    facts = tomllib.loads(files(__package__).joinpath("published.toml").read_text("utf-8"))
    rows: list[tuple[str, ...]] = []
    for exam in dict.fromkeys(part.exam for part in parts):
        if exam in facts["mean_gain"]:
            rows += [_measured(part) for part in parts if part.exam == exam]
            rows += _published_rows(facts, exam)
    return Table(
        title="Beside OPO's published figures",
        columns=("exam", "model", "whose", "base", "with rules", "oracle", "gain over base"),
        rows=tuple(rows),
        words=3,
        note=f"OPO's from: {facts['source']} ({facts['url']}). Other models and other samples of "
        "the questions: a yardstick, no contest."
        if rows
        else "None of these exams bears the name of a set that OPO reports: "
        f"{', '.join(facts['mean_gain'])}.",
    )


def _measured(part: Part) -> tuple[str, ...]:
    found = part.scores
    shares = [found[mode].accuracy if mode in found else None for mode in MODES]
    gain = part.paired("base", "comity").difference
    return (
        part.exam,
        part.sheet.plan.model,
        f"this run ({part.sheet.label})",
        *map(percent, shares),
        NONE if gain is None else points(gain),
    )


def _published_rows(facts: Mapping[str, Any], exam: str) -> Iterator[tuple[str, ...]]:
    for model in facts["models"]:
        figures = [f"{figure:.2f} %" for figure in model[exam]]
        gain = f"{model[exam][1] - model[exam][0]:+.2f}".replace("-", "−")
        yield exam, model["name"], "OPO", *figures, *[NONE] * (3 - len(figures)), gain
    mean = facts["mean_gain"][exam]
    gain = f"{mean['opo']:+.2f}\n({mean['worse']} got worse)"
    oracle = f"{mean['oracle']:+.2f}" if "oracle" in mean else NONE
    yield exam, "mean gain of 15 models", "OPO", NONE, NONE, oracle, gain
