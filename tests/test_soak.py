"""The soak's short form, and how it tells growth from noise."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from benchmarks.soak import Sample, fit, problems, soak
from hypothesis import given
from hypothesis import strategies as st


def grows(mb: float, noise: float = 0.0, fds: float = 0.0, tasks: float = 0.0) -> list[Sample]:
    """100 samples over 100,000 requests, in which these grow by so much."""
    chance = random.Random(7)
    return [
        Sample(
            requests=1000 * at,
            rss_mb=100 + mb * at / 100 + chance.gauss(0, noise),
            fds=20 + fds * at / 100,
            tasks=5 + tasks * at / 100,
        )
        for at in range(100)
    ]


@given(mb=st.floats(-50, 50))
def test_the_slope_of_a_line_without_noise_is_found_and_certain(mb: float) -> None:
    line = fit(grows(mb))
    assert line.slope == pytest.approx(mb, abs=1e-6)
    assert line.uncertainty < 1e-6


def test_the_uncertainty_holds_the_true_slope_in_noise() -> None:
    line = fit(grows(3, noise=2))
    assert 0 < line.uncertainty < 5
    assert abs(line.slope - 3) <= line.uncertainty


def test_growth_is_told_and_steadiness_is_not() -> None:
    assert problems(grows(0.5, noise=0.2)) == []
    assert "memory grows" in problems(grows(20, noise=0.2))[0]
    assert "fds have grown" in problems(grows(0, fds=40))[0]
    assert "tasks have grown" in problems(grows(0, tasks=40))[0]


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        fit(grows(1)[:10])


def test_mixed_load_leaves_nothing_open_in_the_real_process(tmp_path: Path) -> None:
    load = asyncio.run(soak(tmp_path, 10, 4, seed=11))
    warm = load.samples[len(load.samples) // 5 :]
    assert {"plain 200", "stream 200", "left", "read 200", "change 200", "key"} <= set(load.done)
    statuses = {name.split()[-1] for name in load.done}
    assert not statuses & {"500", "503", "504"}, load.done
    assert problems([each._replace(rss_mb=0) for each in load.samples]) == []
    assert max(each.tasks for each in warm) < 100
    assert warm[-1].rss_mb - warm[0].rss_mb < 60
