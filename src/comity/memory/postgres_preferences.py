"""Preferences of persons in the PostgreSQL book of record."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

from comity.errors import StoreError
from comity.memory.postgres_texts import clean
from comity.memory.postgres_transactions import Row, Statement, Transactions, Writing
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
from comity.records import Rule

_PERSONS = 0x706572736F6E  # apart from other locks that are named by a hash


class PostgresPreferences(ReadPreferences):
    """A `PreferenceBook` in the table `preference`, of the form that SQLite's has.

    Whoever changes a person's preferences is the only one for that person until it is done.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def state(self, tenant: str, person: str, rule: Rule, now: datetime) -> Rule:
        """As in `PreferenceBook`."""
        check_stated(tenant, person, rule)
        with self._transactions.writing(tenant, _lock(tenant, person)) as writing:
            versions = [held.rule for held in _held(writing.rows(*_of(tenant, person)))]
            same = held_in_these_words(versions, rule, now)
            if same is not None:
                return same
            new = next_version(versions, rule, now)
            _insert(writing, person, HeldPreference(rule=new, recorded_at=now))
        return new

    def withdraw(self, tenant: str, person: str, id: str, now: datetime) -> Rule:
        """As in `PreferenceBook`."""
        with self._transactions.writing(tenant, _lock(tenant, person)) as writing:
            versions = [held.rule for held in _held(writing.rows(*_of(tenant, person)))]
            last = withdrawn(versions, id, now)
            _insert(writing, person, HeldPreference(rule=last, recorded_at=now))
        return last

    def _held(self, tenant: str, person: str) -> list[HeldPreference]:
        return _held(self._transactions.read(tenant, *_of(tenant, person)))

    def erase(self, tenant: str, person: str) -> int:
        """As in `PreferenceBook`, as far as `PostgresTexts.purge` goes."""
        emptied = Statement(
            "UPDATE comity.preference SET drawer = %s, person = '', record = '' "
            "WHERE tenant = %s AND drawer = %s AND person = %s",
            (EMPTIED, tenant, drawer(person), person),
        )
        with self._transactions.writing(tenant, _lock(tenant, person)) as writing:
            (count,) = writing.run(emptied)
        with suppress(StoreError):
            clean(self._transactions, "preference")
        return count


def _lock(tenant: str, person: str) -> Statement:
    return Statement(
        "SELECT pg_advisory_xact_lock(hashtextextended(%s, %s))",
        (f"{tenant}\n{person}", _PERSONS),
    )


def _of(tenant: str, person: str) -> Statement:
    return Statement(
        "SELECT number, record FROM comity.preference "
        "WHERE tenant = %s AND drawer = %s AND person = %s ORDER BY number",
        (tenant, drawer(person), person),
    )


def _held(rows: list[Row]) -> list[HeldPreference]:
    return [read_preference(number, record) for number, record in rows]


def _insert(writing: Writing, person: str, held: HeldPreference) -> None:
    writing.run(
        Statement(
            "INSERT INTO comity.preference (tenant, drawer, person, record) "
            "VALUES (%s, %s, %s, %s)",
            preference_row(person, held),
        )
    )
