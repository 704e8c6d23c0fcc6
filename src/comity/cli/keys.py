"""`comity keys`: who may ask the gateway, and who may change rules through it."""

from __future__ import annotations

import click

from comity.cli.output import day, note, say, say_json, say_table
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option

_ROLES = ("client", "editor", "approver", "auditor", "admin")


@click.group("keys")
def keys_group() -> None:
    """Make, list and revoke keys of the gateway."""


@keys_group.command("create")
@click.option(
    "--role", type=click.Choice(_ROLES), default="client", show_default=True, help="What it may do."
)
@click.option("--note", "remark", default="", metavar="TEXT", help="Whom it is given to.")
@json_option
@settings_options("memory", "tenant")
@pass_session
def create_command(session: Session, role: str, remark: str, as_json: bool) -> None:
    """Make a key for the tenant, and show its secret, once."""
    from typing import cast

    from comity.serving.auth import Role, create_key

    with session.open_book() as memory:
        made = create_key(memory, session.settings.tenant, cast("Role", role), remark)
    if as_json:
        say_json({"id": made.key.id, "secret": made.secret, "role": role})
        return
    say(made.secret)
    note(f"key {made.key.id}, role {role}, tenant {made.key.tenant}: the secret is not shown again")


@keys_group.command("list")
@json_option
@settings_options("memory", "tenant")
@pass_session
def list_command(session: Session, as_json: bool) -> None:
    """List the tenant's keys, without their secrets."""
    with session.open_book() as memory:
        found = memory.store.keys(session.settings.tenant)
    if as_json:
        say_json([key.model_dump(mode="json", exclude={"hash"}) for key in found])
        return
    rows = [
        (
            key.id,
            key.role,
            day(key.made_at),
            day(key.revoked_at) if key.revoked_at else "",
            key.note,
        )
        for key in found
    ]
    say_table(("key", "role", "made", "revoked", "note"), rows)


@keys_group.command("revoke")
@click.argument("key_id", metavar="ID")
@settings_options("memory")
@pass_session
def revoke_command(session: Session, key_id: str) -> None:
    """End a key; the next request with it is refused."""
    with session.open_book() as memory:
        key = memory.store.revoke_key(key_id, memory.clock())
    note(f"key {key.id} is revoked")
