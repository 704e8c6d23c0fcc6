"""Entries of the chains of decisions, and answers that have begun, as SQL books keep them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from comity.errors import MemoryDamaged, NotFound
from comity.memory.sealed import PERSONAL, joined
from comity.memory.store import from_micros, to_micros
from comity.records import Decision, Erasure

Row = tuple[Any, ...]


def read_entry(row: Row) -> Decision | Erasure:
    """An entry from its number, kind, record, hash, salt, texts and the time of its erasure.

    Raises `MemoryDamaged`.
    """
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


def held(rows: Sequence[Row], ids: Sequence[str]) -> Mapping[int, Decision]:
    """Of the rows of these decisions, those whose texts are there, by number, oldest first.

    Raises `NotFound` where one is missing, and `MemoryDamaged` where texts have gone without an
    erasure.
    """
    found = {row[0]: read_entry(row) for row in rows}
    known = {decision.id for decision in found.values()}
    if unknown := next((name for name in ids if name not in known), ""):
        raise no_decision(unknown)
    there = {n: d for n, d in found.items() if isinstance(d, Decision) and d.erased_at is None}
    lost = next((d.id for d in there.values() if d.commitment and not d.salt), "")
    if lost:
        raise MemoryDamaged(
            f"the texts of decision {lost} have gone without an erasure on record: see comity "
            "decisions verify, and restore the memory from a backup"
        )
    return there


def begun_row(decision: Decision) -> Row:
    """Tenant, id, time and record of an answer that begins to leave: nothing personal."""
    bare = decision.model_dump_json(
        exclude={*PERSONAL, "findings", "attempts"}, exclude_defaults=True
    )
    return decision.tenant, decision.id, to_micros(decision.made_at), bare


def read_begun(record: str) -> Decision:
    """An answer that has begun, from its record. Raises `MemoryDamaged`."""
    try:
        return Decision.model_validate({"question": ""} | json.loads(record))
    except (ValueError, TypeError) as error:
        raise MemoryDamaged(
            f"a note of an answer that has begun cannot be read: restore the memory from a backup "
            f"({error})"
        ) from error


def no_decision(decision_id: str) -> NotFound:
    """The error for a decision that is not there."""
    return NotFound(f"no decision {decision_id!r}: comity decisions list shows them")


def _unreadable(number: int, problem: str) -> MemoryDamaged:
    return MemoryDamaged(
        f"the decision in row {number} cannot be read ({problem}): restore the memory from a backup"
    )
