"""`comity serve` as a process of its own, with its workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import httpx

from comity_command import Command

Process = subprocess.Popen[bytes]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serving(comity: Command, *arguments: str) -> Iterator[tuple[str, Process]]:
    """Its address, once it is ready, and the process."""
    port = free_port()
    command = [sys.executable, "-m", "comity", "serve", "--port", str(port), *arguments]
    process = subprocess.Popen(
        command, env=os.environ | comity.environ, cwd=comity.folder, stderr=subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.communicate()


def wait_until_ready(url: str, process: Process) -> None:
    """Ask until it is ready, or has ended."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            if httpx.get(f"{url}/readyz", timeout=30).status_code == 200:
                return
        except httpx.ConnectError:
            time.sleep(0.05)
    raise AssertionError("it does not answer")


class Workers:
    """Connections to all workers of a gateway, which a kept connection tells apart."""

    def __init__(self, url: str, count: int) -> None:
        self._url, self._count = url, count
        self._opened: list[httpx.Client] = []

    def each(self) -> Iterator[httpx.Client]:
        """A client of each worker. Connections are made until all have been met.

        They are looked at each time: an idle one is closed after some seconds.
        """
        met: set[int] = set()
        until = time.monotonic() + 60
        for client in self._clients():
            assert time.monotonic() < until, f"only {len(met)} workers answer"
            if (pid := pid_of(client)) not in met:
                met.add(pid)
                yield client
            if len(met) == self._count:
                return

    def pids(self) -> set[int]:
        """Their process ids."""
        return {pid_of(client) for client in self.each()}

    def _clients(self) -> Iterator[httpx.Client]:
        yield from tuple(self._opened)
        while True:
            self._opened.append(httpx.Client(base_url=self._url, timeout=30))
            yield self._opened[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._opened:
            client.close()


def pid_of(client: httpx.Client) -> int:
    """The worker at the other end."""
    pid: int = client.get("/healthz").json()["pid"]
    return pid
