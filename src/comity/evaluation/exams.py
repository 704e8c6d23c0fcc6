"""Exams: multiple-choice questions with one right option, and the files that hold them.

Two forms are read. Comity's own is JSON Lines, one `Question` on each line. OPO's (Align on the
Fly, arXiv 2312.15907) is CSV with the columns `id`, `question`, `A`, `B`, `C` (and `D` …) and
`answer`, and where they are there `analysis`, `principle` (the rules a question was made from)
and `location` (which of several rules of one name is meant).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from comity.errors import ExamError
from comity.records import Record, RuleRef, Scope

LETTERS = "ABCDEFGH"

Kind = Literal["given", "scenario", "concept", "boundary", "precedence"]
"""Where a question comes from: a file, a model (scenario, concept), or the ruling itself."""

_COLUMNS = ("id", "question", "A", "B", "answer")
_MORE = "\0"  # no column: holds the cells of a row that lie beyond the header
_NAMED = 5  # bad lines in a message; the first show what is wrong
_STOPS = re.compile(r"[\s,.;:!?…、，。；：！？\"'“”‘’()（）《》]+")  # do not change what is asked


class Question(Record):
    """One multiple-choice question; exactly one option is right."""

    id: str = Field(min_length=1, description="Name of the question within its exam.")
    stem: str = Field(min_length=1, description="What is asked, without the options.")
    options: tuple[str, ...] = Field(
        min_length=2, max_length=len(LETTERS), description="The first is A."
    )
    answer: str = Field(description="Letter of the right option.")
    kind: Kind = Field("given", description="Where the question comes from.")
    analysis: str = Field("", description="Why the answer is right and the others are not.")
    principle: str = Field("", description="The rules it was made from, in the file's own words.")
    location: str = Field("", description="Place or issuer of those rules, in the file's words.")
    rules: tuple[RuleRef, ...] = Field((), description="The rule versions it was made from.")
    scope: Scope | None = Field(None, description="What a caller would say of where, who, when.")
    pair: str = Field("", description="Shared by questions that differ in one circumstance.")
    status: Literal["active", "flagged", "retired"] = Field(
        "active", description="Retired questions are no longer asked."
    )
    reason: str = Field("", description="Why it was flagged or retired.")
    origin: str = Field("", description="Who wrote it: model, seed, prompt version.")

    @model_validator(mode="after")
    def _answer_is_an_option(self) -> Self:
        if self.answer not in self.letters:
            raise ValueError(
                f"answer {self.answer!r} is none of the options {', '.join(self.letters)}"
            )
        return self

    @property
    def letters(self) -> tuple[str, ...]:
        """The options' letters, from A."""
        return tuple(LETTERS[: len(self.options)])

    @property
    def options_text(self) -> str:
        """The options, one on a line: `A. …`."""
        pairs = zip(self.letters, self.options, strict=True)
        return "\n".join(f"{letter}. {option}" for letter, option in pairs)

    @property
    def query(self) -> str:
        """Stem and options, as they are searched (OPO's way)."""
        return "\n".join((self.stem, *self.options))

    @property
    def content_hash(self) -> str:
        """SHA-256 over what is asked and which answer is right."""
        asked = self.model_dump_json(include={"stem", "options", "answer", "scope"})
        return hashlib.sha256(asked.encode()).hexdigest()


class Rejected(Record):
    """A generated question that did not pass, kept with the reasons."""

    rules: tuple[RuleRef, ...] = Field((), description="The rule versions it was made from.")
    kind: Kind | Literal[""] = Field("", description="The kind that it was to have, if known.")
    stage: Literal["model", "form", "judge", "answer", "set"] = Field(
        description="Who turned it down: the writer itself, code, judge, trial or set."
    )
    reasons: tuple[str, ...] = Field(min_length=1, description="All reasons found at that stage.")
    question: Question | None = Field(None, description="The question, where there was one.")
    text: str = Field("", description="What the model wrote, where no question could be read.")


class LeftOut(Record):
    """A line of an exam file that is not asked."""

    line: int = Field(ge=1, description="Its number in the file, from 1.")
    question: str = Field("", description="Its id, where it has one.")
    reason: str = Field(description="Why it is left out.")


class Exam(Record):
    """A set of questions."""

    name: str = Field(min_length=1, description="Name of the set: the file's, without its ending.")
    questions: tuple[Question, ...] = Field((), description="In the file's order.")
    left_out: tuple[LeftOut, ...] = Field((), description="Lines that are not asked, with reasons.")
    sha256: str = Field("", description="SHA-256 of the file's bytes, in hex.")

    @property
    def active(self) -> tuple[Question, ...]:
        """The questions that are asked: all but the retired ones."""
        return tuple(question for question in self.questions if question.status != "retired")


