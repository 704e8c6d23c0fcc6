"""Precedence: which of the rules that apply are in force, decided by code alone.

Higher authority goes first, then the narrower place, then the narrower audience, then the later
`valid_from`. Two rules conflict when one declares it in `overrides`; of two that conflict, the
one that goes first is kept and the other gives way, unless what it gives way to has itself given
way. Where all else is equal the rule that declares the conflict goes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from comity.memory.places import depth
from comity.records import AUTHORITIES, Overruled, Rule, Ruling

_EARLIEST = datetime.min.replace(tzinfo=UTC)


def precedence(rule: Rule, authorities: Sequence[str] = AUTHORITIES) -> tuple[int, ...]:
    """Sort key of a rule: the lower, the earlier it goes.

    An authority that the table does not rank goes last.
    """
    rank = authorities.index(rule.authority) if rule.authority in authorities else len(authorities)
    later = ((rule.valid_from or _EARLIEST) - _EARLIEST) // timedelta(microseconds=1)
    return (rank, -depth(rule.place), -bool(rule.audience), -later)


def rule_on(candidates: Iterable[Rule], authorities: Sequence[str] = AUTHORITIES) -> Ruling:
    """Decide which of the rules that apply are kept, and in which order.

    The outcome does not depend on the order of the candidates. Each rule that gives way is
    listed with the rule it gave way to, and the reason.
    """
    ordered = _in_order(candidates, authorities)
    kept: list[Rule] = []
    overruled: list[Overruled] = []
    for rule in ordered:
        winner = next((other for other in kept if _conflict(rule, other)), None)
        if winner is None:
            kept.append(rule)
        else:
            reason = _reason(winner, rule, authorities)
            overruled.append(Overruled(rule=rule, winner=winner, reason=reason))
    return Ruling(kept=tuple(kept), overruled=tuple(overruled))


def _in_order(candidates: Iterable[Rule], authorities: Sequence[str]) -> list[Rule]:
    unique = {rule.key: rule for rule in candidates}.values()
    by_name = sorted(unique, key=lambda rule: (rule.id, -rule.version))
    by_rank = sorted(by_name, key=lambda rule: precedence(rule, authorities))
    groups = groupby(by_rank, key=lambda rule: precedence(rule, authorities))
    return [rule for _, group in groups for rule in _declarers_first(list(group))]


def _declarers_first(equals: list[Rule]) -> list[Rule]:
    """Among rules that tie, put those that declare a conflict before those it is with."""
    ordered: list[Rule] = []
    while equals:
        declared = {name for rule in equals for name in rule.overrides if name != rule.id}
        free = next((rule for rule in equals if rule.id not in declared), equals[0])
        equals.remove(free)
        ordered.append(free)
    return ordered


def _conflict(one: Rule, other: Rule) -> bool:
    return one.id == other.id or one.id in other.overrides or other.id in one.overrides


def _reason(winner: Rule, loser: Rule, authorities: Sequence[str]) -> str:
    if winner.id == loser.id:
        return "newer version"
    reasons = ("higher authority", "narrower place", "narrower audience", "later")
    keys = zip(
        precedence(winner, authorities), precedence(loser, authorities), reasons, strict=True
    )
    return next((reason for mine, theirs, reason in keys if mine != theirs), "declared")
