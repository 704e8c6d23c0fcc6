"""Which versions of one rule hold: now, and from some moment on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from comity.records import Rule


def newest_undrafted(versions: Sequence[Rule]) -> Rule | None:
    """The newest version that is no draft; `versions` are those of one rule, oldest first."""
    return next((rule for rule in reversed(versions) if rule.status != "draft"), None)


def in_force(versions: Sequence[Rule], at: datetime) -> Rule | None:
    """The version that holds at a moment: the newest that has started, unless it ends the rule."""
    started = newest_undrafted([rule for rule in versions if _starts_by(rule, at)])
    if started is None or started.status == "repealed":
        return None
    return started if started.valid_to is None or started.valid_to > at else None


def due(versions: Sequence[Rule], at: datetime) -> list[Rule]:
    """The versions that start after a moment and that no later version forestalls."""
    return [
        rule
        for position, rule in enumerate(versions)
        if rule.status != "draft"
        and rule.valid_from is not None
        and rule.valid_from > at
        and not any(
            later.status != "draft" and _starts_by(later, rule.valid_from)
            for later in versions[position + 1 :]
        )
    ]


def live(versions: Sequence[Rule], at: datetime) -> list[Rule]:
    """The versions that hold at a moment or will hold later, in the order in which they start."""
    holds = in_force(versions, at)
    return [*([holds] if holds else []), *(r for r in due(versions, at) if r.status == "active")]


def _starts_by(rule: Rule, at: datetime) -> bool:
    return rule.valid_from is None or rule.valid_from <= at
