"""A scope as a filter of Milvus: an expression made of numbers and digests alone.

Tenants, places, labels and rule ids are written by people, and an expression is parsed by the
server. None of them is ever put into one: each is named by its digest, 32 hexadecimal digits, on
both sides. So there is nothing to quote and nothing to escape, and a name has no length limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import NewType

from comity.memory.places import ancestors
from comity.memory.store import to_micros
from comity.records import WORLD, Scope

Digest = NewType("Digest", bytes)
"""16 bytes that stand for a name."""

NEVER = 2**62
"""Later than any moment and any revision; its negative is earlier than all."""
_DIGEST_BYTES = 16  # as many as an accident or an attacker would need 2**64 names to match


def digest_of(name: str) -> Digest:
    """The digest of a name: the first half of its SHA-256."""
    return Digest(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES])


def label_digest(label: str) -> Digest:
    """The digest of an audience's label, whose letters may be upper or lower case."""
    return digest_of(label.casefold())


@dataclass(frozen=True)
class MilvusScope:
    """What applies in one scope, as conditions on the fields of a collection."""

    tenant: Digest
    places: tuple[Digest, ...]
    labels: tuple[Digest, ...]
    at: int
    """Microseconds since 1970 UTC: when the facts happened."""
    known: int
    """The revision whose knowledge holds."""
    revision: int
    """Revision of the memory that the scope was admitted at."""

    @property
    def side_by_side(self) -> bool:
        """Two requests travel and are worked on at the same time."""
        return True

    def digest(self) -> bytes:
        """Names the scope to the microsecond: which rules it admits, only the server knows."""
        return hashlib.sha256(self.expression.encode("ascii")).digest()

    @cached_property
    def expression(self) -> str:
        """The filter, in Milvus's language."""
        whom = "everybody == true"
        if self.labels:
            whom = f"({whom} or array_contains_any(labels, {listed(self.labels)}))"
        return " and ".join(
            (
                f"tenant == {_quoted(self.tenant)}",
                f"place in {listed(self.places)}",
                whom,
                f"known_from <= {self.known:d}",
                f"known_to > {self.known:d}",
                f"starts <= {self.at:d}",
                f"ended > {self.at:d}",
            )
        )


def admitted(scope: Scope, revision: int) -> MilvusScope:
    """What applies in a scope, of what the memory holds at a revision."""
    places = {place for named in scope.place for place in ancestors(named)} or {WORLD}
    return MilvusScope(
        tenant=digest_of(scope.tenant),
        places=_digests(places),
        labels=tuple(sorted({label_digest(label) for label in scope.audience})),
        at=to_micros(scope.at or datetime.now(UTC)),
        known=revision if scope.as_of is None else min(scope.as_of, revision),
        revision=revision,
    )


def declaring(rule_ids: Iterable[str]) -> str:
    """The filter of rules that declare a conflict with one of these."""
    return f"array_contains_any(overrides, {listed(_digests(rule_ids))})"


def among(rows: Iterable[int]) -> str:
    """The filter of these rows of the book."""
    return f"row in [{', '.join(f'{row:d}' for row in rows)}]"


def labels_of(tenant: str) -> str:
    """The filter of the entries that hold a tenant's labels (see `milvus_entries`)."""
    return f"tenant == {_quoted(digest_of(tenant))} and known_from == {LABEL:d}"


MARK, LABEL = -1, -2
"""`known_from` of entries that are no rules: how far the book was followed, and labels."""


def _digests(names: Iterable[str]) -> tuple[Digest, ...]:
    return tuple(sorted({digest_of(name) for name in names}))


def _quoted(digest: Digest) -> str:
    return f'"{digest.hex()}"'


def listed(digests: Iterable[Digest]) -> str:
    """Digests as a list of the expression language."""
    return f"[{', '.join(map(_quoted, digests))}]"
