"""Fusing rankings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

RANK_CONSTANT = 10
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009, who take 60).

10 trusts the first ranks more; among the rankings of a narrow scope it found more (see
docs/design/retrieval.md).
"""


def fuse(rankings: Iterable[tuple[float, Sequence[int]]]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion of weighted rankings of rows, best first.

    Each ranking is a weight and rows, best first. A row's score is the sum over the rankings of
    weight / (RANK_CONSTANT + rank), with ranks from 1. Ties go to the lower row, so that the
    order never depends on chance.
    """
    rankings = list(rankings)
    rows = np.array([row for _, ranked in rankings for row in ranked], np.int64)
    parts = [weight / (RANK_CONSTANT + 1 + np.arange(len(ranked))) for weight, ranked in rankings]
    unique, places = np.unique(rows, return_inverse=True)
    scores = np.bincount(places, np.concatenate(parts) if parts else None)
    order = np.lexsort((unique, -scores))
    return list(zip(unique[order].tolist(), scores[order].tolist(), strict=True))
