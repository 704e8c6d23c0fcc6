"""Vectors by position: appended only, read without a lock, and scanned exactly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FIRST_ROOM = 1_024  # rows
_MOST_ROOM = 65_536
_MAPPED_FROM = 50_000  # rows; a smaller file is read at once
_WRITTEN_AT_ONCE = 20_000

Halves = NDArray[np.float16]


class Ranked(NamedTuple):
    """Found entries, best first."""

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]


NONE_FOUND = Ranked(np.empty(0, np.int64), np.empty(0, np.float32))


class _Block(NamedTuple):
    """Neighbouring rows; what is there never changes, and free room may follow it."""

    start: int
    rows: Halves
    file: Path | None = None
    """Holds exactly these rows."""

    @property
    def end(self) -> int:
        return self.start + len(self.rows)


class VectorRows:
    """Unit vectors, one a position, of 16 bits a component.

    16 bits rank as 32 do (8 bits lost one in forty of the 20 nearest of a million; see
    docs/design/index.md). One thread appends at a time; any number read meanwhile, without a
    lock: what they know of never moves.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._blocks: tuple[_Block, ...] = ()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Add vectors of shape (n, dimension)."""
        end = self._size + len(vectors)
        if end > (self._blocks[-1].end if self._blocks else 0):
            self._make_room(end)
        for block in self._blocks:
            low, high = max(block.start, self._size), min(block.end, end)
            if low < high:
                rows = vectors[low - self._size : high - self._size]
                block.rows[low - block.start : high - block.start] = rows
        self._size = end  # last: a reader asks for the size first

    def _make_room(self, end: int) -> None:
        start = self._blocks[-1].end if self._blocks else 0
        room = max(end - start, min(max(_FIRST_ROOM, self._size // 2), _MOST_ROOM))
        self._blocks += (_Block(start, np.empty((room, self.dimension), np.float16)),)

    def _parts(self, start: int, end: int) -> Iterator[tuple[int, Halves]]:
        """The rows from `start` to `end`, as they lie: pieces with their first positions."""
        for block in self._blocks:
            low, high = max(block.start, start), min(block.end, end)
            if low < high:
                yield low, block.rows[low - block.start : high - block.start]

    def take(self, positions: NDArray[np.int64]) -> Halves:
        """The rows at positions, a copy: (n, dimension)."""
        blocks = self._blocks
        if len(blocks) == 1:
            return blocks[0].rows[positions]
        taken = np.empty((len(positions), self.dimension), np.float16)
        lies_in = np.searchsorted([block.start for block in blocks], positions, "right") - 1
        for number in np.unique(lies_in):
            chosen = np.flatnonzero(lies_in == number)
            block = blocks[number]
            taken[chosen] = block.rows[positions[chosen] - block.start]
        return taken

    def read(self, start: int, end: int) -> Iterator[NDArray[np.float32]]:
        """The rows from `start` to `end`, in pieces of at most 20,000."""
        for _, rows in self._parts(start, end):
            for at in range(0, len(rows), _WRITTEN_AT_ONCE):
                yield rows[at : at + _WRITTEN_AT_ONCE].astype(np.float32)

    def nearest_of(
        self, vector: NDArray[np.float32], positions: NDArray[np.int64], k: int
    ) -> Ranked:
        """The k nearest among some positions, exactly."""
        return _best(vector, self.take(positions), k, positions=positions)

    def scan(
        self, vector: NDArray[np.float32], flags: NDArray[np.bool_], k: int, start: int = 0
    ) -> Ranked:
        """The k nearest among the flagged rows from `start` on, exactly."""
        found = [
            Ranked(ranked.positions + first, ranked.scores)
            for first, rows in self._parts(start, len(flags))
            if (ranked := _best(vector, rows, k, flags=flags[first : first + len(rows)]))
        ]
        return merged(found, k)

    def save(self, folder: Path, end: int) -> list[str]:
        """Write the first rows into a folder, and give the names of the files, in order.

        Files that were written before are linked. To keep them few, those are written anew that
        are not much larger than all that comes behind them.
        """
        names = []
        kept = self._kept(end)
        for start, stop in pairwise([*kept, end] if kept and kept[-1] < end else [*kept]):
            block = next((b for b in self._blocks if (b.start, b.end) == (start, stop)), None)
            names.append(f"rows-{start:010d}.npy")
            if block is not None and block.file is not None:
                link(block.file, folder / names[-1])
            else:
                self._write(folder / names[-1], start, stop)
        return names

    def _kept(self, end: int) -> list[int]:
        """Where files begin, and the end of the last one that is kept as it is."""
        files = [b for b in self._blocks if b.file is not None and b.end <= end]
        while files and files[-1].end < end and len(files[-1].rows) < 2 * (end - files[-1].end):
            files.pop()
        return [0, *(b.end for b in files)] if files or end else []

    def _write(self, file: Path, start: int, end: int) -> None:
        shape = (end - start, self.dimension)
        with file.open("wb") as stream:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for _, rows in self._parts(start, end):
                stream.write(rows.data)
            stream.flush()
            os.fsync(stream.fileno())

    def adopt(self, files: list[Path]) -> None:
        """Go on with what `save` wrote in place of the same rows in memory, not while appending."""
        saved: list[_Block] = []
        for file in files:
            rows = np.load(file, mmap_mode="r", allow_pickle=False)
            if rows.dtype != np.float16 or rows.ndim != 2 or rows.shape[1] != self.dimension:
                raise ValueError(f"{file} holds no vectors of {self.dimension} dimensions")
            if len(rows) < _MAPPED_FROM:
                rows = np.array(rows)
            saved.append(_Block(saved[-1].end if saved else 0, rows.view(np.ndarray), file))
        end = saved[-1].end if saved else 0
        rest = [rows for _, rows in self._parts(end, self._size)]
        unsaved = (_Block(end, np.concatenate(rest)),) if rest else ()
        self._size = max(self._size, end)
        self._blocks = (*saved, *unsaved)


def merged(found: list[Ranked], k: int) -> Ranked:
    """The k best of several rankings; of equal scores, the first."""
    if len(found) == 1:
        return found[0]
    if not found:
        return NONE_FOUND
    positions = np.concatenate([ranked.positions for ranked in found])
    scores = np.concatenate([ranked.scores for ranked in found])
    order = np.argsort(-scores, kind="stable")[:k]
    return Ranked(positions[order], scores[order])


def link(old: Path, new: Path) -> None:
    """Give a file that never changes a second name, or copy it where that is not possible."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def on_one_thread() -> None:
    """Words are searched at the same time: two of faiss's threads made both wait twice as long."""
    import faiss

    faiss.omp_set_num_threads(1)  # of the calling thread only


