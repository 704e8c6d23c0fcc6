"""Findings on pairs of rules, and the decisions on them, in the SQLite book of record."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from comity.errors import MemoryDamaged, NotFound
from comity.memory.pairs import JudgedPair, PairDecision, Verdict
from comity.memory.store import from_micros, to_micros

if TYPE_CHECKING:
    import apsw

Access = Callable[[], AbstractContextManager["apsw.Connection"]]

# A finding that failed gives way to any later one; what an owner decided on gives way to none.
_KEEP = """
INSERT INTO judged_pair (tenant, id, one, other, verdict, record) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, id) DO UPDATE SET verdict = excluded.verdict, record = excluded.record
WHERE decided = '' AND (? OR verdict = 'failed')
"""
_FOUND = "SELECT record, decided FROM judged_pair WHERE tenant = ?"


class SqlitePairs:
    """A `PairBook` in the tables `judged_pair` and `pair_decision`."""

    def __init__(self, reading: Access, writing: Access) -> None:
        """`reading` gives a connection, `writing` one in a transaction of its own."""
        self._reading, self._writing = reading, writing

    def keep(self, tenant: str, judged: JudgedPair, *, again: bool = False) -> None:
        """As in `PairBook`."""
        record = judged.model_dump_json(exclude={"decided"})
        values = (tenant, judged.id, judged.one, judged.other, judged.verdict, record, again)
        with self._writing() as connection:
            connection.execute(_KEEP, values)

    def judged(self, tenant: str, ids: Sequence[str]) -> list[JudgedPair]:
        """As in `PairBook`."""
        among = "AND id IN (SELECT value FROM json_each(?))"
        values = (tenant, json.dumps(list(ids)))
        return self._found(f"{_FOUND} {among} ORDER BY one, other, id", values)

    def found(self, tenant: str, verdict: Verdict) -> list[JudgedPair]:
        """As in `PairBook`."""
        query = f"{_FOUND} AND verdict = ? ORDER BY one, other, id"
        return self._found(query, (tenant, verdict))

    def suspicions(self, tenant: str, rules: Sequence[str]) -> list[JudgedPair]:
        """As in `PairBook`."""
        named = json.dumps(list(rules))
        return self._found(
            f"{_FOUND} AND verdict = 'contradict' AND decided <> 'dismissed' "
            "AND one IN (SELECT value FROM json_each(?)) "
            "AND +other IN (SELECT value FROM json_each(?)) ORDER BY one, other, id",
            (tenant, named, named),
        )

    def _found(self, query: str, values: tuple[Any, ...]) -> list[JudgedPair]:
        with self._reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(query, values).fetchall()
        return [read_pair(record, decided) for record, decided in rows]

    def decide(self, tenant: str, decision: PairDecision) -> None:
        """As in `PairBook`."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE judged_pair SET decided = ? WHERE tenant = ? AND id = ?",
                (decision.decided, tenant, decision.pair),
            )
            if not connection.changes():
                raise NotFound(no_pair(decision.pair))
            connection.execute(
                "INSERT INTO pair_decision (tenant, pair, decided, author, note, made_at, winner, "
                "winner_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    tenant,
                    decision.pair,
                    decision.decided,
                    decision.author,
                    decision.note,
                    to_micros(decision.made_at),
                    decision.winner,
                    decision.winner_version,
                ),
            )

    def decisions(self, tenant: str, pair: str) -> list[PairDecision]:
        """As in `PairBook`."""
        with self._reading() as connection:
            rows: list[tuple[Any, ...]] = connection.execute(
                "SELECT decided, author, note, made_at, winner, winner_version FROM pair_decision "
                "WHERE tenant = ? AND pair = ? ORDER BY number",
                (tenant, pair),
            ).fetchall()
        return [
            PairDecision(
                pair=pair,
                decided=decided,
                author=author,
                note=note,
                made_at=from_micros(made_at),
                winner=winner,
                winner_version=version,
            )
            for decided, author, note, made_at, winner, version in rows
        ]


def no_pair(pair: str) -> str:
    """What to say of a pair on which there is no finding."""
    return f"no finding {pair!r}: comity rules conflicts shows them"


def read_pair(record: str, decided: str) -> JudgedPair:
    """A finding from its record. Raises `MemoryDamaged`."""
    try:
        found = JudgedPair.model_validate_json(record)
    except ValidationError as error:
        raise MemoryDamaged(
            f"a finding on two rules cannot be read: restore the memory from a backup ({error})"
        ) from error
    return found.model_copy(update={"decided": decided or None})
