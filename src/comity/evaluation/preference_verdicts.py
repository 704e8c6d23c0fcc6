"""Verdicts on a run's answers, by the checks of the cases as they stand now.

What code decides is never taken from the run: it is told anew from the kept text whenever items
are scored, so that a check that was mended since holds for every answer alike. What a judge said
is kept as it was said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from comity.alignment.prefer import Followed, WishCheck, code_verdict
from comity.errors import ExamError
from comity.evaluation.preference_cases import (
    PreferenceQuestion,
    RuleCase,
    read_questions,
    read_rule_cases,
)
from comity.evaluation.preference_runs import PreferenceItem, PreferenceRun
from comity.memory.patterns import compiled
from comity.records import Check

_Case = TypeVar("_Case")


def scored_items(run: PreferenceRun) -> tuple[PreferenceItem, ...]:
    """The last answer to each question, wish and mode of a run, with its verdict as of now.

    Raises `ExamError` where run or cases cannot be read, or the cases lack one that was asked.
    """
    return verdicts_now(run.latest().values(), *cases_of(run))


def cases_of(run: PreferenceRun) -> tuple[tuple[PreferenceQuestion, ...], tuple[RuleCase, ...]]:
    """Questions and rule cases of a run, as they stand now. Raises `ExamError`."""
    plan = run.plan
    questions = read_questions(Path(plan.cases) if plan.cases else None)
    file = Path(plan.rule_cases_file) if plan.rule_cases_file else None
    return questions, read_rule_cases(file) if plan.rule_cases else ()


def verdicts_now(
    items: Iterable[PreferenceItem],
    questions: Sequence[PreferenceQuestion],
    rule_cases: Sequence[RuleCase],
) -> tuple[PreferenceItem, ...]:
    """The items with what the cases say of them now. Raises `ExamError` for one without case."""
    wishes = {question.id: question for question in questions}
    ruled = {case.id: case for case in rule_cases}
    return tuple(
        ruled_now(item, _case_of(item, ruled))
        if item.part == "rule"
        else _wished_now(item, _case_of(item, wishes))
        for item in items
    )


def ruled_now(item: PreferenceItem, case: RuleCase) -> PreferenceItem:
    """A rule case's item with what its check says of the answer; an empty one is not scored."""
    why = breach(case.check, item.text)
    return item.model_copy(
        update={
            "against": case.against,
            "broken": bool(why) if item.text.strip() else None,
            "broken_why": why,
            "rule_in_force": any(rule.id == case.rule for rule in item.kept),
        }
    )


def breach(check: Check, answer: str) -> str:
    """What of a rule case's check an answer fails; empty where it fails nothing, or is empty."""
    if not answer.strip():
        return ""
    if check.must_not_match and (found := compiled(check.must_not_match).search(answer)):
        return f"it says {found[0]!r}"
    if check.must_match and not compiled(check.must_match).search(answer):
        return f"nothing in it matches {check.must_match!r}"
    return ""


def _wished_now(item: PreferenceItem, question: PreferenceQuestion) -> PreferenceItem:
    if item.number >= len(question.wishes):
        raise ExamError(f"{question.id} has no wish {item.number + 1}, which the run was asked")
    wish = question.wishes[item.number]
    told = {"family": wish.family, "explicit": wish.explicit}
    return item.model_copy(update=told | {"followed": _followed(item, wish.check)})


def _followed(item: PreferenceItem, check: WishCheck | None) -> Followed | None:
    """By code where there is a check; an empty answer follows no wish, whoever decides."""
    if check is not None:
        found = code_verdict(check, item.text)
        verdict: Literal["wish", "opposite"] = "wish" if found.follows else "opposite"
        return Followed(verdict=verdict, by="code", reasons=found.problems)
    if not item.text.strip():
        return Followed(verdict="opposite", by="nobody", reasons=("the answer is empty",))
    if item.followed is not None and item.followed.by == "code":
        return Followed(verdict="failed", by="nobody", reasons=("no judge was asked",))
    return item.followed


def _case_of(item: PreferenceItem, cases: Mapping[str, _Case]) -> _Case:
    if item.question not in cases:
        raise ExamError(
            f"the run was asked {item.question}, which the cases do not hold any more: put it "
            "back, or ask them anew in another folder"
        )
    return cases[item.question]
