"""A file that is there whole or not at all, whatever ends the process that writes it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from comity.errors import ComityError, MemoryFull, StoreError

_SUFFIX = ".comity-part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_BESIDE = ("", "-journal", "-wal", "-shm")  # SQLite's


class TargetTaken(ComityError):
    """There is something already where a new file is to be made."""


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A file to be filled in the block, which becomes `target` when the block ends well.

    Until then it is a `scratch_file`; it is synced to disk before it has the target's name.
    Raises `TargetTaken`, `MemoryFull` or `StoreError`.
    """
    refuse_taken(target)
    with _part_of(target) as (part, descriptor):
        yield part
        os.fsync(descriptor)
        _name(part, target)


@contextmanager
def scratch_file(beside: Path) -> Iterator[Path]:
    """An empty file for the block, beside another one, and readable by its owner alone.

    Its name says that it is a part. Where a process is killed it stays, until the next file is
    made in that folder. Raises `MemoryFull` or `StoreError`.
    """
    with _part_of(beside) as (part, _):
        yield part


@contextmanager
def _part_of(target: Path) -> Iterator[tuple[Path, int]]:
    with _told(target):
        _sweep(target.parent)
        part = target.with_name(f".{target.name}{_SUFFIX}")
        descriptor = _begun(part, target)
        try:
            yield part, descriptor
        finally:
            _remove(part)
            os.close(descriptor)


def refuse_taken(target: Path) -> None:
    """Raise `TargetTaken` where a file stands, or the journal of one that was a memory."""
    for beside in _BESIDE:
        taken = target.with_name(target.name + beside)
        if taken.exists() or taken.is_symlink():
            raise TargetTaken(
                f"{taken} is there already, and nothing is ever overwritten: move it away, or "
                "choose another name"
            )


def _begun(part: Path, target: Path) -> int:
    """A new part, locked as long as its descriptor is open."""
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
    except (FileExistsError, BlockingIOError) as error:
        raise TargetTaken(f"another process is writing {target} now") from error
    return descriptor


def _sweep(folder: Path) -> None:
    """Remove the parts whose processes are gone."""
    for part in folder.glob(f".*{_SUFFIX}"):
        with suppress(OSError):
            descriptor = os.open(part, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(part)
            finally:
                os.close(descriptor)


def _remove(part: Path) -> None:
    for beside in _BESIDE:
        part.with_name(part.name + beside).unlink(missing_ok=True)


def _name(part: Path, target: Path) -> None:
    """Give the part its name; one that came meanwhile is never overwritten."""
    try:
        os.link(part, target)
    except FileExistsError as error:
        raise TargetTaken(f"{target} has come meanwhile, and is not overwritten") from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        refuse_taken(target)  # a file system without hard links
        os.rename(part, target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _told(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise MemoryFull(
                f"{target} was not made: the disk is full ({error}); make room, or choose another"
            ) from error
        raise StoreError(
            f"{target} was not made ({error.strerror}): does its folder exist, and may you write "
            "there?"
        ) from error
