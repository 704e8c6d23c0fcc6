"""Retirement: which questions a change of the rules has overtaken.

A question is tied to rule versions and asked for a moment: its scope's `at`, or now. A later
version matters to it once it has taken the place of the tied one at that moment. So a question
about last June outlives a version of July, and one that names no date is overtaken in July.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from comity.evaluation.circumstances import OUTSIDE, RULING, decide, plain
from comity.evaluation.exams import Question
from comity.memory.memory import Memory
from comity.memory.store import StoredRule
from comity.memory.versions import in_force, newest_undrafted
from comity.records import DEFAULT_TENANT, Rule, Scope

Standing = Literal["active", "flagged", "retired"]

_CIRCUMSTANCES = (
    "title",
    "article",
    "place",
    "audience",
    "authority",
    "valid_from",
    "valid_to",
    "mandatory",
    "overrides",
    "status",
)
_RULED = ("boundary", "precedence")  # their answers follow from the circumstances
_ORDER: tuple[Standing, ...] = ("active", "flagged", "retired")


class _Verdict(NamedTuple):
    standing: Standing
    reason: str


def review(
    questions: Sequence[Question], memory: Memory, *, tenant: str = DEFAULT_TENANT
) -> tuple[Question, ...]:
    """The questions with status and reason as the memory's rules now stand.

    Retired: a tied rule was repealed, its text changed, or the memory does not know the version.
    Flagged: only its circumstances changed (title, validity, place, audience, authority, what it
    overrides, whether it is mandatory); boundary and precedence questions are then retired too,
    and also where another rule (a new conflict, a repealed winner) changes what is in force.
    Active again: the tied version still decides. A question tied to no rule is left as it is.
    Where a question's scope names another revision (`as_of`), later ones do not touch it.
    """
    return tuple(_reviewed(question, memory, tenant) for question in questions)


def _reviewed(question: Question, memory: Memory, tenant: str) -> Question:
    if not question.rules:
        return question
    scope = (question.scope or Scope()).model_copy(update={"tenant": tenant})
    strict = question.kind in _RULED
    verdicts = [
        _verdict(rule_id, versions, memory, scope, strict)
        for rule_id, versions in _deciding(question).items()
    ]
    if strict and question.origin == RULING and all(v.standing == "active" for v in verdicts):
        verdicts.append(_ruled_again(question, memory, scope))
    standing = max((v.standing for v in verdicts), key=_ORDER.index, default="active")
    reason = "; ".join(verdict.reason for verdict in verdicts if verdict.reason)
    return question.model_copy(update={"status": standing, "reason": reason})


def _deciding(question: Question) -> dict[str, list[int]]:
    """The tied versions of each rule, but for what was outside the case from the start.

    The first rule is the one the question is about: it counts there too, unless it had ended.
    """
    tied: dict[str, list[int]] = {}
    for position, ref in enumerate(question.rules):
        about = position == 0 and ref.reason != "no longer in force"
        if about or ref.reason not in OUTSIDE or ref.id in tied:
            tied.setdefault(ref.id, []).append(ref.version)
    return tied


def _ruled_again(question: Question, memory: Memory, scope: Scope) -> _Verdict:
    """Whether what was in force in the case still is, and what was not still is not."""
    histories = {ref.id: memory.store.history(scope.tenant, ref.id) for ref in question.rules}
    ruling = decide(memory, [stored for known in histories.values() for stored in known], scope)
    kept = {plain(rule.text) for rule in ruling.kept}
    for ref in question.rules:
        texts = [s.rule.text for s in histories[ref.id] if s.rule.version == ref.version]
        if not texts:
            told = f"rule {ref.id}: the memory does not know version {ref.version}"
            return _Verdict("retired", told)
        if (plain(texts[0]) in kept) == bool(ref.reason):
            what = "is in force there now" if ref.reason else "is no longer in force there"
            told = f"rule {ref.id}: what version {ref.version} says {what}"
            return _Verdict("retired", told)
    return _Verdict("active", "")


def _verdict(
    rule_id: str, tied: Sequence[int], memory: Memory, scope: Scope, strict: bool
) -> _Verdict:
    history = _known(memory.store.history(scope.tenant, rule_id), scope.as_of)
    if not history:
        return _Verdict("retired", f"rule {rule_id}: the memory does not know it")
    numbers = [rule.version for rule in history]
    if unknown := sorted(set(tied) - set(numbers)):
        return _Verdict(
            "retired",
            f"rule {rule_id}: the memory does not know version {unknown[0]} "
            f"(its newest is version {numbers[-1]})",
        )
    at = scope.at or memory.clock()
    started = [rule for rule in history if rule.valid_from is None or rule.valid_from <= at]
    # a question may be tied to several versions: what comes after the newest of them is news
    new = newest_undrafted([rule for rule in started if rule.version > max(tied)])
    if new is None:
        return _Verdict("active", "")
    before = [rule for rule in history if rule.version <= max(tied)]
    old = in_force(before, at) or before[-1]
    return _compared(old, new, strict)


def _known(history: Iterable[StoredRule], as_of: int | None) -> list[Rule]:
    return [stored.rule for stored in history if as_of is None or stored.revision <= as_of]


def _compared(old: Rule, new: Rule, strict: bool) -> _Verdict:
    since = f"valid from {new.valid_from:%Y-%m-%d}" if new.valid_from else "valid without a start"
    what = f"rule {old.id}: version {old.version} was"
    if new.status == "repealed" and old.status != "repealed":
        return _Verdict("retired", f"{what} repealed by version {new.version} ({since})")
    replaced = f"{what} replaced by version {new.version} ({since})"
    if old.text != new.text:
        return _Verdict("retired", replaced)
    changed = [name for name in _CIRCUMSTANCES if getattr(old, name) != getattr(new, name)]
    if not changed:
        return _Verdict("active", "")
    told = f"{replaced}, with the same text but another {', '.join(changed)}"
    return _Verdict("retired" if strict else "flagged", told)