def read_exam(path: Path, *, skip_bad: bool = False) -> Exam:
    """The exam in a file, whose form its ending says: `.csv` is OPO's, else JSON Lines.

    A question that an earlier line has asked already (same stem and options) is left out, with
    the reason; punctuation and blanks make no difference, signs such as `<` and `-` do. A line
    that cannot be used (an answer outside the options, an empty option) makes the whole file
    unusable, or is left out with `skip_bad`. Raises `ExamError`.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ExamError(f"there is no exam {path}") from error
    except OSError as error:
        raise ExamError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ExamError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    rows = _csv_rows(text, path) if path.suffix.lower() == ".csv" else _json_rows(text)
    questions, bad = _sorted_out(rows)
    if bad and not skip_bad:
        advice = "Mend them (comity exam run can leave them out with --skip-bad)"
        raise ExamError(f"{path}: {_told(bad)}. {advice}")
    if not questions:
        raise ExamError(f"{path} has no question" + (f" to be used: {_told(bad)}" if bad else ""))
    kept, repeated = _without_repeats(questions)
    left_out = tuple(sorted((*bad, *repeated), key=lambda row: row.line))
    return Exam(
        name=path.stem,
        questions=tuple(kept),
        left_out=left_out,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def write_exam(path: Path, questions: Iterable[Question | Rejected]) -> None:
    """Write questions (or rejected ones) as JSON Lines, all or none. Raises `ExamError`."""
    lines = [question.model_dump_json(exclude_defaults=True) + "\n" for question in questions]
    part = path.with_name(path.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise ExamError(f"{path} cannot be written: {error.strerror}") from error


def _told(bad: Sequence[LeftOut]) -> str:
    shown = "; ".join(f"line {row.line}: {row.reason}" for row in bad[:_NAMED])
    return shown + (f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")


def question_of(row: Mapping[str, str]) -> Question:
    """The question in a row of OPO's CSV. Raises `ValueError` (pydantic's too)."""
    if row.get(_MORE, "").strip():
        raise ValueError("it has more cells than columns: put texts with commas in quotation marks")
    columns = [letter for letter in LETTERS if row.get(letter) is not None]
    options = [row[letter].strip() for letter in columns]
    while options and not options[-1]:  # a question may have fewer options than the file
        options.pop()
    if empty := [letter for letter, option in zip(columns, options, strict=False) if not option]:
        raise ValueError(f"option {', '.join(empty)} is empty")
    return Question(
        id=(row.get("id") or "").strip(),
        stem=(row.get("question") or "").strip(),
        options=tuple(options),
        answer=letter_of(row.get("answer") or ""),
        analysis=(row.get("analysis") or "").strip(),
        principle=(row.get("principle") or "").strip(),
        location=(row.get("location") or "").strip(),
    )


def letter_of(answer: str) -> str:
    """An answer column's letter in its plain form: full-width and small letters are taken."""
    return unicodedata.normalize("NFKC", answer).strip().strip(".、。()").upper()


_Row = tuple[int, Mapping[str, str] | str]


def _csv_rows(text: str, path: Path) -> Iterator[_Row]:
    # strict: a quotation mark that is never closed would swallow the rest of the file
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey=_MORE, strict=True)
    found = _header(reader, path)
    if missing := [column for column in _COLUMNS if column not in found]:
        raise ExamError(
            f"{path}: column {', '.join(missing)} is missing (there are: "
            f"{', '.join(found) or 'none'}); OPO's form has id, question, A, B, C, D, answer"
        )
    line = reader.line_num
    try:
        for row in reader:
            line = reader.line_num
            cells = {column: cell for column, cell in row.items() if cell is not None}
            yield line, cells | {_MORE: "".join(row.get(_MORE) or ())}
    except csv.Error as error:
        raise ExamError(f"{path}, the row from line {line + 1} on: {error}") from error


def _header(reader: csv.DictReader[str], path: Path) -> Sequence[str]:
    try:
        return reader.fieldnames or ()
    except csv.Error as error:
        raise ExamError(f"{path}, the row from line 1 on: {error}") from error


def _json_rows(text: str) -> Iterator[_Row]:
    # not splitlines(), which also breaks at U+2028 and the like, inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _sorted_out(rows: Iterable[_Row]) -> tuple[list[tuple[int, Question]], list[LeftOut]]:
    good: list[tuple[int, Question]] = []
    bad: list[LeftOut] = []
    for line, row in rows:
        try:
            made = Question.model_validate_json(row) if isinstance(row, str) else question_of(row)
            good.append((line, made))
        except ValueError as error:
            name = _id_in(row)
            bad.append(LeftOut(line=line, question=name, reason=_plain(error)))
    return good, bad


def _id_in(row: Mapping[str, str] | str) -> str:
    if isinstance(row, str):
        try:
            row = json.loads(row)
        except json.JSONDecodeError:
            return ""
    return str(row.get("id", "")) if isinstance(row, Mapping) else ""


def _plain(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    # each line is parsed by itself: pydantic's "at line 1" would contradict the file's number
    message = str(first["msg"]).removeprefix("Value error, ").replace(" at line 1 column", " at")
    return f"{field}: {message}" if field else message


def _without_repeats(
    questions: Sequence[tuple[int, Question]],
) -> tuple[list[Question], list[LeftOut]]:
    asked: dict[tuple[str, ...], tuple[int, Question]] = {}
    ids: set[str] = set()
    kept: list[Question] = []
    repeated: list[LeftOut] = []
    for line, question in questions:
        first, same = asked.setdefault(_asked(question), (line, question))
        if first != line:
            reason = f"the same question stands on line {first}{_other_answer(same, question)}"
            repeated.append(LeftOut(line=line, question=question.id, reason=reason))
            continue
        name = question.id
        while name in ids:
            name += f"#{line}"
        ids.add(name)
        kept.append(question.model_copy(update={"id": name}))
    return kept, repeated


def _asked(question: Question) -> tuple[str, ...]:
    """What makes a question the same: its words and signs, and whom it is asked for."""
    parts = (question.stem, *question.options)
    return (*(_STOPS.sub(" ", part).strip() or part for part in parts), str(question.scope or ""))


def _other_answer(first: Question, question: Question) -> str:
    if question.answer == first.answer:
        return ""
    return f", with another answer ({first.answer} there, {question.answer} here)"
