"""The SQLite book of record: what is acknowledged stays, and nothing is ever changed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw
import pytest

from comity.errors import MemoryDamaged, MemoryFull, MemoryTooNew, StoreError
from comity.memory.sealed import whole
from comity.memory.sqlite import SqliteStore, _use_wal
from comity.memory.store import Store
from comity.records import Rule
from contracts.pairs import *  # noqa: F403 - the contract's tests
from contracts.store import *  # noqa: F403 - the contract's tests
from contracts.store import change, decision

WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from comity.memory.sqlite import SqliteStore
from comity.memory.store import Change
from comity.records import Rule

name, size = sys.argv[2], int(sys.argv[3])
store = SqliteStore(Path(sys.argv[1]))
print("ready", flush=True)
for n in range(int(sys.argv[4])):
    rules = [Rule(id=f"{name}-{n}-{i}", text="x" * 300) for i in range(size)]
    change = Change(
        tenant="default", kind="add", rules=rules, note=f"{name}-{n}", made_at=datetime.now(UTC)
    )
    print(store.commit(change), flush=True)
"""


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = SqliteStore(tmp_path / "rules.db" if request.param == "file" else None)
    yield opened
    opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.db"


def start_writer(file: Path, name: str, size: int, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, str(file), name, str(size), str(count)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("table", ["revision", "rule", "decision"])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {} SET tenant = 'x'",
        "DELETE FROM {}",
        "INSERT OR REPLACE INTO {0} SELECT * FROM {0}",
        "REPLACE INTO {0} SELECT * FROM {0}",
    ],
)
def test_rows_are_never_changed_by_any_program(file: Path, table: str, statement: str) -> None:
    store = SqliteStore(file)
    store.commit(change(Rule(id="a", text="x")))
    store.append_decision("default", lambda last: whole(decision("d", last)))
    store.close()
    with (
        pytest.raises(apsw.ConstraintError, match=f"{table} is append-only"),
        apsw.Connection(str(file)) as connection,
    ):
        connection.execute(statement.format(table))


def test_a_memory_is_the_same_when_opened_again(file: Path) -> None:
    first = SqliteStore(file)
    first.commit(change(Rule(id="a", text="x")))
    name = first.identity()
    first.close()
    again = SqliteStore(file)
    assert (again.identity(), again.revision()) == (name, 1)
    again.close()


def test_commits_are_synced_before_they_are_acknowledged(file: Path) -> None:
    store = SqliteStore(file)
    with store._reading() as connection:
        assert connection.pragma("synchronous") == 2  # FULL
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("foreign_keys") == 1
    store.close()


