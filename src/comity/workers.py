"""Workers: other processes that do jobs side by side, and may die while they do.

`Workers` is what both backends are: processes of this machine (here), and a Ray cluster
(`comity.ray_workers`). A job is given to one worker at a time; where that worker dies, the job is
done again by another, and its result is handed out once.
"""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from comity.errors import ComityError

J = TypeVar("J")
R = TypeVar("R")
J_in = TypeVar("J_in", contravariant=True)
R_out = TypeVar("R_out", covariant=True)

Make = Callable[[], Callable[[J], R]]
"""Called once in each worker: gives the function that does a job. Must be one that pickles."""

DEATHS = 3
"""How many workers a job may cost before it is given up."""


class WorkerLost(ComityError):
    """Workers died over one and the same job, or no worker is left."""


class Workers(Protocol[J_in, R_out]):
    """Does jobs elsewhere. One thread submits them and takes the results."""

    @property
    def count(self) -> int:
        """How many jobs are done at the same time."""

    def submit(self, job: J_in) -> int:
        """Have a job done some time, and give its number: 0, 1, …"""

    def done(self) -> tuple[int, R_out]:
        """Wait for the next result, in whatever order, and give it with its job's number.

        Each submitted job comes back once. Raises the `ComityError` that a job raised,
        `WorkerLost` for a job over which `DEATHS` workers died, and `ValueError` where no job is
        waited for.
        """

    def close(self) -> None:
        """End the workers. What was submitted and not taken is lost."""


class Here(Generic[J, R]):
    """No other process: each job is done here, when its result is asked for."""

    count = 1

    def __init__(self, do: Callable[[J], R]) -> None:
        self._do = do
        self._waiting: deque[tuple[int, J]] = deque()
        self._numbers = 0

    def submit(self, job: J) -> int:
        """As in `Workers`."""
        self._waiting.append((self._numbers, job))
        self._numbers += 1
        return self._numbers - 1

    def done(self) -> tuple[int, R]:
        """As in `Workers`."""
        if not self._waiting:
            raise ValueError("no job is waited for")
        number, job = self._waiting.popleft()
        return number, self._do(job)

    def close(self) -> None:
        """As in `Workers`."""
        self._waiting.clear()


class Failed(NamedTuple):
    """What a worker sends where a job raised one of our errors."""

    kind: type[ComityError]
    message: str

    @classmethod
    def of(cls, error: ComityError) -> Failed:
        """The error, as it can be sent."""
        return cls(type(error), str(error))

    def error(self) -> ComityError:
        """The error again; what else it held beside its message is gone."""
        again = self.kind.__new__(self.kind)
        again.args = (self.message,)
        return again


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


class ProcessWorkers(Generic[J, R]):
    """Processes of this machine, each with a pipe; one that dies is replaced.

    They end by themselves when this process is gone. As with all processes that Python spawns, a
    script that uses them must keep its own work below `if __name__ == "__main__":`.
    """

    def __init__(self, make: Make[J, R], count: int | None = None) -> None:
        """`count` processes, by default one for each processor that this one may use."""
        self.count = count or processors()
        self._make = make
        self._waiting: deque[tuple[int, J]] = deque()
        self._busy: dict[_Worker, tuple[int, J]] = {}
        self._idle: list[_Worker] = []
        self._deaths: Counter[int] = Counter()
        self._numbers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The processes that are there."""
        return [worker.process.pid for worker in (*self._idle, *self._busy)]

    def submit(self, job: J) -> int:
        """As in `Workers`."""
        number = self._numbers
        self._numbers += 1
        self._waiting.append((number, job))
        self._give_out()
        return number

    def done(self) -> tuple[int, R]:
        """As in `Workers`."""
        while self._busy or self._waiting:
            self._give_out()
            ready = wait([worker.pipe for worker in self._busy])
            for worker in [each for each in self._busy if each.pipe in ready]:
                number, job = self._busy.pop(worker)
                try:
                    result = worker.pipe.recv()
                except (EOFError, OSError):
                    self._bury(worker, number, job)
                    continue
                self._idle.append(worker)
                self._give_out()
                if isinstance(result, Failed):
                    raise result.error()
                return number, result
        raise ValueError("no job is waited for")

    def _give_out(self) -> None:
        while self._waiting and len(self._busy) < self.count:
            worker = self._idle.pop() if self._idle else self._start()
            if worker.process.exitcode is not None:  # it died while it had nothing to do
                worker.pipe.close()
                continue
            number, job = self._waiting.popleft()
            self._busy[worker] = (number, job)
            try:
                worker.pipe.send(job)
            except OSError:
                del self._busy[worker]
                self._bury(worker, number, job)

    def _start(self) -> _Worker:
        context = get_context("spawn")  # a fork would copy locks that threads of this process hold
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._make), daemon=True)
        process.start()
        theirs.close()  # so that its death ends the pipe
        return _Worker(process, ours)

    def _bury(self, worker: _Worker, number: int, job: J) -> None:
        worker.pipe.close()
        worker.process.join()
        self._deaths[number] += 1
        if self._deaths[number] >= DEATHS:
            raise WorkerLost(
                f"{DEATHS} worker processes died over the same job (the last with exit code "
                f"{worker.process.exitcode}; -9 is often a lack of memory): try fewer workers, and "
                "see what they wrote above"
            )
        self._waiting.appendleft((number, job))

    def close(self) -> None:
        """As in `Workers`."""
        for worker in (*self._idle, *self._busy):
            worker.pipe.close()
            worker.process.terminate()
        for worker in (*self._idle, *self._busy):
            worker.process.join()
        self._idle, self._busy = [], {}
        self._waiting.clear()


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def do_or_fail(do: Callable[[J], R], job: J) -> R | Failed:
    """A job's result, or the error of ours that it raised."""
    try:
        return do(job)
    except ComityError as error:
        return Failed.of(error)


def _work(pipe: Connection, make: Make[J, R]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that submits
    try:
        do: Callable[[J], R] | None = make()
        failed = None
    except ComityError as error:
        do, failed = None, Failed.of(error)
    while True:
        try:
            job = pipe.recv()
            pipe.send(do_or_fail(do, job) if do else failed)
        except (EOFError, OSError):
            return  # whoever submitted is gone
