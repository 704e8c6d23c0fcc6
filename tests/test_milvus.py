"""The index in Milvus: the contract against milvus-lite's server, and what may befall it there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from comity.errors import EmbedderError, SettingsError, StoreError
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory, rebuild_index
from comity.memory.milvus import MilvusIndex
from comity.memory.milvus_server import MilvusServer, address_of
from comity.memory.sqlite import SqliteStore
from comity.memory.vectors import VectorCache
from comity.records import Rule, Scope
from comity.retrieval.search import search
from comity_command import Command
from contracts.index import *  # noqa: F403 - the contract's tests
from contracts.index import Indexed
from milvus_servers import Running, serving, start

MilvusClient = pytest.importorskip("pymilvus", reason="needs the extra milvus").MilvusClient


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from serving(tmp_path_factory.mktemp("milvus"))


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


def ids(indexed: Indexed, text: str, scope: Scope = Scope()) -> list[str]:  # noqa: B008
    """Found by words, and by meaning as well."""
    found = indexed.matching(text, scope)
    assert set(found) <= set(indexed.nearest(text, scope))
    return found


def test_names_that_would_break_out_of_a_filter_find_their_own_rules_only(
    indexed: Indexed,
) -> None:
    names = ('a" or tenant != "', "']) or true or (place in ['", "x\x00", "\\", "{t}", "狗 𝒳")
    for name in names:
        rule = Rule(id=f"of {name}", text="dogs", tenant=name, place=f"XA/{name}", audience=(name,))
        indexed.add(rule, Rule(id=name, text="dogs", tenant=name, overrides=names), tenant=name)
    for name in names:
        here = Scope(tenant=name, place=(f"XA/{name}",), audience=(name,))
        assert sorted(ids(indexed, "dogs", here)) == sorted((f"of {name}", name))
        assert ids(indexed, "dogs", Scope(tenant=name)) == [name]
        assert ids(indexed, "dogs", here.model_copy(update={"tenant": f"{name}."})) == []
        assert indexed.index.audiences(name) == {name}
        mask = indexed.index.admit(here)
        rows = indexed.index.overriders(name, [f"of {name}", name], mask)
        assert [stored.rule.id for stored in indexed.store.fetch(rows)] == [name]


def test_a_rule_is_found_by_every_index_as_soon_as_it_is_acknowledged(indexed: Indexed) -> None:
    others = [indexed.reopen() for _ in range(2)]

    def add_and_look(writer: int) -> None:
        for n in range(3):
            indexed.add(Rule(id=f"{writer}-{n}", text=f"zebra{writer}x{n}"))
            for index in others:
                index.catch_up()
                found = index.matching(f"zebra{writer}x{n}", index.admit(Scope()), 5)
                assert indexed.ids(found.positions) == [f"{writer}-{n}"]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add_and_look, range(3)))
    assert len(ids(indexed, " ".join(f"zebra{w}x{n}" for w in range(3) for n in range(3)))) == 9


def test_a_dropped_collection_is_made_anew(milvus: Running, indexed: Indexed) -> None:
    indexed.add(Rule(id="a", text="dogs", audience=("owners",)), Rule(id="b", text="cats"))
    other = indexed.reopen()
    owners = Scope(audience=("owners",))
    for index in (indexed.index, other):
        index.catch_up()
    mask = other.admit(owners)
    MilvusServer(address_of(milvus.address)).drop(indexed.store.identity())
    assert indexed.ids(other.matching("dogs", mask, 5).positions) == ["a"]
    indexed.add(Rule(id="c", text="dogs and zebras"))
    assert sorted(ids(indexed, "dogs zebras", owners)) == ["a", "c"]
    assert indexed.index.audiences("default") == {"owners"}


def test_a_collection_of_another_embedder_or_memory_is_not_touched(milvus: Running) -> None:
    address = f"{milvus.address}?collection=shared"
    first = open_indexed(address)
    first.add(Rule(id="a", text="dogs"))
    first.index.catch_up()
    with pytest.raises(StoreError, match=r"shared_.* belongs to another memory.*collection=NAME"):
        open_indexed(address)
    other = HashEmbedder(32)
    with pytest.raises(EmbedderError, match=r"hash@64.*hash@32.*comity index rebuild"):
        MilvusIndex(first.store, other, VectorCache(None), first.server, threading.Lock)
    assert ids(first, "dogs") == ["a"]
    first.server.drop(first.store.identity())


def test_a_book_with_another_history_has_its_collection_made_anew(
    milvus: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = tmp_path / "rules.db"
    first = open_indexed(milvus.address, book=book)
    first.add(Rule(id="a", text="dogs"))
    first.store.close()
    backup = book.read_bytes()
    first = open_indexed(milvus.address, book=book)
    first.add(Rule(id="lost", text="dogs"))
    first.index.catch_up()
    first.store.close()
    book.write_bytes(backup)
    restored = open_indexed(milvus.address, book=book)
    restored.add(Rule(id="b", text="dogs"))
    assert sorted(ids(restored, "dogs")) == ["a", "b"]
    assert "another history" in caplog.text
    restored.server.drop(restored.store.identity())
    restored.store.close()


def test_versions_of_one_revision_that_are_written_in_two_batches_end_one_another(
    indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comity.memory.milvus._ROWS_AT_ONCE", 3)
    indexed.add(Rule(id="old", text="dogs", mandatory=True))
    indexed.index.catch_up()
    since = datetime(2020, 1, 1, tzinfo=UTC)
    firsts = [Rule(id=name, text="dogs", mandatory=True) for name in ("gone", "kept", "new")]
    indexed.add(
        *firsts,
        Rule(id="gone", text="dogs", version=2, status="repealed"),
        Rule(id="new", text="dogs and cats", version=2, mandatory=True),
        Rule(id="old", text="dogs", version=2, valid_from=since, status="repealed"),
        Rule(id="more", text="dogs", mandatory=True),
    )
    indexed.index.catch_up()
    rows = indexed.index.mandatory(indexed.index.admit(Scope()))
    found = [stored.rule for stored in indexed.store.fetch(rows)]
    assert sorted(rule.key for rule in found) == [("kept", 1), ("more", 1), ("new", 2)]


@pytest.mark.parametrize("index", ["vector", "sparse"])
def test_an_index_that_was_not_made_before_a_kill_is_made_by_the_next_process(
    milvus: Running, indexed: Indexed, index: str
) -> None:
    assert isinstance(indexed.index, MilvusIndex)
    name = indexed.index.collection.name
    client = MilvusClient(address_of(milvus.address).server)
    client.release_collection(name)
    client.drop_index(name, index)
    indexed.index = indexed.reopen()
    indexed.add(Rule(id="a", text="dogs"))
    assert ids(indexed, "dogs") == ["a"]
    assert sorted(client.list_indexes(name)) == ["sparse", "vector"]
    client.close()


class Interrupted(HashEmbedder):
    """Stops once, as Ctrl-C would, after some texts."""

    left = 300

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.left -= len(texts)
        if -len(texts) <= self.left < 0:
            raise KeyboardInterrupt
        return super().embed_passages(texts)


def test_what_was_broken_off_goes_on(milvus: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comity.memory.milvus._ROWS_AT_ONCE", 100)
    opened = open_indexed(milvus.address, Interrupted(64))
    opened.add(*(Rule(id=f"r{n}", text=f"dogs {n * 7919:06d}") for n in range(450)))
    with pytest.raises(KeyboardInterrupt):
        opened.index.catch_up()
    opened.index = opened.reopen()
    assert opened.index.catch_up() == 1
    for n in (17, 250, 449):
        assert opened.matching(f"{n * 7919:06d}") == [f"r{n}"]
    opened.server.drop(opened.store.identity())


def test_more_rows_than_an_answer_holds_come_in_pages(indexed: Indexed) -> None:
    indexed.add(*(Rule(id=f"r{n}", text="x", mandatory=True) for n in range(7)))
    indexed.index.catch_up()
    assert isinstance(indexed.index, MilvusIndex)
    mask = indexed.index.admit(Scope())
    collection = indexed.index.collection
    for page in (2, 7, 8):
        collection.page = page
        assert len(indexed.index.mandatory(mask)) == 7


def test_a_server_that_was_started_anew_goes_on_with_what_it_had(tmp_path: Path) -> None:
    running = start(tmp_path / "data")
    opened = open_indexed(running.address)
    opened.add(Rule(id="a", text="dogs"))
    opened.index.catch_up()
    running.stop()
    with pytest.raises(StoreError, match=r"127\.0\.0\.1.* cannot be used .*server runs"):
        open_indexed(running.address)
    again = start(tmp_path / "data", running.port)
    assert ids_once_connected(opened, "dogs") == ["a"]
    opened.add(Rule(id="b", text="zebras and dogs"))
    assert ids(opened, "zebras dogs") == ["b", "a"]
    again.stop()


def ids_once_connected(indexed: Indexed, text: str) -> list[str]:
    """Until a connection stands again, searches fail and say so."""
    give_up = time.monotonic() + 30
    while True:
        try:
            return ids(indexed, text)
        except StoreError:
            assert time.monotonic() < give_up
            time.sleep(0.1)


def test_a_memory_is_searched_in_milvus_as_it_is_here(milvus: Running, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/rules.db"
    rules = [
        Rule(id="leash", text="dogs must be on a leash", mandatory=True),
        Rule(id="free", text="dogs may run free", overrides=("leash",)),
        Rule(id="cats", text="cats may sleep anywhere", audience=("Owners",)),
        Rule(id="far", text="dogs on a leash", audience=("vets",)),
    ]
    answers = []
    for index in ("local", milvus.address):
        with Memory.open(url, embedder=HashEmbedder(64), index=index) as memory:
            if not memory.revision:
                memory.add(rules)
                memory.amend("cats", {"text": "cats may sleep on dogs"})
                memory.repeal("free")
            for as_of in (None, 1, 2):
                scope = Scope(audience=("owners",), as_of=as_of)
                found = search(memory, "dogs on a leash", scope)
                answers.append((found.revision, sorted(r.key for r in found.candidates)))
    assert answers[:3] == answers[3:]
    rebuild_index(url, memory_book(url), index=milvus.address)


def test_the_command_line_searches_describes_and_rebuilds(milvus: Running, tmp_path: Path) -> None:
    comity = Command(tmp_path)
    with Memory.open(comity.environ["COMITY_MEMORY"], embedder="hash") as memory:
        memory.add(Rule(id="a", text="dogs must be on a leash"))
        embedder = memory.embedder.id
    comity.environ["COMITY_INDEX"] = milvus.address

    assert comity.json("index", "info") == {"memory_revision": 1}
    assert [hit["id"] for hit in comity.json("search", "dogs")] == ["a"]
    first = comity.json("index", "info")
    assert (first["index_revision"], first["embedder"]) == (1, embedder)
    comity.done("index", "rebuild")
    again = comity.json("index", "info")
    assert again["index_revision"] == 1
    assert again["collection"] != first["collection"]


def memory_book(url: str) -> SqliteStore:
    return SqliteStore(Path(url.removeprefix("sqlite:///")))


@pytest.mark.parametrize("index", ["faiss", "milvus", "milvus:localhost"])
def test_an_unknown_index_is_refused(tmp_path: Path, index: str) -> None:
    with pytest.raises(SettingsError, match="http://HOST:19530"):
        Memory.open(f"sqlite:///{tmp_path}/rules.db", embedder=HashEmbedder(8), index=index)


def test_a_memory_of_this_process_only_leaves_nothing_in_milvus(milvus: Running) -> None:
    with pytest.raises(SettingsError, match="lives in this process only"):
        Memory.open("sqlite://", embedder=HashEmbedder(8), index=milvus.address)
