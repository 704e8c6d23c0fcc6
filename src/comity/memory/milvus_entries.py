"""What stands in a Milvus collection: rule versions as the memory held them, from when to when.

An entry is one version between two revisions: until the version that takes its place was
recorded, a rule was in force without end; from that revision on, until the other one begins. An
entry is never wrong for the revisions that it names, so a search of any revision, a past one or
the last, is one filter, and what is being written for a newer one is not seen. Drafts and repeals
are in force at no time: they have no entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.errors import StoreError
from comity.memory.milvus_scope import (
    LABEL,
    MARK,
    NEVER,
    Digest,
    digest_of,
    label_digest,
)
from comity.memory.store import StoredRule, to_micros
from comity.memory.words import words
from comity.records import Rule

MOST_LABELS = 4096
"""What an array of Milvus holds at most."""
MOST_BYTES = 65_535
"""Of a text in Milvus."""
_REVISION_BITS = 31
_MOST_ROWS = 2**32
_MARK_ID = -1
_NO_WORDS = "e"  # no token is like it: see `token`

Entry = dict[str, Any]


class Mark(NamedTuple):
    """How far the book of record was followed."""

    row: int = 0
    """The last row whose entries are there."""
    revision: int = 0
    """The last revision all of whose rows are there."""
    last_rule: str = ""
    """What names that row's rule: another history of the book has another one there."""


class Held(NamedTuple):
    """A version as the memory held it from one revision on and before another."""

    stored: StoredRule
    known_from: int
    known_to: int
    starts: int
    ended: int

    @property
    def id(self) -> int:
        """Number of the entry: the book's row and the revision, so that it is written once."""
        if self.stored.row >= _MOST_ROWS or self.known_from >= 2**_REVISION_BITS:
            raise StoreError(
                f"row {self.stored.row}, revision {self.known_from}: an index in Milvus counts up "
                "to 4 billion rule versions and 2 billion revisions"
            )
        return self.stored.row << _REVISION_BITS | self.known_from


def row_of(entry_id: int) -> int:
    """The book's row of an entry."""
    return entry_id >> _REVISION_BITS


def held(versions: Sequence[StoredRule]) -> Iterator[Held]:
    """How the memory held the versions of one rule, oldest first, over all its revisions."""
    for number, stored in enumerate(versions):
        if stored.rule.status == "active":
            yield from _held(stored, versions[number + 1 :])


def _held(stored: StoredRule, later: Iterable[StoredRule]) -> Iterator[Held]:
    starts = to_micros(stored.rule.valid_from) if stored.rule.valid_from else -NEVER
    ended = to_micros(stored.rule.valid_to) if stored.rule.valid_to else NEVER
    since = stored.revision
    for successor in later:
        begins = successor.rule.valid_from
        until = to_micros(begins) if begins else -NEVER
        if successor.rule.status == "draft" or until >= ended:
            continue
        if starts < ended and since < successor.revision:
            yield Held(stored, since, successor.revision, starts, ended)
        since, ended = successor.revision, until
    if starts < ended:
        yield Held(stored, since, NEVER, starts, ended)


def undone(versions: Sequence[StoredRule], row: int) -> list[Held]:
    """What stands for the versions of one rule before a row, and with the later ones no longer.

    That is so only where a revision goes on at the row, and its rows are written in two batches.
    Each is given as held by no revision, to be written in the place of what stands there.
    """
    now = {version.id for version in held(versions)}
    before = held([stored for stored in versions if stored.row < row])
    return [each._replace(known_to=each.known_from) for each in before if each.id not in now]


def token(term: str) -> str:
    """A term of `words` in ASCII letters and digits, which every analyzer keeps as one token."""
    if term.isascii() and term.isalnum():
        return f"a{term}"
    return f"u{term.encode('utf-16-be', 'surrogatepass').hex()}"


def tokens(text: str) -> str:
    """The words of a text for Milvus; cut where it can hold no more (over 6,000 characters)."""
    joined = " ".join(map(token, words(text)))
    if len(joined) > MOST_BYTES:
        joined = joined[:MOST_BYTES].rpartition(" ")[0]
    return joined or _NO_WORDS


def asked(text: str) -> str:
    """The words of a question, each once; empty where it has none."""
    return " ".join(map(token, dict.fromkeys(words(text))))


def rule_entry(version: Held, vector: NDArray[np.float32]) -> Entry:
    """The entry of a rule version, with its unit vector of shape (dimension,)."""
    rule = version.stored.rule
    return {
        "id": version.id,
        "row": version.stored.row,
        "tenant": digest_of(rule.tenant).hex(),
        "place": digest_of(rule.place).hex(),
        "everybody": not rule.audience,
        "labels": _array(rule, "audience", map(label_digest, rule.audience)),
        "overrides": _array(rule, "overrides", map(digest_of, rule.overrides)),
        "mandatory": rule.mandatory,
        "known_from": version.known_from,
        "known_to": version.known_to,
        "starts": version.starts,
        "ended": version.ended,
        "words": tokens(rule.indexed_text),
        "note": "",
        "vector": vector,
    }


def _array(rule: Rule, field: str, digests: Iterable[Digest]) -> list[str]:
    found = sorted({digest.hex() for digest in digests})
    if len(found) > MOST_LABELS:
        raise StoreError(
            f"rule {rule.id!r}: {field} has {len(found)} names, and Milvus holds {MOST_LABELS}: "
            "make several rules of it"
        )
    return found


def label_entry(tenant: str, label: str, dimension: int) -> Entry:
    """The entry that holds one label of a tenant's rules."""
    if len(label.encode("utf-8", "surrogatepass")) > MOST_BYTES:
        raise StoreError(f"the audience {label[:40]!r}… is longer than Milvus can hold")
    name = digest_of(f"{digest_of(tenant).hex()} {label}")
    number = int.from_bytes(name[:8]) >> 2
    entry = _aside(-2 - number, LABEL, label, dimension)
    return entry | {"tenant": digest_of(tenant).hex()}


def mark_entry(mark: Mark, dimension: int) -> Entry:
    """The entry that holds the mark."""
    return _aside(_MARK_ID, MARK, json.dumps(mark._asdict()), dimension)


def mark_of(entries: Sequence[Mapping[str, Any]]) -> Mark:
    """The mark of the entries found under its id; of none, the mark of an empty collection."""
    return Mark(**json.loads(entries[0]["note"])) if entries else Mark()


MARK_IDS = [_MARK_ID]
"""Under which the mark's entry stands."""


def _aside(number: int, kind: int, note: str, dimension: int) -> Entry:
    """An entry that no scope admits: it was known to no revision."""
    vector = np.zeros(dimension, np.float32)
    vector[0] = 1.0
    return {
        "id": number,
        "row": 0,
        "tenant": digest_of("").hex(),
        "place": digest_of("").hex(),
        "everybody": False,
        "labels": [],
        "overrides": [],
        "mandatory": False,
        "known_from": kind,
        "known_to": kind,
        "starts": NEVER,
        "ended": -NEVER,
        "words": _NO_WORDS,
        "note": note,
        "vector": vector,
    }
