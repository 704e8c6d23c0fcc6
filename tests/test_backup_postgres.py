"""Backups of a memory in PostgreSQL, and moves from one engine to the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from benchmarks.postgres_server import Server

from comity import Memory, Rule
from comity.alignment.backups import back_up, restore
from comity.alignment.decisions import follow
from comity.alignment.erasure import erase
from comity.errors import NotFound, StoreError
from comity.memory.backup import Backup, fill
from comity.memory.embed import HashEmbedder
from comity.memory.new_file import TargetTaken
from comity.memory.open_store import is_there
from comity.memory.store import PlaceNames, Store
from comity.records import Erasure
from conftest import Clock
from contracts.store import change
from postgres_databases import APP, OWNER, database, new_database, postgres  # noqa: F401 - fixtures
from test_backup import (
    asked,
    assert_same,
    book,
    bytes_of,
    elsewhere,
    filled,
    made,
    rows_of,
    url_of,
)

psycopg = pytest.importorskip("psycopg", reason="needs the extra postgres")

from comity.memory.backup_postgres import filling_postgres  # noqa: E402
from comity.memory.postgres import PostgresStore  # noqa: E402

__all__ = ["book", "elsewhere", "filled"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def target(postgres: Server, database: str) -> str:  # noqa: F811 - fixtures
    return postgres.url(database, OWNER)


def in_database(url: str, clock: Clock) -> Memory:
    return Memory.open(url, embedder=HashEmbedder(64), clock=clock)


def held(file: Path) -> dict[str, str]:
    tables = Backup(file).manifest.tables
    return {name: table.sha256 for name, table in tables.items() if name != "identity"}


@pytest.mark.usefixtures("cache")
def test_a_memory_moves_to_postgresql_and_back_without_a_byte_that_differs(
    filled: Memory,
    book: Path,
    elsewhere: Path,
    target: str,
    postgres: Server,  # noqa: F811
    clock: Clock,
) -> None:
    first = back_up(url_of(book), elsewhere / "first.backup")
    moved = restore(first.file, target)
    app = target.replace(OWNER, APP)
    second = back_up(app, elsewhere / "second.backup")
    assert held(second.file) == held(first.file)
    assert second.manifest.chains == first.manifest.chains
    assert second.manifest.memory == moved.identity != first.manifest.memory
    restore(second.file, url_of(elsewhere / "back.db"))
    assert rows_of(elsewhere / "back.db") == rows_of(book)
    with in_database(app, clock) as again:
        assert_same(filled, again, filled.revision, clock)
        assert again.add(Rule(id="next", text="Numbers go on.")) == filled.revision + 1
        last = asked(again, "May dogs run in the park?")
        assert last.previous_hash == first.manifest.chains[0].last_hash
        assert follow(again.store.chain("default")).broken is None
    with psycopg.connect(postgres.url(target.split("/")[3].split("?")[0])) as connection:
        for statement in ("DELETE FROM comity.decision", "UPDATE comity.rule SET id = ''"):
            with pytest.raises(psycopg.Error, match="append-only"), connection.transaction():
                connection.execute(statement)


@pytest.fixture
def used(target: str, clock: Clock) -> Iterator[Memory]:
    """A memory in PostgreSQL as the gateways' role has it, with something in it."""
    with in_database(target.replace(OWNER, APP), clock) as memory:
        memory.define_places([PlaceNames(code="XA", names=("Arl",))])
        memory.add([Rule(id="leash", text="Dogs on a leash in the park."), *MORE])
        memory.add(Rule(id="leash", text="Dogs run free.", tenant="other"))
        for _ in range(3):
            asked(memory, "May dogs run in the park?")
        made(memory, "of another tenant", "other")
        erase(memory, "default", [made(memory, "canary-erased").id], by="ann")
        yield memory


MORE = [
    Rule(id="noise", text="No noise in the park at night."),
    Rule(id="works", text="No fireworks in the park."),
]


@pytest.mark.usefixtures("cache")
def test_a_backup_taken_of_postgresql_while_it_is_written_is_of_one_moment(
    used: Memory,
    target: str,
    elsewhere: Path,
    postgres: Server,  # noqa: F811
    clock: Clock,
) -> None:
    over = threading.Event()

    def write() -> None:
        with in_database(target, clock) as memory:
            for n in range(10_000):
                if over.is_set():
                    return
                memory.amend("leash", {"text": f"Dogs on a leash of {n} metres in the park."})
                asked(memory, "May dogs run in the park?", f"As said [R1]. {n}")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        until = used.revision + 2
        while used.revision < until:
            over.wait(0.005)
        taken = back_up(target.replace(OWNER, APP), elsewhere / "b.backup")
        while used.revision < taken.manifest.revision + 2:
            over.wait(0.005)
    finally:
        over.set()
        thread.join()
    assert b"canary-erased" not in bytes_of(taken.file)
    other = postgres.url(new_database(postgres), OWNER)
    restore(taken.file, other)
    restore(taken.file, url_of(elsewhere / "new.db"))
    for url in (other, url_of(elsewhere / "new.db")):
        with in_database(url, clock) as again:
            assert_same(used, again, taken.manifest.revision, clock)


