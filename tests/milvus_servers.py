"""One milvus-lite server for a module of tests, spoken to over gRPC as any Milvus is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest


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


def start(folder: Path, port: int = 0) -> Running:
    """A server over a folder; skips where milvus-lite is not there."""
    lite = pytest.importorskip("milvus_lite.adapter.grpc.server", reason="needs milvus-lite")
    return Running(*lite.start_server_in_thread(str(folder), port=port))


def serving(folder: Path) -> Iterator[Running]:
    """A server for as long as the iterator lives: the body of a fixture."""
    running = start(folder)
    yield running
    running.stop()
