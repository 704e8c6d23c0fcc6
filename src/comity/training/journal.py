"""The journal of a build: what every call to a model gave, so that nothing is asked twice.

Each line of `build.jsonl` is one result under the hash of all that was asked: model, prompt and
settings. A build that was cut off goes on from there, and one with other options asks only what
is new. What failed has no line, and is asked again.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError

from comity.alignment.prefer import Preferred, WishCheck, prefer_version, preferred
from comity.errors import TrainingError
from comity.models.chat import ChatModel, complete
from comity.records import Record, Reply, Request
from comity.wording import prompt_language


class Entry(Record):
    """The result of one call."""

    key: str = Field(description="SHA-256 of what was asked, and of whom.")
    reply: Reply | None = Field(None, description="What a model wrote.")
    preferred: Preferred | None = Field(None, description="What a judge said of two answers.")


class Journal:
    """The journal at `path`, for one process at a time; use as a context manager.

    Without `resume`, there must be none yet. Raises `TrainingError` for one that is there, that
    another process writes, or that cannot be read or written. `asked` counts new calls, `kept`
    those answered from the journal.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.asked = self.kept = 0
        self._resume = resume
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise TrainingError(f"{self.path} is being written by another process") from error
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written: {error.strerror}") from error
        try:
            self._read()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    async def answer(self, model: ChatModel, request: Request) -> Reply:
        """What a model answers, from the journal where it was asked before.

        Raises what the model raises; that leaves no line.
        """
        key = _hash("answer", model.name, request.model_dump_json())
        known = self._entries.get(key)
        if known and known.reply:
            self.kept += 1
            return known.reply
        reply = await complete(model, request)
        self._append(Entry(key=key, reply=reply))
        return reply

    async def compare(
        self,
        judge: ChatModel | None,
        question: str,
        wish: str,
        one: str,
        other: str,
        check: WishCheck | None = None,
    ) -> Preferred:
        """Which of two answers suits a wish better (see `prefer.preferred`).

        What code decides has no line; a failure of the judge neither. Raises `ModelMissing`, and
        `ValueError` where there is neither check nor judge.
        """
        if check is not None or judge is None:
            return await preferred(None, question, wish, one, other, check=check)
        version = prefer_version(prompt_language(question + wish))
        key = _hash("compare", judge.name, version, question, wish, one, other)
        known = self._entries.get(key)
        if known and known.preferred:
            self.kept += 1
            return known.preferred
        said = await preferred(judge, question, wish, one, other)
        if said.winner != "failed":
            self._append(Entry(key=key, preferred=said))
        return said

    def _append(self, entry: Entry) -> None:
        self.asked += 1
        self._entries[entry.key] = entry
        try:
            with self.path.open("ab") as stream:
                stream.write((entry.model_dump_json(exclude_defaults=True) + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written: {error.strerror}") from error

    def _read(self) -> None:
        if not self.path.exists():
            return
        if not self._resume:
            raise TrainingError(
                f"{self.path} is there: go on with --resume, or name another folder"
            )
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]  # a crash may have cut the last line short
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError as error:
                raise TrainingError(
                    f"{self.path}, line {number} is no entry of a build: delete it to go on"
                ) from error
            self._entries[entry.key] = entry
        if len(whole) < len(data):
            with self.path.open("rb+") as stream:
                stream.truncate(len(whole))


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
