"""The metrics of a run: JSON Lines as they come, and a picture of loss and margin.

The names are those that TRL logs: `loss`, `eval_loss`, `rewards/margins`, `rewards/accuracies`,
`learning_rate`, `grad_norm` and others, beside `step` and `epoch`; `held_out_*` are our own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comity.errors import MissingExtra, TrainingError

_PANELS = (
    ("loss", ("loss", "eval_loss", "held_out_loss")),
    ("margin", ("rewards/margins", "eval_rewards/margins")),
    ("log p(chosen) - log p(rejected)", ("held_out_margin",)),
)


def add_line(path: Path, step: int, values: Mapping[str, Any]) -> None:
    """Append the metrics of a step; what is no finite number is left out."""
    kept = {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **kept}) + "\n")


def read_lines(path: Path) -> list[dict[str, float]]:
    """The lines of a file of metrics; none where it is not there, nor of a line cut off."""
    return list(_lines(path)) if path.is_file() else []


def _lines(path: Path) -> Iterator[dict[str, float]]:
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number < len(lines):
                raise TrainingError(f"{path}, line {number}: is no JSON: {error}") from error


def cut_after(path: Path, step: int) -> None:
    """Take out the lines of later steps, which a run that goes on will make again."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    if path.is_file():
        part = path.with_name(path.name + ".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        part.replace(path)


def plot(path: Path, lines: Sequence[Mapping[str, float]], title: str) -> None:
    """Draw loss and margins over the steps as PNG. Raises `MissingExtra`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the plot of a training run", "train") from error
    panels = [(label, names) for label, names in _PANELS if any(_points(lines, n) for n in names)]
    figure = Figure(figsize=(7, 2.6 * max(len(panels), 1)), layout="constrained")
    for place, (label, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels), 1, place)
        for name in names:
            if points := _points(lines, name):
                axes.plot(*zip(*points, strict=True), marker=".", label=name)
        axes.set_ylabel(label)
        axes.legend()
    figure.suptitle(title)
    figure.supxlabel("step")
    figure.savefig(path, format="png", dpi=110)


def _points(lines: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in lines if name in line]
