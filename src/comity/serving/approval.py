"""Two persons for high ranks: who changes such a rule makes a draft, and another approves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from comity.memory.memory import differences
from comity.memory.pages import RuleFilter
from comity.memory.store import StoredRule
from comity.memory.versions import due, in_force, newest_undrafted
from comity.records import Record, Rule, Time
from comity.serving.asked import Asked
from comity.serving.wire import Refused


class Waiting(Record):
    """A draft that waits for approval."""

    rule: Rule
    proposes: Literal["add", "amend", "end"] = Field(
        description="What approval would do; `end` from the draft's `valid_to` on."
    )
    changes: dict[str, dict[str, Any]] = Field(
        description="Fields in which it differs from what holds, as old and new."
    )
    revision: int = Field(description="Revision that brought it.")
    recorded_at: Time | None = Field(None, description="When.")
    author: str = Field("", description="Who made it; another one has to approve it.")
    note: str = Field("", description="Why.")


def waits(who: Asked, rule: Mapping[str, Any]) -> bool:
    """Whether a rule ranks so high that a second person has to approve it."""
    ranks, authority = who.memory.authorities, rule.get("authority", "policy")
    return bool(who.approval_above) and (
        authority not in ranks or ranks.index(authority) <= ranks.index(who.approval_above)
    )


def ever_waited(who: Asked, rule_id: str) -> bool:
    """Whether any version ranks so high: a draft with a lower rank opens no way around."""
    return any_waits(who, who.memory.store.history(who.tenant, rule_id))


def any_waits(who: Asked, versions: Iterable[StoredRule]) -> bool:
    """As `ever_waited`, for a history that was read."""
    return any(waits(who, each.rule.model_dump()) for each in versions)


def end_rule(who: Asked, rule_id: str, at: datetime | None, note: str) -> Rule:
    """End a rule, or draft its end where it ranks high; what never held is just discarded.

    One that has run out still holds for facts of its time, and an earlier end would undo that.
    """
    versions = [each.rule for each in who.memory.history(rule_id, tenant=who.tenant)]
    held = newest_undrafted(versions)
    propose = held and held.status != "repealed" and ever_waited(who, rule_id)
    memory, tenant, author = who.memory, who.tenant, who.key
    if propose:
        return memory.propose_repeal(rule_id, at=at, tenant=tenant, author=author, note=note)
    known = versions[-1].version  # a draft of it may be approved meanwhile
    return memory.repeal(rule_id, at=at, version=known, tenant=tenant, author=author, note=note)


def refuse_own(who: Asked, rule_id: str) -> int:
    """The newest version, to be approved. Raises `Refused` (403) where this key has made it."""
    newest = who.memory.history(rule_id, tenant=who.tenant)[-1]
    made = who.memory.store.revisions(who.tenant, after=newest.revision - 1)
    if made and made[0].author == who.key:
        raise Refused(
            403,
            f"rule {rule_id!r}: this draft is of the same key; another person has to approve it",
            kind="permission_error",
        )
    return newest.rule.version


def waiting(who: Asked, after: str, limit: int) -> list[Waiting]:
    """The drafts that wait, in order of id, with what each would change."""
    found = who.memory.store.page(who.tenant, RuleFilter(status="draft"), after=after, limit=limit)
    return [_waiting(who, each) for each in found]


def _waiting(who: Asked, draft: StoredRule) -> Waiting:
    history = who.memory.store.history(who.tenant, draft.rule.id)
    versions, now = [each.rule for each in history], who.memory.clock()
    held = in_force(versions, now) or next(reversed(due(versions, now)), None)
    made = who.memory.store.revisions(who.tenant, after=draft.revision - 1)[0]
    changed = differences(held, draft.rule) if held else []
    names = {each.field for each in changed}
    return Waiting(
        rule=draft.rule,
        proposes=_proposes(held, draft.rule, names),
        changes={
            each.field: {"old": each.old, "new": each.new}
            for each in changed
            if each.field != "status"
        },
        revision=draft.revision,
        recorded_at=draft.recorded_at,
        author=made.author,
        note=made.note,
    )


def _proposes(held: Rule | None, draft: Rule, changed: set[str]) -> Literal["add", "amend", "end"]:
    if held is None:
        return "add"
    return "end" if draft.valid_to and changed <= {"status", "valid_from", "valid_to"} else "amend"
