"""Rules and decisions over HTTP: what the command line does, for the key's tenant.

Ids hold slashes and blanks, so they are given as `?id=…` and never as part of a path. A change
is durable, and in force for the next request of every worker, when its call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from comity.alignment.decisions import affected, follow, replay
from comity.memory.memory import Memory
from comity.memory.upcoming import Upcoming, upcoming
from comity.records import WORLD, Decision, Record, Rule, Scope
from comity.retrieval.search import search
from comity.serving.auth import Act, allow, principal
from comity.serving.wire import Refused

_MOST = 1000


class NewRules(Record):
    """Rules to add, all or none."""

    rules: tuple[dict[str, Any], ...] = Field(
        min_length=1, max_length=_MOST, description="Without tenant and version."
    )
    note: str = Field("", description="Why.")


class Amendment(Record):
    """A new version of a rule."""

    changes: dict[str, Any] = Field(min_length=1, description="Fields, with their new values.")
    note: str = Field("", description="Why.")


class Ending(Record):
    """The end of a rule, or a verdict on a draft."""

    at: datetime | None = Field(None, description="When a repeal takes effect; now by default.")
    note: str = Field("", description="Why.")


class Versions(Record):
    """What a change has made."""

    revision: int = Field(description="Revision of the memory that holds it.")
    rules: tuple[Rule, ...] = Field(description="The new versions.")


class HeldRule(Record):
    """A rule version as the memory holds it."""

    rule: Rule
    revision: int = Field(description="Revision that brought it.")
    recorded_at: datetime | None = Field(description="When.")


class Asked(NamedTuple):
    """Who asks, and of which memory."""

    key: str
    tenant: str
    memory: Memory
    approval_above: str
    """Rules of this rank and higher wait for a second person."""


def _may(act: Act) -> Callable[[Request], Asked]:
    def who(request: Request) -> Asked:
        memory: Memory = request.app.state.memory
        found = principal(memory, request.headers.get("authorization"))
        allow(found, act)
        return Asked(found.key, found.tenant, memory, request.app.state.approval_above)

    return who


Reader = Annotated[Asked, Depends(_may("read rules"))]
Editor = Annotated[Asked, Depends(_may("change rules"))]
Approver = Annotated[Asked, Depends(_may("approve rules"))]
Auditor = Annotated[Asked, Depends(_may("read decisions"))]
Id = Annotated[str, Query(min_length=1, max_length=400, description="Id of a rule.")]
Limit = Annotated[int, Query(ge=1, le=_MOST)]


def _waits(who: Asked, rule: Mapping[str, Any]) -> bool:
    """Whether a rule ranks so high that a second person has to approve it."""
    ranks, authority = who.memory.authorities, rule.get("authority", "policy")
    return bool(who.approval_above) and (
        authority not in ranks or ranks.index(authority) <= ranks.index(who.approval_above)
    )


def _ever_waited(who: Asked, rule_id: str) -> bool:
    """Whether any version ranks so high: a draft with a lower rank opens no way around."""
    versions = who.memory.history(rule_id, tenant=who.tenant)
    return any(_waits(who, each.rule.model_dump()) for each in versions)


def list_rules(
    who: Reader,
    after: Annotated[str, Query(description="Id after which to go on.")] = "",
    limit: Limit = 100,
    as_of: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> list[HeldRule]:
    """The newest version of each rule, in order of id."""
    found = (held for held in who.memory.rules(tenant=who.tenant, as_of=as_of))
    return [_held(each) for each in found if each.rule.id > after][:limit]


def search_rules(
    who: Reader,
    q: Annotated[str, Query(min_length=1, max_length=4000)],
    place: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
    audience: Annotated[list[str], Query()] = [],  # noqa: B006
    at: datetime | None = None,
    as_of: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    k: Annotated[int, Query(ge=1, le=100)] = 20,
) -> list[dict[str, Any]]:
    """The rules that apply to a question, most similar first."""
    scope = Scope(
        place=tuple(place) or (WORLD,),
        audience=tuple(audience),
        at=at,
        as_of=as_of,
        tenant=who.tenant,
    )
    found = search(who.memory, q, scope, k=k)
    return [hit.rule.model_dump(mode="json") | {"score": hit.score} for hit in found.hits]


def upcoming_rules(
    who: Reader,
    since: datetime,
    until: datetime,
    place: str = WORLD,
    audience: str = "",
) -> list[Upcoming]:
    """Which rules begin, change or end between two dates."""
    first, last = _aware(since), _aware(until)
    if last < first:
        raise Refused(400, "until is before since", param="until")
    return upcoming(who.memory, first, last, tenant=who.tenant, place=place, audience=audience)


def add_rules(who: Editor, new: NewRules) -> Versions:
    """Add rules as one revision: all of them, or none."""
    rules = [_rule({**each, "tenant": who.tenant}, draft=_waits(who, each)) for each in new.rules]
    revision = who.memory.add(rules, author=who.key, note=new.note)
    return Versions(revision=revision, rules=tuple(rules))


def amend_rule(who: Editor, id: Id, amendment: Amendment) -> Versions:
    """Give a rule a new version; a high one waits for approval as a draft."""
    changes = dict(amendment.changes)
    if _waits(who, changes) or _ever_waited(who, id):
        changes["status"] = "draft"
    rule = who.memory.amend(id, changes, tenant=who.tenant, author=who.key, note=amendment.note)
    return Versions(revision=who.memory.revision, rules=(rule,))


def repeal_rule(who: Editor, id: Id, ending: Ending) -> Versions:
    """End a rule, now or at another moment."""
    if _ever_waited(who, id):
        raise Refused(
            403,
            f"rule {id!r} ranks so high that an approver has to repeal it on the command line",
            kind="permission_error",
        )
    at = _aware(ending.at) if ending.at else None
    rule = who.memory.repeal(id, at=at, tenant=who.tenant, author=who.key, note=ending.note)
    return Versions(revision=who.memory.revision, rules=(rule,))


def approve_rule(who: Approver, id: Id, ending: Ending) -> Versions:
    """Put a draft in force. Whoever wrote it may not approve it."""
    newest = who.memory.history(id, tenant=who.tenant)[-1]
    revisions = who.memory.store.revisions(who.tenant, after=newest.revision - 1)
    if revisions and revisions[0].author == who.key:
        raise Refused(
            403,
            f"rule {id!r}: this draft is of the same key; another person has to approve it",
            kind="permission_error",
        )
    rules = who.memory.approve(id, tenant=who.tenant, author=who.key, note=ending.note)
    return Versions(revision=who.memory.revision, rules=tuple(rules))


def reject_rule(who: Approver, id: Id, ending: Ending) -> Versions:
    """Discard a draft."""
    rule = who.memory.reject(id, tenant=who.tenant, author=who.key, note=ending.note)
    return Versions(revision=who.memory.revision, rules=(rule,))


def rule_history(who: Reader, id: Id) -> list[HeldRule]:
    """All versions of a rule, oldest first."""
    return [_held(each) for each in who.memory.history(id, tenant=who.tenant)]


def rule_diff(
    who: Reader,
    id: Id,
    old: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    new: Annotated[int | None, Query(ge=1, le=2**31)] = None,
) -> dict[str, dict[str, Any]]:
    """The fields in which two versions differ."""
    found = who.memory.diff(id, old, new, tenant=who.tenant)
    return {change.field: {"old": change.old, "new": change.new} for change in found}


def list_decisions(
    who: Auditor,
    after: Annotated[str, Query(description="Id after which to go on.")] = "",
    limit: Limit = 100,
) -> list[Decision]:
    """The records of answers, oldest first."""
    found: list[Decision] = []
    begun = not after
    for decision in who.memory.store.decisions(who.tenant):
        if begun:
            found.append(decision)
        begun = begun or decision.id == after
        if len(found) == limit:
            break
    return found


def verify_decisions(who: Auditor) -> dict[str, Any]:
    """Whether the chain of the tenant's records holds."""
    chain = follow(who.memory.store.decisions(who.tenant))
    return {
        "decisions": chain.sound,
        "broken": None if chain.broken is None else chain.broken._asdict(),
        "last_hash": chain.last.hash if chain.last else "",
    }


