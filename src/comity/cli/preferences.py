"""`comity preferences`: what users would like of answers, kept for each of them by itself."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from comity.cli.erase import tell_what_a_server_keeps
from comity.cli.output import day, note, say, say_json, say_table, validity
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import MOMENT, QUESTION, json_option
from comity.errors import ComityError

if TYPE_CHECKING:
    from comity.memory.preference_book import HeldPreference
    from comity.preferences.priority import Understands
    from comity.records import Preference, Rule

_C = TypeVar("_C", bound=Callable[..., Any])
_KINDS = ("safety", "helpfulness", "honesty", "style", "language", "opinion", "topics")


class NotErased(ComityError):
    """An erasure that nobody confirmed."""


def _user_option(command: _C) -> _C:
    return click.option(
        "--user",
        required=True,
        type=QUESTION,
        metavar="NAME",
        help="Whose they are, as clients name the user.",
    )(command)


@click.group("preferences")
def preferences_group() -> None:
    """Keep, list, withdraw and erase what users would like of answers."""


@preferences_group.command("add")
@click.argument("text", type=QUESTION)
@_user_option
@click.option(
    "--kind", type=click.Choice(_KINDS), help="What it is about; found by the embedder if left out."
)
@click.option("--id", default="", metavar="ID", help="Of the preference that this replaces.")
@click.option("--from", "since", type=MOMENT, metavar="TIME", help="From when it holds.")
@click.option("--to", "until", type=MOMENT, metavar="TIME", help="Until when it holds.")
@json_option
@settings_options("memory", "tenant", "embedder")
@pass_session
def add_command(
    session: Session,
    text: str,
    user: str,
    kind: str | None,
    id: str,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Keep a preference for one user, such as "be brief" or "style: be brief"."""
    from comity.alignment.wishes import Wish, state

    told = {"text": text, "kind": kind, "id": id.strip(), "valid_from": since, "valid_to": until}
    wish = Wish.model_validate(told)
    with session.open_book() as memory:
        rule = state(memory, session.settings.tenant, user, wish, _ByEmbedder(session))
    if as_json:
        say_json(rule.model_dump(mode="json", exclude_defaults=True))
        return
    say(f"{rule.id}@{rule.version}: {rule.text}")
    note(f"kept as a preference of kind {rule.domain}, {validity(rule.valid_from, rule.valid_to)}")


@preferences_group.command("list")
@_user_option
@click.option("--at", type=MOMENT, metavar="TIME", help="Those that hold at another moment.")
@json_option
@settings_options("memory", "tenant")
@pass_session
def list_command(session: Session, user: str, at: datetime | None, as_json: bool) -> None:
    """List a user's preferences that hold or are due."""
    from comity.alignment.wishes import standing_of

    with session.open_book() as memory:
        found = standing_of(memory, session.settings.tenant, user, at)
    if as_json:
        say_json([rule.model_dump(mode="json", exclude_defaults=True) for rule in found])
        return
    if not found:
        note("no preference of this user holds")
        return
    rows = [(f"{rule.id}@{rule.version}", rule.domain, _when(rule), rule.text) for rule in found]
    say_table(("preference", "kind", "holds", "text"), rows)


@preferences_group.command("withdraw")
@click.argument("id", metavar="ID")
@_user_option
@settings_options("memory", "tenant")
@pass_session
def withdraw_command(session: Session, id: str, user: str) -> None:
    """End a user's preference now; its history stays until it is erased."""
    from comity.alignment.wishes import withdraw

    with session.open_book() as memory:
        withdraw(memory, session.settings.tenant, user, id)
    note(f"preference {id} is withdrawn")


@preferences_group.command("history")
@click.argument("id", metavar="[ID]", required=False)
@_user_option
@json_option
@settings_options("memory", "tenant")
@pass_session
def history_command(session: Session, id: str | None, user: str, as_json: bool) -> None:
    """List all versions of a user's preferences, or of one."""
    from comity.alignment.wishes import history_of

    with session.open_book() as memory:
        found = history_of(memory, session.settings.tenant, user, id)
    if as_json:
        say_json([_told(held) for held in found])
        return
    rows = [
        (
            f"{held.rule.id}@{held.rule.version}",
            day(held.recorded_at),
            "withdrawn" if held.rule.status == "repealed" else "stated",
            _when(held.rule),
            held.rule.text,
        )
        for held in found
    ]
    say_table(("preference", "recorded", "what", "holds", "text"), rows)


