"""The index: finds rules by scope, meaning and words, and follows the book of record.

It is derived: everything in it can be made again from the book of record, which it follows
revision by revision. A snapshot on disk makes opening fast, and several processes share it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from comity.errors import EmbedderError, NotFound, StoreError
from comity.memory.dense import DenseIndex, Ranked, Sizes
from comity.memory.embed import Embedder
from comity.memory.lexical import WordIndex
from comity.memory.scope import ScopeMask, ScopeTable
from comity.memory.snapshot import (
    current_name,
    read_current,
    remove_snapshots,
    verify,
    write_snapshot,
)
from comity.memory.store import Store, StoredRule
from comity.memory.vectors import VectorCache
from comity.records import Scope

Progress = Callable[[int, int], None]

_FORMAT = 4
_ROWS_AT_ONCE = 5_000
_SAVE_AFTER = 1_000  # rules that are in no snapshot, or a twentieth of all
_SAVE_AFTER_AT_MOST = 10_000  # their words are scored one by one
_SAVE_IN_COURSE = 100_000  # in no snapshot during a long catch-up, or half of all
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


class _Parts:
    """Columns, vectors and words of the same rules, in step."""

    def __init__(self, embedder: Embedder, sizes: Sizes) -> None:
        self.revision = 0
        self.snapshot = ""
        self.table = ScopeTable()
        self.words = WordIndex()
        self._embedder = embedder
        self._sizes = sizes
        self._dense: DenseIndex | None = None

    @property
    def dense(self) -> DenseIndex:
        """The vectors; some embedders learn their dimension only when they are first used."""
        if self._dense is None:
            self._dense = DenseIndex(self._embedder.dimension, self._sizes)
        return self._dense

    def load(self, snapshot: Path, manifest: dict[str, Any]) -> None:
        """Begin with a snapshot."""
        with np.load(snapshot / "columns.npz", allow_pickle=False) as arrays:
            self.table = ScopeTable.from_state(dict(arrays), manifest["table"])
        self.dense.adopt(snapshot / "dense")
        self.words = WordIndex(snapshot / "words")
        self.revision, self.snapshot = manifest["revision"], snapshot.name

    def cut(self) -> _Cut:
        """What there is now, for `write`; not while appending."""
        return _Cut(len(self.table), self.revision, self.words.recent, *self.table.state())

    def write(self, target: Path, cut: _Cut) -> None:
        """Write what there was at a moment into a new folder; more may be appended meanwhile."""
        target.mkdir(parents=True)
        self.words.save(target / "words", cut.recent)
        self.dense.save(target / "dense", cut.size)
        np.savez(target / "columns.npz", allow_pickle=False, **cut.columns)

    def adopt(self, snapshot: Path, cut: _Cut) -> None:
        """Go on with the files of `write`; not while appending."""
        self.words.adopt(snapshot / "words", cut.recent)
        self.dense.adopt(snapshot / "dense")
        self.snapshot = snapshot.name

    @property
    def unsaved(self) -> bool:
        """Whether a snapshot would hold more than the last one."""
        if not len(self.table):
            return False
        return not self.snapshot or self.words.recent > 0 or self.dense.unsaved


class _Cut(NamedTuple):
    """What an index held at one moment."""

    size: int
    revision: int
    recent: int
    columns: dict[str, NDArray[Any]]
    table: dict[str, Any]


class LocalIndex:
    """Index in this process: numpy columns, faiss and tantivy, with a snapshot in a folder.

    Whoever changes it holds `_change`. Masks are made, and the columns changed, under `_masks`,
    for less than a millisecond where a change is small. Vectors and words are searched without
    a lock, while others append, save, or make a sketch.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        vectors: VectorCache,
        folder: Path | None,
        sizes: Sizes = Sizes(),  # noqa: B008 - frozen
    ) -> None:
        """Open the snapshot in `folder` if there is one (`None`: keep nothing on disk).

        Raises `EmbedderError` when the snapshot was built with another embedder.
        """
        self._store = store
        self._embedder = embedder
        self._vectors = vectors
        self._folder = folder
        self._sizes = sizes
        self._change = threading.RLock()
        self._masks = threading.RLock()
        self._saving = threading.Lock()  # never waited for by who holds `_change`
        self._keeper: threading.Thread | None = None
        self._now = self._begun()

    def _begun(self) -> _Parts:
        """What the saved snapshot holds, or nothing."""
        loaded = None
        if self._folder and (self._folder / "CURRENT").exists():
            loaded = self._loaded(self._folder)
        return loaded or _Parts(self._embedder, self._sizes)

    # Following the book of record

    def catch_up(self, progress: Progress | None = None) -> int:
        """As in `Index`."""
        revision = self._store.revision()
        if revision > self._now.revision:
            with self._change:
                if revision > self._now.revision:  # no other thread was first
                    self._follow(progress)
        return self._now.revision

    def feed(self, batch: Sequence[StoredRule], vectors: NDArray[np.float32]) -> bool:
        """Take in a whole revision, whose rules and unit vectors are at hand, without saving.

        False, and nothing done, where the index is not exactly at the revision before it.
        """
        with self._change:
            if {stored.revision for stored in batch} != {self._now.revision + 1}:
                return False
            with ExitStack() as masks:
                self._append(self._now, batch, vectors, masks)
                self._now.revision += 1
        return True

    def _follow(self, progress: Progress | None) -> None:
        with ExitStack() as masks:
            self._take_new(self._now, masks, progress)
        if self._now.words.recent > self._save_after:
            self._save_aside()

    @property
    def _save_after(self) -> int:
        return max(_SAVE_AFTER, min(len(self._now.table) // 20, _SAVE_AFTER_AT_MOST))

    def _take_new(self, parts: _Parts, masks: ExitStack, progress: Progress | None = None) -> None:
        """Take in what is new; `masks` then holds off new masks until the revision is whole.

        Interrupted, it leaves the revision where it was, so that the next call goes on.
        """
        revision = self._store.revision()
        for batch in _batches(self._store.rows_after(parts.table.last_row)):
            texts = [stored.rule.indexed_text for stored in batch]
            vectors = self._vectors.get(self._embedder, texts, progress=progress)
            self._append(parts, batch, vectors, masks)
            revision = max(revision, batch[-1].revision)
            if parts is self._now and parts.words.recent > self._save_in_course:
                self._try_to_save()
        masks.enter_context(self._masks)
        parts.revision = revision

    @property
    def _save_in_course(self) -> int:
        return max(_SAVE_IN_COURSE, len(self._now.table) // 2)

    def _append(
        self,
        parts: _Parts,
        batch: Sequence[StoredRule],
        vectors: NDArray[np.float32],
        masks: ExitStack,
    ) -> None:
        earlier = {s.row: self._earlier(s) for s in batch if s.rule.version > 1}
        try:
            kinds = parts.table.prepare(batch)
            texts = [stored.rule.indexed_text for stored in batch]
            parts.words.append(len(parts.table), kinds, texts)
            parts.dense.append(vectors)
            masks.enter_context(self._masks)
            parts.table.extend(batch, kinds, earlier)
        except BaseException:
            if parts is self._now:
                self._now = self._begun()  # columns, vectors and words may be out of step
            raise

    def _earlier(self, stored: StoredRule) -> list[int]:
        history = self._store.history(stored.rule.tenant, stored.rule.id)
        return [old.row for old in history if old.row < stored.row]

    # Searching

    def admit(self, scope: Scope) -> ScopeMask:
        """As in `Index`."""
        with self._masks:
            return self._now.table.mask(scope)._replace(revision=self._now.revision)

    def nearest(self, vector: NDArray[np.float32], mask: ScopeMask, k: int) -> Ranked:
        """As in `Index`."""
        return self._in_rows(self._now.dense.search(vector, mask.rows, k))

    def matching(self, text: str, mask: ScopeMask, k: int) -> Ranked:
        """As in `Index`."""
        return self._in_rows(self._now.words.search(text, mask, k))

    def _in_rows(self, found: Ranked) -> Ranked:
        return Ranked(self._now.table.rows(found.positions), found.scores)

    def mandatory(self, mask: ScopeMask) -> list[int]:
        """As in `Index`."""
        table = self._now.table
        return list(map(int, table.rows(table.mandatory(mask))))

    def overriders(self, tenant: str, rule_ids: Iterable[str], mask: ScopeMask) -> list[int]:
        """As in `Index`."""
        table = self._now.table
        found = {p for name in rule_ids for p in table.overriders(tenant, name, mask)}
        return list(map(int, table.rows(np.array(sorted(found), np.int64))))

    def versions_in(self, rows: Sequence[int], mask: ScopeMask) -> list[int]:
        """As in `Index`."""
        positions = self._now.table.positions(rows)
        return [
            row
            for row, position in zip(rows, positions, strict=True)
            if position < len(mask.rows) and mask.rows[position]
        ]

    def audiences(self, tenant: str) -> frozenset[str]:
        """As in `Index`."""
        return self._now.table.audiences(tenant)

    # Saving

    def close(self) -> None:
        """As in `Index`: wait for a snapshot that is being written."""
        if self._keeper is not None:
            self._keeper.join()

    def _save_aside(self) -> None:
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(target=self.save, name="index-keeper")
            self._keeper.start()

    def save(self) -> None:
        """Write a snapshot, unless another process is at it or nothing is new.

        Searches and changes go on meanwhile. A snapshot that cannot be written is warned of: the
        index goes on without.
        """
        if len(self._now.table):
            self._now.dense.settle()
        with self._saving:
            self._save()

    def _try_to_save(self) -> None:
        """Save in the course of a long catch-up, so that what is not saved stays small."""
        if self._saving.acquire(blocking=False):
            try:
                if self._folder is None or self._now.snapshot == current_name(self._folder):
                    self._save()
            finally:
                self._saving.release()

    def _save(self) -> None:
        from filelock import FileLock, Timeout

        if self._folder is None:
            self._fold(self._now)
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock", timeout=0):
                self._save_snapshot(self._folder)
        except Timeout:
            return
        except (OSError, RuntimeError, ValueError, StoreError) as problem:
            # faiss and tantivy raise the middle ones
            _LOG.warning("index %s is not saved, and is slow to open: %s", self._folder, problem)

    def _fold(self, parts: _Parts) -> None:
        texts = parts.words.recent
        parts.words.save(None, texts)
        with self._change:
            parts.words.adopt(None, texts)

    def _save_snapshot(self, folder: Path) -> None:
        if self._now.snapshot != current_name(folder):
            self._renew()
        with self._change:
            parts = self._now
            cut = parts.cut()
        if not parts.unsaved:
            return

        def write(target: Path) -> dict[str, Any]:
            parts.write(target, cut)
            return {
                "format": _FORMAT,
                "embedder": self._embedder.id,
                "memory": self._store.identity(),
                "revision": cut.revision,
                "last_rule": _fingerprint(self._store, int(cut.columns["row"][-1])),
                "table": cut.table,
            }

        name = write_snapshot(folder, cut.revision, write, parts.snapshot)
        with self._change:
            if parts is self._now:
                parts.adopt(folder / name, cut)

    def _renew(self) -> None:
        """Another process has saved since: go on from there, once that is in memory."""
        parts = self._begun()
        with ExitStack() as nothing_held:
            self._take_new(parts, nothing_held)
        with self._change, ExitStack() as masks:
            self._take_new(parts, masks)
            self._now = parts

    def _loaded(self, folder: Path) -> _Parts | None:
        """The snapshot of a folder; none, with a warning, where it cannot be used."""
        for _ in range(3):
            try:
                return self._load(folder)
            except FileNotFoundError:
                continue  # replaced by another process between two reads
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
                _LOG.warning("index %s is made anew: %s", folder, problem)
                return None
        _LOG.warning("index %s is made anew: its files are missing", folder)
        return None

    def _load(self, folder: Path) -> _Parts:
        snapshot, manifest = read_current(folder)
        if manifest["format"] != _FORMAT or manifest["memory"] != self._store.identity():
            raise ValueError("it belongs to another memory or version of Comity")
        if manifest["embedder"] != self._embedder.id:
            raise EmbedderError(
                f"the index in {folder} was built with the embedder "
                f"{manifest['embedder']!r}, not {self._embedder.id!r}: use that one, or run: "
                "comity index rebuild"
            )
        verify(snapshot, manifest["files"])
        parts = _Parts(self._embedder, self._sizes)
        parts.load(snapshot, manifest)
        _verify_same_book(self._store, manifest, parts.table.last_row)
        return parts


def remove_index(folder: Path) -> None:
    """Delete the snapshots in a folder, so that the next opening makes the index anew."""
    from filelock import FileLock

    if folder.exists():
        with FileLock(folder / "lock"):
            remove_snapshots(folder)


def _batches(rows: Iterator[StoredRule]) -> Iterator[list[StoredRule]]:
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        yield batch


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
