"""What a model is taught: a prompt, the answer that is wanted and one that is not; and its files.

The files are in the forms that TRL documents: `{"messages": […]}` for SFT, and for DPO
`{"prompt": […], "chosen": […], "rejected": […]}` with an explicit prompt. All rows of a question
are in the same part, so that what is held out was never seen.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from comity.errors import TrainingError
from comity.records import VERBATIM, Message, Record

Part = Literal["train", "eval"]


class Lesson(Record):
    """One row of the data."""

    model_config = VERBATIM

    family: str = Field(description="One of the four, or `rules`.")
    question: str = Field(description="Id of the question; its rows stay together.")
    wish: str = Field(description="The wish or rule that the wanted answer follows.")
    by: Literal["code", "judge", "writing"] = Field(
        description="Who told the two answers apart: see `Ranking.by`."
    )
    prompt: tuple[Message, ...] = Field(min_length=1, description="All before the answer.")
    chosen: str = Field(min_length=1, description="The answer that follows the wish.")
    rejected: str = Field(min_length=1, description="The other.")


class FileWritten(Record):
    """A file of the data."""

    name: str = Field(description="Its name in the folder.")
    rows: int = Field(ge=1, description="Its rows.")
    sha256: str = Field(description="SHA-256 of its bytes, in hex.")


def without_doubles(lessons: Iterable[Lesson]) -> tuple[Lesson, ...]:
    """The lessons without those whose prompt and wanted answer stood before."""
    first: dict[str, Lesson] = {}
    for lesson in lessons:
        said = lesson.model_dump_json(include={"prompt", "chosen"})
        first.setdefault(said, lesson)
    return tuple(first.values())


def held_out(lessons: Sequence[Lesson], share: float, seed: int) -> frozenset[str]:
    """Ids of the questions that are held out: `share` of them, of each family in turn.

    Unless the share is 0 or there is one question only, at least one is held out and one is not.
    """
    families = {lesson.question: lesson.family for lesson in lessons}
    count = min(max(round(len(families) * share), 1), len(families) - 1)
    if not share or count < 1:
        return frozenset()
    drawn = [
        sorted(question for question, family in families.items() if family == each)
        for each in sorted(set(families.values()))
    ]
    for ids in drawn:
        random.Random(f"held out {seed}").shuffle(ids)
    turns = [one for turn in zip_longest(*drawn) for one in turn if one is not None]
    return frozenset(turns[:count])


def write_files(
    folder: Path, lessons: Sequence[Lesson], share: float, seed: int
) -> tuple[FileWritten, ...]:
    """Write the files of SFT and DPO; a part that has no row is no file.

    Raises `TrainingError` where the folder cannot be written.
    """
    outside = held_out(lessons, share, seed)
    written = []
    for part in ("train", "eval"):
        rows = [lesson for lesson in lessons if (lesson.question in outside) == (part == "eval")]
        written.append(_write(folder / f"sft.{part}.jsonl", [_sft(each) for each in rows]))
        written.append(_write(folder / f"dpo.{part}.jsonl", [_dpo(each) for each in rows]))
    return tuple(file for file in written if file)


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> FileWritten | None:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    try:
        if not rows:
            path.unlink(missing_ok=True)  # of an earlier build in this folder
            return None
        path.write_bytes(content)
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror}") from error
    return FileWritten(name=path.name, rows=len(rows), sha256=hashlib.sha256(content).hexdigest())


def _sft(lesson: Lesson) -> dict[str, Any]:
    return {"messages": [*_turns(lesson.prompt), _answer(lesson.chosen)], **_columns(lesson)}


def _dpo(lesson: Lesson) -> dict[str, Any]:
    return {
        "prompt": _turns(lesson.prompt),
        "chosen": [_answer(lesson.chosen)],
        "rejected": [_answer(lesson.rejected)],
        **_columns(lesson),
    }


def _turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": each.role, "content": each.content} for each in messages]


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _columns(lesson: Lesson) -> dict[str, str]:
    return {
        "family": lesson.family,
        "question": lesson.question,
        "wish": lesson.wish,
        "by": lesson.by,
    }
