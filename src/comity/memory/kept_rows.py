"""Rule versions that have been read, kept in memory: they never change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from comity.errors import NotFound
from comity.memory.store import StoredRule

_MOST = 16_384


class KeptRows:
    """Gives rule versions by their rows, and reads only those that are not at hand."""

    def __init__(
        self, read: Callable[[Sequence[int]], Iterable[StoredRule]], book: str, most: int = _MOST
    ) -> None:
        """`read` gives the versions of rows, in any order; `book` is the name of what they are in.

        Where more than `most` are at hand all are let go.
        """
        self._from_book, self._book, self._most = read, book, most
        self._lock = threading.Lock()
        self._kept: dict[int, StoredRule] = {}

    def fetch(self, rows: Sequence[int]) -> list[StoredRule]:
        """The rule versions of these rows, in the order asked for. Raises `NotFound`."""
        kept = self._kept  # is replaced, never emptied
        known = {row: kept[row] for row in rows if row in kept}
        unread = [row for row in rows if row not in known]
        if unread:
            read = {stored.row: stored for stored in self._from_book(unread)}
            self._keep(read)
            known |= read
        missing = next((row for row in unread if row not in known), None)
        if missing is not None:
            raise NotFound(f"{self._book}: the book of record has no row {missing}")
        return [known[row] for row in rows]

    def _keep(self, read: dict[int, StoredRule]) -> None:
        with self._lock:
            if len(self._kept) + len(read) > self._most:
                self._kept = {}
            if len(read) <= self._most:
                self._kept.update(read)
