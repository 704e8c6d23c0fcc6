"""The index in Milvus, for what no longer fits one machine's memory.

All processes that share a memory share one collection, which they follow the book of record with
in turn. A scope is a filter there (see `milvus_scope`), and no process keeps a row of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from comity.errors import NotFound
from comity.memory.dense import Ranked
from comity.memory.embed import Embedder
from comity.memory.index import Progress
from comity.memory.milvus_collection import CollectionGone, CollectionReleased, MilvusCollection
from comity.memory.milvus_entries import (
    Entry,
    Held,
    Mark,
    asked,
    held,
    label_entry,
    rule_entry,
    undone,
)
from comity.memory.milvus_scope import (
    NEVER,
    MilvusScope,
    admitted,
    among,
    declaring,
    digest_of,
    labels_of,
)
from comity.memory.milvus_server import MilvusServer
from comity.memory.store import Store, StoredRule
from comity.memory.vectors import VectorCache
from comity.records import Scope

Turn = Callable[[], AbstractContextManager[Any]]
"""Gives a context that only one of all processes with this memory is in at a time."""

_ROWS_AT_ONCE = 5_000
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class MilvusIndex:
    """Index in a Milvus collection, shared by all processes that have the memory open.

    Every search asks the server with strong consistency, so that what was written before it, by
    whomever, is found. Methods raise `StoreError` where the server cannot be used.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        vectors: VectorCache,
        server: MilvusServer,
        turn: Turn,
    ) -> None:
        """Open the memory's collection, or make it.

        Raises `EmbedderError` for one that was built with another embedder, and `StoreError` for
        one of another memory.
        """
        self._store = store
        self._embedder = embedder
        self._vectors = vectors
        self._server = server
        self._turn = turn
        self._lock = threading.RLock()
        self._labels: dict[str, tuple[int, frozenset[str]]] = {}
        self._revision = 0
        self.collection = self._open()
        """The one that is searched; another one once this one was dropped."""

    def _open(self) -> MilvusCollection:
        with self._turn():
            collection = self._open_any()
            if self._is_of_this_book(collection.mark()):
                return collection
            _LOG.warning(
                "%s is made anew: the book of record has another history (restored from a backup?)",
                collection.name,
            )
            self._server.drop(self._store.identity())
            return self._open_any()

    def _open_any(self) -> MilvusCollection:
        return self._server.open(
            self._store.identity(), self._embedder.id, self._embedder.dimension
        )

    def _is_of_this_book(self, mark: Mark) -> bool:
        if not mark.row:
            return mark.revision <= self._store.revision()
        try:
            last = self._store.fetch([mark.row])[0]
        except NotFound:
            return False
        return mark.last_rule == _named(last) and mark.revision <= self._store.revision()

    def catch_up(self, progress: Progress | None = None) -> int:
        """As in `Index`. The first process that sees a change writes it, and the others wait."""
        if self._store.revision() > self._revision:
            with self._lock:
                self._revision = self._ask(lambda collection: self._follow(collection, progress))
        return self._revision

    def _follow(self, collection: MilvusCollection, progress: Progress | None = None) -> int:
        """See that a collection holds all that the book does, and give the book's revision."""
        revision = self._store.revision()
        mark = collection.mark()
        if mark.revision < revision:
            with self._turn():
                mark = collection.mark()  # another process may have written it meanwhile
                if mark.revision < revision:
                    mark = self._write(collection, mark, progress)
        return mark.revision

    def _write(self, collection: MilvusCollection, mark: Mark, progress: Progress | None) -> Mark:
        """Write all that came after the mark; interrupted, the next call goes on from the last."""
        revision = self._store.revision()
        for batch in _batches(self._store.rows_after(mark.row)):
            collection.write(self._labels_in(batch))
            collection.write(self._entries(batch, mark.revision, progress))
            mark = Mark(batch[-1].row, mark.revision, _named(batch[-1]))
            revision = max(revision, batch[-1].revision)
            if len(batch) == _ROWS_AT_ONCE:
                collection.set_mark(mark)
        mark = mark._replace(revision=revision)
        collection.set_mark(mark)
        return mark

    def _labels_in(self, batch: Iterable[StoredRule]) -> list[Entry]:
        found = {(each.rule.tenant, label) for each in batch for label in each.rule.audience}
        return [label_entry(*each, self._embedder.dimension) for each in sorted(found)]

    def _entries(
        self, batch: Sequence[StoredRule], done: int, progress: Progress | None
    ) -> list[Entry]:
        """What a batch of rows brings or changes, where all up to revision `done` is there."""
        changed = {_rule_of(each) for each in batch if each.rule.version > 1}
        versions = [h for each in batch if _rule_of(each) not in changed for h in held([each])]
        for tenant, rule_id in sorted(changed):
            history = self._store.history(tenant, rule_id)
            known = [stored for stored in history if stored.row <= batch[-1].row]
            versions += [version for version in held(known) if _is_new(version, done)]
            versions += undone(known, batch[0].row)
        texts = [version.stored.rule.indexed_text for version in versions]
        vectors = self._vectors.get(self._embedder, texts, progress=progress)
        return [rule_entry(*each) for each in zip(versions, vectors, strict=True)]

    def _ask(self, ask: Callable[[MilvusCollection], _T]) -> _T:
        """What the collection answers; one that was dropped is made and filled anew first."""
        collection = self.collection
        try:
            return ask(collection)
        except CollectionReleased:
            collection.load()
        except CollectionGone as gone:
            with self._lock:
                if self.collection is collection:
                    _LOG.warning("%s", gone)
                    collection = self._open()
                    self._revision = self._follow(collection)
                    self.collection = collection  # not before: nobody searches half of it
        return ask(self.collection)

    def admit(self, scope: Scope) -> MilvusScope:
        """As in `Index`."""
        return admitted(scope, self._revision)

    def nearest(self, vector: NDArray[np.float32], mask: MilvusScope, k: int) -> Ranked:
        """As in `Index`; at most 16,384 rows."""
        return self._search("vector", vector, mask, k)

    def matching(self, text: str, mask: MilvusScope, k: int) -> Ranked:
        """As in `Index`; at most 16,384 rows."""
        return self._search("sparse", asked(text), mask, k)

    def _search(self, field: str, wanted: Any, mask: MilvusScope, k: int) -> Ranked:
        if k < 1 or not len(wanted):
            return Ranked(np.empty(0, np.int64), np.empty(0, np.float32))
        return self._ask(lambda collection: collection.search(field, wanted, mask.expression, k))

    def mandatory(self, mask: MilvusScope) -> list[int]:
        """As in `Index`."""
        return self._rows("mandatory == true", mask)

    def overriders(self, tenant: str, rule_ids: Iterable[str], mask: MilvusScope) -> list[int]:
        """As in `Index`; the mask is of one tenant, another one's rules declare nothing there."""
        ids = list(rule_ids)
        if not ids or digest_of(tenant) != mask.tenant:
            return []
        return self._rows(declaring(ids), mask)

    def versions_in(self, rows: Sequence[int], mask: MilvusScope) -> list[int]:
        """As in `Index`."""
        found = frozenset(self._rows(among(rows), mask)) if rows else frozenset()
        return [row for row in rows if row in found]

    def _rows(self, condition: str, mask: MilvusScope) -> list[int]:
        return self._ask(lambda collection: collection.rows(f"{mask.expression} and {condition}"))

    def audiences(self, tenant: str) -> frozenset[str]:
        """As in `Index`; asked of the server once for each revision."""
        revision = self._revision
        known = self._labels.get(tenant)
        if known is None or known[0] != revision:
            found = self._ask(lambda collection: collection.notes(labels_of(tenant)))
            known = self._labels[tenant] = (revision, frozenset(found))
        return known[1]

    def save(self) -> None:
        """As in `Index`: nothing, since the server keeps what was written."""

    def close(self) -> None:
        """As in `Index`."""
        self._server.close()


def _batches(rows: Iterator[StoredRule]) -> Iterator[list[StoredRule]]:
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        yield batch


def _rule_of(stored: StoredRule) -> tuple[str, str]:
    return stored.rule.tenant, stored.rule.id


def _is_new(version: Held, done: int) -> bool:
    """Whether an entry began or ended after a revision."""
    return version.known_from > done or done < version.known_to < NEVER


def _named(stored: StoredRule) -> str:
    """What names a row's rule: another history of the book has another one there."""
    return f"{stored.rule.content_hash} {stored.revision} {stored.recorded_at}"
