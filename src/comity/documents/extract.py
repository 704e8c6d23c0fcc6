"""From files and folders to rules.

Settings are taken in this order, later ones winning: the import's defaults, the manifest's entry
for the file, and the manifest's table for the article or the row's own fields. Only what one of
them gives is set on a rule, so that an importer can tell it from what is left to be inherited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from comity.documents.clean import language_of
from comity.documents.duplicates import Duplicate, find_duplicates
from comity.documents.fields import (
    DeclaredPlace,
    PlaceOf,
    Places,
    Row,
    RuleDefaults,
    rule_of,
    unknown_names,
)
from comity.documents.manifest import NAME, DocumentEntry, Manifest, read_manifest
from comity.documents.naming import article_name, ids_of
from comity.documents.read import FORMATS, MAX_BYTES, Document, read
from comity.documents.rows import Settings, csv_rows, json_rows
from comity.documents.split import LONGEST, split
from comity.errors import DocumentError, DuplicateRule
from comity.records import Record, Rule


class ReadDocument(Record):
    """A file that rules were made from."""

    path: Path = Field(description="Where the file is.")
    id: str = Field(description="Start of its rules' ids.")
    sha256: str = Field(description="SHA-256 of its bytes, in hex.")
    rules: int = Field(ge=0, description="How many rules it gave.")


class Extraction(Record):
    """What an import brings."""

    rules: tuple[Rule, ...] = Field((), description="In the order of the files and their texts.")
    duplicates: tuple[Duplicate, ...] = Field((), description="Rules that say the same.")
    documents: tuple[ReadDocument, ...] = Field((), description="The files, in reading order.")
    places: tuple[DeclaredPlace, ...] = Field((), description="Places that manifests declare.")
    skipped: tuple[Path, ...] = Field((), description="Files in folders that nothing can read.")


TextOf = Callable[[str], str]
"""Text of a rule that a memory holds already, by id; empty for one it does not."""


def nothing_held(id_: str) -> str:
    """No text: what `extract` uses without a memory."""
    return ""


def as_given(place: str) -> str:
    """The place as it is written: what `extract` uses without a gazetteer."""
    return place


def extract(
    paths: Sequence[Path],
    defaults: RuleDefaults | None = None,
    place_of: PlaceOf = as_given,
    *,
    text_of: TextOf = nothing_held,
    max_bytes: int = MAX_BYTES,
    longest: int = LONGEST,
) -> Extraction:
    """Read files and folders and make rules of them: all of them, or an error.

    `place_of` gives the canonical code of a place or raises `UnknownPlace`; `text_of` the
    text of a rule that is repealed without one; `longest` is the number of characters from which
    an article is cut. Raises `DocumentError` naming file and
    line, and `DuplicateRule` naming both places where an id and version stand twice.
    """
    found = find_files(paths)
    files, entries, declared = found.files, found.entries, found.places
    places = Places(declared, place_of)
    given = (defaults or RuleDefaults()).given()
    rows: list[Row] = []
    documents: list[ReadDocument] = []
    for file in files:
        entry = entries.get(file.resolve())
        made = rows_of(read(file, max_bytes), entry, given, places, longest)
        rows += made.rows
        documents.append(made.document)
    rules = [rule_of(row, places) for row in _with_repealed_texts(rows, text_of)]
    _refuse_doubles(rules, rows)
    return Extraction(
        rules=tuple(rules),
        duplicates=tuple(find_duplicates(rules)),
        documents=tuple(documents),
        places=declared,
        skipped=found.skipped,
    )


def extract_document(
    document: Document,
    defaults: RuleDefaults | None = None,
    place_of: PlaceOf = as_given,
    *,
    text_of: TextOf = nothing_held,
    longest: int = LONGEST,
) -> Extraction:
    """`extract` for a document that was read already: no file and no manifest is looked for."""
    places = Places((), place_of)
    found = rows_of(document, None, (defaults or RuleDefaults()).given(), places, longest)
    rules = [rule_of(row, places) for row in _with_repealed_texts(found.rows, text_of)]
    _refuse_doubles(rules, found.rows)
    return Extraction(
        rules=tuple(rules),
        duplicates=tuple(find_duplicates(rules)),
        documents=(found.document,),
    )


def rules_from(
    path: Path, defaults: RuleDefaults | None = None, place_of: PlaceOf = as_given
) -> Extraction:
    """`extract` for one file or folder."""
    return extract([path], defaults, place_of)


def collect(paths: Iterable[Path]) -> list[Path]:
    """The files to read: those named, and all readable ones in the folders named, sorted.

    Hidden files, office programs' lock files (`~$…`) and manifests are left out, and no file
    comes twice. Raises `DocumentError` for a path that is not there and a folder without
    readable files.
    """
    return _sorted_out(paths)[0]


def _sorted_out(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Files to read, and files in folders that have no format of ours."""
    chosen: dict[Path, Path] = {}
    skipped: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if path.name != NAME:
                chosen.setdefault(path.resolve(), path)
            continue
        inside = sorted(file for file in path.rglob("*") if _is_visible(file, path))
        readable = [file for file in inside if file.suffix.lower() in FORMATS]
        if not readable:
            raise DocumentError(path, f"holds no readable file; readable are {', '.join(FORMATS)}")
        for file in readable:
            chosen.setdefault(file.resolve(), file)
        skipped += [file for file in inside if file not in readable]
    return list(chosen.values()), skipped


