"""The file of a backup: every table of a book of record as it was at one moment.

A zip archive with a member of JSON lines for each table, and `manifest.json`, which is written
last, after all that stands before it was read again: an archive without it is no backup.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

from pydantic import Field, ValidationError

from comity.errors import MemoryDamaged, MemoryTooNew, NotFound, StoreError
from comity.memory.backup_tables import (
    DECISION,
    DECISION_TEXT,
    ERASED,
    IDENTITY,
    TABLES,
    Row,
    Source,
    Table,
    Target,
    Told,
    digest,
    line_of,
    row_of,
)
from comity.memory.entries import read_entry
from comity.memory.migrations import MIGRATIONS
from comity.records import Decision, Erasure, Record, Time

_VERSION = 1
_LEVEL = 1  # deflate: higher ones take many times as long for a tenth less
_MANIFEST = "manifest.json"
_MOST_LINE = 256 * 1024 * 1024
_KNOWN = {table.name: table for table in TABLES}
_UNREADABLE = (BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError, IndexError)


class BackupDamaged(StoreError):
    """A file that is no whole backup, or not as it was written."""


class Held(Record):
    """A table in a backup."""

    columns: tuple[str, ...] = Field(description="What stands in a line, in this order.")
    rows: int = Field(ge=0, description="How many lines there are.")
    sha256: str = Field(description="Of the lines, in hex.")


class Head(Record):
    """A tenant's chain of decisions in a backup."""

    tenant: str = Field(description="Whose it is.")
    entries: int = Field(ge=0, description="How many entries verify, from the first on.")
    last_hash: str = Field(description="Hash of the last of these.")
    broken: str = Field("", description="Where and why it does not hold; empty where it does.")


class Manifest(Record):
    """What a backup says of itself."""

    version: int = Field(_VERSION, description="Of the format of backups.")
    comity: str = Field(description="Version of Comity that made it.")
    made_at: Time = Field(description="When it was made.")
    memory: str = Field(description="Identity of the memory.")
    format: int = Field(ge=1, description="Number of the memory's last migration.")
    revision: int = Field(ge=0, description="The memory's revision at that moment.")
    tables: dict[str, Held] = Field(description="By name, in the order of filling.")
    chains: tuple[Head, ...] = Field((), description="Of each tenant that has decisions.")


