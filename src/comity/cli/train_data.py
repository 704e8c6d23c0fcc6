"""`comity train data`: preference data for SFT and DPO."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import note, progress_bar, say_fields, say_json, say_table
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option

if TYPE_CHECKING:
    from comity.training.built import Built, Dropped, Options
    from comity.training.from_rules import Rules

_FILE = click.Path(dir_okay=False, path_type=Path)
_SOME_RULES = 20
_LONGEST = 160  # characters of a reason on stderr; the card has it all


@click.command("data")
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the files, the card and the journal.",
)
@click.option(
    "--questions", type=_FILE, metavar="FILE", help="Seed questions, instead of Comity's own."
)
@click.option("--personas", type=_FILE, metavar="FILE", help="Personas, instead of Comity's own.")
@click.option(
    "--preferences", type=_FILE, metavar="FILE", help="Statements, instead of Comity's own."
)
@click.option(
    "--rules",
    type=click.IntRange(1),
    is_flag=False,
    flag_value=_SOME_RULES,
    metavar="[N]",
    help=f"Also rows from N rules of the memory ({_SOME_RULES} where no number is given).",
)
@click.option(
    "--against",
    type=_FILE,
    multiple=True,
    metavar="FILE",
    help="Exam whose questions must not be in the data; repeatable. Comity's own always are.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    metavar="N",
    help="So many seed questions, of each family alike; 0 with --rules is rules alone.",
)
@click.option(
    "--per-question",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Pairs of opposite wishes for each question, at most.",
)
@click.option(
    "--answers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Answers under each wish; all are compared with one another.",
)
@click.option("--plain", is_flag=True, help="Also an answer without any wish.")
@click.option(
    "--max-tokens",
    type=click.IntRange(8),
    default=220,
    show_default=True,
    metavar="N",
    help="Longest answer, in tokens; one that is cut off is dropped.",
)
@click.option(
    "--eval-share",
    type=click.FloatRange(0, 0.9),
    default=0.15,
    show_default=True,
    metavar="SHARE",
    help="Share of the questions held out.",
)
@click.option(
    "--most-first",
    type=click.FloatRange(0.51, 1),
    default=0.9,
    show_default=True,
    metavar="SHARE",
    help="A judge with this share of its choices on one place is stopped.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Questions worked on at once; more than 1 for models behind an endpoint.",
)
@click.option("--resume", is_flag=True, help="Go on with the build in DIR: asks nothing twice.")
@json_option
@settings_options("model", "judge", "base_url", "timeout", "seed", "memory", "tenant", "embedder")
@pass_session
def data_command(
    session: Session,
    /,
    out: Path,
    questions: Path | None,
    personas: Path | None,
    preferences: Path | None,
    rules: int | None,
    against: tuple[Path, ...],
    resume: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Build data that teaches a model to follow preferences, and rules.

    For each question the model answers under wishes that contradict one another, and the answers
    are ranked under each: by code where it can tell, else by the judge (the model itself, unless
    --judge names another), asked in both orders. With --judge none, what code cannot tell apart
    is ranked by the wish that it was written for, which suits small models.

    DIR gets sft.train.jsonl, sft.eval.jsonl, dpo.train.jsonl and dpo.eval.jsonl in TRL's forms,
    card.md, which says what is in them and what was dropped, and build.jsonl, from which --resume
    goes on.
    """
    from comity.training.contamination import read_exams
    from comity.training.dataset import Models, build
    from comity.training.families import read_material

    material, exams = read_material(questions, personas, preferences), read_exams(against)
    for family in material.missing:
        note(f"the family {family} is missing: no seed question is of it")
    options = _options(session, how)
    model = session.open_model()
    models = Models(model, None if _no_judge(session) else session.open_judge(model) or model)
    with _rules(session, rules) as taken, progress_bar("questions", "questions") as advance:

        def tell(done: int, of: int, dropped: tuple[Dropped, ...]) -> None:
            for one in dropped:
                note(f"{one.what}, {one.stage}: {_short(one.reason)}")
            advance(done, of)

        built = asyncio.run(
            build(
                out,
                material,
                models,
                options,
                exams=exams,
                rules=taken,
                resume=resume,
                progress=tell,
            )
        )
    _note_limits(built, models.judge_name)
    say_json(_as_json(built, out)) if as_json else _say(built, out)


def _no_judge(session: Session) -> bool:
    return session.settings.judge == "none"


def _options(session: Session, how: dict[str, Any]) -> Options:
    from comity.training.built import Options
    from comity.training.candidates import Writing

    seed = session.settings.seed or 0
    writing = {name: how.pop(name) for name in ("answers", "plain", "max_tokens")}
    return Options.model_validate(
        {**how, "seed": seed, "writing": Writing.model_validate({**writing, "seed": seed})}
    )


@contextmanager
def _rules(session: Session, wanted: int | None) -> Iterator[Rules | None]:
    """The rules that rows are made from, if any are asked for; the memory is closed in the end."""
    if wanted is None:
        yield None
        return
    from comity.records import Scope
    from comity.training.from_rules import Rules

    with session.open_memory() as memory:
        tenant = session.settings.tenant
        memory.check_scope(Scope(tenant=tenant))
        yield Rules(memory, tenant, wanted)


def _note_limits(built: Built, judge: str) -> None:
    """Say on stderr what whoever trains on the data must know."""
    for family in built.missing:
        note(f"there is no row of the family {family}")
    share = built.places.share_first
    if built.places.uneven and share is not None:
        note(f"{judge} preferred what stood first in {share:.0%} of its choices: see card.md")


def _counts(built: Built) -> dict[str, int]:
    counts: dict[str, int] = {}
    for lesson in built.lessons:
        counts[lesson.family] = counts.get(lesson.family, 0) + 1
    return counts


def _as_json(built: Built, out: Path) -> dict[str, Any]:
    return {
        "folder": str(out),
        "rows": len(built.lessons),
        "families": _counts(built),
        "missing": list(built.missing),
        "files": [file.model_dump() for file in built.files],
        "compared": len(built.compared),
        "judge": built.places.model_dump() | {"share_first": built.places.share_first},
        "flipped": built.flipped,
        "flippable": built.flippable,
        "dropped": [one.model_dump() for one in built.dropped],
        "asked": built.asked,
        "kept": built.kept,
    }


def _say(built: Built, out: Path) -> None:
    say_table(("family", "rows"), list(_counts(built).items()))
    places = built.places
    agreed = places.comparisons - places.turned
    say_fields(
        (
            ("files", ", ".join(f"{file.name} ({file.rows})" for file in built.files)),
            ("flips", f"{built.flipped} of {built.flippable} questions under two wishes"),
            ("judge", f"agreed with itself in {agreed} of {places.comparisons} comparisons"),
            ("dropped", f"{len(built.dropped)}, each with its reason in the card"),
            ("card", str(out / "card.md")),
        )
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
