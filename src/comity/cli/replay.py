"""`comity decisions replay`: the same questions again, under the same rules or today's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import click

from comity.cli.output import day, note, progress_bar, say_json, say_table
from comity.cli.rules import find
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import MOMENT, json_option

if TYPE_CHECKING:
    from comity.alignment.replays import Facts, Replayed, Summary
    from comity.memory.memory import Memory
    from comity.memory.pages import DecisionFilter
    from comity.records import Decision, RuleRef

_PAGE = 200
_SHOWN_RULES = 20


@click.command("replay")
@click.argument("decision_ids", metavar="[ID]...", nargs=-1)
@click.option("--since", type=MOMENT, help="All decisions from this moment on.")
@click.option("--until", type=MOMENT, help="All decisions before this moment.")
@click.option("--rule", metavar="ID[@VERSION]", help="All decisions that the rule had a part in.")
@click.option(
    "--limit", type=click.IntRange(1), default=1000, show_default=True, help="At most so many."
)
@click.option("--as-of", type=click.IntRange(0), metavar="N", help="With the rules of revision N.")
@click.option("--under", type=click.Choice(["now"]), help="With the rules that are held now.")
@click.option(
    "--facts",
    type=click.Choice(["then", "now"]),
    help="Time of the facts; by default, under now, the one that the question stated, else now.",
)
@json_option
@settings_options("memory", "tenant", "embedder", "hits", "relevance")
@pass_session
@click.pass_context
def replay_command(
    context: click.Context,
    session: Session,
    /,
    decision_ids: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    rule: str | None,
    limit: int,
    as_of: int | None,
    under: str | None,
    facts: str | None,
    as_json: bool,
) -> None:
    """Make the rulings of decisions again, without the model.

    At its own revision the outcome must be the same, and the exit code is 1 where it is not.
    Under now the same question meets today's rules, and what differs is shown: rules that came,
    that went, and that were amended. Its facts are of today too, unless the question stated
    another time. As of another revision they stay at the time that is recorded.
    """
    _check(decision_ids, bool(since or until or rule), as_of, under, facts)
    asked = session.settings
    with session.open_memory() as memory:
        revision = memory.revision if under else as_of
        found = (
            _named(memory, asked.tenant, decision_ids)
            if decision_ids
            else paged(memory, asked.tenant, _filter(memory, asked.tenant, since, until, rule))
        )
        decisions = list(islice(found, limit + 1))
        how = _How(revision, _facts(facts, under), hits=asked.hits, relevance=asked.relevance)
        alone = len(set(decision_ids)) == 1
        replays = (
            [_one(memory, decisions[0], how)] if alone else _many(memory, decisions, limit, how)
        )
    if alone:
        _tell_one(replays[0], as_json)
    else:
        _tell_all(replays, min(limit, len(decisions)), as_json)
    same = all(each.same for each in replays)
    context.exit(0 if same or revision is not None else 1)


def _check(
    ids: Sequence[str], chosen: bool, as_of: int | None, under: str | None, facts: str | None
) -> None:
    if as_of is not None and under is not None:
        raise click.UsageError("give --as-of or --under, not both")
    if facts and as_of is None and under is None:
        raise click.UsageError(
            "--facts needs --under now or --as-of: else the facts are as recorded"
        )
    if bool(ids) == chosen:
        raise click.UsageError(
            "name decisions (comity decisions list), or give --since, --until or --rule"
            + (", not both" if ids else "")
        )


def _filter(
    memory: Memory,
    tenant: str,
    since: datetime | None,
    until: datetime | None,
    rule: str | None,
) -> DecisionFilter:
    from comity.memory.pages import DecisionFilter

    chosen = DecisionFilter(since=since, until=until)
    if rule is None:
        return chosen
    named = find(memory, rule, tenant).rule
    version = None if rule == named.id else named.version
    return chosen.model_copy(update={"rule": named.id, "version": version})


def _named(memory: Memory, tenant: str, ids: Sequence[str]) -> Iterator[Decision]:
    for name in dict.fromkeys(ids):
        yield memory.store.decision(tenant, name)


def paged(memory: Memory, tenant: str, chosen: DecisionFilter) -> Iterator[Decision]:
    """All decisions of a filter, oldest first."""
    after = ""
    while page := memory.store.decision_page(tenant, chosen, after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


class _How(NamedTuple):
    as_of: int | None
    facts: Facts
    hits: int
    relevance: float


def _facts(given: str | None, under: str | None) -> Facts:
    if given is None:
        return "asked" if under else "then"
    return "now" if given == "now" else "then"


def _one(memory: Memory, decision: Decision, how: _How) -> Replayed:
    from comity.alignment.replays import replayed

    return replayed(
        memory,
        decision,
        as_of=how.as_of,
        facts=how.facts,
        hits=how.hits,
        relevance=how.relevance,
    )


def _many(memory: Memory, decisions: Sequence[Decision], limit: int, how: _How) -> list[Replayed]:
    """Replays of the first decisions, but for those whose questions were erased."""
    if len(decisions) > limit:
        last = decisions[limit - 1].made_at
        note(f"only the first {limit}, up to {last:%Y-%m-%d %H:%M} UTC: --limit gives more")
    chosen = decisions[:limit]
    done: list[Replayed] = []
    with progress_bar("replaying", "decisions") as progress:
        for number, decision in enumerate(chosen, start=1):
            if how.as_of is None or not decision.erased_at:
                done.append(_one(memory, decision, how))
            progress(number, len(chosen))
    return done


def _tell_one(again: Replayed, as_json: bool) -> None:
    if as_json:
        say_json(again.model_dump(mode="json"))
        return
    rows = [(_name(ref), "yes", "no" if ref in again.went else "yes") for ref in again.then]
    rows += [(_name(ref), "no", "yes") for ref in again.came]
    say_table(("rule", "then", "again"), rows)
    note(f"under revision {again.as_of}, facts of {day(again.facts_at) or 'any time'}")
    if again.same:
        note("the ruling is the same")
    else:
        note(f"the ruling differs; {_changes(again)}")


def _changes(again: Replayed) -> str:
    both = {each.id for each in again.amended}
    said = [f"amended: {each.id}@{each.then} -> @{each.now}" for each in again.amended]
    for what, refs in (("came", again.came), ("went", again.went)):
        names = [_name(ref) for ref in refs if ref.id not in both]
        if names:
            said.append(f"{what}: {', '.join(names)}")
    return "; ".join(said) or "in its order or in what it overruled"


def _name(ref: RuleRef) -> str:
    return f"{ref.id}@{ref.version}"


def _tell_all(replays: Sequence[Replayed], asked: int, as_json: bool) -> None:
    from comity.alignment.replays import summary

    total = summary(replays, asked)
    if as_json:
        listed = [each.model_dump(mode="json") for each in replays]
        say_json(total.model_dump(mode="json") | {"decisions": listed})
        return
    rows = [
        (each.decision, f"{each.made_at:%Y-%m-%d %H:%M}", _changes(each), each.question)
        for each in replays
        if not each.same
    ]
    if rows:
        say_table(("decision", "made", "what differs", "question"), rows)
    _note_summary(total)


def _note_summary(total: Summary) -> None:
    for change in total.rules[:_SHOWN_RULES]:
        then = f"version {change.then}" if change.then else "not in force"
        now = f"version {change.now}" if change.now else "not in force"
        note(f"{change.id}: {then} -> {now}, in {change.decisions}")
    if len(total.rules) > _SHOWN_RULES:
        note(f"… and {len(total.rules) - _SHOWN_RULES} more (--json shows all)")
    erased = f"; {total.erased} not, for their questions were erased" if total.erased else ""
    note(f"{total.replayed} decisions: {total.same} the same, {total.changed} changed{erased}")
