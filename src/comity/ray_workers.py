"""Workers on a Ray cluster: actors on all its nodes, which may leave while they work."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter, deque
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from comity.errors import MissingExtra, SettingsError
from comity.workers import DEATHS, Failed, Make, WorkerLost, do_or_fail

J = TypeVar("J")
R = TypeVar("R")

PATIENCE = 120.0
"""Seconds to wait for a first worker to begin, where none is at work."""
_HOST_PORT = re.compile(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)/?")
_SECONDS_TO_ANSWER = 10.0


class RayWorkers(Generic[J, R]):
    """Actors of one processor each, on all nodes of a cluster; a lost one is replaced.

    As `comity.workers.Workers`: a job whose actor or node is gone is done again by another, and a
    result counts once, whoever else had begun with it. Comity has to be installed on all nodes.
    """

    def __init__(self, make: Make[J, R], address: str = "", count: int | None = None) -> None:
        """`address`: HOST:PORT or `ray://HOST:PORT`; empty for that in RAY_ADDRESS, else for the
        cluster that runs on this machine, else for one made here. `count` actors, by default one
        for each processor.

        Raises `MissingExtra` without Ray, and `SettingsError` where no cluster answers.
        """
        self._ray = _ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(address)
        self._make = make
        self._given = count
        self._waiting: deque[tuple[int, J]] = deque()
        self._busy: dict[Any, tuple[int, J, Any]] = {}
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._deaths: Counter[int] = Counter()
        self._numbers = 0
        self.lost = 0
        """How many workers went away over a job."""
        self._actor = self._ray.remote(num_cpus=1, max_restarts=0)(_Actor)

    def _connect(self, address: str) -> None:
        try:
            _reach(address or os.environ.get("RAY_ADDRESS", ""))
            self._ray.init(
                address=address or None,
                include_dashboard=False if not address else None,
                log_to_driver=False,
                logging_level="error",
            )
        except (OSError, OverflowError, RuntimeError, ValueError) as error:
            where = address or f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}"
            raise SettingsError(
                f"no Ray cluster answers at {where} ({error}): start one with "
                "ray start --head, and name its HOST:PORT"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    @property
    def count(self) -> int:
        """As in `Workers`: the processors of the nodes that are there now."""
        return self._given or max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def submit(self, job: J) -> int:
        """As in `Workers`."""
        number = self._numbers
        self._numbers += 1
        self._waiting.append((number, job))
        self._give_out()
        return number

    def done(self) -> tuple[int, R]:
        """As in `Workers`."""
        idle_since = time.monotonic()
        while self._busy or self._waiting:
            self._give_out()
            refs = [*self._busy, *self._starting]
            ready, _ = self._ray.wait(refs, num_returns=1, timeout=1.0)
            if self._busy:
                idle_since = time.monotonic()
            elif not ready and time.monotonic() > idle_since + PATIENCE:
                raise WorkerLost(
                    f"no worker began within {PATIENCE:.0f} s: has the Ray cluster a node with a "
                    "free processor? (ray status)"
                )
            for ref in ready:
                if ref in self._starting:
                    self._has_begun(ref)
                elif (found := self._result(ref)) is not None:
                    return found
        raise ValueError("no job is waited for")

    def _has_begun(self, ref: Any) -> None:
        actor = self._starting.pop(ref)
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)
            if getattr(error, "actor_init_failed", False):  # another one would fail as well
                raise WorkerLost(
                    "a worker cannot begin: install the same version of Comity and of its packages "
                    f"on all nodes. Ray says: {error}"
                ) from error
        else:
            self._idle.append(actor)

    def _result(self, ref: Any) -> tuple[int, R] | None:
        """A job's result; None where its actor is gone, and the job waits again."""
        number, job, actor = self._busy.pop(ref)
        try:
            result = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of ours, told with its traceback
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)  # where it is only out of reach, it must not come back
            self.lost += 1
            self._deaths[number] += 1
            if self._deaths[number] >= DEATHS:
                raise WorkerLost(
                    f"{DEATHS} workers were lost over the same job, the last one so: {error}"
                ) from error
            self._waiting.appendleft((number, job))
            return None
        self._idle.append(actor)
        if isinstance(result, Failed):
            raise result.error()
        return number, result

    def _give_out(self) -> None:
        while self._waiting and self._idle:
            number, job = self._waiting.popleft()
            actor = self._idle.pop()
            self._busy[actor.do.remote(job)] = (number, job, actor)
        working = len(self._busy) + len(self._starting)
        for _ in range(min(len(self._waiting), self.count - working)):
            actor = self._actor.remote(self._make)
            self._starting[actor.ready.remote()] = actor

    def close(self) -> None:
        """As in `Workers`; the connection to the cluster is ended where it was made here."""
        busy = [actor for _, _, actor in self._busy.values()]
        for actor in (*self._idle, *busy, *self._starting.values()):
            self._ray.kill(actor)
        self._idle, self._busy, self._starting = [], {}, {}
        self._waiting.clear()
        if self._ours:
            self._ray.shutdown()


class _Actor(Generic[J, R]):
    """A worker: makes its function once, then does one job after another."""

    def __init__(self, make: Make[J, R]) -> None:
        made = do_or_fail(lambda _: make(), None)
        self._failed = made if isinstance(made, Failed) else None
        self._do = None if isinstance(made, Failed) else made

    def ready(self) -> bool:
        """Answers once it has begun."""
        return True

    def do(self, job: J) -> R | Failed:
        """The result of a job, or the error of ours that it raised."""
        if self._do is None:
            assert self._failed is not None
            return self._failed
        return do_or_fail(self._do, job)


def _reach(address: str) -> None:
    """Raises `OSError` where nobody listens: Ray would try for minutes before it says so."""
    if found := _HOST_PORT.fullmatch(address):
        host, port = found[1], int(found[2])
        socket.create_connection((host, port), _SECONDS_TO_ANSWER).close()


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtra("Ray", "ray") from error
    return ray
