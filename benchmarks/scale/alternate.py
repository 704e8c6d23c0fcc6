"""Several things measured in one run, taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

_TURN = 20  # questions: short enough to share noise, long enough to find its caches warm


def alternate(
    work: Mapping[str, Callable[[int], object]], count: int, *, warm_up: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of each call of each work with the numbers from `warm_up` to `count`.

    Each has its turn of 20 numbers, and who begins changes from turn to turn. What is asked
    during the warm-up is not measured.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for turn, first in enumerate(range(0, count, _TURN)):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            for number in range(first, min(first + _TURN, count)):
                start = time.perf_counter()
                work[name](number)
                if number >= warm_up:
                    taken[name].append(1000 * (time.perf_counter() - start))
    return taken
