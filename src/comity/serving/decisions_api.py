"""Decisions over HTTP: which there are, whether they hold, and what today's rules would change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import Field

from comity.alignment.decisions import affected, follow
from comity.alignment.replays import Facts, Replayed, Summary, replay_all, replayed, summary
from comity.memory.pages import DecisionFilter
from comity.records import Decision, Record, Scope
from comity.serving.asked import Asked, AsOf, Auditor, Id, Limit, Number, aware
from comity.serving.wire import Refused

_MOST_REPLAYS = 200  # a search each

After = Annotated[str, Query(max_length=400, description="Id after which to go on.")]
Since = Annotated[datetime | None, Query(description="First moment of the recording.")]
Until = Annotated[datetime | None, Query(description="First moment after it.")]
Rule = Annotated[str, Query(max_length=400, description="Id of a rule that had a part in it.")]
Under = Annotated[Literal["now"] | None, Query(description="With the rules that are held now.")]
FactsAt = Annotated[
    Literal["then", "now"] | None,
    Query(description="Time of the facts; under now by default what was stated, else now."),
]
Relevance = Annotated[
    float | None, Query(ge=0, le=1, description="As in `comity ask`; as set by default.")
]


class Broken(Record):
    """Where a chain of decisions does not verify."""

    number: int = Field(description="Place in the chain, from 1.")
    decision: str = Field(description="Id; empty where the record cannot be read.")
    problem: str


class Verified(Record):
    """How far the chain of the tenant's decisions holds."""

    decisions: int = Field(description="How many verify, from the first on.")
    broken: Broken | None = Field(None, description="The first that does not.")
    last_hash: str = Field("", description="Hash of the last that does; keep it elsewhere.")


class Part(Record):
    """What a rule did in a decision."""

    decision: str = Field(description="Id of the decision.")
    made_at: datetime
    part: tuple[str, ...] = Field(description="cited, kept, left out, overruled.")
    question: str


class Replays(Record):
    """Decisions' rulings made again."""

    as_of: int | None = Field(description="Revision whose rules they had; None is each one's own.")
    summary: Summary
    decisions: tuple[Replayed, ...] = Field(description="Those that differ, or all.")
    next: str = Field("", description="Give it as `after` to go on; empty at the end.")


def list_decisions(
    who: Auditor,
    after: After = "",
    limit: Limit = 100,
    since: Since = None,
    until: Until = None,
    model: Annotated[str, Query(description="Name of the model that answered.")] = "",
    withheld: Annotated[bool | None, Query(description="Whether a rule kept it back.")] = None,
    rule: Rule = "",
    version: Number = None,
) -> list[Decision]:
    """The records of answers, oldest first."""
    chosen = DecisionFilter(
        since=aware(since),
        until=aware(until),
        model=model,
        withheld=withheld,
        rule=rule,
        version=version,
    )
    return who.memory.store.decision_page(who.tenant, chosen, after=after, limit=limit)


def verify_decisions(who: Auditor) -> Verified:
    """Whether the chain of the tenant's records holds."""
    chain = follow(who.memory.store.chain(who.tenant))
    return Verified(
        decisions=chain.sound,
        broken=None if chain.broken is None else Broken(**chain.broken._asdict()),
        last_hash=chain.last.hash if chain.last else "",
    )


def affected_decisions(
    who: Auditor,
    id: Id,
    version: Number = None,
    after: After = "",
    limit: Limit = 1000,
    since: Since = None,
    until: Until = None,
) -> list[Part]:
    """Which past answers relied on a rule, or on one version of it, oldest first."""
    who.memory.get(id, version=version, tenant=who.tenant)
    chosen = DecisionFilter(since=aware(since), until=aware(until), rule=id, version=version)
    found = who.memory.store.decision_page(who.tenant, chosen, after=after, limit=limit)
    return [
        Part(
            decision=each.decision.id,
            made_at=each.decision.made_at,
            part=each.part,
            question=each.decision.question,
        )
        for each in affected(found, id, version)
    ]


def show_decision(who: Auditor, id: Id) -> Decision:
    """One record."""
    return who.memory.store.decision(who.tenant, id)


def replay_decision(
    who: Auditor,
    id: Id,
    under: Under = None,
    as_of: AsOf = None,
    facts: FactsAt = None,
    relevance: Relevance = None,
) -> Replayed:
    """A record's ruling made again: at its own revision, or under other rules."""
    decision = who.memory.store.decision(who.tenant, id)
    return replayed(who.memory, decision, **_how(who, under, as_of, facts, relevance))


def replay_decisions(
    who: Auditor,
    id: Annotated[list[str], Query(max_length=_MOST_REPLAYS)] = [],  # noqa: B006 - FastAPI copies it
    since: Since = None,
    until: Until = None,
    rule: Rule = "",
    version: Number = None,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=_MOST_REPLAYS)] = 100,
    under: Under = None,
    as_of: AsOf = None,
    facts: FactsAt = None,
    relevance: Relevance = None,
    changed: Annotated[bool, Query(description="List those only that differ.")] = True,
) -> Replays:
    """The rulings of many records made again: those named, or those of a period or a rule."""
    how = _how(who, under, as_of, facts, relevance)
    chosen = DecisionFilter(since=aware(since), until=aware(until), rule=rule, version=version)
    found = (
        [who.memory.store.decision(who.tenant, name) for name in dict.fromkeys(id)]
        if id
        else who.memory.store.decision_page(who.tenant, chosen, after=after, limit=limit)
    )
    replays = list(replay_all(who.memory, found, **how))
    return Replays(
        as_of=how["as_of"],
        summary=summary(replays, len(found)),
        decisions=tuple(each for each in replays if not (changed and each.same)),
        next=found[-1].id if not id and len(found) == limit else "",
    )


def _how(
    who: Asked,
    under: str | None,
    as_of: int | None,
    facts: Facts | None,
    relevance: float | None,
) -> dict[str, Any]:
    """The options of `replayed`. Raises `Refused` (400) and `NotFound`."""
    if under and as_of is not None:
        raise Refused(400, "give under or as_of, not both", param="under")
    if facts and not under and as_of is None:
        raise Refused(
            400, "facts needs under=now or as_of: else they are as recorded", param="facts"
        )
    if as_of is not None:
        who.memory.check_scope(Scope(tenant=who.tenant, as_of=as_of))
    return {
        "as_of": who.memory.revision if under else as_of,
        "facts": facts or ("asked" if under else "then"),
        "hits": who.options.hits,
        "relevance": who.options.relevance if relevance is None else relevance,
    }


DECISIONS: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/decisions", list_decisions),
    ("GET", "/decisions/verify", verify_decisions),
    ("GET", "/decisions/affected", affected_decisions),
    ("GET", "/decisions/show", show_decision),
    ("GET", "/decisions/replay", replay_decision),
    ("GET", "/decisions/replays", replay_decisions),
)
"""Method, path and function of each route."""
