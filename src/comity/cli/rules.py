"""`comity rules`: what the memory holds, and what has become of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import day, note, say, say_fields, say_json, say_table, validity
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import MOMENT, json_option
from comity.cli.words import change_lines, shown

if TYPE_CHECKING:
    from comity.memory.memory import Memory
    from comity.memory.store import StoredRule
    from comity.records import Rule

_COLUMNS = ("id", "version", "heading", "place", "audience", "authority", "valid", "status")


@click.group("rules")
def rules_group() -> None:
    """List, show and change rules."""


@rules_group.command("list")
@click.option("--place", metavar="PLACE", help="Rules of this place and of those inside it.")
@click.option("--audience", metavar="LABEL", help="Rules that bind this audience.")
@click.option("--domain", metavar="WORD", help="Rules on this subject.")
@click.option("--authority", metavar="RANK", help="Rules of this rank.")
@click.option(
    "--status",
    type=click.Choice(["draft", "active", "repealed", "all"]),
    help="By default all but repealed ones.",
)
@click.option("--as-of", type=click.IntRange(0), metavar="N", help="As of revision N.")
@json_option
@settings_options("memory", "tenant")
@pass_session
def list_command(
    session: Session,
    place: str | None,
    audience: str | None,
    domain: str | None,
    authority: str | None,
    status: str | None,
    as_of: int | None,
    as_json: bool,
) -> None:
    """List the rules, each in its newest version."""
    from comity.memory.places import contains

    tenant = session.settings.tenant
    with session.open_book() as memory:
        wide = memory.gazetteer(tenant).canonical(place) if place else None
        stored = held(memory, tenant, as_of)
        chosen = [
            one
            for one in stored
            if (wide is None or contains(wide, one.rule.place))
            and (audience is None or audience in one.rule.audience)
            and (domain is None or domain == one.rule.domain)
            and (authority is None or authority == one.rule.authority)
        ]
        visible = [one for one in chosen if _has_status(one.rule, status, memory.clock())]
        rows = [] if as_json else [_row(one.rule, not_yet(memory, one, as_of)) for one in visible]
    if as_json:
        say_json([stored_as_json(one) for one in visible])
        return
    say_table(_COLUMNS, rows)
    hidden = len(chosen) - len(visible) if status is None else 0
    note(f"{len(visible)} rules" + (f", and {hidden} repealed (--status all)" if hidden else ""))


def held(memory: Memory, tenant: str, as_of: int | None = None) -> list[StoredRule]:
    """The tenant's rules; `NotFound` for a tenant or revision that is not there."""
    from comity.records import Scope

    memory.check_scope(Scope(tenant=tenant, as_of=as_of))
    return memory.rules(tenant=tenant, as_of=as_of)


def _has_status(rule: Rule, status: str | None, now: datetime) -> bool:
    if status is None:
        return rule.status != "repealed" or bool(rule.valid_from and rule.valid_from > now)
    return status in ("all", rule.status)


def not_yet(memory: Memory, stored: StoredRule, as_of: int | None = None) -> str:
    """Where a version is not in force yet, which one is; else nothing."""
    from comity.memory.versions import in_force

    rule, now = stored.rule, memory.clock()
    waits = rule.status == "draft" and rule.version > 1
    if not waits and (rule.valid_from is None or rule.valid_from <= now):
        return ""
    history = memory.history(rule.id, tenant=rule.tenant)
    known = [one.rule for one in history if as_of is None or one.revision <= as_of]
    holds = in_force(known, now)
    return f"not yet in force: {f'version {holds.version}' if holds else 'no version'} is now"


def _row(rule: Rule, waits: str) -> tuple[object, ...]:
    return (
        rule.id,
        rule.version,
        rule.heading if rule.heading != rule.id else "",
        rule.place,
        ", ".join(rule.audience),
        rule.authority,
        "" if rule.status == "repealed" else validity(rule.valid_from, rule.valid_to),
        "; ".join(filter(None, (status_in_words(rule), waits))),
    )


def status_in_words(rule: Rule) -> str:
    """`repealed from 2026-07-01`, or the status alone."""
    return f"repealed from {day(rule.valid_from)}" if rule.status == "repealed" else rule.status


def stored_as_json(stored: StoredRule) -> dict[str, Any]:
    """All fields of the rule, and the revision that brought this version."""
    dumped = stored.model_dump(mode="json", exclude={"row", "rule"})
    rule: dict[str, Any] = stored.rule.model_dump(mode="json")
    return rule | dumped


@rules_group.command("show")
@click.argument("rule", metavar="ID[@VERSION]")
@json_option
@settings_options("memory", "tenant")
@pass_session
def show_command(session: Session, rule: str, as_json: bool) -> None:
    """Show a rule whole, in its newest version or another."""
    tenant = session.settings.tenant
    with session.open_book() as memory:
        stored = find(memory, rule, tenant)
        waits = not_yet(memory, stored)
    if as_json:
        say_json(stored_as_json(stored))
        return
    say(f"{stored.rule.id}@{stored.rule.version}", bold=True)
    hidden = {"id", "version", "text", "source", "check", "status", "language", "enforcement"}
    fields = [
        (name, shown(value))
        for name, value in stored.rule
        if name not in hidden and value not in ("", (), None, False)
    ]
    say_fields([*fields, *_details(stored, waits)])
    say()
    say(stored.rule.text)


