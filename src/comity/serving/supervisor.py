"""Several workers behind one port: started, replaced when they die, and ended together."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from comity.errors import ComityError, SettingsError
from comity.memory.open_store import lives_here_only
from comity.serving.shared_folder import shared_folder
from comity.serving.worker import AFTER_GRACE, ENDING, LIMITS, METRICS, Failed, Ready, Worker, work

_LOG = logging.getLogger(__name__)
_STEADY = 10.0  # seconds after which a worker's end is no sign of a fault that will come back
_LONGEST_PAUSE = 30.0
_TO_CLOSE = 5.0  # seconds for what comes after the last answer


class WorkerFailed(ComityError):
    """The first worker could not serve."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.exit_code = failed.exit_code


def check_several(worker: Worker, count: int) -> None:
    """Raises `SettingsError` for what several workers cannot do."""
    if sys.platform == "win32":
        raise SettingsError("--workers: several workers need Linux or macOS")
    if lives_here_only(worker.settings.memory):
        raise SettingsError(
            f"--workers {count}: the memory {worker.settings.memory} lives in one process only: "
            "give a file, such as --memory sqlite:///rules.db"
        )
    for name in (worker.model, worker.settings.judge):
        if name.partition(":")[0] == "local":
            raise SettingsError(
                f"--workers {count}: each worker would load the model {name} for itself: serve it "
                "once (llama-server, Ollama, vLLM) and name it as openai:MODEL with --base-url, or "
                "use one worker, which answers several requests at once as well"
            )


def run_several(
    worker: Worker, listener: socket.socket, count: int, ready: Callable[[], None]
) -> None:
    """Keep `count` workers at a bound socket alive until a signal; they share a folder.

    Raises `WorkerFailed`.
    """
    with shared_folder(LIMITS, METRICS) as folder:
        shared = worker.model_copy(update={"folder": folder})
        Supervisor(shared, listener, count, ready).run()


class Supervisor:
    """Keeps a number of workers at one socket alive.

    The first worker starts alone: what keeps it from serving ends the whole with one error, and
    an index that has to be made is made once. Later, one that cannot start is tried again, after
    pauses that grow.
    """

    def __init__(
        self, worker: Worker, listener: socket.socket, count: int, ready: Callable[[], None]
    ) -> None:
        """`ready` is called when the first worker serves."""
        self._ready = ready
        self._serves = False
        self._signals = 0
        self._grace = worker.gateway.grace + AFTER_GRACE + _TO_CLOSE
        self._places = [_Place(worker, listener) for _ in range(count)]

    def run(self) -> None:
        """Keep them alive until SIGINT or SIGTERM; returns when all have ended.

        Running answers have the gateway's grace time; a second signal ends them at once. Raises
        `WorkerFailed`.
        """
        resource_tracker.ensure_running()  # its start would let signals through to a new worker
        with self._bell() as bell:
            try:
                while not self._signals:
                    self._start()
                    _rest(bell, self._events(), self._pause())
                    self._look()
            finally:
                self._end(bell)

    @contextmanager
    def _bell(self) -> Iterator[int]:
        """A file that can be read from after a signal, which so ends a wait."""
        heard, rung = os.pipe()

        def ring(_: int, __: Any) -> None:
            self._signals += 1
            os.write(rung, b"!")

        before = {number: signal.signal(number, ring) for number in ENDING}
        try:
            yield heard
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(heard)
            os.close(rung)

    def _start(self) -> None:
        for place in self._places if self._serves else self._places[:1]:
            if place.process is None and place.due <= time.monotonic():
                place.start()

    def _events(self) -> Iterator[Any]:
        for place in self._places:
            if place.process is not None:
                yield place.process.sentinel
                if not place.serves:
                    yield place.told

    def _pause(self) -> float | None:
        """Seconds until a worker has to be started; None for none."""
        due = [place.due for place in self._places if place.process is None]
        return max(0.0, min(due) - time.monotonic()) if due and self._serves else None

    def _look(self) -> None:
        """Hear what the workers say, and who has died."""
        for place in self._places:
            if place.process is None:
                continue
            if place.hear() and not self._serves:
                self._serves = True
                self._ready()
            if place.process.exitcode is not None:
                failed = place.bury()
                if not self._serves and not self._signals:
                    raise WorkerFailed(failed)
                _LOG.warning("a worker ended: %s; another one takes its place", failed.message)

    def _end(self, bell: int) -> None:
        running = [place.process for place in self._places if place.process is not None]
        for process in running:
            process.terminate()
        until, heard = time.monotonic() + self._grace, self._signals
        while running and self._signals == heard and time.monotonic() < until:
            _rest(bell, [each.sentinel for each in running], until - time.monotonic())
            running = [process for process in running if process.exitcode is None]
        for process in running:
            process.kill()
            process.join()


class _Place:
    """One worker's place: a process is in it, or is due to be."""

    def __init__(self, worker: Worker, listener: socket.socket) -> None:
        self._worker, self._listener = worker, listener
        self.process: SpawnProcess | None = None
        self.told: Connection
        self.serves = False
        self.due = 0.0
        self._failed: Failed | None = None
        self._since = 0.0
        self._early_ends = 0

    def start(self) -> None:
        """Start a worker, for which signals wait until it can take them."""
        context = multiprocessing.get_context("spawn")
        self.told, tells = context.Pipe(duplex=False)
        arguments = (self._worker, self._listener, tells)
        self.process = context.Process(target=work, args=arguments, daemon=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            tells.close()
        self.serves, self._failed, self._since = False, None, time.monotonic()

    def hear(self) -> bool:
        """Whether the worker has just said that it serves."""
        if self.serves or not self.told.poll():
            return False
        try:
            told = self.told.recv()
        except EOFError:  # it died before it could say anything
            return False
        self.serves = isinstance(told, Ready)
        self._failed = told if isinstance(told, Failed) else None
        return self.serves

    def bury(self) -> Failed:
        """Why the worker ended; the place is free, and says when the next one is due."""
        assert self.process is not None, "there is a worker"
        failed = self._failed or Failed(f"process {self.process.pid} {self._how()}", 1)
        lived = time.monotonic() - self._since
        self._early_ends = 0 if lived > _STEADY else self._early_ends + 1
        # the first time at once: most often a worker was killed from outside
        again = self._early_ends - (1 if self.serves else 0)
        pause = min(_LONGEST_PAUSE, 2.0 ** (again - 1)) if again > 0 else 0.0
        self.due = time.monotonic() + pause
        self.told.close()
        self.process.close()
        self.process = None
        return failed

    def _how(self) -> str:
        code = self.process.exitcode if self.process else None
        if code is not None and code < 0:
            return f"was ended by signal {-code}"
        return f"ended with exit code {code} (what it wrote before says why)"


def _rest(bell: int, events: Iterable[Any], seconds: float | None) -> None:
    """Wait until something happens, or the time is over."""
    if bell in wait([bell, *events], seconds):
        os.read(bell, 1)
