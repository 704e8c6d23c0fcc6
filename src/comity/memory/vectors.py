"""A cache of vectors in SQLite by embedder and content: no text is embedded twice."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import apsw
import numpy as np
from numpy.typing import NDArray

from comity.errors import MemoryDamaged, MemoryFull, StoreError
from comity.memory.embed import Embedder

Progress = Callable[[int, int], None]
"""Called with the number of distinct texts whose vectors are there, and of all of them."""

_BUSY_MS = 30_000
_TOLERANCE = 0.01
_MANY_CACHE_KB = 65_536
_MANY_PAGES = 16_000  # of the write-ahead log between two checkpoints
# Vectors stand in the order in which they came, and only the index of keys is in another: in a
# WITHOUT ROWID table every new one changed a page among all of them (131 us each, and 23 so).
_SCHEMA = """
CREATE TABLE IF NOT EXISTS embedders (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS vectors (
    content BLOB NOT NULL,
    embedder INTEGER NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (content, embedder)
);
"""
_MOVE = f"""
ALTER TABLE vectors RENAME TO vectors_before;
{_SCHEMA}
INSERT OR IGNORE INTO embedders (id) SELECT DISTINCT embedder FROM vectors_before;
INSERT INTO vectors SELECT content, number, vector FROM vectors_before
JOIN embedders ON embedders.id = vectors_before.embedder;
DROP TABLE vectors_before;
"""


class VectorCache:
    """Vectors of rules by (embedder id, SHA-256 of the text), kept as float16.

    Several processes and threads may use one file at once. `path` None keeps it in memory. Raises
    `MemoryFull`, `MemoryDamaged` or `StoreError` where the file cannot be used; it holds nothing
    that embedding again would not bring back.
    """

    def __init__(self, path: Path | str | None = None, *, batch_size: int = 64) -> None:
        self._name = str(path) if path is not None else ":memory:"
        self._batch_size = max(1, batch_size)
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        with self._errors():
            self._connection = apsw.Connection(self._name)
            self._connection.set_busy_timeout(_BUSY_MS)
            self._prepare()

    def _prepare(self) -> None:
        if self._connection.execute("PRAGMA journal_mode").get not in ("wal", "memory"):
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if self._state() == "ready":
            return
        # one makes it, others wait: not by `with`, which keeps all other threads waiting as well
        self._connection.execute("BEGIN IMMEDIATE")
        if (state := self._state()) != "ready":
            self._connection.execute(_MOVE if state == "before" else _SCHEMA)
        self._connection.execute("COMMIT")

    def _state(self) -> str:
        """`ready`, `before` where a version without the table of embedders made it, or `new`."""
        names = "SELECT name FROM sqlite_schema WHERE name IN ('vectors', 'embedders')"
        found = {name for (name,) in self._connection.execute(names)}
        return "ready" if "embedders" in found else "before" if found else "new"

    def expect_many(self) -> None:
        """Take more memory (64 MB) and write the log back seldom: for a large import."""
        with self._lock, self._errors():
            self._connection.execute(f"PRAGMA cache_size = -{_MANY_CACHE_KB}")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_MANY_PAGES}")

    def get(
        self, embedder: Embedder, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Vectors of the texts as passages: (n, dimension), L2-normalised, in their order.

        Only texts that are not there yet are embedded, each once, and every batch is kept as soon
        as it is done: an interrupted call loses one batch at the most, and the next one goes on
        from there. The embedder's errors pass through.
        """
        wanted = self.want(embedder, texts)
        if progress is not None:
            progress(wanted.there, wanted.all)
        for start in range(0, len(wanted.missing), self._batch_size):
            batch = wanted.missing[start : start + self._batch_size]
            wanted.put(batch, embedder.embed_passages(batch))
            wanted.keep()
            if progress is not None:
                progress(wanted.there, wanted.all)
        return wanted.rows()

    def want(self, embedder: Embedder, texts: Sequence[str]) -> Wanted:
        """What there is of the vectors of these texts; the others can be put beside them."""
        return Wanted(self, embedder, texts)

    def close(self) -> None:
        """Close the file. Calling it twice is harmless."""
        with self._lock:
            self._connection.close()

    def _write(self, embedder: str, keys: Sequence[bytes], vectors: NDArray[np.float16]) -> None:
        blob, size = vectors.tobytes(), 2 * vectors.shape[1]
        with self._lock, self._errors(), self._connection:
            number = self._number_of(embedder)
            self._connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                (
                    (key, number, blob[row * size : (row + 1) * size])
                    for row, key in enumerate(keys)
                ),
            )

    def _number_of(self, embedder: str) -> int:
        known = self._numbers.get(embedder)
        if known is None:
            add = "INSERT OR IGNORE INTO embedders (id) VALUES (?)"
            self._connection.execute(add, (embedder,))
            find = "SELECT number FROM embedders WHERE id = ?"
            known = int(self._connection.execute(find, (embedder,)).get)
        return known

    def _read(self, embedder: str, keys: Sequence[bytes]) -> dict[bytes, object]:
        if not keys:
            return {}
        with self._lock, self._errors():
            find = "SELECT number FROM embedders WHERE id = ?"
            number = self._numbers.get(embedder) or self._connection.execute(find, (embedder,)).get
            if number is None:
                return {}
            self._numbers[embedder] = number  # committed: seen outside of a transaction
            query = (
                "SELECT content, vector FROM carray(?) AS wanted CROSS JOIN vectors "
                "ON content = wanted.value AND embedder = ?"
            )
            stored = self._connection.execute(query, (apsw.carray(tuple(keys)), number))
            return dict(stored)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (apsw.FullError, apsw.IOError, apsw.ReadOnlyError) as error:
            raise MemoryFull(
                f"{self._name}: vectors cannot be written ({error}); nothing was changed: "
                "make room or choose another disk, then start again"
            ) from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise MemoryDamaged(
                f"{self._name}: the cache of vectors is damaged ({error}); "
                "delete the file, it is made again"
            ) from error
        except apsw.Error as error:
            raise StoreError(f"{self._name}: the cache of vectors failed: {error}") from error


