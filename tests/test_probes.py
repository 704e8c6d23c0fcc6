"""Whether the gateway can answer: its probes, while its memory cannot be used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import httpx
import pytest

from comity import Memory, Rule
from comity.memory.embed import HashEmbedder
from comity.serving.app import create_app
from comity.serving.config import Gateway
from test_gateway import served


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.db"


@pytest.fixture
def gateway(file: Path) -> Iterator[httpx.Client]:
    with Memory.open(f"sqlite:///{file}", embedder=HashEmbedder(64)) as memory:
        memory.add(Rule(id="a", text="Dogs are kept on a lead."))
        with (
            served(create_app(memory, Gateway())) as url,
            httpx.Client(base_url=url.removesuffix("/v1"), timeout=30) as client,
        ):
            yield client


def test_a_gateway_that_can_answer_is_ready_and_tells_its_revision(gateway: httpx.Client) -> None:
    told = gateway.get("/readyz")
    assert (told.status_code, told.json()["revision"]) == (200, 1)


def test_a_memory_that_another_process_holds_is_told_in_time_and_holds_nothing_else_up(
    gateway: httpx.Client, file: Path
) -> None:
    assert gateway.get("/readyz").status_code == 200
    holder = apsw.Connection(str(file))
    holder.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(3) as threads:
        start = time.monotonic()
        url = str(gateway.base_url)
        asked = [threads.submit(httpx.get, f"{url}/readyz", timeout=30) for _ in range(3)]
        assert gateway.get("/healthz").status_code == 200
        assert not any(each.done() for each in asked), "it did not wait for the memory"
        for each in asked:
            told = each.result()
            assert told.status_code == 503
            assert "locked by another process" in told.json()["reason"]
        assert time.monotonic() - start < 10
    holder.execute("ROLLBACK")
    holder.close()
    assert gateway.get("/readyz").status_code == 200


def test_a_damaged_memory_is_told_and_the_process_is_healthy(
    gateway: httpx.Client, file: Path
) -> None:
    file.write_bytes(b"no database at all " * 300)
    for part in ("-wal", "-shm"):
        file.with_name(file.name + part).unlink()
    told = gateway.get("/readyz")
    assert told.status_code == 503
    assert "damaged" in told.json()["reason"]
    assert gateway.get("/healthz").status_code == 200
