"""The folder of a training run: its record `training.json`, checkpoints, and how to go on.

A run that was cut off leaves the checkpoints it had written; the same command with `resume`
goes on from the last whole one. Other data or another recipe in the same folder are refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from comity.errors import TrainingError
from comity.records import OptionalTime, Record, Time
from comity.training.rows import RowFile

RUN_FILE = "training.json"
METRICS_FILE = "metrics.jsonl"
PLOT_FILE = "metrics.png"
ADAPTER_FOLDER = "adapter"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PACKAGES = ("comity", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


class Look(Record):
    """What the held-out rows say of a model. Logarithms are natural."""

    rows: int = Field(ge=1, description="How many rows were looked at.")
    loss: float | None = Field(
        None, allow_inf_nan=False, description="SFT: mean loss of a token of the answers."
    )
    margin: float | None = Field(
        None,
        allow_inf_nan=False,
        description="DPO: mean of log p(chosen) - log p(rejected), over whole answers.",
    )
    accuracy: float | None = Field(
        None, ge=0, le=1, description="DPO: share of pairs whose chosen answer is the likelier."
    )


class Run(Record):
    """The record of a training run."""

    kind: Literal["sft", "dpo"] = Field(description="What was done.")
    recipe: dict[str, Any] = Field(description="Every field of the recipe.")
    train: RowFile = Field(description="Rows that were learnt.")
    held_out: RowFile | None = Field(None, description="Rows that were only looked at.")
    adapter_sha256: str = Field("", description="Of the weights of the adapter it went on from.")
    processes: int = Field(1, ge=1, description="Processes that shared each step.")
    versions: dict[str, str] = Field({}, description="Versions of the packages.")
    began: Time = Field(description="When it was first started.")
    resumed: tuple[Time, ...] = Field((), description="When it went on after a cut.")
    finished: OptionalTime = Field(None, description="When it ended; none: it has not.")
    seconds: float = Field(0.0, ge=0, description="Of the training since it last went on.")
    steps: int = Field(0, ge=0, description="Steps that were made.")
    trained_weights: int = Field(0, ge=0, description="Numbers that the adapter learns.")
    dropped: int = Field(0, ge=0, description="Rows left out: their prompt fills `max_length`.")
    before: Look | None = Field(None, description="Held-out rows before the first step.")
    after: Look | None = Field(None, description="Held-out rows after the last one.")


class Begun(NamedTuple):
    """A run that may go: its record, and the checkpoint to go on from."""

    run: Run
    checkpoint: Path | None


def new_run(
    kind: Literal["sft", "dpo"],
    recipe: Record,
    train: RowFile,
    held_out: RowFile | None,
    *,
    adapter_sha256: str = "",
) -> Run:
    """The record of a run that starts now, in as many processes as the launcher has started."""
    return Run(
        kind=kind,
        recipe=recipe.model_dump(mode="json"),
        train=train,
        held_out=held_out,
        adapter_sha256=adapter_sha256,
        processes=int(os.environ.get("WORLD_SIZE", "1")),
        versions=dict(_versions(_PACKAGES)),
        began=datetime.now(UTC),
    )


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def begin(out: Path, run: Run, *, resume: bool) -> Begun:
    """Whether `run` may go in the folder `out`, and from which checkpoint. Writes nothing.

    A folder without a run starts from the beginning. One with the same run that has finished
    gives that run's record, with `finished` set. Raises `TrainingError` for a run that was cut
    off, unless it is to be resumed, and for a folder that holds another run or other things.
    """
    old = read_run(out)
    if old is None:
        if out.exists() and not _is_free(out):
            raise TrainingError(f"{out} holds something else; name a new folder with --out")
        return Begun(run, None)
    _check_same(out, old, run)
    if old.finished is not None:
        return Begun(old, None)
    checkpoint = last_checkpoint(out)
    if not resume:
        where = f"step {_step(checkpoint)}" if checkpoint else "the beginning"
        raise TrainingError(
            f"{out} holds a run that was cut off: the same command with --resume goes on from "
            f"{where}; for another run, name a new folder with --out"
        )
    now = datetime.now(UTC)
    return Begun(old.model_copy(update={"resumed": (*old.resumed, now)}), checkpoint)


def _is_free(out: Path) -> bool:
    return out.is_dir() and all(path.name == f"{RUN_FILE}.part" for path in out.iterdir())


def _check_same(out: Path, old: Run, new: Run) -> None:
    if old.kind != new.kind:
        raise TrainingError(f"{out} holds a run of {old.kind}; name a new folder with --out")
    for name, value in new.recipe.items():
        if old.recipe.get(name) != value:
            raise TrainingError(
                f"{out} holds a run of another recipe: {name} was {old.recipe.get(name)!r}, is "
                f"now {value!r}; name a new folder with --out"
            )
    for what, before, now in (
        ("training rows", _sha256(old.train), _sha256(new.train)),
        ("held-out rows", _sha256(old.held_out), _sha256(new.held_out)),
        ("the adapter it starts from", old.adapter_sha256, new.adapter_sha256),
        ("number of processes", str(old.processes), str(new.processes)),
    ):
        if before != now:
            raise TrainingError(
                f"{out} holds a run on something else: the {what.removeprefix('the ')} changed "
                f"since; name a new folder with --out"
            )


def _sha256(file: RowFile | None) -> str:
    return file.sha256 if file else ""


def read_run(out: Path) -> Run | None:
    """The record of the run in a folder; None where there is none. Raises `TrainingError`."""
    path = out / RUN_FILE
    if not path.is_file():
        return None
    try:
        return Run.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise TrainingError(f"{path}: is no record of a run: {first['msg']}") from error


def write_run(out: Path, run: Run) -> None:
    """Write the record of a run, at once or not at all. Raises `TrainingError`."""
    part = out / f"{RUN_FILE}.part"
    try:
        out.mkdir(parents=True, exist_ok=True)
        part.write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(out / RUN_FILE)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written: {error.strerror}") from error


def last_checkpoint(out: Path) -> Path | None:
    """The last whole checkpoint: its state, which is written last, can be read."""
    found = (path for path in out.glob("checkpoint-*") if _CHECKPOINT.fullmatch(path.name))
    return max((path for path in found if _is_whole(path)), key=_step, default=None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def adapter_folder(path: Path) -> Path:
    """The adapter meant by a path: the folder itself, or that of a run.

    Raises `TrainingError` where there is none, and for a run that has not finished.
    """
    for folder in (path, path / ADAPTER_FOLDER):
        if (folder / "adapter_config.json").is_file():
            return folder
    run = read_run(path)
    why = "its run has not finished" if run and run.finished is None else "it holds none"
    raise TrainingError(f"{path}: no adapter there: {why}")
