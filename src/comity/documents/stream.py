"""Rules of files one by one: JSON Lines and CSV of any size are never held as a whole.

Other files are read as a whole, one after another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from comity.documents.extract import (
    Files,
    TextOf,
    as_given,
    nothing_held,
    rows_of,
    version_of,
    with_text,
)
from comity.documents.fields import DeclaredPlace, PlaceOf, Places, Row, RuleDefaults, rule_of
from comity.documents.manifest import NAME, DocumentEntry
from comity.documents.read import MAX_BYTES, Document, Format, format_of, read
from comity.documents.rows import (
    Lines,
    Settings,
    csv_columns,
    csv_records,
    csv_row,
    json_row,
)
from comity.documents.split import LONGEST
from comity.errors import DocumentError, DuplicateRule, RuleError
from comity.memory.marks import Mark
from comity.memory.seen import SeenIds
from comity.records import DEFAULT_TENANT, Rule

_CHUNK = 1 << 20
LeftOut = Callable[[RuleError | DocumentError], None]
"""Told of a row that cannot be taken, where the others go on."""


class _Read(NamedTuple):
    """A row, or why there is none."""

    row: Row | DocumentError
    where: str


class FileStream:
    """The rules of an import's files, one by one, and how far they have come.

    Iterated once. A row that cannot be taken raises `DocumentError` or `DuplicateRule`, naming
    file and line, or is handed to `left_out`; a file that cannot be read any further always raises.
    """

    def __init__(
        self,
        found: Files,
        defaults: RuleDefaults,
        place_of: PlaceOf = as_given,
        *,
        tenant: str = DEFAULT_TENANT,
        text_of: TextOf = nothing_held,
        max_bytes: int = MAX_BYTES,
        left_out: LeftOut | None = None,
    ) -> None:
        """`max_bytes` is the largest line of a table, and the largest of other files."""
        self._files = found
        self._given = defaults.given()
        self._places = Places(found.places, place_of)
        self._tenant = tenant
        self._text_of = text_of
        self._max_bytes = max_bytes
        self._left_out = left_out
        self._names = self._naming(defaults)
        self.name = self._names.hexdigest()[:16]
        """16 hex digits: which files these are, and with which settings they are read."""
        self._size = sum(_size(file) for file in found.files)
        self._skipped = self._before = 0
        self._restart()

    @property
    def places(self) -> tuple[DeclaredPlace, ...]:
        """The places that manifests beside the files declare."""
        return self._files.places

    def _naming(self, defaults: RuleDefaults) -> hashlib._Hash:
        entries = [self._files.entries.get(file.resolve()) for file in self._files.files]
        said = {
            "tenant": self._tenant,
            "defaults": defaults.model_dump(mode="json"),
            "files": [_shown(file) for file in self._files.files],
            "entries": [entry.model_dump(mode="json") if entry else None for entry in entries],
            "places": [place.model_dump(mode="json") for place in self._files.places],
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode())

    def _restart(self) -> None:
        self._hash = self._names.copy()
        self._bytes = self._rows = 0
        self._where = ""
        self._whole = True

    def resume(self, mark: Mark | None) -> bool:
        """Leave out the rows before a mark, if what stands before it is what stood there then."""
        if mark is None or mark.stream != self.name:
            return False
        for file in self._files.files:
            if self._bytes < mark.bytes:
                self._hash_of(file, mark.bytes - self._bytes)
        same = self._reached()[2:] == mark[2:]
        self._skipped, self._before = (mark.rows, mark.bytes) if same else (0, 0)
        self._restart()
        return same

    def _hash_of(self, file: Path, most: int) -> None:
        if format_of(file) not in ("csv", "jsonl"):
            self._note_whole(read(file, self._max_bytes))
            return
        with _opened(file) as stream:
            while most > 0 and (chunk := stream.read(min(most, _CHUNK))):
                self._take(chunk)
                most -= len(chunk)

    def where(self) -> str:
        """Where the last rule stands: file and line."""
        return self._where

    def mark(self) -> Mark | None:
        """How far the rules have come that were given so far.

        None once a row was left out: it is to be tried again, since what was missing may be there
        by then (a place, say).
        """
        return self._reached() if self._whole else None

    def _reached(self) -> Mark:
        return Mark(self.name, self._rows, self._bytes, self._hash.hexdigest())

    def share(self) -> float:
        """Share of the bytes behind the mark it goes on from that has been read, 0 to 1."""
        whole = self._size - self._before
        return max(0.0, min(1.0, (self._bytes - self._before) / whole)) if whole > 0 else 1.0

    def __iter__(self) -> Generator[Rule, None, None]:
        with closing(SeenIds()) as seen, closing(self._all_rows()) as rows:
            yield from self._rules(seen, rows)

    def _rules(self, seen: SeenIds, rows: Iterator[_Read]) -> Iterator[Rule]:
        versions: dict[int, Row] = {}
        for read_row in rows:
            self._rows += 1
            self._where = read_row.where
            try:
                row = _sound(read_row.row)
                if seen.note(str(row.fields["id"]), self._where):
                    versions = {}
                rule = self._rule(row, versions)
            except (DocumentError, RuleError) as error:
                if self._left_out is None:
                    raise
                self._whole = False
                self._left_out(error)
                continue
            if rule:
                yield rule

    def _rule(self, row: Row, versions: dict[int, Row]) -> Rule | None:
        """The rule of a row behind those of its earlier versions; None before the mark."""
        number = version_of(row)
        if number in versions:
            first = versions[number]
            raise DuplicateRule(
                f"rule {row.fields['id']!r}, version {number}, stands twice: {first.path}, "
                f"{first.where}, and {row.path}, {row.where}; give one of them another id or "
                "version"
            )
        versions[number] = row
        if self._rows <= self._skipped:
            return None
        texts = {n: str(r.fields["text"]) for n, r in versions.items() if r.fields.get("text")}
        rule = rule_of(with_text(row, texts, self._text_of), self._places)
        if "tenant" in rule.model_fields_set and rule.tenant != self._tenant:
            problem = (
                f"rule {rule.id!r} is of tenant {rule.tenant!r}, but the import is for "
                f"{self._tenant!r}: import it with --tenant {rule.tenant}"
            )
            raise DocumentError(row.path, problem, line=row.line)
        return rule

    def _all_rows(self) -> Generator[_Read, None, None]:
        for file in self._files.files:
            entry = self._files.entries.get(file.resolve())
            kind = format_of(file)
            if kind in ("csv", "jsonl"):
                yield from self._table_rows(file, kind, entry)
            else:
                document = read(file, self._max_bytes)
                self._note_whole(document)
                made = rows_of(document, entry, self._given, self._places, LONGEST)
                for row in made.rows:
                    yield _Read(row, f"{file}, {row.where}")

    def _note_whole(self, document: Document) -> None:
        self._hash.update(document.sha256.encode())
        self._bytes += _size(document.path)

    def _take(self, data: bytes) -> None:
        self._hash.update(data)
        self._bytes += len(data)

    def _table_rows(self, file: Path, kind: Format, entry: DocumentEntry | None) -> Iterator[_Read]:
        if entry and entry.article:
            problem = f"{NAME} has tables for its articles: in a stream, write them into the rows"
            raise DocumentError(file, problem)
        given = self._given | (entry.given() if entry else {})
        titled = given | ({"title": entry.title} if entry and entry.title else {})
        with _opened(file) as stream:
            before = os.fstat(stream.fileno())
            document = Document(path=file, sha256=_sha256(stream), format=kind, text="")
            id_ = (entry and (entry.id or entry.title)) or document.stem
            lines = Lines(self._decoded(file, stream))
            settings = Settings(id_, titled, self._places)
            rows = _csv if kind == "csv" else _json
            yield from rows(document, settings, lines)
            after = os.fstat(stream.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            problem = "was changed while it was read: give the same command again"
            raise DocumentError(file, problem)

    def _decoded(self, file: Path, stream: BufferedReader) -> Iterator[str]:
        """The lines, hashed as they are read."""
        number, start = 0, 0
        while raw := stream.readline(self._max_bytes + 1):
            number += 1
            if len(raw) > self._max_bytes:
                size = f"{self._max_bytes / 1e6:,.1f} MB"
                problem = f"is longer than {size}: write one rule a line, or raise max_file_mb"
                raise DocumentError(file, problem, line=number)
            self._take(raw)
            yield _text(file, number, start, raw)
            start += len(raw)


def _text(file: Path, number: int, start: int, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        problem = (
            f"byte {start + error.start} is not UTF-8, which a stream must be: save the file as "
            "UTF-8 (iconv -t UTF-8)"
        )
        raise DocumentError(file, problem, line=number) from error
    if "\x00" in text:
        position = start + raw.index(0)
        raise DocumentError(file, f"byte {position} is zero: this is no text file", line=number)
    return text.replace("\r\n", "\n")


def _json(document: Document, settings: Settings, lines: Lines) -> Iterator[_Read]:
    start = 0
    for line in lines:
        if line.strip():
            where = f"{document.path}, line {lines.number}"
            span = (start, lines.content_end)
            try:
                text = line.removesuffix("\n")
                yield _Read(json_row(document, settings, lines.number, text, span), where)
            except DocumentError as error:
                yield _Read(error, where)
        start = lines.end


def _csv(document: Document, settings: Settings, lines: Lines) -> Iterator[_Read]:
    columns: list[str] | None = None
    for record in csv_records(document, lines):
        if columns is None:
            columns = csv_columns(document, record.cells, record.number)
            continue
        where = f"{document.path}, line {record.number}"
        try:
            yield _Read(csv_row(document, settings, columns, record), where)
        except DocumentError as error:
            yield _Read(error, where)


def _sound(row: Row | DocumentError) -> Row:
    if isinstance(row, DocumentError):
        raise row
    return row


def _shown(file: Path) -> str:
    return "/".join(os.path.abspath(file).split(os.sep)[-2:])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise DocumentError(file, f"cannot be opened: {error.strerror}") from error


def _opened(file: Path) -> BufferedReader:
    if not file.is_file():
        raise DocumentError(file, "is no regular file: a stream has to be read twice")
    try:
        return file.open("rb")
    except OSError as error:
        raise DocumentError(file, f"cannot be opened: {error.strerror}") from error


def _sha256(stream: BufferedReader) -> str:
    """Of the whole file; it stands at its beginning again afterwards."""
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    stream.seek(0)
    return digest