def _details(stored: StoredRule, waits: str) -> list[tuple[str, str]]:
    rule = stored.rule
    source = rule.source
    return [
        ("status", "; ".join(filter(None, (status_in_words(rule), waits)))),
        ("enforcement", rule.enforcement if rule.enforcement != "advise" else ""),
        ("check", rule.check.model_dump_json(exclude_defaults=True) if rule.check else ""),
        ("source", f"{source.document}, characters {source.start}-{source.end}" if source else ""),
        ("quotation", source.quotation if source else ""),
        ("revision", f"{stored.revision}, recorded {day(stored.recorded_at)}"),
    ]


def find(memory: Memory, name: str, tenant: str) -> StoredRule:
    """The version that `ID` or `ID@VERSION` names. Raises `NotFound`."""
    rule_id, at, number = name.rpartition("@")
    whole = memory.store.history(tenant, name)
    if whole or not (at and number.isdecimal()):
        return memory.history(name, tenant=tenant)[-1]
    wanted = memory.get(rule_id, version=int(number), tenant=tenant)
    return next(s for s in memory.history(rule_id, tenant=tenant) if s.rule.key == wanted.key)


@rules_group.command("history")
@click.argument("rule_id", metavar="ID")
@json_option
@settings_options("memory", "tenant")
@pass_session
def history_command(session: Session, rule_id: str, as_json: bool) -> None:
    """All versions of a rule, oldest first, with who made them and why."""
    tenant = session.settings.tenant
    with session.open_book() as memory:
        _say_versions(memory, memory.history(rule_id, tenant=tenant), tenant, as_json)


@rules_group.command("changes")
@click.option("--since", type=click.IntRange(0), default=0, metavar="N", help="After revision N.")
@json_option
@settings_options("memory", "tenant")
@pass_session
def changes_command(session: Session, since: int, as_json: bool) -> None:
    """The versions that later revisions brought, oldest first."""
    tenant = session.settings.tenant
    with session.open_book() as memory:
        held(memory, tenant, since)
        _say_versions(memory, memory.changes_since(since, tenant=tenant), tenant, as_json)


def _say_versions(
    memory: Memory, versions: Iterable[StoredRule], tenant: str, as_json: bool
) -> None:
    revisions = {revision.number: revision for revision in memory.store.revisions(tenant)}
    if as_json:
        made = {n: r.model_dump(include={"kind", "author", "note"}) for n, r in revisions.items()}
        say_json([stored_as_json(stored) | made[stored.revision] for stored in versions])
        return
    rows = []
    for stored in versions:
        revision, rule = revisions[stored.revision], stored.rule
        rows.append(
            (
                stored.revision,
                day(stored.recorded_at),
                revision.kind,
                f"{rule.id}@{rule.version}",
                status_in_words(rule),
                validity(rule.valid_from, rule.valid_to),
                revision.author,
                revision.note,
            )
        )
    columns = ("revision", "recorded", "kind", "rule", "status", "valid", "author", "note")
    say_table(columns, rows)


@rules_group.command("upcoming")
@click.option("--since", type=MOMENT, help="After this moment; now by default.")
@click.option("--until", type=MOMENT, help="Up to this moment; a year later by default.")
@click.option("--place", metavar="PLACE", help="Only what applies there or inside.")
@click.option("--audience", metavar="LABEL", default="", help="Only what binds them or everybody.")
@json_option
@settings_options("memory", "tenant")
@pass_session
def upcoming_command(
    session: Session,
    since: datetime | None,
    until: datetime | None,
    place: str | None,
    audience: str,
    as_json: bool,
) -> None:
    """Which rules begin, change or end between two dates, where and for whom."""
    from comity.memory.upcoming import upcoming
    from comity.records import WORLD

    with session.open_book() as memory:
        start = since or memory.clock()
        found = upcoming(
            memory,
            start,
            until or start + timedelta(days=365),
            tenant=session.settings.tenant,
            place=place or WORLD,
            audience=audience,
        )
    if as_json:
        say_json([change.model_dump(mode="json") for change in found])
        return
    rows = [
        (
            day(change.at),
            change.kind,
            f"{change.rule.id}@{change.rule.version}",
            change.rule.heading,
            change.rule.place,
            ", ".join(change.rule.audience) or "everybody",
        )
        for change in found
    ]
    say_table(("from", "what", "rule", "heading", "place", "binds"), rows)


@rules_group.command("diff")
@click.argument("rule_id", metavar="ID")
@click.argument("old", type=click.IntRange(1), required=False)
@click.argument("new", type=click.IntRange(1), required=False)
@json_option
@settings_options("memory", "tenant")
@pass_session
def diff_command(
    session: Session, rule_id: str, old: int | None, new: int | None, as_json: bool
) -> None:
    """How two versions of a rule differ: by default the newest and the one before."""
    tenant = session.settings.tenant
    with session.open_book() as memory:
        newest = memory.get(rule_id, version=new, tenant=tenant)
        before = memory.get(rule_id, version=old or max(1, newest.version - 1), tenant=tenant)
        changes = memory.diff(rule_id, before.version, newest.version, tenant=tenant)
    if as_json:
        o, n = before.model_dump(mode="json"), newest.model_dump(mode="json")
        fields = {c.field: {"old": o[c.field], "new": n[c.field]} for c in changes}
        say_json({"id": rule_id, "old": before.version, "new": newest.version, "fields": fields})
        return
    say(f"{rule_id}: version {before.version} -> {newest.version}", bold=True)
    for line in change_lines(changes) or ["no difference"]:
        click.echo(line)
