"""Ends what a server that stands still would keep waiting for ever.

A server whose process is frozen (a paused machine, dead storage) takes packets and never answers:
neither keepalives nor its own `statement_timeout` help. So a thread looks, twice a second, for
connections that have waited too long, and shuts their sockets from this side.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from comity.errors import StoreError, StoreUnreachable

if TYPE_CHECKING:
    from comity.memory.postgres_connections import Connection

_LOOK_SECONDS = 0.5


@dataclass(eq=False)
class _Wait:
    connection: Connection
    until: float
    given_up: bool = False


class Patience:
    """How long connections may wait for a server. Its thread begins with the first wait."""

    def __init__(self, shown: str) -> None:
        """`shown` names the server in errors."""
        self._shown = shown
        self._waits: set[_Wait] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def within(self, connection: Connection, seconds: float) -> Iterator[None]:
        """The block must end in so many seconds; else the connection is broken off.

        Raises `StoreUnreachable` then, and what the block raises otherwise.
        """
        wait = _Wait(connection, time.monotonic() + seconds)
        with self._lock:
            self._waits.add(wait)
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._look, name="patience", daemon=True)
                self._thread.start()
        try:
            yield
        except Exception as error:
            if wait.given_up and not isinstance(error, StoreError):  # which says more
                raise StoreUnreachable(
                    f"{self._shown} cannot be reached: it has not answered for {seconds:g} seconds"
                ) from error
            raise
        finally:
            with self._lock:
                self._waits.discard(wait)

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            now = time.monotonic()
            with self._lock:
                for wait in self._waits:
                    if wait.until < now and not wait.given_up:
                        wait.given_up = True
                        _shut(wait.connection)

    def close(self) -> None:
        """End the thread. Calling it twice is harmless."""
        self._closed.set()


def _shut(connection: Connection) -> None:
    """Shut its socket, which wakes the thread that waits on it; closing is that thread's part."""
    from psycopg import OperationalError

    with suppress(OSError, OperationalError):  # the latter where it is closed already
        shared = socket.socket(fileno=os.dup(connection.fileno()))
        with shared:
            shared.shutdown(socket.SHUT_RDWR)
