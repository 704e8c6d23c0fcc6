"""Chat models on this machine: a folder in Hugging Face's form, run by transformers."""

from __future__ import annotations

import inspect
import math
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from comity.errors import MissingExtra, ModelError, ModelMissing
from comity.models.constrain import JsonSession, constrainer
from comity.models.logits import NextTokens, TokenSession
from comity.models.strands import StrandSession
from comity.models.threads import Stop, from_thread
from comity.models.writing import the_first, written
from comity.records import Message, Reply, Request, Usage


class HuggingFaceModel:
    """The model in the folder `path`, with the PEFT adapter in the folder `adapter`, if any.

    Needs the extra `train`. The folder is loaded at first use, or by `load`. `dtype` is the
    type of the weights: `auto` (as they are kept), `bfloat16`, `float16` or `float32`; `device`
    is one of torch's names, `auto` the first GPU where there is one. An adapter's own
    tokenizer is used where its folder has one. No program that comes with a model is run.

    Prompts are made by the tokenizer's chat template. Above temperature 0, tokens are drawn
    from the whole vocabulary; of the folder's settings for generation only the tokens that end
    an answer are used. With `choices`, each is scored by the log-probability of its whole text,
    and the likeliest is the reply. Requests are worked on side by side, in turn token by token.

    Raises `ModelMissing` where there is no such folder.
    """

    def __init__(
        self,
        path: Path | str,
        adapter: Path | str | None = None,
        *,
        name: str = "",
        dtype: str = "auto",
        device: str = "auto",
    ) -> None:
        self._path = _folder(path, "config.json", "model")
        self._adapter = _folder(adapter, "adapter_config.json", "adapter") if adapter else None
        added = f"+{self._adapter.name}" if self._adapter else ""
        self.name = name or f"hf:{self._path.name}{added}"
        self._dtype, self._device = dtype, device
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    def load(self) -> None:
        """Load the folder now rather than at first use. Blocks for seconds to minutes."""
        self._model()

    def close(self) -> None:
        """Let go of the model's memory; the next use loads it again."""
        with self._lock:
            self._loaded = None

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by the model's own tokenizer; loads the model at first use."""
        return len(self._model().ids(text)) if text else 0

    def open_session(self, prompts: Sequence[tuple[Message, ...]]) -> TokenSession:
        """A session over these prompts; its candidates are the whole vocabulary."""
        return self._session(prompts)

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Give the answer piece by piece, then the `Reply`; see `ChatModel.stream`."""
        if request.choices:
            answer: AsyncGenerator[str | Reply] = from_thread(
                partial(self._choose, request), self.name
            )
        else:
            answer = written(lambda: self._writing(request), the_first, request, self.name)
        async with aclosing(answer) as items:
            async for item in items:
                yield item

    def _writing(self, request: Request) -> TokenSession:
        session = self.open_session([request.messages])
        if request.json_schema is None:
            return session
        loaded = self._model()
        return JsonSession(session, loaded.constrainer, request.json_schema, loaded.end)

    def _choose(self, request: Request, hand: Callable[[str | Reply], None], stop: Stop) -> None:
        session = self._session([request.messages])
        stop.then(session.close)
        scores, count = session.scores(request.choices)
        best = max(scores, key=scores.__getitem__)
        usage = Usage(prompt_tokens=session.prompt_tokens[0], completion_tokens=count)
        hand(best)
        hand(Reply(text=best, model=self.name, usage=usage, choice_logprobs=scores))

    def _session(self, prompts: Sequence[tuple[Message, ...]]) -> StrandSession:
        loaded = self._model()
        return StrandSession(loaded, [loaded.prompt(messages) for messages in prompts])

    def _model(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(
                    self._path, self._adapter, self.name, self._dtype, self._device
                )
            return self._loaded


def _folder(path: Path | str, file: str, what: str) -> Path:
    folder = Path(path).expanduser()
    if (folder / file).is_file():
        return folder
    if folder.is_dir():
        raise ModelMissing(f"{folder} holds no {what}: there is no {file} in it")
    raise ModelMissing(
        f"no folder {folder} with a {what}; for one of the hub: hf download NAME --local-dir FOLDER"
    )


@dataclass(frozen=True)
class _Loaded:
    """A model in memory, and what it takes to use it."""

    name: str
    model: Any
    tokenizer: Any
    context: int
    end: int
    ends: frozenset[int]
    lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def constrainer(self) -> Any:
        return constrainer(self.tokenizer, self.model.config.get_text_config().vocab_size, self.end)

    @cached_property
    def last_only(self) -> dict[str, int]:
        """Asks for the logits of the last token alone, where the model can be asked."""
        known = inspect.signature(self.model.forward).parameters
        return {"logits_to_keep": 1} if "logits_to_keep" in known else {}

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Texts that the tokenizer reads as marks of the template, as that of a turn's end."""
        known = self.tokenizer.added_tokens_decoder.values()
        return tuple(token.content for token in known if token.special and len(token.content) > 1)

    def ids(self, text: str) -> list[int]:
        with self.lock:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def text(self, ids: Sequence[int]) -> str:
        with self.lock:
            return str(
                self.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation, ready for the assistant's turn."""
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{self.name} has no chat template: take a model tuned for chat, or put a "
                "chat_template.jinja into its folder"
            )
        turns = [
            {"role": turn.role, "content": self._without_marks(turn.content)} for turn in messages
        ]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ModelError(
                f"the chat template of {self.name} refuses the conversation: {error}"
            ) from error
        ids = self.ids(text)
        if len(ids) >= self.context:
            raise ModelError(
                f"{self.name} reads {self.context} tokens, the prompt has {len(ids)}; "
                "shorten it, or lower the budget for rules"
            )
        return ids

    def _without_marks(self, text: str) -> str:
        """What somebody says ends no turn and begins none: a blank breaks the marks in it."""
        for mark in self.marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

    def forward(self, ids: Sequence[int], cache: Any) -> tuple[NextTokens, Any]:
        """The candidates after `ids`, which follow what `cache` holds; and the cache."""
        import torch

        try:
            with self.lock, torch.inference_mode():
                result = self.model(
                    input_ids=torch.tensor([ids], device=self.model.device),
                    past_key_values=cache,
                    use_cache=True,
                    **self.last_only,
                )
                logprobs = result.logits[0, -1].float().log_softmax(-1)
                ordered, order = torch.sort(logprobs, descending=True, stable=True)
                candidates = NextTokens(order.cpu().numpy(), ordered.double().cpu().numpy())
        except RuntimeError as error:  # torch's, when memory is short
            raise ModelError(f"{self.name} failed: {_first_line(error)}") from error
        return candidates, result.past_key_values


