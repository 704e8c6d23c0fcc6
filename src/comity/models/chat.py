"""The protocol of chat models, and the table from which one is opened by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from comity.errors import ModelNonsense, SettingsError
from comity.records import Reply, Request

# The seconds a model may stay silent. A long prompt on two cores is read at some 40 tokens a
# second, hence the larger figure for a model on this machine.
REMOTE_TIMEOUT = 120.0
LOCAL_TIMEOUT = 300.0

# Scripts written without spaces: one character is often one token or more.
_DENSE = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\uff00-\uffef]+"
)


@runtime_checkable
class ChatModel(Protocol):
    """What answers a conversation.

    `stream` gives the pieces of the text as they come and, as its very last item, the whole
    `Reply`; the pieces joined are the reply's text. It raises `ModelError` (or `ModelMissing`,
    `ModelTimeout`, `ModelNonsense`) when the answer fails or is cut short, never a shorter
    answer; pieces given before that must then be thrown away. A stream that is closed or
    cancelled stops the model's work. Several streams may be open at once.

    With `choices`, the reply's text is one of them, and `choice_logprobs` holds the natural
    log-probability of each, `None` where the model does not tell.
    """

    @property
    def name(self) -> str:
        """Name for decision records: `openai:gpt-4o-mini`, `local:…`."""

    def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Answer `request`: pieces of text, then the `Reply`."""

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`: exact where the model's tokenizer is at hand, else not too few."""


async def complete(model: ChatModel, request: Request) -> Reply:
    """The model's whole reply. Raises what the model's stream raises."""
    reply: Reply | None = None
    async for item in model.stream(request):
        if isinstance(item, Reply):
            reply = item
    if reply is None:
        raise ModelNonsense(f"{model.name} ended its answer without a reply; report this as a bug")
    return reply


def estimate_tokens(text: str) -> int:
    """Tokens of `text`, estimated on the safe side where no tokenizer is at hand.

    Chinese, Japanese, Korean, Thai and other scripts without spaces count 1.5 tokens a
    character, ASCII one token for every three characters, and the other scripts one a
    character. Tokenizers of the last years need fewer: for Chinese about 0.7 a character, for
    English one for four characters.
    """
    dense = sum(map(len, _DENSE.findall(text)))
    ascii_ = len(text.encode("ascii", "ignore"))
    others = len(text) - dense - ascii_
    return -(-dense * 3 // 2) + -(-ascii_ // 3) + others


def open_model(
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout: float | None = None,
) -> ChatModel:
    """The chat model called `name`.

    `local` is the default model of `comity models pull`; `local:NAME` another of them, or the
    path of a GGUF file; `+ADAPTER.gguf` behind either puts a trained adapter to it, as in
    `local+ADAPTER.gguf`. `openai:MODEL` is a model behind an OpenAI-compatible endpoint, at
    `base_url` (by default `OPENAI_BASE_URL`, else OpenAI) with `api_key` (by default
    `OPENAI_API_KEY`). `scripted` is the fake of the tests and examples, which repeats the
    question. `hf:FOLDER` is a model in Hugging Face's form, `hf:FOLDER+ADAPTER` with the PEFT
    adapter in another folder. `timeout` is the longest silence in seconds. Raises
    `SettingsError` for an unknown name and `ModelMissing` for a local model that is not there.
    """
    kind, _, rest = name.partition(":")
    if name.startswith("local+"):
        kind, rest = "local", name.removeprefix("local")
    openers: Mapping[str, Callable[[], ChatModel]] = {
        "local": lambda: _open_local(rest, timeout or LOCAL_TIMEOUT),
        "openai": lambda: _open_openai(rest, base_url, api_key, timeout or REMOTE_TIMEOUT),
        "hf": lambda: _open_huggingface(rest),
        "scripted": _open_scripted,
    }
    if kind not in openers:
        near = difflib.get_close_matches(kind.lower(), openers, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(
            f"unknown model {name!r}: {hint}known are local, local:NAME, hf:FOLDER, openai:MODEL "
            "and scripted"
        )
    return openers[kind]()


def _open_local(name: str, timeout: float) -> ChatModel:
    from comity.models.local import LocalModel
    from comity.models.pull import DEFAULT_MODEL, model_path

    name, adapter = _with_adapter(name)
    if name.endswith(".gguf"):
        return LocalModel(Path(name).expanduser(), adapter=adapter, timeout=timeout)
    name = name or DEFAULT_MODEL
    path = model_path(name)
    return LocalModel(path, adapter=adapter, name=f"local:{name}", timeout=timeout)


def _with_adapter(name: str) -> tuple[str, Path | None]:
    """The model of MODEL+ADAPTER.gguf, and the adapter; a file may have a + in its own name."""
    if Path(name).expanduser().is_file():
        return name, None
    model, mark, adapter = name.partition(".gguf+")
    if mark:
        return f"{model}.gguf", Path(adapter).expanduser()
    model, mark, adapter = name.partition("+")
    return (model, Path(adapter).expanduser()) if mark and "/" not in model else (name, None)


def _open_openai(
    model: str, base_url: str | None, api_key: str | None, timeout: float
) -> ChatModel:
    from comity.models.openai import OpenAIModel

    if not model:
        raise SettingsError("openai: needs the model's name, as in openai:gpt-4o-mini")
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
    api_key = api_key or os.environ.get("OPENAI_API_KEY") or None
    return OpenAIModel(model, base_url=base_url, api_key=api_key, timeout=timeout)


def _open_huggingface(path: str) -> ChatModel:
    from comity.models.huggingface import HuggingFaceModel

    if not path:
        raise SettingsError("hf: needs the model's folder, as in hf:models/qwen")
    base, adapter = _split_folders(path)
    return HuggingFaceModel(base, adapter or None)


def _split_folders(path: str) -> tuple[str, str]:
    """`FOLDER+ADAPTER` in two, at the last plus behind a folder; a folder may hold one itself."""
    parts = path.split("+")
    for at in range(len(parts), 0, -1):
        base, adapter = "+".join(parts[:at]), "+".join(parts[at:])
        if Path(base).expanduser().is_dir():
            return base, adapter
    return path, ""


def _open_scripted() -> ChatModel:
    from comity.models.scripted import ScriptedModel

    return ScriptedModel(lambda request: request.messages[-1].content)
