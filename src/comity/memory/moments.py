"""What is in force from one moment until another, kept while rules are added."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ALWAYS = int(np.iinfo(np.int64).min)
NEVER_ENDS = int(np.iinfo(np.int64).max)
_KEPT = 4
_FEW = 1_000  # rows; of more it is quicker to begin again

Columns = Mapping[str, NDArray[Any]]
"""`in_force`, `starts` and `ended`, each with one entry a position."""


class _Span(NamedTuple):
    """From `since` until before `until` the same positions are in force."""

    since: int
    until: int
    flags: NDArray[np.bool_]


class Moments:
    """The positions in force at the moments that were asked for last.

    Rules begin and end at few moments: between two of them, what is in force stays the same.
    """

    def __init__(self) -> None:
        self._spans: list[_Span] = []

    def at(self, at: int, columns: Columns) -> NDArray[np.bool_]:
        """One flag a position, not to be changed."""
        span = next((span for span in self._spans if span.since <= at < span.until), None)
        if span is None:
            edges = [_around(columns["starts"], at), _around(columns["ended"], at)]
            since, until = max(e[0] for e in edges), min(e[1] for e in edges)
            span = _Span(since, until, in_force(columns, at))
            self._spans = [span, *self._spans[: _KEPT - 1]]
        return span.flags

    def change(self, columns: Columns, positions: NDArray[np.int64]) -> None:
        """Take note of positions that are new, or end earlier than before."""
        if len(positions) > _FEW:
            self._spans = []
            return
        few = {name: columns[name][positions] for name in ("in_force", "starts", "ended")}
        edges = np.unique(np.concatenate((few["starts"], few["ended"]))).tolist()
        size = len(columns["starts"])
        spans = []
        for span in self._spans:
            cuts = [edge for edge in edges if span.since < edge < span.until]
            for since, until in pairwise([span.since, *cuts[-_KEPT:], span.until]):
                flags = np.zeros(size, np.bool_)
                flags[: len(span.flags)] = span.flags
                flags[positions] = in_force(few, since)
                spans.append(_Span(since, until, flags))
        self._spans = sorted(spans, key=lambda span: -span.since)[:_KEPT]


def in_force(columns: Columns, at: int) -> NDArray[np.bool_]:
    """The flags of a moment."""
    flags: NDArray[np.bool_] = columns["starts"] <= at
    flags &= columns["ended"] > at
    flags &= columns["in_force"]
    return flags


def _around(times: NDArray[np.int64], at: int) -> tuple[int, int]:
    """The last of the times up to a moment, and the first one after it."""
    past = times <= at
    last = np.max(times, initial=ALWAYS, where=past)
    return int(last), int(np.min(times, initial=NEVER_ENDS, where=~past))
