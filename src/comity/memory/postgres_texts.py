"""Decisions, their personal texts and the erasures of these in the PostgreSQL book of record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from comity.errors import MemoryDamaged, StoreError
from comity.memory.entries import held, no_decision, read_entry
from comity.memory.postgres_transactions import Row, Statement, Transactions, Writing
from comity.memory.sealed import Sealed, SealErasure, record_hash, remainder
from comity.memory.store import to_micros
from comity.records import Decision, Erasure

_BATCH = 500
_CHAINS = 0x636861696E  # apart from other locks that are named by a hash

_ENTRIES = (
    "SELECT entry.number, entry.kind, entry.record, entry.hash, held.salt, held.texts, "
    "erasure.made_at FROM comity.decision AS entry "
    "LEFT JOIN comity.erased ON erased.number = entry.number "
    "LEFT JOIN comity.decision_text AS held "
    "ON held.number = entry.number AND erased.number IS NULL "
    "LEFT JOIN comity.decision AS erasure ON erasure.number = erased.entry "
)
_INSERT = (
    "INSERT INTO comity.decision (tenant, id, made_at, revision, record, hash, kind) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING number"
)


def chain_lock(tenant: str) -> Statement:
    """Makes the transaction the only one that adds to a tenant's chain, until it ends."""
    return Statement("SELECT pg_advisory_xact_lock(hashtextextended(%s, %s))", (tenant, _CHAINS))


def chain_end(tenant: str) -> Statement:
    """Gives the hash of the last entry in a tenant's chain."""
    return Statement(
        "SELECT hash FROM comity.decision WHERE tenant = %s ORDER BY number DESC LIMIT 1",
        (tenant,),
    )


def insert(writing: Writing, tenant: str, sealed: Sealed) -> None:
    """Write a decision and its personal texts, in the transaction that goes on."""
    decision = sealed.decision
    entry, values = _entry(tenant, "decision", decision, sealed.record)
    if sealed.texts:
        entry = (
            f"WITH entry AS ({entry}) INSERT INTO comity.decision_text "
            "SELECT number, %s, %s, %s, %s FROM entry"
        )
        values = (*values, tenant, decision.person, decision.salt, sealed.texts)
    writing.run(Statement(entry, values))
    writing.proof = Statement(
        "SELECT 1 FROM comity.decision WHERE tenant = %s AND id = %s AND hash = %s",
        (tenant, decision.id, decision.hash),
    )


def _entry(tenant: str, kind: str, entry: Decision | Erasure, record: str) -> Statement:
    at = to_micros(entry.made_at)
    return Statement(_INSERT, (tenant, entry.id, at, entry.revision, record, entry.hash, kind))


def entries(transactions: Transactions, tenant: str) -> Iterator[Decision | Erasure]:
    """A tenant's whole chain, oldest first. Raises `MemoryDamaged` at one that cannot be read."""
    number = 0
    query = (
        f"{_ENTRIES} WHERE entry.tenant = %s AND entry.number > %s "
        f"ORDER BY entry.number LIMIT {_BATCH}"
    )
    while found := transactions.read(tenant, query, (tenant, number)):
        for row in found:
            number = row[0]
            yield read_entry(row)


def some(transactions: Transactions, tenant: str, ids: Sequence[str]) -> list[Decision]:
    """The decisions of these ids, in their order. Raises `NotFound`."""
    query = f"{_ENTRIES} WHERE entry.tenant = %s AND entry.id = ANY(%s) AND entry.kind = 'decision'"
    read = map(read_entry, transactions.read(tenant, query, (tenant, list(ids))))
    found = {each.id: each for each in read if isinstance(each, Decision)}
    missing = next((each for each in ids if each not in found), None)
    if missing is not None:
        raise no_decision(missing)
    return [found[each] for each in ids]


