"""`comity places`: the places that a memory itself defines."""

from __future__ import annotations

import click

from comity.cli.output import note, say_json, say_table
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option


@click.group("places")
def places_group() -> None:
    """List and define places of the memory's own, beside those of the whole world."""


@places_group.command("list")
@json_option
@settings_options("memory", "tenant")
@pass_session
def list_command(session: Session, as_json: bool) -> None:
    """List the memory's own places."""
    from comity.records import Scope

    with session.open_book() as memory:
        memory.check_scope(Scope(tenant=session.settings.tenant))
        found = memory.store.places(session.settings.tenant)
    if as_json:
        say_json([place.model_dump(mode="json") for place in found])
        return
    say_table(("code", "names"), [(place.code, ", ".join(place.names)) for place in found])
    note(f"{len(found)} places of the memory's own; ISO 3166 and the world's cities are known too")


@places_group.command("add")
@click.argument("code")
@click.option(
    "--name", "names", multiple=True, required=True, help="What it is called; repeatable."
)
@json_option
@settings_options("memory", "tenant", "author")
@pass_session
def add_command(session: Session, code: str, names: tuple[str, ...], as_json: bool) -> None:
    """Define a place, or rename it: its code is a path, such as XA-NO/Tidewick."""
    from pydantic import ValidationError

    from comity.errors import UnknownPlace
    from comity.memory.places import OwnPlace
    from comity.memory.store import PlaceNames

    try:
        own = OwnPlace(code=code, names=names)
    except ValidationError as error:
        raise UnknownPlace(
            f"{code!r} is no code of a place: write it as XA, XA-NO or XA-NO/Tidewick"
        ) from error
    settings = session.settings
    with session.open_book() as memory:
        memory.gazetteer(settings.tenant).with_own([own])
        places = [PlaceNames(code=own.code, names=own.names)]
        revision = memory.define_places(places, tenant=settings.tenant, author=settings.author)
    if as_json:
        say_json({"code": own.code, "names": list(own.names), "revision": revision})
    else:
        note(f"revision {revision}: {own.code} is called {', '.join(own.names)}")