def write_tables(source: Source, part: Path, made_at: datetime) -> Manifest:
    """Write all tables into a new archive, and tell what they are; chains are not looked at."""
    held: dict[str, Held] = {}
    latest = 0
    identity = ""
    with ZipFile(part, "w", ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for table in source.tables:
            told, last = _write(archive, table, source.rows(table))
            held[table.name] = Held(columns=table.columns, rows=told.rows, sha256=told.sha256)
            if table.name == "revision" and last:
                latest = last[0]
            if table == IDENTITY and last:
                identity = last[0]
    return Manifest(
        comity=version("comity"),
        made_at=made_at,
        memory=identity,
        format=source.format,
        revision=latest,
        tables=held,
    )


def _write(archive: ZipFile, table: Table, rows: Iterable[Row]) -> tuple[Told, Row]:
    counted, hashed, row = 0, hashlib.sha256(), ()
    with archive.open(_member(table), "w", force_zip64=True) as member:
        for row in rows:
            line = line_of(table, row)
            hashed.update(line)
            member.write(line)
            counted += 1
    return Told(counted, hashed.hexdigest()), row


def seal(part: Path, manifest: Manifest) -> None:
    """Put the manifest in: from now on the archive is a backup."""
    with ZipFile(part, "a", ZIP_DEFLATED) as archive:
        archive.writestr(_MANIFEST, manifest.model_dump_json(indent=2))


class Backup:
    """A backup that is read. Its rows are checked as they come."""

    def __init__(self, file: Path, manifest: Manifest | None = None) -> None:
        """`manifest` is that of an archive that has none yet.

        Raises `NotFound`, `BackupDamaged` for what is no whole backup, and `MemoryTooNew`.
        """
        self.file = file
        self.manifest = manifest or self._read_manifest()
        if self.manifest.version > _VERSION or self.manifest.format > len(MIGRATIONS):
            raise MemoryTooNew(
                f"{file} was made by a newer Comity ({self.manifest.comity}): upgrade with pip "
                "install -U comity"
            )
        self.tables = tuple(self._tables())

    @property
    def format(self) -> int:
        """As in `Source`."""
        return self.manifest.format

    def _read_manifest(self) -> Manifest:
        if not self.file.is_file():
            raise NotFound(f"there is no backup at {self.file}")
        with self._readable(), ZipFile(self.file) as archive:
            return Manifest.model_validate_json(archive.read(_MANIFEST))

    def _tables(self) -> Iterator[Table]:
        """The tables that it has, in the order of filling: names of others reach no statement."""
        told = self.manifest.tables
        if strange := sorted(told.keys() - _KNOWN.keys()):
            raise self._damaged(f"it has a table {strange[0]!r}")
        made = re.findall(r"CREATE TABLE (\w+)", "".join(MIGRATIONS[: self.format]))
        if missing := sorted(set(made) - told.keys()):
            raise self._damaged(f"it has no table {missing[0]!r}")
        for table in TABLES:
            columns = told[table.name].columns if table.name in told else None
            if columns is None:
                continue
            if not set(table.order) <= set(columns) <= set(table.columns):
                raise self._damaged(f"table {table.name} has other columns")
            yield table._replace(columns=columns)

    def rows(self, table: Table) -> Iterator[Row]:
        """As in `Source`. Raises `BackupDamaged` at the end where they are not what was written."""
        told = self.manifest.tables[table.name]
        counted, hashed = 0, hashlib.sha256()
        with self._readable(), ZipFile(self.file) as archive:
            with archive.open(_member(table)) as member:
                while line := member.readline(_MOST_LINE):
                    counted += 1
                    hashed.update(line)
                    yield row_of(table, line)
            if Told(counted, hashed.hexdigest()) != (told.rows, told.sha256):
                raise self._damaged(f"table {table.name} does not match its SHA-256")

    def chains(self) -> Iterator[tuple[str, Iterator[Decision | Erasure]]]:
        """Each tenant with its chain, oldest entry first; each is read before the next one."""
        decision, text, erased = (self._table(t) for t in (DECISION, DECISION_TEXT, ERASED))
        tenant_of = _Picked(decision, "tenant")
        texts, gone = _Beside(text, self.rows(text)), _Beside(erased, self.rows(erased))
        join = _Joined(decision, text, texts, gone)
        for (tenant,), rows in groupby(self.rows(decision), tenant_of):
            yield tenant, map(read_entry, map(join, rows))
            for _ in map(join, rows):  # where its reader has stopped before
                pass
        if join.rest():
            raise self._damaged("there are texts or erasures of decisions that it does not have")

    def _table(self, wanted: Table) -> Table:
        return next(table for table in self.tables if table.name == wanted.name)

    def check_rows(self) -> None:
        """Read all tables but those of `chains`. Raises `BackupDamaged`."""
        for table in self.tables:
            if table.name not in (DECISION.name, DECISION_TEXT.name, ERASED.name):
                for _ in self.rows(table):
                    pass

    def _damaged(self, problem: str) -> BackupDamaged:
        return BackupDamaged(
            f"{self.file} is no sound backup, but cut short, altered or something else "
            f"({problem}): use another one"
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except ValidationError as error:
            first = error.errors()[0]
            raise self._damaged(f"manifest: {first['loc']}: {first['msg']}") from error
        except _UNREADABLE as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise StoreError(f"{self.file} cannot be read: {error}") from error


class _Picked:
    """Some of the columns of a row."""

    def __init__(self, table: Table, *names: str) -> None:
        self._places = [table.columns.index(name) for name in names]

    def __call__(self, row: Row) -> Row:
        return tuple(row[place] for place in self._places)


class _Beside:
    """Rows that belong to some of the decisions that are asked for, in the order of asking."""

    def __init__(self, table: Table, rows: Iterator[Row]) -> None:
        self._rows, self._number = rows, _Picked(table, "number")
        self.next = next(rows, None)

    def of(self, number: int) -> Row | None:
        """The row of a decision's number, if there is one."""
        row = self.next
        if row is None or self._number(row) != (number,):
            return None
        self.next = next(self._rows, None)
        return row


class _Joined:
    """A row of a decision with its texts and its erasure, as `read_entry` takes it."""

    def __init__(self, decision: Table, text: Table, texts: _Beside, erased: _Beside) -> None:
        self._own = _Picked(decision, "number", "kind", "record", "hash")
        self._said = _Picked(text, "salt", "texts")
        self._texts, self._erased = texts, erased

    def __call__(self, row: Row) -> Row:
        own = self._own(row)
        gone, beside = self._erased.of(own[0]), self._texts.of(own[0])
        said = self._said(beside) if beside and not gone else (None, None)
        # a chain asks whether texts were erased, not when
        return (*own, *said, 0 if gone else None)

    def rest(self) -> bool:
        """Whether there is any row that belongs to no decision."""
        return self._texts.next is not None or self._erased.next is not None


def fill(target: Target, source: Source) -> None:
    """Copy all rows, then read them from the target and compare. Raises `MemoryDamaged`."""
    for table in source.tables:
        passing = _Passing(table, source.rows(table))
        target.insert(table, passing)
        if digest(table, target.rows(table)) != passing.told():
            raise MemoryDamaged(f"table {table.name} is not the same where it was written to")


class _Passing:
    """Rows that are counted and hashed as they pass."""

    def __init__(self, table: Table, rows: Iterator[Row]) -> None:
        self._table, self._rows = table, rows
        self._counted, self._hashed = 0, hashlib.sha256()

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self._counted += 1
            self._hashed.update(line_of(self._table, row))
            yield row

    def told(self) -> Told:
        """What has passed."""
        return Told(self._counted, self._hashed.hexdigest())


def _member(table: Table) -> str:
    return f"{table.name}.jsonl"


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
