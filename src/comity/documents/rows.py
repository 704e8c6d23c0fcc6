"""Rules from tables: JSON Lines (rule records, or OPO's raw form) and CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from comity.documents.clean import language_of, normalise
from comity.documents.fields import Places, Row, unknown_names
from comity.documents.read import Document
from comity.errors import DocumentError, UnknownPlace
from comity.records import Check, Rule

_RAW_FIELDS = ("source", "text", "location")
_RAW_MARK = "*****"
_NATIONWIDE = "全国"
_CHECKS = tuple(Check.model_fields)
_CSV_FIELDS = (*(name for name in Rule.model_fields if name != "source"), *_CHECKS)
_CLEANED = ("text", "title", "article")


class Settings(NamedTuple):
    """What holds for the rows of one file."""

    document_id: str
    given: Mapping[str, Any]
    """Fields from the defaults and the manifest's entry; a row's own fields go before them."""
    places: Places


class Lines:
    """The lines of a text, one by one, with their ends, and where they stand."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._peeked: str | None = None
        self.number = 0
        """How many lines were given."""
        self.end = 0
        """Characters of these."""
        self.content_end = 0
        """The same without the end of the last line."""

    @classmethod
    def of(cls, text: str) -> Lines:
        """The lines of a whole text."""
        return cls(io.StringIO(text, newline="\n"))

    def peek(self) -> str:
        """The next line; empty behind the last one."""
        if self._peeked is None:
            self._peeked = next(self._lines, "")
        return self._peeked

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self.peek()
        self._peeked = None
        if not line:
            raise StopIteration
        self.number += 1
        self.content_end = self.end + len(line) - line.endswith("\n")
        self.end += len(line)
        return line


def json_rows(document: Document, settings: Settings, lines: Lines | None = None) -> Iterator[Row]:
    """One row for each line that is not blank; `lines` are the document's, if not of its text.

    Raises `DocumentError` naming line and column of malformed JSON, and unknown fields.
    """
    lines = lines or Lines.of(document.text)
    start = 0
    for line in lines:
        if line.strip():
            span = (start, lines.content_end)
            yield json_row(document, settings, lines.number, line.removesuffix("\n"), span)
        start = lines.end


def json_row(
    document: Document, settings: Settings, number: int, line: str, span: tuple[int, int]
) -> Row:
    """The row of one line. Raises as `json_rows` does."""
    own = _own_fields(document, number, _object(document, number, line), settings)
    return _row(document, number, own, settings, _source(document, *span))


