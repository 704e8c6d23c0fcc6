"""Decision records: append-only, each chained to the one before by its hash."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from comity.alignment.precedence import rule_on
from comity.errors import MemoryDamaged, NotFound
from comity.memory.memory import Memory
from comity.memory.sealed import Hashes, hashes, sealer
from comity.records import Citation, Decision, Erasure, Hit, Message, Rule, RuleRef, Ruling
from comity.retrieval.search import applying, search
from comity.retrieval.turns import Asked, asked


def new_id() -> str:
    """A name for a decision that nobody can guess."""
    return f"d-{secrets.token_hex(10)}"


def prompt_hash(messages: Sequence[Message]) -> str:
    """SHA-256 over the messages of a prompt, in hex."""
    return _sha256([[message.role, message.content] for message in messages])


def append(memory: Memory, decision: Decision) -> Decision:
    """Chain a decision to its tenant's last entry and record it; durable when the call returns.

    Its personal texts are kept apart from what is chained, so that they can be erased.
    """
    return memory.store.append_decision(decision.tenant, sealer(decision))


def recover(memory: Memory, before: datetime) -> list[Decision]:
    """Record the answers that began to leave before a moment and were never recorded.

    Their process was killed: which rules were in force is known, and nothing of the texts.
    """
    return [append(memory, decision) for decision in memory.store.begun.left(before)]


class Break(NamedTuple):
    """Where a chain of decisions does not verify."""

    number: int
    """Place in the chain, from 1."""
    decision: str
    """Id; empty where the record cannot be read."""
    problem: str


class Link(NamedTuple):
    """An entry in a chain."""

    id: str
    hash: str


class Chain(NamedTuple):
    """How far a chain of decisions holds."""

    sound: int
    """How many entries verify, from the first on: decisions, and erasures of their texts."""
    last: Link | None
    """The last of them."""
    broken: Break | None
    erasures: int = 0
    """How many of the entries erase texts, where all of them hold."""


class _Gone(NamedTuple):
    """A decision without its texts, until the erasure is met that accounts for it."""

    chain: Chain
    """What is told of the chain if there is none."""
    remainder: str
    """Hash of what is left of a record that held its texts itself; else empty."""


def follow(entries: Iterable[Decision | Erasure]) -> Chain:
    """Verify a chain, oldest entry first, up to the first that does not hold.

    Personal texts are compared with their commitment; where they are gone, an erasure further
    down has to say so. A cut at the end leaves no trace in the chain itself: compare the last
    hash with one that was kept elsewhere.
    """
    gone: dict[str, _Gone] = {}
    chain = _followed(entries, gone)
    return next((each.chain for each in gone.values()), chain)


def _followed(entries: Iterable[Decision | Erasure], gone: dict[str, _Gone]) -> Chain:
    number, last, erasures = 0, None, 0
    try:
        for number, entry in enumerate(entries, start=1):
            found = hashes(entry)
            if problem := _problem(entry, found, last):
                return Chain(number - 1, last, Break(number, entry.id, problem))
            if isinstance(entry, Erasure):
                _account(entry, gone)
                erasures += 1
            elif why := _lacks(entry):
                left = "" if entry.commitment else found.record
                stops = Chain(number - 1, last, Break(number, entry.id, why))
                gone[entry.id] = _Gone(stops, left)
            last = Link(entry.id, entry.hash)
    except MemoryDamaged as error:
        return Chain(number, last, Break(number + 1, "", str(error)))
    return Chain(number, last, None, erasures)


def _account(erasure: Erasure, gone: dict[str, _Gone]) -> None:
    for name in erasure.decisions:
        if name in gone and gone[name].remainder == erasure.remainders.get(name, ""):
            del gone[name]


def verify(entries: Iterable[Decision | Erasure]) -> Break | None:
    """The first entry that was edited or cannot be read, or whose predecessor is missing.

    None if all hold.
    """
    return follow(entries).broken


def _problem(entry: Decision | Erasure, found: Hashes, before: Link | None) -> str:
    holds_itself = isinstance(entry, Decision) and entry.erased_at and not entry.commitment
    if entry.hash != found.record and not holds_itself:
        return "its content does not match its hash: it was edited"
    if isinstance(entry, Decision) and entry.salt and entry.commitment != found.commitment:
        return "its texts do not match its commitment to them: they were edited"
    if entry.previous_hash != (before.hash if before else ""):
        return "the entry before it was removed, inserted or moved"
    return ""


def _lacks(decision: Decision) -> str:
    """Why an erasure has to account for a decision; empty where its texts are there."""
    if decision.commitment and not decision.salt:
        return "its texts are gone, and no erasure of them is on record"
    if decision.erased_at and not decision.commitment:
        return "its content does not match its hash, nor what an erasure on record has left of it"
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
    not there, and as of another revision for a decision whose texts were erased.
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
        _refuse_erased(decision)
        most = max(hits, sum(not hit.reason for hit in decision.hits))
        found = search(memory, searched(decision), scope, k=most, relevance=relevance)
        candidates = found.candidates
    return _compared(decision, rule_on(candidates, memory.authorities))


def _refuse_erased(decision: Decision) -> None:
    if decision.erased_at:
        raise NotFound(
            f"the question of decision {decision.id} was erased on {decision.erased_at:%Y-%m-%d} "
            "and cannot be searched again; at the decision's own revision the ruling can still "
            "be made again"
        )


def searched(decision: Decision) -> Asked:
    """What was searched for a decision: its conversation's turns, or its one question."""
    also = decision.rewritten.queries if decision.rewritten else ()
    return asked(decision.turns or (decision.question,), decision.heard)._replace(also=also)


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
