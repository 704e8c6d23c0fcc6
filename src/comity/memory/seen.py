"""Which ids have come in a stream: exact, and on disk, so that memory does not grow with them."""

from __future__ import annotations

import apsw

from comity.errors import DuplicateRule, MemoryFull

_CACHE_KB = 8_192


class SeenIds:
    """The ids of a stream, each of whose rules comes with all its versions one after another."""

    def __init__(self) -> None:
        self._last = ""
        # a database without a name lies in a temporary file, which is gone when it is closed
        self._connection = apsw.Connection("")
        self._connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}; PRAGMA journal_mode = OFF")
        self._connection.execute(
            "CREATE TABLE seen (id BLOB PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID; BEGIN"
        )

    def note(self, rule_id: str, place: str) -> bool:
        """Note that a row of a rule stands at a place; whether it is the rule's first row.

        Raises `DuplicateRule` where other rules stand between it and an earlier row, and
        `MemoryFull` where there is no room.
        """
        if rule_id == self._last:
            return False
        self._last = rule_id
        key = rule_id.encode("utf-8", "surrogatepass")
        try:
            self._connection.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, place))
            if self._connection.changes():
                return True
            first = self._connection.execute("SELECT place FROM seen WHERE id = ?", (key,)).get
        except (apsw.FullError, apsw.IOError) as error:
            raise MemoryFull(
                f"{place}: the ids of the stream cannot be kept in a temporary file ({error}): "
                "make room, or name a folder that has room in SQLITE_TMPDIR"
            ) from error
        raise DuplicateRule(
            f"rule {rule_id!r} stands in two places: {first}, and {place}; in a stream the "
            "versions of a rule stand one after another: move them together, or give one another id"
        )

    def close(self) -> None:
        """Remove the file."""
        self._connection.close()
