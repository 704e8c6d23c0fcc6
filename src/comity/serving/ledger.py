"""What each key has used, counted in one process or by all workers of a host together."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from comity.serving.wire import Refused

_MOST = 1 << 20  # bytes of one account


@dataclass(slots=True)
class Account:
    """What one key has left, and how many of its answers are in progress."""

    left: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By name of the bucket: what is in it, and when that was so, in seconds of the clock."""
    running: dict[str, int] = field(default_factory=dict)
    """Answers in progress, by the worker that writes them."""


class Ledger(Protocol):
    """Keeps the accounts; only one at a time changes one."""

    worker: str
    """Name of this process in `Account.running`."""

    def account(self, key: str) -> AbstractContextManager[Account]:
        """A key's account, locked and open to changes; an error inside leaves it as it was."""

    def lives(self, worker: str) -> bool:
        """Whether a worker is still there."""


class ProcessLedger:
    """Accounts of one process, shared by its threads."""

    def __init__(self) -> None:
        self.worker = str(os.getpid())
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}

    @contextmanager
    def account(self, key: str) -> Iterator[Account]:
        """As in `Ledger`."""
        with self._lock:
            yield self._accounts.setdefault(key, Account())

    def lives(self, worker: str) -> bool:
        """As in `Ledger`."""
        return worker == self.worker


class FolderLedger:
    """Accounts that the workers of one host share: a small file for each key, under a lock.

    The system gives the lock back when a worker dies, and a file is written by one call, so that
    no death leaves half an account. The folder belongs in memory (`/dev/shm`).
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is there, and nobody else's."""
        self.worker = str(os.getpid())
        self._folder = folder

    @contextmanager
    def account(self, key: str) -> Iterator[Account]:
        """As in `Ledger`. Raises `Refused` (503) where the folder cannot be used."""
        import fcntl

        name = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        with self._told():
            file = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            raw = os.read(file, _MOST)
            account = Account(**json.loads(raw)) if raw else Account()
            yield account
            with self._told():
                # filled up and never cut: JSON allows blanks, and there is no moment between
                text = json.dumps({"left": account.left, "running": account.running})
                os.pwrite(file, text.encode().ljust(len(raw)), 0)
        finally:
            os.close(file)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Refused(
                503,
                f"the limits of keys cannot be kept ({error.strerror}): see to {self._folder}",
                kind="server_error",
                headers={"retry-after": "5"},
            ) from error

    def lives(self, worker: str) -> bool:
        """As in `Ledger`."""
        try:
            os.kill(int(worker), 0)
        except ProcessLookupError:
            return False
        return True
