"""Is an answer in line with the rules that it must keep to? Code decides, or a judge model.

Only rules with enforcement `revise` or `block` are checked. A rule's `check` says how: by RE2
patterns, a required sentence, a length (all code), by a question (a judge), or by both. A rule
without a `check` is judged by its own words. What nobody could check is `not_checked`, with the
reason, and never passes for passed.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from comity.alignment.judge import Judgement, criterion_of, judge
from comity.alignment.miscited import Book, Given, miscited
from comity.errors import ModelError
from comity.memory.patterns import compiled
from comity.models.chat import ChatModel
from comity.records import Check, Finding, Outcome, Rule

_SHOWN = 80
_LONG = 20_000  # characters that code reads through in some milliseconds
_T = TypeVar("_T")


class Judge(NamedTuple):
    """Who judges what code cannot."""

    model: ChatModel
    timeout: float = 30.0
    """Seconds that one call may take."""


def to_check(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of a ruling whose breach has a consequence."""
    return tuple(rule for rule in rules if rule.enforcement != "advise")


async def beside(text: str, work: Callable[[], _T]) -> _T:
    """What `work` on a text gives: of a long one in a thread, so that other answers go on."""
    return await asyncio.to_thread(work) if len(text) > _LONG else work()


async def check(
    question: str,
    answer: str,
    rules: Sequence[Rule],
    given: Sequence[Rule],
    judge: Judge | None,
    book: Book | None = None,
) -> tuple[Finding, ...]:
    """What became of each rule that must be kept, and of the answer's citations.

    `rules` are those kept; `given` those that stood in the prompt, in its order: `[R1]` is the
    first. Code decides first; the judge is asked once, about all rules that need one and that
    code has not found broken. `book` holds the versions that are not kept, for what the answer
    cites. Raises nothing that a judge does wrong: its failure is a finding.
    """
    findings = await beside(
        answer, lambda: {rule.key: _by_code(rule, answer) for rule in to_check(rules)}
    )
    judged = [
        rule
        for rule in to_check(rules)
        if needs_judge(rule) and findings[rule.key].outcome != "violated"
    ]
    if judged:
        findings |= await _by_judge(question, answer, judged, judge)
    cited = await beside(
        question + answer, lambda: miscited(question, answer, Given(rules, given), book)
    )
    return (*findings.values(), *cited)


def by_code(answer: str, rules: Iterable[Rule]) -> tuple[Finding, ...]:
    """What code alone finds broken so far, in an answer that may still go on.

    A pattern that must not match and a length can be broken by a beginning; what must match can
    still come, and is left for the whole answer.
    """
    found = []
    for rule in to_check(rules):
        if rule.check and (reason := next(_said_wrong(rule.check, answer), "")):
            found.append(_finding(rule, "violated", "code", reason))
    return tuple(found)


def needs_judge(rule: Rule) -> bool:
    """Whether code alone cannot say that the rule is kept."""
    return rule.check is None or bool(rule.check.judge) or rule.check == Check()


def can_check(rule: Rule, judge: Judge | None) -> bool:
    """Whether anybody can check the rule at all."""
    return judge is not None or not (rule.check is None or rule.check == _judged_only(rule.check))


def _by_code(rule: Rule, answer: str) -> Finding:
    if rule.check is None or rule.check == _judged_only(rule.check):
        return _finding(rule, "not_checked", "nobody", "code cannot check it")
    problems = (*_said_wrong(rule.check, answer), *_not_said(rule.check, answer))
    if problems:
        return _finding(rule, "violated", "code", "; ".join(problems))
    return _finding(rule, "passed", "code", "")


def _judged_only(check: Check) -> Check:
    """The check without what code can tell."""
    return Check(judge=check.judge)


def _said_wrong(check: Check, answer: str) -> Iterator[str]:
    if check.must_not_match and (found := compiled(check.must_not_match).search(answer)):
        yield f"it says {_short(found[0])!r}"
    if check.longest and len(answer) > check.longest:
        yield f"it is longer than {check.longest} characters"


def _not_said(check: Check, answer: str) -> Iterator[str]:
    if check.must_match and not compiled(check.must_match).search(answer):
        yield f"nothing in it matches {_short(check.must_match)!r}"
    if check.must_contain and _plain(check.must_contain) not in _plain(answer):
        yield f"it does not say {_short(check.must_contain)!r}"


async def _by_judge(
    question: str, answer: str, rules: Sequence[Rule], asked: Judge | None
) -> dict[tuple[str, int], Finding]:
    if asked is None:
        reason = "no judge model is set"
        return {rule.key: _finding(rule, "not_checked", "nobody", reason) for rule in rules}
    try:
        judgement = await judge(
            asked.model,
            question,
            answer,
            [criterion_of(rule) for rule in rules],
            timeout=asked.timeout,
        )
    except ModelError as error:
        reason = f"the judge failed: {error}"
        return {rule.key: _finding(rule, "failed", "nobody", reason) for rule in rules}
    return dict(_judged(rules, judgement))


def _judged(
    rules: Sequence[Rule], judgement: Judgement
) -> Iterator[tuple[tuple[str, int], Finding]]:
    for rule, said in zip(rules, judgement.outcomes, strict=True):
        failed = said.verdict == "failed"
        finding = _finding(rule, said.verdict, "nobody" if failed else "judge", said.reason)
        yield (
            rule.key,
            finding.model_copy(
                update={
                    "critique": said.critique,
                    "quotation": said.quotation,
                    "judge": f"{judgement.judge}, {judgement.version}",
                }
            ),
        )


def _finding(rule: Rule, outcome: Outcome, by: str, reason: str) -> Finding:
    return Finding.model_validate(
        {
            "rule": rule.id,
            "version": rule.version,
            "outcome": outcome,
            "by": by,
            "reason": reason,
            "enforcement": rule.enforcement,
        }
    )


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