def _object(document: Document, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        problem = f"malformed JSON{_at_column(error)}; every line must hold one whole JSON object"
        raise DocumentError(document.path, problem, line=number) from error
    if not isinstance(record, dict):
        problem = f"holds {type(record).__name__}, not a JSON object with a rule's fields"
        raise DocumentError(document.path, problem, line=number)
    return record


def _at_column(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f" at column {error.colno}: {error.msg}"
    return f": {error}"


def _own_fields(
    document: Document, number: int, record: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    raw = "location" in record and "id" not in record
    known = _RAW_FIELDS if raw else tuple(Rule.model_fields)
    problem = unknown_names(record, known, "field")
    if problem:
        raise DocumentError(document.path, problem, line=number)
    return _from_raw(document, number, record, settings) if raw else dict(record)


def _from_raw(
    document: Document, number: int, record: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    """Fields of OPO's raw form; what the form only implies gives way to the settings."""
    source, text, location = (record.get(name) for name in _RAW_FIELDS)
    if not (isinstance(source, str) and isinstance(text, str) and isinstance(location, str)):
        problem = "needs source, text and location as strings"
        raise DocumentError(document.path, problem, line=number)
    article, mark, body = text.partition(_RAW_MARK)
    if not (mark and article.strip() and body.strip() and "/" in source and location.strip()):
        problem = f"needs source as 'place/title', text as 'article{_RAW_MARK}body', and a location"
        raise DocumentError(document.path, problem, line=number)
    scope, implied = _from_location(location.strip(), settings.places)
    return {
        **{name: value for name, value in implied.items() if name not in settings.given},
        **scope,
        "id": f"{source.strip()}/{article.strip()}",
        "title": source.partition("/")[2],
        "article": article,
        "text": body,
    }


def _from_location(location: str, places: Places) -> tuple[dict[str, Any], dict[str, Any]]:
    """Place or audience that a location names, and the domain and authority that it implies."""
    try:
        place = places.canonical("CN" if location == _NATIONWIDE else location)
    except UnknownPlace:
        return {"audience": (location,)}, {"domain": "professional", "authority": "code"}
    inside = "-" in place or "/" in place
    return {"place": place}, {"domain": "law", "authority": "local" if inside else "statute"}


def csv_rows(document: Document, settings: Settings, lines: Lines | None = None) -> Iterator[Row]:
    """One row for each record; its line is the one on which the record starts.

    Empty cells are fields that are not given; `must_match` and the other parts of a check have
    columns of their own. `lines` are the document's, if not of its text. Raises `DocumentError` for
    unknown columns, a missing `text` column, records with more cells than columns, and checks that
    cannot be used or would never run.
    """
    columns: list[str] | None = None
    for record in csv_records(document, lines or Lines.of(document.text)):
        if columns is None:
            columns = csv_columns(document, record.cells, record.number)
        else:
            yield csv_row(document, settings, columns, record)


class CsvRecord(NamedTuple):
    """The cells of a record, and where it stands."""

    cells: list[str]
    number: int
    span: tuple[int, int]


def csv_records(document: Document, lines: Lines) -> Iterator[CsvRecord]:
    """The records that are not blank, that with the names of the columns first."""
    delimiter = max(",;\t", key=lines.peek().count)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        number, start = lines.number + 1, lines.end
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problem = f"malformed CSV: {error}; quote cells that hold quotation marks or line ends"
            raise DocumentError(document.path, problem, line=lines.number) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield CsvRecord(cells, number, (start, lines.content_end))


def csv_row(document: Document, settings: Settings, columns: list[str], record: CsvRecord) -> Row:
    """The row of one record. Raises as `csv_rows` does."""
    own = _cells(document, record.number, columns, record.cells)
    own = _with_check(document, record.number, own, settings)
    return _row(document, record.number, own, settings, _source(document, *record.span))


def csv_columns(document: Document, cells: list[str], number: int) -> list[str]:
    """The columns that a record names. Raises `DocumentError` for those that are not known."""
    columns = [cell.strip() for cell in cells]
    problem = unknown_names(columns, _CSV_FIELDS, "column")
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if not problem and doubled:
        problem = f"has the column {doubled[0]!r} twice"
    if not problem and "text" not in columns:
        problem = "has no column 'text'; the first line must name the columns"
    if problem:
        raise DocumentError(document.path, problem, line=number)
    return columns


def _cells(document: Document, number: int, columns: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) > len(columns):
        problem = f"has {len(cells)} cells for {len(columns)} columns; quote cells with commas"
        raise DocumentError(document.path, problem, line=number)
    own: dict[str, Any] = {
        name: cell.strip() for name, cell in zip(columns, cells, strict=False) if cell.strip()
    }
    return own


def _with_check(
    document: Document, number: int, own: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    """The fields with the check that its columns, or the column `check` as JSON, give."""
    parts: dict[str, Any] = {name: own[name] for name in _CHECKS if name in own}
    rest = {name: value for name, value in own.items() if name not in _CHECKS}
    problem = _wrong_check(parts, own, settings)
    if problem:
        raise DocumentError(document.path, problem, line=number)
    if "check" in own:
        return rest | {"check": _object(document, number, own["check"])}
    return rest | {"check": parts} if parts else rest


def _wrong_check(parts: dict[str, Any], own: dict[str, Any], settings: Settings) -> str:
    if parts and "check" in own:
        return f"gives a check in the columns 'check' and {next(iter(parts))!r}: keep one of them"
    longest = parts.get("longest", "0")
    if not (longest.isascii() and longest.isdigit()):
        return f"column 'longest' holds {longest!r}: write a number of characters, such as 400"
    amends = own.get("version", "1") != "1"
    if parts and not (amends or "enforcement" in own or "enforcement" in settings.given):
        return (
            f"has {', '.join(map(repr, parts))} without an enforcement, so that nothing would be "
            "checked: add a column 'enforcement' with revise or block"
        )
    return ""


def _row(
    document: Document, number: int, own: dict[str, Any], settings: Settings, span: dict[str, Any]
) -> Row:
    cleaned = {
        name: normalise(own[name]).strip() for name in _CLEANED if isinstance(own.get(name), str)
    }
    fields = {**settings.given, "source": span, **own, **cleaned}
    text = str(fields.get("text") or "")
    if text and "language" not in fields:
        fields["language"] = language_of(text)
    if not fields.get("id"):
        article = fields.get("article")
        fields["id"] = f"{settings.document_id}/{article or text_name(text)}"
    return Row(fields, document.path, number, f"line {number}")


def text_name(text: str) -> str:
    """Name for a text without one: made from its words, so that its neighbours may change."""
    words = "".join(text.split()).casefold()
    return f"p-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def _source(document: Document, start: int, end: int) -> dict[str, Any]:
    return {"document": document.name, "sha256": document.sha256, "start": start, "end": end}
