"""`comity rules amend`, `repeal`, `approve` and `reject`: changes by hand, each one revision."""

from __future__ import annotations

import json
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import day, note, say, say_json
from comity.cli.rules import status_in_words
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import MOMENT, json_option
from comity.cli.words import change_lines

if TYPE_CHECKING:
    from comity.memory.memory import Memory
    from comity.records import Rule

_FIXED = ("id", "version", "tenant", "source")
_note_option = click.option("--note", "reason", default="", metavar="TEXT", help="Why.")


@click.command("amend")
@click.argument("rule_id", metavar="ID")
@click.option("--text", help="The new text.")
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File that holds the new text.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Another field; repeatable."
)
@click.option("--from", "valid_from", type=MOMENT, help="First moment in force; now by default.")
@_note_option
@json_option
@settings_options("memory", "tenant", "author", "embedder")
@pass_session
def amend_command(
    session: Session,
    rule_id: str,
    text: str | None,
    file: Path | None,
    settings: tuple[str, ...],
    valid_from: datetime | None,
    reason: str,
    as_json: bool,
) -> None:
    """Give a rule a new version; the old one stays in force until the new one is.

    FIELD is one of title, article, place, audience, domain, authority, valid_from, valid_to,
    mandatory, enforcement, check (JSON), overrides, language, status. Labels are parted by `|`.
    """
    from comity.memory.memory import differences

    changes: dict[str, Any] = dict(map(_field, settings))
    if text is not None and file is not None:
        raise click.UsageError("give --text or --file, not both")
    if file is not None:
        text = _text_of(file)
    changes |= {} if text is None else {"text": text}
    changes |= {} if valid_from is None else {"valid_from": valid_from}
    if not changes:
        raise click.UsageError("nothing to amend: give --text, --file, --set or --from")
    chosen = session.settings
    with session.open_memory() as memory:
        old = memory.get(rule_id, tenant=chosen.tenant)
        new = memory.amend(
            rule_id, changes, tenant=chosen.tenant, author=chosen.author, note=reason
        )
        revision = memory.revision
        _note_forestalled(memory, new)
    if as_json:
        say_json(new.model_dump(mode="json") | {"revision": revision})
        return
    say(f"{new.id}, version {old.version} -> {new.version}", bold=True)
    for line in change_lines(differences(old, new)):
        click.echo(line)
    note(f"revision {revision}: done")


def _note_forestalled(memory: Memory, new: Rule) -> None:
    """Say which versions were due before the new one and now never start."""
    from comity.memory.versions import due

    versions = [stored.rule for stored in memory.history(new.id, tenant=new.tenant)]
    now = memory.clock()
    still = due(versions, now)
    for rule in due(versions[:-1], now):
        if rule not in still:
            note(
                f"version {rule.version}, due from {day(rule.valid_from)}, will not come into force"
            )


def _field(given: str) -> tuple[str, Any]:
    from comity.records import Rule

    name, equals, value = given.partition("=")
    name = name.strip()
    if not equals:
        raise click.BadParameter(f"{given!r} is not FIELD=VALUE", param_hint="--set")
    known = [field for field in Rule.model_fields if field not in _FIXED]
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise click.BadParameter(f"no field {name!r} to amend: {hint}", param_hint="--set")
    return name, _check(value) if name == "check" else value


def _check(value: str) -> Any:
    try:
        return json.loads(value) if value else None
    except ValueError as error:
        raise click.BadParameter(f"check is no JSON: {error}", param_hint="--set") from error


def _text_of(file: Path) -> str:
    from comity.documents.read import read

    return read(file).text


@click.command("repeal")
@click.argument("rule_id", metavar="ID")
@click.option("--at", type=MOMENT, help="First moment at which it no longer is in force.")
@_note_option
@json_option
@settings_options("memory", "tenant", "author", "embedder")
@pass_session
def repeal_command(
    session: Session, rule_id: str, at: datetime | None, reason: str, as_json: bool
) -> None:
    """End a rule, now or at another moment; its versions stay on record."""
    chosen = session.settings
    with session.open_memory() as memory:
        rule = memory.repeal(
            rule_id, at=at, tenant=chosen.tenant, author=chosen.author, note=reason
        )
        revision = memory.revision
    _say_changed(rule, revision, as_json)


@click.command("approve")
@click.argument("rule_ids", metavar="ID...", nargs=-1, required=True)
@_note_option
@json_option
@settings_options("memory", "tenant", "author", "embedder")
@pass_session
def approve_command(
    session: Session, rule_ids: tuple[str, ...], reason: str, as_json: bool
) -> None:
    """Put drafts in force as one revision: all of those named, or none.

    A draft that amends a rule is in force from now on, or from a later date that it states.
    """
    chosen = session.settings
    with session.open_memory() as memory:
        approved = memory.approve(rule_ids, tenant=chosen.tenant, author=chosen.author, note=reason)
        revision = memory.revision
        for rule in approved:
            _note_forestalled(memory, rule)
    if as_json:
        say_json([rule.model_dump(mode="json") | {"revision": revision} for rule in approved])
        return
    for rule in approved:
        say(f"{rule.id}@{rule.version}: {rule.status}")
    note(f"revision {revision}: done")


@click.command("reject")
@click.argument("rule_id", metavar="ID")
@_note_option
@json_option
@settings_options("memory", "tenant", "author", "embedder")
@pass_session
def reject_command(session: Session, rule_id: str, reason: str, as_json: bool) -> None:
    """Discard a draft: the version before it holds on, and a draft without one is repealed."""
    chosen = session.settings
    with session.open_memory() as memory:
        rule = memory.reject(rule_id, tenant=chosen.tenant, author=chosen.author, note=reason)
        revision = memory.revision
    _say_changed(rule, revision, as_json)


def _say_changed(rule: Rule, revision: int, as_json: bool) -> None:
    if as_json:
        say_json(rule.model_dump(mode="json") | {"revision": revision})
    else:
        say(f"{rule.id}@{rule.version}: {status_in_words(rule)}")
        note(f"revision {revision}: done")
