"""What was asked lately: vectors of questions, rows found for them, wishes read between lines.

A conversation is sent whole with every request. What its earlier turns need was worked out when
they were asked, and is kept here, in this process, for the next request. Texts are known by their
SHA-256, and nothing is kept of them but the words that an inferred wish rests on.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from comity.records import Preference

_VECTORS = 2_048  # of 1.5 kB each with the default embedder
_RANKINGS = 8_192
_INFERRED = 2_048

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Row = tuple[int, float]
"""A row of the book of record and its score."""


class Lately(Generic[Key, Value]):
    """The values that were used last, at most so many; safe to share between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value kept for a key; None if there is none (any more)."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, and drop the one that was not used for longest."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._values.clear()


class RankingKey(NamedTuple):
    """What a ranking depends on: the rows that can apply, the revision, the text, the way."""

    rows: bytes
    revision: int
    text: bytes
    way: str


class Recent:
    """Vectors and rankings of the last questions to one memory, under one embedder.

    Beside them what models inferred from what users said of themselves.
    """

    def __init__(self, vectors: int = _VECTORS, rankings: int = _RANKINGS) -> None:
        self.inferred: Lately[bytes, tuple[Preference, ...]] = Lately(_INFERRED)
        self._vectors: Lately[bytes, NDArray[np.float32]] = Lately(vectors)
        self._rankings: Lately[RankingKey, tuple[Row, ...]] = Lately(rankings)

    def vector(self, text: str, embed: Callable[[str], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The vector of a question, of shape (dimension,); `embed` makes one that is not kept."""
        key = digest(text)
        known = self._vectors.get(key)
        if known is None:
            known = embed(text)
            self._vectors.put(key, known)
        return known

    def ranking(self, key: RankingKey) -> tuple[Row, ...] | None:
        """The first rows that were found, best first; None where nothing is kept."""
        return self._rankings.get(key)

    def keep(self, key: RankingKey, rows: tuple[Row, ...]) -> None:
        """Keep the first rows of a ranking."""
        self._rankings.put(key, rows)

    def clear(self) -> None:
        """Keep nothing of any question."""
        self._vectors.clear()
        self._rankings.clear()
        self.inferred.clear()


def digest(text: str) -> bytes:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
