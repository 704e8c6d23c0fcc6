"""PostgreSQL as book of record keeps the contract of every book of record."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.postgres_server import Server

from contracts.pairs import *  # noqa: F403 - the contract's tests
from contracts.preference_book import *  # noqa: F403 - the contract's tests
from contracts.store import *  # noqa: F403 - the contract's tests
from postgres_databases import APP, OWNER, new_database, server

psycopg = pytest.importorskip("psycopg", reason="needs the extra postgres")

from comity.memory.postgres import PostgresStore  # noqa: E402
from comity.memory.store import Store  # noqa: E402


@pytest.fixture(scope="module")
def started() -> Iterator[Server]:
    with server() as started:
        PostgresStore(started.url("template_of_all", OWNER)).close()
        yield started


@pytest.fixture
def database(started: Server) -> str:
    return new_database(started, template="template_of_all")


@pytest.fixture
def store(started: Server, database: str) -> Iterator[Store]:
    opened = PostgresStore(started.url(database, APP))
    yield opened
    opened.close()
