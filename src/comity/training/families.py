"""The four families of MetaAlign's data, and what rows are made from: questions, personas, wishes.

MetaAlign (arXiv 2410.14184) trains on four families: *priority* (provider and user disagree, and
a matrix says who wins), *helpful* (kinds and degrees of help), *consensus* (values that all
share, and weigh differently) and *diverse* (questions on which people differ, so that who asks
decides). Its matrix and statements are not public: those that ship with Comity are our own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from comity.alignment.prefer import WishCheck
from comity.errors import TrainingError
from comity.records import FAMILIES, Family, Preference, PreferenceKind, Record, Stance
from comity.wording import prompt_language, schema_fault


class Seed(Record):
    """A question that rows are made for."""

    id: str = Field(min_length=1, description="Its name; no other seed question has it.")
    question: str = Field(min_length=1, description="The question, as a user would put it.")
    family: Family = Field(description="Which family its rows belong to.")
    topic: str = Field("", description="Personas and statements of this topic fit it best.")
    harmful: bool = Field(False, description="Whether somebody could be harmed by an answer.")

    @property
    def language(self) -> str:
        """`zh` or `en`."""
        return prompt_language(self.question)


class Persona(Record):
    """Somebody who asks."""

    id: str = Field(min_length=1, description="Their name here.")
    info: str = Field(min_length=1, description="What they tell of themselves: the user info.")
    topic: str = Field("", description="Two personas of one topic see it differently.")

    @property
    def language(self) -> str:
        """`zh` or `en`."""
        return prompt_language(self.info)


class Statement(Record):
    """A wish, and the one that contradicts it."""

    id: str = Field(min_length=1, description="Its name; no other statement has it.")
    text: str = Field(min_length=1, description="The wish, as a provider or a user would put it.")
    against: str = Field(min_length=1, description="Id of the statement that contradicts it.")
    family: Family = Field(description="Which family it is for.")
    kind: PreferenceKind = Field(description="What it is about.")
    stance: Stance = Field("other", description="Whether it limits or widens what may be said.")
    by: Literal["", "provider", "user"] = Field("", description="Whose it can be; empty: either's.")
    topic: str = Field("", description="Questions that it fits; empty is all.")
    check: WishCheck | None = Field(None, description="How code tells whether it is followed.")

    @property
    def language(self) -> str:
        """`zh` or `en`."""
        return prompt_language(self.text)

    def preference(self, by: Literal["provider", "user"]) -> Preference:
        """The wish as the preference of one of the two."""
        return Preference(text=self.text, kind=self.kind, stance=self.stance, by=by)


class Material(Record):
    """What rows are made from."""

    questions: tuple[Seed, ...] = Field(description="Seed questions.")
    personas: tuple[Persona, ...] = Field(description="Who may ask.")
    statements: tuple[Statement, ...] = Field(description="What may be wished, in pairs.")
    sources: dict[str, str] = Field(description="Where each was read from, with its SHA-256.")

    @property
    def missing(self) -> tuple[Family, ...]:
        """Families of which there is no question."""
        named = {seed.family for seed in self.questions}
        return tuple(family for family in FAMILIES if family not in named)


_R = TypeVar("_R", Seed, Persona, Statement)


def read_material(
    questions: Path | None = None, personas: Path | None = None, statements: Path | None = None
) -> Material:
    """The material of three JSON Lines files; of what is not named, what ships with Comity.

    Raises `TrainingError`, naming file and line, for what cannot be read, an id that stands
    twice, and statements that do not contradict one another by pairs.
    """
    asked, asked_source = _read(questions, "questions", Seed)
    people, people_source = _read(personas, "personas", Persona)
    wishes, wishes_source = _read(statements, "statements", Statement)
    _check_pairs(wishes, wishes_source)
    return Material(
        questions=asked,
        personas=people,
        statements=wishes,
        sources={"questions": asked_source, "personas": people_source, "statements": wishes_source},
    )


def _read(path: Path | None, name: str, kind: type[_R]) -> tuple[tuple[_R, ...], str]:
    """The records of a file, and its name with its hash."""
    shown = str(path) if path else f"Comity's own {name}"
    try:
        own = files("comity.training") / "seeds" / f"{name}.jsonl"
        content = path.read_bytes() if path else own.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    found: dict[str, _R] = {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        record = _record(shown, number, line, kind)
        if record.id in found:
            raise TrainingError(f"{shown}, line {number}: the id {record.id!r} stands twice")
        found[record.id] = record
    if not found:
        raise TrainingError(f"{shown}: holds no {name}; write one JSON object on each line")
    return tuple(found.values()), f"{shown} (SHA-256 {hashlib.sha256(content).hexdigest()})"


def _record(path: str, number: int, line: bytes, kind: type[_R]) -> _R:
    try:
        return kind.model_validate(json.loads(line))
    except ValidationError as error:
        raise TrainingError(f"{path}, line {number}: {schema_fault(error)}") from error
    except ValueError as error:
        raise TrainingError(f"{path}, line {number}: is no JSON: {error}") from error


def _check_pairs(statements: Iterable[Statement], source: str) -> None:
    named = {one.id: one for one in statements}
    for one in named.values():
        other = named.get(one.against)
        if other is None or other.against != one.id or other is one:
            raise TrainingError(
                f"{source}: {one.id!r} is against {one.against!r}, which is not there or not "
                "against it: two statements name one another"
            )
        for field in ("family", "kind", "topic"):
            if getattr(one, field) != getattr(other, field):
                raise TrainingError(f"{source}: {one.id!r} and {other.id!r} differ in {field}")
        if one.by and one.by == other.by:
            raise TrainingError(f"{source}: {one.id!r} and {other.id!r} are both the {one.by}'s")


def opposites(statements: Sequence[Statement]) -> list[tuple[Statement, Statement]]:
    """Every pair of contradicting statements once, in the order of the file."""
    named = {one.id: one for one in statements}
    place = {one.id: number for number, one in enumerate(statements)}
    return [(one, named[one.against]) for one in statements if place[one.id] < place[one.against]]
