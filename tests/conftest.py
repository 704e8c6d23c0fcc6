"""Shared fixtures: a clock that only moves when told, and memories with a fake embedder."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings

from comity.cache import cache_folder
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory

# LiteLLM fetches its list of prices when it is imported, or takes the one that it ships.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

# What a test asserts is never how fast a busy machine is.
settings.register_profile("comity", deadline=None)
settings.load_profile("comity")

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests start and stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The collector need not look through all that is imported for the tests, again and again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# They wait for other processes for long, while the tests of the other worker have the processor.
FIRST = (
    "test_ray.py",
    "test_training_runs.py",
    "test_postgres_hosts.py",
    "test_workers.py",
    "test_soak.py",
    "test_cli_serve.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In any order, but none that takes long comes last, when the other worker is done."""
    items.sort(key=lambda item: item.path.name not in FIRST)


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = datetime(2030, 6, 1, 12, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> datetime:
        """Move on by days, hours, seconds, …"""
        self.now += timedelta(**by)
        return self.now


OpenMemory = Callable[[], Memory]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests and workers of a run, for the table of places takes a second to
    compile; of the user's own only the models are read, and nothing is written."""
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        run = run.parent
    cache, models = run / "cache", cache_folder() / "models"
    cache.mkdir(exist_ok=True)
    if models.exists():
        with suppress(FileExistsError):  # another worker was first
            (cache / "models").symlink_to(models)
    with pytest.MonkeyPatch.context() as session:
        session.setenv("COMITY_CACHE", str(cache))
        yield


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> Iterator[Memory]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64), clock=clock) as opened:
        yield opened


@pytest.fixture
def open_memory(tmp_path: Path, clock: Clock) -> Iterator[OpenMemory]:
    """Opens the same memory on disk, as often as wanted."""
    opened: list[Memory] = []

    def open_it() -> Memory:
        url = f"sqlite:///{tmp_path}/rules.db"
        opened.append(Memory.open(url, embedder=HashEmbedder(64), clock=clock))
        return opened[-1]

    yield open_it
    for memory in opened:
        memory.close()
