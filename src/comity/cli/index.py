"""`comity index`: the index, which can always be made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from comity.cli.output import note, progress_bar, say_fields, say_json
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option


@click.group("index")
def index_group() -> None:
    """Rebuild or describe the index of a memory."""


@index_group.command("rebuild")
@settings_options("memory", "embedder", "index")
@pass_session
def rebuild_command(session: Session) -> None:
    """Make the index anew from the book of record, also for another embedder."""
    from comity.memory.memory import rebuild_index

    settings = session.settings
    with session.open_book() as book:
        token = settings.index_token.get_secret_value()
        rebuild_index(settings.memory, book.store, index=settings.index, token=token)
    with session.open_memory() as memory:
        with progress_bar("embedding") as progress:
            revision = memory.index.catch_up(progress)
        memory.index.save()
        note(f"the index is made anew, up to revision {revision}, with {memory.embedder.id}")


@index_group.command("info")
@json_option
@settings_options("memory", "index")
@pass_session
def info_command(session: Session, as_json: bool) -> None:
    """Say what the index was built from."""
    from comity.memory.open_index import LOCAL, described_in_milvus
    from comity.memory.open_store import index_folder

    settings = session.settings
    with session.open_book() as memory:
        revision = memory.revision
        if settings.index == LOCAL:
            folder = index_folder(settings.memory, memory.store)
            built = _snapshot(folder) if folder else {}
        else:
            token = settings.index_token.get_secret_value()
            built = described_in_milvus(memory.store, settings.index, token)
    info = {"memory_revision": revision} | built
    if as_json:
        say_json(info)
        return
    say_fields([(name.replace("_", " "), str(value)) for name, value in info.items()])
    if "index_revision" not in info:
        note("there is none yet: the next search, or `comity index rebuild`, makes one")


def _snapshot(folder: Path) -> dict[str, Any]:
    """What the snapshot says of itself; empty where there is none that can be read."""
    try:
        name = (folder / "CURRENT").read_text(encoding="utf-8").split()[0]
        manifest = json.loads((folder / name / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, IndexError):
        return {}
    snapshot = folder / name
    size = sum(file.stat().st_size for file in snapshot.rglob("*") if file.is_file())
    return {
        "index_revision": manifest["revision"],
        "embedder": manifest["embedder"],
        "bytes": size,
        "folder": str(snapshot),
    }
