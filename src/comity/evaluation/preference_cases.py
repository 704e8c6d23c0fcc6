"""The cases of the preference exam: questions with wishes that pull apart, and rules under pull.

A `PreferenceQuestion` is one question under two or more meta-prompts; what a good answer looks
like changes with them, so that an answer that ignores the meta-prompt cannot follow all. A
`RuleCase` is a question that a rule in force decides, with a wish that pulls against the rule (or
a harmless one), and a check by code that says whether an answer breaks the rule. Both packaged
files were written for this project.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from comity.alignment.prefer import WishCheck
from comity.errors import ExamError
from comity.memory.patterns import compiled
from comity.records import Check, Family, MetaPrompt, Record, Scope
from comity.wording import schema_fault

PAIRS = "preference_pairs.jsonl"
RULE_CASES = "preference_rule_cases.jsonl"


class Wish(Record):
    """One meta-prompt for a question, and what an answer that follows it looks like."""

    meta: MetaPrompt = Field(description="What stands before the question.")
    explicit: bool = Field(description="Whether the wish is said, or only its background told.")
    family: Family = Field(description="Which of the four families it belongs to.")
    wish: str = Field(min_length=1, description="What an answer that follows looks like.")
    opposite: str = Field("", description="What one that does not looks like; else another wish.")
    check: WishCheck | None = Field(None, description="How code tells it; None: a judge does.")

    @field_validator("meta")
    @classmethod
    def _says_something(cls, meta: MetaPrompt) -> MetaPrompt:
        if not (meta.system_info.strip() or meta.user_info.strip() or meta.preferences):
            raise ValueError("it is empty: give system_info, user_info or preferences")
        return meta


class PreferenceQuestion(Record):
    """A question under wishes that pull apart."""

    id: str = Field(min_length=1, description="Name of the question.")
    question: str = Field(min_length=1, description="What is asked, the same under all wishes.")
    language: str = Field("en", description="BCP 47 tag of the question.")
    wishes: tuple[Wish, ...] = Field(min_length=2, description="The meta-prompts.")

    @model_validator(mode="after")
    def _wishes_differ(self) -> Self:
        for field in ("wish", "meta"):
            told = [getattr(wish, field) for wish in self.wishes]
            if any(one in told[:at] for at, one in enumerate(told)):
                raise ValueError(f"two wishes have the same {field}: they have to pull apart")
        return self

    def opposite(self, number: int) -> str:
        """What an answer against a wish looks like: its opposite, or what the next one wants."""
        following = self.wishes[(number + 1) % len(self.wishes)]
        return self.wishes[number].opposite or following.wish


class RuleCase(Record):
    """A question that a rule decides, under a wish."""

    id: str = Field(min_length=1, description="Name of the case.")
    rule: str = Field(min_length=1, description="Id of the rule that decides.")
    question: str = Field(min_length=1, description="What is asked.")
    language: str = Field("en", description="BCP 47 tag of the question.")
    scope: Scope = Field(description="For whom, where and when.")
    meta: MetaPrompt = Field(description="The wish.")
    against: bool = Field(True, description="Whether the wish pulls against the rule.")
    check: Check = Field(description="An answer that fails it breaks the rule; decided by code.")

    @field_validator("check")
    @classmethod
    def _by_patterns(cls, check: Check) -> Check:
        patterns = (check.must_match, check.must_not_match)
        if check.judge or check.must_contain or check.longest or not any(patterns):
            raise ValueError("give must_match or must_not_match and nothing else")
        for pattern in filter(None, patterns):
            compiled(pattern)  # raises `ValueError` for what RE2 cannot use
        return check


_Case = TypeVar("_Case", PreferenceQuestion, RuleCase)


def read_questions(path: Path | None = None) -> tuple[PreferenceQuestion, ...]:
    """The questions of a JSON Lines file, or the packaged ones. Raises `ExamError`."""
    return _read(path, PAIRS, PreferenceQuestion)


def read_rule_cases(path: Path | None = None) -> tuple[RuleCase, ...]:
    """The rule cases of a JSON Lines file, or the packaged ones. Raises `ExamError`."""
    return _read(path, RULE_CASES, RuleCase)


def drawn(cases: Sequence[_Case], limit: int | None, seed: int) -> tuple[_Case, ...]:
    """All cases, or `limit` of them drawn with `seed`, in the order of the file.

    A larger limit with the same seed draws the same cases and more.
    """
    if limit is None or limit >= len(cases):
        return tuple(cases)
    order = list(range(len(cases)))
    random.Random(seed).shuffle(order)
    return tuple(cases[number] for number in sorted(order[:limit]))


def digest(cases: Sequence[Record]) -> str:
    """SHA-256 over the cases, in hex: another one where a word of them is another."""
    told = "\n".join(case.model_dump_json() for case in cases)
    return hashlib.sha256(told.encode()).hexdigest()


def asked_digest(cases: Sequence[PreferenceQuestion] | Sequence[RuleCase]) -> str:
    """SHA-256, in hex, over what model and judge are asked in the cases.

    Checks, families and whatever else only scores an answer may change without changing it.
    """
    told = json.dumps([_asked(case) for case in cases], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _asked(case: PreferenceQuestion | RuleCase) -> dict[str, Any]:
    if isinstance(case, RuleCase):
        return case.model_dump(mode="json", include={"id", "question", "scope", "meta"})
    wishes = [
        {"meta": wish.meta.model_dump(mode="json"), "wish": wish.wish, "not": case.opposite(number)}
        for number, wish in enumerate(case.wishes)
    ]
    return {"id": case.id, "question": case.question, "wishes": wishes}


def _read(path: Path | None, packaged: str, kind: type[_Case]) -> tuple[_Case, ...]:
    name = str(path or packaged)
    file = path or files("comity.evaluation").joinpath(packaged)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExamError(f"{name} cannot be read: {error}") from error
    cases: dict[str, _Case] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            case = kind.model_validate_json(line)
        except ValidationError as error:
            raise ExamError(f"{name}, line {number}: {schema_fault(error)}") from error
        if case.id in cases:
            raise ExamError(f"{name}, line {number}: a second case is called {case.id!r}")
        cases[case.id] = case
    if not cases:
        raise ExamError(f"{name} holds no cases: write one on each line, as JSON")
    return tuple(cases.values())
