"""Preferences in the SQLite book: nobody else sees them, and erased ones are in no file."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity import Memory, Rule
from comity.alignment.erasure import person_hash
from comity.errors import MemoryDamaged, RuleError, StoreError
from comity.memory.preference_book import (
    MOST_VERSIONS,
    next_version,
    stored_preference,
    withdrawn,
)
from comity.memory.preference_rows import drawer
from comity.memory.sqlite import SqliteStore
from comity.memory.sqlite_preferences import SqlitePreferences
from comity.memory.store import Store
from contracts.preference_book import *  # noqa: F403 - the contract's tests
from contracts.preference_book import DAY, LEE, NOON, texts, wish


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    opened = SqliteStore(tmp_path / "rules.db" if request.param == "file" else None)
    yield opened
    opened.close()


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


steps = st.lists(
    st.tuples(
        st.sampled_from(["state", "withdraw", "erase"]),
        st.sampled_from(["acme", "bolt"]),
        st.sampled_from(["lee", "ann", "kim"]),
        st.sampled_from(["w1", "w2"]),
        st.integers(0, 9),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(steps)
def test_whatever_others_do_each_person_sees_their_own_preferences_alone(
    made: list[tuple[str, str, str, str, int]],
) -> None:
    store = SqliteStore(None)
    expected: dict[tuple[str, str], dict[str, str]] = {}
    now = NOON
    for act, tenant, person, id, n in made:
        now += timedelta(seconds=1)
        own = expected.setdefault((tenant, person), {})
        if act == "state":
            text = f"{tenant} {person} {id} {n}"
            store.preferences.state(tenant, person, wish(text, id, tenant), now)
            own[id] = text
        elif act == "erase":
            store.preferences.erase(tenant, person)
            own.clear()
        elif id in own:
            store.preferences.withdraw(tenant, person, id, now)
            del own[id]
    for tenant in ("acme", "bolt", "nobody"):
        for person in ("lee", "ann", "kim", "", "lee "):
            found = texts(store, now, person=person, tenant=tenant)
            assert sorted(found) == sorted(expected.get((tenant, person), {}).values())
            for held in store.preferences.export(tenant, person).preferences:
                assert held.rule.text.startswith(f"{tenant} {person} ")
    store.close()


def test_two_persons_whose_rows_lie_in_one_drawer_do_not_meet(store: Store) -> None:
    persons = (f"person {n}" for n in itertools.count())
    one = next(persons)
    other = next(each for each in persons if drawer(each) == drawer(one))
    for person in (one, other):
        store.preferences.state("default", person, wish(f"wish of {person}"), NOON)
        assert texts(store, NOON, person=person) == [f"wish of {person}"]
    assert store.preferences.erase("default", one) == 1
    assert texts(store, NOON, person=one) == []
    assert texts(store, NOON, person=other) == [f"wish of {other}"]


def test_erased_preferences_are_in_no_byte_of_any_file_of_the_memory(
    open_memory: Callable[[], Memory], tmp_path: Path
) -> None:
    memory, other, chance = open_memory(), open_memory(), random.Random(5)
    memory.add(Rule(id="leash", text="Dogs on a leash in the park"))
    book, held = memory.store.preferences, dict[str, list[bytes]]()
    for n in range(120):
        person = person_hash(memory, "default", f"user {n}")
        canary = f"canary{n:04}金丝雀"
        rule = stored_preference(
            canary * chance.choice((1, 2, 9, 30)), "style", id=f"secret-id-{n:04}", tenant="default"
        )
        book.state("default", person, rule, NOON)
        if n % 3 == 0:
            book.withdraw("default", person, rule.id, NOON + DAY)
        held[person] = [canary.encode(), rule.id.encode(), person.encode()]
        if n % 30 == 29:
            for gone in chance.sample(sorted(held), len(held) // 2):
                assert all(each in bytes_of(tmp_path) for each in held[gone])
                book.erase("default", gone)
                after = bytes_of(tmp_path)
                assert [each for each in held.pop(gone) if each in after] == []
    after = bytes_of(tmp_path)
    assert all(each in after for said in held.values() for each in said)
    found = [other.store.preferences.history("default", person) for person in held]
    assert all(found)


def test_no_copy_of_a_preference_lies_beside_the_book(
    open_memory: Callable[[], Memory], tmp_path: Path
) -> None:
    memory = open_memory()
    memory.add(Rule(id="leash", text="Dogs on a leash in the park"))
    memory.store.preferences.state("default", LEE, wish("canary-wish"), NOON)
    memory.close()
    open_memory().index.catch_up()
    files = [f.name for f in tmp_path.rglob("*") if f.is_file() and b"canary" in f.read_bytes()]
    assert set(files) <= {"rules.db", "rules.db-wal"}
    assert files


def test_an_erasure_that_cannot_reach_the_journal_says_so_and_is_finished_later(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "rules.db")
    book = SqlitePreferences(store._reading, store._writing, patience=0)
    book.state("default", LEE, wish("canary-wish"), NOON)
    reader = apsw.Connection(str(tmp_path / "rules.db"))
    reader.execute("BEGIN; SELECT count(*) FROM preference").fetchall()
    with pytest.raises(StoreError, match="preferences are erased, but the journal still holds"):
        book.erase("default", LEE)
    assert book.history("default", LEE) == []
    reader.close()
    assert book.erase("default", LEE) == 0
    assert b"canary-wish" not in bytes_of(tmp_path)
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE preference SET record = '{}'",
        "UPDATE preference SET person = 'x', drawer = 32767",
        "DELETE FROM preference",
        "INSERT OR REPLACE INTO preference SELECT * FROM preference",
    ],
)
def test_no_program_changes_a_preference_but_by_another_version(
    tmp_path: Path, statement: str
) -> None:
    store = SqliteStore(tmp_path / "rules.db")
    store.preferences.state("default", LEE, wish(), NOON)
    book = apsw.Connection(str(tmp_path / "rules.db"))
    with pytest.raises(apsw.ConstraintError):
        book.execute(statement)
    book.close()
    assert texts(store, NOON) == ["be brief"]
    store.close()


def test_a_damaged_preference_is_told_as_damage(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "rules.db")
    store.preferences.state("default", LEE, wish(), NOON)
    book = apsw.Connection(str(tmp_path / "rules.db"))
    with book.blob_open("main", "preference", "record", 1, True) as record:
        record.write(b"?")
    book.close()
    with pytest.raises(MemoryDamaged, match="preference in row 1 cannot be read"):
        store.preferences.in_force("default", LEE, NOON)
    store.close()


def test_preferences_stated_at_once_are_all_kept(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "rules.db") for _ in range(3)]
    start = threading.Barrier(3)

    def state(n: int) -> None:
        start.wait()
        for i in range(5):
            stores[n].preferences.state("default", LEE, wish(f"wish {n} {i}", "same"), NOON)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(state, range(3)))
    versions = [held.rule.version for held in stores[0].preferences.history("default", LEE)]
    assert versions == list(range(1, 16))
    for store in stores:
        store.close()


def test_versions_of_one_person_are_bounded_and_the_last_can_still_be_withdrawn() -> None:
    versions = [
        wish(f"wish {n}").model_copy(update={"version": n + 1}) for n in range(MOST_VERSIONS)
    ]
    with pytest.raises(RuleError, match="has 1000 versions of preferences, which is the most"):
        next_version(versions, wish(), NOON)
    assert next_version(versions[1:], wish(), NOON).version == MOST_VERSIONS + 1
    assert withdrawn(versions, "brief", NOON).version == MOST_VERSIONS + 1


def test_a_preference_without_an_id_gets_one_from_its_kind_and_is_one_line() -> None:
    first, second = (
        stored_preference("  be\n brief ", "style", tenant="default") for _ in range(2)
    )
    assert first.text == "be brief"
    assert first.id.startswith("style-")
    assert first.id != second.id


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (" ", {}, "text: String should have at least 1 character"),
        (
            "be brief",
            {"valid_from": datetime(2030, 2, 1, tzinfo=UTC), "valid_to": NOON - 365 * DAY},
            "valid_to 2029-06-01 is not after valid_from",
        ),
    ],
)
def test_what_cannot_be_a_preference_says_which_field(
    text: str, more: dict[str, datetime], message: str
) -> None:
    with pytest.raises(RuleError, match=message):
        stored_preference(text, "style", id="p", tenant="default", **more)
