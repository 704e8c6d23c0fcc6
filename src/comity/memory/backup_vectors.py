"""The cache of vectors, copied beside a backup: what is restored need not be embedded anew."""

from __future__ import annotations

from pathlib import Path

from comity.errors import NotFound, StoreError
from comity.memory.new_file import new_file
from comity.memory.open_store import index_folder, is_there, make_folder, open_store, shown
from comity.memory.sqlite import translated

_NAME = "vectors.db"


def copy_vectors(url: str, target: Path) -> Path:
    """Copy the vectors of a memory's rules to a new file, while they are in use.

    Raises `NotFound` where there are none on this host, `TargetTaken`, and `StoreError` and its
    kin.
    """
    file = _vectors_of(url)
    if not file.is_file():
        raise NotFound(f"there are no vectors at {file}: they come with the first search")
    _copy(file, target)
    return target


def check_vectors(file: Path) -> None:
    """See that a file holds copied vectors. Raises `NotFound`, and `StoreError` where not."""
    import apsw

    if not file.is_file():
        raise NotFound(f"there are no vectors at {file}")
    try:
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.execute("SELECT content, embedder, vector FROM vectors LIMIT 1").fetchall()
        finally:
            connection.close()
    except apsw.Error as error:
        raise StoreError(
            f"{file} holds no vectors ({error}): give --vectors the file that "
            "`comity backup --vectors` made, or leave it out"
        ) from error


def put_vectors(file: Path, url: str) -> Path | None:
    """Give a memory vectors that were copied; None where it has some already.

    Raises `NotFound`, and `StoreError` and its kin.
    """
    check_vectors(file)
    target = _vectors_of(url)
    if target.exists():
        return None
    make_folder(target.parent)
    _copy(file, target)
    return target


def _vectors_of(url: str) -> Path:
    if not is_there(url):
        raise NotFound(f"there is no memory at {shown(url)}")
    store = open_store(url)
    try:
        folder = index_folder(url, store)
    finally:
        store.close()
    if folder is None:
        raise NotFound(f"memory {url!r} keeps no vectors in a file")
    return folder / _NAME


def _copy(file: Path, target: Path) -> None:
    import apsw

    with new_file(target) as part, translated(file):
        connection = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.execute("VACUUM INTO ?", (str(part),))
        finally:
            connection.close()
