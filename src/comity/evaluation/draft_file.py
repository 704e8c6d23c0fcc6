"""The file in which drafts are kept while an exam is being written, so that it can be continued.

The first line holds the `Settings`, each further line one `Draft`, written through to the disk
as it comes, or `Written`: what the exam was given in the end. A draft that a model could not be
asked for has no line and is tried again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter, ValidationError

from comity.errors import ExamError
from comity.evaluation.exams import Question, Rejected
from comity.evaluation.gather import Wanted
from comity.records import Record


class Settings(Record):
    """What decides the drafts: they are continued only under the same, the count apart."""

    wanted: Wanted = Field(description="Which questions are wanted.")
    model: str = Field(description="Name of the model that writes.")
    judge: str = Field(description="Name of the model that judges.")
    prompts: tuple[str, ...] = Field(description="Versions of the writer's and judge's prompts.")
    seeds: str = Field(description="Hash of the example questions.")
    rules: str = Field(description="Hash of the rules in force.")
    embedder: str = Field(description="Id of the embedder, which finds a rule's neighbours.")

    def differences(self, other: Settings) -> list[str]:
        """What differs, in words: `seed was 1`. The count is free."""
        if not other.model:
            return [f"model was {self.model!r}"]
        old = {**self.wanted.model_dump(), **self.model_dump(exclude={"wanted"})}
        new = {**other.wanted.model_dump(), **other.model_dump(exclude={"wanted"})}
        return [
            _TOLD.get(key, f"{key} was {old[key]!r}")
            for key in old
            if key != "count" and old[key] != new[key]
        ]


_TOLD = {
    "rules": "the rules in force were others",
    "prompts": "the prompts had other words",
    "seeds": "the examples were others",
}
"""What is said of hashes, which tell nobody anything."""


class Draft(Record):
    """What became of one draft: a question, or a rejected one."""

    number: int = Field(ge=1, description="Its number, from 1.")
    question: Question | None = Field(None, description="The question, if it passed.")
    rejected: Rejected | None = Field(None, description="Why it did not.")


class Written(Record):
    """What an exam was given: a question that is in it no longer has been removed by somebody."""

    written: tuple[str, ...] = Field(description="Ids of its questions.")


_LINE: TypeAdapter[Draft | Written] = TypeAdapter(Draft | Written)


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

    def outcomes(self) -> dict[int, Question | Rejected]:
        """What became of the drafts so far, by number."""
        found: dict[int, Question | Rejected] = {}
        for line, entry in self._entries():
            if isinstance(entry, Draft):
                outcome = entry.question or entry.rejected
                if outcome is None or entry.number in found:
                    raise self._unreadable(line)
                found[entry.number] = outcome
        return found

    def written(self) -> tuple[str, ...]:
        """Ids of the questions that the exam was given last; none where it was never written."""
        given = [entry.written for _, entry in self._entries() if isinstance(entry, Written)]
        return given[-1] if given else ()

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

    def write_down(self, ids: Sequence[str]) -> None:
        """Keep which questions the exam was given."""
        self._write(Written(written=tuple(ids)))

    def _begin(self) -> None:
        self._drop_torn_line()
        if not self.outcomes():  # settings that no draft has followed bind nobody
            given = self.written()
            self.path.unlink(missing_ok=True)
            self._write(self._settings)
            if given:
                self.write_down(given)
            return
        try:
            old = Settings.model_validate_json(self._lines()[0])
        except ValidationError as error:
            raise ExamError(
                f"{self.path} was not begun by this version of Comity and cannot be continued; the "
                "exam beside it can be used as it is: name another one"
            ) from error
        if differing := old.differences(self._settings):
            raise ExamError(
                f"{self.path} was begun with other settings ({'; '.join(differing)}): give the "
                "same ones, or name another exam"
            )

    def _entries(self) -> Iterator[tuple[int, Draft | Written]]:
        for number, line in enumerate(self._lines()[1:], start=2):
            try:
                yield number, _LINE.validate_json(line)
            except ValidationError as error:
                raise self._unreadable(number) from error

    def _write(self, record: Record) -> None:
        try:
            with self.path.open("ab") as stream:
                stream.write((record.model_dump_json(exclude_defaults=True) + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise ExamError(f"{self.path} cannot be written: {error.strerror}") from error

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
