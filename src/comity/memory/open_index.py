"""Opens the index that the settings name: in this process, or in Milvus."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.errors import SettingsError
from comity.memory.embed import Embedder
from comity.memory.index import Index, LocalIndex, remove_index
from comity.memory.sqlite import SqliteStore
from comity.memory.store import Store
from comity.memory.vectors import VectorCache

if TYPE_CHECKING:
    from comity.memory.milvus import Turn
    from comity.memory.milvus_server import MilvusServer

LOCAL = "local"


def open_index(
    store: Store,
    embedder: Embedder,
    vectors: VectorCache,
    folder: Path | None,
    *,
    index: str = LOCAL,
    token: str = "",
) -> Index[Any]:
    """The index of a book of record: `local`, or `milvus:http://HOST:19530` with a token.

    `folder` is where a local one keeps its snapshot. Raises `SettingsError` for another name and
    for a book that lives in this process only, `MissingExtra`, and `StoreError` or
    `EmbedderError` where the index cannot be used.
    """
    if index == LOCAL:
        return LocalIndex(store, embedder, vectors, folder)
    from comity.memory.milvus import MilvusIndex

    server = _server(index, token)
    try:
        return MilvusIndex(store, embedder, vectors, server, _turn(store, index))
    except BaseException:
        server.close()
        raise


def described_in_milvus(store: Store, index: str, token: str) -> dict[str, Any]:
    """What the index of a book in Milvus was built from; empty where there is none."""
    server = _server(index, token)
    try:
        return server.described(store.identity())
    finally:
        server.close()


def drop_index(store: Store, folder: Path | None, *, index: str = LOCAL, token: str = "") -> None:
    """Delete the index of a book, so that the next opening makes it anew."""
    if index == LOCAL:
        if folder:
            remove_index(folder)
        return
    server = _server(index, token)
    try:
        with _turn(store, index)():
            server.drop(store.identity())
    finally:
        server.close()


def _server(index: str, token: str) -> MilvusServer:
    from comity.memory.milvus_server import KIND, MilvusServer, address_of

    if not index.startswith(KIND):
        raise SettingsError(f"unknown index {index!r}: it is {LOCAL}, or {KIND}http://HOST:19530")
    return MilvusServer(address_of(index), token)


def _turn(store: Store, index: str) -> Turn:
    """How the processes that share a book take turns in following it."""
    if not isinstance(store, SqliteStore):
        return lambda: _alone(store)
    if store.path is None:
        raise SettingsError(
            f"index {index!r}: the memory lives in this process only, and what others keep of it "
            "would outlive it: choose another --memory, or --index local"
        )
    from filelock import FileLock

    lock = FileLock(f"{store.path}.following")
    return lambda: lock


def _alone(store: Any) -> AbstractContextManager[Any]:
    taken: AbstractContextManager[Any] = store.alone("milvus")
    return taken
