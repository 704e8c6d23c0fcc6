"""One PostgreSQL server for a run of the tests, and a new database for each test that wants one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from benchmarks.postgres_server import NoServer, Server, running

OWNER, APP = "comity_owner", "comity_app"
_NAMES = (f"memory_{os.getpid()}_{number}" for number in itertools.count())


@contextmanager
def server() -> Iterator[Server]:
    """A server with the two roles that docs/postgresql.md names; skips where there is none."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    try:
        with running(durable=False) as started:
            started.execute(f"CREATE ROLE {OWNER} LOGIN", f"CREATE ROLE {APP} LOGIN")
            new_database(started, "template_of_all")
            yield started
    except NoServer as reason:
        pytest.skip(str(reason))


def new_database(started: Server, name: str = "", template: str = "template0") -> str:
    """Make a database of the owner's, in which the other role may use what he makes."""
    name = name or next(_NAMES)
    started.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template} STRATEGY wal_log")
    if template != "template0":
        anew = "UPDATE comity.identity SET value = replace(gen_random_uuid()::text, '-', '')"
        started.execute(anew, database=name)
    else:
        started.execute(
            f"GRANT CONNECT ON DATABASE {name} TO {APP}",
            "CREATE SCHEMA comity",
            f"ALTER SCHEMA comity OWNER TO {OWNER}",
            f"GRANT USAGE ON SCHEMA comity TO {APP}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA comity "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {APP}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA comity "
            f"GRANT USAGE ON SEQUENCES TO {APP}",
            database=name,
        )
    return name


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    """A server whose template has the tables already."""
    with server() as started:
        from comity.memory.postgres import PostgresStore

        PostgresStore(started.url("template_of_all", OWNER)).close()
        yield started


@pytest.fixture
def database(postgres: Server) -> str:
    """A new database with empty tables."""
    return new_database(postgres, template="template_of_all")