@pytest.mark.usefixtures("cache")
def test_a_database_that_holds_anything_or_is_not_ones_own_is_refused(
    used: Memory,
    target: str,
    elsewhere: Path,
    postgres: Server,  # noqa: F811
) -> None:
    taken = back_up(target, elsewhere / "b.backup")
    with pytest.raises(TargetTaken, match="holds a memory already"):
        restore(taken.file, target)
    name = new_database(postgres, template="template_of_all")
    with pytest.raises(StoreError, match="this role may not"):
        restore(taken.file, postgres.url(name, APP))
    restore(taken.file, postgres.url(name, OWNER))
    assert used.revision == taken.manifest.revision


@pytest.mark.usefixtures("cache")
def test_a_tenant_without_a_rule_or_a_key_is_in_the_backup(
    target: str,
    elsewhere: Path,
    postgres: Server,  # noqa: F811
    clock: Clock,
) -> None:
    app, wish = target.replace(OWNER, APP), Rule(id="w", text="Briefly.", tenant="wishes")
    wish = wish.model_copy(update={"domain": "style", "authority": "preference"})
    with in_database(app, clock) as memory:
        asked_first = made(memory, "before any rule", "asks")
        memory.store.preferences.state("wishes", "p", wish, clock())
    taken = back_up(app, elsewhere / "b.backup")
    with pytest.raises(TargetTaken, match="holds a memory already"):
        restore(taken.file, target)
    other = postgres.url(new_database(postgres), OWNER)
    restore(taken.file, other)
    again = back_up(other.replace(OWNER, APP), elsewhere / "again.backup")
    assert held(again.file) == held(taken.file)
    with in_database(other, clock) as memory:
        assert list(memory.store.chain("asks")) == [asked_first]
        assert [each.id for each in memory.store.preferences.in_force("wishes", "p", clock())]


@pytest.mark.usefixtures("cache")
def test_a_database_without_a_memory_is_not_backed_up_and_stays_so(
    elsewhere: Path,
    postgres: Server,  # noqa: F811
) -> None:
    url = postgres.url(new_database(postgres), OWNER)
    with pytest.raises(NotFound, match="there is no memory at postgresql://"):
        back_up(url, elsewhere / "b.backup")
    assert not is_there(url)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.usefixtures("cache")
def test_what_was_erased_since_is_erased_before_it_reaches_the_database(
    used: Memory,
    target: str,
    elsewhere: Path,
    postgres: Server,  # noqa: F811
    clock: Clock,
) -> None:
    gone = made(used, "canary-since")
    taken = back_up(target, elsewhere / "b.backup")
    erase(used, "default", [gone.id], by="ann")
    done = [each for each in used.store.chain("default") if isinstance(each, Erasure)]
    other = postgres.url(new_database(postgres), OWNER)
    assert restore(taken.file, other, erasures=done).erased == (gone.id,)
    after = back_up(other, elsewhere / "after.backup")
    assert b"canary-since" in bytes_of(taken.file)
    assert b"canary-since" not in bytes_of(after.file)
    assert [file.name for file in elsewhere.iterdir() if file.name.startswith(".")] == []
    with in_database(other, clock) as again:
        assert follow(again.store.chain("default")).broken is None


@pytest.mark.usefixtures("cache")
def test_a_restore_that_fails_leaves_the_database_as_it_was(
    used: Memory,
    target: str,
    elsewhere: Path,
    postgres: Server,  # noqa: F811
) -> None:
    taken = Backup(back_up(target, elsewhere / "b.backup").file)
    url = postgres.url(new_database(postgres), OWNER)
    with suppress(KeyboardInterrupt), filling_postgres(url) as copy:
        fill(copy, taken)
        raise KeyboardInterrupt
    store: Store = PostgresStore(url)
    assert store.revision() == 0
    assert list(store.chain("default")) == []
    assert store.commit(change(Rule(id="first", text="It can be used."))) == 1
    store.close()


@pytest.mark.usefixtures("cache")
def test_who_writes_while_a_memory_is_restored_waits_and_goes_on_with_its_numbers(
    used: Memory,
    target: str,
    elsewhere: Path,
    postgres: Server,  # noqa: F811
) -> None:
    taken = Backup(back_up(target, elsewhere / "b.backup").file)
    url = postgres.url(new_database(postgres), OWNER)
    with closing(PostgresStore(url)) as store, ThreadPoolExecutor(1) as pool:
        with filling_postgres(url) as copy:
            fill(copy, taken)
            writing = pool.submit(store.commit, change(Rule(id="meanwhile", text="It waits.")))
            time.sleep(0.3)
            assert not writing.done()
        assert writing.result() == used.revision + 1
        assert [each.rule.id for each in store.versions_since("default", used.revision)] == [
            "meanwhile"
        ]
