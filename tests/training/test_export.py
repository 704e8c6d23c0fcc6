"""Adapters in llama.cpp's form: what is written, and that llama.cpp says what torch says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comity.errors import ModelError, ModelMissing
from comity.models.local import LocalModel
from comity.records import Message
from comity.training.base import load_base
from comity.training.export import export_adapter

pytest.importorskip("torch", reason="needs the extra train")

from tiny_gguf import write_gguf
from tiny_model import tiny_adapter, tiny_model

QUESTION = (Message(role="user", content="Say hello."),)
ALL_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapted(base: Path, folder: Path, **config: Any) -> Path:
    """A LoRA adapter for `base` whose matrices are all away from zero."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ALL_LAYERS,
        "task_type": "CAUSAL_LM",
    }
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(**settings | config)
    )
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=random) * 0.3)
    model.save_pretrained(folder)
    return folder


def by_torch(base: Path, adapter: Path | None) -> np.ndarray[Any, Any]:
    """Log-probabilities of the whole vocabulary after the question."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    ids = tokenizer.apply_chat_template(
        [turn.model_dump() for turn in QUESTION],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        logits = model(ids["input_ids"]).logits[0, -1]
    scores: np.ndarray[Any, Any] = torch.log_softmax(logits, -1).numpy()
    return scores


def by_llama_cpp(base: Path, adapter: Path | None) -> np.ndarray[Any, Any]:
    model = LocalModel(base, adapter=adapter, context=256, threads=1, repeatable=True)
    session = model.open_session([QUESTION])
    told = session.next()[0]
    session.close()
    model.close()
    scores = np.full(len(told.ids), np.nan)
    scores[told.ids] = told.logprobs
    return scores


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("stabilized", [False, True])
def test_llama_cpp_says_what_torch_says(tmp_path: Path, kind: Any, stabilized: bool) -> None:
    pytest.importorskip("xllamacpp", reason="needs the extra local")
    base = tiny_model(tmp_path / "base", kind=kind, spread=0.3)
    file = write_gguf(base, tmp_path / "base.gguf")
    adapter = adapted(base, tmp_path / "adapter", use_rslora=stabilized)
    out = export_adapter(adapter, tmp_path / "adapter.gguf")
    plain, changed = by_torch(base, None), by_torch(base, adapter)
    assert np.abs(plain - changed).max() > 1
    assert np.abs(by_llama_cpp(file, None) - plain).max() < 0.05
    assert np.abs(by_llama_cpp(file, out) - changed).max() < 0.05


def test_the_file_holds_the_matrices_under_llama_cpps_names(tmp_path: Path) -> None:
    from gguf import GGUFReader
    from safetensors.numpy import load_file

    base = tiny_model(tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "adapter")
    reader = GGUFReader(export_adapter(adapter, tmp_path / "new" / "adapter.gguf"))
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert said["general.type"] == "adapter"
    assert said["general.architecture"] == "qwen2"
    assert said["adapter.type"] == "lora"
    assert said["adapter.lora.alpha"] == 8
    trained = load_file(adapter / "adapter_model.safetensors")
    written = {tensor.name: tensor.data for tensor in reader.tensors}
    assert set(written) == {
        f"blk.{layer}.attn_{matrix}.weight.lora_{part}"
        for layer in (0, 1)
        for matrix in "qv"
        for part in "ab"
    }
    module = "base_model.model.model.layers.1.self_attn.v_proj"
    for part in "ab":
        theirs = written[f"blk.1.attn_v.weight.lora_{part}"]
        assert np.array_equal(theirs, trained[f"{module}.lora_{part.upper()}.weight"])


def test_a_base_that_is_a_gguf_file_tells_its_shape(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", kind="llama")
    adapter = tiny_adapter(base, tmp_path / "adapter")
    file = write_gguf(base, tmp_path / "base.gguf")
    of_folder = export_adapter(adapter, tmp_path / "a.gguf")
    of_file = export_adapter(adapter, tmp_path / "b.gguf", base=str(file))
    assert of_folder.read_bytes() == of_file.read_bytes()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file in .*gguf:UserWarning")
def test_an_adapter_trained_on_a_gguf_file_finds_its_base_again(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    file = write_gguf(tiny_model(tmp_path / "base", kind="llama"), tmp_path / "base.gguf")
    base = load_base(str(file), dtype="bfloat16")
    trained: Any = get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM"))
    trained.save_pretrained(tmp_path / "adapter")
    out = export_adapter(tmp_path / "adapter", tmp_path / "adapter.gguf")
    assert out.stat().st_size > 0
    file.unlink()
    with pytest.raises(ModelMissing, match=r"no model file .*base\.gguf"):
        export_adapter(tmp_path / "adapter", tmp_path / "adapter.gguf")


def test_an_adapter_that_llama_cpp_has_no_form_for_is_refused(tmp_path: Path) -> None:
    adapter = tiny_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")
    changed(adapter, use_dora=True)
    with pytest.raises(ModelError, match=r"use_dora=True.*train with use_dora=False"):
        export_adapter(adapter, tmp_path / "out.gguf")
    changed(adapter, use_dora=False, peft_type="IA3")
    with pytest.raises(ModelError, match="only LORA"):
        export_adapter(adapter, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    adapter = tiny_adapter(base, tmp_path / "adapter")
    config = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}), "utf-8")
    with pytest.raises(ModelError, match=r"architecture gpt2; .* for llama and qwen2"):
        export_adapter(adapter, tmp_path / "out.gguf")


def test_an_adapter_of_embeddings_is_refused_with_what_to_train_instead(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    adapter = tiny_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    odd = {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((4, 8), np.float32)}
    save_file(load_file(weights) | odd, weights)
    with pytest.raises(ModelError, match=r"embed_tokens.*target modules among q_proj, "):
        export_adapter(adapter, tmp_path / "out.gguf")


def test_a_folder_without_an_adapter_and_an_adapter_without_a_base_say_so(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"no adapter as PEFT saves it.*adapter_config\.json"):
        export_adapter(tmp_path, tmp_path / "out.gguf")
    adapter = tiny_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")
    changed(adapter, base_model_name_or_path=None)
    with pytest.raises(ModelError, match="write its path as base_model_name_or_path"):
        export_adapter(adapter, tmp_path / "out.gguf")
    changed(adapter, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(ModelMissing, match=r"gone.*write its new path as base_model_name_or_path"):
        export_adapter(adapter, tmp_path / "out.gguf")


def test_weights_that_were_cut_off_say_so_and_leave_no_file(tmp_path: Path) -> None:
    adapter = tiny_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors cannot be read"):
        export_adapter(adapter, tmp_path / "out.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    adapter = tiny_adapter(tiny_model(tmp_path / "base"), tmp_path / "adapter")
    taken = tmp_path / "taken"
    taken.write_text("a file, no folder")
    with pytest.raises(ModelError, match=r"cannot write .*taken/out\.gguf"):
        export_adapter(adapter, taken / "out.gguf")


def changed(adapter: Path, **values: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")
