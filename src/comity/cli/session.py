"""What the commands of one call share: settings, the memory, the model."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from comity.errors import NotFound, StoreError

if TYPE_CHECKING:
    from comity.memory.memory import Memory
    from comity.models.chat import ChatModel
    from comity.settings import Loaded, Settings

_OPTIONS: dict[str, tuple[str, str]] = {
    "memory": (
        "URL",
        "The memory: sqlite:///rules.db, a file's name, or postgresql://USER@HOST/DATABASE.",
    ),
    "tenant": ("NAME", "Whose rules are meant."),
    "author": ("NAME", "Who makes the change."),
    "model": ("NAME", "Chat model: local, openai:MODEL or scripted."),
    "base_url": ("URL", "Address of the OpenAI-compatible endpoint."),
    "timeout": ("SECONDS", "How long the model may stay silent."),
    "embedder": ("NAME", "Embedder: e5, hash, openai:MODEL or fastembed:MODEL."),
    "index": ("NAME", "Index: local, or milvus:http://HOST:19530."),
    "place": ("PLACE", "Place of a question that names none."),
    "hits": ("N", "How many rules a search gives."),
    "relevance": ("SHARE", "Hits after the fourth must score this share of the best one."),
    "budget": ("TOKENS", "Tokens that rules may take in the prompt."),
    "max_tokens": ("N", "Longest answer, in tokens."),
    "temperature": ("T", "Of the model; 0 is greedy."),
    "seed": ("N", "For sampling that can be repeated."),
    "judge": ("NAME", "Model that checks what code cannot; none by default."),
    "judge_timeout": ("SECONDS", "How long the judge may take."),
    "deny_unchecked": ("WHICH", "Unchecked under block rules: withhold failed, any or never."),
    "release": ("MODE", "When text leaves: strict, window or observe."),
    "rounds": ("N", "How often an answer that breaks a rule is rewritten."),
    "infer": ("FROM", "What implicit wishes are inferred from: never, user_info, conversation."),
    "rewrite": ("off|on", "Search also what the model makes of the question; off by default."),
    "samples": ("N", "Answers of which the best is taken; 1 is without refinement."),
    "refine_rounds": ("N", "How often as many are written anew from a critique of these."),
    "max_file_mb": ("MB", "Largest document that is read."),
}
_C = TypeVar("_C", bound=Callable[..., Any])


class Session:
    """Settings are read, and the memory and the model opened, only where a command asks."""

    def __init__(self) -> None:
        self.config: Path | None = None
        self.given: dict[str, str] = {}

    @cached_property
    def loaded(self) -> Loaded:
        """The settings and their sources. Raises `SettingsError`."""
        from comity.settings import load_settings

        return load_settings(config=self.config, environ=os.environ, options=self.given)

    @property
    def settings(self) -> Settings:
        """The settings in effect."""
        return self.loaded.settings

    def open_memory(self, *, create: bool = False, trial: bool = False) -> Memory:
        """The memory, ready to search and change; made where it is not there if `create`.

        On `trial`, one that is not there is an empty one that nothing keeps.
        Raises `NotFound` for a memory that is not there or holds nothing, `StoreError` and
        `EmbedderError`.
        """
        from comity.memory.embed import open_embedder
        from comity.memory.memory import Memory

        if not (create or trial):
            self._check_memory_is_there()
        if trial and not self.has_memory():
            self._check_folder()
        url = self.settings.memory if create or self.has_memory() else "sqlite://"
        embedder = open_embedder(
            self.settings.embedder,
            base_url=self.settings.base_url or None,
            api_key=self.settings.api_key.get_secret_value() or None,
        )
        kept = url == self.settings.memory
        memory = Memory.open(
            url,
            embedder=embedder,
            index=self.settings.index if kept else "local",
            index_token=self.settings.index_token.get_secret_value(),
        )
        return memory if create or trial else self._not_empty(memory)

    def open_book(self) -> Memory:
        """The memory for reading its book of record only: opens no index and no embedder."""
        from comity.memory.embed import HashEmbedder
        from comity.memory.index import LocalIndex
        from comity.memory.memory import Memory
        from comity.memory.open_store import open_store
        from comity.memory.vectors import VectorCache

        self._check_memory_is_there()
        store, embedder, vectors = (
            open_store(self.settings.memory),
            HashEmbedder(1),
            VectorCache(),
        )
        index = LocalIndex(store, embedder, vectors, None)
        return self._not_empty(Memory(store, index, embedder, vectors))

    def open_model(self) -> ChatModel:
        """The chat model. Raises `SettingsError` and `ModelMissing`."""
        return self._open(self.settings.model)

    def open_judge(self, model: ChatModel | None) -> ChatModel | None:
        """The judge of the settings; the chat model itself where it is the same, None for none."""
        name = self.settings.judge
        if name == self.settings.model and model is not None:
            return model
        return self._open(name) if name else None

    def _open(self, name: str) -> ChatModel:
        from comity.models.chat import open_model

        return open_model(
            name,
            base_url=self.settings.base_url or None,
            api_key=self.settings.api_key.get_secret_value() or None,
            timeout=self.settings.timeout,
        )

    def has_memory(self) -> bool:
        """Whether the memory's file is there, whatever it holds."""
        from comity.memory.open_store import is_there

        return is_there(self.settings.memory)

    def _check_memory_is_there(self) -> None:
        if not self.has_memory():
            raise NotFound(
                f"there is no memory at {self.memory_shown}: make one with `comity add FILE`, "
                "or with `comity init` from the sample rules, or name another with --memory"
            )

    def _check_folder(self) -> None:
        from comity.memory.open_store import path_of

        path = path_of(self.settings.memory)
        if path and not path.parent.is_dir():
            raise StoreError(
                f"{path.parent}: there is no such folder to make a memory in: make it, or name "
                "another with --memory"
            )

    def _not_empty(self, memory: Memory) -> Memory:
        if memory.revision == 0:
            memory.close()
            raise NotFound(f"{self.memory_shown} holds no rules yet: comity add FILE")
        return memory

    @property
    def memory_shown(self) -> str:
        """The URL of the memory as it may be told: without a password."""
        from comity.memory.open_store import shown

        return shown(self.settings.memory)


pass_session = click.make_pass_decorator(Session, ensure=True)


def settings_options(*names: str) -> Callable[[_C], _C]:
    """Give a command options for some settings; they go to the session, not to the command."""

    def decorate(command: _C) -> _C:
        for name in reversed(names):
            metavar, text = _OPTIONS[name]
            option = "--" + name.replace("_", "-")
            command = click.option(
                option, name, metavar=metavar, help=text, expose_value=False, callback=_remember
            )(command)
        return command

    return decorate


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None and parameter.name is not None:
        context.ensure_object(Session).given[parameter.name] = value


def remember_config(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Callback of `--config`."""
    if value is not None:
        context.ensure_object(Session).config = value
