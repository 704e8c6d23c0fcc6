"""The asker's scope: what the options say, and where the scope that was used came from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from comity.cli.output import day, note, progress_bar
from comity.cli.session import Session
from comity.cli.values import MOMENT

if TYPE_CHECKING:
    from comity.memory.memory import Memory
    from comity.records import Scope

_NEAR = 3  # labels in a note
_C = TypeVar("_C", bound=Callable[..., Any])


def scope_options(command: _C) -> _C:
    """Options for where, who and when."""
    for option in (
        click.option("--as-of", type=click.IntRange(0), metavar="N", help="Memory at revision N."),
        click.option("--at", type=MOMENT, help="When the facts happened; now by default."),
        click.option(
            "--audience",
            metavar="LABEL",
            multiple=True,
            callback=_not_empty,
            help="Who asks; repeatable.",
        ),
        click.option(
            "--place",
            metavar="PLACE",
            multiple=True,
            help="Where the asker is: wins over places that the question names; repeatable.",
        ),
    ):
        command = option(command)
    return command


def _not_empty(
    context: click.Context, parameter: click.Parameter, labels: tuple[str, ...]
) -> tuple[str, ...]:
    if not all(map(str.strip, labels)):
        raise click.BadParameter("is empty: leave it out to ask for everybody", context, parameter)
    return labels


def given_scope(
    session: Session,
    place: tuple[str, ...],
    audience: tuple[str, ...],
    at: datetime | None,
    as_of: int | None,
) -> Scope:
    """The scope that the options give; the rest is found in the question."""
    from comity.records import Scope

    return Scope(place=place, audience=audience, at=at, as_of=as_of, tenant=session.settings.tenant)


def catch_up(memory: Memory) -> None:
    """Bring the index up to date, with a bar if rules have to be embedded."""
    with progress_bar("embedding") as progress:
        memory.index.catch_up(progress)


def note_strange_audience(memory: Memory, given: Scope) -> None:
    """Say which given audiences no rule names, since they admit no further rule; on stderr."""
    from difflib import get_close_matches

    known = {label.casefold(): label for label in memory.index.audiences(given.tenant)}
    for label in given.audience:
        if label.casefold() not in known:
            near = get_close_matches(label.casefold(), sorted(known), n=_NEAR)
            guess = f": did you mean {', '.join(known[name] for name in near)}?" if near else ""
            note(f"no rule names the audience {label!r}{guess}")


def note_scope(memory: Memory, question: str, given: Scope, used: Scope) -> None:
    """Say which scope was used and where it came from; on stderr."""
    from comity.records import WORLD

    gazetteer = memory.gazetteer(used.tenant)
    named = bool(gazetteer.find(question))
    origin = "given" if given.place else "from the question" if named else "default"
    places = ", ".join(_named(code, gazetteer.name(code)) for code in used.place)
    whom = ", ".join(used.audience) or "everybody"
    whom += "" if not used.audience else ", given" if given.audience else ", from the question"
    when = f"at {day(used.at)}, given" if given.at else "now"
    held = f", memory as of revision {used.as_of}" if used.as_of is not None else ""
    note(f"scope: {places}, {origin}; for {whom}; {when}{held}")
    if used.place == (WORLD,) and origin == "default":
        note(
            "no place is known, so only world-wide rules were considered: name one in the "
            "question, or give --place, or set a default in COMITY_PLACE or comity.toml (place)"
        )


def _named(code: str, name: str) -> str:
    return code if name.casefold() == code.casefold() else f"{name} ({code})"
