"""Findings on pairs of rules, and the decisions on them, in the PostgreSQL book of record."""

from __future__ import annotations

from collections.abc import Sequence

from comity.memory.pair_rows import (
    DECISION_COLUMNS,
    no_pair,
    pair_decision_row,
    pair_row,
    read_pair,
    read_pair_decision,
)
from comity.memory.pairs import JudgedPair, PairDecision, Verdict
from comity.memory.postgres_transactions import Row, Statement, Transactions

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
        kept = Statement(_KEEP, (*pair_row(tenant, judged), again))
        with self._transactions.writing(tenant) as writing:
            writing.run(kept)

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
            f"INSERT INTO comity.pair_decision ({DECISION_COLUMNS}) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            pair_decision_row(tenant, decision),
        )
        with self._transactions.writing(tenant) as writing:
            changed, _ = writing.run(marked, listed)
            if not changed:
                raise no_pair(decision.pair)

    def decisions(self, tenant: str, pair: str) -> list[PairDecision]:
        """As in `PairBook`."""
        rows = self._transactions.read(
            tenant,
            f"SELECT {DECISION_COLUMNS} FROM comity.pair_decision "
            "WHERE tenant = %s AND pair = %s ORDER BY number",
            (tenant, pair),
        )
        return [read_pair_decision(row) for row in rows]
