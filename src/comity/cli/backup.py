"""`comity backup` and `comity restore`: the memory and its decisions, kept elsewhere and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import counted, day, note, say, say_fields, say_json, waiting
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option

if TYPE_CHECKING:
    from comity.memory.backup import Manifest

_FILE = click.Path(path_type=Path, dir_okay=False)
_BROKEN = click.option(
    "--although-broken",
    is_flag=True,
    help="Go on where a chain of decisions does not hold.",
)


class _TargetFile(click.Path):
    """A file to be made, or a folder for it: what ends with a slash is one, and must be there."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path; `Path` itself forgets the slash."""
        if str(value).endswith(("/", os.sep)) and not Path(value).is_dir():
            self.fail(f"there is no folder {value}: make it first", param, ctx)
        return Path(value)


@click.command("backup")
@click.argument("target", type=_TargetFile())
@click.option(
    "--vectors",
    type=_FILE,
    metavar="FILE",
    help="Copy the vectors of rules too, to a file of their own: embedding takes hours.",
)
@_BROKEN
@json_option
@settings_options("memory")
@pass_session
def backup_command(
    session: Session, target: Path, vectors: Path | None, although_broken: bool, as_json: bool
) -> None:
    """Copy the memory to the new file TARGET while it is in use.

    It has all tenants as they are at one moment: rules in all versions, decisions with their
    texts, preferences, keys of the gateway; not the index, models or settings. Given a folder,
    the file is named by the time. It is there only once it was read again and its chains of
    decisions were followed. Whoever can read it reads everything: keep it as safe as the memory.
    """
    from comity.alignment.backups import back_up
    from comity.memory.backup_vectors import copy_vectors

    with waiting("copying"):
        if vectors:  # first: where it fails there is no backup either
            copy_vectors(session.settings.memory, vectors)
        made = back_up(session.settings.memory, target, although_broken=although_broken)
    _note_what_waits(session.settings.memory)
    if as_json:
        say_json({"file": str(made.file), "sha256": made.sha256} | _told(made.manifest))
        return
    say(str(made.file))
    say_fields([("SHA-256", made.sha256), *_fields(made.manifest)])


def _note_what_waits(url: str) -> None:
    """Decisions that wait for the record are not in a backup."""
    from comity.alignment.spool import Spool, spool_beside
    from comity.memory.memory import path_of

    path = path_of(url)
    if path and (waits := Spool(spool_beside(path), 0).count()):
        note(
            f"waiting in {spool_beside(path)} for the record, and not in the backup: "
            f"{counted(waits, 'decision')}, which the gateway brings in"
        )


@click.command("restore")
@click.argument("backup", type=_FILE)
@click.option("--to", "url", metavar="URL", help="The new memory; --memory if left out.")
@click.option("--check", "only_check", is_flag=True, help="Verify the backup, restore nothing.")
@click.option(
    "--as-original",
    is_flag=True,
    help="Keep the memory's identity: it takes the place of the original, which is gone.",
)
@click.option(
    "--erasures",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="Make these erasures again, as `comity decisions erasures --json` printed them.",
)
@click.option(
    "--vectors",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Vectors of rules, as `comity backup --vectors` copied them.",
)
@_BROKEN
@json_option
@settings_options("memory")
@pass_session
def restore_command(
    session: Session,
    backup: Path,
    url: str | None,
    only_check: bool,
    as_original: bool,
    erasures: tuple[Path, ...],
    vectors: Path | None,
    although_broken: bool,
    as_json: bool,
) -> None:
    """Make a new memory from a backup.

    The backup is verified first, and nothing is ever overwritten. The memory is there only once
    every row is in it as it was. The index is made anew by the next search. Texts that were
    erased after the backup was made are there again: see --erasures.
    """
    from comity.alignment.backups import read_erasures, restore
    from comity.memory.backup_vectors import check_vectors, put_vectors

    if only_check:
        _check(backup, although_broken, as_json)
        return
    again = [entry for file in erasures for entry in read_erasures(file)]
    where = url or session.settings.memory
    if vectors:
        check_vectors(vectors)
    with waiting("restoring"):
        made = restore(
            backup,
            where,
            as_original=as_original,
            although_broken=although_broken,
            erasures=again,
        )
    if vectors and put_vectors(vectors, where) is None:
        note("this memory has vectors already: they stay")
    if as_json:
        new = {"restored": where, "identity": made.identity, "erased_again": list(made.erased)}
        say_json(new | _told(made.manifest))
        return
    say(f"restored to {where}, with the identity {made.identity}")
    say_fields(_fields(made.manifest))
    _note_erasures(made.erased if erasures else None)


def _check(backup: Path, although_broken: bool, as_json: bool) -> None:
    from comity.alignment.backups import check

    with waiting("verifying"):
        manifest = check(backup, although_broken=although_broken).manifest
    if as_json:
        say_json(_told(manifest))
        return
    say("the backup is sound")
    say_fields(_fields(manifest))


def _note_erasures(again: tuple[str, ...] | None) -> None:
    if again is None:
        note("texts erased since the backup was made are there again: docs/backup.md says more")
    else:
        note(f"erased again: the texts of {counted(len(again), 'decision')}")


def _told(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(mode="json")


def _fields(manifest: Manifest) -> list[tuple[str, str]]:
    rows = {name: str(held.rows) for name, held in manifest.tables.items()}
    heads = "\n".join(
        f"{head.tenant}: {head.entries} entries, {head.broken or f'last hash {head.last_hash}'}"
        for head in manifest.chains
    )
    return [
        ("made", day(manifest.made_at)),
        ("memory", manifest.memory),
        ("revision", str(manifest.revision)),
        ("rule versions", rows.get("rule", "0")),
        ("decisions", rows.get("decision", "0")),
        ("chains", heads),
    ]