def affected_decisions(
    who: Auditor, id: Id, version: Annotated[int | None, Query(ge=1, le=2**31)] = None
) -> list[dict[str, Any]]:
    """Which past answers relied on a rule, or on one version of it."""
    who.memory.get(id, version=version, tenant=who.tenant)
    found = affected(who.memory.store.decisions(who.tenant), id, version)
    return [
        {"decision": each.decision.id, "part": each.part, "question": each.decision.question}
        for each in found
    ]


def show_decision(who: Auditor, id: Id) -> Decision:
    """One record."""
    return who.memory.store.decision(who.tenant, id)


def replay_decision(
    who: Auditor, id: Id, under_now: bool = False, relevance: float = 0.0
) -> dict[str, Any]:
    """A record's ruling made again, at its revision or under today's rules."""
    decision = who.memory.store.decision(who.tenant, id)
    revision = who.memory.revision if under_now else None
    again = replay(who.memory, decision, as_of=revision, relevance=relevance)
    refs = {"kept": again.kept, "came": again.came, "went": again.went}
    told = {name: [ref.model_dump(mode="json") for ref in each] for name, each in refs.items()}
    return {"same": again.same, **told}


_ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/rules", list_rules),
    ("GET", "/rules/search", search_rules),
    ("GET", "/rules/upcoming", upcoming_rules),
    ("POST", "/rules", add_rules),
    ("POST", "/rules/amend", amend_rule),
    ("POST", "/rules/repeal", repeal_rule),
    ("POST", "/rules/approve", approve_rule),
    ("POST", "/rules/reject", reject_rule),
    ("GET", "/rules/history", rule_history),
    ("GET", "/rules/diff", rule_diff),
    ("GET", "/decisions", list_decisions),
    ("GET", "/decisions/verify", verify_decisions),
    ("GET", "/decisions/affected", affected_decisions),
    ("GET", "/decisions/show", show_decision),
    ("GET", "/decisions/replay", replay_decision),
)


def rules_router() -> APIRouter:
    """The routes; the application's state holds `memory` and `approval_above`."""
    router = APIRouter()
    for method, path, call in _ROUTES:
        router.add_api_route(
            path,
            call,
            methods=[method],
            tags=[path.split("/")[1]],
            status_code=201 if call is add_rules else 200,
        )
    return router


def _held(stored: Any) -> HeldRule:
    return HeldRule(rule=stored.rule, revision=stored.revision, recorded_at=stored.recorded_at)


def _rule(given: Mapping[str, Any], *, draft: bool) -> Rule:
    try:
        rule = Rule.model_validate(given)
    except ValueError as error:
        first = error.errors(include_url=False)[0] if hasattr(error, "errors") else None
        where = ".".join(map(str, first["loc"])) if first else "rule"
        said = first["msg"] if first else str(error)
        name = given.get("id", "?")
        raise Refused(422, f"rule {name!r}: {where}: {said}", param=where) from error
    return rule.model_copy(update={"version": 1, **({"status": "draft"} if draft else {})})


def _aware(time: datetime) -> datetime:
    from comity.records import parse_time

    aware: datetime = parse_time(time)
    return aware
