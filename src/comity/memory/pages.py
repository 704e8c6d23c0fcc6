"""Pages of what a book of record holds: which rules or decisions are wanted, and SQLite's query.

A page is read in the order of an index and ends with its last row, so that a page of a large
memory costs no more than one of a small one; only a filter that hardly anything passes reads on.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from pydantic import Field

from comity.memory.store import to_micros
from comity.records import WORLD, OptionalTime, Record, Status


class RuleFilter(Record):
    """Which rules are wanted; what is empty is not asked for."""

    place: str = Field("", description="Canonical code; rules of this place and inside it.")
    audience: str = Field("", description="A label; rules that name it.")
    authority: str = Field("", description="A rank.")
    domain: str = Field("", description="A subject.")
    status: Status | None = Field(None, description="Of the newest version.")
    text: str = Field("", description="Words that stand in id, title, article or text.")


class DecisionFilter(Record):
    """Which decisions are wanted; what is empty is not asked for."""

    since: OptionalTime = Field(None, description="First moment at which it was recorded.")
    until: OptionalTime = Field(None, description="First moment at which it no longer was.")
    model: str = Field("", description="Name of the model that answered.")
    withheld: bool | None = Field(None, description="Whether the answer was kept back.")
    rule: str = Field("", description="Id of a rule that had a part in it.")
    version: int | None = Field(None, ge=1, description="Version of that rule; None is any.")


class Query(NamedTuple):
    """SQL with named places for its values."""

    sql: str
    values: dict[str, Any]


def rule_page(tenant: str, chosen: RuleFilter, *, after: str, limit: int, until: int) -> Query:
    """The end of a query for rule versions: the newest of each rule as of revision `until`."""
    terms = ["rule.tenant = :tenant", "rule.id > :after", *_rule_terms(chosen)]
    newest = (
        "rule.version = (SELECT max(version) FROM rule AS other WHERE other.tenant = :tenant "
        "AND other.id = rule.id AND other.revision <= :until)"
    )
    values = chosen.model_dump() | {
        "tenant": tenant,
        "after": after,
        "until": until,
        "limit": limit,
    }
    where = " AND ".join([*terms, newest])
    return Query(f"WHERE {where} ORDER BY rule.id LIMIT :limit", values)


def _rule_terms(chosen: RuleFilter) -> list[str]:
    inside = "rule.place = :place OR substr(rule.place, 1, length(:place) + 1) = :place || '/'"
    if len(chosen.place) == 2:  # a country, whose subdivisions follow a hyphen
        inside += " OR substr(rule.place, 1, 3) = :place || '-'"
    labels = "instr('|' || rule.audience || '|', '|' || :audience || '|') > 0"
    words = " || ' ' || ".join(
        ("rule.id", *(f"ifnull(rule.record ->> '$.{name}', '')" for name in ("title", "article")))
    )
    text = f"instr(lower({words} || ' ' || (rule.record ->> '$.text')), lower(:text)) > 0"
    wanted = (
        (chosen.place not in ("", WORLD), f"({inside})"),
        (chosen.audience, labels),
        (chosen.authority, "rule.authority = :authority"),
        (chosen.domain, "rule.domain = :domain"),
        (chosen.status, "rule.status = :status"),
        (chosen.text, text),
    )
    return [term for asked, term in wanted if asked]


def decision_page(tenant: str, chosen: DecisionFilter, *, after: int, limit: int) -> Query:
    """The query for the ids of decisions, oldest first, behind the one with number `after`."""
    wanted = (
        (chosen.since, "made_at >= :since"),
        (chosen.until, "made_at < :until"),
        (chosen.rule, "instr(record, :quoted) > 0"),  # most rows are done with here
        (chosen.model, "record ->> '$.model' = :model"),
        (chosen.withheld is not None, "ifnull(record ->> '$.withheld', 0) = :withheld"),
        (chosen.rule, f"({_has_part()})"),
    )
    terms = [
        "tenant = :tenant",
        "kind = 'decision'",  # else an erasure, an entry of the same chain
        "number > :after",
        *(term for asked, term in wanted if asked),
    ]
    values = chosen.model_dump() | {
        "tenant": tenant,
        "after": after,
        "limit": limit,
        "quoted": json.dumps(chosen.rule, ensure_ascii=False),
        "since": to_micros(chosen.since) if chosen.since else None,
        "until": to_micros(chosen.until) if chosen.until else None,
    }
    where = " AND ".join(terms)
    return Query(f"SELECT id FROM decision WHERE {where} ORDER BY number LIMIT :limit", values)


def _has_part() -> str:
    parts = (
        f"EXISTS (SELECT 1 FROM json_each(record, '$.{name}') AS part "
        "WHERE part.value ->> '$.id' = :rule "
        "AND (:version IS NULL OR part.value ->> '$.version' = :version))"
        for name in ("citations", "kept", "left_out", "overruled")
    )
    return " OR ".join(parts)
