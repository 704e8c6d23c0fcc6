"""Decision records: append-only, each chained to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from comity.alignment.precedence import rule_on
from comity.memory.memory import Memory
from comity.records import Decision, Message, Rule, RuleRef, Ruling
from comity.retrieval.search import applying, search


def new_id() -> str:
    """A name for a decision that nobody can guess."""
    return f"d-{secrets.token_hex(10)}"


def prompt_hash(messages: Sequence[Message]) -> str:
    """SHA-256 over the messages of a prompt, in hex."""
    return _sha256([[message.role, message.content] for message in messages])


def record_hash(decision: Decision) -> str:
    """SHA-256 over all fields of a decision but the hash itself, in hex."""
    return _sha256(decision.model_dump(mode="json", exclude={"hash"}))


def append(memory: Memory, decision: Decision) -> Decision:
    """Chain a decision to its tenant's last one and record it; durable when the call returns."""

    def seal(previous: str) -> Decision:
        chained = decision.model_copy(update={"previous_hash": previous})
        return chained.model_copy(update={"hash": record_hash(chained)})

    return memory.store.append_decision(decision.tenant, seal)


class Break(NamedTuple):
    """Where a chain of decisions does not verify."""

    decision: str
    problem: str


def verify(decisions: Iterable[Decision]) -> Break | None:
    """The first decision that was edited, or whose predecessor is missing; None if all hold.

    A cut at the end leaves no trace in the chain itself: compare the last hash with one that was
    kept elsewhere.
    """
    previous = ""
    for decision in decisions:
        if decision.hash != record_hash(decision):
            return Break(decision.id, "its content does not match its hash: it was edited")
        if decision.previous_hash != previous:
            return Break(decision.id, "the decision before it was removed, inserted or moved")
        previous = decision.hash
    return None


class Replay(NamedTuple):
    """A decision's ruling made again."""

    kept: tuple[RuleRef, ...]
    same: bool


def replay(memory: Memory, decision: Decision, *, as_of: int | None = None) -> Replay:
    """Make a decision's ruling again.

    At its own revision (`as_of` None) the ruling follows from the recorded hits and the scope
    alone; as of another revision the question is searched anew. Raises `NotFound` for a revision
    that is not there.
    """
    revision = decision.revision if as_of is None else as_of
    scope = decision.scope.model_copy(update={"as_of": revision})
    memory.check_scope(scope)
    if as_of is None:
        memory.index.catch_up()
        hits = [
            memory.get(hit.id, version=hit.version, tenant=decision.tenant) for hit in decision.hits
        ]
        candidates = applying(memory, hits, memory.index.admit(scope), decision.tenant)
    else:
        found = search(memory, decision.question, scope, k=max(1, len(decision.hits)))
        candidates = found.candidates
    ruling = rule_on(candidates, memory.authorities)
    kept, overruled = tuple(refs(ruling.kept)), overruled_refs(ruling)
    same = _keys(kept) == _keys(decision.kept) and overruled == list(decision.overruled)
    return Replay(kept, same)


def refs(rules: Iterable[Rule]) -> list[RuleRef]:
    """References to rules, for a record."""
    return [RuleRef(id=rule.id, version=rule.version) for rule in rules]


def overruled_refs(ruling: Ruling) -> list[RuleRef]:
    """References to the rules that gave way, with winner and reason."""
    return [
        RuleRef(
            id=lost.rule.id, version=lost.rule.version, reason=lost.reason, winner=lost.winner.id
        )
        for lost in ruling.overruled
    ]


def _keys(references: Iterable[RuleRef]) -> list[tuple[str, int]]:
    return [(reference.id, reference.version) for reference in references]


def _sha256(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
