"""`comity decisions erasures`: which texts were erased, to be erased again after a restore."""

from __future__ import annotations

import click

from comity.cli.output import day, note, say_json, say_table
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option


@click.command("erasures")
@json_option
@settings_options("memory", "tenant")
@pass_session
def erasures_command(session: Session, as_json: bool) -> None:
    """List the erasures of personal texts on record, oldest first.

    Kept elsewhere, what --json prints can be given to `comity restore --erasures`: a backup that
    was made before them brings the texts back. It names decisions, and holds nothing of their
    texts.
    """
    from comity.records import Erasure

    tenant = session.settings.tenant
    with session.open_book() as memory:
        found = [each for each in memory.store.chain(tenant) if isinstance(each, Erasure)]
    if as_json:
        say_json([each.model_dump(mode="json") for each in found])
        return
    if not found:
        note(f"nothing was erased of tenant {tenant!r}")
        return
    rows = [
        (each.id, day(each.made_at), each.by, str(len(each.decisions)), each.reason)
        for each in found
    ]
    say_table(("erasure", "made", "by", "decisions", "reason"), rows)
