"""A chat model of some thousand weights in Hugging Face's form, made for tests.

It knows nothing, yet loads wherever a real one does: `AutoModelForCausalLM`, `AutoTokenizer`,
TRL, PEFT. Needs the extra `train`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

BOS, START, END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"

_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SENTENCES = (
    "Dogs must be kept on a lead in the park. Shops must close by eight in the evening.",
    "Say hello. Yes. No. Which is a colour? A: red, B: seven. One letter.",
    "Be brief. Answer in one sentence, please, and tell me what the rules in force say.",
    "公园内遛犬应当使用牵引绳。请用一句话回答。",
)


def tiny_model(
    folder: Path,
    *,
    kind: Literal["qwen2", "llama"] = "qwen2",
    seed: int = 0,
    spread: float = 0.02,
    context: int = 1024,
    vocabulary: int = 400,
) -> Path:
    """Write a model and its tokenizer into `folder`, and return it. The same each time.

    Hidden size 32, two layers, four heads of which two keep keys; a byte-level tokenizer of at
    most `vocabulary` tokens with a ChatML template, `bos`, `eos` (ends a turn) and `pad`.
    `spread` is the standard deviation of the weights: at 0.02 all tokens are about equally
    likely; at 0.5 the model has firm, senseless opinions that hang on its prompt.
    """
    import torch
    import transformers

    tokenizer = tiny_tokenizer(vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        auto: Any = transformers.AutoModelForCausalLM
        model = auto.from_config(_config(kind, tokenizer, spread, context))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_adapter(base: Path, folder: Path, *, seed: int = 1, size: float = 0.5) -> Path:
    """Write a LoRA adapter for `base` into `folder` that changes what it says; return it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        adapted: Any = get_peft_model(model, config)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=random) * size)
    adapted.save_pretrained(folder)
    return folder


def tiny_tokenizer(vocabulary: int = 400) -> Any:
    """The tokenizer of a tiny model, a `PreTrainedTokenizerFast`."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, START, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_SENTENCES, trainer)
    fast: Any = transformers.PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=inner, bos_token=BOS, eos_token=END, pad_token=PAD)
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _config(kind: str, tokenizer: Any, spread: float, context: int) -> Any:
    from transformers import LlamaConfig, Qwen2Config

    return {"qwen2": Qwen2Config, "llama": LlamaConfig}[kind](
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=spread,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
