"""Workers: jobs done side by side in processes that may die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from comity.errors import EmbedderError
from comity.workers import DEATHS, Here, ProcessWorkers, WorkerLost, Workers

Number = Callable[[int], tuple[int, int]]


def squares() -> Number:
    """Each worker says who it is beside the result."""

    def do(job: int) -> tuple[int, int]:
        if job < 0:
            raise EmbedderError(f"{job} has no root")
        return job * job, os.getpid()

    return do


def dying(folder: Path, times: int) -> Number:
    """Job 3 ends its worker as often as that, as a lack of memory would."""

    def do(job: int) -> tuple[int, int]:
        if job == 3:
            tries = len(list(folder.iterdir()))
            (folder / f"{tries}").touch()
            if tries < times:
                os.kill(os.getpid(), signal.SIGKILL)
        return job * job, os.getpid()

    return do


def broken() -> Number:
    raise EmbedderError("no weights")


def results(workers: Workers[int, tuple[int, int]], jobs: range) -> dict[int, int]:
    numbers = [workers.submit(job) for job in jobs]
    came = dict(workers.done() for _ in numbers)
    assert sorted(came) == numbers
    return {jobs[number - numbers[0]]: square for number, (square, _) in came.items()}


@pytest.fixture(params=["here", "processes"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers[int, tuple[int, int]]]:
    opened: Workers[int, tuple[int, int]]
    opened = Here(squares()) if request.param == "here" else ProcessWorkers(squares, 2)
    yield opened
    opened.close()


def test_every_job_comes_back_once_and_an_error_of_ours_stays_one(
    workers: Workers[int, tuple[int, int]],
) -> None:
    assert results(workers, range(20)) == {n: n * n for n in range(20)}
    workers.submit(-1)
    with pytest.raises(EmbedderError, match="-1 has no root"):
        workers.done()
    assert results(workers, range(20, 25)) == {n: n * n for n in range(20, 25)}
    with pytest.raises(ValueError, match="no job"):
        workers.done()


def test_a_job_whose_worker_died_is_done_again_by_another(tmp_path: Path) -> None:
    with ProcessWorkers(partial(dying, tmp_path, DEATHS - 1), 2) as workers:
        assert results(workers, range(8)) == {n: n * n for n in range(8)}
    assert len(list(tmp_path.iterdir())) == DEATHS


def test_a_job_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    with ProcessWorkers(partial(dying, tmp_path, 99), 1) as workers:
        workers.submit(3)
        with pytest.raises(WorkerLost, match="exit code -9"):
            workers.done()


def test_a_worker_that_dies_while_it_waits_is_replaced() -> None:
    with ProcessWorkers(squares, 1) as workers:
        workers.submit(2)
        assert workers.done()[1][0] == 4
        [pid] = workers.pids
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        workers.submit(3)
        square, by = workers.done()[1]
        assert (square, by != pid) == (9, True)


def test_workers_that_cannot_begin_say_why() -> None:
    with ProcessWorkers(broken, 1) as workers:
        workers.submit(1)
        with pytest.raises(EmbedderError, match="no weights"):
            workers.done()
