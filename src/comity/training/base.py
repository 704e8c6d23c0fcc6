"""The model that a training run starts from: a Hugging Face folder or name, or a GGUF file."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.errors import ModelError, ModelMissing, SettingsError
from comity.models.pull import DEFAULT_MODEL, model_path
from comity.training.extra import check_extra

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class Base:
    """A model to be trained, in plain (unquantized) weights, and its tokenizer.

    `source` is where it came from, a path or a name on the hub; an adapter that PEFT saves
    carries it as its base, so that `export_adapter` finds the base again.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str


def load_base(name: str, *, dtype: str) -> Base:
    """The model and tokenizer called `name`, its weights as `dtype` (one of `DTYPES`).

    `local` is the default model of `comity models pull`, `local:NAME` another of them or a
    GGUF file; then a path to a GGUF file, to a folder in Hugging Face's form, or a name on the
    hub. A GGUF file's blocks are unpacked, which takes about two bytes for every weight in
    bfloat16, and the model goes on from the rounded weights that the file holds. A tokenizer
    without a token for padding pads with the one that ends a text. Raises `ModelMissing`,
    `ModelError` or `SettingsError` with what to do, `MissingExtra` without the extra `train`.
    """
    if dtype not in DTYPES:
        near = difflib.get_close_matches(dtype, DTYPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(f"unknown dtype {dtype!r}: {hint}known are {', '.join(DTYPES)}")
    source = base_source(name)
    check_extra("training")
    model, tokenizer = _from_gguf(Path(source), dtype) if is_gguf(source) else _load(source, dtype)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        raise ModelError(f"{name} has no chat template; take a model that was tuned for chats")
    return Base(model, tokenizer, source)


def base_source(name: str) -> str:
    """The path or the name on the hub that `name` stands for, checked where it is a path.

    Raises `ModelMissing` for a path without a model and for a local model not yet pulled.
    """
    kind, _, rest = name.partition(":")
    if kind == "local" and not is_gguf(rest):
        return str(model_path(rest or DEFAULT_MODEL))
    path = Path(rest if kind in ("local", "hf") and rest else name).expanduser()
    if is_gguf(str(path)):
        if not path.is_file():
            raise ModelMissing(f"no model file {path}")
        return str(path)
    if path.is_dir():
        return _checked_folder(path)
    if path.is_absolute() or name.startswith(("./", "../", "~")) or str(path).count("/") != 1:
        raise ModelMissing(
            f"no model {name!r}: neither a folder nor a GGUF file, and no name on the hub "
            "(OWNER/NAME); local stands for the model of comity models pull"
        )
    return str(path)


def is_gguf(path: str) -> bool:
    """Whether `path` is the name of a GGUF file."""
    return path.lower().endswith(".gguf")


def _checked_folder(path: Path) -> str:
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        what = "it is an adapter; name its base" if adapter else "it holds no config.json"
        raise ModelMissing(f"{path} is no model in Hugging Face's form: {what}")
    return str(path)


def _from_gguf(path: Path, dtype: str) -> tuple[Any, Any]:
    from transformers import GgufConfig

    # Packed weights, where transformers has kernels for them, cannot be trained on.
    unpacked = GgufConfig(dequantize=True)
    model, tokenizer = _load(
        str(path.parent), dtype, quantization_config=unpacked, gguf_file=path.name
    )
    model.config._name_or_path = model.name_or_path = str(path)
    return model, tokenizer


def _load(
    source: str, dtype: str, *, gguf_file: str | None = None, quantization_config: Any = None
) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    packed: dict[str, Any] = {"quantization_config": quantization_config} if gguf_file else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **file, **packed)
        tokenizer = AutoTokenizer.from_pretrained(source, **file)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        where = os.path.join(source, gguf_file) if gguf_file else source
        said = str(error).strip().splitlines()
        raise ModelError(
            f"{where} cannot be loaded for training: {said[0] if said else type(error).__name__}"
        ) from error
    return model, tokenizer
