"""`comity ask`: an answer under the rules, with its citations and its record."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from comity.cli.about_user import about_user_options, meta_of, say_wishes
from comity.cli.asker import catch_up, given_scope, note_scope, note_strange_audience, scope_options
from comity.cli.decisions import checks_told, remarks
from comity.cli.output import note, plain, say, say_json, say_table, validity, waiting
from comity.cli.search import note_rewritten
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import QUESTION, json_option

if TYPE_CHECKING:
    from comity.alignment.aligner import Options
    from comity.memory.memory import Memory
    from comity.models.chat import ChatModel
    from comity.records import Answer, Reply, Scope
    from comity.settings import Settings

_NAMED = 3  # rules in a note; the record has them all
_SHOWN = 300  # characters of a cited rule


def _remember_note(context: click.Context, _: click.Parameter, value: bool | None) -> None:
    if value is not None:
        context.ensure_object(Session).given["incomplete_note"] = str(value)


@click.command("ask")
@click.argument("question", type=QUESTION)
@scope_options
@about_user_options
@click.option("--compare", is_flag=True, help="Show the model's answer without rules as well.")
@json_option
@settings_options("memory", "tenant", "embedder", "index", "hits", "model", "base_url", "timeout")
@settings_options("relevance", "budget", "max_tokens", "temperature", "seed")
@settings_options("judge", "judge_timeout", "release", "rounds")
@settings_options("deny_unchecked", "infer", "rewrite", "samples", "refine_rounds")
@click.option(
    "--incomplete-note/--no-incomplete-note",
    default=None,
    expose_value=False,
    callback=_remember_note,
    help="Tell the model that rules may be missing.",
)
@pass_session
def ask_command(
    session: Session,
    question: str,
    place: tuple[str, ...],
    audience: tuple[str, ...],
    at: datetime | None,
    as_of: int | None,
    system_info: str,
    user_info: str,
    prefer: tuple[str, ...],
    user: str,
    compare: bool,
    as_json: bool,
) -> None:
    """Ask the model a question under the rules that apply, and show which it follows.

    Where, who and when are taken from the options, else from the question itself. What provider
    and user want is followed as far as rules leave room for it. The answer leaves a record:
    `comity decisions show` explains it.
    """
    import asyncio

    from comity.alignment.aligner import Aligner

    given = given_scope(session, place, audience, at, as_of)
    options = options_of(session.settings)
    with session.open_memory() as memory:
        memory.check_scope(given)
        model = session.open_model()
        catch_up(memory)
        note_strange_audience(memory, given)
        meta = meta_of(memory, given.tenant, system_info, user_info, prefer, user)
        aligner = Aligner(memory, model, options, judge=session.open_judge(model))
        bare = None
        if compare:
            _head("Without rules", as_json)
            bare = asyncio.run(_shown(_without_rules(model, question, options), as_json))
            _head("With rules", as_json)
        answer: Answer = asyncio.run(_shown(aligner.stream(question, given, meta), as_json))
        if as_json:
            say_json(_as_json(answer, bare))
        else:
            _say_basis(memory, question, given, answer)


def options_of(settings: Settings) -> Options:
    """How the settings make an aligner answer."""
    from comity.alignment.aligner import Options

    return Options(**{name: getattr(settings, name) for name in Options.model_fields})


def _head(text: str, as_json: bool) -> None:
    if not as_json:
        say(f"── {text} ──", bold=True)


def _without_rules(model: ChatModel, question: str, options: Options) -> AsyncIterator[str | Reply]:
    from comity.records import Message, Request

    return model.stream(
        Request(
            messages=(Message(role="user", content=question),),
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            seed=options.seed,
        )
    )


async def _shown(stream: AsyncIterator[Any], as_json: bool) -> Any:
    """Print the pieces as they come (unless for programs), and give what comes last."""
    last: Any = None
    with waiting("the model is reading") as done:
        async for last in stream:
            done()
            if isinstance(last, str) and not as_json:
                click.echo(plain(last), nl=False)
                sys.stdout.flush()
    if not as_json:
        click.echo()
    return last


def _as_json(answer: Answer, bare: Reply | None) -> dict[str, Any]:
    dumped = answer.model_dump(mode="json", include={"text", "citations", "decision"})
    return dumped if bare is None else dumped | {"without_rules": bare.text}


def _say_basis(memory: Memory, question: str, given: Scope, answer: Answer) -> None:
    decision = answer.decision
    say()
    cited = [
        (citation, memory.get(citation.id, version=citation.version, tenant=decision.tenant))
        for citation in answer.citations
    ]
    if cited:
        say_table(
            ("cited", "by", "rule", "title", "article", "valid", "place"),
            [
                (
                    citation.label,
                    citation.by,
                    f"{citation.id}@{citation.version}",
                    citation.title,
                    citation.article,
                    validity(citation.valid_from, citation.valid_to),
                    rule.place,
                )
                for citation, rule in cited
            ],
        )
        for citation, rule in cited:
            say(f"{citation.label} {_beginning(rule.text)}")
    elif decision.kept:
        note("the answer cites none of the rules that it was given")
    else:
        note("no rule applies in this scope: the answer is the model's own")
    note_scope(memory, question, given, decision.scope)
    say_wishes(decision)
    if decision.rewritten:
        note_rewritten(decision.rewritten)
    if decision.refining_failed:
        note(f"refinement ended early: {decision.refining_failed}")
    _note_gaps(answer)
    note(f"decision {decision.id}: comity decisions show {decision.id}")


def _beginning(text: str) -> str:
    """A text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} …"


def _note_gaps(answer: Answer) -> None:
    decision = answer.decision
    for remark in remarks(decision):
        note(remark)
    if decision.left_out:
        first = ", ".join(rule.id for rule in decision.left_out[:_NAMED])
        more = len(decision.left_out) - _NAMED
        names = first if more < 1 else f"{first} and {more} less similar ones"
        note(f"left out, for they did not fit --budget: {names}")
    for line in checks_told(decision):
        note(line)
