"""Preferences of persons in the SQLite book of record."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from comity.errors import MemoryDamaged, RuleError
from comity.memory.preference_book import (
    HeldPreference,
    PreferenceExport,
    check_preference,
    held_in_these_words,
    holding,
    next_version,
    no_preference,
    withdrawn,
)
from comity.memory.sqlite_texts import PURGE_SECONDS, cut_journal, overwrite
from comity.memory.store import from_micros, to_micros
from comity.records import Rule

if TYPE_CHECKING:
    import apsw

Access = Callable[[], AbstractContextManager["apsw.Connection"]]
Row = tuple[Any, ...]

_DRAWERS = 4096
_FIRST = 256  # all drawers take two bytes, as `EMPTIED` does: a row keeps its place and size
EMPTIED = 32767
"""The drawer of a row that has been erased."""


class SqlitePreferences:
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
        if not person or rule.tenant != tenant:
            whose = f"it is of tenant {rule.tenant!r}" if person else "it names no person"
            raise RuleError(f"preference {rule.id!r} cannot be kept in tenant {tenant!r}: {whose}")
        check_preference(rule)
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

    def in_force(
        self, tenant: str, person: str, at: datetime, known_at: datetime | None = None
    ) -> list[Rule]:
        """As in `PreferenceBook`."""
        found = self.history(tenant, person)
        known = [h.rule for h in found if known_at is None or h.recorded_at <= known_at]
        return holding(known, at)

    def history(self, tenant: str, person: str, id: str | None = None) -> list[HeldPreference]:
        """As in `PreferenceBook`."""
        with self._reading() as connection:
            found = _held(connection, tenant, person)
        if id is None:
            return found
        versions = [held for held in found if held.rule.id == id]
        if not versions:
            raise no_preference(id)
        return versions

    def export(self, tenant: str, person: str) -> PreferenceExport:
        """As in `PreferenceBook`."""
        held = tuple(self.history(tenant, person))
        return PreferenceExport(tenant=tenant, person=person, preferences=held)

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


def drawer(person: str) -> int:
    """Where the preferences of a person stand, among those of many others."""
    return _FIRST + zlib.crc32(person.encode()) % _DRAWERS


def _rows(connection: apsw.Connection, tenant: str, person: str) -> list[Row]:
    return connection.execute(
        "SELECT number, record FROM preference WHERE tenant = ? AND drawer = ? AND person = ? "
        "ORDER BY number",
        (tenant, drawer(person), person),
    ).fetchall()


def _held(connection: apsw.Connection, tenant: str, person: str) -> list[HeldPreference]:
    return [read_preference(number, record) for number, record in _rows(connection, tenant, person)]


def read_preference(number: int, record: str) -> HeldPreference:
    """A preference from its record. Raises `MemoryDamaged`."""
    try:
        data = json.loads(record)
        return HeldPreference(
            rule=Rule.model_validate(data["rule"]), recorded_at=from_micros(data["recorded_at"])
        )
    except (ValueError, TypeError, KeyError) as error:
        raise MemoryDamaged(
            f"the preference in row {number} cannot be read: restore the memory from a backup"
        ) from error


def _insert(connection: apsw.Connection, person: str, held: HeldPreference) -> None:
    connection.execute(
        "INSERT INTO preference (tenant, drawer, person, record) VALUES (?, ?, ?, ?)",
        preference_row(person, held),
    )


def preference_row(person: str, held: HeldPreference) -> Row:
    """Tenant, drawer, person and record of a preference."""
    record = {
        "recorded_at": to_micros(held.recorded_at),
        "rule": held.rule.model_dump(mode="json", exclude_defaults=True),
    }
    written = json.dumps(record, ensure_ascii=False)
    return held.rule.tenant, drawer(person), person, written
