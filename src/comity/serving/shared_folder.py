"""The folder that the workers of one gateway share: in memory where the system has such a place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comity.errors import StoreError

_IN_MEMORY = Path("/dev/shm")
_PREFIX = "comity-"
_LOCK = "lock"


@contextmanager
def shared_folder(*parts: str, place: Path | None = None) -> Iterator[Path]:
    """A new folder with these parts, which only this user can open; it goes with the block.

    Folders that killed processes have left in the same place are removed. Raises `StoreError`.
    """
    place = place or _place()
    for left in place.glob(f"{_PREFIX}*/{_LOCK}"):
        _remove_if_left(left)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        lock = _hold(folder)
        for part in parts:
            (folder / part).mkdir(mode=0o700)
    except OSError as error:
        raise StoreError(
            f"{place}: workers can share no folder there ({error.strerror})"
        ) from error
    try:
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _place() -> Path:
    usable = _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK | os.X_OK)
    return _IN_MEMORY if usable else Path(tempfile.gettempdir())


def _hold(folder: Path) -> int:
    """A lock that the system lets go when this process ends, however it does."""
    import fcntl

    new = folder / f"{_LOCK}.new"
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    new.rename(folder / _LOCK)  # there is no moment at which it lies there unlocked
    return file


def _remove_if_left(lock: Path) -> None:
    import fcntl

    try:
        file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # another user's, or just removed
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.parent, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(file)
