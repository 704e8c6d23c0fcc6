"""`comity decisions erase`: personal texts out of the records of answers, for good."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from comity.cli.output import note, say, say_json, say_table
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import MOMENT, json_option
from comity.errors import ComityError

if TYPE_CHECKING:
    from comity.alignment.erasure import Erased, Wanted
    from comity.memory.memory import Memory

_SHOWN = 20


class NotErased(ComityError):
    """An erasure that nobody confirmed."""


@click.command("erase")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--question-contains", default="", metavar="TEXT", help="Questions with these words.")
@click.option(
    "--user", default="", metavar="NAME", help="Questions of a user, as clients named it."
)
@click.option("--before", type=MOMENT, metavar="TIME", help="Decisions made before a time.")
@click.option("--reason", default="", metavar="TEXT", help="Why; stays in the record for ever.")
@click.option(
    "--spool",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the gateway's decisions wait for the record; beside the memory by default.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@settings_options("memory", "tenant", "author")
@pass_session
def erase_command(
    session: Session,
    ids: tuple[str, ...],
    question_contains: str,
    user: str,
    before: datetime | None,
    reason: str,
    spool: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase the personal texts of decisions; their records, without the texts, stay.

    What a user or a model wrote is overwritten in every file of the memory and cannot be brought
    back. An entry in the chain of decisions says who erased what, when and why, and `comity
    decisions verify` still holds. A user's stored preferences are erased by `comity preferences
    erase`.
    """
    from comity.alignment.erasure import chosen, erase

    wanted = _wanted(ids, question_contains, user, before)
    tenant = session.settings.tenant
    with session.open_book() as memory:
        _bring_in(memory, session, spool)
        found = chosen(memory, tenant, wanted)
        if found:
            _ask(memory, tenant, found, yes)
        done = erase(memory, tenant, found, by=session.settings.author, reason=reason)
        _tell_what_is_left(memory, tenant, user)
        tell_what_a_server_keeps(memory)
    if as_json:
        say_json(done._asdict())
    else:
        _say(done)


def tell_what_a_server_keeps(memory: Memory) -> None:
    """PostgreSQL overwrites nothing: what was erased stays in its files for a while."""
    if memory.store.far:
        note(
            "no query gives them any more, but files and journal of the server hold the old bytes "
            'for a while: docs/privacy.md, "In PostgreSQL", says what takes them away'
        )


def _bring_in(memory: Memory, session: Session, spool: Path | None) -> None:
    """Record what waits in the spool, so that no text is left there."""
    from comity.alignment.spool import Spool, spool_beside
    from comity.memory.memory import path_of

    file = path_of(session.settings.memory)
    if waiting := spool or (spool_beside(file) if file else None):
        Spool(waiting, 0).bring_in(memory)


def _wanted(
    ids: tuple[str, ...], question_contains: str, user: str, before: datetime | None
) -> Wanted:
    from pydantic import ValidationError

    from comity.alignment.erasure import Wanted

    try:
        return Wanted(ids=ids, question_contains=question_contains, user=user, before=before)
    except ValidationError as error:
        raise click.UsageError(
            "give one of: ids of decisions, --question-contains, --user, --before"
        ) from error


def _ask(memory: Memory, tenant: str, found: Sequence[str], yes: bool) -> None:
    if yes:
        return
    shown = [memory.store.decision(tenant, name) for name in found[:_SHOWN]]
    rows = [(each.id, f"{each.made_at:%Y-%m-%d %H:%M}", each.question) for each in shown]
    say_table(("decision", "made", "question"), rows)
    if len(found) > _SHOWN:
        say(f"… and {len(found) - _SHOWN} more")
    what = f"the personal texts of {_count(found)} would be erased for good"
    if not sys.stdin.isatty():
        raise NotErased(f"{what}, and there is no terminal to ask at: add --yes to do it")
    if not click.confirm(f"{what}. Do it?", err=True):
        raise NotErased("nothing was erased")


def _tell_what_is_left(memory: Memory, tenant: str, user: str) -> None:
    from comity.alignment.wishes import history_of

    if user and history_of(memory, tenant, user):
        note(
            "what this user would like of answers is kept apart, and is still there: comity "
            f"preferences erase --user {shlex.quote(user)}"
        )


def _say(done: Erased) -> None:
    if not done.decisions:
        note("no decision of these has texts left; what files still held of others is overwritten")
        return
    say(f"the personal texts of {_count(done.decisions)} are erased; {', '.join(done.entries)}")
    note("backups and exports that were made before still hold them")


def _count(found: Sequence[str]) -> str:
    return f"{len(found)} decision{'s' if len(found) != 1 else ''}"
