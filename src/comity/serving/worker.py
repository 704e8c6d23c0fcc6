"""One worker of the gateway: what it needs, and its life until it is told to end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field, SecretStr

from comity.alignment.aligner import Options
from comity.errors import ComityError, NotFound, SettingsError
from comity.records import Record
from comity.serving.config import Gateway
from comity.serving.upstream import Upstream
from comity.settings import Settings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from comity.models.chat import ChatModel

ENDING = (signal.SIGINT, signal.SIGTERM)
AFTER_GRACE = 5
"""Seconds for the records of answers that were broken off."""
_BACKLOG = 2048
_GARBAGE = (50_000, 20, 100)
_TURN_SECONDS = 0.02  # a request's work in a thread takes a few milliseconds, and waits often
LIMITS, METRICS = "limits", "metrics"
"""Parts of the folder that workers share."""


class Worker(Record):
    """All that a worker needs: read once, so that each worker, and each later one, has the same.

    It goes to a worker's process over a pipe: no secret stands in a command line or a file.
    """

    settings: Settings
    gateway: Gateway
    options: Options
    model: str = Field("", description="Model that runs in the worker; empty for upstreams alone.")
    folder: Path | None = Field(None, description="What workers share; None for one alone.")

    @contextmanager
    def app(self) -> Iterator[FastAPI]:
        """The application, its memory open and its index level with it. Raises `ComityError`.

        A memory that has gone since the gateway began is an error, and never a new, empty one.
        """
        from comity.memory.embed import open_embedder
        from comity.memory.memory import Memory
        from comity.memory.open_store import is_there, shown
        from comity.serving.app import create_app
        from comity.serving.ledger import FolderLedger

        settings = self.settings
        models = {self.model: self._open(self.model)} if self.model else {}
        judge = models.get(settings.judge) or (
            self._open(settings.judge) if settings.judge else None
        )
        embedder = open_embedder(
            settings.embedder,
            base_url=settings.base_url or None,
            api_key=settings.api_key.get_secret_value() or None,
        )
        if not is_there(settings.memory):
            gone = shown(settings.memory)
            raise NotFound(f"there is no memory at {gone} any more: put it back")
        with Memory.open(
            settings.memory,
            embedder=embedder,
            index=settings.index,
            index_token=settings.index_token.get_secret_value(),
        ) as memory:
            memory.index.catch_up()
            memory.follow()
            yield create_app(
                memory,
                self.gateway,
                self.options,
                judge=judge,
                models=models,
                ledger=FolderLedger(self.folder / LIMITS) if self.folder else None,
            )

    def _open(self, name: str) -> ChatModel:
        from comity.models.chat import open_model

        return open_model(
            name,
            base_url=self.settings.base_url or None,
            api_key=self.settings.api_key.get_secret_value() or None,
            timeout=self.settings.timeout,
        )


def gateway_of(settings: Settings) -> Gateway:
    """The endpoint of the settings, for whatever model clients ask for; none for another kind."""
    from comity.models.chat import REMOTE_TIMEOUT
    from comity.models.openai import OPENAI_URL

    kind, _, name = settings.model.partition(":")
    if kind != "openai":
        return Gateway()
    key = settings.api_key.get_secret_value() or os.environ.get("OPENAI_API_KEY", "")
    upstream = Upstream(
        base_url=settings.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL,
        api_key=SecretStr(key),
        timeout=settings.timeout or REMOTE_TIMEOUT,
    )
    return Gateway(upstreams={name: upstream, "*": upstream})


class Ready(NamedTuple):
    """A worker serves."""


class Failed(NamedTuple):
    """A worker cannot serve."""

    message: str
    exit_code: int


def bind(host: str, port: int) -> socket.socket:
    """A socket bound there; 0 is any free port. Raises `SettingsError`."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        with _told(host, port):
            if os.name == "posix":  # elsewhere it would let two servers have one port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
    except SettingsError:
        bound.close()
        raise
    return bound


def serve(worker: Worker, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve at a bound socket until a signal to end; running answers have the grace time.

    `ready` is called once requests are answered. Ends with `SystemExit`, of code 0 after a
    signal. Raises `ComityError` for what keeps it from serving.
    """
    for number in ENDING:  # before the server has its own handlers, and after it has ended
        signal.signal(number, _leave)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # a supervisor has them wait till here
    with worker.app() as app:
        with _told(*listener.getsockname()[:2]):
            listener.listen(_BACKLOG)
        server = _server(app, worker.gateway)
        _settle_down()
        ready()
        server.run(sockets=[listener])


def _settle_down() -> None:
    """Spend less on garbage and on threads taking turns (measured: docs/design/gateway.md)."""
    gc.collect()
    gc.freeze()  # what lives as long as the process is not looked through again and again
    gc.set_threshold(*_GARBAGE)
    sys.setswitchinterval(_TURN_SECONDS)


def _server(app: FastAPI, gateway: Gateway) -> uvicorn.Server:
    """A server that tells clients and the record of answers which the grace time breaks off."""
    import uvicorn

    from comity.serving.intake import patient

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().call_later(gateway.grace, app.state.turns.stop)
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=patient(gateway.max_body_seconds),
        ws="none",
        log_level="warning",
        timeout_graceful_shutdown=gateway.grace + AFTER_GRACE,
    )
    return Server(config)


def work(worker: Worker, listener: socket.socket, told: Connection) -> None:
    """Be one worker among several: the target of a process, which tells `Ready` or `Failed`."""
    assert worker.folder is not None, "workers share a folder"
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(worker.folder / METRICS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        serve(worker, listener, lambda: told.send(Ready()))
    except ComityError as error:
        told.send(Failed(str(error), error.exit_code))
        sys.exit(1)


@contextmanager
def _told(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{host} port {port} cannot be used ({said}): choose another --host or --port, or stop "
            "what listens there"
        ) from error


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)


def _end_with_parent() -> None:
    """Orphans end: they would hold the port, and nobody would replace or stop them."""
    parent = parent_process()
    assert parent is not None, "a worker is a child"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
