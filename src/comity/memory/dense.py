"""Nearest vectors under a mask: exactly where that costs little, through a sketch where not."""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comity.memory import sketch as sketches
from comity.memory.rows import NONE_FOUND, Ranked, VectorRows, merged
from comity.memory.sketch import Sketch

__all__ = ["DenseIndex", "Ranked", "Sizes"]

_TAKEN_NS = 130.0  # of one processor, measured: docs/design/index.md
_PASSED_NS = 1.5
_LOOKED_AT_NS = 50.0
_SKETCHED_NS = 22.0
_LIST_NS = 6_000.0
_CANDIDATE_NS = 400.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sizes:
    """When a sketch is made, and how much of it is looked at. Numbers of rows."""

    sketched_from: int = 200_000
    """Below, every search is exact: one of a fifth of the rows then takes some 2 ms."""
    behind: int = 20_000
    """So many may lie behind the sketch, or a twentieth of those in it, before it grows."""
    growth: int = 4
    """It is made anew where there are so many times the rows that its lists were made for."""
    looked_at: int = 16_000
    """In the mask, of the lists nearest to a question: so many kept .98 of the 20 nearest."""
    candidates: int = 6
    """For each of the k that are asked for."""
    least: int = 300
    """Candidates in any case."""

    def most(self, k: int) -> int:
        """How many candidates there are to be."""
        return max(self.candidates * k, self.least)


class DenseIndex:
    """Inner-product search over one vector per position, appended only.

    The mask comes before the ranking, so a small scope is never starved. A narrow one is always
    searched exactly. Of a wide one among many rows a sketch finds the candidates, whose vectors
    then decide. The sketch is made aside while searches go on with the one before; rows that it
    does not know yet are searched exactly, so that nothing is ever missing. One thread appends
    at a time; searches take no lock.
    """

    def __init__(self, dimension: int, sizes: Sizes = Sizes()) -> None:
        self.dimension = dimension
        self._sizes = sizes
        self._rows = VectorRows(dimension)
        self._sketch: Sketch | None = None
        self._making = threading.Lock()
        self._gave_up_at = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def sketched(self) -> int:
        """How many rows the sketch knows."""
        return self._sketch.size if self._sketch else 0

    @property
    def unsaved(self) -> bool:
        """Whether there is a sketch that is in no file."""
        return self._sketch is not None and self._sketch.file is None

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Add unit vectors, shape (n, dimension), at the next n positions."""
        self._rows.append(vectors)
        if self._due() and not self._making.locked():
            threading.Thread(target=self.settle, name="sketch", daemon=True).start()

    def _due(self) -> bool:
        size, known = len(self._rows), self.sketched
        if size < max(self._sizes.sketched_from, 2 * self._gave_up_at):
            return False
        return size - known >= max(self._sizes.behind, known // 20)

    def settle(self) -> None:
        """Make the sketch that the rows call for, or wait until another thread has."""
        with self._making:
            while self._due():
                size = len(self._rows)
                try:
                    self._sketch = self._grown(size)
                except (MemoryError, RuntimeError) as problem:  # faiss raises the latter
                    self._gave_up_at = size
                    _LOG.warning("no sketch of %s vectors, searches are slow: %s", size, problem)

    def _grown(self, size: int) -> Sketch:
        old = self._sketch
        if old is None or size > self._sizes.growth * old.made.rows:
            return sketches.make(self._rows, size)
        if old.misfits(self._rows, size):
            return sketches.make(self._rows, size)
        return old.extended(self._rows, size)

    def search(self, vector: NDArray[np.float32], rows: NDArray[np.bool_], k: int) -> Ranked:
        """The k positions nearest to a vector of shape (dimension,) among the flagged rows."""
        inside = int(np.count_nonzero(rows))
        k = min(k, inside)
        if k < 1:
            return NONE_FOUND
        sketch = self._sketch
        taken = inside * _TAKEN_NS
        scanned = len(rows) * _PASSED_NS + inside * _LOOKED_AT_NS
        if sketch is not None:
            lists = self._lists(sketch, rows)
            if self._sketched_ns(sketch, rows, lists, k) < min(taken, scanned):
                return self._through(sketch, vector, rows, lists, k)
        if taken < scanned:
            return self._rows.nearest_of(vector, np.flatnonzero(rows), k)
        return self._rows.scan(vector, rows, k)

    def _lists(self, sketch: Sketch, rows: NDArray[np.bool_]) -> int:
        """How many lists hold as many rows of the mask as are to be looked at."""
        inside = max(1, int(np.count_nonzero(rows[: sketch.size])))
        return min(sketch.lists, math.ceil(sketch.lists * self._sizes.looked_at / inside))

    def _sketched_ns(self, sketch: Sketch, rows: NDArray[np.bool_], lists: int, k: int) -> float:
        behind = rows[sketch.size :]
        return (
            lists * _LIST_NS
            + self._sizes.looked_at * _SKETCHED_NS
            + self._sizes.most(k) * _CANDIDATE_NS
            + len(behind) * _PASSED_NS
            + np.count_nonzero(behind) * _LOOKED_AT_NS
        )

    def _through(
        self,
        sketch: Sketch,
        vector: NDArray[np.float32],
        rows: NDArray[np.bool_],
        lists: int,
        k: int,
    ) -> Ranked:
        likely = sketch.candidates(vector, rows[: sketch.size], self._sizes.most(k), lists)
        near = self._rows.nearest_of(vector, likely, k)
        if len(rows) <= sketch.size:
            return near
        return merged([near, self._rows.scan(vector, rows, k, start=sketch.size)], k)

    def save(self, folder: Path, size: int) -> None:
        """Write the first `size` rows and their sketch into a new folder.

        Rows may be appended meanwhile.
        """
        folder.mkdir(parents=True)
        names = self._rows.save(folder, size)
        (folder / "rows.txt").write_text("\n".join(names), encoding="ascii")
        if (sketch := self._sketch) is not None and sketch.size <= size:
            sketch.save(folder)

    def adopt(self, folder: Path) -> None:
        """Go on with the files of `save`, not while appending."""
        names = (folder / "rows.txt").read_text("ascii").split()
        self._rows.adopt([folder / name for name in names])
        if self._sketch is None:
            self._sketch = Sketch.load(folder)
        else:
            self._sketch = self._sketch.in_file(folder)

    @classmethod
    def load(cls, folder: Path, dimension: int, sizes: Sizes = Sizes()) -> DenseIndex:
        """Read the index of `save`. Raises `ValueError` when the dimension is another."""
        dense = cls(dimension, sizes)
        dense.adopt(folder)
        return dense
