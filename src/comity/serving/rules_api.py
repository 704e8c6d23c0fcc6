"""Rules and decisions over HTTP: what the command line does, for the key's tenant.

Ids hold slashes and blanks, so they are given as `?id=…` and never as part of a path. A change
is durable, and in force for the next request of every worker, when its call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from comity.alignment.decisions import affected, follow, replay
from comity.memory.memory import Memory
from comity.memory.upcoming import Upcoming, upcoming
from comity.records import WORLD, Decision, Record, Rule, Scope
from comity.retrieval.search import search
from comity.serving.auth import Act, Principal, allow, principal
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


def _may(act: Act) -> Callable[[Request], Principal]:
    def who(request: Request) -> Principal:
        found = principal(request.app.state.memory, request.headers.get("authorization"))
        allow(found, act)
        return found

    return who


Reader = Annotated[Principal, Depends(_may("read rules"))]
Editor = Annotated[Principal, Depends(_may("change rules"))]
Approver = Annotated[Principal, Depends(_may("approve rules"))]
Auditor = Annotated[Principal, Depends(_may("read decisions"))]
Id = Annotated[str, Query(min_length=1, max_length=400, description="Id of a rule.")]
Limit = Annotated[int, Query(ge=1, le=_MOST)]


def rules_router(memory: Memory, approval_above: str = "") -> APIRouter:
    """The routes. Rules of rank `approval_above` and higher wait for a second person."""
    router = APIRouter()
    ranks = memory.authorities

    def waits(rule: Mapping[str, Any]) -> bool:
        authority = rule.get("authority", "policy")
        return bool(approval_above) and (
            authority not in ranks or ranks.index(authority) <= ranks.index(approval_above)
        )

    def ever_waited(rule_id: str, tenant: str) -> bool:
        """Whether any version ranks so high: a draft with a lower rank opens no way around."""
        return any(waits(each.rule.model_dump()) for each in memory.history(rule_id, tenant=tenant))

    @router.get("/rules", tags=["rules"])
    def list_rules(
        who: Reader,
        after: Annotated[str, Query(description="Id after which to go on.")] = "",
        limit: Limit = 100,
        as_of: Annotated[int | None, Query(ge=0, le=2**53)] = None,
    ) -> list[HeldRule]:
        """The newest version of each rule, in order of id."""
        found = (held for held in memory.rules(tenant=who.tenant, as_of=as_of))
        return [_held(each) for each in found if each.rule.id > after][:limit]

    @router.get("/rules/search", tags=["rules"])
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
        found = search(memory, q, scope, k=k)
        return [hit.rule.model_dump(mode="json") | {"score": hit.score} for hit in found.hits]

    @router.get("/rules/upcoming", tags=["rules"])
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
        return upcoming(memory, first, last, tenant=who.tenant, place=place, audience=audience)

    @router.post("/rules", tags=["rules"], status_code=201)
    def add_rules(who: Editor, new: NewRules) -> Versions:
        """Add rules as one revision: all of them, or none."""
        rules = [_rule({**each, "tenant": who.tenant}, draft=waits(each)) for each in new.rules]
        revision = memory.add(rules, author=who.key, note=new.note)
        return Versions(revision=revision, rules=tuple(rules))

    @router.post("/rules/amend", tags=["rules"])
    def amend_rule(who: Editor, id: Id, amendment: Amendment) -> Versions:
        """Give a rule a new version; a high one waits for approval as a draft."""
        changes = dict(amendment.changes)
        if waits(changes) or ever_waited(id, who.tenant):
            changes["status"] = "draft"
        rule = memory.amend(id, changes, tenant=who.tenant, author=who.key, note=amendment.note)
        return Versions(revision=memory.revision, rules=(rule,))

    @router.post("/rules/repeal", tags=["rules"])
    def repeal_rule(who: Editor, id: Id, ending: Ending) -> Versions:
        """End a rule, now or at another moment."""
        if ever_waited(id, who.tenant):
            raise Refused(
                403,
                f"rule {id!r} ranks so high that an approver has to repeal it on the command line",
                kind="permission_error",
            )
        at = _aware(ending.at) if ending.at else None
        rule = memory.repeal(id, at=at, tenant=who.tenant, author=who.key, note=ending.note)
        return Versions(revision=memory.revision, rules=(rule,))

    @router.post("/rules/approve", tags=["rules"])
    def approve_rule(who: Approver, id: Id, ending: Ending) -> Versions:
        """Put a draft in force. Whoever wrote it may not approve it."""
        newest = memory.history(id, tenant=who.tenant)[-1]
        revisions = memory.store.revisions(who.tenant, after=newest.revision - 1)
        if revisions and revisions[0].author == who.key:
            raise Refused(
                403,
                f"rule {id!r}: this draft is of the same key; another person has to approve it",
                kind="permission_error",
            )
        rules = memory.approve(id, tenant=who.tenant, author=who.key, note=ending.note)
        return Versions(revision=memory.revision, rules=tuple(rules))

    @router.post("/rules/reject", tags=["rules"])
    def reject_rule(who: Approver, id: Id, ending: Ending) -> Versions:
        """Discard a draft."""
        rule = memory.reject(id, tenant=who.tenant, author=who.key, note=ending.note)
        return Versions(revision=memory.revision, rules=(rule,))

    @router.get("/rules/history", tags=["rules"])
    def rule_history(who: Reader, id: Id) -> list[HeldRule]:
        """All versions of a rule, oldest first."""
        return [_held(each) for each in memory.history(id, tenant=who.tenant)]

    @router.get("/rules/diff", tags=["rules"])
    def rule_diff(
        who: Reader,
        id: Id,
        old: Annotated[int | None, Query(ge=1, le=2**31)] = None,
        new: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    ) -> dict[str, dict[str, Any]]:
        """The fields in which two versions differ."""
        found = memory.diff(id, old, new, tenant=who.tenant)
        return {change.field: {"old": change.old, "new": change.new} for change in found}

    @router.get("/decisions", tags=["decisions"])
    def list_decisions(
        who: Auditor,
        after: Annotated[str, Query(description="Id after which to go on.")] = "",
        limit: Limit = 100,
    ) -> list[Decision]:
        """The records of answers, oldest first."""
        found: list[Decision] = []
        begun = not after
        for decision in memory.store.decisions(who.tenant):
            if begun:
                found.append(decision)
            begun = begun or decision.id == after
            if len(found) == limit:
                break
        return found

    @router.get("/decisions/verify", tags=["decisions"])
    def verify_decisions(who: Auditor) -> dict[str, Any]:
        """Whether the chain of the tenant's records holds."""
        chain = follow(memory.store.decisions(who.tenant))
        return {
            "decisions": chain.sound,
            "broken": None if chain.broken is None else chain.broken._asdict(),
            "last_hash": chain.last.hash if chain.last else "",
        }

    @router.get("/decisions/affected", tags=["decisions"])
    def affected_decisions(
        who: Auditor, id: Id, version: Annotated[int | None, Query(ge=1, le=2**31)] = None
    ) -> list[dict[str, Any]]:
        """Which past answers relied on a rule, or on one version of it."""
        memory.get(id, version=version, tenant=who.tenant)
        found = affected(memory.store.decisions(who.tenant), id, version)
        return [
            {"decision": each.decision.id, "part": each.part, "question": each.decision.question}
            for each in found
        ]

    @router.get("/decisions/show", tags=["decisions"])
    def show_decision(who: Auditor, id: Id) -> Decision:
        """One record."""
        return memory.store.decision(who.tenant, id)

    @router.get("/decisions/replay", tags=["decisions"])
    def replay_decision(
        who: Auditor, id: Id, under_now: bool = False, relevance: float = 0.0
    ) -> dict[str, Any]:
        """A record's ruling made again, at its revision or under today's rules."""
        decision = memory.store.decision(who.tenant, id)
        revision = memory.revision if under_now else None
        again = replay(memory, decision, as_of=revision, relevance=relevance)
        refs = {"kept": again.kept, "came": again.came, "went": again.went}
        told = {name: [ref.model_dump(mode="json") for ref in each] for name, each in refs.items()}
        return {"same": again.same, **told}

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
