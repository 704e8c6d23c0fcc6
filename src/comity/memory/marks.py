"""Marks of progress: how far a stream has come, in the notes of the revisions it made."""

from __future__ import annotations

import re
from typing import NamedTuple

from comity.memory.store import Store

_MARK = re.compile(r"\[stream ([0-9a-f]{16}): (\d+) rows, (\d+) bytes, sha256 ([0-9a-f]{64})\]$")


class Mark(NamedTuple):
    """How far a stream has come."""

    stream: str
    """16 hex digits: which files, read with which settings."""
    rows: int
    """Rows that were read."""
    bytes: int
    """Bytes of the files, read in their order, in which these rows stand."""
    sha256: str
    """Over the stream's name and these bytes."""

    def __str__(self) -> str:
        return f"[stream {self.stream}: {self.rows} rows, {self.bytes} bytes, sha256 {self.sha256}]"


def last_mark(store: Store, tenant: str, stream: str) -> Mark | None:
    """How far a stream came, if the tenant's last import was of this stream.

    Behind another import, or another stream, the memory may hold something else than this one
    left: then there is no mark, and a stream begins at its first row and compares.
    """
    notes = (made.note for made in reversed(store.revisions(tenant)) if made.kind == "import")
    found = _MARK.search(next(notes, ""))
    if found is None or found[1] != stream:
        return None
    return Mark(found[1], int(found[2]), int(found[3]), found[4])
