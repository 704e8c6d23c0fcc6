"""Revisions and rule versions as rows, as every SQL book of record keeps and reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comity.errors import DuplicateRule, MemoryDamaged
from comity.memory.store import Change, Revision, StoredRule, from_micros, to_micros
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
            rule_record(rule),
        )


def rule_record(rule: Rule) -> str:
    """A rule as its record."""
    return rule.model_dump_json(exclude_defaults=True)


def read_stored(found: Row) -> StoredRule:
    """A rule version from its row's number, revision and record, and the time of that revision.

    Raises `MemoryDamaged`.
    """
    row, revision, record, made_at = found
    try:
        rule = Rule.model_validate_json(record)
    except ValueError as error:
        raise MemoryDamaged(
            f"rule row {row} cannot be read: restore the memory from a backup ({error})"
        ) from error
    return StoredRule(row=row, revision=revision, rule=rule, recorded_at=from_micros(made_at))


REVISION_COLUMNS = "number, tenant, made_at, kind, author, note"
"""What `revision_row` gives."""


def revision_row(change: Change, number: int) -> Row:
    """The row of the revision that a change makes."""
    at = to_micros(change.made_at)
    return number, change.tenant, at, change.kind, change.author, change.note


def read_revision(row: Row) -> Revision:
    """A revision from the columns of `REVISION_COLUMNS`."""
    number, tenant, made_at, kind, author, note = row
    at = from_micros(made_at)
    return Revision(number=number, tenant=tenant, made_at=at, kind=kind, author=author, note=note)
