"""Hosts that share a book of record and an index in Milvus: what one acknowledges, all find."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from benchmarks.postgres_server import Server

from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.records import Rule, Scope
from comity.retrieval.search import search
from milvus_servers import Running, serving
from postgres_databases import APP, database, postgres  # noqa: F401 - fixtures

pytest.importorskip("pymilvus", reason="needs the extra milvus")

_HOSTS, _CHANGES = 3, 2


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serving(tmp_path_factory.mktemp("milvus"))


def hosts(url: str, index: str) -> Iterator[list[Memory]]:
    with ExitStack() as opened:
        yield [
            opened.enter_context(Memory.open(url, embedder=HashEmbedder(32), index=index))
            for _ in range(_HOSTS)
        ]


@pytest.fixture
def over_sqlite(milvus: Running, tmp_path: Path) -> Iterator[list[Memory]]:
    yield from hosts(f"sqlite:///{tmp_path}/rules.db", milvus.address)


@pytest.fixture
def over_postgres(
    milvus: Running,
    postgres: Server,  # noqa: F811
    database: str,  # noqa: F811
) -> Iterator[list[Memory]]:
    yield from hosts(postgres.url(database, APP), milvus.address)


@pytest.mark.parametrize("book", ["over_sqlite", "over_postgres"])
def test_what_one_host_acknowledges_all_have_in_force(
    book: str, request: pytest.FixtureRequest
) -> None:
    memories: list[Memory] = request.getfixturevalue(book)

    def change(number: int) -> None:
        own, other = memories[number], memories[(number + 1) % _HOSTS]
        name = f"rule-{number}"
        own.add(Rule(id=name, text=f"zebra{number} one", mandatory=True))
        for n in range(_CHANGES):
            own.amend(name, {"text": f"zebra{number} word{n}"})
            found = search(other, f"zebra{number} word{n}", Scope())
            texts = [rule.text for rule in found.candidates if rule.id == name]
            assert texts == [f"zebra{number} word{n}"]

    with ThreadPoolExecutor(_HOSTS) as pool:
        list(pool.map(change, range(_HOSTS)))
    for memory in memories:
        assert memory.index.catch_up() == _HOSTS * (1 + _CHANGES)
        assert len(memory.index.mandatory(memory.index.admit(Scope()))) == _HOSTS
        past = memory.index.admit(Scope(as_of=1))
        assert len(memory.index.mandatory(past)) == 1
