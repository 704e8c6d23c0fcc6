"""The index in Milvus: the contract against milvus-lite's server, and what may befall it there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from comity.memory.embed import HashEmbedder
from comity.memory.milvus import MilvusIndex
from comity.memory.milvus_server import MilvusServer, address_of
from comity.memory.sqlite import SqliteStore
from comity.memory.vectors import VectorCache
from contracts.index import *  # noqa: F403 - the contract's tests
from contracts.index import Indexed

pytest.importorskip("pymilvus", reason="needs the extra milvus")
lite = pytest.importorskip("milvus_lite.adapter.grpc.server", reason="needs milvus-lite")


class Running(NamedTuple):
    """A milvus-lite server in this process."""

    server: Any
    database: Any
    port: int

    @property
    def address(self) -> str:
        return f"milvus:http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.stop(grace=0)
        self.database.close()


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(*lite.start_server_in_thread(str(tmp_path_factory.mktemp("milvus"))))
    yield running
    running.stop()


class InMilvus(Indexed):
    """A book in this process and an index over it on a server."""

    server: MilvusServer


def open_indexed(
    address: str, embedder: HashEmbedder | None = None, book: Path | None = None
) -> InMilvus:
    embedder = embedder or HashEmbedder(64)
    store, vectors, turn = SqliteStore(book), VectorCache(None), threading.Lock()
    server = MilvusServer(address_of(address))

    def reopen() -> MilvusIndex:
        return MilvusIndex(store, embedder, vectors, server, lambda: turn)

    opened = InMilvus(store, embedder, reopen(), reopen)
    opened.server = server
    return opened


@pytest.fixture
def indexed(milvus: Running) -> Iterator[Indexed]:
    opened = open_indexed(milvus.address)
    yield opened
    opened.server.drop(opened.store.identity())
    opened.server.close()
    opened.store.close()
