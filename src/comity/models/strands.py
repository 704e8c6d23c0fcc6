"""Sessions of a model that reads tokens one stretch after another and keeps what it has read."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from comity.errors import ModelError
from comity.models.logits import NextTokens

# Tokens of a prompt that are read between two looks at whether the answer is still wanted.
_PIECE = 256


class Reader(Protocol):
    """A model and its tokenizer, as sessions need them. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, with nothing added."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, without marks of the template."""

    def forward(self, ids: Sequence[int], cache: Any) -> tuple[NextTokens, Any]:
        """The candidates after `ids`, which follow what `cache` holds, and the cache then.

        `cache` is None at the beginning, and may be changed; a deep copy of it is a second one.
        """


class _Strand:
    """One prompt of a session, and what was read of it."""

    def __init__(self, reader: Reader, ids: Sequence[int]) -> None:
        self._reader, self._waiting = reader, list(ids)
        self._cache: Any = None
        self._next: NextTokens | None = None

    def push(self, token_id: int) -> None:
        self._waiting.append(token_id)

    def next(self, look: Callable[[], None]) -> NextTokens:
        """The candidates; `look`, called before each piece that is read, may raise."""
        while self._waiting or self._next is None:
            look()
            piece = self._waiting[:_PIECE]
            self._next, self._cache = self._reader.forward(piece, self._cache)
            self._waiting = self._waiting[_PIECE:]
        return self._next

    def fork(self) -> _Strand:
        """The same, to be continued in another way."""
        other = _Strand(self._reader, self._waiting)
        other._cache, other._next = copy.deepcopy(self._cache), self._next
        return other


class StrandSession:
    """A `TokenSession` over prompts given as tokens; each is read by itself."""

    def __init__(self, reader: Reader, prompts: Sequence[Sequence[int]]) -> None:
        self._reader = reader
        self._prompt_tokens = tuple(len(ids) for ids in prompts)
        self._strands = [_Strand(reader, ids) for ids in prompts]
        self._written: list[int] = []
        self._text = ""
        self._closed = threading.Event()

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """See `TokenSession`."""
        return self._prompt_tokens

    @property
    def room(self) -> int:
        """See `TokenSession`."""
        return self._reader.context - max(self._prompt_tokens) - len(self._written)

    @property
    def text(self) -> str:
        """See `TokenSession`."""
        return self._text

    def next(self) -> Sequence[NextTokens]:
        """See `TokenSession`."""
        self._look()
        return [strand.next(self._look) for strand in self._strands]

    def push(self, token_id: int) -> None:
        """See `TokenSession`."""
        self._look()
        self._written.append(token_id)
        for strand in self._strands:
            strand.push(token_id)
        # Half a character is decoded as U+FFFD, and some tokenizers then decode what stood
        # before it anew until its rest has come.
        text = self._reader.text(self._written).rstrip("\N{REPLACEMENT CHARACTER}")
        if text.startswith(self._text):
            self._text = text

    def is_end(self, token_id: int) -> bool:
        """See `TokenSession`."""
        return token_id in self._reader.ends

    def close(self) -> None:
        """See `TokenSession`."""
        self._closed.set()

    def scores(self, choices: Sequence[str]) -> tuple[dict[str, float], int]:
        """Natural log-probability of each choice as the answer to the first prompt, and how
        many tokens they have together.

        The end of the answer counts only where one choice begins another.
        """
        closed = any(a != b and b.startswith(a) for a in choices for b in choices)
        first, count = self._strands[0], 0
        first.next(self._look)
        scores: dict[str, float] = {}
        for choice in choices:
            ids = self._reader.ids(choice)
            scores[choice] = self._score(first.fork(), ids, closed=closed)
            count += len(ids) + closed
        return scores, count

    def _score(self, strand: _Strand, ids: Sequence[int], *, closed: bool) -> float:
        score = 0.0
        for token_id in ids:
            score += float(strand.next(self._look).of(np.array([token_id]))[0])
            strand.push(token_id)
        if closed:
            ends = strand.next(self._look).of(np.array(sorted(self._reader.ends)))
            score += float(np.logaddexp.reduce(ends))
        return min(score, 0.0)  # rounding may lift what is certain above 0

    def _look(self) -> None:
        if self._closed.is_set():
            raise ModelError(f"{self._reader.name}: the session was closed")
