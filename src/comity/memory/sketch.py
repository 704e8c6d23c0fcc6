"""A sketch of many vectors: one bit a component, in lists of near ones.

It finds candidates among hundreds of thousands of rows, whose vectors then decide. The bits are
those of RaBitQ (Gao and Long, SIGMOD 2024, arXiv 2405.12497) as faiss has them, of what is left
of a vector without the centre of its list.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.memory.rows import VectorRows, link, on_one_thread, only

_TAUGHT_BY = 60  # vectors for each list
_ROUNDS = 8  # of k-means
_QUERY_BITS = 4
_SAMPLE = 2_000  # rows that tell how well the lists fit
_MISFIT = 1.5  # times as far from the lists' centres as those that they were made of
_UNEVEN = 2.0  # times as uneven as the lists were at first
_SEED = 20261122
_FILE = "sketch.faiss"
_FACTS = "sketch.json"


class _Made(NamedTuple):
    """What the lists were like when they were made."""

    rows: int
    """How many there were."""
    distance: float
    """Mean of 1 - inner product of a vector and its list's centre."""
    imbalance: float
    """Faiss's factor: 1 where all lists are equally long."""


@dataclass(frozen=True)
class Sketch:
    """Of the first `size` rows; never changed once made."""

    size: int
    lists: int
    made: _Made
    index: Any
    """Faiss's `IndexIVFRaBitQ`."""
    file: Path | None = None

    def candidates(
        self, vector: NDArray[np.float32], flags: NDArray[np.bool_], most: int, lists: int
    ) -> NDArray[np.int64]:
        """Positions of flagged rows that may be the nearest, from the nearest `lists` lists."""
        import faiss

        on_one_thread()
        parameters: Any = faiss.IVFRaBitQSearchParameters()
        parameters.sel = only(flags)
        parameters.nprobe = lists
        parameters.qb = _QUERY_BITS
        found = self.index.search(vector[np.newaxis], most, params=parameters)[1][0]
        positions: NDArray[np.int64] = found[found >= 0]
        return positions

    def extended(self, rows: VectorRows, end: int) -> Sketch:
        """This sketch and the rows behind it up to `end`, as a new one."""
        import faiss

        index = faiss.deserialize_index(faiss.serialize_index(self.index))
        _add(index, rows, self.size, end)
        return Sketch(end, self.lists, self.made, index)

    def misfits(self, rows: VectorRows, end: int) -> bool:
        """Whether the rows behind it are unlike those that its lists were made of.

        That is so of a new language, or of many texts that are nearly the same.
        """
        if self.index.invlists.imbalance_factor() > _UNEVEN * self.made.imbalance:
            return True
        return _distance(self.index, rows, self.size, end) > _MISFIT * self.made.distance

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        import faiss

        file = folder / _FILE
        if self.file is not None:
            link(self.file, file)
        else:
            faiss.write_index(self.index, str(file))
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        (folder / _FACTS).write_text(json.dumps(self._facts), encoding="ascii")

    @property
    def _facts(self) -> dict[str, Any]:
        return {"size": self.size, "lists": self.lists, "made": list(self.made)}

    def in_file(self, folder: Path) -> Sketch:
        """This sketch, known to be in a folder if it is the one that was saved there."""
        facts = folder / _FACTS
        if not facts.exists() or json.loads(facts.read_text("ascii")) != self._facts:
            return self
        return replace(self, file=folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> Sketch | None:
        """The sketch of `save`, if there is one."""
        import faiss

        if not (folder / _FACTS).exists():
            return None
        facts = json.loads((folder / _FACTS).read_text("ascii"))
        file = folder / _FILE
        index = faiss.read_index(str(file))
        return cls(facts["size"], facts["lists"], _Made(*facts["made"]), index, file)


def make(rows: VectorRows, size: int) -> Sketch:
    """A sketch of the first rows: about twelve seconds of one processor for a million."""
    import faiss

    on_one_thread()
    lists = lists_for(size)
    chosen = np.random.default_rng(_SEED).choice(size, min(size, _TAUGHT_BY * lists), replace=False)
    taught = rows.take(np.sort(chosen).astype(np.int64)).astype(np.float32)
    means: Any = faiss.Kmeans(
        rows.dimension,
        lists,
        niter=_ROUNDS,
        spherical=True,
        seed=_SEED,
        min_points_per_centroid=1,
        max_points_per_centroid=_TAUGHT_BY,
    )
    means.train(taught)
    centres: Any = faiss.IndexFlatIP(rows.dimension)
    centres.add(means.centroids)
    index: Any = faiss.IndexIVFRaBitQ(centres, rows.dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    centres.this.disown()
    index.train(taught[: 10 * lists])
    _add(index, rows, 0, size)
    distance = _distance(index, rows, 0, size)
    return Sketch(size, lists, _Made(size, distance, index.invlists.imbalance_factor()), index)


def lists_for(size: int) -> int:
    """How many lists: the power of two nearest to half the root, 512 for a million.

    Each list asked costs as much as 300 rows looked at, so that more of them would not pay.
    """
    return max(1, 1 << round(math.log2(math.sqrt(max(size, 4)) / 2)))


def _add(index: Any, rows: VectorRows, start: int, end: int) -> None:
    on_one_thread()
    for vectors in rows.read(start, end):
        index.add(vectors)


def _distance(index: Any, rows: VectorRows, start: int, end: int) -> float:
    chosen = np.linspace(start, end - 1, min(_SAMPLE, end - start)).astype(np.int64)
    near, _ = index.quantizer.search(rows.take(chosen).astype(np.float32), 1)
    return float(1 - near.mean())
