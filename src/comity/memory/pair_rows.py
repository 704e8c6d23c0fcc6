"""Findings on pairs of rules, and decisions on them, as every SQL book of record keeps them."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from comity.errors import MemoryDamaged, NotFound
from comity.memory.pairs import JudgedPair, PairDecision
from comity.memory.store import from_micros, to_micros

Row = tuple[Any, ...]


def pair_row(tenant: str, judged: JudgedPair) -> Row:
    """Tenant, id, one, other, verdict and record of a finding."""
    record = judged.model_dump_json(exclude={"decided"})
    return tenant, judged.id, judged.one, judged.other, judged.verdict, record


def read_pair(record: str, decided: str) -> JudgedPair:
    """A finding from its record. Raises `MemoryDamaged`."""
    try:
        found = JudgedPair.model_validate_json(record)
    except ValidationError as error:
        raise MemoryDamaged(
            f"a finding on two rules cannot be read: restore the memory from a backup ({error})"
        ) from error
    return found.model_copy(update={"decided": decided or None})


def no_pair(pair: str) -> NotFound:
    """The error for a pair on which there is no finding."""
    return NotFound(f"no finding {pair!r}: comity rules conflicts shows them")


DECISION_COLUMNS = "tenant, pair, decided, author, note, made_at, winner, winner_version"
"""What `pair_decision_row` gives."""


def pair_decision_row(tenant: str, decision: PairDecision) -> Row:
    """A decision on a finding as a row."""
    return (
        tenant,
        decision.pair,
        decision.decided,
        decision.author,
        decision.note,
        to_micros(decision.made_at),
        decision.winner,
        decision.winner_version,
    )


def read_pair_decision(row: Row) -> PairDecision:
    """A decision from the columns of `DECISION_COLUMNS`."""
    _, pair, decided, author, note, made_at, winner, version = row
    return PairDecision(
        pair=pair,
        decided=decided,
        author=author,
        note=note,
        made_at=from_micros(made_at),
        winner=winner,
        winner_version=version,
    )
