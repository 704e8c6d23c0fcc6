"""`comity rules conflicts`: pairs of rules that may contradict one another, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from comity.cli.output import day, note, progress_bar, say, say_fields, say_json, validity
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option
from comity.errors import ModelError

if TYPE_CHECKING:
    from comity.alignment.checks import Judge
    from comity.alignment.confirm import Conflict, State
    from comity.memory.pairs import Verdict
    from comity.records import Rule

_ALL_STATES: tuple[State, ...] = ("open", "waiting", "declared", "dismissed", "outdated")


@click.group("conflicts", invoke_without_command=True)
@click.option(
    "--verdict",
    type=click.Choice(["contradict", "unsure", "compatible", "failed"]),
    default="contradict",
    show_default=True,
    help="What the judge found.",
)
@click.option("--all", "everything", is_flag=True, help="Also what is settled or outdated.")
@json_option
@settings_options("memory", "tenant")
@pass_session
@click.pass_context
def conflicts_group(
    context: click.Context, session: Session, verdict: Verdict, everything: bool, as_json: bool
) -> None:
    """Pairs of rules that a judge found to contradict one another, for their owner to decide.

    Both rules of a pair stay in force until it is confirmed.
    """
    if context.invoked_subcommand is not None:
        return
    from comity.alignment.confirm import conflicts

    states = _ALL_STATES if everything else ("open", "waiting")
    with session.open_book() as memory:
        found = list(conflicts(memory, session.settings.tenant, verdicts=(verdict,), states=states))
    if as_json:
        say_json([each.model_dump(mode="json") for each in found])
        return
    for each in found:
        _say(each)
    note(f"{len(found)} pairs" if found else f"no pairs ({verdict}): comity rules conflicts scan")


def _say(conflict: Conflict) -> None:
    finding, told = conflict.finding, conflict.prospect
    say(f"{finding.id}  {finding.verdict}, {conflict.state}", bold=True)
    goes_first = f"{told.winner} goes first: {told.reason}"
    say_fields(
        [
            ("one", _rule(conflict.one)),
            ("", conflict.one.text),
            ("other", _rule(conflict.other)),
            ("", conflict.other.text),
            ("reason", finding.reason),
            ("quoted", _quoted((finding.one_quotation, finding.other_quotation))),
            ("judge", f"{finding.judge}, {finding.wording}, {day(finding.made_at)}"),
            ("precedence", goes_first if told.outcome == "wins" else told.reason),
            *(
                (d.decided, f"by {d.author or 'somebody'}, {day(d.made_at)}: {d.note or 'no note'}")
                for d in conflict.decisions
            ),
        ]
    )
    say()


def _rule(rule: Rule) -> str:
    parts = (
        f"{rule.id}@{rule.version}",
        rule.heading if rule.heading != rule.id else "",
        rule.authority,
        rule.place,
        ", ".join(rule.audience),
        validity(rule.valid_from, rule.valid_to),
        "mandatory" if rule.mandatory else "",
    )
    return "; ".join(filter(None, parts))


def _quoted(quotations: Sequence[str]) -> str:
    return " / ".join(f"“{words}”" for words in quotations if words)


@conflicts_group.command("scan")
@click.option(
    "--place",
    "places",
    metavar="PLACE",
    multiple=True,
    help="Only rules that apply in or inside it; repeatable.",
)
@click.option(
    "-k",
    "neighbours",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="How many of the nearest rules each rule is compared with.",
)
@click.option(
    "--similarity",
    type=click.FloatRange(-1, 1),
    help="Least cosine of two rules; 0.85 with e5, else none.",
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Judge at most N pairs, the nearest first."
)
@click.option(
    "--at-once",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Calls to the judge side by side.",
)
@click.option("--again", is_flag=True, help="Also what another judge or wording found.")
@click.option("--dry-run", is_flag=True, help="Say how many pairs there are, and ask no judge.")
@json_option
@settings_options("memory", "tenant", "embedder", "judge", "judge_timeout", "base_url", "timeout")
@pass_session
def scan_command(
    session: Session,
    places: tuple[str, ...],
    neighbours: int,
    similarity: float | None,
    limit: int | None,
    at_once: int,
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Have a judge compare rules that are near in meaning and can be in force together.

    What is judged is kept: a scan that was stopped goes on where it was, and a pair is judged
    again only when one of its rules says something else.
    """
    import asyncio

    from comity.alignment.conflict_scan import plan, scan

    tenant = session.settings.tenant
    judge = None if dry_run else _judge(session)
    with session.open_memory() as memory:
        with progress_bar("embedding") as progress:
            planned = plan(
                memory,
                tenant,
                places=places,
                neighbours=neighbours,
                similarity=similarity,
                again=judge if again else None,
                progress=progress,
            )
        chosen = planned.pairs[:limit]
        note(
            f"{planned.rules} rules: {len(planned.pairs)} near pairs to judge, "
            f"{planned.judged} judged before"
        )
        verdicts: dict[str, int] = {}
        if judge is not None:
            with progress_bar("judging", "pairs") as progress:
                verdicts = asyncio.run(
                    scan(memory, tenant, judge, chosen, at_once=at_once, progress=progress)
                )
    _say_scan(planned.rules, planned.judged, len(planned.pairs), verdicts, as_json)