# the number of kills can be raised from outside, for a soak
@pytest.mark.parametrize("seed", range(int(os.environ.get("COMITY_KILLS", "30"))))
def test_a_writer_that_is_killed_loses_nothing_acknowledged_and_leaves_no_half(
    file: Path, seed: int
) -> None:
    chance = random.Random(seed)
    writer = start_writer(file, "w", size=20, count=100_000)
    assert writer.stdout
    assert writer.stdout.readline() == "ready\n"
    killer = threading.Timer(chance.uniform(0.002, 0.15), writer.send_signal, [signal.SIGKILL])
    killer.start()
    acknowledged = [int(line) for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    killer.join()
    store = SqliteStore(file)
    revisions = [revision.number for revision in store.revisions("default")]
    assert revisions == list(range(1, len(revisions) + 1))
    assert revisions[: len(acknowledged)] == acknowledged
    assert len(revisions) <= len(acknowledged) + 1
    found = [stored.revision for stored in store.rows_after(0)]
    assert {number: found.count(number) for number in revisions} == dict.fromkeys(revisions, 20)
    assert store.commit(change(Rule(id="after", text="x"))) == len(revisions) + 1
    store.close()
    writer.stdout.close()


def test_two_processes_write_at_once(file: Path) -> None:
    writers = [start_writer(file, name, size=3, count=40) for name in ("a", "b")]
    numbers: list[int] = []
    for writer in writers:
        output, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        numbers += [int(line) for line in output.splitlines()[1:]]
    assert sorted(numbers) == list(range(1, 81))
    store = SqliteStore(file)
    assert len(list(store.rows_after(0))) == 240
    store.close()


@pytest.mark.parametrize("big", ["rule", "decision"])
def test_a_full_disk_changes_nothing(file: Path, big: str) -> None:
    store = SqliteStore(file)
    store.commit(change(Rule(id="a", text="x")))
    with store._reading() as connection:
        pages = connection.pragma("page_count")
        connection.pragma("max_page_count", pages + 2)
    text = "x" * 100_000
    full = decision("d").model_copy(update={"answer": text})

    def write() -> object:
        if big == "rule":
            return store.commit(change(Rule(id="b", text="y"), Rule(id="c", text=text)))
        return store.append_decision("default", lambda last: whole(full))

    with pytest.raises(MemoryFull, match="nothing was changed"):
        write()
    assert store.revision() == 1
    assert [stored.rule.id for stored in store.rows_after(0)] == ["a"]
    assert list(store.decisions("default")) == []
    with store._reading() as connection:
        connection.pragma("max_page_count", 2**30)
    assert store.commit(change(Rule(id="b", text="y"))) == 2
    store.close()


class FailingFile(apsw.VFSFile):
    """A file whose writes fail once it has been told so."""

    def xWrite(self, data: bytes, offset: int) -> None:
        if FailingDisk.failing:
            raise apsw.FullError("no space left on device")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if FailingDisk.failing:
            raise apsw.IOError("sync failed")
        super().xSync(flags)


class FailingDisk(apsw.VFS):
    """SQLite's file system, with a switch to break it."""

    failing = False

    def __init__(self) -> None:
        self.real = apsw.vfs_names()[0]
        super().__init__("failing", base=self.real, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return FailingFile(self.real, name, flags)


def test_a_disk_that_fails_is_a_clear_error_and_loses_nothing(file: Path) -> None:
    disk = FailingDisk()
    try:
        store = SqliteStore(file)
        store.commit(change(Rule(id="a", text="x")))
        FailingDisk.failing = True
        with pytest.raises(MemoryFull, match=r"rules\.db"):
            store.commit(change(Rule(id="b", text="y")))
        FailingDisk.failing = False
        store.close()
    finally:
        FailingDisk.failing = False
        disk.unregister()
    again = SqliteStore(file)
    assert [stored.rule.id for stored in again.rows_after(0)] == ["a"]
    again.close()


def test_a_file_that_is_no_database_is_refused_and_left_alone(file: Path) -> None:
    file.write_bytes(b"These are no rules at all. " * 400)
    before = file.read_bytes()
    with pytest.raises(MemoryDamaged, match=r"rules\.db"):
        SqliteStore(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("version", [0, 1, 7])
def test_another_programs_database_is_refused_and_left_alone(file: Path, version: int) -> None:
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE songs (name)")
        other.execute(f"PRAGMA user_version = {version}")
    other.close()
    before = file.read_bytes()
    with pytest.raises(MemoryDamaged, match="another program"):
        SqliteStore(file)
    assert file.read_bytes() == before


def test_a_memory_of_a_newer_format_is_refused_and_left_alone(file: Path) -> None:
    SqliteStore(file).close()
    with apsw.Connection(str(file)) as connection:
        connection.pragma("user_version", 99)
    connection.close()
    before = file.read_bytes()
    with pytest.raises(MemoryTooNew, match=r"99.*pip install -U comity"):
        SqliteStore(file)
    assert file.read_bytes() == before


def test_a_damaged_page_is_reported(file: Path) -> None:
    store = SqliteStore(file)
    store.commit(change(*(Rule(id=f"r{n}", text="x" * 500) for n in range(200))))
    store.close()
    content = bytearray(file.read_bytes())
    content[8192:] = random.Random(1).randbytes(len(content) - 8192)
    file.write_bytes(content)
    with pytest.raises((MemoryDamaged, StoreError)):
        list(SqliteStore(file).rows_after(0))


def test_a_record_that_cannot_be_read_is_named(file: Path) -> None:
    store = SqliteStore(file)
    store.commit(change(Rule(id="a", text="x")))
    with store._reading() as connection:
        connection.execute("DROP TRIGGER rule_is_never_updated")
        connection.execute("UPDATE rule SET record = '{'")
    with pytest.raises(MemoryDamaged, match="row 1"):
        list(store.rows_after(0))
    store.close()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        SqliteStore(tmp_path / "nowhere" / "rules.db")


def test_a_closed_memory_says_so_in_our_own_words(file: Path) -> None:
    store = SqliteStore(file)
    store.close()
    with pytest.raises(StoreError):
        store.revision()


def test_a_memory_that_another_program_holds_is_waited_for(file: Path) -> None:
    store = SqliteStore(file)
    other = apsw.Connection(str(file))
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.commit, change(Rule(id="a", text="x")))
        time.sleep(0.2)
        assert not waiting.done()
        other.execute("ROLLBACK")
        assert waiting.result(timeout=30) == 1
    other.close()
    store.close()


def test_many_threads_may_make_the_same_memory_at_once(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: SqliteStore(file), range(8)))
    assert len({store.identity() for store in stores}) == 1
    for store in stores:
        store.close()


def test_a_file_system_without_shared_memory_is_refused_at_once(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "rules.db"), vfs="unix-none")
    with pytest.raises(StoreError, match="put it on a local disk"):
        _use_wal(connection)


def test_a_probe_finds_a_file_that_is_locked_gone_damaged_or_another(file: Path) -> None:
    store = SqliteStore(file)
    store.commit(change(Rule(id="a", text="x")))
    holder = apsw.Connection(str(file))
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another process"):
        store.probe()
    holder.execute("ROLLBACK")
    holder.close()
    store.probe()
    for part in file.parent.glob("rules.db*"):
        part.rename(part.with_name(f"old-{part.name}"))
    with pytest.raises(StoreError, match="cannot be opened"):
        store.probe()
    other = SqliteStore(file)
    other.close()
    with pytest.raises(StoreError, match="replaced by another memory"):
        store.probe()
    file.write_bytes(b"no database at all " * 300)
    with pytest.raises(MemoryDamaged):
        store.probe()
    store.close()
