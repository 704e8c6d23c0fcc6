"""Decisions, their personal texts and the erasures of these in the SQLite book of record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from comity.errors import MemoryDamaged, StoreError
from comity.memory.entries import held, no_decision, read_entry
from comity.memory.sealed import Sealed, SealErasure, record_hash, remainder
from comity.memory.store import to_micros
from comity.records import Decision, Erasure

if TYPE_CHECKING:
    import apsw

Access = Callable[[], AbstractContextManager["apsw.Connection"]]
Row = tuple[Any, ...]

PURGE_SECONDS = 10.0
"""How long an erasure waits for readers."""

_PURGE_WAIT_MS = 100  # for readers; writers wait as long
_BATCH = 500

ENTRIES = (
    "SELECT entry.number, entry.kind, entry.record, entry.hash, held.salt, held.texts, "
    "erasure.made_at FROM decision AS entry "
    "LEFT JOIN erased ON erased.number = entry.number "
    "LEFT JOIN decision_text AS held ON held.number = entry.number AND erased.number IS NULL "
    "LEFT JOIN decision AS erasure ON erasure.number = erased.entry "
)


def last_hash(connection: apsw.Connection, tenant: str) -> str:
    """Hash of the last entry in a tenant's chain; empty for none."""
    last = connection.execute(
        "SELECT hash FROM decision WHERE tenant = ? ORDER BY number DESC LIMIT 1", (tenant,)
    ).fetchone()
    return str(last[0]) if last else ""


def insert(connection: apsw.Connection, tenant: str, sealed: Sealed) -> None:
    """Write a decision and its personal texts, in the transaction that goes on."""
    decision = sealed.decision
    _insert_entry(connection, tenant, "decision", decision, sealed.record)
    if sealed.texts:
        connection.execute(
            "INSERT INTO decision_text VALUES (last_insert_rowid(), ?, ?, ?, ?)",
            (tenant, decision.person, decision.salt, sealed.texts),
        )


def _insert_entry(
    connection: apsw.Connection, tenant: str, kind: str, entry: Decision | Erasure, record: str
) -> None:
    connection.execute(
        "INSERT INTO decision (tenant, id, made_at, revision, record, hash, kind) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (tenant, entry.id, to_micros(entry.made_at), entry.revision, record, entry.hash, kind),
    )


def entries(reading: Access, tenant: str) -> Iterator[Decision | Erasure]:
    """A tenant's whole chain, oldest first. Raises `MemoryDamaged` at one that cannot be read."""
    number = 0
    while True:
        with reading() as connection:
            found: list[Row] = connection.execute(
                f"{ENTRIES} WHERE entry.tenant = ? AND entry.number > ? "
                f"ORDER BY entry.number LIMIT {_BATCH}",
                (tenant, number),
            ).fetchall()
        if not found:
            return
        for row in found:
            number = row[0]
            yield read_entry(row)


def one(reading: Access, tenant: str, decision_id: str) -> Decision:
    """One decision. Raises `NotFound`."""
    with reading() as connection:
        found = connection.execute(
            f"{ENTRIES} WHERE entry.tenant = ? AND entry.id = ? AND entry.kind = 'decision'",
            (tenant, decision_id),
        ).fetchone()
    if found is None:
        raise no_decision(decision_id)
    entry = read_entry(found)
    assert isinstance(entry, Decision), "the query gives no other"
    return entry


