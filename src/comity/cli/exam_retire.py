"""`comity exam retire`: exams kept in step with their rules."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import note, say
from comity.cli.session import Session, pass_session, settings_options

if TYPE_CHECKING:
    from comity.evaluation.exams import Question
    from comity.memory.memory import Memory


@click.command("retire")
@click.argument(
    "exams",
    metavar="EXAM.jsonl…",
    nargs=-1,
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
)
@click.option("--check", is_flag=True, help="Write nothing; exit code 1 if something would change.")
@settings_options("memory", "tenant", "embedder")
@pass_session
@click.pass_context
def retire_command(
    context: click.Context, session: Session, exams: tuple[Path, ...], check: bool
) -> None:
    """Mark the questions of exams that changes of the rules have overtaken.

    Retired: the text of a rule changed, or a rule was repealed or has ended. Flagged, to be
    looked at: only its dates, place, audience or rank changed, or it gives way to another rule
    now. What somebody else has flagged or retired stays so, and nothing else in the file is
    touched. Without --tenant, the rules meant are those of the tenant in each question's scope.
    """
    changed = False
    tenant = session.settings.tenant if session.loaded.sources["tenant"] != "default" else None
    with session.open_memory() as memory:
        files = [(path, _reviewed(path, memory, tenant)) for path in exams]
    for path, reviewed in files:
        changes = [(old, new) for _, old, new in reviewed if old != new]
        _say_changes(path, [new for _, _, new in reviewed], changes)
        if changes and not check:
            _rewrite(path, reviewed)
        changed = changed or bool(changes)
    context.exit(1 if check and changed else 0)


_Reviewed = tuple[bytes, "Question | None", "Question | None"]
"""A line of the file, its question, and the same as the rules now stand."""


def _reviewed(path: Path, memory: Memory, tenant: str | None) -> list[_Reviewed]:
    """Every line of an exam. Raises `ExamError`."""
    from comity.errors import ExamError
    from comity.evaluation.exams import Question, read_exam
    from comity.evaluation.retire import review

    if path.suffix.lower() == ".csv":
        raise ExamError(f"{path}: OPO's CSV names no rules, so nothing in it can be retired")
    read_exam(path)  # says what is wrong with the file, line by line
    lines = path.read_bytes().splitlines(keepends=True)
    asked = [
        Question.model_validate_json(line.removeprefix(BOM_UTF8)) if line.strip() else None
        for line in lines
    ]
    try:
        now = iter(review([question for question in asked if question], memory, tenant=tenant))
    except ExamError as error:
        raise ExamError(f"{path}: {error}") from error
    return [
        (line, question, next(now) if question else None)
        for line, question in zip(lines, asked, strict=True)
    ]


def _say_changes(
    path: Path, every: Iterable[Question | None], changes: Sequence[tuple[Any, Any]]
) -> None:
    for _, new in changes:
        told = "active again" if new.status == "active" else new.status
        say(f"{told}: {new.id}" + (f" ({new.reason})" if new.reason else ""))
    standing = Counter(question.status for question in every if question)
    counted = ", ".join(f"{standing[name]} {name}" for name in ("active", "flagged", "retired"))
    note(f"{path}: {len(changes)} changed; {counted}")


def _rewrite(path: Path, reviewed: Iterable[_Reviewed]) -> None:
    """Write status and reason where they changed, at once or not at all. Raises `ExamError`."""
    from comity.errors import ExamError

    lines = [
        line if new is None or old == new else _with_standing(line, new)
        for line, old, new in reviewed
    ]
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(b"".join(lines))
        part.replace(path)
    except OSError as error:
        raise ExamError(f"{path} cannot be written: {error.strerror}") from error


def _with_standing(line: bytes, question: Question) -> bytes:
    text = line.removeprefix(BOM_UTF8)
    fields = json.loads(text)
    for name, value in (("status", question.status), ("reason", question.reason)):
        fields.pop(name, None)
        if value not in ("active", ""):
            fields[name] = value
    end = text[len(text.rstrip(b"\r\n")) :]
    begin = line[: len(line) - len(text)]
    return begin + json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + end