class Files(NamedTuple):
    """The files of an import, and what manifests say of them."""

    files: list[Path]
    """In the order in which they are read."""
    entries: dict[Path, DocumentEntry]
    """By resolved path."""
    places: tuple[DeclaredPlace, ...]
    skipped: tuple[Path, ...]
    """Files in folders that have no format of ours."""


def find_files(paths: Sequence[Path]) -> Files:
    """The files to read, in the order of their manifests, and these. Raises `DocumentError`."""
    files, skipped = _sorted_out(paths)
    manifests = _manifests(paths, files)
    entries = {file: entry for one in manifests for file, entry in one.files().items()}
    places = tuple(place for one in manifests for place in one.places)
    return Files(_in_manifest_order(files, entries), entries, places, tuple(skipped))


def _is_visible(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    hidden = any(part.startswith((".", "~$")) for part in parts)
    return file.is_file() and not hidden and file.name != NAME


def _manifests(paths: Sequence[Path], files: Sequence[Path]) -> list[Manifest]:
    """Manifests in the folders named and beside the files to read; a shorter path first."""
    folders = {path for path in paths if path.is_dir()} | {file.parent for file in files}
    found = {(folder / NAME).resolve(): folder / NAME for folder in folders}
    existing = [path for path in found.values() if path.is_file()]
    return [read_manifest(path) for path in sorted(existing, key=lambda p: (len(p.parts), p))]


def _in_manifest_order(files: list[Path], entries: dict[Path, DocumentEntry]) -> list[Path]:
    order = {file: n for n, file in enumerate(entries)}
    return sorted(files, key=lambda file: order.get(file.resolve(), len(order)))


class Made(Record):
    """What one file gave."""

    rows: list[Any] = Field(description="Its `Row`s, in order.")
    document: ReadDocument = Field(description="The file.")


def rows_of(
    document: Document,
    entry: DocumentEntry | None,
    given: dict[str, Any],
    places: Places,
    longest: int,
) -> Made:
    """The rows of one file, with the settings of its manifest entry."""
    given = {**given, **(entry.given() if entry else {})}
    title = entry.title if entry else ""
    if document.format in ("csv", "jsonl"):
        id_ = (entry and (entry.id or entry.title)) or document.stem
        titled = {**given, "title": title} if title else given
        settings = Settings(id_, titled, places)
        read_rows = csv_rows if document.format == "csv" else json_rows
        rows = list(read_rows(document, settings))
    else:
        passages = split(document, longest, title)
        if not passages:
            raise DocumentError(document.path, "has headings but no text to make rules from")
        id_ = (entry and entry.id) or passages[0].title.partition(" > ")[0]
        rows = [
            _row(document, given, rule_id, passage.model_dump())
            for rule_id, passage in zip(ids_of(document, id_, passages), passages, strict=True)
        ]
    if entry:
        rows = _with_article_tables(rows, entry, document)
    made = ReadDocument(path=document.path, id=id_, sha256=document.sha256, rules=len(rows))
    return Made(rows=rows, document=made)


def _row(document: Document, given: dict[str, Any], id_: str, passage: dict[str, Any]) -> Row:
    start, end = passage["start"], passage["end"]
    fields = {
        "language": language_of(passage["text"]),
        **given,
        "id": id_,
        "text": passage["text"],
        "title": passage["title"],
        "source": {
            "document": document.name,
            "sha256": document.sha256,
            "start": start,
            "end": end,
        },
    }
    if passage["article"]:
        fields["article"] = passage["article"]
    line = document.line_of(start) if document.has_lines else None
    return Row(fields, document.path, line, document.where(start))


def _with_article_tables(rows: list[Row], entry: DocumentEntry, document: Document) -> list[Row]:
    """The rows with what the manifest says about single articles (or ids)."""
    names = {article_name(str(row.fields.get("article", ""))): None for row in rows}
    known = [*filter(None, names), *(str(row.fields["id"]) for row in rows)]
    problem = unknown_names(entry.article, known, "article")
    if problem:
        problem = problem.partition("; known are")[0]
        raise DocumentError(document.path, f"{NAME} names an article that is not in it: {problem}")
    return [row._replace(fields={**row.fields, **_table_for(row, entry)}) for row in rows]


def _table_for(row: Row, entry: DocumentEntry) -> dict[str, Any]:
    article = article_name(str(row.fields.get("article", "")))
    return {**entry.article.get(article, {}), **entry.article.get(str(row.fields["id"]), {})}


def _with_repealed_texts(rows: Sequence[Row], text_of: TextOf) -> list[Row]:
    """Repeals without a text get that of the version before, from this import or the memory."""
    texts: dict[str, dict[int, str]] = {}
    for row in rows:
        if row.fields.get("text"):
            versions = texts.setdefault(str(row.fields["id"]), {})
            versions[version_of(row)] = str(row.fields["text"])
    return [with_text(row, texts.get(str(row.fields["id"]), {}), text_of) for row in rows]


def with_text(row: Row, versions: Mapping[int, str], text_of: TextOf) -> Row:
    """A repeal without a text gets that of the version before, or that which `text_of` knows."""
    if row.fields.get("text") or row.fields.get("status") != "repealed":
        return row
    earlier = [number for number in versions if number < version_of(row)]
    text = versions[max(earlier)] if earlier else text_of(str(row.fields["id"]))
    return row._replace(fields={**row.fields, "text": text}) if text else row


def version_of(row: Row) -> int:
    """The version that a row states; 1 where it states none, or none that can be read."""
    version = str(row.fields.get("version", 1))
    return int(version) if version.isascii() and version.isdigit() else 1


def _refuse_doubles(rules: Sequence[Rule], rows: Sequence[Row]) -> None:
    seen: dict[tuple[str, str, int], Row] = {}
    for rule, row in zip(rules, rows, strict=True):
        first = seen.setdefault((rule.tenant, *rule.key), row)
        if first is not row:
            raise DuplicateRule(
                f"rule {rule.id!r}, version {rule.version}, stands twice: "
                f"{first.path}, {first.where}, and {row.path}, {row.where}; "
                f"give one of them another id or version, or its document an id in {NAME}"
            )
