"""A run's folder: one process writes it at a time, an item a line, written through to the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, Self, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from comity.errors import ExamError
from comity.records import Record
from comity.wording import schema_fault

_Item = TypeVar("_Item", bound=Record)
_Plan = TypeVar("_Plan", bound=Record)


class RunFolder(Generic[_Plan, _Item]):
    """A folder with a plan and its items, for reading, and for appending once it is `held`.

    Use as a context manager; while it is held no other process can append.
    """

    def __init__(self, folder: Path, plan: _Plan, items: str, item: type[_Item]) -> None:
        """`items` is the name of the file that holds one `item` on each line."""
        self.folder = folder
        self.plan = plan
        self._items, self._item = folder / items, item
        self._lock: FileLock | None = None

    def append(self, item: _Item) -> None:
        """Keep one item, written through to the disk. Raises `ExamError` where that fails."""
        line = item.model_dump_json(exclude_defaults=True) + "\n"
        try:
            with self._items.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise ExamError(f"{self._items} cannot be written: {error.strerror}") from error

    def items(self) -> Iterator[_Item]:
        """The items so far, in the order in which they came.

        A last line that a crash cut short is passed over. Raises `ExamError` for any other
        line that cannot be read.
        """
        if not self._items.exists():
            return
        lines = self._items.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last one is torn
            if not line:
                continue
            try:
                yield self._item.model_validate_json(line)
            except ValidationError as error:
                raise ExamError(f"{self._items}, line {number}: {schema_fault(error)}") from error

    def hold(self, *, resume: bool) -> None:
        """Make the folder, keep others from writing it, and settle its plan.

        Raises `ExamError` for a folder that holds another run, that another process writes, or
        that cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take_lock()  # before looking: two processes may begin at the same moment
            self._settle(resume)
            self._drop_torn_line()
        except OSError as error:
            self.close()
            raise ExamError(f"{self.folder} cannot be written: {error.strerror}") from error
        except ExamError:
            self.close()
            raise

    def close(self) -> None:
        """Let others append."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(self, resume: bool) -> None:
        """Write the plan of a new run, or compare it with the one that is there."""
        raise NotImplementedError

    def _taken(self) -> ExamError:
        return ExamError(
            f"{self.folder} holds a run already: continue it with --resume, or name another folder"
        )

    def _otherwise(self, told: str) -> ExamError:
        return ExamError(
            f"{self.folder} was begun otherwise ({told}): give what it was begun with, or name "
            "another folder"
        )

    def _take_lock(self) -> None:
        lock = FileLock(self.folder / "run.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ExamError(
                f"{self.folder} is being written by another process: wait for it, or name "
                "another folder"
            ) from error
        self._lock = lock

    def _drop_torn_line(self) -> None:
        if not self._items.exists():
            return
        data = self._items.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._items.open("rb+") as stream:
                stream.truncate(whole)


def read_plan(folder: Path, name: str, plan: type[_Plan], what: str) -> _Plan:
    """The plan of the run in a folder. Raises `ExamError` where there is none: `what` it is not."""
    file = folder / name
    try:
        return plan.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise ExamError(f"{folder} is no {what}: it has no {name}") from error
    except OSError as error:
        raise ExamError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ExamError(f"{file} cannot be used: {schema_fault(error)}") from error


def write_plan(file: Path, plan: Record) -> None:
    """Write a plan whole, or not at all. Raises `OSError`."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
    part.replace(file)
