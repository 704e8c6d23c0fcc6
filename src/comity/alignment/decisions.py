"""Decision records: append-only, each chained to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from comity.alignment.precedence import rule_on
from comity.errors import MemoryDamaged
from comity.memory.memory import Memory
from comity.records import Citation, Decision, Hit, Message, Rule, RuleRef, Ruling
from comity.retrieval.search import applying, search
from comity.retrieval.turns import Asked, asked


def new_id() -> str:
    """A name for a decision that nobody can guess."""
    return f"d-{secrets.token_hex(10)}"


def prompt_hash(messages: Sequence[Message]) -> str:
    """SHA-256 over the messages of a prompt, in hex."""
    return _sha256([[message.role, message.content] for message in messages])


def record_hash(decision: Decision) -> str:
    """SHA-256 over all fields of a decision but the hash itself, in hex.

    What has its default is left out, so that records made before a field was added still verify.
    """
    return _sha256(decision.model_dump(mode="json", exclude={"hash"}, exclude_defaults=True))


def append(memory: Memory, decision: Decision) -> Decision:
    """Chain a decision to its tenant's last one and record it; durable when the call returns."""

    def seal(previous: str) -> Decision:
        chained = decision.model_copy(update={"previous_hash": previous})
        return chained.model_copy(update={"hash": record_hash(chained)})

    return memory.store.append_decision(decision.tenant, seal)


class Break(NamedTuple):
    """Where a chain of decisions does not verify."""

    number: int
    """Place in the chain, from 1."""
    decision: str
    """Id; empty where the record cannot be read."""
    problem: str


class Chain(NamedTuple):
    """How far a chain of decisions holds."""

    sound: int
    """How many decisions verify, from the first on."""
    last: Decision | None
    """The last of them."""
    broken: Break | None


def follow(decisions: Iterable[Decision]) -> Chain:
    """Verify decisions, oldest first, up to the first that does not hold.

    A cut at the end leaves no trace in the chain itself: compare the last hash with one that was
    kept elsewhere.
    """
    number, last = 0, None
    try:
        for number, decision in enumerate(decisions, start=1):
            problem = _problem(decision, last)
            if problem:
                return Chain(number - 1, last, Break(number, decision.id, problem))
            last = decision
    except MemoryDamaged as error:
        return Chain(number, last, Break(number + 1, "", str(error)))
    return Chain(number, last, None)


def verify(decisions: Iterable[Decision]) -> Break | None:
    """The first decision that was edited or cannot be read, or whose predecessor is missing.

    None if all hold.
    """
    return follow(decisions).broken


def _problem(decision: Decision, before: Decision | None) -> str:
    if decision.hash != record_hash(decision):
        return "its content does not match its hash: it was edited"
    if decision.previous_hash != (before.hash if before else ""):
        return "the decision before it was removed, inserted or moved"
    return ""


class Affected(NamedTuple):
    """A decision that a rule had a part in."""

    decision: Decision
    part: tuple[str, ...]
    """What the rule did there: cited, kept, left out, overruled; the weightiest first."""


def affected(
    decisions: Iterable[Decision], rule_id: str, version: int | None = None
) -> Iterator[Affected]:
    """The decisions that relied on a rule, or on one version of it, in their order.

    A rule that search found and that did not apply had no part.
    """
    for decision in decisions:
        parts: Mapping[str, Sequence[Citation | RuleRef]] = {
            "cited": decision.citations,
            "kept": decision.kept,
            "left out": decision.left_out,
            "overruled": decision.overruled,
        }
        part = tuple(
            name
            for name, refs in parts.items()
            if any(ref.id == rule_id and version in (None, ref.version) for ref in refs)
        )
        if part:
            yield Affected(decision, part)


class Replay(NamedTuple):
    """A decision's ruling made again."""

    kept: tuple[RuleRef, ...]
    came: tuple[RuleRef, ...]
    """Rules kept now that were not kept then."""
    went: tuple[RuleRef, ...]
    """Rules kept then that are not kept now."""
    same: bool
    """Whether kept rules, their order and what they overruled are the same."""
    overruled: tuple[RuleRef, ...]


def replay(
    memory: Memory,
    decision: Decision,
    *,
    as_of: int | None = None,
    at: datetime | None = None,
    hits: int = 20,
    relevance: float = 0.0,
) -> Replay:
    """Make a decision's ruling again.

    At its own revision (`as_of` None) the ruling follows from the recorded hits and the scope
    alone; as of another revision the question is searched anew, for `hits` rules and no fewer
    than it had, leaving out what falls short of `relevance` (see `search`). The facts stay at
    the time that is recorded unless `at` gives another. Raises `NotFound` for a revision that is
    not there.
    """
    revision = decision.revision if as_of is None else as_of
    scope = decision.scope.model_copy(update={"as_of": revision, "at": at or decision.scope.at})
    memory.check_scope(scope)
    if as_of is None:
        memory.index.catch_up()
        rules = [
            memory.get(hit.id, version=hit.version, tenant=decision.tenant) for hit in decision.hits
        ]
        candidates = applying(memory, rules, memory.index.admit(scope), decision.tenant)
    else:
        most = max(hits, sum(not hit.reason for hit in decision.hits))
        found = search(memory, searched(decision), scope, k=most, relevance=relevance)
        candidates = found.candidates
    return _compared(decision, rule_on(candidates, memory.authorities))


def searched(decision: Decision) -> Asked:
    """What was searched for a decision: its conversation's turns, or its one question."""
    return asked(decision.turns or (decision.question,), decision.heard)


def hit_refs(hits: Iterable[Hit]) -> Iterator[RuleRef]:
    """References to what search found, for a record."""
    for hit in hits:
        by = "" if hit.by == "question" else hit.by
        yield RuleRef(id=hit.rule.id, version=hit.rule.version, score=hit.score, reason=by)


def _compared(decision: Decision, ruling: Ruling) -> Replay:
    kept, overruled = tuple(refs(ruling.kept)), overruled_refs(ruling)
    then, now = _keys(decision.kept), _keys(kept)
    return Replay(
        kept=kept,
        came=tuple(ref for ref in kept if (ref.id, ref.version) not in then),
        went=tuple(ref for ref in decision.kept if (ref.id, ref.version) not in now),
        same=then == now and overruled == list(decision.overruled),
        overruled=tuple(overruled),
    )


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
