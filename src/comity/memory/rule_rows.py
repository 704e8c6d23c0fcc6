"""Rule versions as rows of a table, as every SQL book of record keeps and reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comity.errors import DuplicateRule, MemoryDamaged
from comity.memory.store import Change, to_micros
from comity.records import Rule

Row = tuple[Any, ...]

COLUMNS = (
    "tenant",
    "id",
    "version",
    "revision",
    "place",
    "audience",
    "domain",
    "authority",
    "valid_from",
    "valid_to",
    "status",
    "mandatory",
    "overrides",
    "record",
)
"""What `rule_rows` gives of each version."""


def rule_rows(change: Change, revision: int, last: dict[str, int]) -> Iterator[Row]:
    """The rows that a change writes; `last` has the newest version of each rule by its id.

    Raises `DuplicateRule` where a version does not follow the last one.
    """
    for rule in change.rules:
        before = last.get(rule.id, 0)
        if rule.version != before + 1:
            raise DuplicateRule(
                f"rule {rule.id!r}: version {rule.version} does not follow version {before}, the "
                "last one in the memory; it may have been changed meanwhile: read it again and "
                "repeat the change"
            )
        last[rule.id] = rule.version
        yield (
            change.tenant,
            rule.id,
            rule.version,
            revision,
            rule.place,
            "|".join(rule.audience),
            rule.domain,
            rule.authority,
            to_micros(rule.valid_from) if rule.valid_from else None,
            to_micros(rule.valid_to) if rule.valid_to else None,
            rule.status,
            int(rule.mandatory),
            "|".join(rule.overrides),
            rule.model_dump_json(exclude_defaults=True),
        )


def read_rule(record: str, row: int) -> Rule:
    """A rule from its record. Raises `MemoryDamaged`."""
    try:
        return Rule.model_validate_json(record)
    except ValueError as error:
        raise MemoryDamaged(
            f"rule row {row} cannot be read: restore the memory from a backup ({error})"
        ) from error
