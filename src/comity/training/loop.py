"""What SFT and DPO runs have in common: arguments, metrics, looks at held-out rows, the end.

Several processes may share a run (`accelerate launch -m comity train …`): each does its part of
every step, and only the first writes.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from comity.errors import TrainingError
from comity.records import FAMILIES
from comity.training import metrics
from comity.training.folder import ADAPTER_FOLDER, METRICS_FILE, PLOT_FILE, Begun, Look, Run
from comity.training.folder import write_run as write
from comity.training.recipe import Recipe
from comity.training.rows import Row, RowFile, missing_families, read_rows

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped]

T = TypeVar("T", bound=Row)


class Report(NamedTuple):
    """Where a run tells how it goes."""

    tell: Callable[[str], None] = lambda text: None
    progress: Callable[[int, int], None] = lambda done, total: None


class Data(NamedTuple):
    """Rows to learn and rows to look at, with their files."""

    train: Sequence[Any]
    held_out: Sequence[Any]
    train_file: RowFile
    held_out_file: RowFile | None


def read_data(folder: Path, kind: str, row: type[T], report: Report) -> Data:
    """The rows of `KIND.train.jsonl` and, where it is there, `KIND.eval.jsonl` of a folder.

    Tells of families that are missing and of missing held-out rows. Raises `TrainingError`.
    """
    if not folder.is_dir():
        raise TrainingError(f"{folder}: is no folder; comity train data builds one")
    train, train_file = read_rows(folder / f"{kind}.train.jsonl", row)
    if missing := missing_families(train_file.families):
        report.tell(
            f"note: {train_file.path} has no rows of the families {', '.join(missing)}: what "
            f"they teach is not learnt (the families are {', '.join(FAMILIES)})"
        )
    path = folder / f"{kind}.eval.jsonl"
    if not path.exists() or not path.read_bytes().strip():
        report.tell(f"note: no rows in {path}: nothing is measured before and after")
        return Data(train, (), train_file, None)
    held_out, held_out_file = read_rows(path, row)
    return Data(train, held_out, train_file, held_out_file)


def arguments(recipe: Recipe, out: Path, *, held_out: bool) -> dict[str, Any]:
    """The fields of `transformers.TrainingArguments` that a recipe sets.

    Raises `TrainingError` for float16 where there is no accelerator.
    """
    import torch

    on_cpu = not torch.accelerator.is_available()
    if on_cpu and recipe.dtype == "float16":
        raise TrainingError("float16 needs a GPU: train with --dtype bfloat16 or float32 here")
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": recipe.batch,
        "per_device_eval_batch_size": recipe.batch,
        "gradient_accumulation_steps": recipe.accumulate,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "constant_with_warmup"
        if recipe.schedule == "constant"
        else recipe.schedule,
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "max_length": recipe.max_length,
        "activation_checkpointing": recipe.gradient_checkpointing,
        "bf16": recipe.dtype == "bfloat16",
        "fp16": recipe.dtype == "float16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "ddp_find_unused_parameters": False,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "logging_steps": recipe.log_every,
        "logging_first_step": True,
        "save_steps": recipe.save_every,
        "save_total_limit": recipe.keep,
        "eval_strategy": "steps" if recipe.eval_every and held_out else "no",
        "eval_steps": recipe.eval_every or None,
        "report_to": "none",
        "disable_tqdm": True,
    }


def lora(recipe: Recipe) -> Any:
    """The recipe's LoRA as PEFT takes it."""
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type]  # PEFT takes fractions too
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets),
        task_type="CAUSAL_LM",
    )


def dataset(rows: Sequence[Mapping[str, Any]]) -> Dataset | None:
    """Rows as a dataset in memory; None for no rows."""
    from datasets import Dataset

    return Dataset.from_list([dict(row) for row in rows]) if rows else None


