"""Words of the rules that came since the last saved index, scored as tantivy scores the others."""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

K1 = 1.2  # tantivy's constants of BM25
B = 0.75


class Entry(NamedTuple):
    """One text: its position, its kind, and its terms with blanks between them."""

    position: int
    kind: int
    terms: str

    def length(self) -> int:
        """How many terms it has."""
        return self.terms.count(" ") + bool(self.terms)


class RecentWords:
    """The last texts, in memory. One thread appends at a time; any number search meanwhile."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: list[Entry] = list(entries)
        self._indexed = 0
        self._indexing = threading.Lock()
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: dict[int, int] = {}
        self._terms = 0

    def __len__(self) -> int:
        return len(self.entries)

    def scores(
        self,
        wanted: Iterable[str],
        rows: NDArray[np.bool_],
        texts: int,
        terms: int,
        frequency: Callable[[str], int],
    ) -> dict[int, float]:
        """Scores of the positions that are flagged in `rows` and hold a wanted term.

        `texts`, `terms` and `frequency` tell of the saved index: how many there are, and in how
        many of its texts a term stands.
        """
        self._index()
        scores: dict[int, float] = defaultdict(float)
        texts += len(self._lengths)
        average = (terms + self._terms) / texts if texts else 1.0
        for word in wanted:
            postings = self._postings.get(word)
            if not postings:
                continue
            held = len(postings) + frequency(word)
            idf = math.log1p((texts - held + 0.5) / (held + 0.5))
            for position, count in postings[:]:
                if position < len(rows) and rows[position]:
                    norm = K1 * (1 - B + B * self._lengths[position] / average)
                    scores[position] += idf * count * (K1 + 1) / (count + norm)
        return scores

    def _index(self) -> None:
        """Take in what was appended: when asked for, since most of an import never is."""
        if self._indexed == len(self.entries):
            return
        with self._indexing:
            for entry in self.entries[self._indexed :]:
                terms = entry.terms.split()
                self._lengths[entry.position] = len(terms)  # before the postings: no lock there
                self._terms += len(terms)
                for word, count in Counter(terms).items():
                    self._postings[word].append((entry.position, count))
                self._indexed += 1
