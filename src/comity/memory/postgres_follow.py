"""Follows the revisions of a PostgreSQL book of record from a thread, woken by the server.

Nothing rests on it: every question asks the book for its latest revision. What is taken in before
the question comes need not be taken in while it waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from comity.errors import ComityError, StoreError
from comity.memory.postgres_connections import Connections, driver
from comity.memory.postgres_tables import CHANNEL

if TYPE_CHECKING:
    from comity.memory.postgres_connections import Connection

_LOG = logging.getLogger(__name__)
_BEAT_SECONDS = 0.5
"""How long it waits for word from the server, and looks for an end, at a time."""
_QUIET_BEATS = 20
"""After so many without word it asks, which also finds out whether the server is there."""
_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)


class Follower:
    """Calls a function soon after each revision, until it is closed.

    Where its connection is lost it makes another, and calls the function once, since the server
    keeps no word for those who were away.
    """

    def __init__(self, connections: Connections, changed: Callable[[], object]) -> None:
        self._connections, self._changed = connections, changed
        self._ended = threading.Event()
        self._failed = 0  # times in a row
        self._lost_at = 0.0
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; returns when the thread has."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._listen()
            except StoreError as problem:
                if not self._failed:
                    self._lost_at = time.monotonic()
                    _LOG.warning("revisions are not followed for now: %s", problem)
                self._ended.wait(_PAUSES[min(self._failed, len(_PAUSES) - 1)])
                self._failed += 1

    def _listen(self) -> None:
        connection = self._connections.connect()
        try:
            with self._connections.translated():
                self._ask(connection, f"LISTEN {CHANNEL}")
                if self._failed:
                    lost = time.monotonic() - self._lost_at
                    _LOG.warning("revisions are followed again, after %.0f seconds", lost)
                self._failed = 0
                self._tell()  # of what was changed before it listened
                quiet = 0
                while not self._ended.is_set():
                    word = next(connection.notifies(timeout=_BEAT_SECONDS, stop_after=1), None)
                    quiet = 0 if word else quiet + 1
                    if word:
                        self._tell()
                    elif quiet >= _QUIET_BEATS:
                        quiet = 0
                        self._ask(connection, "SELECT 1")
        except driver().Error as error:  # of the generator's own closing
            raise StoreError(f"{self._connections.shown}: {error}") from error
        finally:
            connection.close()

    def _ask(self, connection: Connection, sql: str) -> None:
        with self._connections.patience.within(connection, self._connections.short_seconds):
            connection.execute(sql.encode())

    def _tell(self) -> None:
        try:
            self._changed()
        except ComityError as problem:
            _LOG.warning("a revision was not taken in ahead of the questions: %s", problem)
