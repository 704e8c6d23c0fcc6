"""Opens the book of record that a URL names: a file of SQLite, or a PostgreSQL database."""

from __future__ import annotations

from pathlib import Path

from comity.cache import cache_folder
from comity.errors import SettingsError, StoreError
from comity.memory.postgres_connections import SCHEMES, is_conninfo, shown
from comity.memory.sqlite import SqliteStore
from comity.memory.store import Store

__all__ = [
    "in_postgres",
    "index_folder",
    "is_there",
    "lives_here_only",
    "make_folder",
    "open_store",
    "path_of",
    "shown",
]


def in_postgres(url: str) -> bool:
    """Whether the URL names a PostgreSQL database."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme in SCHEMES


def path_of(url: str) -> Path | None:
    """The file of a memory's URL; `None` for one that lives in this process or on a server.

    Raises `SettingsError` for a URL of another kind.
    """
    scheme, separator, rest = url.partition("://")
    if not separator and is_conninfo(url):
        raise SettingsError(
            "the memory is written as key=value pairs: write postgresql://USER@HOST:PORT/DATABASE, "
            "and keep the password in ~/.pgpass or PGPASSWORD"
        )
    if not separator:
        return Path(url)
    if scheme in SCHEMES:
        return None
    if scheme != "sqlite" or (rest and not rest.startswith("/") and rest != ":memory:"):
        raise SettingsError(
            f"memory {scheme}://…: only sqlite:///FILE and postgresql://USER@HOST/DATABASE are "
            "supported; for a file in this folder write sqlite:///rules.db"
        )
    return Path(rest[1:]) if rest.strip("/") not in ("", ":memory:") else None


def open_store(url: str) -> Store:
    """Open or create the book of record. Raises `SettingsError`, `MissingExtra`, `StoreError`."""
    if in_postgres(url):
        from comity.memory.postgres import PostgresStore

        return PostgresStore(url)
    return SqliteStore(path_of(url))


def is_there(url: str) -> bool:
    """Whether a memory is at the URL, whatever it holds; one in this process always is.

    Raises `StoreError` where a server does not answer.
    """
    if in_postgres(url):
        from comity.memory.postgres_format import is_there as is_in_database

        return is_in_database(url)
    path = path_of(url)
    return path is None or path.exists()


def lives_here_only(url: str) -> bool:
    """Whether no other process can open the memory."""
    return not in_postgres(url) and path_of(url) is None


def index_folder(url: str, store: Store) -> Path | None:
    """Where a local index keeps its snapshot and the vectors; `None` for nowhere.

    It lies beside a file; the one of a database is on each host, in the folder of caches, and
    named by the memory's identity.
    """
    if in_postgres(url):
        return cache_folder() / "memories" / f"{store.identity()}.index"
    path = path_of(url)
    return path.with_name(path.name + ".index") if path else None


def make_folder(folder: Path) -> None:
    """Make the index's folder, for this user alone where it is a cache. Raises `StoreError`."""
    try:
        if folder.parent.name == "memories":
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder}, the index's folder, cannot be made ({error}): remove what stands there, or "
            "see that you may write there"
        ) from error
