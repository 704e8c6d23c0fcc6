"""The model that a training run starts from, in each form it may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.errors import ModelError, ModelMissing, SettingsError
from comity.training.base import base_source, load_base

pytest.importorskip("torch", reason="needs the extra train")

from tiny_gguf import write_gguf
from tiny_model import tiny_adapter, tiny_model


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_gguf_file_gives_the_model_and_the_tokens_of_the_folder_it_was_made_of(
    tmp_path: Path, kind: str
) -> None:
    import torch

    folder = tiny_model(tmp_path / "tiny", kind=kind, spread=0.3)  # type: ignore[arg-type]
    file = write_gguf(folder, tmp_path / "tiny.gguf")
    ours, packed = load_base(str(folder), dtype="float32"), load_base(str(file), dtype="float32")
    text = "<|im_start|>user\nSay hello. 请用一句话回答。<|im_end|>\n"
    ids = ours.tokenizer(text)["input_ids"]
    assert packed.tokenizer(text)["input_ids"] == ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        assert torch.equal(ours.model(tokens).logits, packed.model(tokens).logits)
    assert packed.source == packed.model.name_or_path == str(file)
    assert packed.tokenizer.chat_template == ours.tokenizer.chat_template


def test_weights_from_a_gguf_file_can_be_trained(tmp_path: Path) -> None:
    import torch

    file = write_gguf(tiny_model(tmp_path / "tiny"), tmp_path / "tiny.gguf")
    base = load_base(str(file), dtype="bfloat16")
    assert {weight.dtype for weight in base.model.parameters()} == {torch.bfloat16}
    assert not getattr(base.model, "is_quantized", False)
    assert getattr(base.model, "hf_quantizer", None) is None
    tokens = torch.tensor([[5, 6, 7]])
    base.model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(weight.grad is not None for weight in base.model.parameters())


def test_a_tokenizer_without_padding_pads_with_the_end_of_a_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tiny_model(tmp_path / "tiny")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    loaded = load_base(str(folder), dtype="float32").tokenizer
    assert loaded.pad_token == loaded.eos_token == "<|im_end|>"


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_base(str(folder), dtype="float32")


def test_a_damaged_file_says_which(tmp_path: Path) -> None:
    file = tmp_path / "junk.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelError, match=r"junk\.gguf cannot be loaded for training"):
        load_base(str(file), dtype="float32")


def test_an_unknown_dtype_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(SettingsError, match="did you mean 'bfloat16'"):
        load_base("nothing", dtype="bfloat")


@pytest.mark.parametrize("name", ["none.gguf", "local:none.gguf", "./none", "/none/at/all", "none"])
def test_a_path_with_nothing_there_is_missing(name: str) -> None:
    with pytest.raises(ModelMissing, match="none"):
        base_source(name)


def test_a_name_on_the_hub_stays_what_it_is() -> None:
    assert base_source("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"


def test_a_folder_without_a_model_is_missing_and_an_adapter_names_what_it_lacks(
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelMissing, match=r"holds no config\.json"):
        base_source(str(tmp_path))
    adapter = tiny_adapter(tiny_model(tmp_path / "tiny"), tmp_path / "adapter")
    with pytest.raises(ModelMissing, match="it is an adapter"):
        base_source(str(adapter))


def test_hf_before_a_folder_is_allowed_as_in_the_names_of_models(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    assert base_source(f"hf:{folder}") == base_source(str(folder)) == str(folder)
