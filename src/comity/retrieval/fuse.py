"""Fusing rankings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter

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
    scores: dict[int, float] = defaultdict(float)
    for weight, rows in rankings:
        for place, row in enumerate(rows, start=RANK_CONSTANT + 1):
            scores[row] += weight / place
    return sorted(sorted(scores.items()), key=itemgetter(1), reverse=True)  # stable: ties by row
