"""PostgreSQL as book of record keeps the contract of every book of record."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.postgres_server import Server

from contracts.pairs import *  # noqa: F403 - the contract's tests
from contracts.preference_book import *  # noqa: F403 - the contract's tests
from contracts.store import *  # noqa: F403 - the contract's tests
from postgres_databases import APP, database, postgres  # noqa: F401 - fixtures

pytest.importorskip("psycopg", reason="needs the extra postgres")

from comity.memory.postgres import PostgresStore
from comity.memory.store import Store


@pytest.fixture
def store(postgres: Server, database: str) -> Iterator[Store]:
    opened = PostgresStore(postgres.url(database, APP))
    yield opened
    opened.close()
