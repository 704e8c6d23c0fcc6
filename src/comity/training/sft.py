"""Supervised fine-tuning with TRL: the first step of MetaAlign (arXiv 2410.14184).

Only the last message of each conversation is learnt; what stands before it is its prompt. That
needs no marks in the chat template, so any chat model will do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comity.training.base import Base, load_base
from comity.training.extra import check_extra
from comity.training.folder import Look, Run, begin, new_run
from comity.training.loop import (
    Data,
    Report,
    arguments,
    building,
    dataset,
    finished_already,
    lora,
    quiet,
    read_data,
    train,
)
from comity.training.recipe import SftRecipe
from comity.training.rows import Conversation, as_messages
from comity.training.template import check_template


def train_sft(
    data: Path,
    out: Path,
    recipe: SftRecipe,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> Run:
    """Train a LoRA adapter on `sft.train.jsonl` of the folder `data` into the folder `out`.

    The loss on `sft.eval.jsonl` is measured before and after. A run that has already finished
    there is given as it is; one that was cut off goes on with `resume`. The adapter is in
    `out/adapter`. Raises `TrainingError`, `MissingExtra` and what `load_base` raises.
    """
    check_extra("comity train sft")
    report = report or Report()
    read = read_data(data, "sft", Conversation, report)
    begun = begin(out, new_run("sft", recipe, read.train_file, read.held_out_file), resume=resume)
    if finished_already(begun, out, report):
        return begun.run
    with quiet():
        base = load_base(recipe.base, dtype=recipe.dtype)
        check_template(base.tokenizer, recipe.base)
        return train(_trainer(base, read, out, recipe), begun, out, _look, report)


def _trainer(base: Base, data: Data, out: Path, recipe: SftRecipe) -> Any:
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    class Trainer(SFTTrainer):
        def _send_telemetry(self) -> None:
            """Nobody is told that this runs."""

    held_out = dataset([_row(row) for row in data.held_out])
    fields = arguments(recipe, out, held_out=held_out is not None)
    with building(recipe.base):
        return Trainer(
            model=base.model,
            args=SFTConfig(**fields, completion_only_loss=True),
            train_dataset=dataset([_row(row) for row in data.train]),
            eval_dataset=held_out,
            processing_class=base.tokenizer,
            peft_config=lora(recipe),
        )


def _row(row: Conversation) -> dict[str, Any]:
    return {
        "prompt": as_messages(row.messages[:-1]),
        "completion": as_messages(row.messages[-1:]),
    }


def _look(trainer: Any) -> Look:
    return Look(rows=len(trainer.eval_dataset), loss=trainer.evaluate()["eval_loss"])
