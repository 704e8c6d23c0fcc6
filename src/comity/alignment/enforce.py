"""What a breach leads to: the model rewrites its answer, or the answer is withheld.

Rewriting is the test-time refinement of TPO (arXiv 2501.12895) with one sample (`refine` has
several, and wishes): the findings go back to the model as a critique, at most so many times, and
the best version is kept. An answer that breaks a rule with enforcement `block` is withheld, and
what is said instead names the rule.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from comity.alignment.checks import to_check
from comity.alignment.compose import wording
from comity.material import harmless
from comity.records import Attempt, Finding, Message, Reply, Rule

Ask = Callable[[tuple[Message, ...]], Awaitable[Reply]]
"""Asks the model once more, with these messages."""

Deny = Literal["failed", "any", "never"]
"""Which answers are withheld though no breach of a `block` rule was found.

`failed`: those whose check was made and failed: the judge was late, or answered nonsense.
`any`: those that were not checked at all, too, for want of a judge. `never`: none.
"""

CheckText = Callable[[str], Awaitable[tuple[Finding, ...]]]
"""Checks one version of the answer."""


class Enforced(NamedTuple):
    """What may be released, and how it came about."""

    text: str
    """The best version; where that is withheld, what is said instead."""
    findings: tuple[Finding, ...]
    """Of the best version."""
    attempts: tuple[Attempt, ...] = ()
    """All versions, in order; empty where the first one is what is released."""
    withheld: bool = False
    replies: tuple[Reply, ...] = ()
    """What the model was asked for besides the first answer."""
    disclosed: bool = False
    """Whether a version left before it was found to break a rule."""
    refining_failed: str = ""
    """What failed while versions were compared and mended (see `refine`)."""
    unchecked: str = ""
    """What failed, where an answer is released though its check under a `block` rule has."""


async def enforce(
    text: str,
    messages: tuple[Message, ...],
    rules: Sequence[Rule],
    *,
    check: CheckText,
    ask: Ask,
    rounds: int,
    language: str,
    deny: Deny = "failed",
) -> Enforced:
    """Check an answer to `messages`, have it rewritten at most `rounds` times, or withhold it.

    A version that breaks a `block` rule ends the rewriting. The best version is the one that
    breaks the fewest rules, those that block counting before all others, and then those that
    block and were not checked where `deny` says so; the earliest of equals.
    Raises what the model raises.
    """
    attempts = [Attempt(text=text, findings=await check(text))]
    replies: list[Reply] = []
    while len(replies) < rounds and _can_be_mended(attempts[-1].findings):
        reply = await ask((*messages, *_critique(attempts[-1], rules, language)))
        replies.append(reply)
        attempts.append(Attempt(text=reply.text, findings=await check(reply.text)))
    best = min(attempts, key=lambda attempt: breaches(attempt.findings, deny))
    blocked = violated(best.findings, "block")
    unsure = denied(best.findings, deny)
    released = best.text
    if blocked or unsure:
        released = refusal(blocked or unsure, rules, language)
    return Enforced(
        text=released,
        findings=best.findings,
        attempts=tuple(attempts) if released != text else (),
        withheld=bool(blocked or unsure),
        replies=tuple(replies),
        unchecked=_told(denied(best.findings, "failed")) if deny == "never" else "",
    )


def disclosed(text: str, findings: tuple[Finding, ...]) -> Enforced:
    """What has left already, with what its checks found afterwards."""
    return Enforced(text, findings, disclosed=bool(violated(findings, "revise", "block")))


def stopped(
    text: str,
    released: str,
    by: Sequence[Finding],
    rules: Sequence[Rule],
    language: str,
) -> Enforced:
    """An answer that was stopped in the middle: what had left, then why nothing follows.

    `text` is what the model had written. The other rules' checks need a whole answer.
    """
    findings = (*by, *_unchecked(rules, by, "the answer was stopped before its end"))
    end = "\n\n" if released.strip() else ""
    return Enforced(
        text=f"{released}{end}{refusal(by, rules, language)}",
        findings=findings,
        attempts=(Attempt(text=text, findings=findings),),
        withheld=True,
    )


def broken_off(released: str, rules: Sequence[Rule]) -> Enforced:
    """What had left of an answer that came to no end, and was not checked as a whole."""
    return Enforced(released, _unchecked(rules, (), "the answer was broken off"))


def _unchecked(rules: Sequence[Rule], but: Sequence[Finding], reason: str) -> tuple[Finding, ...]:
    found = {(finding.rule, finding.version) for finding in but}
    return tuple(
        Finding(
            rule=rule.id,
            version=rule.version,
            outcome="not_checked",
            reason=reason,
            enforcement=rule.enforcement,
        )
        for rule in to_check(rules)
        if rule.key not in found
    )


def violated(findings: Iterable[Finding], *enforcements: str) -> tuple[Finding, ...]:
    """The findings of broken rules, of those enforcements."""
    return tuple(
        finding
        for finding in findings
        if finding.outcome == "violated" and finding.enforcement in enforcements
    )


def denied(findings: Iterable[Finding], deny: Deny) -> tuple[Finding, ...]:
    """The findings under `block` rules that nobody checked, as far as that withholds an answer."""
    outcomes = {"failed": ("failed",), "any": ("failed", "not_checked"), "never": ()}[deny]
    return tuple(
        finding
        for finding in findings
        if finding.enforcement == "block" and finding.outcome in outcomes
    )


def breaches(findings: Sequence[Finding], deny: Deny) -> tuple[int, int, int]:
    """How bad a version is: `block` rules broken, those unchecked, and `revise` rules broken."""
    return (
        len(violated(findings, "block")),
        len(denied(findings, deny)),
        len(violated(findings, "revise")),
    )


def denies(rule: Rule, deny: Deny) -> bool:
    """Whether an answer waits for a rule even if nobody can check it."""
    return rule.enforcement == "block" and deny == "any"


def _told(findings: Iterable[Finding]) -> str:
    return "; ".join(f"{each.rule}@{each.version}: {each.reason}" for each in findings)


def refusal(blocked: Sequence[Finding], rules: Iterable[Rule], language: str) -> str:
    """What is said in place of an answer that breaks these rules, or was not checked for them."""
    words = wording(language)
    said = "withheld" if violated(blocked, "revise", "block") else "unchecked"
    by_key = {rule.key: rule for rule in rules}
    named = [by_key[(finding.rule, finding.version)].heading for finding in blocked]
    told: str = words[said].format(rules=words["separator"].join(named))
    return told


def _can_be_mended(findings: Sequence[Finding]) -> bool:
    return bool(violated(findings, "revise")) and not violated(findings, "block")


def _critique(attempt: Attempt, rules: Sequence[Rule], language: str) -> tuple[Message, ...]:
    words = wording(language)
    by_key = {rule.key: rule for rule in rules}
    lines = [
        words["broken"].format(
            rule=_one_line(by_key[(finding.rule, finding.version)].text),
            reason=_one_line(finding.critique or finding.reason),
        )
        for finding in violated(attempt.findings, "revise")
    ]
    asked = "\n".join((words["rewrite"], *lines, words["rewrite_only"]))
    return (
        Message(role="assistant", content=attempt.text),
        Message(role="user", content=asked),
    )


def _one_line(text: str) -> str:
    return " ".join(harmless(text).split())
