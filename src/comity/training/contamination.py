"""Texts that are alike: seed questions among themselves, answers, and rows against exams.

A text is in an exam when one of the exam's questions is the same in normal form (case, width,
marks and blanks apart), is nearly so (Jaccard similarity of runs of four characters, .8), or
shares a run of eight words with it (twelve where they are Chinese characters, each of which
counts as a word). Paraphrases in other words are not found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from comity.documents.duplicates import find_duplicates
from comity.errors import TrainingError
from comity.material import words_in
from comity.records import Rule

RUN = 8
RUN_CHINESE = 12
NEAR = 0.8

_OWN = ("preference_pairs.jsonl", "preference_rule_cases.jsonl")
_FIELDS = ("question", "stem", "prompt", "input", "query", "text")


def alike(texts: Sequence[str], near: float = NEAR) -> dict[int, int]:
    """Positions of the texts that are like an earlier one, and the position of that one."""
    rules = [
        Rule(id=f"text {number}", text=text) for number, text in enumerate(texts) if text.strip()
    ]
    place = {f"text {number}": number for number in range(len(texts))}
    return {place[one.id]: place[one.of] for one in find_duplicates(rules, near)}


class Exams:
    """The questions of exams, ready to be compared with."""

    def __init__(self, questions: Iterable[tuple[str, str]]) -> None:
        """`questions` are pairs of an exam's name and a question's text."""
        self._questions = tuple(questions)
        self._same: dict[str, str] = {}
        self._runs: dict[tuple[str, ...], str] = {}
        for name, text in self._questions:
            self._same.setdefault(words_in(text), name)
            for run in _runs(text):
                self._runs.setdefault(run, name)

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the exams."""
        return tuple(dict.fromkeys(name for name, _ in self._questions))

    def found(self, text: str) -> str:
        """Why a text counts as taken from an exam; empty if it does not."""
        if name := self._same.get(words_in(text)):
            return f"it is a question of {name}"
        for run in _runs(text):
            if name := self._runs.get(run):
                return f"it shares {' '.join(run)!r} with a question of {name}"
        return ""

    def near(self, texts: Sequence[str]) -> dict[int, str]:
        """Which of the texts are in an exam or nearly so, by position, each with the reason."""
        known = [text for _, text in self._questions]
        found: dict[int, str] = {}
        for number, text in enumerate(texts):
            if reason := self.found(text):
                found[number] = reason
        rest = [number for number in range(len(texts)) if number not in found]
        doubles = alike([*known, *(texts[number] for number in rest)])
        for at, number in enumerate(rest, start=len(known)):
            of = doubles.get(at, at)
            if of < len(known):
                found[number] = f"it is nearly a question of {self._questions[of][0]}"
        return found


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    words = words_in(text).split()
    size = RUN_CHINESE if any(word >= "\u4e00" for word in words) else RUN
    for start in range(len(words) - size + 1):
        yield tuple(words[start : start + size])


def read_exams(paths: Iterable[Path]) -> Exams:
    """The questions of Comity's own preference exam, and of the JSON Lines files at `paths`.

    Of each line the texts under `question`, `stem`, `prompt`, `input`, `query` or `text` count.
    Raises `TrainingError` for a file that cannot be read or holds no such text.
    """
    questions: list[tuple[str, str]] = []
    for name in _OWN:
        file = files("comity.evaluation") / name
        questions += _questions(f"the preference exam ({name})", file.read_bytes())
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
        found = list(_questions(str(path), content))
        if not found:
            raise TrainingError(
                f"{path}: no line holds a text under {', '.join(_FIELDS)}: nothing to compare with"
            )
        questions += found
    return Exams(questions)


def _questions(name: str, content: bytes) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise TrainingError(f"{name}, line {number}: is no JSON: {error}") from error
        if isinstance(fields, dict):
            yield from ((name, text) for text in _texts(fields) if text.strip())


def _texts(fields: dict[str, Any]) -> Iterator[str]:
    """The question's texts; of a conversation the user's."""
    for field in _FIELDS:
        told = fields.get(field)
        if isinstance(told, str):
            yield told
        elif isinstance(told, list):
            yield from (
                str(turn.get("content", ""))
                for turn in told
                if isinstance(turn, dict) and turn.get("role") == "user"
            )
