"""`comity decisions`: why each answer came out as it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from comity.cli.output import day, note, say, say_fields, say_json, say_table, validity
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option

if TYPE_CHECKING:
    from comity.memory.memory import Memory
    from comity.records import Decision, Finding, RuleRef

_SHOWN_HITS = 20


@click.group("decisions")
def decisions_group() -> None:
    """Read, verify and replay the records of answers."""


@decisions_group.command("list")
@click.option("-n", "count", type=click.IntRange(1), help="Only the last N.", metavar="N")
@json_option
@settings_options("memory", "tenant")
@pass_session
def list_command(session: Session, count: int | None, as_json: bool) -> None:
    """List the decisions, oldest first."""
    with session.open_book() as memory:
        found = list(memory.store.decisions(session.settings.tenant))[-(count or 0) :]
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
            decision.question,
        )
        for decision in found
    ]
    say_table(columns, rows)


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


def _say(memory: Memory, decision: Decision) -> None:
    say(f"Decision {decision.id}", bold=True)
    say_fields(_facts(decision))
    _section("Answer")
    say(decision.answer)
    if decision.unknown_marks:
        say()
        say(strangers(decision.unknown_marks))
    _section("In force, in order of precedence")
    _say_kept(memory, decision)
    if decision.overruled:
        _section("Overruled")
        rows = [(_name(ref), f"gave way to {ref.winner}", ref.reason) for ref in decision.overruled]
        say_table(("rule", "outcome", "reason"), rows)
    if decision.left_out:
        _section("In force, but left out of the prompt for want of room")
        say_table(("rule",), [(_name(ref),) for ref in decision.left_out])
    _section(f"Found by search, of revision {decision.revision}")
    found = [(_name(ref), f"{ref.score or 0:.4f}") for ref in decision.hits[:_SHOWN_HITS]]
    say_table(("rule", "score"), found)
    if len(decision.hits) > _SHOWN_HITS:
        say(f"… and {len(decision.hits) - _SHOWN_HITS} more (--json shows all)")
    _section("Checks")
    for line in _checks(decision.findings):
        say(line)
    _section("Record")
    say_fields(_record(decision))


def strangers(marks: Sequence[str]) -> str:
    """What to tell of an answer's marks that name no rule."""
    are = "is" if len(marks) == 1 else "are"
    return f"the answer cites {', '.join(marks)}, which {are} none of the rules it was given"


def _section(title: str) -> None:
    say()
    say(title, bold=True)


def _facts(decision: Decision) -> list[tuple[str, str]]:
    scope = decision.scope
    return [
        ("question", decision.question),
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
        f"{finding.rule}@{finding.version}: {finding.outcome.replace('_', ' ')}"
        + (f" by {finding.by}" if finding.by != "nobody" else "")
        + (f" ({finding.reason})" if finding.reason else "")
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
    """Check that no decision was edited, removed or inserted; exit code 1 where one was."""
    from comity.alignment.decisions import verify

    with session.open_book() as memory:
        found = list(memory.store.decisions(session.settings.tenant))
    broken = verify(found)
    last = found[-1].hash if found else ""
    if as_json:
        problem = None if broken is None else broken._asdict()
        say_json({"decisions": len(found), "broken": problem, "last_hash": last})
    elif broken is None:
        say(
            f"{len(found)} decisions, and the chain holds" + (f"; last hash {last}" if last else "")
        )
    else:
        say(f"the chain breaks at decision {broken.decision}: {broken.problem}")
    context.exit(0 if broken is None else 1)


@decisions_group.command("replay")
@click.argument("decision_id", metavar="ID")
@click.option("--as-of", type=click.IntRange(0), metavar="N", help="With the rules of revision N.")
@click.option("--under", type=click.Choice(["now"]), help="With the rules that are held now.")
@json_option
@settings_options("memory", "tenant", "embedder")
@pass_session
@click.pass_context
def replay_command(
    context: click.Context,
    session: Session,
    decision_id: str,
    as_of: int | None,
    under: str | None,
    as_json: bool,
) -> None:
    """Make a decision's ruling again, without the model.

    At its own revision the outcome must be the same, and the exit code is 1 where it is not. As
    of another revision, or under what is held now, it shows what would differ; the facts stay
    at the time that the decision states.
    """
    from comity.alignment.decisions import replay

    if as_of is not None and under is not None:
        raise click.UsageError("give --as-of or --under, not both")
    with session.open_memory() as memory:
        decision = memory.store.decision(session.settings.tenant, decision_id)
        revision = memory.revision if under else as_of
        again = replay(memory, decision, as_of=revision)
    if as_json:
        kept = [ref.model_dump(mode="json") for ref in again.kept]
        at = decision.revision if revision is None else revision
        say_json({"decision": decision.id, "as_of": at, "same": again.same, "kept": kept})
    else:
        _say_replay(decision.kept, again.kept, again.same)
    context.exit(0 if again.same or revision is not None else 1)


def _say_replay(recorded: Iterable[RuleRef], kept: Iterable[RuleRef], same: bool) -> None:
    before, after = list(map(_name, recorded)), list(map(_name, kept))
    rows = [(name, "yes", "yes" if name in after else "no") for name in before]
    rows += [(name, "no", "yes") for name in after if name not in before]
    say_table(("rule", "then", "again"), rows)
    note("the ruling is the same" if same else "the ruling differs")