class SqliteTexts:
    """A `TextBook` in the tables `decision_text` and `erased`.

    Texts are overwritten where they stand, and their rows stay: SQLite moves rows about when it
    deletes others, and leaves copies in the gaps of its pages, even with `secure_delete`.
    """

    def __init__(self, reading: Access, writing: Access) -> None:
        """`reading` gives a connection, `writing` one in a transaction of its own."""
        self._reading, self._writing = reading, writing
        self._person_key = b""

    def erase(self, tenant: str, ids: Sequence[str], seal: SealErasure) -> Erasure | None:
        """As in `TextBook`."""
        with self._writing() as connection:
            there = _held(connection, tenant, ids)
            if not there:
                return None
            left = {n: remainder(each) for n, each in there.items() if not each.commitment}
            remainders = {each.id: record_hash(each) for each in left.values()}
            names = [each.id for each in there.values()]
            entry = seal(last_hash(connection, tenant), names, remainders)
            written = entry.model_dump_json(exclude={"hash"}, exclude_defaults=True)
            _insert_entry(connection, tenant, "erasure", entry, written)
            number = connection.last_insert_rowid()
            connection.executemany(
                "INSERT INTO erased VALUES (?, ?)", ((each, number) for each in there)
            )
            for each in there:
                if each in left:
                    rest = left[each].model_dump_json(exclude_defaults=True).encode()
                    overwrite(connection, "decision", "record", each, rest)
                else:
                    for column in ("person", "salt", "texts"):
                        overwrite(connection, "decision_text", column, each)
        return entry

    def purge(self) -> None:
        """As in `TextBook`."""
        cut_journal(self._reading, _NOT_PURGED)

    def held_before(self, tenant: str, time: datetime) -> list[str]:
        """As in `TextBook`."""
        return self._ids("made_at < ?", (tenant, to_micros(time)))

    def held_of(self, tenant: str, person: str) -> list[str]:
        """As in `TextBook`."""
        by_person = "number IN (SELECT number FROM decision_text WHERE tenant = ?1 AND person = ?)"
        return self._ids(by_person, (tenant, person))

    def _ids(self, condition: str, values: Row) -> list[str]:
        with self._reading() as connection:
            found: list[Row] = connection.execute(
                f"SELECT id FROM decision WHERE tenant = ?1 AND {condition} "
                "AND kind = 'decision' AND number NOT IN (SELECT number FROM erased) "
                "ORDER BY number",
                values,
            ).fetchall()
        return [name for (name,) in found]

    def person_key(self) -> bytes:
        """As in `TextBook`."""
        if not self._person_key:
            with self._reading() as connection:
                found = connection.execute("SELECT value FROM person_key").fetchone()
            if found is None:
                raise MemoryDamaged("the key of persons is lost: restore the memory from a backup")
            self._person_key = bytes(found[0])
        return self._person_key


def cut_journal(reading: Access, failed: str, patience: float = PURGE_SECONDS) -> None:
    """Bring the write-ahead log into the database, and cut it to nothing.

    Raises `StoreError` with the words of `failed` where other programs read for more than
    `patience` seconds without a gap.
    """
    import apsw

    give_up = time.monotonic() + patience
    with reading() as connection:
        usual = connection.pragma("busy_timeout")
        connection.set_busy_timeout(_PURGE_WAIT_MS)
        try:
            while True:
                try:
                    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                except apsw.BusyError as error:
                    if time.monotonic() > give_up:
                        raise StoreError(failed) from error
                    time.sleep(0.02)
                    continue
                return
        finally:
            connection.set_busy_timeout(int(usual))


def overwrite(
    connection: apsw.Connection, table: str, column: str, row: int, rest: bytes = b""
) -> None:
    """Put `rest` and then blanks over a text, in the very bytes where it stands.

    `column` may stand in no index: SQLite refuses that.
    """
    with connection.blob_open("main", table, column, row, True) as text:
        text.write(rest.ljust(text.length()))


_NOT_PURGED = (
    "the texts are erased, and that is on record, but the journal still holds them: another "
    "program reads the memory all the time; repeat the same command when it has ended"
)


def _held(connection: apsw.Connection, tenant: str, ids: Sequence[str]) -> Mapping[int, Decision]:
    """The decisions of these ids that are not erased, by number, oldest first."""
    rows: list[Row] = connection.execute(
        f"{ENTRIES} WHERE entry.tenant = ? AND entry.kind = 'decision' "
        "AND entry.id IN (SELECT value FROM json_each(?)) ORDER BY entry.number",
        (tenant, json.dumps(list(ids))),
    ).fetchall()
    return held(rows, ids)
