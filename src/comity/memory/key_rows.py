"""Keys of the gateway as rows of a table, as every SQL book of record keeps and reads them."""

from __future__ import annotations

from typing import Any

from comity.errors import NotFound
from comity.memory.store import AccessKey, from_micros, to_micros

Row = tuple[Any, ...]

COLUMNS = "hash, id, tenant, role, note, made_at, revoked_at"
"""What `key_row` gives."""


def key_row(key: AccessKey) -> Row:
    """A key as a row."""
    revoked = to_micros(key.revoked_at) if key.revoked_at else None
    return key.hash, key.id, key.tenant, key.role, key.note, to_micros(key.made_at), revoked


def read_key(row: Row) -> AccessKey:
    """A key from the columns of `COLUMNS`."""
    hashed, name, tenant, role, note, made, revoked = row
    return AccessKey(
        hash=hashed,
        id=name,
        tenant=tenant,
        role=role,
        note=note,
        made_at=from_micros(made),
        revoked_at=None if revoked is None else from_micros(revoked),
    )


def no_key(key_id: str) -> NotFound:
    """The error for a key that is not there."""
    return NotFound(f"no key {key_id!r}: comity keys list shows them")
