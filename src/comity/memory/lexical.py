"""Words under a mask, ranked by BM25, with tantivy.

A large body of rules lies in a tantivy index that is never changed while it is open; rules that
came since lie in memory and are scored by the same formula with the same statistics, so that a
change is found at once and several processes can share the files.
"""

from __future__ import annotations

import math
import re
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comity.memory.dense import Ranked
from comity.memory.scope import ScopeMask

_K1 = 1.2  # tantivy's constants of BM25
_B = 0.75
_WRITER_BYTES = 128_000_000
_SMALL = 1_000  # texts
_COMMON_SHARE = 0.2
_TERMS_KEPT = 100_000  # whose frequency in the saved index has been asked for
_TERMS = "terms.count"  # beside tantivy's files: how many terms they hold, for the mean length
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_RUN = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[^\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The terms of a text: words in lower case, and pairs of neighbours in Chinese.

    Pairs of characters found more of the right articles than words from a dictionary did, and
    need none (see docs/design/retrieval.md). A lone Chinese character is a term too.
    """
    terms: list[str] = []
    for match in _RUN.finditer(folded(text)):
        run = match[0]
        if match.lastgroup and len(run) > 1:
            terms.extend(run[i : i + 2] for i in range(len(run) - 1))
        else:
            terms.append(run)
    return terms


def folded(text: str) -> str:
    """The text in which its terms stand: every term of `words` is a part of it."""
    return unicodedata.normalize("NFKC", text).lower()


class WordIndex:
    """BM25 over the words of one text per position, appended only."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open the saved index in `folder`, or start an empty one."""
        self._base = _open(folder) if folder else None
        self._searcher = self._base.searcher() if self._base else None
        self._folder = folder
        self._saved_terms = int((folder / _TERMS).read_text()) if folder else 0
        self._recent: list[tuple[int, int, list[str]]] = []
        self._indexed = 0
        self._frequencies: dict[str, int] = {}
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lengths: dict[int, int] = {}

    @property
    def recent(self) -> int:
        """How many texts are not in the saved index yet."""
        return len(self._recent)

    def append(self, position: int, kind: int, text: str) -> None:
        """Add the text of a position; its kind is a coarse filter (see `ScopeMask.kinds`)."""
        self._recent.append((position, kind, words(text)))

    def search(self, text: str, mask: ScopeMask, k: int) -> Ranked:
        """The k positions in the mask that match the words of a text best."""
        wanted = self._telling(words(text))
        if not wanted or k < 1:
            return Ranked(np.empty(0, np.int64), np.empty(0, np.float32))
        positions, scores = self._search_base(wanted, mask, k)
        for position, score in self._search_recent(wanted, mask).items():
            positions.append(position)
            scores.append(score)
        order = np.argsort(-np.array(scores, np.float32), kind="stable")[:k]
        return Ranked(np.array(positions, np.int64)[order], np.array(scores, np.float32)[order])

    def _telling(self, terms: Iterable[str]) -> list[str]:
        """The terms without those of every fifth text: they cost most and tell least."""
        unique = list(dict.fromkeys(terms))
        if self._searcher is None or (known := self._searcher.num_docs) < _SMALL:
            return unique
        common = known * _COMMON_SHARE
        rare = [term for term in unique if self._frequency(self._searcher, term) <= common]
        return rare or unique

    def _frequency(self, searcher: Any, term: str) -> int:
        """In how many texts of the saved index a term stands."""
        known = self._frequencies.get(term)
        if known is None:
            if len(self._frequencies) >= _TERMS_KEPT:
                self._frequencies.clear()
            known = self._frequencies[term] = searcher.doc_freq("text", term)
        return known

    def _search_base(
        self, wanted: Iterable[str], mask: ScopeMask, k: int
    ) -> tuple[list[int], list[float]]:
        """Filter by kind in tantivy and by row here, and ask for more until k are left."""
        if self._base is None or self._searcher is None or not mask.kinds:
            return [], []
        query = _query(self._base.schema, wanted, mask.kinds)
        asked = 2 * k
        while True:
            hits = self._searcher.search(query, asked, count=False).hits
            found = self._searcher.fast_field_values("position", [address for _, address in hits])
            kept = _inside(found, mask)
            if len(kept) >= k or len(hits) < asked:
                return [found[i] for i in kept[:k]], [hits[i][0] for i in kept[:k]]
            asked *= 4

    def _search_recent(self, wanted: Iterable[str], mask: ScopeMask) -> dict[int, float]:
        self._index_recent()
        scores: dict[int, float] = defaultdict(float)
        if not self._lengths:
            return scores
        known = self._searcher.num_docs if self._searcher else 0
        average = self._terms() / (known + len(self._lengths))
        for word in wanted:
            postings = self._postings.get(word)
            if not postings:
                continue
            frequency = len(postings)
            if self._searcher:
                frequency += self._searcher.doc_freq("text", word)
            idf = math.log1p((known + len(self._lengths) - frequency + 0.5) / (frequency + 0.5))
            for position, count in postings:
                if position < len(mask.rows) and mask.rows[position]:
                    norm = _K1 * (1 - _B + _B * self._lengths[position] / average)
                    scores[position] += idf * count * (_K1 + 1) / (count + norm)
        return scores

    def _index_recent(self) -> None:
        for position, _, text in self._recent[self._indexed :]:
            self._lengths[position] = len(text)
            for word, count in Counter(text).items():
                self._postings[word].append((position, count))
        self._indexed = len(self._recent)

    def _terms(self) -> int:
        return self._saved_terms + sum(len(text) for _, _, text in self._recent)

    def save(self, folder: Path) -> WordIndex:
        """Write everything into a new folder, and give the index opened there.

        This index stays as it is and can still be used.
        """
        if self._folder:
            shutil.copytree(self._folder, folder)
        else:
            folder.mkdir(parents=True)
        index = _open(folder)
        _write(index, self._recent)
        (folder / _TERMS).write_text(str(self._terms()))
        return WordIndex(folder)

    def fold(self) -> None:
        """Move the recent texts of an index that lives in memory alone into tantivy."""
        if self._folder is not None:
            raise ValueError("an index with a folder is folded by save()")
        self._base = self._base or _open(None)
        _write(self._base, self._recent)
        self._searcher = self._base.searcher()
        self._frequencies.clear()
        self._saved_terms = self._terms()
        self._recent, self._indexed = [], 0
        self._postings.clear()
        self._lengths.clear()


def _inside(positions: Sequence[int], mask: ScopeMask) -> list[int]:
    """Which of the positions are in the mask, by their number."""
    found = np.array(positions, np.int64)
    known = np.flatnonzero(found < len(mask.rows))
    return [int(number) for number in known[mask.rows[found[known]]]]


def _open(folder: Path | None) -> Any:
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    schema.add_unsigned_field("position", fast=True)
    schema.add_unsigned_field("kind", indexed=True)
    return tantivy.Index(schema.build(), path=str(folder) if folder else None)


def _write(index: Any, texts: Sequence[tuple[int, int, list[str]]]) -> None:
    import tantivy

    writer = index.writer(_WRITER_BYTES, num_threads=1)
    for position, kind, text in texts:
        document: Any = tantivy.Document()
        document.add_unsigned("position", position)  # a keyword argument would be signed
        document.add_unsigned("kind", kind)
        document.add_text("text", " ".join(text))
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()


def _query(schema: Any, wanted: Iterable[str], kinds: Sequence[int]) -> Any:
    from tantivy import Occur, Query

    matching = [(Occur.Should, Query.term_query(schema, "text", word)) for word in wanted]
    admitted = [(Occur.Should, Query.term_query(schema, "kind", kind)) for kind in kinds]
    return Query.boolean_query(
        [
            (Occur.Must, Query.boolean_query(matching)),
            (Occur.Must, Query.const_score_query(Query.boolean_query(admitted), 0.0)),
        ]
    )
