"""`comity search`: the rules that apply to a question."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from comity.cli.asker import catch_up, given_scope, note_scope, note_strange_audience, scope_options
from comity.cli.output import note, say_json, say_table, validity
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import QUESTION, json_option

if TYPE_CHECKING:
    from comity.records import Hit, Rewritten, Rule
    from comity.retrieval.search import Found

HIT_FIELDS = (
    "id",
    "version",
    "title",
    "article",
    "text",
    "place",
    "audience",
    "authority",
    "valid_from",
    "valid_to",
)
"""Fields of a hit in JSON, before its score."""


@click.command("search")
@click.argument("question", type=QUESTION)
@scope_options
@click.option("-k", "count", type=click.IntRange(1), metavar="N", help="How many; as --hits.")
@json_option
@settings_options(
    "memory", "tenant", "embedder", "index", "hits", "rewrite", "model", "base_url", "timeout"
)
@pass_session
def search_command(
    session: Session,
    question: str,
    place: tuple[str, ...],
    audience: tuple[str, ...],
    at: datetime | None,
    as_of: int | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Find the rules that apply to a question, most similar first.

    Where, who and when are taken from the options, else from the question itself. With
    --rewrite on, a model says what to search for besides.
    """
    from comity.memory.locate import locate
    from comity.retrieval.search import search
    from comity.retrieval.turns import Asked

    given = given_scope(session, place, audience, at, as_of)
    with session.open_memory() as memory:
        catch_up(memory)
        note_strange_audience(memory, given)
        scope = locate(memory, question, given, default_place=session.settings.place)
        also = () if session.settings.rewrite == "off" else _rewritten(session, question)
        searched = Asked(question, also=also)
        found = search(memory, searched, scope, k=count or session.settings.hits)
        if as_json:
            say_json([hit_as_json(hit) for hit in found.hits])
        else:
            _say(found)
        note_scope(memory, question, given, scope)


def _rewritten(session: Session, question: str) -> tuple[str, ...]:
    """What the model has searched besides the question; said on stderr."""
    import asyncio

    from comity.retrieval.rewrite import rewrite

    rewritten = asyncio.run(rewrite(session.open_model(), question))
    note_rewritten(rewritten)
    return rewritten.queries


def note_rewritten(rewritten: Rewritten) -> None:
    """Say what was searched besides a question, or why nothing was; on stderr."""
    if rewritten.failed:
        note(f"searched for the question alone: {rewritten.failed}")
    elif rewritten.queries:
        note(f"searched besides ({rewritten.kind}): {' · '.join(rewritten.queries)}")


def hit_as_json(hit: Hit) -> dict[str, Any]:
    """The stable form of a hit."""
    rule = hit.rule.model_dump(mode="json")
    return {name: rule[name] for name in HIT_FIELDS} | {"score": hit.score}


def _say(found: Found) -> None:
    if not found.hits:
        note("no rule applies in this scope")
        return
    columns = ("score", "rule", "place", "valid", "text")
    rows = [
        (
            f"{hit.score:.4f}",
            f"{hit.rule.id}@{hit.rule.version}",
            hit.rule.place,
            validity(hit.rule.valid_from, hit.rule.valid_to),
            _text(hit.rule),
        )
        for hit in found.hits
    ]
    say_table(columns, rows)
    hits = {hit.rule.key for hit in found.hits}
    more = [rule for rule in found.candidates if rule.key not in hits]
    if more:
        names = ", ".join(rule.id for rule in more)
        note(f"considered besides, as mandatory or in conflict with these: {names}")


def _text(rule: Rule) -> str:
    return rule.text if rule.heading == rule.id else f"{rule.heading}\n{rule.text}"
