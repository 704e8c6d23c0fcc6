"""uvicorn in a thread of the tests, which ends as soon as it is told to."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

_LOOK = 0.01


@contextmanager
def running(config: uvicorn.Config) -> Iterator[int]:
    """The application on a port of its own, which is given once it is ready."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server = _Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.005)
            yield taken.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


class _Server(uvicorn.Server):
    """Looks often whether it shall end: uvicorn takes a third of a second, in hundreds of tests."""

    async def main_loop(self) -> None:
        await self.on_tick(0)  # makes the headers of all answers
        while not self.should_exit:
            await asyncio.sleep(_LOOK)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does: no new connections, what is begun is finished, the lifespan ends."""
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(_LOOK)
        for server in self.servers:
            await server.wait_closed()
        await self.lifespan.shutdown()
