"""The file in which drafts are kept while an exam is being written, so that it can be continued.

The first line holds the `Settings`, each further line one `Draft`, written through to the disk
as it comes.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from comity.errors import ExamError
from comity.evaluation.exams import Question, Rejected
from comity.evaluation.gather import Wanted
from comity.records import Record


class Settings(Record):
    """What decides the drafts: they are continued only under the same, the count apart."""

    wanted: Wanted = Field(description="Which questions are wanted.")
    model: str = Field(description="Name of the model that writes.")
    judge: str = Field(description="Name of the model that judges.")
    prompts: tuple[str, ...] = Field(description="Versions of the prompts.")

    def differences(self, other: Settings) -> list[str]:
        """What differs, in words: `seed was 1`. The count is free."""
        old = {**self.wanted.model_dump(), **self.model_dump(exclude={"wanted"})}
        new = {**other.wanted.model_dump(), **other.model_dump(exclude={"wanted"})}
        return [f"{key} was {old[key]!r}" for key in old if key != "count" and old[key] != new[key]]


class Draft(Record):
    """What became of one draft: a question, or a rejected one."""

    number: int = Field(ge=1, description="Its number, from 1.")
    question: Question | None = Field(None, description="The question, if it passed.")
    rejected: Rejected | None = Field(None, description="Why it did not.")


class DraftFile:
    """The drafts at `path`, begun anew or continued, for one process at a time.

    Use as a context manager. Raises `ExamError` for a file that was begun with other settings,
    that another process writes, or that cannot be read.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self._settings = settings
        self._lock = FileLock(path.with_name(path.name + ".lock"))

    def __enter__(self) -> DraftFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ExamError(f"{self.path} is being written by another process") from error
        try:
            self._begin()
        except ExamError:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def outcomes(self) -> list[Question | Rejected]:
        """What became of each draft so far, in order."""
        found: list[Question | Rejected] = []
        for number, line in enumerate(self._lines()[1:], start=2):
            try:
                draft = Draft.model_validate_json(line)
            except ValidationError as error:
                raise self._unreadable(number) from error
            outcome = draft.question or draft.rejected
            if outcome is None or draft.number != number - 1:
                raise self._unreadable(number)
            found.append(outcome)
        return found

    def append(self, number: int, outcome: Question | Rejected) -> None:
        """Keep what became of a draft, written through to the disk."""
        passed = isinstance(outcome, Question)
        self._write(
            Draft(
                number=number,
                question=outcome if passed else None,
                rejected=None if passed else outcome,
            )
        )

    def _begin(self) -> None:
        self._drop_torn_line()
        lines = self._lines()
        if len(lines) <= 1:  # settings that no draft has followed bind nobody
            self.path.unlink(missing_ok=True)
            self._write(self._settings)
            return
        try:
            old = Settings.model_validate_json(lines[0])
        except ValidationError as error:
            raise self._unreadable(1) from error
        if differing := old.differences(self._settings):
            raise ExamError(
                f"{self.path} was begun with other settings ({'; '.join(differing)}): give the "
                "same ones, or name another exam"
            )

    def _write(self, record: Record) -> None:
        with self.path.open("ab") as stream:
            stream.write((record.model_dump_json(exclude_defaults=True) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())

    def _lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self.path.exists() else []

    def _drop_torn_line(self) -> None:
        """A crash may have cut the last line short: that draft is written again."""
        data = self.path.read_bytes() if self.path.exists() else b""
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self.path.open("rb+") as stream:
                stream.truncate(whole)

    def _unreadable(self, line: int) -> ExamError:
        return ExamError(
            f"{self.path}, line {line} is no draft: delete this line and those after it to "
            "continue from there"
        )
