"""The index: finds rules by scope, meaning and words, and follows the book of record.

It is derived: everything in it can be made again from the book of record, which it follows
revision by revision. A snapshot on disk makes opening fast, and several processes share it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import file_digest
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from comity.errors import EmbedderError, NotFound
from comity.memory.dense import DenseIndex, Ranked
from comity.memory.embed import Embedder
from comity.memory.lexical import WordIndex
from comity.memory.scope import ScopeMask, ScopeTable
from comity.memory.store import Store, StoredRule
from comity.memory.vectors import VectorCache
from comity.records import Scope

Progress = Callable[[int, int], None]

_FORMAT = 3
_ROWS_AT_ONCE = 5_000
_SAVE_AFTER = 1_000
_LOG = logging.getLogger(__name__)


class Admitted(Protocol):
    """The rules that can apply in one scope, at one revision, as one kind of index names them."""

    @property
    def revision(self) -> int:
        """Revision of the memory that it was made of."""

    @property
    def side_by_side(self) -> bool:
        """Whether searching by meaning and by words at the same time is worth a thread."""

    def digest(self) -> bytes:
        """Names the rules: two scopes of one digest admit the same ones."""


Mask = TypeVar("Mask")
"""What an index's `admit` gives and its searches take: an `Admitted`."""


class Index(Protocol[Mask]):
    """Finds rows of the book of record; the scope comes first, the ranking second.

    Results are `Ranked` whose `positions` are rows of the book. A mask is good for the index
    that gave it, and goes on to name what its own revision held.
    """

    def catch_up(self, progress: Progress | None = None) -> int:
        """Take in what the book of record has gained, and give its revision."""

    def admit(self, scope: Scope) -> Mask:
        """The rules that can apply in a scope."""

    def nearest(self, vector: NDArray[np.float32], mask: Mask, k: int) -> Ranked:
        """Rows whose vectors are nearest to a unit vector, by inner product."""

    def matching(self, text: str, mask: Mask, k: int) -> Ranked:
        """Rows whose words match a text best, by BM25."""

    def mandatory(self, mask: Mask) -> list[int]:
        """Rows of the mandatory rules in the mask."""

    def overriders(self, tenant: str, rule_ids: Iterable[str], mask: Mask) -> list[int]:
        """Rows in the mask that declare a conflict with one of the rules, each row once."""

    def versions_in(self, rows: Sequence[int], mask: Mask) -> list[int]:
        """Those of the rows that are in the mask."""

    def audiences(self, tenant: str) -> frozenset[str]:
        """All labels that the tenant's rules name."""

    def save(self) -> None:
        """Make opening fast; harmless to leave out."""

    def close(self) -> None:
        """Release connections. Calling it twice is harmless."""