@contextmanager
def quiet() -> Iterator[None]:
    """No bars of the libraries, and no warning of one of them to another."""
    from datasets.utils import logging as of_datasets  # type: ignore[import-untyped]
    from transformers.utils import logging as of_transformers

    bars = (of_datasets, of_transformers)
    shown = [each for each in bars if each.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # PEFT and TRL ask transformers by a name that it will drop.
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.*", FutureWarning)
            # A GGUF file has no config beside it, from which PEFT would see a grown vocabulary.
            warnings.filterwarnings("ignore", "Could not find a config file", UserWarning)
            yield
    finally:
        for each in shown:
            each.enable_progress_bar()


@contextmanager
def building(base: str) -> Iterator[None]:
    """While a trainer is made: what it refuses is a `TrainingError`."""
    try:
        yield
    except ValueError as error:
        raise TrainingError(f"{base} cannot be trained so: {error}") from error


def train(
    trainer: Any, begun: Begun, out: Path, look: Callable[[Any], Look], report: Report
) -> Run:
    """Run `trainer` to its end in the folder `out`, and give the record of the run.

    Looks at held-out rows before and after, where there are some. Writes `training.json`,
    `metrics.jsonl`, `metrics.png`, checkpoints and the adapter. Raises `TrainingError` where no
    row is left, memory does not suffice, or the losses become no numbers.
    """
    writes = trainer.accelerator.is_main_process
    report.tell(_outlook(begun))
    lines, run = out / METRICS_FILE, _counted(trainer, begun.run, report)
    # Every process has read the folder before the first one writes into it.
    trainer.accelerator.wait_for_everyone()
    if writes:
        write(out, run)
        metrics.cut_after(lines, _step(begun) if run.before else -1)
    _watch(trainer, lines, report)
    if run.held_out and run.before is None:
        run = run.model_copy(update={"before": _looked(trainer, look, lines)})
        if writes:
            write(out, run)
    started = time.monotonic()
    with _memory_suffices():
        trainer.train(resume_from_checkpoint=str(begun.checkpoint) if begun.checkpoint else None)
    seconds = round(time.monotonic() - started, 1)
    after = _looked(trainer, look, lines) if run.held_out else None
    _save_adapter(trainer, out / ADAPTER_FOLDER)
    end = {"finished": datetime.now(UTC), "seconds": seconds, "after": after}
    run = run.model_copy(update={**end, "steps": trainer.state.global_step})
    if writes:
        metrics.plot(out / PLOT_FILE, metrics.read_lines(lines), f"{run.kind} of {_base(run)}")
        write(out, run)
    trainer.accelerator.wait_for_everyone()
    return run


def finished_already(begun: Begun, out: Path, report: Report) -> bool:
    """Whether the folder holds this very run at its end; tells so."""
    if begun.run.finished is None:
        return False
    report.tell(f"note: {out} holds this very run, and it has finished: nothing is done again")
    return True


def _outlook(begun: Begun) -> str:
    if begun.checkpoint:
        return f"goes on from step {_step(begun)}"
    every = begun.run.recipe["save_every"]
    return f"a checkpoint every {every} steps; if cut off, the same command with --resume goes on"


def _base(run: Run) -> str:
    return Path(str(run.recipe["base"])).name


def _step(begun: Begun) -> int:
    return int(begun.checkpoint.name.rpartition("-")[2]) if begun.checkpoint else 0


def _counted(trainer: Any, run: Run, report: Report) -> Run:
    left, longest = len(trainer.train_dataset), trainer.args.max_length
    if not left or (run.held_out and not len(trainer.eval_dataset)):
        file = run.train if not left else run.held_out
        raise TrainingError(
            f"{file.path if file else ''}: the prompt of every row fills {longest} tokens: raise "
            "--max-length"
        )
    if dropped := run.train.rows - left:
        report.tell(f"note: {dropped} rows left out: their prompts fill {longest} tokens")
    weights = sum(each.numel() for each in trainer.model.parameters() if each.requires_grad)
    return run.model_copy(update={"trained_weights": weights, "dropped": dropped})


def _looked(trainer: Any, look: Callable[[Any], Look], lines: Path) -> Look:
    found = look(trainer)
    told = {f"held_out_{name}": value for name, value in found.model_dump(exclude={"rows"}).items()}
    if trainer.accelerator.is_main_process:
        metrics.add_line(lines, trainer.state.global_step, told)
    return found


def _watch(trainer: Any, lines: Path, report: Report) -> None:
    """Have the trainer write its metrics and tell its progress, and print nothing itself."""
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    class Watch(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any
        ) -> None:
            if state.is_world_process_zero and logs:
                metrics.add_line(lines, state.global_step, logs)

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            report.progress(state.global_step, state.max_steps)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Watch())


@contextmanager
def _memory_suffices() -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "the device's memory does not suffice: lower --batch (and raise --accumulate), "
            "lower --max-length, or add --gradient-checkpointing"
        ) from error


def _save_adapter(trainer: Any, folder: Path) -> None:
    """Save the adapter alone: not the copy that DPO measured against, nor a pickle."""
    trainer.save_model(str(folder))
    if trainer.accelerator.is_main_process:
        (folder / "training_args.bin").unlink(missing_ok=True)
        if (folder / "ref").is_dir():
            shutil.rmtree(folder / "ref")
