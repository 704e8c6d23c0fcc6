"""A trained adapter in the form of llama.cpp: from PEFT's folder to a GGUF file."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.errors import ModelError, ModelMissing
from comity.training.base import base_source, is_gguf
from comity.training.extra import check_extra

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

# The name of a layer's matrix in Hugging Face's form, and in a GGUF file.
_MATRICES: Mapping[str, str] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ARCHITECTURES = ("llama", "qwen2")
_IN_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)\.(.+)")
_PART = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")
# What PEFT can do to a layer and llama.cpp cannot, with the setting that does without it.
_UNKNOWN_THERE: Mapping[str, object] = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
}


@dataclass(frozen=True)
class _Shape:
    """What of the base decides the form of its adapters."""

    architecture: str
    heads: int
    key_heads: int


def export_adapter(adapter: Path, out: Path, *, base: str | None = None) -> Path:
    """Write the LoRA adapter in the folder `adapter` as the GGUF file `out`, and return it.

    The folder is as PEFT saves it: `adapter_config.json` and `adapter_model.safetensors`.
    `base` is the model that it was trained on, as `load_base` takes it; by default the one
    that the adapter names. Only the base's configuration is read, not its weights. For models
    of the architectures llama and qwen2; the weights stay in float32, so that nothing is
    rounded. `LocalModel(path, adapter=out)` then uses it with any quantization of the base.

    Raises `ModelMissing` where the adapter or its base is not there, and `ModelError` for an
    adapter or a base that llama.cpp has no form for. `out` appears whole or not at all.
    """
    check_extra("exporting an adapter")
    config = _config(adapter)
    shape = _shape(base or config.get("base_model_name_or_path") or "", adapter)
    tensors = dict(_tensors(adapter, shape))
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(partial, shape, _alpha(config), tensors)
        os.replace(partial, out)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise ModelError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def _config(adapter: Path) -> dict[str, Any]:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise ModelMissing(
                f"{adapter} is no adapter as PEFT saves it: it holds no {name}; name the folder "
                "that comity train wrote"
            )
    try:
        config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{adapter}/adapter_config.json is no JSON: {error}") from error
    if config.get("peft_type") != "LORA":
        raise ModelError(f"{adapter} is {config.get('peft_type')}; only LORA can be exported")
    for name, without in _UNKNOWN_THERE.items():
        if (config.get(name) or without) != without:
            raise ModelError(
                f"{adapter} was trained with {name}={config[name]!r}, for which llama.cpp's "
                f"adapters have no form; train with {name}={without!r}"
            )
    return config


def _alpha(config: Mapping[str, Any]) -> float:
    """Alpha as llama.cpp means it, which scales by alpha / rank."""
    alpha = float(config["lora_alpha"])
    # Rank-stabilized adapters (arXiv 2312.03732) scale by alpha / sqrt(rank).
    return alpha * math.sqrt(config["r"]) if config.get("use_rslora") else alpha


def _shape(base: str, adapter: Path) -> _Shape:
    if not base:
        raise ModelError(
            f"{adapter} does not name the model it was trained on: write its path as "
            "base_model_name_or_path into adapter_config.json"
        )
    try:
        source = base_source(base)
    except ModelMissing as error:
        raise ModelMissing(
            f"the base of {adapter}: {error}. Where it has moved, write its new path as "
            "base_model_name_or_path into adapter_config.json"
        ) from error
    found = _gguf_shape(Path(source)) if is_gguf(source) else _folder_shape(source)
    if found.architecture not in _ARCHITECTURES:
        raise ModelError(
            f"{source} is of the architecture {found.architecture}; adapters can be exported "
            f"for {' and '.join(_ARCHITECTURES)}"
        )
    return found


def _folder_shape(source: str) -> _Shape:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise ModelError(f"the configuration of {source} cannot be read: {said}") from error
    heads = getattr(config, "num_attention_heads", 0)
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    return _Shape(config.model_type, heads, key_heads)


def _gguf_shape(path: Path) -> _Shape:
    from gguf import GGUFReader

    try:
        fields = GGUFReader(path).fields
    except (ValueError, IndexError) as error:
        raise ModelError(f"{path} is no GGUF file, or is damaged: {error}") from error
    architecture = str(fields["general.architecture"].contents())
    heads = fields[f"{architecture}.attention.head_count"].contents()
    key_heads = fields.get(f"{architecture}.attention.head_count_kv")
    return _Shape(architecture, heads, key_heads.contents() if key_heads else heads)


def _tensors(adapter: Path, shape: _Shape) -> Iterator[tuple[str, Matrix]]:
    """The adapter's matrices under llama.cpp's names: `lora_a` of shape (rank, in), `lora_b`
    of shape (out, rank)."""
    for name, matrix in _read(adapter / "adapter_model.safetensors"):
        part = _PART.fullmatch(name)
        ours = part and _name(part[1])
        if not part or not ours:
            raise ModelError(
                f"{adapter} changes {name}, for which a GGUF adapter has no name; train with "
                f"target modules among {', '.join(n.rpartition('.')[2] for n in _MATRICES)}"
            )
        if part[2] == "B" and shape.architecture == "llama":
            matrix = _turned(matrix, ours, shape)
        yield f"{ours}.weight.lora_{part[2].lower()}", matrix


def _name(module: str) -> str | None:
    if module == "lm_head":
        return "output"
    layer = _IN_LAYER.fullmatch(module)
    ours = layer and _MATRICES.get(layer[2])
    return f"blk.{layer[1]}.{ours}" if layer and ours else None


def _read(path: Path) -> Iterator[tuple[str, Matrix]]:
    from safetensors import SafetensorError, safe_open

    try:
        # By way of torch, since numpy knows no bfloat16.
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name).float().numpy()
    except SafetensorError as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _turned(matrix: Matrix, name: str, shape: _Shape) -> Matrix:
    """Rows of queries and keys in llama.cpp's order for its architecture llama.

    The position turns pairs of rows. In Hugging Face's form a pair stands half a head apart,
    there next to one another.
    """
    heads = {"attn_q": shape.heads, "attn_k": shape.key_heads}.get(name.rpartition(".")[2])
    if heads is None:
        return matrix
    pairs = matrix.reshape(heads, 2, -1, matrix.shape[1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


def _write(path: Path, shape: _Shape, alpha: float, tensors: Mapping[str, Matrix]) -> None:
    from gguf import GGUFType, GGUFWriter, Keys

    writer = GGUFWriter(path, shape.architecture)
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, alpha)
    for name, matrix in tensors.items():
        writer.add_tensor(name, matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
