"""`comity settings`: what is in effect, and where it came from."""

from __future__ import annotations

import click

from comity.cli.output import say_json, say_table
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option


@click.command("settings")
@json_option
@settings_options("memory", "tenant", "author", "model", "base_url", "timeout", "embedder", "hits")
@settings_options("budget", "max_tokens", "temperature", "seed", "max_file_mb")
@pass_session
def settings_command(session: Session, as_json: bool) -> None:
    """Show the settings in effect and where each came from; secrets stay hidden.

    The setting `place` is the default for questions that name no place; it has no option, since
    --place of search and ask says where the asker is.
    """
    settings, sources = session.loaded
    values = settings.model_dump(mode="json")
    if as_json:
        say_json({name: {"value": v, "source": sources[name]} for name, v in values.items()})
        return
    rows = [
        (name, "" if value is None else value, sources[name], field.description or "")
        for (name, value), field in zip(
            values.items(), type(settings).model_fields.values(), strict=True
        )
    ]
    say_table(("setting", "value", "from", "meaning"), rows)
