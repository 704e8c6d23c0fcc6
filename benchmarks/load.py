"""A closed loop of clients: each sends its next request when the last one is answered.

Latency is from sending a request to its last byte, and for streams also to the first event that
carries text. The client, too, is bare asyncio, and runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.speed import generated_question


class Sample(NamedTuple):
    """One answered request."""

    first_ms: float
    """Until the first text."""
    total_ms: float
    """Until the last byte."""


class _Connection:
    """One connection that is kept open; what cannot be read as an answer is an error."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        self._port, self._path = port, path
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, body: bytes) -> Sample:
        """Send one request and read its answer. Raises `RuntimeError` for one that failed."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        head = (
            f"POST {self._path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n{self._headers}"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        start = time.perf_counter()
        self._writer.write(head.encode() + body)
        told = await self._reader.readuntil(b"\r\n\r\n")
        if not told.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(told.decode(errors="replace"))
        first, whole = await self._body(told.lower(), self._reader)
        if b"allowed" not in whole:
            raise RuntimeError(f"this is no answer: {whole[:500]!r}")
        return Sample(1000 * (first - start), 1000 * (time.perf_counter() - start))

    async def _body(self, head: bytes, reader: asyncio.StreamReader) -> tuple[float, bytes]:
        """When the first text came, and the whole body."""
        if b"content-length:" in head:
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            return time.perf_counter(), body
        first, parts = 0.0, []
        while size := int(await reader.readline(), 16):
            parts.append(await reader.readexactly(size))
            if not first and b"allowed" in b"".join(parts):
                first = time.perf_counter()
            await reader.readexactly(2)
        await reader.readexactly(2)
        return first, b"".join(parts)


async def load(
    port: int, path: str, headers: dict[str, str], *, clients: int, requests: int, stream: bool
) -> tuple[list[Sample], float]:
    """So many requests by so many clients at once: their samples, and the seconds it all took.

    A tenth of the requests is sent beforehand, to warm up.
    """
    warm = requests // 10
    questions = iter(_bodies(warm + requests, stream))
    connections = [_Connection(port, path, headers) for _ in range(clients)]
    await _run(connections, questions, warm)
    start = time.perf_counter()
    samples = await _run(connections, questions, requests)
    return samples, time.perf_counter() - start


async def _run(
    connections: list[_Connection], bodies: Iterator[bytes], requests: int
) -> list[Sample]:
    samples: list[Sample] = []
    left = requests

    async def client(connection: _Connection) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            samples.append(await connection.ask(next(bodies)))

    await asyncio.gather(*(client(connection) for connection in connections))
    return samples


def _bodies(count: int, stream: bool) -> Iterator[bytes]:
    """Requests that all differ, as users' do."""
    for number in range(count):
        question, place = generated_question(number)
        body = {
            "model": "mock",
            "messages": [{"role": "user", "content": question}],
            "metadata": {"comity_place": place},
            "stream": stream,
        }
        yield json.dumps(body).encode()


def main() -> None:
    """Run, and print the samples as JSON: the parent process reads them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/v1/chat/completions")
    parser.add_argument("--headers", type=json.loads, default={})
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()
    samples, seconds = asyncio.run(
        load(
            given.port,
            given.path,
            given.headers,
            clients=given.clients,
            requests=given.requests,
            stream=given.stream,
        )
    )
    json.dump({"samples": samples, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    main()