class Wanted:
    """The vectors of some texts: those that the cache has, and those that are put here.

    What is put goes into the cache when `keep` is called, in one transaction.
    """

    def __init__(self, cache: VectorCache, embedder: Embedder, texts: Sequence[str]) -> None:
        self._cache = cache
        self._embedder = embedder.id
        self._texts = texts
        self._places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        self._keys = list(map(_key, self._places))
        self._rows = np.zeros((len(self._places), embedder.dimension), np.float16)
        known = self._take(cache._read(self._embedder, self._keys))
        self.missing = [text for text, place in self._places.items() if place not in known]
        """Each text once that has no vector in the cache, or no sound one."""
        self.all = len(self._places)
        self._put: list[int] = []
        self.there = len(known)

    def _take(self, stored: dict[bytes, object]) -> set[int]:
        """Vectors that are there and sound; the others count as missing and are replaced."""
        size = 2 * self._rows.shape[1]
        whole = {k: b for k, b in stored.items() if isinstance(b, bytes) and len(b) == size}
        rows = np.frombuffer(b"".join(whole.values()), np.float16).reshape(-1, size // 2)
        lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
        sound = np.abs(lengths - 1.0) < _TOLERANCE  # False for NaN too
        place_of = {key: place for place, key in enumerate(self._keys)} if whole else {}
        places = np.array([place_of[key] for key in whole], np.int64)[sound]
        self._rows[places] = rows[sound]
        return set(places.tolist())

    def __contains__(self, text: str) -> bool:
        return text in self._places

    def put(self, texts: Sequence[str], vectors: NDArray[np.floating]) -> None:
        """Take the vectors of some of the texts: (n, dimension), unit length."""
        places = [self._places[text] for text in texts]
        # rounded here too, so that the first answer equals the ones that come from the file
        self._rows[places] = vectors
        self._put += places
        self.there += len(texts)

    def keep(self) -> None:
        """Write what was put since the last time."""
        if self._put:
            keys = [self._keys[place] for place in self._put]
            self._cache._write(self._embedder, keys, self._rows[self._put])
            self._put = []

    def rows(self, texts: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Vectors: (n, dimension), L2-normalised, in the order of all texts, or of some of them."""
        places = [self._places[text] for text in (self._texts if texts is None else texts)]
        return _unit(self._rows[places].astype(np.float32))


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(rows):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
