"""Rules of one import that say the same: reported, never dropped.

Two texts are near when the Jaccard similarity of their shingles (runs of four characters) is at
least .9. Candidates come from prefix filtering: with a text's shingles ordered from rare to
common, two texts that similar share one of the first tenth. That is exact, where MinHash misses
some, needs numpy only, and each rule meets just the few that share a rare shingle with it.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from comity.records import Record, Rule

SHINGLE = 4
NEAR = 0.9
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)


class Duplicate(Record):
    """Two rules that say the same, or nearly so."""

    id: str = Field(description="Id of the rule.")
    version: int = Field(ge=1, description="Its version.")
    of: str = Field(description="Id of the earlier rule that it resembles.")
    of_version: int = Field(ge=1, description="That rule's version.")
    kind: Literal["exact", "near"] = Field(description="`exact` up to width, case and spaces.")
    similarity: float = Field(ge=0, le=1, description="Jaccard similarity of their shingles.")


def find_duplicates(rules: Sequence[Rule], near: float = NEAR) -> list[Duplicate]:
    """Report every rule that is the same as an earlier one, or near it.

    A rule is reported once, against the earliest rule that it resembles most; rules that are
    themselves reported are not compared with again, so that a hundred equal texts give 99
    records and not 4,950. Versions of one rule are not duplicates of each other.
    """
    found: list[Duplicate] = []
    first_with: dict[str, Rule] = {}
    distinct: list[Rule] = []
    texts: list[str] = []
    for rule in rules:
        text = _plain(rule.text)
        first = first_with.setdefault(text, rule)
        if first is rule:
            distinct.append(rule)
            texts.append(text)
        elif first.id != rule.id:
            found.append(_duplicate(rule, first, "exact", 1.0))
    return [*found, *_near(distinct, texts, near)]


def _duplicate(
    rule: Rule, of: Rule, kind: Literal["exact", "near"], similarity: float
) -> Duplicate:
    return Duplicate(
        id=rule.id,
        version=rule.version,
        of=of.id,
        of_version=of.version,
        kind=kind,
        similarity=round(similarity, 4),
    )


def _near(rules: Sequence[Rule], texts: Sequence[str], near: float) -> list[Duplicate]:
    found: list[Duplicate] = []
    holders: dict[int, list[int]] = {}
    shingles = _shingles(texts)
    sets: list[frozenset[int]] = []
    for i, ordered in enumerate(shingles):
        mine = ordered.tolist()
        sets.append(frozenset(mine))
        prefix = mine[: len(mine) - math.ceil(near * len(mine)) + 1]
        candidates = {j for shingle in prefix for j in holders.get(shingle, ())}
        others = [j for j in candidates if rules[j].id != rules[i].id]
        best = max(((_jaccard(sets[i], sets[j], near), -j) for j in others), default=(0.0, 0))
        if best[0] >= near:
            found.append(_duplicate(rules[i], rules[-best[1]], "near", best[0]))
            continue
        for shingle in prefix:
            holders.setdefault(shingle, []).append(i)
    return found


def _jaccard(a: frozenset[int], b: frozenset[int], near: float) -> float:
    """Similarity of two sets; 0 where their sizes alone rule out that it reaches `near`."""
    if min(len(a), len(b)) < near * max(len(a), len(b)):
        return 0.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _shingles(texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """The distinct shingles of each text, numbered from the rarest to the most common."""
    hashes = [_hashes(text) for text in texts]
    if not any(len(one) for one in hashes):
        return [np.empty(0, np.int64) for _ in texts]
    owner = np.repeat(np.arange(len(texts)), [len(one) for one in hashes])
    _, inverse, counts = np.unique(np.concatenate(hashes), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))
    ranked = rank[inverse]
    order = np.lexsort((ranked, owner))
    bounds = np.cumsum([len(one) for one in hashes])[:-1]
    return list(np.split(ranked[order], bounds))


def _hashes(text: str) -> NDArray[np.uint64]:
    """A 64-bit hash of each distinct shingle; none for a text shorter than one."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    if len(codes) < SHINGLE:
        return np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE)
    mixed = (windows * np.array(_FACTORS, np.uint64)).sum(axis=1, dtype=np.uint64)
    return np.unique(mixed ^ (mixed >> np.uint64(29)))


def _plain(text: str) -> str:
    """The text without differences of width, case and spacing."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
