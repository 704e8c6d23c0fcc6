"""What a training run is told: one frozen record for SFT, one for DPO, from a file and options.

MetaAlign (arXiv 2410.14184) published no hyper-parameters: every default here is our own choice,
for LoRA on models of 1 to 13 billion weights.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from comity.errors import TrainingError
from comity.records import Record


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""Names as a tuple; one string is split at its commas."""


class Recipe(Record):
    """What SFT and DPO have in common."""

    base: str = Field(
        "local",
        min_length=1,
        description="Model to start from: local, a GGUF file, a folder or a name on the hub.",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="Of the base's weights: bfloat16, float16 or float32."
    )
    rank: int = Field(16, ge=1, description="Rank of the LoRA matrices.")
    alpha: float = Field(32, gt=0, description="LoRA's scale: what is learnt counts alpha/rank.")
    dropout: float = Field(0.05, ge=0, lt=1, description="Share of LoRA's inputs left out in SFT.")
    targets: Names = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Layers that get LoRA matrices, by the ends of their names, with commas.",
    )
    epochs: float = Field(1.0, gt=0, description="How often every row is seen.")
    max_steps: int = Field(0, ge=0, description="Ends after so many steps; 0: after the epochs.")
    learning_rate: float = Field(1e-4, gt=0, description="Highest rate of AdamW.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="How the rate falls after the warm-up: linear, cosine or constant."
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which it rises.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    batch: int = Field(4, ge=1, description="Rows that one process sees at once.")
    accumulate: int = Field(4, ge=1, description="Batches in one step.")
    max_length: int = Field(2048, ge=16, description="Longest row in tokens; longer ones are cut.")
    gradient_checkpointing: bool = Field(
        False, description="Take less memory for activations and about a third more time."
    )
    seed: int = Field(0, ge=0, description="Of the matrices, the order of the rows and dropout.")
    log_every: int = Field(10, ge=1, description="Steps between two lines of metrics.")
    save_every: int = Field(100, ge=1, description="Steps between two checkpoints.")
    keep: int = Field(2, ge=1, description="Checkpoints that are kept.")
    eval_every: int = Field(
        0, ge=0, description="Steps between two looks at the held-out rows; 0: before and after."
    )


class SftRecipe(Recipe):
    """Supervised fine-tuning: the model learns to give the answers of conversations."""

    epochs: float = Field(2.0, gt=0, description="How often every row is seen.")


class DpoRecipe(Recipe):
    """Direct preference optimisation (arXiv 2305.18290): chosen answers against rejected ones."""

    adapter: str = Field(
        "", description="Adapter or run of SFT to go on from, which is then the reference too."
    )
    learning_rate: float = Field(1e-5, gt=0, description="Highest rate of AdamW.")
    batch: int = Field(2, ge=1, description="Pairs that one process sees at once.")
    accumulate: int = Field(8, ge=1, description="Batches in one step.")
    beta: float = Field(
        0.1, gt=0, description="How strongly the model is held to the one it starts from."
    )
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid", description="Loss on the margin: sigmoid (DPO), ipo (2310.12036) or hinge."
    )


RECIPES: Mapping[str, type[Recipe]] = {"sft": SftRecipe, "dpo": DpoRecipe}
R = TypeVar("R", bound=Recipe)


def load_recipe(
    kind: type[R], *, file: Path | None = None, options: Mapping[str, Any] | None = None
) -> R:
    """The recipe of a TOML file and of options, which win.

    Raises `TrainingError`, naming file or option, for an unknown key (with what was meant), a
    value that cannot be used and a file that cannot be read.
    """
    given = {} if file is None else _from_file(kind, file)
    sources = {name: f"{file}: {name}" for name in given}
    for name, value in (options or {}).items():
        given[name], sources[name] = value, f"option --{name.replace('_', '-')}"
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0])
        raise TrainingError(
            f"{sources.get(name, name)}: {problem['msg']} (given {str(problem['input'])[:60]!r})"
        ) from error


def _from_file(kind: type[Recipe], file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainingError(f"{file}: is no valid TOML: {error}") from error
    for name in content:
        if name not in kind.model_fields:
            raise TrainingError(f"{file}: unknown key {name!r}: {_hint(name, kind)}")
    return content


def _hint(name: str, kind: type[Recipe]) -> str:
    near = get_close_matches(name.lower(), kind.model_fields, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known are {', '.join(kind.model_fields)}"
