"""Findings on pairs of rules, and the decisions on them, in the PostgreSQL book of record."""

from __future__ import annotations

from collections.abc import Sequence

from comity.errors import NotFound
from comity.memory.pairs import JudgedPair, PairDecision, Verdict
from comity.memory.postgres_transactions import Row, Statement, Transactions
from comity.memory.sqlite_pairs import no_pair, read_pair
from comity.memory.store import from_micros, to_micros

# A finding that failed gives way to any later one; what an owner decided on gives way to none.
_KEEP = """
INSERT INTO comity.judged_pair AS known (tenant, id, one, other, verdict, record)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant, id) DO UPDATE SET verdict = excluded.verdict, record = excluded.record
WHERE known.decided = '' AND (%s OR known.verdict = 'failed')
"""
_FOUND = "SELECT record, decided FROM comity.judged_pair WHERE tenant = %s"


class PostgresPairs:
    """A `PairBook` in the tables `judged_pair` and `pair_decision`."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def keep(self, tenant: str, judged: JudgedPair, *, again: bool = False) -> None:
        """As in `PairBook`."""
        record = judged.model_dump_json(exclude={"decided"})
        values = (tenant, judged.id, judged.one, judged.other, judged.verdict, record, again)
        with self._transactions.writing(tenant) as writing:
            writing.run(Statement(_KEEP, values))

    def judged(self, tenant: str, ids: Sequence[str]) -> list[JudgedPair]:
        """As in `PairBook`."""
        return self._found(tenant, "AND id = ANY(%s)", (list(ids),))

    def found(self, tenant: str, verdict: Verdict) -> list[JudgedPair]:
        """As in `PairBook`."""
        return self._found(tenant, "AND verdict = %s", (verdict,))

    def suspicions(self, tenant: str, rules: Sequence[str]) -> list[JudgedPair]:
        """As in `PairBook`."""
        named = list(rules)
        return self._found(
            tenant,
            "AND verdict = 'contradict' AND decided <> 'dismissed' "
            "AND one = ANY(%s) AND other = ANY(%s)",
            (named, named),
        )

    def _found(self, tenant: str, condition: str, values: Row) -> list[JudgedPair]:
        query = f"{_FOUND} {condition} ORDER BY one, other, id"
        rows = self._transactions.read(tenant, query, (tenant, *values))
        return [read_pair(record, decided) for record, decided in rows]

    def decide(self, tenant: str, decision: PairDecision) -> None:
        """As in `PairBook`."""
        marked = Statement(
            "UPDATE comity.judged_pair SET decided = %s WHERE tenant = %s AND id = %s",
            (decision.decided, tenant, decision.pair),
        )
        listed = Statement(
            "INSERT INTO comity.pair_decision (tenant, pair, decided, author, note, made_at, "
            "winner, winner_version) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
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
        with self._transactions.writing(tenant) as writing:
            changed, _ = writing.run(marked, listed)
            if not changed:
                raise NotFound(no_pair(decision.pair))

    def decisions(self, tenant: str, pair: str) -> list[PairDecision]:
        """As in `PairBook`."""
        rows = self._transactions.read(
            tenant,
            "SELECT decided, author, note, made_at, winner, winner_version "
            "FROM comity.pair_decision WHERE tenant = %s AND pair = %s ORDER BY number",
            (tenant, pair),
        )
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
