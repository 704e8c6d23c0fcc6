"""Decisions that could not be recorded when they were made: kept in a file, and brought in later.

One JSON line each, synced to disk before the answer leaves, in a file of bounded size that
several processes may share. It holds personal texts for as long as the record is down.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from comity.alignment.decisions import append
from comity.errors import MemoryFull, NotFound, StoreError
from comity.memory.memory import Memory
from comity.records import Decision

_LOG = logging.getLogger(__name__)


def spool_beside(memory: Path) -> Path:
    """Where the decisions of a memory in this file wait, if nothing else was said."""
    return memory.with_name(memory.name + ".spool.jsonl")


class Spool:
    """A file of decisions that wait for the record. Threads and processes may share it."""

    def __init__(self, path: Path, most: int) -> None:
        """The file at `path` holds at most `most` bytes; it is made when it is needed."""
        self.path = path
        self._most = most

    @property
    def waits(self) -> bool:
        """Whether any decision waits."""
        try:
            return self.path.stat().st_size > 0
        except FileNotFoundError:
            return False

    def count(self) -> int:
        """How many decisions wait."""
        return self.path.read_bytes().count(b"\n") if self.waits else 0

    def keep(self, decision: Decision) -> None:
        """Keep a decision; durable when it returns. Raises `MemoryFull` or `StoreError`."""
        line = decision.model_dump_json(exclude_defaults=True).encode() + b"\n"
        with self._opened() as file:
            end = _cut_back(file)
            if end + len(line) > self._most:
                raise MemoryFull(
                    f"{self.path}: {self.count()} decisions wait for the record, and there is no "
                    f"room for another in {self._most / 1e6:g} MB"
                )
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def bring_in(self, memory: Memory) -> int:
        """Record the decisions that wait, oldest first, and tell how many that were.

        One that is on record already is left out, so that it may be interrupted and called again.
        A line that cannot be read stays in the file, with a warning. Raises `StoreError` where the
        record still fails: then the file stays as it is.
        """
        if not self.waits:
            return 0
        brought, unreadable = 0, []
        with self._opened() as file:
            _cut_back(file)
            file.seek(0)
            for line in file.read().splitlines(keepends=True):
                decision = self._read(line)
                if decision is None:
                    unreadable.append(line)
                elif not _is_recorded(memory, decision):
                    append(memory, decision)
                    brought += 1
            _overwrite(file, b"".join(unreadable))
        if brought:
            _LOG.warning("%d decisions were brought in from %s", brought, self.path)
        return brought

    def _read(self, line: bytes) -> Decision | None:
        try:
            return Decision.model_validate_json(line)
        except ValueError as error:
            told = type(error).__name__  # its words may quote what a user has said
            _LOG.error("%s: a line is no decision, and stays (%s)", self.path, told)
            return None

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """The file, for this process and thread alone."""
        try:
            new = not self.path.exists()
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if new:
                    _sync_folder(self.path.parent)
                yield file
        except OSError as error:
            raise StoreError(f"{self.path}: decisions cannot wait there: {error}") from error


def _is_recorded(memory: Memory, decision: Decision) -> bool:
    try:
        memory.store.decision(decision.tenant, decision.id)
    except NotFound:
        return False
    return True


def _cut_back(file: BinaryIO) -> int:
    """Cut off what a crash has left behind the last whole line, and give the file's size.

    It was never acknowledged.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(size - 1)
    if file.read(1) == b"\n":  # nearly always: the file is not read through for every line
        return size
    file.seek(0)
    held = file.read()
    size = held.rfind(b"\n") + 1
    if size < len(held):
        file.truncate(size)
    return file.seek(size)


def _overwrite(file: BinaryIO, rest: bytes) -> None:
    """Put what is left in place of all that was there; what follows it is overwritten first."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    file.write(rest + b"\0" * (size - len(rest)))
    file.flush()
    os.fsync(file.fileno())
    file.truncate(len(rest))
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
