"""The tables of a book of record as a backup has them, whatever engine keeps them.

Both engines have these tables with these columns, and keep the same bytes in them; what an engine
has besides (columns it computes, counters, indexes) it makes anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

Row = tuple[Any, ...]

_PLAIN = (int, str, type(None))


class Table(NamedTuple):
    """A table in a backup."""

    name: str
    columns: tuple[str, ...]
    order: tuple[str, ...]
    """What rows are sorted by; texts by code points."""
    by_tenant: bool = False
    """Sorted by tenant first: read one tenant after the other."""
    of_decision: bool = False
    """Belongs to rows of `decision` by its `number`, and goes by their tenant."""
    binary: bool = False
    """Holds bytes, which are written in hex."""


DECISION = Table(
    "decision",
    ("number", "tenant", "id", "made_at", "revision", "record", "hash", "kind"),
    ("number",),
    by_tenant=True,
)
DECISION_TEXT = Table(
    "decision_text",
    ("number", "tenant", "person", "salt", "texts"),
    ("number",),
    by_tenant=True,
    of_decision=True,
)
ERASED = Table("erased", ("number", "entry"), ("number",), by_tenant=True, of_decision=True)
IDENTITY = Table("identity", ("value",), ("value",))

TABLES: tuple[Table, ...] = (
    IDENTITY,
    Table("person_key", ("value",), ("value",), binary=True),
    Table("revision", ("number", "tenant", "made_at", "kind", "author", "note"), ("number",)),
    Table(
        "rule",
        (
            *("row", "tenant", "id", "version", "revision", "place", "audience", "domain"),
            *("authority", "valid_from", "valid_to", "status", "mandatory", "overrides", "record"),
        ),
        ("row",),
    ),
    Table("place", ("tenant", "code", "names", "revision"), ("tenant", "code")),
    DECISION,
    DECISION_TEXT,
    ERASED,
    Table(
        "access_key",
        ("hash", "id", "tenant", "role", "note", "made_at", "revoked_at"),
        ("id",),
    ),
    Table(
        "judged_pair",
        ("tenant", "id", "one", "other", "verdict", "decided", "record"),
        ("id",),
        by_tenant=True,
    ),
    Table(
        "pair_decision",
        (
            *("number", "tenant", "pair", "decided", "author", "note", "made_at"),
            *("winner", "winner_version"),
        ),
        ("number",),
        by_tenant=True,
    ),
    Table("begun", ("tenant", "id", "made_at", "record"), ("tenant", "id")),
    Table(
        "preference",
        ("number", "tenant", "drawer", "person", "record"),
        ("number",),
        by_tenant=True,
    ),
)
"""In an order in which they can be filled: what is referred to comes first."""


class Source(Protocol):
    """A book of record as it was at one moment."""

    @property
    def format(self) -> int:
        """Number of the last migration that has been applied."""

    @property
    def tables(self) -> Sequence[Table]:
        """What there is to read, in an order in which it can be filled."""

    def rows(self, table: Table) -> Iterator[Row]:
        """All rows of a table, in its order. Raises `StoreError`."""


class Target(Source, Protocol):
    """An empty book of record that is being filled: all of it, or nothing."""

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Put rows into a table. Raises `StoreError`."""


def selecting(table: Table, schema: str = "", mark: str = "?") -> str:
    """The query for a table's rows in their order; of the tenant `mark` if `by_tenant`."""
    columns = ", ".join(f'{table.name}."{name}"' for name in table.columns)
    order = ", ".join(f'{table.name}."{name}"' for name in table.order)
    owner = "decision" if table.of_decision else table.name
    origin = f"{schema}{table.name}"
    if table.of_decision:
        origin = f"{schema}decision JOIN {origin} ON {table.name}.number = decision.number"
        order = "decision.number"
    where = f"WHERE {owner}.tenant = {mark} " if table.by_tenant else ""
    return f"SELECT {columns} FROM {origin} {where}ORDER BY {order}"


def line_of(table: Table, row: Row) -> bytes:
    """A row as a line: a JSON array."""
    values = [bytes(value).hex() for value in row] if table.binary else row
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def row_of(table: Table, line: bytes) -> Row:
    """The row of a line. Raises `ValueError`."""
    values = json.loads(line)
    if not isinstance(values, list) or len(values) != len(table.columns):
        raise ValueError(f"a line of {table.name} has no {len(table.columns)} values")
    if not all(type(value) in _PLAIN for value in values):
        raise ValueError(f"a line of {table.name} has a value that no table holds")
    return tuple(map(bytes.fromhex, values)) if table.binary else tuple(values)


class Told(NamedTuple):
    """What rows amount to."""

    rows: int
    sha256: str


def digest(table: Table, rows: Iterable[Row]) -> Told:
    """The number of rows, and the SHA-256 of their lines."""
    counted, hashed = 0, hashlib.sha256()
    for row in rows:
        counted += 1
        hashed.update(line_of(table, row))
    return Told(counted, hashed.hexdigest())
