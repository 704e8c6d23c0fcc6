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
from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

from benchmarks.speed import QUESTIONS, generated_question


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
    port: int,
    path: str,
    headers: dict[str, str],
    *,
    clients: int,
    seconds: float,
    stream: bool,
    first: int = 0,
) -> tuple[list[Sample], int]:
    """The samples of so many clients for so many seconds, after a fifth of it to warm up.

    And how many requests there were in all. The question of number `first` is asked first.
    """
    connections = [_Connection(port, path, headers) for _ in range(clients)]
    bodies = _bodies(stream, first)
    warm = await _run(connections, bodies, seconds / 5)
    samples = await _run(connections, bodies, seconds)
    return samples, len(warm) + len(samples)


async def _run(
    connections: Sequence[_Connection], bodies: Iterator[bytes], seconds: float
) -> list[Sample]:
    samples: list[Sample] = []
    end = time.perf_counter() + seconds

    async def client(connection: _Connection) -> None:
        while time.perf_counter() < end:
            samples.append(await connection.ask(next(bodies)))

    await asyncio.gather(*(client(connection) for connection in connections))
    return samples


def _bodies(stream: bool, first: int) -> Iterator[bytes]:
    """Requests that differ, as users' do."""
    for number in count(first):
        question, place = generated_question(number % QUESTIONS)
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
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    samples, sent = asyncio.run(
        load(
            given.port,
            given.path,
            given.headers,
            clients=given.clients,
            seconds=given.seconds,
            stream=given.stream,
            first=given.first,
        )
    )
    json.dump({"samples": samples, "sent": sent}, sys.stdout)


if __name__ == "__main__":
    main()
