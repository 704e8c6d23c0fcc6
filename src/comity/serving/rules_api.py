"""Rules and decisions over HTTP: what the command line does, for the key's tenant.

Ids hold slashes and blanks, so they are given as `?id=…` and never as part of a path. A change
is durable, and in force for the next request of every worker, when its call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from comity.memory.pages import RuleFilter
from comity.memory.upcoming import Upcoming, upcoming
from comity.records import WORLD, Record, Rule, Scope, Status
from comity.retrieval.search import search
from comity.serving.approval import Waiting, any_waits, end_rule, refuse_own, waiting, waits
from comity.serving.asked import MOST, Approver, AsOf, Editor, Id, Limit, Number, Reader, aware
from comity.serving.decisions_api import DECISIONS
from comity.serving.import_api import IMPORT, import_rules
from comity.serving.strict_route import StrictRoute
from comity.serving.wire import Refused


class NewRules(Record):
    """Rules to add, all or none."""

    rules: tuple[dict[str, Any], ...] = Field(
        min_length=1, max_length=MOST, description="Without tenant and version."
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


class Approval(Ending):
    """A draft is put in force."""

    version: int | None = Field(
        None, ge=1, description="Of the draft that was looked at; 409 where it is another by now."
    )


class Versions(Record):
    """What a change has made."""

    revision: int = Field(description="Revision of the memory that holds it.")
    rules: tuple[Rule, ...] = Field(description="The new versions.")


class HeldRule(Record):
    """A rule version as the memory holds it."""

    rule: Rule
    revision: int = Field(description="Revision that brought it.")
    recorded_at: datetime | None = Field(description="When.")


def list_rules(
    who: Reader,
    after: Annotated[str, Query(max_length=400, description="Id after which to go on.")] = "",
    limit: Limit = 100,
    as_of: AsOf = None,
    place: Annotated[str, Query(description="Rules of this place and inside it.")] = "",
    audience: Annotated[str, Query(description="Rules that name this label.")] = "",
    authority: Annotated[str, Query(description="Rules of this rank.")] = "",
    domain: Annotated[str, Query(description="Rules on this subject.")] = "",
    status: Annotated[Status | None, Query(description="Of the newest version.")] = None,
    text: Annotated[str, Query(description="Words in id, title, article or text.")] = "",
) -> list[HeldRule]:
    """The newest version of each rule, in order of id."""
    if as_of is not None:
        who.memory.check_scope(Scope(tenant=who.tenant, as_of=as_of))
    chosen = RuleFilter(
        place=who.memory.gazetteer(who.tenant).canonical(place) if place else "",
        audience=audience,
        authority=authority,
        domain=domain,
        status=status,
        text=text,
    )
    found = who.memory.store.page(who.tenant, chosen, after=after, limit=limit, as_of=as_of)
    return [_held(each) for each in found]


def list_drafts(
    who: Reader,
    after: Annotated[str, Query(max_length=400, description="Id after which to go on.")] = "",
    limit: Limit = 100,
) -> list[Waiting]:
    """What waits for approval, and what it would change."""
    return waiting(who, after, limit)


def search_rules(
    who: Reader,
    q: Annotated[str, Query(min_length=1, max_length=4000)],
    place: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
    audience: Annotated[list[str], Query()] = [],  # noqa: B006
    at: datetime | None = None,
    as_of: AsOf = None,
    k: Annotated[int, Query(ge=1, le=100)] = 20,
) -> list[dict[str, Any]]:
    """The rules that apply to a question, most similar first."""
    scope = Scope(
        place=tuple(place) or (WORLD,),
        audience=tuple(audience),
        at=aware(at),
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
    first, last = aware(since), aware(until)
    assert first is not None
    assert last is not None
    if last < first:
        raise Refused(400, "until is before since", param="until")
    return upcoming(who.memory, first, last, tenant=who.tenant, place=place, audience=audience)


def add_rules(who: Editor, new: NewRules) -> Versions:
    """Add rules as one revision: all of them, or none."""
    rules = [_rule({**each, "tenant": who.tenant}, draft=waits(who, each)) for each in new.rules]
    revision = who.memory.add(rules, author=who.key, note=new.note)
    return Versions(revision=revision, rules=tuple(rules))


def amend_rule(who: Editor, id: Id, amendment: Amendment) -> Versions:
    """Give a rule a new version; a high one waits for approval as a draft."""
    changes, versions = dict(amendment.changes), who.memory.history(id, tenant=who.tenant)
    if waits(who, changes) or any_waits(who, versions):
        if changes.get("status") == "repealed":
            raise Refused(400, f"rule {id!r}: POST /rules/repeal ends it", param="changes.status")
        changes["status"] = "draft"
    rule = who.memory.amend(
        id,
        changes,
        version=versions[-1].rule.version,  # a draft that came meanwhile might rank high
        tenant=who.tenant,
        author=who.key,
        note=amendment.note,
    )
    return Versions(revision=who.memory.revision, rules=(rule,))


def repeal_rule(who: Editor, id: Id, ending: Ending) -> Versions:
    """End a rule, now or at another moment; the end of a high one waits for approval."""
    rule = end_rule(who, id, aware(ending.at), ending.note)
    return Versions(revision=who.memory.revision, rules=(rule,))


def approve_rule(who: Approver, id: Id, given: Approval) -> Versions:
    """Do what a draft proposes. Whoever wrote it may not approve it."""
    newest = refuse_own(who, id)
    if given.version not in (None, newest):
        raise Refused(
            409,
            f"rule {id!r}: the newest version is {newest}, not {given.version}: look at it again",
            param="version",
        )
    rules = who.memory.approve(
        id, version=newest, tenant=who.tenant, author=who.key, note=given.note
    )
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
    old: Number = None,
    new: Number = None,
) -> dict[str, dict[str, Any]]:
    """The fields in which two versions differ."""
    found = who.memory.diff(id, old, new, tenant=who.tenant)
    return {change.field: {"old": change.old, "new": change.new} for change in found}


_ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/rules", list_rules),
    ("GET", "/rules/drafts", list_drafts),
    ("GET", "/rules/search", search_rules),
    ("GET", "/rules/upcoming", upcoming_rules),
    ("POST", "/rules", add_rules),
    ("POST", "/rules/amend", amend_rule),
    ("POST", "/rules/repeal", repeal_rule),
    ("POST", "/rules/approve", approve_rule),
    ("POST", "/rules/reject", reject_rule),
    ("GET", "/rules/history", rule_history),
    ("GET", "/rules/diff", rule_diff),
)
_MADE = (add_rules,)


def rules_router() -> APIRouter:
    """The routes; the application's state holds `memory`, `approval_above` and `options`."""
    router = APIRouter(route_class=StrictRoute)
    for method, path, call in (*_ROUTES, *DECISIONS):
        router.add_api_route(
            path,
            call,
            methods=[method],
            tags=[path.split("/")[1]],
            status_code=201 if call in _MADE else 200,
        )
    router.add_api_route(
        "/rules/import", import_rules, methods=["POST"], tags=["rules"], openapi_extra=IMPORT
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
