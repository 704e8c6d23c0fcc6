"""How much one key may ask in a minute; each worker counts for itself."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from comity.serving.wire import Refused

_MINUTE = 60.0


class Limits:
    """Buckets that fill up evenly within a minute: one of requests and one of tokens a key.

    Tokens are known after an answer only, so that a key may go into debt once, and waits until
    that is paid off.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._left: dict[tuple[str, str], tuple[float, float]] = {}

    def ask(self, key: str, requests: int, tokens: int) -> None:
        """Take one request. Raises `Refused` (429) with `Retry-After`; 0 is no limit."""
        with self._lock:
            waits = [
                self._wait(key, "tokens", tokens, least=0.0),
                self._wait(key, "requests", requests, least=1.0),
            ]
            if max(waits) > 0:
                seconds = math.ceil(max(waits))
                raise Refused(
                    429,
                    f"this key may ask no more for now: try again in {seconds} seconds",
                    kind="rate_limit_error",
                    code="rate_limit_exceeded",
                    headers={"retry-after": str(seconds)},
                )
            self._take(key, "requests", requests, 1)

    def spend(self, key: str, tokens: int, spent: int) -> None:
        """Take the tokens of an answer."""
        with self._lock:
            self._take(key, "tokens", tokens, spent)

    def _wait(self, key: str, what: str, most: int, *, least: float) -> float:
        """Seconds until `least` is in the bucket."""
        if not most:
            return 0.0
        short = least - self._filled(key, what, most)
        return max(0.0, short * _MINUTE / most)

    def _take(self, key: str, what: str, most: int, amount: float) -> None:
        if most:
            left = self._filled(key, what, most) - amount
            self._left[(key, what)] = (left, self._clock())

    def _filled(self, key: str, what: str, most: int) -> float:
        now = self._clock()
        left, since = self._left.get((key, what), (float(most), now))
        return min(float(most), left + (now - since) * most / _MINUTE)
