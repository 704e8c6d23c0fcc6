"""The rows that models are trained on: JSON Lines in TRL's conversational forms, line by line.

SFT: `{"messages": [{"role": …, "content": …}, …]}`, whose last message is the answer to learn.
DPO: `{"prompt": [messages], "chosen": [messages], "rejected": [messages]}`. Other columns are
allowed; of these only `family` is read, to say which families are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, model_validator

from comity.errors import TrainingError
from comity.records import FAMILIES, Message, Record
from comity.wording import schema_fault


class Row(Record):
    """What every row may have; columns that are not named here are dropped."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=False)

    family: str = Field("", description="Family of the data that it belongs to.")


class Conversation(Row):
    """A row of SFT."""

    messages: tuple[Message, ...] = Field(min_length=2, description="Its last one is learnt.")

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> Self:
        _check_answer(self.messages[-1:], "messages")
        if self.messages[-2].role != "user":
            raise ValueError("what stands before the answer must be a message of the user")
        return self


class Pair(Row):
    """A row of DPO: one prompt, an answer that is wanted and one that is not."""

    prompt: tuple[Message, ...] = Field(min_length=1, description="All before the answer.")
    chosen: tuple[Message, ...] = Field(min_length=1, max_length=1, description="Wanted.")
    rejected: tuple[Message, ...] = Field(min_length=1, max_length=1, description="Not wanted.")

    @model_validator(mode="after")
    def _two_answers_to_a_question(self) -> Self:
        if self.prompt[-1].role != "user":
            raise ValueError("the last message of prompt must be the user's")
        _check_answer(self.chosen, "chosen")
        _check_answer(self.rejected, "rejected")
        if self.chosen == self.rejected:
            raise ValueError("chosen and rejected are the same text")
        return self


def _check_answer(messages: tuple[Message, ...], name: str) -> None:
    if messages[-1].role != "assistant" or not messages[-1].content.strip():
        raise ValueError(f"{name} must end with a message of the assistant that is not empty")


T = TypeVar("T", bound=Row)


class RowFile(Record):
    """A file of rows, and what a run record tells of it."""

    path: str = Field(description="Path of the file.")
    sha256: str = Field(description="SHA-256 of its bytes, in hex.")
    rows: int = Field(ge=1, description="How many rows it holds.")
    families: dict[str, int] = Field({}, description="Rows of each family; empty: none is named.")


def read_rows(path: Path, kind: type[T]) -> tuple[tuple[T, ...], RowFile]:
    """The rows of a file, and its description.

    Raises `TrainingError` for a file that cannot be read or holds no row, and for a row that
    is no JSON object or lacks what training needs, with file, line and field.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    rows = tuple(_rows(path, content, kind))
    if not rows:
        raise TrainingError(f"{path}: holds no rows; comity train data builds such files")
    counts = Counter(row.family for row in rows if row.family)
    digest = hashlib.sha256(content).hexdigest()
    return rows, RowFile(
        path=str(path), sha256=digest, rows=len(rows), families=dict(sorted(counts.items()))
    )


def _rows(path: Path, content: bytes, kind: type[T]) -> Iterator[T]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise TrainingError(f"{path}, line {number}: is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise TrainingError(f"{path}, line {number}: is no JSON object")
        try:
            yield kind.model_validate(fields)
        except ValidationError as error:
            raise TrainingError(_fault(path, number, kind, fields, error)) from error


def _fault(
    path: Path, number: int, kind: type[Row], fields: Iterable[str], error: ValidationError
) -> str:
    needed = [name for name in kind.model_fields if name != "family"]
    missing = [name for name in needed if name not in fields]
    if missing:
        other = "dpo" if "prompt" in fields and "chosen" in fields else ""
        other = "sft" if "messages" in fields else other
        hint = f"; these look like rows of comity train {other}" if other else ""
        return (
            f"{path}, line {number}: needs {', '.join(needed)}; "
            f"{', '.join(missing)} not among its columns {', '.join(fields) or '(none)'}{hint}"
        )
    return f"{path}, line {number}: {schema_fault(error).removeprefix('the whole: Value error, ')}"


def missing_families(families: Iterable[str]) -> tuple[str, ...]:
    """Which of the four families are not there; none where no row names its family."""
    named = set(families)
    return tuple(one for one in FAMILIES if one not in named) if named else ()


def as_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Messages as TRL takes them."""
    return [{"role": each.role, "content": each.content} for each in messages]