@preferences_group.command("export")
@_user_option
@json_option
@settings_options("memory", "tenant")
@pass_session
def export_command(session: Session, user: str, as_json: bool) -> None:
    """Print all that is kept of a user's preferences, withdrawn ones included.

    JSON, to be handed over; a table without --json.
    """
    from comity.alignment.wishes import export_of

    with session.open_book() as memory:
        found = export_of(memory, session.settings.tenant, user)
    if as_json:
        say_json(
            {
                "tenant": found.tenant,
                "user": user,
                "person": found.person,
                "preferences": [_told(held) for held in found.preferences],
            }
        )
        return
    for held in found.preferences:
        say(f"{day(held.recorded_at)}  {_sentence(held)}")
    note(f"{_count(len(found.preferences))} of {user!r} in tenant {found.tenant}")


@preferences_group.command("erase")
@_user_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@settings_options("memory", "tenant")
@pass_session
def erase_command(session: Session, user: str, yes: bool, as_json: bool) -> None:
    """Erase all of a user's preferences, with their history, for good.

    They are overwritten in every file of the memory. The texts of the user's questions, which
    may quote them, are erased by `comity decisions erase --user`.
    """
    from comity.alignment.wishes import erase_of, history_of

    tenant = session.settings.tenant
    with session.open_book() as memory:
        found = history_of(memory, tenant, user)
        if found and not yes:
            _ask(found, user)
        erased = erase_of(memory, tenant, user)
        left = _texts_left(session, memory, user)
        tell_what_a_server_keeps(memory)
    if as_json:
        say_json({"erased": erased, "decisions_with_texts": left})
        return
    say(f"{_count(erased)} erased")
    if left:
        note(
            f"{left} decisions of this user still hold texts, which may quote preferences: "
            f"comity decisions erase --user {shlex.quote(user)}"
        )


def _ask(found: Sequence[HeldPreference], user: str) -> None:
    for held in found:
        say(f"{day(held.recorded_at)}  {_sentence(held)}")
    what = f"{_count(len(found))} of {user!r} would be erased for good"
    if not sys.stdin.isatty():
        raise NotErased(f"{what}, and there is no terminal to ask at: add --yes to do it")
    if not click.confirm(f"{what}. Do it?", err=True):
        raise NotErased("nothing was erased")


def _texts_left(session: Session, memory: Any, user: str) -> int:
    from comity.alignment.erasure import Wanted, chosen

    return len(chosen(memory, session.settings.tenant, Wanted(user=user)))


def _told(held: HeldPreference) -> dict[str, Any]:
    rule = held.rule.model_dump(mode="json", exclude_defaults=True)
    return {"recorded_at": held.recorded_at.isoformat(), **rule}


def _when(rule: Rule) -> str:
    if rule.status == "repealed":
        return f"ended {day(rule.valid_from)}"
    return validity(rule.valid_from, rule.valid_to)


def _sentence(held: HeldPreference) -> str:
    rule = held.rule
    return f"{rule.id}@{rule.version} ({rule.domain}, {_when(rule)}): {rule.text}"


def _count(versions: int) -> str:
    return f"{versions} version{'s' if versions != 1 else ''} of preferences"


class _ByEmbedder:
    """Finds kinds with the settings' embedder, which is opened where it is needed only."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def understood(self, preference: Preference) -> Preference:
        """The preference with its kind."""
        from comity.memory.embed import open_embedder
        from comity.preferences.kinds import Kinds

        settings = self._session.settings
        embedder = open_embedder(
            settings.embedder,
            base_url=settings.base_url or None,
            api_key=settings.api_key.get_secret_value() or None,
        )
        kinds: Understands = Kinds(embedder)
        return kinds.understood(preference)
