"""`comity decisions`: why each answer came out as it did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from comity.cli.about_user import say_wish_table
from comity.cli.erase import erase_command
from comity.cli.erasures import erasures_command
from comity.cli.output import counted, day, say, say_fields, say_json, say_table, validity
from comity.cli.replay import paged, replay_command
from comity.cli.rules import find
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option

if TYPE_CHECKING:
    from comity.alignment.decisions import Chain
    from comity.memory.memory import Memory
    from comity.records import Decision, Finding, RuleRef, SuspectedPair

_SHOWN_HITS = 20
_CUT = {
    "length": "the answer was cut at --max-tokens",
    "content_filter": "the answer was withheld, whole or in part, by the provider's filter",
}


@click.group("decisions")
def decisions_group() -> None:
    """Read, verify and replay the records of answers."""


decisions_group.add_command(erase_command)
decisions_group.add_command(erasures_command)
decisions_group.add_command(replay_command)


@decisions_group.command("list")
@click.option("-n", "count", type=click.IntRange(1), help="Only the last N.", metavar="N")
@json_option
@settings_options("memory", "tenant")
@pass_session
def list_command(session: Session, count: int | None, as_json: bool) -> None:
    """List the decisions, oldest first."""
    with session.open_book() as memory:
        found = list(_decisions(memory, session.settings.tenant))[-(count or 0) :]
    if as_json:
        say_json([decision.model_dump(mode="json") for decision in found])
        return
    columns = ("decision", "made", "place", "kept", "cited", "model", "question")
    rows = [
        (
            decision.id,
            f"{decision.made_at:%Y-%m-%d %H:%M}",
            ", ".join(decision.scope.place),
            len(decision.kept),
            len(decision.citations),
            decision.model,
            told(decision, decision.question),
        )
        for decision in found
    ]
    say_table(columns, rows)


def _decisions(memory: Memory, tenant: str) -> Iterator[Decision]:
    from comity.records import Scope

    memory.check_scope(Scope(tenant=tenant))
    return memory.store.decisions(tenant)


@decisions_group.command("show")
@click.argument("decision_id", metavar="ID")
@json_option
@settings_options("memory", "tenant")
@pass_session
def show_command(session: Session, decision_id: str, as_json: bool) -> None:
    """Show a decision: what was asked, which rules were in force, and what became of it."""
    with session.open_book() as memory:
        decision = memory.store.decision(session.settings.tenant, decision_id)
        if as_json:
            say_json(decision.model_dump(mode="json"))
        else:
            _say(memory, decision)


def told(decision: Decision, text: str) -> str:
    """A personal text of a decision; where it was erased, when."""
    return f"(erased on {decision.erased_at:%Y-%m-%d})" if decision.erased_at else text


def _say(memory: Memory, decision: Decision) -> None:
    say(f"Decision {decision.id}", bold=True)
    say_fields(_facts(decision))
    _section("Answer")
    say(told(decision, decision.answer))
    for remark in remarks(decision):
        say()
        say(remark)
    _section("In force, in order of precedence")
    _say_kept(memory, decision)
    if decision.overruled:
        _section("Overruled")
        rows = [(_name(ref), f"gave way to {ref.winner}", ref.reason) for ref in decision.overruled]
        say_table(("rule", "outcome", "reason"), rows)
    if decision.suspected:
        _section("Suspected of contradicting one another; both in force")
        say_table(("finding", "rule", "and", "judge"), [_suspected(p) for p in decision.suspected])
    if decision.left_out:
        _section("In force, but left out of the prompt for want of room")
        say_table(("rule",), [(_name(ref),) for ref in decision.left_out])
    if decision.preferences:
        _section("What provider and user want, as far as rules leave room")
        say_wish_table(decision)
    _section(f"Found by search, of revision {decision.revision}")
    if decision.rewritten:
        for query in decision.rewritten.queries:
            say(f"searched besides the question ({decision.rewritten.kind}): {query}")
    found = [(_name(ref), f"{ref.score or 0:.4f}") for ref in decision.hits[:_SHOWN_HITS]]
    say_table(("rule", "score"), found)
    if len(decision.hits) > _SHOWN_HITS:
        say(f"… and {len(decision.hits) - _SHOWN_HITS} more (--json shows all)")
    _section("Checks")
    for line in _checks(decision.findings):
        say(line)
    for number, attempt in enumerate(decision.attempts, start=1):
        _section(f"Version {number}, as the model wrote it")
        if attempt.critique:
            say(f"after the critique: {attempt.critique}")
        say(told(decision, attempt.text))
        if attempt.liked is not None:
            say(f"share of the votes against version 1, for the wishes: {attempt.liked:.2f}")
        for line in _checks(attempt.findings):
            say(line)
    _section("Record")
    say_fields(_record(decision))


def remarks(decision: Decision) -> Iterator[str]:
    """What to tell of an answer: that it is not whole, or cites what it was not given."""
    if decision.withheld and (broken := _broken(decision)):
        yield f"the answer was withheld, for it broke {broken}"
    elif decision.withheld:
        yield "the answer was withheld, for it could not be checked"
    elif decision.finish_reason in _CUT:
        yield _CUT[decision.finish_reason]
    if decision.disclosed:
        yield f"the answer had left when its checks found that it breaks {_broken(decision)}"
    if decision.opened:
        failed = ", ".join(decision.opened) + _in_brackets(decision.opened_why)
        yield f"the answer went out though this had failed: {failed}"
    if decision.unknown_marks:
        yield _strangers(decision.unknown_marks)


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def checks_told(decision: Decision) -> Iterator[str]:
    """What the checks found, besides what passed: for notes under an answer."""
    if decision.attempts and not decision.withheld and not decision.erased_at:
        first = decision.attempts[0].findings
        broke = any(f.outcome == "violated" and f.enforcement != "advise" for f in first)
        why = "the first broke a rule" if broke else "the best of them"
        yield (
            f"the answer is version {_released(decision)} of {len(decision.attempts)}: {why} "
            "(comity decisions show has them all)"
        )
    told = (
        ("violated", "still broken, though rewritten"),
        ("failed", "not checked, for the check failed"),
        ("not_checked", "not checked, though these rules ask for it"),
    )
    for outcome, words in told:
        rules = [f.rule for f in decision.findings if f.outcome == outcome and f.version]
        if rules and not (outcome == "violated" and (decision.withheld or decision.disclosed)):
            yield f"{words}: {', '.join(rules)}"


def _released(decision: Decision) -> int:
    texts = [attempt.text for attempt in decision.attempts]
    return texts.index(decision.answer) + 1


def _broken(decision: Decision) -> str:
    """The rules with a consequence that the answer broke."""
    return ", ".join(
        f"{finding.rule}@{finding.version}"
        for finding in decision.findings
        if finding.outcome == "violated" and finding.enforcement != "advise"
    )


def _strangers(marks: Sequence[str]) -> str:
    are = "is" if len(marks) == 1 else "are"
    return f"the answer cites {', '.join(marks)}, which {are} none of the rules it was given"


def _suspected(pair: SuspectedPair) -> tuple[str, ...]:
    one, other = f"{pair.one}@{pair.one_version}", f"{pair.other}@{pair.other_version}"
    return (pair.id, one, other, pair.judge)


def _section(title: str) -> None:
    say()
    say(title, bold=True)


def _facts(decision: Decision) -> list[tuple[str, str]]:
    scope = decision.scope
    return [
        ("question", told(decision, decision.question)),
        ("made", day(decision.made_at)),
        ("place", ", ".join(scope.place)),
        ("audience", ", ".join(scope.audience) or "everybody"),
        ("facts at", day(scope.at)),
        ("memory", f"revision {decision.revision}, tenant {decision.tenant}"),
        ("model", decision.model),
    ]


def _say_kept(memory: Memory, decision: Decision) -> None:
    cited = {(c.id, c.version): (c.label, c.by) for c in decision.citations}
    rows = []
    for ref in decision.kept:
        rule = memory.get(ref.id, version=ref.version, tenant=decision.tenant)
        rows.append(
            (
                *cited.get(rule.key, ("", "")),
                _name(ref),
                rule.heading,
                rule.authority,
                rule.place,
                validity(rule.valid_from, rule.valid_to),
                "yes" if rule.mandatory else "",
            )
        )
    columns = ("cited", "by", "rule", "heading", "authority", "place", "valid", "mandatory")
    say_table(columns, rows)


def _name(ref: RuleRef) -> str:
    return f"{ref.id}@{ref.version}"


def _checks(findings: Iterable[Finding]) -> list[str]:
    lines = [
        f"{finding.rule}{f'@{finding.version}' if finding.version else ''}: "
        f"{finding.outcome.replace('_', ' ')}"
        + (f" by {finding.by}" if finding.by != "nobody" else "")
        + (f" ({told})" if (told := finding.reason or finding.critique) else "")
        for finding in findings
    ]
    return lines or ["none of the rules in force asks for a check"]


def _record(decision: Decision) -> list[tuple[str, str]]:
    steps = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in decision.timings.items())
    usage = decision.usage
    return [
        ("timings", steps),
        ("tokens", f"{usage.prompt_tokens} read, {usage.completion_tokens} written"),
        ("prompt", f"SHA-256 {decision.prompt_sha256}"),
        ("before", decision.previous_hash or "none: the first decision"),
        ("hash", decision.hash),
    ]


@decisions_group.command("verify")
@json_option
@settings_options("memory", "tenant")
@pass_session
@click.pass_context
def verify_command(context: click.Context, session: Session, as_json: bool) -> None:
    """Check that no decision was edited, removed or inserted; exit code 1 where one was.

    It stops at the first that does not hold or cannot be read.
    """
    from comity.alignment.decisions import follow

    with session.open_book() as memory:
        _decisions(memory, session.settings.tenant)
        chain = follow(memory.store.chain(session.settings.tenant))
    if as_json:
        say_json(
            {
                "decisions": chain.sound,
                "broken": None if chain.broken is None else chain.broken._asdict(),
                "last_sound": chain.last.id if chain.last else "",
                "last_hash": chain.last.hash if chain.last else "",
            }
        )
    else:
        say(_verdict(chain))
    context.exit(0 if chain.broken is None else 1)


def _verdict(chain: Chain) -> str:
    if chain.broken is None:
        last = f"; last hash {chain.last.hash}" if chain.last else ""
        erased = f" and {counted(chain.erasures, 'erasure')}" if chain.erasures else ""
        found = counted(chain.sound - chain.erasures, "decision") + erased
        return f"{found}, and the chain holds{last}"
    named = f" ({chain.broken.decision})" if chain.broken.decision else ""
    sound = f"the last sound one is {chain.last.id}" if chain.last else "none before it is sound"
    where = f"decision {chain.broken.number}{named}"
    return f"the chain breaks at {where}: {chain.broken.problem}; {sound}"


@decisions_group.command("affected")
@click.argument("rule", metavar="ID[@VERSION]")
@json_option
@settings_options("memory", "tenant")
@pass_session
def affected_command(session: Session, rule: str, as_json: bool) -> None:
    """Which past answers relied on a rule, or on one version of it, oldest first."""
    from comity.alignment.decisions import affected
    from comity.memory.pages import DecisionFilter

    tenant = session.settings.tenant
    with session.open_book() as memory:
        named = find(memory, rule, tenant).rule
        version = None if rule == named.id else named.version
        wanted = DecisionFilter(rule=named.id, version=version)
        found = list(affected(paged(memory, tenant, wanted), named.id, version))
    if as_json:
        say_json([{"decision": each.decision.id, "part": each.part} for each in found])
        return
    rows = [
        (
            each.decision.id,
            f"{each.decision.made_at:%Y-%m-%d %H:%M}",
            ", ".join(each.part),
            told(each.decision, each.decision.question),
        )
        for each in found
    ]
    say_table(("decision", "made", "the rule was", "question"), rows)
