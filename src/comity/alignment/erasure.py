"""Erasing the personal texts of decisions, so that the chain of their records still holds.

What is left says which rules, in which versions, were in force and what the checks found. The
erasure is an entry of the same chain: texts that are gone without one are found as damage.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from comity.memory.memory import Memory
from comity.memory.sealed import record_hash
from comity.records import Erasure, OptionalTime, Record

_AT_ONCE = 200  # decisions in one transaction: answers that are recorded meanwhile wait for it


class Wanted(Record):
    """Which decisions are to lose their personal texts: exactly one of these is given."""

    ids: tuple[str, ...] = Field((), description="Ids of decisions.")
    question_contains: str = Field("", description="Words that stand in the question.")
    user: str = Field("", description="A user, as clients named it: `safety_identifier` or `user`.")
    before: OptionalTime = Field(None, description="First moment whose decisions are kept whole.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        given = [name for name in Wanted.model_fields if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "give one of ids, question_contains, user and before"
                + (f", not {' and '.join(given)}" if given else "")
            )
        return self


class Erased(NamedTuple):
    """What an erasure did."""

    decisions: tuple[str, ...]
    """Ids of those whose texts were erased now."""
    entries: tuple[str, ...]
    """Ids of the entries in the chain that say so."""


def person_hash(memory: Memory, tenant: str, name: str) -> str:
    """What is kept of a user's name: HMAC-SHA-256 under a key that is the memory's own, in hex."""
    told = f"{tenant}\0{name}".encode("utf-8", "surrogatepass")
    return hmac.new(memory.store.texts.person_key(), told, hashlib.sha256).hexdigest()


def chosen(memory: Memory, tenant: str, wanted: Wanted) -> tuple[str, ...]:
    """Ids of the decisions that are wanted and not erased yet, oldest first.

    Raises `NotFound` for an id that is not there.
    """
    texts = memory.store.texts
    if wanted.user:
        return tuple(texts.held_of(tenant, person_hash(memory, tenant, wanted.user)))
    if wanted.before:
        return tuple(texts.held_before(tenant, wanted.before))
    if wanted.ids:
        found = (memory.store.decision(tenant, name) for name in dict.fromkeys(wanted.ids))
        return tuple(decision.id for decision in found if decision.erased_at is None)
    words = wanted.question_contains.casefold()
    return tuple(
        decision.id
        for decision in memory.store.decisions(tenant)
        if words in decision.question.casefold()
    )


def erase(memory: Memory, tenant: str, ids: Sequence[str], *, by: str, reason: str = "") -> Erased:
    """Erase the personal texts of decisions, and what files still hold of texts erased before.

    Durable when it returns. Interrupted, it has erased some of them, each with its entry in the
    chain; called again it goes on. Raises `NotFound` for an unknown id (what came before it is
    erased), and `StoreError` where the storage fails or another program reads all the time.
    """
    done: list[Erasure] = []
    for start in range(0, len(ids), _AT_ONCE):
        entry = _erase(memory, tenant, ids[start : start + _AT_ONCE], by, reason)
        if entry is not None:
            done.append(entry)
    memory.recent.clear()
    memory.store.texts.purge()
    return Erased(
        tuple(name for entry in done for name in entry.decisions),
        tuple(entry.id for entry in done),
    )


def _erase(memory: Memory, tenant: str, ids: Sequence[str], by: str, reason: str) -> Erasure | None:
    def seal(previous: str, names: Sequence[str], remainders: Mapping[str, str]) -> Erasure:
        entry = Erasure(
            id=f"e-{secrets.token_hex(10)}",
            tenant=tenant,
            made_at=memory.clock(),
            revision=revision,
            by=by,
            reason=reason,
            decisions=tuple(names),
            remainders=dict(remainders),
            previous_hash=previous,
        )
        return entry.model_copy(update={"hash": record_hash(entry)})

    revision = memory.revision
    return memory.store.texts.erase(tenant, ids, seal)
