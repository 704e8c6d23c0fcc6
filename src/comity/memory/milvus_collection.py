"""One collection on a Milvus server: written and searched, with errors told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from comity.errors import StoreError
from comity.memory.dense import Ranked
from comity.memory.milvus_entries import MARK_IDS, Entry, Mark, mark_entry, mark_of, row_of

SECONDS = 30.0
"""That a search or a write may take."""
SECONDS_TO_LOAD = 3_600.0
MOST_FOUND = 16_384
"""Of entries that Milvus gives in one answer."""
_AT_ONCE = 500  # entries: below the 64 MB of a request, whatever their texts
_NOT_FOUND = 100  # codes of Milvus
_NOT_LOADED = 101
_REFUSED = re.compile("unauthenticated|auth check|permission|privilege")


class CollectionGone(StoreError):
    """The collection was dropped."""


class CollectionReleased(StoreError):
    """The collection is there, but not in the server's memory."""


@contextmanager
def told(where: str) -> Iterator[None]:
    """Raises pymilvus's errors as `StoreError`, saying where they came from."""
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        raise _error(where, error.code, error.message) from error
    except RpcError as error:
        raise _error(where, 0, str(error)) from error


def _error(where: str, code: int, message: str) -> StoreError:
    if code == _NOT_FOUND:
        return CollectionGone(f"{where} was dropped: the next search makes it anew")
    if code == _NOT_LOADED:
        return CollectionReleased(f"{where} is not loaded: load it, or search again")
    said = " ".join(message.split())[:300]
    if _REFUSED.search(said.lower()):
        return StoreError(f"{where}: access is refused ({said}): see COMITY_INDEX_TOKEN")
    return StoreError(
        f"{where} cannot be used ({said}): see that the server runs and can be reached, or set "
        'index = "local"'
    )


class MilvusCollection:
    """Entries of one memory's rules under one embedder.

    Every method raises `StoreError` where the server cannot be reached or refuses,
    `CollectionGone` where somebody has dropped the collection and `CollectionReleased` where it
    is not in the server's memory.
    """

    def __init__(
        self, client: Any, name: str, where: str, dimension: int, searching: Mapping[str, int | str]
    ) -> None:
        """One that is there. `searching` are parameters of the search by vectors."""
        self.name = name
        self._client = client
        self._where = f"the index {name} in {where}"
        self._dimension = dimension
        self._searching = dict(searching)
        self.page = MOST_FOUND
        """Entries to an answer, where all are asked for."""

    def load(self) -> None:
        """Have the server take the collection into its memory."""
        with told(self._where):
            self._client.load_collection(self.name, timeout=SECONDS_TO_LOAD)

    def mark(self) -> Mark:
        """How far the book of record was followed."""
        with told(self._where):
            found = self._client.query(
                self.name,
                ids=MARK_IDS,
                output_fields=["note"],
                consistency_level="Strong",
                timeout=SECONDS,
            )
        return mark_of(found)

    def set_mark(self, mark: Mark) -> None:
        """Note how far the book was followed, once all entries up to there are written."""
        self.write([mark_entry(mark, self._dimension)])

    def write(self, entries: Sequence[Entry]) -> None:
        """Write entries in the place of those with the same numbers."""
        with told(self._where):
            for start in range(0, len(entries), _AT_ONCE):
                batch = list(entries[start : start + _AT_ONCE])
                self._client.upsert(self.name, batch, timeout=SECONDS)

    def search(self, field: str, asked: Any, expression: str, k: int) -> Ranked:
        """The k best rows for a vector (of `vector`) or a text (of `sparse`) under a filter."""
        with told(self._where):
            [hits] = self._client.search(
                self.name,
                data=[asked],
                anns_field=field,
                filter=expression,
                limit=min(k, MOST_FOUND),
                output_fields=["id"],
                search_params={"params": self._searching if field == "vector" else {}},
                consistency_level="Strong",
                timeout=SECONDS,
            )
        rows = np.fromiter((row_of(hit["id"]) for hit in hits), np.int64, len(hits))
        scores = np.fromiter((hit["distance"] for hit in hits), np.float32, len(hits))
        # milvus-lite gives BM25 as a distance, with a minus
        return Ranked(rows, np.abs(scores) if field == "sparse" else scores)

    def rows(self, expression: str) -> list[int]:
        """All rows under a filter, in order."""
        return sorted({row_of(entry["id"]) for entry in self._entries(expression, "id")})

    def notes(self, expression: str) -> list[str]:
        """The notes of all entries under a filter."""
        return [entry["note"] for entry in self._entries(expression, "note")]

    def _entries(self, expression: str, field: str) -> list[Mapping[str, Any]]:
        asked = {"filter": expression, "output_fields": [field], "consistency_level": "Strong"}
        with told(self._where):
            found = self._client.query(self.name, limit=self.page, timeout=SECONDS, **asked)
            if len(found) < self.page:
                return list(found)
            everything: list[Mapping[str, Any]] = []
            pages = self._client.query_iterator(self.name, batch_size=self.page, **asked)
            while page := pages.next():
                everything.extend(page)
            pages.close()
        return everything
