"""Rules from tables: JSON Lines (rule records, or OPO's raw form) and CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
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


def json_rows(document: Document, settings: Settings) -> Iterator[Row]:
    """One row for each line that is not blank.

    Raises `DocumentError` naming line and column of malformed JSON, and unknown fields.
    """
    start = 0
    for number, line in enumerate(document.text.split("\n"), 1):
        end = start + len(line)
        if line.strip():
            record = _object(document, number, line)
            own = _own_fields(document, number, record, settings)
            span = _source(document, start, end)
            yield _row(document, number, own, settings, span)
        start = end + 1


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


def csv_rows(document: Document, settings: Settings) -> Iterator[Row]:
    """One row for each record; its line is the one on which the record starts.

    Empty cells are fields that are not given; `must_match` and the other parts of a check have
    columns of their own. Raises `DocumentError` for unknown columns, a missing `text` column,
    records with more cells than columns, and checks that cannot be used or would never run.
    """
    header_line = document.text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header_line.count)
    reader = csv.reader(io.StringIO(document.text, newline=""), delimiter=delimiter, strict=True)
    starts = _line_starts(document.text)
    columns: list[str] | None = None
    before = 0
    for cells in _records(document, reader):
        number, before = before + 1, reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = _columns(document, cells, number)
            continue
        own = _with_check(document, number, _cells(document, number, columns, cells), settings)
        span = _source(document, starts[number - 1], starts[before] - 1)
        yield _row(document, number, own, settings, span)


def _records(document: Document, reader: Any) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        problem = f"malformed CSV: {error}; quote cells that hold quotation marks or line ends"
        raise DocumentError(document.path, problem, line=reader.line_num) from error


def _columns(document: Document, cells: list[str], number: int) -> list[str]:
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


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts
