"""`documents.toml`: what a folder says about its files."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from comity.documents.fields import DeclaredPlace, RuleDefaults, explain, unknown_names
from comity.errors import DocumentError
from comity.records import Record, Rule

NAME = "documents.toml"
_ARTICLE_FIELDS = tuple(name for name in Rule.model_fields if name not in ("text", "source"))


class DocumentEntry(RuleDefaults):
    """What a manifest says about one file."""

    file: str = Field(min_length=1, description="Path, seen from the manifest's folder.")
    id: str = Field("", description="Start of its rules' ids; the title if empty.")
    title: str = Field("", description="Title; what the document itself shows if empty.")
    article: dict[str, dict[str, Any]] = Field({}, description="Fields of single articles.")


class Manifest(Record):
    """A folder's manifest."""

    path: Path = Field(description="Where it is.")
    places: tuple[DeclaredPlace, ...] = Field((), description="Places, wide to narrow.")
    documents: tuple[DocumentEntry, ...] = Field((), description="In the order to be read.")

    def files(self) -> dict[Path, DocumentEntry]:
        """The entry of each file, by its resolved path."""
        return {(self.path.parent / entry.file).resolve(): entry for entry in self.documents}


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises `DocumentError` naming its line: malformed TOML, an unknown key (with near ones), a
    value that cannot be used, a file that is not there or is named twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise DocumentError(path, f"byte {error.start} is not UTF-8; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) if found else None
        raise DocumentError(path, f"malformed TOML: {error}", line=line) from error
    _known(path, content, ("place", "document"), "table", None)
    places = [
        DeclaredPlace.model_validate(_checked(path, text, "place", n, raw, DeclaredPlace))
        for n, raw in enumerate(_tables(path, content, "place"))
    ]
    entries = [
        DocumentEntry.model_validate(_checked(path, text, "document", n, raw, DocumentEntry))
        for n, raw in enumerate(_tables(path, content, "document"))
    ]
    _check_files(path, text, entries)
    return Manifest(path=path, places=tuple(places), documents=tuple(entries))


def _tables(path: Path, content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    tables = content.get(name, [])
    if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
        raise DocumentError(path, f"{name} must be written as [[{name}]] tables")
    return tables


def _checked(
    path: Path, text: str, table: str, n: int, raw: dict[str, Any], model: type[Record]
) -> dict[str, Any]:
    """The table as it is, once its keys and values are known to be good."""
    line = _line_of_table(text, f"[[{table}]]", n)
    _known(path, raw, tuple(model.model_fields), "key", line)
    articles = raw.get("article", {})
    for name, fields in articles.items() if isinstance(articles, Mapping) else ():
        if isinstance(fields, Mapping):
            _known(path, fields, _ARTICLE_FIELDS, f"key of article {name!r},", line)
    try:
        model.model_validate(raw)
    except ValidationError as error:
        raise DocumentError(path, explain(error), line=line) from error
    return raw


def _known(
    path: Path, given: Mapping[str, Any], known: tuple[str, ...], kind: str, line: int | None
) -> None:
    problem = unknown_names(given, known, kind)
    if problem:
        raise DocumentError(path, problem, line=line)


def _check_files(path: Path, text: str, entries: list[DocumentEntry]) -> None:
    seen: dict[Path, int] = {}
    for n, entry in enumerate(entries):
        line = _line_of_table(text, "[[document]]", n)
        file = (path.parent / entry.file).resolve()
        if not file.is_file():
            problem = f"names the file {entry.file!r}, which is not there; correct or remove it"
            raise DocumentError(path, problem, line=line)
        if file in seen:
            problem = f"names the file {entry.file!r} a second time (first: line {seen[file]})"
            raise DocumentError(path, problem, line=line)
        seen[file] = line or 0


def _line_of_table(text: str, header: str, n: int) -> int | None:
    """Line of the n-th header of that name, as far as it is written alone on its line."""
    pattern = re.compile(r"\[\[\s*" + header.strip("[]") + r"\s*\]\]")
    lines = [i for i, line in enumerate(text.splitlines(), 1) if pattern.match(line.strip())]
    return lines[n] if n < len(lines) else None