def only(flags: NDArray[np.bool_]) -> Any:
    """Faiss's selector of flagged rows."""
    import faiss

    selector: Any = faiss.IDSelectorBitmap  # faiss's own types describe the C++ signatures
    return selector(np.packbits(flags, bitorder="little"))


def _best(
    vector: NDArray[np.float32],
    rows: Halves,
    k: int,
    *,
    flags: NDArray[np.bool_] | None = None,
    positions: NDArray[np.int64] | None = None,
) -> Ranked:
    """The k nearest of some rows, by faiss, which reads them where they lie."""
    import faiss

    on_one_thread()
    view: Any = faiss.IndexScalarQuantizer(
        rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    vectors: Any = faiss.MaybeOwnedVectorUInt8
    data = faiss.swig_ptr(rows.view(np.uint8))
    view.codes = vectors.create_view(data, rows.nbytes, vectors().owner)
    view.ntotal = len(rows)
    parameters: Any = faiss.SearchParameters
    chosen = None if flags is None else parameters(sel=only(flags))
    scores, found = view.search(vector[np.newaxis], min(k, len(rows)), params=chosen)
    known = found[0] >= 0
    where = found[0][known] if positions is None else positions[found[0][known]]
    order = np.lexsort((where, -scores[0][known]))  # of equal scores, the lower position
    return Ranked(where[order], scores[0][known][order])