def _load(path: Path, adapter: Path | None, name: str, dtype: str, device: str) -> _Loaded:
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingExtra("a model in Hugging Face's form", "train") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with _no_progress():
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, local_files_only=True
            )
            if adapter is not None:
                model = _adapted(model, adapter)
            tokenizer: Any = AutoTokenizer.from_pretrained(
                _tokenizer_folder(path, adapter), local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{name} cannot be loaded from {path}: a file is missing or damaged, the adapter is "
            f"another model's, or memory is short ({_first_line(error)})"
        ) from error
    return _ready(name, model.to(device).eval(), tokenizer)


def _ready(name: str, model: Any, tokenizer: Any) -> _Loaded:
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id is not None:
        ends.append(tokenizer.eos_token_id)
    if not ends:
        raise ModelError(
            f"{name} names no token that ends an answer; add eos_token to its tokenizer"
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    limit = min(context, tokenizer.model_max_length)
    return _Loaded(
        name=name,
        model=model,
        tokenizer=tokenizer,
        context=int(limit),
        end=ends[-1],
        ends=frozenset(ends),
    )


def _adapted(model: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("an adapter of PEFT", "train") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        adapted: Any = PeftModel.from_pretrained(model, adapter)
    return adapted.get_base_model()  # the layers it changed stay


def _tokenizer_folder(path: Path, adapter: Path | None) -> Path:
    own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    return adapter if adapter is not None and own else path


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _no_progress() -> Iterator[None]:
    """No bars of transformers on the user's terminal."""
    import transformers

    logging: Any = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
