"""How much one key may ask in a minute, and how many answers it may have at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from comity.serving.ledger import Account, Ledger, ProcessLedger
from comity.serving.wire import Refused

_MINUTE = 60.0
_AGAIN = 1  # seconds after which another answer may have ended


class Limits:
    """Buckets that fill up evenly within a minute: one of requests and one of tokens a key.

    Tokens are known after an answer only, so that a key may go into debt once, and waits until
    that is paid off. In all that is given here, 0 is no limit.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, ledger: Ledger | None = None
    ) -> None:
        """`ledger` keeps the buckets; by default for this process alone."""
        self._ledger = ledger or ProcessLedger()
        self._clock = clock

    def ask(self, key: str, requests: int, tokens: int, concurrent: int = 0) -> None:
        """Take one request, and a place among the answers in progress.

        Raises `Refused` (429) with `Retry-After`, and takes nothing then.
        """
        if not (requests or tokens or concurrent):
            return
        with self._ledger.account(key) as account:
            waits = [
                self._wait(account, "tokens", tokens, least=0.0),
                self._wait(account, "requests", requests, least=1.0),
            ]
            if max(waits) > 0:
                raise _too_much("this key may ask no more for now", math.ceil(max(waits)))
            if concurrent and self._running(account, concurrent) >= concurrent:
                said = f"this key has {concurrent} answers in progress, and may have no more"
                raise _too_much(said, _AGAIN)
            self._take(account, "requests", requests, 1)
            if concurrent:
                mine = account.running.get(self._ledger.worker, 0)
                account.running[self._ledger.worker] = mine + 1

    def spend(self, key: str, tokens: int, spent: int) -> None:
        """Take the tokens of an answer."""
        if tokens:
            with self._ledger.account(key) as account:
                self._take(account, "tokens", tokens, spent)

    def leave(self, key: str, concurrent: int) -> None:
        """Give back the place that `ask` took, when the answer is at its end."""
        if concurrent:
            with self._ledger.account(key) as account:
                mine = account.running.pop(self._ledger.worker, 0) - 1
                if mine > 0:
                    account.running[self._ledger.worker] = mine

    def _running(self, account: Account, concurrent: int) -> int:
        """Answers in progress; where there are too many, those of dead workers are forgotten."""
        if sum(account.running.values()) >= concurrent:
            for worker in [name for name in account.running if not self._ledger.lives(name)]:
                del account.running[worker]
        return sum(account.running.values())

    def _wait(self, account: Account, what: str, most: int, *, least: float) -> float:
        """Seconds until `least` is in the bucket."""
        if not most:
            return 0.0
        short = least - self._filled(account, what, most)
        return max(0.0, short * _MINUTE / most)

    def _take(self, account: Account, what: str, most: int, amount: float) -> None:
        if most:
            left = self._filled(account, what, most) - amount
            account.left[what] = (left, self._clock())

    def _filled(self, account: Account, what: str, most: int) -> float:
        now = self._clock()
        left, since = account.left.get(what, (float(most), now))
        return min(float(most), left + (now - since) * most / _MINUTE)


def _too_much(said: str, seconds: int) -> Refused:
    return Refused(
        429,
        f"{said}: try again in {seconds} second{'s' if seconds > 1 else ''}",
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        headers={"retry-after": str(seconds)},
    )