def _judge(session: Session) -> Judge:
    from comity.alignment.checks import Judge

    model = session.open_judge(None)
    if model is None:
        raise click.UsageError("no judge is set: give --judge NAME (or COMITY_JUDGE)")
    return Judge(model, session.settings.judge_timeout)


def _say_scan(rules: int, before: int, pairs: int, verdicts: dict[str, int], as_json: bool) -> None:
    judged, failed = sum(verdicts.values()), verdicts.get("failed", 0)
    told = {"rules": rules, "judged_before": before, "left": pairs - judged, "verdicts": verdicts}
    if as_json:
        say_json(told)
    else:
        say_fields([(verdict, str(count)) for verdict, count in sorted(verdicts.items())])
    if pairs > judged:
        note(f"{pairs - judged} pairs are left: scan again")
    if failed:
        why = "comity rules conflicts --verdict failed shows why; a later scan tries them again"
        if failed == judged:
            raise ModelError(f"none of {judged} pairs could be judged: {why}")
        note(f"{failed} pairs could not be judged: {why}")
    if verdicts.get("contradict"):
        note("comity rules conflicts shows what may contradict")


@conflicts_group.command("confirm")
@click.argument("pair", metavar="ID")
@click.option(
    "--first", default="", metavar="RULE", help="Which goes first, where precedence ties."
)
@click.option("--note", "reason", default="", metavar="TEXT", help="Why.")
@json_option
@settings_options("memory", "tenant", "author", "embedder")
@pass_session
def confirm_command(session: Session, pair: str, first: str, reason: str, as_json: bool) -> None:
    """Declare that two rules contradict one another: the one that goes first overrides the other.

    Precedence says which one that is. It gets a new version, in force as the old one was.
    """
    from comity.alignment.confirm import confirm

    chosen = session.settings
    with session.open_memory() as memory:
        done = confirm(memory, chosen.tenant, pair, author=chosen.author, note=reason, first=first)
    if as_json:
        say_json(done.model_dump(mode="json"))
        return
    say(f"{done.rule.id}@{done.rule.version} overrides {done.loser}: {done.reason}")
    note(f"revision {done.revision}: done")


@conflicts_group.command("dismiss")
@click.argument("pair", metavar="ID")
@click.option("--note", "reason", required=True, metavar="TEXT", help="Why they do not.")
@json_option
@settings_options("memory", "tenant", "author")
@pass_session
def dismiss_command(session: Session, pair: str, reason: str, as_json: bool) -> None:
    """Record that two rules, as they are worded, do not contradict one another."""
    from comity.alignment.confirm import dismiss

    chosen = session.settings
    with session.open_book() as memory:
        decision = dismiss(memory, chosen.tenant, pair, author=chosen.author, note=reason)
    if as_json:
        say_json(decision.model_dump(mode="json"))
    else:
        note(f"{pair} is dismissed: it is not asked again while both rules say what they say")