class LocalIndex:
    """Index in this process: numpy columns, faiss and tantivy, with a snapshot in a folder."""

    def __init__(
        self, store: Store, embedder: Embedder, vectors: VectorCache, folder: Path | None
    ) -> None:
        """Open the snapshot in `folder` if there is one (`None`: keep nothing on disk).

        Raises `EmbedderError` when the snapshot was built with another embedder.
        """
        self._store = store
        self._embedder = embedder
        self._vectors = vectors
        self._folder = folder
        self._lock = threading.RLock()
        self._dense_lock = threading.RLock()
        self._words_lock = threading.RLock()
        self._start()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """No search while the index changes; vectors and words can be searched side by side."""
        with self._lock, self._dense_lock, self._words_lock:
            yield

    def _start(self) -> None:
        """Begin with the saved snapshot, or with nothing."""
        self._revision = 0
        self._snapshot = ""
        self._table = ScopeTable()
        self._dense: DenseIndex | None = None
        self._words = WordIndex()
        if self._folder and (self._folder / "CURRENT").exists():
            self._load_current(self._folder)

    def catch_up(self, progress: Progress | None = None) -> int:
        """As in `Index`."""
        with self._changing():
            if self._follow(progress) and self._words.recent > self._save_after:
                self.save()
            return self._revision

    @property
    def _save_after(self) -> int:
        return max(_SAVE_AFTER, len(self._table) // 20)

    def _follow(self, progress: Progress | None = None) -> bool:
        """Take in what is new, and tell whether anything was.

        Interrupted, it leaves the revision where it was, so that the next call goes on.
        """
        revision = self._store.revision()
        if revision <= self._revision:
            return False
        for batch in _batches(self._store.rows_after(self._table.last_row)):
            texts = [stored.rule.indexed_text for stored in batch]
            vectors = self._vectors.get(self._embedder, texts, progress=progress)
            try:
                self._append(batch, vectors)
            except BaseException:
                self._start()  # columns, vectors and words may be out of step
                raise
            revision = max(revision, batch[-1].revision)
        self._revision = revision
        return True

    def _append(self, batch: Sequence[StoredRule], vectors: NDArray[np.float32]) -> None:
        for stored in batch:
            position = self._table.append(stored, self._earlier(stored))
            kind = int(self._table.kinds[position])
            self._words.append(position, kind, stored.rule.indexed_text)
        self._dense_index().append(vectors)

    def _dense_index(self) -> DenseIndex:
        if self._dense is None:
            self._dense = DenseIndex(self._embedder.dimension)
        return self._dense

    def _earlier(self, stored: StoredRule) -> list[int]:
        rule = stored.rule
        if rule.version == 1:
            return []
        return [
            old.row for old in self._store.history(rule.tenant, rule.id) if old.row < stored.row
        ]

    def admit(self, scope: Scope) -> ScopeMask:
        """As in `Index`."""
        with self._lock:
            return self._table.mask(scope)._replace(revision=self._revision)

    def nearest(self, vector: NDArray[np.float32], mask: ScopeMask, k: int) -> Ranked:
        """As in `Index`."""
        with self._dense_lock:
            found = self._dense_index().search(vector, mask.rows, k)
        return self._in_rows(found)

    def matching(self, text: str, mask: ScopeMask, k: int) -> Ranked:
        """As in `Index`."""
        with self._words_lock:
            found = self._words.search(text, mask, k)
        return self._in_rows(found)

    def _in_rows(self, found: Ranked) -> Ranked:
        with self._lock:
            return Ranked(self._table.rows(found.positions), found.scores)

    def mandatory(self, mask: ScopeMask) -> list[int]:
        """As in `Index`."""
        with self._lock:
            return list(map(int, self._table.rows(self._table.mandatory(mask))))

    def overriders(self, tenant: str, rule_ids: Iterable[str], mask: ScopeMask) -> list[int]:
        """As in `Index`."""
        with self._lock:
            found = {p for name in rule_ids for p in self._table.overriders(tenant, name, mask)}
            return list(map(int, self._table.rows(np.array(sorted(found), np.int64))))

    def versions_in(self, rows: Sequence[int], mask: ScopeMask) -> list[int]:
        """As in `Index`."""
        with self._lock:
            positions = self._table.positions(rows)
            return [
                row
                for row, position in zip(rows, positions, strict=True)
                if position < len(mask.rows) and mask.rows[position]
            ]

    def audiences(self, tenant: str) -> frozenset[str]:
        """As in `Index`."""
        with self._lock:
            return self._table.audiences(tenant)

    def close(self) -> None:
        """As in `Index`: there is none."""

    def save(self) -> None:
        """Write a snapshot, unless another process is at it or nothing is new.

        A snapshot that cannot be written is warned of: the index goes on without.
        """
        if self._folder is None:
            with self._changing():
                self._words.fold()
            return
        from filelock import FileLock, Timeout

        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock", timeout=0), self._changing():
                self._save_snapshot(self._folder)
        except Timeout:
            return
        except (OSError, RuntimeError, ValueError) as problem:  # faiss and tantivy raise these
            _LOG.warning("index %s is not saved, and is slow to open: %s", self._folder, problem)

    def _save_snapshot(self, folder: Path) -> None:
        if self._snapshot != _current_name(folder):
            self._start()  # another process has saved since: go on from there
            self._follow()
        if not len(self._table) or (self._snapshot and not self._words.recent):
            return
        name = f"snapshot-{self._revision:09d}-{time.time_ns():x}"
        try:
            words = self._write_snapshot(folder / name)
            manifest = _sha256(folder / name / "manifest.json")
            _write_synced(folder / "CURRENT.new", f"{name} {manifest}")
            os.replace(folder / "CURRENT.new", folder / "CURRENT")
        except BaseException:
            shutil.rmtree(folder / name, ignore_errors=True)
            raise
        _remove_snapshots(folder, keep={name, self._snapshot})
        self._words, self._snapshot = words, name

    def _write_snapshot(self, target: Path) -> WordIndex:
        words = self._words.save(target / "words")
        arrays, data = self._table.state()
        np.savez(target / "columns.npz", allow_pickle=False, **arrays)
        self._dense_index().save(target / "dense.faiss")
        manifest = {
            "format": _FORMAT,
            "embedder": self._embedder.id,
            "memory": self._store.identity(),
            "revision": self._revision,
            "last_rule": _fingerprint(self._store, self._table.last_row),
            "table": data,
            "files": {str(f.relative_to(target)): _sha256(f) for f in _files(target)},
        }
        _write_synced(target / "manifest.json", json.dumps(manifest, ensure_ascii=False))
        return words

    def _load_current(self, folder: Path) -> None:
        for _ in range(3):
            try:
                name, digest = (folder / "CURRENT").read_text("ascii").split()
                return self._load(folder / name, digest)
            except FileNotFoundError:
                continue  # replaced by another process between the two reads
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
                return _LOG.warning("index %s is made anew: %s", folder, problem)
        return _LOG.warning("index %s is made anew: its files are missing", folder)

    def _load(self, snapshot: Path, digest: str) -> None:
        if _sha256(snapshot / "manifest.json") != digest:
            raise ValueError("manifest.json is damaged")
        manifest = json.loads((snapshot / "manifest.json").read_text("utf-8"))
        if manifest["format"] != _FORMAT or manifest["memory"] != self._store.identity():
            raise ValueError("it belongs to another memory or version of Comity")
        if manifest["embedder"] != self._embedder.id:
            raise EmbedderError(
                f"the index in {snapshot.parent} was built with the embedder "
                f"{manifest['embedder']!r}, not {self._embedder.id!r}: use that one, or run: "
                "comity index rebuild"
            )
        _verify(snapshot, manifest["files"])
        with np.load(snapshot / "columns.npz", allow_pickle=False) as arrays:
            table = ScopeTable.from_state(dict(arrays), manifest["table"])
        _verify_same_book(self._store, manifest, table.last_row)
        dense = DenseIndex.load(snapshot / "dense.faiss", self._embedder.dimension)
        words = WordIndex(snapshot / "words")
        self._table, self._dense, self._words = table, dense, words
        self._revision, self._snapshot = manifest["revision"], snapshot.name


def remove_index(folder: Path) -> None:
    """Delete the snapshots in a folder, so that the next opening makes the index anew."""
    from filelock import FileLock

    if folder.exists():
        with FileLock(folder / "lock"):
            (folder / "CURRENT").unlink(missing_ok=True)
            _remove_snapshots(folder, keep=set())


def _batches(rows: Iterator[StoredRule]) -> Iterator[list[StoredRule]]:
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        yield batch


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _verify(snapshot: Path, files: dict[str, str]) -> None:
    for name, expected in files.items():
        if _sha256(snapshot / name) != expected:
            raise ValueError(f"{name} is damaged")


def _fingerprint(store: Store, row: int) -> str:
    stored = store.fetch([row])[0]
    return f"{stored.rule.content_hash} {stored.revision} {stored.recorded_at}"


def _verify_same_book(store: Store, manifest: dict[str, Any], last_row: int) -> None:
    try:
        same = _fingerprint(store, last_row) == manifest["last_rule"]
    except NotFound:
        same = False
    if not same or manifest["revision"] > store.revision():
        raise ValueError("the book of record has another history (restored from a backup?)")


def _current_name(folder: Path) -> str:
    file = folder / "CURRENT"
    return file.read_text("utf-8", "replace").partition(" ")[0] if file.exists() else ""


def _write_synced(file: Path, text: str) -> None:
    with file.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _remove_snapshots(folder: Path, keep: set[str]) -> None:
    for path in folder.glob("snapshot-*"):
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)
