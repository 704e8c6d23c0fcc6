"""Pages of what the PostgreSQL book of record holds: the queries of `pages`, in its words."""

from __future__ import annotations

import json

from comity.memory.pages import DecisionFilter, Query, RuleFilter
from comity.memory.store import to_micros
from comity.records import WORLD

# PostgreSQL reads no field out of a JSON text in which a NUL is written
_RULE = "replace(rule.record, '\\u0000', '\\ufffd')::json"
_DECISION = "replace(record, '\\u0000', '\\ufffd')::json"


def rule_page(tenant: str, chosen: RuleFilter, *, after: str, limit: int, until: int) -> Query:
    """The end of a query for rule versions: the newest of each rule as of revision `until`."""
    terms = ["rule.tenant = %(tenant)s", "rule.id > %(after)s", *_rule_terms(chosen)]
    newest = (
        "rule.version = (SELECT max(other.version) FROM comity.rule AS other "
        "WHERE other.tenant = %(tenant)s AND other.id = rule.id AND other.revision <= %(until)s)"
    )
    values = chosen.model_dump() | {
        "tenant": tenant,
        "after": after,
        "until": until,
        "limit": limit,
    }
    where = " AND ".join([*terms, newest])
    return Query(f"WHERE {where} ORDER BY rule.id LIMIT %(limit)s", values)


def _rule_terms(chosen: RuleFilter) -> list[str]:
    inside = "rule.place = %(place)s OR starts_with(rule.place, %(place)s || '/')"
    if len(chosen.place) == 2:  # a country, whose subdivisions follow a hyphen
        inside += " OR starts_with(rule.place, %(place)s || '-')"
    labels = "position('|' || %(audience)s || '|' in '|' || rule.audience || '|') > 0"
    fields = (f"coalesce({_RULE} ->> '{name}', '')" for name in ("title", "article", "text"))
    words = f"concat_ws(' ', rule.id, {', '.join(fields)})"
    text = f'position(lower(%(text)s COLLATE "C") in lower({words} COLLATE "C")) > 0'
    wanted = (
        (chosen.place not in ("", WORLD), f"({inside})"),
        (chosen.audience, labels),
        (chosen.authority, "rule.authority = %(authority)s"),
        (chosen.domain, "rule.domain = %(domain)s"),
        (chosen.status, "rule.status = %(status)s"),
        (chosen.text, text),
    )
    return [term for asked, term in wanted if asked]


def decision_page(tenant: str, chosen: DecisionFilter, *, after: int, limit: int) -> Query:
    """The query for the ids of decisions, oldest first, behind the one with number `after`."""
    withheld = f"coalesce(({_DECISION} ->> 'withheld')::boolean, false) = %(withheld)s"
    wanted = (
        (chosen.since, "made_at >= %(since)s"),
        (chosen.until, "made_at < %(until)s"),
        (chosen.rule, "position(%(quoted)s in record) > 0"),  # most rows are done with here
        (chosen.model, f"{_DECISION} ->> 'model' = %(model)s"),
        (chosen.withheld is not None, withheld),
        (chosen.rule, f"({_has_part()})"),
    )
    terms = [
        "tenant = %(tenant)s",
        "kind = 'decision'",  # else an erasure, an entry of the same chain
        "number > %(after)s",
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
    return Query(
        f"SELECT id FROM comity.decision WHERE {where} ORDER BY number LIMIT %(limit)s", values
    )


def _has_part() -> str:
    parts = (
        f"EXISTS (SELECT 1 FROM json_array_elements({_DECISION} -> '{name}') AS part "
        "WHERE part ->> 'id' = %(rule)s "
        "AND (%(version)s::bigint IS NULL OR (part ->> 'version')::bigint = %(version)s))"
        for name in ("citations", "kept", "left_out", "overruled")
    )
    return " OR ".join(parts)
