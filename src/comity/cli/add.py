"""`comity add` and `comity init`: documents in, one revision out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import counted, note, progress_bar, say_json, waiting
from comity.cli.plan import announce, announce_plan, changes_of_held, plan_as_json
from comity.cli.ray import ray_option
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import MOMENT, json_option
from comity.errors import ComityError, RuleError

if TYPE_CHECKING:
    from comity.documents.extract import Extraction
    from comity.documents.fields import RuleDefaults
    from comity.memory.imports import ImportPlan
    from comity.memory.memory import Memory


class Refused(ComityError):
    """Nothing was done, because nobody said that it should be."""


class Stopped(ComityError):
    """Stopped by Ctrl-C; the message says what is kept."""

    exit_code = 130


@click.command("add")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--place", metavar="PLACE", help="Code or name of the place where the rules hold.")
@click.option("--audience", metavar="LABEL", multiple=True, help="Whom they bind; repeatable.")
@click.option("--domain", metavar="WORD", help="Their subject.")
@click.option("--authority", metavar="RANK", help="Their rank, such as statute or policy.")
@click.option("--from", "valid_from", type=MOMENT, help="First moment at which they are in force.")
@click.option("--to", "valid_to", type=MOMENT, help="First moment at which they no longer are.")
@click.option("--draft", is_flag=True, help="Let the model draft single rules from prose.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask before rules are changed or repealed.")
@click.option("--stream", is_flag=True, help="Add in batches, each a revision: for large files.")
@click.option(
    "--workers", type=click.IntRange(1), metavar="N", help="Processes that embed (--stream)."
)
@click.option(
    "--batch", type=click.IntRange(1), metavar="N", help="Rules of one revision (--stream: 8000)."
)
@ray_option("Embed on a Ray cluster; with --stream, which it stands for too (docs/ray.md).")
@click.option("--keep-going", is_flag=True, help="Leave out rows that cannot be taken (--stream).")
@click.option("--note", "reason", default="", metavar="TEXT", help="Why, for the record.")
@json_option
@settings_options("memory", "tenant", "author", "embedder", "max_file_mb", "model", "base_url")
@settings_options("timeout")
@pass_session
def add_command(
    session: Session,
    /,
    paths: tuple[Path, ...],
    draft: bool,
    dry_run: bool,
    yes: bool,
    stream: bool,
    workers: int | None,
    batch: int | None,
    ray: str | None,
    keep_going: bool,
    reason: str,
    as_json: bool,
    **defaults: Any,
) -> None:
    """Add the rules of files and folders: PDF, DOCX, HTML, Markdown, text, CSV, JSON Lines.

    What is new is added. What a file changes, or no longer has, is shown and asked for first.
    The whole import is one revision or none; the same file again changes nothing.

    With --stream rules are read one by one and added in batches, each of them a revision: for JSON
    Lines and CSV files of any size, and for folders of many documents. The same command again goes
    on where it was stopped. Nothing is repealed for being gone from a file.
    """
    given = _defaults(defaults)
    if stream or ray is not None:
        from comity.cli.add_stream import Streaming

        if draft:
            raise click.UsageError("--draft reads whole documents: leave out --stream")
        streaming = Streaming(
            session,
            yes=yes,
            keep_going=keep_going,
            workers=workers,
            batch=batch,
            ray=ray,
            as_json=as_json,
        )
        streaming.run(paths, given, reason, dry_run=dry_run)
        return
    if keep_going or workers or batch:
        raise click.UsageError("--keep-going, --workers and --batch are for --stream")
    first = not session.has_memory()
    with session.open_memory(trial=True) as memory, _interruptible() as committed:
        if draft:
            from comity.cli.draft import drafted

            extraction = drafted(session, memory, paths, given)
        else:
            extraction = read_documents(session, memory, paths, given)
        plan = plan_of(session, memory, extraction, draft=draft)
        if not as_json:
            announce(extraction)
            announce_plan(plan)
        revision = memory.revision
        if not dry_run and not plan.empty:
            _ask(plan, yes)
            reason = reason or _names(extraction)
            with session.open_memory(create=True) if first else nullcontext(memory) as kept:
                revision = commit(session, kept, plan, reason, committed)
            note(f"revision {revision}: done")
        if as_json:
            say_json(plan_as_json(plan, extraction, revision, committed=not dry_run))


@click.command("init")
@json_option
@settings_options("memory", "tenant", "author", "embedder")
@pass_session
def init_command(session: Session, as_json: bool) -> None:
    """Make a memory with the sample rules: the imagined country of Arlenia.

    A memory that has rules already is left as it is.
    """
    from comity.documents.fields import RuleDefaults
    from comity.samples import sample_folder

    with session.open_memory(create=True) as memory, _interruptible() as committed:
        tenant = session.settings.tenant
        held = len(memory.rules(tenant=tenant))
        if held:
            raise Refused(
                f"{session.memory_shown} has {held} rules already, and was not touched: choose "
                "another --memory for the sample rules"
            )
        extraction = read_documents(session, memory, [sample_folder()], RuleDefaults())
        plan = plan_of(session, memory, extraction)
        revision = commit(session, memory, plan, "sample rules", committed)
        if as_json:
            say_json(plan_as_json(plan, extraction, revision, committed=True))
        else:
            announce(extraction)
            note(f"{session.memory_shown} holds the sample rules, as revision {revision}")
            note('try: comity ask "Until what hour may a bar play music in Tidewick?"')


def _defaults(given: dict[str, Any]) -> RuleDefaults:
    from pydantic import ValidationError

    from comity.documents.fields import RuleDefaults, explain

    start, end = given["valid_from"], given["valid_to"]
    if start and end and end <= start:
        raise click.BadParameter(f"{end:%Y-%m-%d} is not after {start:%Y-%m-%d}", param_hint="--to")
    try:
        return RuleDefaults(**{name: value or None for name, value in given.items()})
    except ValidationError as error:
        raise click.UsageError(explain(error)) from error


def read_documents(
    session: Session, memory: Memory, paths: Sequence[Path], defaults: RuleDefaults
) -> Extraction:
    """The rules of the documents. Raises `DocumentError` and `RuleError`."""
    from comity.documents.extract import extract

    tenant = session.settings.tenant
    known = {stored.rule.id: stored.rule.text for stored in memory.rules(tenant=tenant)}
    check_authority(memory, defaults)
    if defaults.place:
        defaults = defaults.model_copy(update={"place": _place(memory, tenant, defaults.place)})
    with waiting("reading the documents"):
        return extract(
            paths,
            defaults,
            memory.gazetteer(tenant).canonical,
            text_of=lambda rule_id: known.get(rule_id, ""),
            max_bytes=int(session.settings.max_file_mb * 1e6),
        )


def check_authority(memory: Memory, defaults: RuleDefaults) -> None:
    """Raises `BadParameter` for a rank that the memory does not know."""
    if defaults.authority and defaults.authority not in memory.authorities:
        raise click.BadParameter(
            f"{defaults.authority!r} is none of {', '.join(memory.authorities)}",
            param_hint="--authority",
        )


def _place(memory: Memory, tenant: str, name: str) -> str:
    return memory.gazetteer(tenant).canonical(name)


def plan_of(
    session: Session, memory: Memory, extraction: Extraction, *, draft: bool = False
) -> ImportPlan:
    """What the import would do. Raises `RuleError` for a rule that cannot be taken."""
    from comity.memory.imports import plan_import
    from comity.memory.store import PlaceNames

    tenant = session.settings.tenant
    foreign = [r for r in extraction.rules if "tenant" in r.model_fields_set and r.tenant != tenant]
    if foreign:
        raise RuleError(
            f"rule {foreign[0].id!r} is of tenant {foreign[0].tenant!r}, but the import is for "
            f"{tenant!r}: import it with --tenant {foreign[0].tenant}"
        )
    places = [PlaceNames(code=place.code, names=place.names) for place in extraction.places]
    plan = plan_import(memory, extraction.rules, tenant=tenant, places=places)
    if draft:
        # Drafts only add: they neither replace what was approved nor the document's own articles.
        return plan.model_copy(update={"changed": (), "gone": ()})
    return plan


def commit(
    session: Session, memory: Memory, plan: ImportPlan, reason: str, committed: list[int]
) -> int:
    """Do what the plan says, with a bar, and give the revision.

    It is put on `committed` as soon as it is durable, before the index follows.
    """
    from comity.memory.imports import commit_import

    with progress_bar("embedding") as progress:
        return commit_import(
            memory,
            plan,
            author=session.settings.author,
            note=reason,
            progress=progress,
            committed=committed.append,
        )


def _names(extraction: Extraction) -> str:
    names = [document.path.name for document in extraction.documents]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _ask(plan: ImportPlan, yes: bool) -> None:
    changes = changes_of_held(plan)
    if yes or not (changes or plan.gone):
        return
    what = f"{counted(len(changes), 'rule')} would be changed and {len(plan.gone)} repealed"
    if not sys.stdin.isatty():
        raise Refused(f"{what}, and there is no terminal to ask at: add --yes to do it")
    if not click.confirm(f"{what}. Do it?", err=True):
        raise Refused("nothing was changed")


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Turn Ctrl-C into a sentence on what is kept; yields the list of the revisions made."""
    committed: list[int] = []
    try:
        yield committed
    except (KeyboardInterrupt, click.Abort) as stop:
        if committed:
            raise Stopped(
                f"stopped after revision {committed[-1]} was committed: the change is complete, "
                "and the next search brings the index up to date"
            ) from stop
        raise Stopped(
            "stopped: nothing was changed; the vectors made so far are kept, so that the same "
            "command goes on from there"
        ) from stop
