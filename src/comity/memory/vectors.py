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
_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    embedder TEXT NOT NULL,
    content BLOB NOT NULL,
    vector BLOB NOT NULL,
    PRIMARY KEY (embedder, content)
) WITHOUT ROWID
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
        with self._errors():
            self._connection = apsw.Connection(self._name)
            self._connection.set_busy_timeout(_BUSY_MS)
            self._prepare()

    def _prepare(self) -> None:
        if self._connection.execute("PRAGMA journal_mode").get not in ("wal", "memory"):
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(_SCHEMA)

    def get(
        self, embedder: Embedder, texts: Sequence[str], progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Vectors of the texts as passages: (n, dimension), L2-normalised, in their order.

        Only texts that are not there yet are embedded, each once, and every batch is kept as soon
        as it is done: an interrupted call loses one batch at the most, and the next one goes on
        from there. The embedder's errors pass through.
        """
        keys = [_key(text) for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        found = self._read(embedder, list(wanted))
        missing = [key for key in wanted if key not in found]
        if progress is not None:
            progress(len(found), len(wanted))
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            found |= self._embed(embedder, {key: wanted[key] for key in batch})
            if progress is not None:
                progress(len(found), len(wanted))
        rows = np.empty((len(keys), embedder.dimension), np.float32)
        for row, key in zip(rows, keys, strict=True):
            row[:] = found[key]
        return _unit(rows)

    def close(self) -> None:
        """Close the file. Calling it twice is harmless."""
        with self._lock:
            self._connection.close()

    def _embed(
        self, embedder: Embedder, batch: dict[bytes, str]
    ) -> dict[bytes, NDArray[np.float16]]:
        # rounded here too, so that the first answer equals the ones that come from the file
        vectors = embedder.embed_passages(list(batch.values())).astype(np.float16)
        name = embedder.id
        with self._lock, self._errors(), self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                ((name, key, row.tobytes()) for key, row in zip(batch, vectors, strict=True)),
            )
        return dict(zip(batch, vectors, strict=True))

    def _read(self, embedder: Embedder, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float16]]:
        """Vectors that are there and sound; the others count as missing and are replaced."""
        name = embedder.id
        with self._lock, self._errors():
            stored = self._connection.executemany(
                "SELECT content, vector FROM vectors WHERE embedder = ? AND content = ?",
                ((name, key) for key in keys),
            )
            blobs: dict[bytes, object] = dict(stored)
        size = 2 * embedder.dimension
        whole = {k: b for k, b in blobs.items() if isinstance(b, bytes) and len(b) == size}
        rows = np.frombuffer(b"".join(whole.values()), np.float16).reshape(
            len(whole), embedder.dimension
        )
        lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
        sound = np.abs(lengths - 1.0) < _TOLERANCE  # False for NaN too
        return {key: row for key, row, good in zip(whole, rows, sound, strict=True) if good}

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


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    if len(rows):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
