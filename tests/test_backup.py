"""A memory in use is copied and made again elsewhere: the same rules, decisions and rulings."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity import Aligner, Memory, Options, Rule, Scope
from comity.alignment.aligner import Stopwatch
from comity.alignment.backups import ChainBroken, back_up, check, restore
from comity.alignment.decisions import append, follow, new_id, replay
from comity.alignment.erasure import erase
from comity.alignment.replays import replayed
from comity.errors import (
    ComityError,
    MemoryDamaged,
    MemoryTooNew,
    NotFound,
    SettingsError,
)
from comity.memory.backup import Backup, BackupDamaged, fill, seal, write_tables
from comity.memory.backup_sqlite import SqliteCopy, filling_sqlite
from comity.memory.backup_tables import TABLES, Row, Table, line_of, row_of
from comity.memory.embed import HashEmbedder
from comity.memory.new_file import TargetTaken
from comity.memory.pairs import JudgedPair, PairDecision
from comity.memory.preference_book import stored_preference
from comity.memory.store import PlaceNames
from comity.models.scripted import ScriptedModel
from comity.records import Decision, Erasure, Overruled
from comity.serving.auth import create_key
from conftest import Clock

OpenMemory = Callable[[], Memory]
QUESTIONS = ("May dogs run in the park?", "Is noise allowed at night?", "Fireworks in the square?")
RULES = [
    Rule(id="leash", text="Dogs on a leash in the park.", mandatory=True),
    Rule(id="noise", text="No noise in the park at night.", overrides=("party",)),
    Rule(id="party", text="Noise is allowed at night for a party."),
    Rule(id="works", text="No fireworks in the square.", place="XA", authority="statute"),
]
BROKEN = "UPDATE decision SET record = replace(record, 'scripted', 'other') WHERE number = 2"


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def opened(file: Path, clock: Clock) -> Memory:
    return Memory.open(url_of(file), embedder=HashEmbedder(64), clock=clock)


def asked(memory: Memory, question: str, answer: str = "Yes.", scope: Scope = Scope()) -> Decision:  # noqa: B008 - frozen
    return asyncio.run(Aligner(memory, ScriptedModel([answer])).answer(question, scope)).decision


def made(memory: Memory, question: str = "?", tenant: str = "default") -> Decision:
    given = {"made_at": memory.clock(), "revision": memory.revision, "scope": Scope()}
    given |= {"id": new_id(), "question": question, "tenant": tenant}
    return append(memory, Decision.model_validate(given))


def rows_of(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """All that stands in the tables of a memory, its identity apart."""
    with apsw.Connection(str(file)) as book:
        names = book.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        found = {str(n): sorted(book.execute(f"SELECT * FROM {n}").fetchall()) for (n,) in names}
    book.close()
    return {name: rows for name, rows in found.items() if name != "identity"}


def bytes_of(*paths: Path) -> bytes:
    """What files hold, those of a backup unpacked too."""
    found = []
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            found.append(file.read_bytes() if file.is_file() else b"")
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    found += [archive.read(name) for name in archive.namelist()]
    return b"".join(found)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "rules.db"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def filled(open_memory: OpenMemory, clock: Clock) -> Memory:
    """Something in every table."""
    memory = open_memory()
    memory.define_places([PlaceNames(code="XA", names=("Arl", "阿尔"))])
    memory.add(RULES)
    memory.add(Rule(id="leash", text="In Böblingen dogs run free \x00.", tenant="other"))
    for question in QUESTIONS:
        asked(memory, question)
    made(memory, "of another tenant", "other")
    erase(memory, "default", [made(memory, "canary-erased").id], by="ann")
    create_key(memory, "default", "client", "for Lee")
    pair = JudgedPair.model_validate(
        {"id": "p", "one": "leash", "other": "noise", "one_version": 1, "other_version": 1}
        | {"verdict": "contradict", "judge": "m", "wording": "en", "made_at": clock.now}
    )
    memory.store.pairs.keep("default", pair)
    memory.store.pairs.decide(
        "default", PairDecision(pair="p", decided="dismissed", author="ann", made_at=clock.now)
    )
    memory.store.begun.note(
        Decision(id="d-begun", made_at=clock.now, revision=1, scope=Scope(), question="?")
    )
    wish = stored_preference("be brief", "style", tenant="default")
    memory.store.preferences.state("default", "hash of lee", wish, clock.now)
    memory.store.preferences.state("default", "hash of ann", wish, clock.now)
    memory.store.preferences.erase("default", "hash of ann")
    return memory


@contextmanager
def writing(open_memory: OpenMemory) -> Iterator[Callable[[], int]]:
    """Two writers at work in the block: one amends rules, one asks; gives how often so far."""
    over, counts = threading.Event(), [0, 0]

    def work(which: int, step: Callable[[Memory, int], object]) -> None:
        memory = open_memory()
        while not over.is_set():
            step(memory, counts[which])
            counts[which] += 1

    def amend(memory: Memory, n: int) -> None:
        memory.amend("leash", {"text": f"Dogs on a leash of {n} metres in the park."})
        memory.amend("noise", {"overrides": ("party",) if n % 2 else ()})

    def ask(memory: Memory, n: int) -> None:
        asked(memory, QUESTIONS[n % len(QUESTIONS)], f"As said [R1]. {n}")

    steps = (amend, ask)
    threads = [threading.Thread(target=work, args=(n, step)) for n, step in enumerate(steps)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: min(counts)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_the_drill_gives_the_same_rulings_and_an_unbroken_chain(
    filled: Memory, open_memory: OpenMemory, book: Path, elsewhere: Path, clock: Clock
) -> None:
    taken = []
    with writing(open_memory) as counted:
        for n in range(3):
            before = counted()
            wait_for(lambda before=before: counted() >= before + 3)  # type: ignore[misc]
            taken.append(back_up(url_of(book), elsewhere / f"{n}.backup", clock=clock))
        wait_for(lambda: counted() >= 15)
    assert taken[0].manifest.revision < taken[2].manifest.revision < filled.revision
    for backup in taken:
        file = elsewhere / f"{backup.file.stem}.db"
        restore(backup.file, url_of(file))
        with opened(file, clock) as again:
            assert_same(filled, again, backup.manifest.revision, clock)
        assert b"canary-erased" not in bytes_of(backup.file, file)


def ruling_on(question: str, memory: Memory, scope: Scope) -> tuple[list[Rule], list[Overruled]]:
    """What is kept and what gives way; scores go by the words of all rules, later ones too."""
    aligner = Aligner(memory, ScriptedModel("Yes."), Options(relevance=0.0))
    ruling = aligner.prepare(question, scope, Stopwatch()).ruling
    return (
        sorted(ruling.kept, key=lambda rule: rule.id),
        sorted(ruling.overruled, key=lambda lost: lost.rule.id),
    )


def assert_same(original: Memory, again: Memory, revision: int, clock: Clock) -> None:
    """What a restored memory says is what the original said at that revision."""
    assert again.revision == revision
    then = Scope(at=clock.now, as_of=revision, place=("XA",))
    for question in QUESTIONS:
        one, other = (ruling_on(question, memory, then) for memory in (original, again))
        assert one == other
        assert len(one[0]) >= 3
    for tenant in ("default", "other"):
        entries = list(again.store.chain(tenant))
        assert entries == list(original.store.chain(tenant))[: len(entries)]
        assert follow(entries).broken is None
    held = [each for each in again.store.decisions("default") if not each.erased_at]
    assert len(held) >= 3
    for decision in held[-5:]:
        assert replay(again, decision) == replay(original, decision)
        assert replay(again, decision).same
        now = [replayed(each, decision, as_of=revision) for each in (original, again)]
        assert now[0] == now[1]


def test_every_row_of_every_table_comes_back(
    filled: Memory, book: Path, elsewhere: Path, clock: Clock
) -> None:
    made_now = back_up(url_of(book), elsewhere / "b.backup")
    restored = restore(made_now.file, url_of(elsewhere / "new.db"))
    there = rows_of(book)
    assert rows_of(elsewhere / "new.db") == there
    assert all(there[table.name] for table in TABLES if table.name != "identity")
    assert made_now.manifest.tables["rule"].rows == 5
    assert restored.identity != made_now.manifest.memory == filled.store.identity()
    with opened(elsewhere / "new.db", clock) as again:
        assert again.store.identity() == restored.identity
        again.amend("leash", {"text": "Dogs run free."})
        made(again)
        assert follow(again.store.chain("default")).broken is None


def test_a_backup_has_every_table_and_column_of_a_memory(filled: Memory, book: Path) -> None:
    """A migration that adds one adds it to `TABLES`."""
    with apsw.Connection(str(book)) as connection:
        found = connection.execute(
            "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c "
            "WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'"
        ).fetchall()
    connection.close()
    assert sorted(found) == sorted((t.name, column) for t in TABLES for column in t.columns)


def test_a_backup_is_for_its_owner_alone_and_leaves_nothing_beside(
    filled: Memory, book: Path, elsewhere: Path
) -> None:
    back_up(url_of(book), elsewhere / "b.backup")
    restore(elsewhere / "b.backup", url_of(elsewhere / "new.db"))
    assert {file.name for file in elsewhere.iterdir()} == {"b.backup", "new.db"}
    assert {file.stat().st_mode & 0o777 for file in elsewhere.iterdir()} == {0o600}


def test_nothing_is_ever_overwritten(filled: Memory, book: Path, elsewhere: Path) -> None:
    target = elsewhere / "b.backup"
    back_up(url_of(book), target)
    before = target.read_bytes()
    with pytest.raises(TargetTaken, match="already"):
        back_up(url_of(book), target)
    with pytest.raises(TargetTaken, match="already"):
        restore(target, url_of(book))
    (elsewhere / "new.db-wal").write_bytes(b"of a memory that was moved away")
    with pytest.raises(TargetTaken, match=r"new\.db-wal"):
        restore(target, url_of(elsewhere / "new.db"))
    assert target.read_bytes() == before
    assert not (elsewhere / "new.db").exists()


def test_a_target_that_comes_while_it_is_written_is_not_overwritten(
    filled: Memory, book: Path, elsewhere: Path
) -> None:
    def clock_that_writes() -> object:
        (elsewhere / "b.backup").write_text("mine")
        return filled.clock()

    with pytest.raises(TargetTaken):
        back_up(url_of(book), elsewhere / "b.backup", clock=clock_that_writes)  # type: ignore[arg-type]
    assert (elsewhere / "b.backup").read_text() == "mine"


@pytest.mark.parametrize(
    ("url", "error"),
    [("sqlite:///none.db", NotFound), ("sqlite://", SettingsError), ("mysql://h/b", SettingsError)],
)
def test_a_memory_that_cannot_be_backed_up_is_refused(
    elsewhere: Path, url: str, error: type[ComityError]
) -> None:
    with pytest.raises(error):
        back_up(url, elsewhere / "b.backup")
    assert list(elsewhere.iterdir()) == []


def test_what_is_no_backup_is_refused(filled: Memory, book: Path, elsewhere: Path) -> None:
    for content in (b"", b"A letter.", book.read_bytes()):
        (elsewhere / "b.backup").write_bytes(content)
        with pytest.raises(BackupDamaged, match="use another one"):
            check(elsewhere / "b.backup")
    with pytest.raises(NotFound):
        restore(elsewhere / "none.backup", url_of(elsewhere / "new.db"))


def test_a_backup_of_a_newer_comity_is_refused(filled: Memory, book: Path, elsewhere: Path) -> None:
    manifest = back_up(url_of(book), elsewhere / "b.backup").manifest
    newer = manifest.model_copy(update={"format": 99, "comity": "9.9"})
    with zipfile.ZipFile(elsewhere / "new.backup", "w") as archive:
        archive.writestr("manifest.json", newer.model_dump_json())
    with pytest.raises(MemoryTooNew, match=r"9\.9"):
        check(elsewhere / "new.backup")


def test_a_backup_that_does_not_name_a_table_is_refused(
    filled: Memory, book: Path, elsewhere: Path
) -> None:
    manifest = back_up(url_of(book), elsewhere / "b.backup").manifest
    for name in ("rule", "decision_text", "preference"):
        tables = {each: held for each, held in manifest.tables.items() if each != name}
        with pytest.raises(BackupDamaged, match=f"has no table '{name}'"):
            Backup(elsewhere / "b.backup", manifest.model_copy(update={"tables": tables}))


def refusal(file: Path) -> str | None:
    try:
        check(file)
    except ComityError as error:
        return str(error)
    return None


def test_damage_of_any_byte_is_found_or_harmless(
    filled: Memory, book: Path, elsewhere: Path
) -> None:
    sound, chance = elsewhere / "b.backup", random.Random(5)
    back_up(url_of(book), sound)
    whole, damaged = sound.read_bytes(), elsewhere / "damaged.backup"
    manifest, found = Backup(sound).manifest, 0
    for _ in range(120):
        place = chance.randrange(len(whole))
        content = bytearray(whole)
        content[place] ^= 1 << chance.randrange(8)
        if chance.random() < 0.1:
            content = content[:place]
        damaged.write_bytes(content)
        refused = refusal(damaged)
        if refused is None:  # a time or a flag of the archive that nobody reads
            assert Backup(damaged).manifest == manifest
        else:
            assert str(damaged) in refused
            found += 1
    assert found > 90


def tampered(file: Path, statement: str) -> None:
    with apsw.Connection(str(file)) as book:
        for (name,) in book.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall():
            book.execute(f"DROP TRIGGER {name}")
        book.execute(statement)
    book.close()


def test_a_chain_that_does_not_hold_is_told_and_copied_only_on_demand(
    filled: Memory, book: Path, elsewhere: Path, clock: Clock
) -> None:
    tampered(book, BROKEN)
    with pytest.raises(ChainBroken, match="tenant 'default' breaks at entry 2: its content"):
        back_up(url_of(book), elsewhere / "b.backup")
    assert list(elsewhere.iterdir()) == []
    told = back_up(url_of(book), elsewhere / "b.backup", although_broken=True).manifest.chains
    assert [(head.tenant, head.entries) for head in told] == [("default", 1), ("other", 1)]
    with pytest.raises(ChainBroken, match="--although-broken"):
        restore(elsewhere / "b.backup", url_of(elsewhere / "new.db"))
    restore(elsewhere / "b.backup", url_of(elsewhere / "new.db"), although_broken=True)
    with opened(elsewhere / "new.db", clock) as again:
        broken = follow(again.store.chain("default")).broken
        assert broken
        assert broken.number == 2


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("DELETE FROM decision_text WHERE number = 1", "no erasure of them is on record"),
        ("UPDATE decision_text SET texts = '{}' WHERE number = 1", "edited"),
        ("DELETE FROM decision WHERE number = 2", "removed|refers to none"),
        ("UPDATE decision SET record = 'no JSON' WHERE number = 1", "cannot be read"),
        ("DROP INDEX decision_by_tenant", ""),
    ],
)
def test_a_memory_with_damage_gives_no_backup_in_silence(
    filled: Memory, book: Path, elsewhere: Path, statement: str, error: str
) -> None:
    tampered(book, statement)
    if error:
        with pytest.raises(ComityError, match=error):
            back_up(url_of(book), elsewhere / "b.backup")
        assert list(elsewhere.iterdir()) == []
    else:
        back_up(url_of(book), elsewhere / "b.backup")


def test_an_index_that_lost_rows_is_found(filled: Memory, book: Path, elsewhere: Path) -> None:
    tampered(book, "PRAGMA writable_schema = ON")
    with apsw.Connection(str(book)) as connection:
        connection.execute(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = "
            "replace(sql, '(tenant)', '(tenant) WHERE number > 2') "
            "WHERE name = 'decision_by_tenant'; PRAGMA writable_schema = RESET; "
            "REINDEX decision_by_tenant; PRAGMA writable_schema = ON; UPDATE sqlite_schema SET "
            "sql = replace(sql, ' WHERE number > 2', '') WHERE name = 'decision_by_tenant'"
        )
    connection.close()
    with pytest.raises(ComityError, match=r"damaged .*decision_by_tenant"):
        back_up(url_of(book), elsewhere / "b.backup")


class Altered:
    """A source in which rows of a table are not what they were."""

    def __init__(self, backup: Backup, name: str, alter: Callable[[Row], Row | None]) -> None:
        self._backup, self._name, self._alter = backup, name, alter
        self.format, self.tables = backup.format, backup.tables

    def rows(self, table: Table) -> Iterator[Row]:
        for row in self._backup.rows(table):
            found = self._alter(row) if table.name == self._name else row
            if found is not None:
                yield found

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        assert list(rows) is not None


@pytest.mark.parametrize(
    ("name", "alter"),
    [
        ("decision", lambda row: (*row[:5], row[5].replace("scripted", "other"), *row[6:])),
        ("decision", lambda row: None if row[0] == 2 else row),
        ("decision_text", lambda row: (*row[:4], row[4].replace("dogs", "cats"))),
        ("decision_text", lambda row: None),
        ("erased", lambda row: None),
    ],
)
def test_a_backup_that_was_edited_with_all_its_hashes_is_found_by_its_chains(
    filled: Memory,
    book: Path,
    elsewhere: Path,
    clock: Clock,
    name: str,
    alter: Callable[[Row], Row | None],
) -> None:
    sound = Backup(back_up(url_of(book), elsewhere / "b.backup").file)
    forged = elsewhere / "forged.backup"
    manifest = write_tables(Altered(sound, name, alter), forged, clock.now)
    seal(forged, manifest.model_copy(update={"chains": sound.manifest.chains}))
    with pytest.raises(BackupDamaged, match="no sound backup"):
        restore(forged, url_of(elsewhere / "new.db"))
    assert not (elsewhere / "new.db").exists()


def test_what_a_target_does_not_give_back_as_it_was_is_no_restore(
    filled: Memory, book: Path, elsewhere: Path
) -> None:
    sound = Backup(back_up(url_of(book), elsewhere / "b.backup").file)
    for alter in (lambda row: None, lambda row: ("?", *row[1:])):
        with pytest.raises(MemoryDamaged, match="table rule is not the same"):
            fill(Altered(sound, "rule", alter), sound)
    fill(Altered(sound, "rule", lambda row: row), sound)


@given(st.lists(st.none() | st.integers() | st.text(), min_size=4, max_size=4))
def test_a_row_comes_back_from_its_line_as_it_was(values: list[object]) -> None:
    table = next(table for table in TABLES if table.name == "begun")
    line = line_of(table, tuple(values))
    assert line.count(b"\n") == 1
    assert row_of(table, line) == tuple(values)


# Erasures


def test_an_older_backup_brings_back_what_was_erased_unless_it_is_erased_again(
    filled: Memory, book: Path, elsewhere: Path, clock: Clock
) -> None:
    gone = [made(filled, f"canary-{n}").id for n in range(3)]
    stays = made(filled, "stays")
    back_up(url_of(book), elsewhere / "old.backup")
    later = made(filled, "canary-later")
    clock.advance(days=1)
    erase(filled, "default", [*gone, later.id], by="ann", reason="asked to")
    done = [e for e in filled.store.chain("default") if isinstance(e, Erasure)]

    restore(elsewhere / "old.backup", url_of(elsewhere / "back.db"))
    assert b"canary-1" in bytes_of(elsewhere / "back.db")

    folder = elsewhere / "clean"
    folder.mkdir()
    target = url_of(folder / "new.db")
    restored = restore(elsewhere / "old.backup", target, erasures=done, clock=clock)
    assert restored.erased == tuple(gone)
    assert b"canary" not in bytes_of(folder)
    with opened(folder / "new.db", clock) as again:
        entries = list(again.store.chain("default"))
        assert follow(entries).broken is None
        assert again.store.decision("default", stays.id).question == "stays"
        last = entries[-1]
        assert isinstance(last, Erasure)
        assert (last.by, last.decisions, last.made_at) == ("ann", tuple(gone), clock.now)
        assert last.reason == f"asked to ({done[-1].id}, again after a restore)"


# The place of the original


def test_a_memory_put_back_in_its_place_has_the_index_of_its_own_history(
    filled: Memory, book: Path, elsewhere: Path, clock: Clock
) -> None:
    back_up(url_of(book), elsewhere / "b.backup")
    filled.amend("leash", {"text": "Zebras everywhere."})
    filled.add(Rule(id="zebra", text="Zebras in the park."))
    filled.index.catch_up()
    filled.index.save()
    filled.close()
    for part in book.parent.glob("rules.db*"):
        if part.is_file():
            part.unlink()
    restored = restore(elsewhere / "b.backup", url_of(book), as_original=True)
    assert restored.identity == restored.manifest.memory
    with opened(book, clock) as again:
        aligner = Aligner(again, ScriptedModel("Yes."))
        hits = aligner.prepare("Zebras, dogs?", Scope(), Stopwatch()).found.hits
        assert {(hit.rule.id, hit.rule.version) for hit in hits} >= {("leash", 1)}
        assert not any("Zebras" in hit.rule.text for hit in hits)


def test_a_process_that_has_the_old_file_open_notices_that_another_took_its_place(
    filled: Memory, book: Path, elsewhere: Path
) -> None:
    back_up(url_of(book), elsewhere / "b.backup")
    filled.store.probe()
    for part in book.parent.glob("rules.db*"):
        if part.is_file():
            part.rename(elsewhere / part.name)
    restore(elsewhere / "b.backup", url_of(book))
    with pytest.raises(ComityError, match="replaced by another memory"):
        filled.store.probe()


def test_a_backup_of_an_older_format_becomes_a_memory_of_today(
    filled: Memory, book: Path, elsewhere: Path, clock: Clock
) -> None:
    old = tuple(table for table in TABLES if table.name not in ("begun", "preference"))
    now = Backup(back_up(url_of(book), elsewhere / "now.backup").file)
    with filling_sqlite(elsewhere / "old.db", 5, old) as copy:
        for table in old:
            copy.insert(table, now.rows(table))
    with apsw.Connection(str(elsewhere / "old.db")) as connection:
        source = SqliteCopy(connection, elsewhere / "old.db", old)
        manifest = write_tables(source, elsewhere / "old.backup", clock.now)
    connection.close()
    manifest = manifest.model_copy(update={"chains": now.manifest.chains})
    seal(elsewhere / "old.backup", manifest)
    assert restore(elsewhere / "old.backup", url_of(elsewhere / "new.db")).manifest.format == 5
    with opened(elsewhere / "new.db", clock) as again:
        assert [s.rule.id for s in again.rules()] == ["leash", "noise", "party", "works"]
        assert again.store.begun.left(clock.now + timedelta(days=1)) == []
        assert follow(again.store.chain("default")).broken is None
