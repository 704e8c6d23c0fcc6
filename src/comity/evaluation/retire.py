"""Retirement: which questions a change of the rules has overtaken.

A question is tied to rule versions and asked for a moment: its scope's `at`, or now. A later
version matters to it once it has taken the place of the tied one at that moment. So a question
about last June outlives a version of July, and one that names no date is overtaken in July.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from comity.errors import ExamError
from comity.evaluation.circumstances import OUTSIDE, RULING, decide, plain
from comity.evaluation.exams import Question
from comity.evaluation.gather import NEIGHBOUR
from comity.memory.memory import Memory
from comity.memory.store import StoredRule
from comity.memory.versions import in_force, newest_undrafted
from comity.records import Rule, Scope

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
_SAID = re.compile(r"rule .+?: (?:what )?(?:version \d|the memory does not know|none of)")
"""How every reason begins that is given here; a person's would have to look for it."""


class _Verdict(NamedTuple):
    standing: Standing
    reason: str


def review(
    questions: Sequence[Question], memory: Memory, *, tenant: str | None = None
) -> tuple[Question, ...]:
    """The questions with status and reason as the memory's rules now stand.

    Retired: a tied rule was repealed or has ended, its text changed, or the memory does not know
    the version. Flagged: only its circumstances changed (title, validity, place, audience,
    authority, what it overrides, whether it is mandatory), it gives way to another rule now, or
    something became of a rule that was only shown beside it; boundary and precedence questions
    are retired then, and also where another rule (a new conflict, a repealed winner) changes what
    is in force. Active again: the tied version still decides. A question tied to no rule is left
    as it is, and so is one that somebody else has flagged or retired, unless its rules demand
    more. Where a question's scope names another revision (`as_of`), later ones do not touch it.

    `tenant` is whose rules are meant; None is the one of each question's scope. Raises
    `ExamError` where the memory knows none of the rules: then it is the wrong one.
    """
    _check_known(questions, memory, tenant)
    return tuple(_reviewed(question, memory, tenant) for question in questions)


def said_by_code(question: Question) -> bool:
    """Whether status and reason are those of `review`, or of a question that nobody doubted."""
    return (question.status, question.reason) == ("active", "") or bool(
        _SAID.match(question.reason)
    )


def _check_known(questions: Iterable[Question], memory: Memory, tenant: str | None) -> None:
    tied = {
        (_scope(question, tenant).tenant, ref.id): None
        for question in questions
        for ref in question.rules
    }
    if tied and not any(memory.store.history(*each) for each in tied):
        whose, rule = next(iter(tied))
        raise ExamError(
            f"the memory knows none of the {len(tied)} rules that the questions were made from, "
            f"such as {rule!r} of tenant {whose!r}: name their memory (--memory) or tenant "
            "(--tenant)"
        )


def _scope(question: Question, tenant: str | None) -> Scope:
    scope = question.scope or Scope()
    return scope.model_copy(update={"tenant": tenant or scope.tenant})


def _reviewed(question: Question, memory: Memory, tenant: str | None) -> Question:
    if not question.rules:
        return question
    verdicts = list(_verdicts(question, memory, _scope(question, tenant)))
    standing = max((v.standing for v in verdicts), key=_ORDER.index, default="active")
    reason = "; ".join(verdict.reason for verdict in verdicts if verdict.reason)
    by_code = said_by_code(question)
    no_worse = _ORDER.index(standing) <= _ORDER.index(question.status)
    if no_worse and (not by_code or question.reason == reason):
        return question
    if not by_code:
        reason = "; ".join(part for part in (question.reason, reason) if part)
    return question.model_copy(update={"status": standing, "reason": reason})


def _verdicts(question: Question, memory: Memory, scope: Scope) -> Iterator[_Verdict]:
    strict = question.kind in _RULED
    beside = {ref.id for ref in question.rules if ref.reason == NEIGHBOUR}
    standing = set()
    for rule_id, versions in _deciding(question).items():
        verdict = _verdict(rule_id, versions, memory, scope, strict)
        if rule_id in beside and verdict.standing == "retired":
            verdict = verdict._replace(standing="flagged")
        standing.add(verdict.standing)
        yield verdict
    if not strict and "retired" not in standing:
        yield from _overruled(question, memory, scope)
    elif standing <= {"active"} and question.origin == RULING:
        yield _ruled_again(question, memory, scope)


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


def _overruled(question: Question, memory: Memory, scope: Scope) -> Iterator[_Verdict]:
    """Whether a rule that a question is about gives way to another one, in the question's case.

    A question that names no place is asked where its rule applies.
    """
    at = scope.at or memory.clock()
    for rule_id in dict.fromkeys(ref.id for ref in question.rules if not ref.reason):
        history = memory.store.history(scope.tenant, rule_id)
        rule = in_force(_known(history, scope.as_of), at)
        if rule is None:
            continue
        case = {"place": scope.place or (rule.place,), "audience": scope.audience or rule.audience}
        ruling = decide(memory, history, scope.model_copy(update=case | {"at": at}))
        for lost in ruling.overruled:
            if lost.rule.id == rule_id:
                told = f"gives way to rule {lost.winner.id} ({lost.reason})"
                yield _Verdict("flagged", f"rule {rule_id}: version {lost.rule.version} {told}")


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
    verdict = _Verdict("active", "")
    if new is not None:
        before = [rule for rule in history if rule.version <= max(tied)]
        verdict = _compared(in_force(before, at) or before[-1], new, strict)
    if verdict.standing == "retired" or scope.at or in_force(history, at):
        return verdict
    return _Verdict("retired", f"rule {rule_id}: {_why_not_now(started)}")


def _why_not_now(started: Sequence[Rule]) -> str:
    last = newest_undrafted(started)
    if last is None or last.valid_to is None:
        return "none of its versions is in force"
    return f"version {last.version} ended on {last.valid_to:%Y-%m-%d}"


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
