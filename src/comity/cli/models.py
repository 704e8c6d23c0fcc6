"""`comity models`: local chat models."""

from __future__ import annotations

import click

from comity.cli.output import note, progress_bar, say, say_json, say_table
from comity.cli.values import json_option


@click.group("models")
def models_group() -> None:
    """Fetch and list local chat models."""


@models_group.command("pull")
@click.argument("name", required=False)
def pull_command(name: str | None) -> None:
    """Fetch a local model (by default the default one) and check its hash.

    An interrupted pull goes on where it stopped.
    """
    from comity.models.pull import DEFAULT_MODEL, pull

    shown = ""
    with progress_bar("fetching", "bytes") as advance:

        def progress(done: int, total: int, what: str) -> None:
            nonlocal shown
            if what != shown:
                shown = what
                note(what)
            advance(done, total)

        try:
            path = pull(name or DEFAULT_MODEL, progress=progress)
        except KeyboardInterrupt:
            note("what came so far is kept; the same command goes on from there")
            raise
    say(f"{name or DEFAULT_MODEL}: {path}")


@models_group.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the models that can be pulled, and say which are here."""
    from comity.models.pull import DEFAULT_MODEL, MODELS, models_folder

    folder = models_folder()
    found = [
        {
            "name": model.name,
            "default": model.name == DEFAULT_MODEL,
            "bytes": model.size,
            "sha256": model.sha256,
            "path": str(folder / model.file) if (folder / model.file).is_file() else None,
        }
        for model in MODELS.values()
    ]
    if as_json:
        say_json(found)
        return
    rows = [
        (
            f"local:{one['name']}",
            f"{int(str(one['bytes'])) / 1e9:.2f} GB",
            one["path"] or "not pulled",
        )
        for one in found
    ]
    say_table(("model", "size", "file"), rows)
