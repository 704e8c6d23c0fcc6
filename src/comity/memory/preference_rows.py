"""Preferences of persons, as every SQL book of record keeps and reads them."""

from __future__ import annotations

import json
import zlib
from datetime import datetime
from typing import Any

from comity.errors import MemoryDamaged, RuleError
from comity.memory.preference_book import (
    HeldPreference,
    PreferenceExport,
    check_preference,
    holding,
    no_preference,
)
from comity.memory.store import from_micros, to_micros
from comity.records import Rule

Row = tuple[Any, ...]

_DRAWERS = 4096
_FIRST = 256  # all drawers take two bytes, as `EMPTIED` does: a row keeps its place and size
EMPTIED = 32767
"""The drawer of a row that has been erased."""


class ReadPreferences:
    """What a `PreferenceBook` gives of the rows that it holds of a person."""

    def _held(self, tenant: str, person: str) -> list[HeldPreference]:
        """All versions of all preferences of a person, oldest first."""
        raise NotImplementedError

    def in_force(
        self, tenant: str, person: str, at: datetime, known_at: datetime | None = None
    ) -> list[Rule]:
        """As in `PreferenceBook`."""
        found = self._held(tenant, person)
        known = [h.rule for h in found if known_at is None or h.recorded_at <= known_at]
        return holding(known, at)

    def history(self, tenant: str, person: str, id: str | None = None) -> list[HeldPreference]:
        """As in `PreferenceBook`."""
        found = self._held(tenant, person)
        if id is None:
            return found
        versions = [held for held in found if held.rule.id == id]
        if not versions:
            raise no_preference(id)
        return versions

    def export(self, tenant: str, person: str) -> PreferenceExport:
        """As in `PreferenceBook`."""
        held = tuple(self._held(tenant, person))
        return PreferenceExport(tenant=tenant, person=person, preferences=held)


def check_stated(tenant: str, person: str, rule: Rule) -> None:
    """Raises `RuleError` for a rule that cannot be kept as this person's preference."""
    if not person or rule.tenant != tenant:
        whose = f"it is of tenant {rule.tenant!r}" if person else "it names no person"
        raise RuleError(f"preference {rule.id!r} cannot be kept in tenant {tenant!r}: {whose}")
    check_preference(rule)


def drawer(person: str) -> int:
    """Where the preferences of a person stand, among those of many others."""
    return _FIRST + zlib.crc32(person.encode()) % _DRAWERS


def preference_row(person: str, held: HeldPreference) -> Row:
    """Tenant, drawer, person and record of a preference."""
    record = {
        "recorded_at": to_micros(held.recorded_at),
        "rule": held.rule.model_dump(mode="json", exclude_defaults=True),
    }
    written = json.dumps(record, ensure_ascii=False)
    return held.rule.tenant, drawer(person), person, written


def read_preference(number: int, record: str) -> HeldPreference:
    """A preference from its record. Raises `MemoryDamaged`."""
    try:
        data = json.loads(record)
        return HeldPreference(
            rule=Rule.model_validate(data["rule"]), recorded_at=from_micros(data["recorded_at"])
        )
    except (ValueError, TypeError, KeyError) as error:
        raise MemoryDamaged(
            f"the preference in row {number} cannot be read: restore the memory from a backup"
        ) from error
