"""What one key may ask in a minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.serving.limits import Limits
from comity.serving.wire import Refused


class Seconds:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_no_limit_is_no_limit() -> None:
    limits = Limits(Seconds())
    for _ in range(1000):
        limits.ask("k", 0, 0)
        limits.spend("k", 0, 10**6)


def test_requests_beyond_a_minutes_wait_as_long_as_told() -> None:
    clock = Seconds()
    limits = Limits(clock)
    for _ in range(6):
        limits.ask("k", 6, 0)
    with pytest.raises(Refused) as raised:
        limits.ask("k", 6, 0)
    assert (raised.value.status, raised.value.headers) == (429, {"retry-after": "10"})
    limits.ask("another", 6, 0)
    clock.now += 10
    limits.ask("k", 6, 0)


def test_tokens_are_paid_off_before_the_next_request() -> None:
    clock = Seconds()
    limits = Limits(clock)
    limits.ask("k", 0, 600)
    limits.spend("k", 600, 900)
    with pytest.raises(Refused) as raised:
        limits.ask("k", 0, 600)
    assert raised.value.headers == {"retry-after": "30"}
    clock.now += 30
    limits.ask("k", 0, 600)


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 20))
def test_no_minute_sees_more_than_twice_the_limit(pauses: list[float], most: int) -> None:
    clock, taken = Seconds(), []
    limits = Limits(clock)
    for pause in pauses:
        clock.now += pause
        try:
            limits.ask("k", most, 0)
        except Refused:
            continue
        taken.append(clock.now)
    for start in taken:
        assert sum(start <= at < start + 60 for at in taken) <= 2 * most
