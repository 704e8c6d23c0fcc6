"""Direct preference optimisation with TRL: the second step of MetaAlign (arXiv 2410.14184).

It goes on from an adapter of SFT where one is named. That adapter is not merged into the base:
the training goes on with its matrices, and a frozen copy of them is the model that DPO holds on
to. So what comes out is again one adapter on the same base, which vLLM serves beside others and
`comity train export` writes for llama.cpp.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from comity.errors import TrainingError
from comity.training.base import Base, load_base
from comity.training.extra import check_extra
from comity.training.folder import Run, adapter_folder, begin, new_run
from comity.training.held_out import look_at_pairs
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
from comity.training.recipe import DpoRecipe
from comity.training.rows import Pair, as_messages
from comity.training.template import check_template


def train_dpo(
    data: Path,
    out: Path,
    recipe: DpoRecipe,
    *,
    resume: bool = False,
    report: Report | None = None,
) -> Run:
    """Train a LoRA adapter on `dpo.train.jsonl` of the folder `data` into the folder `out`.

    Margin and accuracy on `dpo.eval.jsonl` are measured before and after. A run that has
    already finished there is given as it is; one that was cut off goes on with `resume`. The
    adapter is in `out/adapter`. Raises `TrainingError`, `MissingExtra` and what `load_base`
    raises.
    """
    check_extra("comity train dpo")
    report = report or Report()
    read = read_data(data, "dpo", Pair, report)
    adapter = adapter_folder(Path(recipe.adapter).expanduser()) if recipe.adapter else None
    planned = new_run(
        "dpo",
        recipe,
        read.train_file,
        read.held_out_file,
        adapter_sha256=_sha256(adapter) if adapter else "",
    )
    begun = begin(out, planned, resume=resume)
    if finished_already(begun, out, report):
        return begun.run
    with quiet():
        base = load_base(recipe.base, dtype=recipe.dtype)
        check_template(base.tokenizer, recipe.base)
        if adapter:
            _tell_of_another_base(adapter, base, report)
        trainer = _trainer(base, adapter, read, out, recipe)
        return train(trainer, begun, out, look_at_pairs, report)


def _sha256(adapter: Path) -> str:
    path = adapter / "adapter_model.safetensors"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error


def _tell_of_another_base(adapter: Path, base: Base, report: Report) -> None:
    """An adapter names the base it was trained on; a folder may have moved since."""
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    named = config.get("base_model_name_or_path") or ""
    if named and named != base.source:
        report.tell(f"note: {adapter} was trained on {named}, and goes on now on {base.source}")


def _trainer(base: Base, adapter: Path | None, data: Data, out: Path, recipe: DpoRecipe) -> Any:
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    class Trainer(DPOTrainer):
        def _send_telemetry(self) -> None:
            """Nobody is told that this runs."""

    held_out = dataset([_row(row) for row in data.held_out])
    fields = arguments(recipe, out, held_out=held_out is not None)
    with building(recipe.base):
        return Trainer(
            model=_adapted(base, adapter) if adapter else base.model,
            args=DPOConfig(**fields, beta=recipe.beta, loss_type=[recipe.loss]),
            train_dataset=dataset([_row(row) for row in data.train]),
            eval_dataset=held_out,
            processing_class=base.tokenizer,
            peft_config=None if adapter else lora(recipe),
        )


def _adapted(base: Base, adapter: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base.model, str(adapter), is_trainable=True)
    except RuntimeError as error:
        raise TrainingError(
            f"{adapter} does not fit {base.source}; name the base it was trained on with --base"
        ) from error


def _row(row: Pair) -> dict[str, Any]:
    return {
        "prompt": as_messages(row.prompt),
        "chosen": as_messages(row.chosen),
        "rejected": as_messages(row.rejected),
    }