class PostgresTexts:
    """A `TextBook` in the tables `decision_text` and `erased`.

    PostgreSQL writes an emptied row beside the old one, which no query gives any more, and which
    stays in its files until these are written anew: docs/privacy.md says what an operator does.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._person_key = b""

    def erase(self, tenant: str, ids: Sequence[str], seal: SealErasure) -> Erasure | None:
        """As in `TextBook`."""
        wanted = Statement(
            f"{_ENTRIES} WHERE entry.tenant = %s AND entry.kind = 'decision' "
            "AND entry.id = ANY(%s) ORDER BY entry.number",
            (tenant, list(ids)),
        )
        opening = (chain_lock(tenant), chain_end(tenant), wanted)
        with self._transactions.writing(tenant, *opening) as writing:
            _, last, rows = writing.first
            there = held(rows, ids)
            if not there:
                return None
            left = {n: remainder(each) for n, each in there.items() if not each.commitment}
            remainders = {each.id: record_hash(each) for each in left.values()}
            names = [each.id for each in there.values()]
            entry = seal(last[0][0] if last else "", names, remainders)
            _write_erasure(writing, tenant, entry, list(there), left)
        return entry

    def purge(self) -> None:
        """As in `TextBook`, as far as PostgreSQL and the role's rights go.

        The space of erased texts is given free where the role owns the tables; otherwise the
        server's autovacuum does that. That is no overwriting.
        """
        with suppress(StoreError):  # a role that may not, or a server that is too busy
            clean(self._transactions, "decision_text", "decision", "preference")

    def held_before(self, tenant: str, time: datetime) -> list[str]:
        """As in `TextBook`."""
        return self._ids(tenant, "made_at < %s", (to_micros(time),))

    def held_of(self, tenant: str, person: str) -> list[str]:
        """As in `TextBook`."""
        by_person = (
            "number IN (SELECT number FROM comity.decision_text WHERE tenant = %s AND person = %s)"
        )
        return self._ids(tenant, by_person, (tenant, person))

    def _ids(self, tenant: str, condition: str, values: Row) -> list[str]:
        found = self._transactions.read(
            tenant,
            f"SELECT id FROM comity.decision WHERE {condition} AND tenant = %s "
            "AND kind = 'decision' AND number NOT IN (SELECT number FROM comity.erased) "
            "ORDER BY number",
            (*values, tenant),
        )
        return [name for (name,) in found]

    def person_key(self) -> bytes:
        """As in `TextBook`."""
        if not self._person_key:
            found = self._transactions.plain("SELECT value FROM comity.person_key")
            if not found:
                raise MemoryDamaged("the key of persons is lost: restore the memory from a backup")
            self._person_key = bytes(found[0][0])
        return self._person_key


def clean(transactions: Transactions, *tables: str) -> None:
    """Give the space of rows free that nothing sees any more. Raises `StoreError`."""
    named = ", ".join(f"comity.{table}" for table in tables)
    with transactions.connections.one() as connection:
        connection.execute(f"VACUUM (SKIP_LOCKED) {named}".encode())


def _write_erasure(
    writing: Writing,
    tenant: str,
    entry: Erasure,
    numbers: Sequence[int],
    left: dict[int, Any],
) -> None:
    written = entry.model_dump_json(exclude={"hash"}, exclude_defaults=True)
    [(number,)] = writing.rows(*_entry(tenant, "erasure", entry, written))
    rests = {n: rest.model_dump_json(exclude_defaults=True) for n, rest in left.items()}
    writing.run(
        Statement(
            "INSERT INTO comity.erased SELECT unnest(%s::bigint[]), %s", (list(numbers), number)
        ),
        Statement(
            "UPDATE comity.decision_text SET person = '', salt = '', texts = '' "
            "WHERE tenant = %s AND number = ANY(%s)",
            (tenant, [each for each in numbers if each not in left]),
        ),
        Statement(
            "UPDATE comity.decision SET record = rest.record "
            "FROM unnest(%s::bigint[], %s::text[]) AS rest (number, record) "
            "WHERE decision.tenant = %s AND decision.number = rest.number",
            (list(rests), list(rests.values()), tenant),
        ),
    )
    writing.proof = Statement(
        "SELECT 1 FROM comity.decision WHERE tenant = %s AND id = %s AND hash = %s",
        (tenant, entry.id, entry.hash),
    )
