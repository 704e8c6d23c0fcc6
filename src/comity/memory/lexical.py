"""Words under a mask, ranked by BM25, with tantivy.

A large body of rules lies in a tantivy index that is never changed while it is open; rules that
came since lie in memory and are scored by the same formula with the same statistics, so that a
change is found at once and several processes can share the files.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from comity.memory.recent_words import Entry, RecentWords
from comity.memory.rows import NONE_FOUND, Ranked, link
from comity.memory.scope import ScopeMask
from comity.memory.words import spaced, words

_WRITER_BYTES = 128_000_000
_SMALL = 1_000  # texts
_COMMON_SHARE = 0.2
_SCORED = 250_000  # texts, one for each term that it holds: some 2 ms
_AT_LEAST = 3  # terms
_FEW = 5_000  # rows of a mask: their texts are scored for all terms
_TERMS_KEPT = 100_000  # whose frequency in the saved index has been asked for
_TERMS = "terms.count"  # beside tantivy's files: how many terms they hold, for the mean length
_SEGMENT = re.compile(r"[0-9a-f]{32}\..+")


class _Saved(NamedTuple):
    """A tantivy index as it was at one moment."""

    index: Any
    searcher: Any
    terms: int
    folder: Path | None
    frequencies: dict[str, int]

    @property
    def texts(self) -> int:
        return int(self.searcher.num_docs)

    def frequency(self, term: str) -> int:
        """In how many texts a term stands."""
        known = self.frequencies.get(term)
        if known is None:
            if len(self.frequencies) >= _TERMS_KEPT:
                self.frequencies.clear()
            known = self.frequencies[term] = self.searcher.doc_freq("text", term)
        return known


class _State(NamedTuple):
    """What a search sees: every text is in one of the two."""

    saved: _Saved | None
    recent: RecentWords


class WordIndex:
    """BM25 over the words of one text per position, appended only.

    One thread appends, saves or folds at a time; any number search meanwhile, without a lock.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the saved index in `folder`, or start an empty one."""
        self._state = _State(_read(folder) if folder else None, RecentWords())
        self._in_memory: Any = None

    @property
    def recent(self) -> int:
        """How many texts are not in the saved index yet."""
        return len(self._state.recent)

    def append(self, first: int, kinds: Sequence[int], texts: Sequence[str]) -> None:
        """Add the texts of positions from the first on; kinds are a coarse filter
        (see `ScopeMask.kinds`)."""
        positions = range(first, first + len(texts))
        self._state.recent.entries.extend(map(Entry, positions, kinds, spaced(texts)))

    def search(self, text: str, mask: ScopeMask, k: int) -> Ranked:
        """The k positions in the mask that match the words of a text best."""
        saved, recent = self._state
        wanted = _telling(words(text), saved)
        inside = int(np.count_nonzero(mask.rows))
        if saved and inside > _FEW:
            wanted = _affordable(wanted, saved)
        if not wanted or min(inside, k) < 1:
            return NONE_FOUND
        positions, scores = _search(saved, wanted, mask, inside, k) if saved else ([], [])
        if recent.entries:
            texts, terms = (saved.texts, saved.terms) if saved else (0, 0)
            frequency = saved.frequency if saved else lambda _: 0
            found = recent.scores(wanted, mask.rows, texts, terms, frequency)
            positions.extend(found)
            scores.extend(found.values())
        order = np.argsort(-np.array(scores, np.float32), kind="stable")[:k]
        return Ranked(np.array(positions, np.int64)[order], np.array(scores, np.float32)[order])

    def save(self, folder: Path | None, texts: int) -> None:
        """Write the saved index and the first recent texts into a new folder.

        `None` writes them into an index that lives in memory. Texts may be appended meanwhile.
        """
        saved, recent = self._state
        entries = recent.entries[:texts]
        if folder is None:
            self._in_memory = self._in_memory or _open(None)
            _write(self._in_memory, entries)
            return
        folder.mkdir(parents=True)
        if saved and saved.folder:
            _copy(saved.folder, folder)
        _write(_open(folder), entries)
        (folder / _TERMS).write_text(str(self._terms(texts)))

    def adopt(self, folder: Path | None, texts: int) -> None:
        """Go on with what `save` wrote, of so many recent texts; not while appending."""
        left = RecentWords(self._state.recent.entries[texts:])
        if folder is not None:
            self._state = _State(_read(folder), left)
        elif (index := self._in_memory) is not None:
            self._state = _State(
                _Saved(index, index.searcher(), self._terms(texts), None, {}), left
            )

    def _terms(self, texts: int) -> int:
        """How many terms the saved index and the first recent texts hold."""
        saved, recent = self._state
        known = saved.terms if saved else 0
        return known + sum(entry.length() for entry in recent.entries[:texts])


def _telling(terms: Iterable[str], saved: _Saved | None) -> list[str]:
    """The terms without those of every fifth text: they cost most and tell least."""
    unique = list(dict.fromkeys(terms))
    if saved is None or saved.texts < _SMALL:
        return unique
    common = saved.texts * _COMMON_SHARE
    rare = [term for term in unique if saved.frequency(term) <= common]
    return rare or unique


def _affordable(terms: Sequence[str], saved: _Saved) -> list[str]:
    """The rarest terms, as far as they stand in 250,000 texts together, and three at least.

    Every text of every term is scored. With a quarter of the texts that all terms have, the
    right articles were found as well within a point (see docs/design/index.md).
    """
    chosen: list[str] = []
    left = _SCORED
    for term in sorted(terms, key=saved.frequency):
        left -= saved.frequency(term)
        if left < 0 and len(chosen) >= _AT_LEAST:
            break
        chosen.append(term)
    return chosen


def _search(
    saved: _Saved, wanted: Sequence[str], mask: ScopeMask, inside: int, k: int
) -> tuple[list[int], list[float]]:
    """Filter by kind in tantivy and by row here, and ask for more until k are left."""
    of_kinds = sum(saved.searcher.doc_freq("kind", kind) for kind in mask.kinds)
    if not of_kinds:
        return [], []
    query = _query(saved.index.schema, wanted, mask.kinds)
    asked = min(of_kinds, max(2 * k, 2 * k * of_kinds // inside))
    while True:
        hits = saved.searcher.search(query, asked, count=False).hits
        found = saved.searcher.fast_field_values("position", [address for _, address in hits])
        kept = _inside(found, mask)
        if len(kept) >= k or len(hits) < asked:
            return [found[i] for i in kept[:k]], [hits[i][0] for i in kept[:k]]
        asked *= 4


def _inside(positions: Sequence[int], mask: ScopeMask) -> list[int]:
    """Which of the positions are in the mask, by their number."""
    found = np.array(positions, np.int64)
    known = np.flatnonzero(found < len(mask.rows))
    return [int(number) for number in known[mask.rows[found[known]]]]


def _read(folder: Path) -> _Saved:
    index = _open(folder)
    return _Saved(index, index.searcher(), int((folder / _TERMS).read_text()), folder, {})


def _copy(old: Path, new: Path) -> None:
    """Link what never changes, tantivy's segments; copy its lists of them."""
    for file in old.iterdir():
        if _SEGMENT.fullmatch(file.name):
            link(file, new / file.name)
        elif file.suffix != ".lock":
            shutil.copyfile(file, new / file.name)


def _open(folder: Path | None) -> Any:
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("text", tokenizer_name="whitespace", index_option="freq")
    schema.add_unsigned_field("position", fast=True)
    schema.add_unsigned_field("kind", indexed=True)
    return tantivy.Index(schema.build(), path=str(folder) if folder else None)


def _write(index: Any, entries: Iterable[Entry]) -> None:
    """Add texts and commit them, those of one kind together: a search then leaps over the kinds
    that its scope has not."""
    import tantivy

    writer = index.writer(_WRITER_BYTES, num_threads=1)
    for entry in sorted(entries, key=attrgetter("kind")):
        document: Any = tantivy.Document()
        document.add_unsigned("position", entry.position)  # a keyword argument would be signed
        document.add_unsigned("kind", entry.kind)
        document.add_text("text", entry.terms)
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
