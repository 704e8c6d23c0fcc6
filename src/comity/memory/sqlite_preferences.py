"""Preferences of persons in the SQLite book of record."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from comity.memory.preference_book import (
    HeldPreference,
    held_in_these_words,
    next_version,
    withdrawn,
)
from comity.memory.preference_rows import (
    EMPTIED,
    ReadPreferences,
    check_stated,
    drawer,
    preference_row,
    read_preference,
)
from comity.memory.sqlite_texts import PURGE_SECONDS, cut_journal, overwrite
from comity.records import Rule

if TYPE_CHECKING:
    import apsw

Access = Callable[[], AbstractContextManager["apsw.Connection"]]
Row = tuple[Any, ...]


class SqlitePreferences(ReadPreferences):
    """A `PreferenceBook` in the table `preference`.

    What is erased is overwritten where it stands, as with the texts of decisions, and an empty
    row stays: no other row moves, so that none leaves a copy behind. Rows are found by the
    number of a drawer, which many persons share and which the row loses with its text; an index
    over persons would keep their hashes in its pages.
    """

    def __init__(
        self, reading: Access, writing: Access, *, patience: float = PURGE_SECONDS
    ) -> None:
        """`reading` gives a connection, `writing` one in a transaction of its own.

        `patience` is how many seconds an erasure waits for other programs that read.
        """
        self._reading, self._writing = reading, writing
        self._patience = patience

    def state(self, tenant: str, person: str, rule: Rule, now: datetime) -> Rule:
        """As in `PreferenceBook`."""
        check_stated(tenant, person, rule)
        with self._writing() as connection:
            versions = [held.rule for held in _held(connection, tenant, person)]
            same = held_in_these_words(versions, rule, now)
            if same is not None:
                return same
            new = next_version(versions, rule, now)
            _insert(connection, person, HeldPreference(rule=new, recorded_at=now))
        return new

    def withdraw(self, tenant: str, person: str, id: str, now: datetime) -> Rule:
        """As in `PreferenceBook`."""
        with self._writing() as connection:
            versions = [held.rule for held in _held(connection, tenant, person)]
            last = withdrawn(versions, id, now)
            _insert(connection, person, HeldPreference(rule=last, recorded_at=now))
        return last

    def _held(self, tenant: str, person: str) -> list[HeldPreference]:
        with self._reading() as connection:
            return _held(connection, tenant, person)

    def erase(self, tenant: str, person: str) -> int:
        """As in `PreferenceBook`."""
        with self._writing() as connection:
            numbers = [number for number, _ in _rows(connection, tenant, person)]
            for number in numbers:
                for column in ("person", "record"):
                    overwrite(connection, "preference", column, number)
            connection.execute(
                "UPDATE preference SET drawer = ? WHERE number IN (SELECT value FROM json_each(?))",
                (EMPTIED, json.dumps(numbers)),
            )
        cut_journal(self._reading, _NOT_PURGED, self._patience)
        return len(numbers)


_NOT_PURGED = (
    "the preferences are erased, but the journal still holds them: another program reads the "
    "memory all the time; repeat the same command when it has ended"
)


def _rows(connection: apsw.Connection, tenant: str, person: str) -> list[Row]:
    return connection.execute(
        "SELECT number, record FROM preference WHERE tenant = ? AND drawer = ? AND person = ? "
        "ORDER BY number",
        (tenant, drawer(person), person),
    ).fetchall()


def _held(connection: apsw.Connection, tenant: str, person: str) -> list[HeldPreference]:
    return [read_preference(number, record) for number, record in _rows(connection, tenant, person)]


def _insert(connection: apsw.Connection, person: str, held: HeldPreference) -> None:
    connection.execute(
        "INSERT INTO preference (tenant, drawer, person, record) VALUES (?, ?, ?, ?)",
        preference_row(person, held),
    )
