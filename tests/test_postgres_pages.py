"""Pages, and answers that have begun, from PostgreSQL: the same tests as of SQLite."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.postgres_server import Server

from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from conftest import Clock
from postgres_databases import APP, database, new_database, postgres  # noqa: F401 - fixtures
from test_begun import *  # noqa: F403 - its tests
from test_pages import *  # noqa: F403 - its tests
from test_pages import fill

pytest.importorskip("psycopg", reason="needs the extra postgres")

from comity.memory.postgres import PostgresStore
from comity.memory.store import Store


@pytest.fixture(scope="module")  # type: ignore[no-redef]  # it takes the place of SQLite's
def store(postgres: Server) -> Iterator[Store]:
    book = PostgresStore(postgres.url(new_database(postgres, template="template_of_all"), APP))
    fill(book)
    yield book
    book.close()


@pytest.fixture
def memory(postgres: Server, database: str, clock: Clock) -> Iterator[Memory]:
    url = postgres.url(database, APP)
    with Memory.open(url, embedder=HashEmbedder(64), clock=clock) as opened:
        yield opened
