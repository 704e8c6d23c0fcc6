"""Decisions, their personal texts and the erasures of these in the SQLite book of record."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from comity.errors import MemoryDamaged, NotFound, StoreError
from comity.memory.sealed import Sealed, SealErasure, joined, record_hash, remainder
from comity.memory.store import from_micros, to_micros
from comity.records import Decision, Erasure

if TYPE_CHECKING:
    import apsw

Access = Callable[[], AbstractContextManager["apsw.Connection"]]
Row = tuple[Any, ...]

PURGE_SECONDS = 10.0
"""How long an erasure waits for readers."""

_PURGE_WAIT_MS = 100  # for readers; writers wait as long
_BATCH = 500

_ENTRIES = (
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
                f"{_ENTRIES} WHERE entry.tenant = ? AND entry.number > ? "
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
            f"{_ENTRIES} WHERE entry.tenant = ? AND entry.id = ? AND entry.kind = 'decision'",
            (tenant, decision_id),
        ).fetchone()
    if found is None:
        raise _no_decision(decision_id)
    entry = read_entry(found)
    assert isinstance(entry, Decision), "the query gives no other"
    return entry


def read_entry(row: Row) -> Decision | Erasure:
    """An entry of a chain from a row of `_ENTRIES`. Raises `MemoryDamaged`."""
    number, kind, record, hash_, salt, texts, erased_at = row
    try:
        data = {"hash": hash_} | json.loads(record)
        if kind == "erasure":
            return Erasure.model_validate(data)
        if data.get("commitment"):
            data = joined(data, json.loads(texts or "{}")) | {"salt": salt or ""}
        at = None if erased_at is None else from_micros(erased_at)
        return Decision.model_validate(data | {"erased_at": at})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where + ': ' if where else ''}{first['msg']}"
        raise _unreadable(number, problem) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _unreadable(number, str(error)) from error


def _unreadable(number: int, problem: str) -> MemoryDamaged:
    return MemoryDamaged(
        f"the decision in row {number} cannot be read ({problem}): restore the memory from a backup"
    )


def _no_decision(decision_id: str) -> NotFound:
    return NotFound(f"no decision {decision_id!r}: comity decisions list shows them")


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
            held = _held(connection, tenant, ids)
            if not held:
                return None
            left = {n: remainder(each) for n, each in held.items() if not each.commitment}
            remainders = {each.id: record_hash(each) for each in left.values()}
            names = [each.id for each in held.values()]
            entry = seal(last_hash(connection, tenant), names, remainders)
            written = entry.model_dump_json(exclude={"hash"}, exclude_defaults=True)
            _insert_entry(connection, tenant, "erasure", entry, written)
            number = connection.last_insert_rowid()
            connection.executemany(
                "INSERT INTO erased VALUES (?, ?)", ((each, number) for each in held)
            )
            for each in held:
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


def _held(connection: apsw.Connection, tenant: str, ids: Sequence[str]) -> dict[int, Decision]:
    """The decisions of these ids that are not erased, by number, oldest first."""
    rows: list[Row] = connection.execute(
        f"{_ENTRIES} WHERE entry.tenant = ? AND entry.kind = 'decision' "
        "AND entry.id IN (SELECT value FROM json_each(?)) ORDER BY entry.number",
        (tenant, json.dumps(list(ids))),
    ).fetchall()
    found = {row[0]: read_entry(row) for row in rows}
    known = {decision.id for decision in found.values()}
    if unknown := next((name for name in ids if name not in known), ""):
        raise _no_decision(unknown)
    held = {n: d for n, d in found.items() if isinstance(d, Decision) and d.erased_at is None}
    lost = next((d.id for d in held.values() if d.commitment and not d.salt), "")
    if lost:
        raise MemoryDamaged(
            f"the texts of decision {lost} have gone without an erasure on record: see comity "
            "decisions verify, and restore the memory from a backup"
        )
    return held
