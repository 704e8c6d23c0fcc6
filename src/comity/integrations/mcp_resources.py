"""Rules as MCP resources: `comity://rules/{id}` is what holds now, `…/versions/{n}` one version."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

from comity.errors import NotFound
from comity.memory.memory import Memory
from comity.memory.versions import in_force, newest_undrafted
from comity.records import Rule

NOW_TEMPLATE = "comity://rules/{id}"
VERSION_TEMPLATE = "comity://rules/{id}/versions/{version}"

_URI = re.compile(r"comity://rules/([^/?#]+)(?:/versions/([1-9][0-9]{0,8}))?")
_PAGE = 200


def uri_of(rule_id: str, version: int | None = None) -> str:
    """The resource of a rule, or of one of its versions."""
    uri = f"comity://rules/{quote(rule_id, safe='')}"
    return uri if version is None else f"{uri}/versions/{version}"


class Page(NamedTuple):
    """Some of the rules, in order of id."""

    rules: list[Rule]
    after: str | None
    """Id after which to go on; None at the end."""


def list_rules(memory: Memory, tenant: str, after: str = "") -> Page:
    """The rules whose id comes behind `after`; drafts and what was repealed are not among them."""
    rules: list[Rule] = []
    for stored in memory.rules(tenant=tenant):
        if stored.rule.id <= after:
            continue
        if len(rules) == _PAGE:
            return Page(rules, rules[-1].id)
        if rule := _now(memory, tenant, stored.rule):
            rules.append(rule)
    return Page(rules, None)


def read_rule(memory: Memory, tenant: str, uri: str) -> Rule:
    """The rule of a resource. Raises `NotFound`, also for what waits for approval."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise NotFound(f"no resource {uri!r}: they are {NOW_TEMPLATE} and {VERSION_TEMPLATE}")
    rule_id, version = unquote(match[1]), match[2]
    versions = [stored.rule for stored in memory.history(rule_id, tenant=tenant)]
    if version is not None:
        rule = memory.get(rule_id, version=int(version), tenant=tenant)
        return _approved(rule)
    return _approved(_holding(memory, versions) or versions[-1])


def _approved(rule: Rule) -> Rule:
    if rule.status == "draft":
        raise NotFound(f"rule {rule.id!r}, version {rule.version}, waits for approval")
    return rule


def _now(memory: Memory, tenant: str, newest: Rule) -> Rule | None:
    """What holds of a rule; None where nothing of it does, or ever did."""
    if newest.status == "active":
        return newest
    found = _holding(memory, [s.rule for s in memory.history(newest.id, tenant=tenant)])
    return found if found and found.status == "active" else None


def _holding(memory: Memory, versions: Sequence[Rule]) -> Rule | None:
    return in_force(versions, memory.clock()) or newest_undrafted(versions)
