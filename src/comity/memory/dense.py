"""Nearest vectors under a mask, with faiss."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXACT_UP_TO = 20_000
_OUTSIDE = 0.05  # share of a vector's components


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

        flat = isinstance(self._index, faiss.IndexFlat)
        if (flat and len(self) + len(vectors) > _EXACT_UP_TO) or (
            not flat and self._differ_from_all_before(vectors)
        ):
            self._quantise(np.concatenate((self._index.reconstruct_n(0, len(self)), vectors)))
        else:
            self._index.add(np.ascontiguousarray(vectors, np.float32))

    def _quantise(self, vectors: NDArray[np.float32]) -> None:
        import faiss

        index = faiss.IndexScalarQuantizer(
            self.dimension, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        index.train(np.stack((vectors.min(axis=0), vectors.max(axis=0))))  # the range is all
        index.add(vectors)
        self._index = index

    def _differ_from_all_before(self, vectors: NDArray[np.float32]) -> bool:
        """Whether some vectors lie outside the range that 8 bits were spread over.

        They would be cut to that range, as a new language or embedder's corner would be.
        """
        import faiss

        low, width = faiss.vector_to_array(self._index.sq.trained).reshape(2, -1)
        outside = (vectors < low) | (vectors > low + width)
        return bool((outside.mean(axis=1) > _OUTSIDE).any())

    def search(self, vector: NDArray[np.float32], rows: NDArray[np.bool_], k: int) -> Ranked:
        """The k positions nearest to a vector of shape (dimension,) among the flagged rows."""
        k = min(k, int(np.count_nonzero(rows)))
        if k < 1:
            return Ranked(np.empty(0, np.int64), np.empty(0, np.float32))
        _on_one_thread()
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


def _on_one_thread() -> None:
    """Words are searched at the same time: two of faiss's threads made both wait twice as long."""
    import faiss

    faiss.omp_set_num_threads(1)  # of the calling thread only


def _only(rows: NDArray[np.bool_]) -> Any:
    import faiss

    selector: Any = faiss.IDSelectorBitmap  # faiss's own types describe the C++ signatures
    parameters: Any = faiss.SearchParameters
    return parameters(sel=selector(np.packbits(rows, bitorder="little")))
