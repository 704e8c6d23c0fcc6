"""What changes between two dates: which rules begin, end or change, where and for whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.memory.store import StoredRule
from comity.memory.versions import in_force
from comity.records import DEFAULT_TENANT, WORLD, Record, Rule, Scope, Time

_INSTANT = timedelta(microseconds=1)


class Upcoming(Record):
    """One rule that is another from a moment on."""

    at: Time = Field(description="First moment at which it is so.")
    kind: Literal["begins", "changes", "ends"] = Field(description="What happens.")
    before: Rule | None = Field(None, description="The version that held until then.")
    after: Rule | None = Field(None, description="The version that holds from then on.")

    @property
    def rule(self) -> Rule:
        """The rule, in the version that begins, or else in the one that ends."""
        rule = self.after or self.before
        assert rule is not None, "one of the two is always there"
        return rule


def upcoming(
    memory: Memory,
    since: datetime,
    until: datetime,
    *,
    tenant: str = DEFAULT_TENANT,
    place: str = WORLD,
    audience: str = "",
) -> list[Upcoming]:
    """What changes after `since` and up to `until`, as the memory knows it now, in order of time.

    Only rules of `place`, of places inside it and around it, and that bind `audience` or
    everybody (empty: whomever). Drafts change nothing. Raises `UnknownPlace` and `NotFound`
    for an unknown place or tenant, `ValueError` where `until` is before `since`.
    """
    if until < since:
        raise ValueError(f"{until:%Y-%m-%d} is before {since:%Y-%m-%d}: swap them")
    memory.check_scope(Scope(tenant=tenant))
    where = memory.gazetteer(tenant).canonical(place)
    found = [
        change
        for stored in memory.rules(tenant=tenant)
        for change in changes_of(_versions(memory, stored), since, until)
        if _concerns(change, where, audience.casefold())
    ]
    return sorted(found, key=lambda change: (change.at, change.rule.id))


def _versions(memory: Memory, newest: StoredRule) -> list[Rule]:
    rule = newest.rule
    if rule.version == 1:
        return [rule]
    return [stored.rule for stored in memory.history(rule.id, tenant=rule.tenant)]


def changes_of(rules: Sequence[Rule], since: datetime, until: datetime) -> Iterator[Upcoming]:
    """What changes of one rule, whose versions are given, oldest first."""
    edges = {edge for rule in rules for edge in (rule.valid_from, rule.valid_to) if edge}
    for at in sorted(edge for edge in edges if since < edge <= until):
        before, after = in_force(rules, at - _INSTANT), in_force(rules, at)
        if before == after:
            continue
        kind: Literal["begins", "changes", "ends"] = (
            "begins" if before is None else "ends" if after is None else "changes"
        )
        yield Upcoming(at=at, kind=kind, before=before, after=after)


def _concerns(change: Upcoming, place: str, audience: str) -> bool:
    rules = [rule for rule in (change.before, change.after) if rule is not None]
    return any(
        (contains(place, rule.place) or contains(rule.place, place))
        and (not audience or not rule.audience or audience in map(str.casefold, rule.audience))
        for rule in rules
    )
