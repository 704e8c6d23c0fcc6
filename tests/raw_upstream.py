"""An upstream that sends any bytes at all, and a gateway before it, both over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

import prompt_server
from comity import Memory, Rule
from comity.memory.embed import HashEmbedder
from comity.records import Check
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway, Tenant
from comity.serving.intake import patient
from comity.serving.upstream import Upstream

Body = dict[str, Any]
Step = bytes | float | None
"""What the upstream does next: send bytes, wait so many seconds, or cut the connection."""
Script = Callable[[Body], Iterable[Step]]

DOSES = Rule(
    id="doses",
    text="No doses are named.",
    mandatory=True,
    enforcement="block",
    check=Check(must_not_match=r"\d+ mg"),
)
HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def reply(
    body: bytes, kind: str = "application/json", status: str = "200 OK", more: Sequence[str] = ()
) -> bytes:
    """A whole HTTP reply."""
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", *more]
    return "\r\n".join((*lines, "", "")).encode() + body


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
"""Before events whose end is the connection's end."""


def event(told: Any) -> bytes:
    """A server-sent event."""
    text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
    return b"data: " + text.encode() + b"\n\n"


def piece(delta: Any, finish: Any = None, index: Any = 0, **more: Any) -> Body:
    """A chunk of one choice."""
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return {**HEAD, "choices": [choice]}


def says(text: str, finish: Any = "stop") -> list[bytes]:
    """The events of an answer that comes in pieces of two characters."""
    pieces = [event(piece({"content": text[i : i + 2]})) for i in range(0, len(text), 2)]
    return [*pieces, event(piece({}, finish)), event("[DONE]")]


def plain(message: Any, **more: Any) -> bytes:
    """A whole answer that is no stream."""
    choice = {"index": 0, "message": message, "finish_reason": "stop", **more}
    return reply(json.dumps({**HEAD, "choices": [choice]}).encode())


class RawUpstream:
    """Answers each request by a script, and keeps what became of it."""

    def __init__(self) -> None:
        self.script: Script = lambda body: [plain({"content": "Yes."})]
        self.asked: list[Body] = []
        self.open = 0
        """Requests that are being answered."""
        self.broken = 0
        """Answers that the gateway did not wait for."""
        self.port = 0

    async def run(self, stop: asyncio.Event, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await stop.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.asked.append(body)
                self.open += 1
                try:
                    kept = await self._answer(body, reader, writer)
                finally:
                    self.open -= 1
                if not kept:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, body: Body, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection may be used again."""
        sent = b""
        gone = asyncio.ensure_future(reader.read(1))
        try:
            for step in self.script(body):
                if step is None:
                    return False
                if isinstance(step, bytes):
                    sent += step[:200]
                    writer.write(step)
                    await writer.drain()
                    continue
                done, _ = await asyncio.wait((gone,), timeout=step)
                if done:
                    self.broken += 1
                    return False
            return b"content-length" in sent and not gone.done()
        except ConnectionError:
            self.broken += 1
            return False
        finally:
            gone.cancel()


@contextmanager
def raw_upstream() -> Iterator[RawUpstream]:
    """It runs in a thread of its own."""
    upstream, ready = RawUpstream(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(upstream.run(stop, ready))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10)
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


class Running:
    """A gateway before a raw upstream."""

    def __init__(self, port: int, memory: Memory, upstream: RawUpstream, key: str) -> None:
        self.port, self.memory, self.upstream, self.key = port, memory, upstream, key
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30
        )

    def ask(self, **more: Any) -> httpx.Response:
        """A chat request, and its whole reply."""
        return self.client.post("/v1/chat/completions", json=self.body(**more))

    def body(self, text: str = "How much?", **more: Any) -> Body:
        return {"model": "bot", "messages": [{"role": "user", "content": text}], **more}

    def request(self, content: bytes, *more: str) -> bytes:
        """A chat request as bytes."""
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "host: x",
            f"authorization: Bearer {self.key}",
            "content-type: application/json",
            f"content-length: {len(content)}",
            *more,
        ]
        return "\r\n".join((*lines, "", "")).encode() + content

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def decisions(self) -> list[Any]:
        return list(self.memory.store.decisions("default"))

    def wait_for(self, true: Callable[[], bool]) -> None:
        """Until something is so, which the gateway does in its own time."""
        until = time.monotonic() + 20
        while not true():
            assert time.monotonic() < until, "it has not happened"
            time.sleep(0.01)


@contextmanager
def served(app: ASGIApp, seconds: float = 60.0) -> Iterator[int]:
    """The application on a port of its own, with uvicorn as `comity serve` runs it."""
    config = uvicorn.Config(app, log_level="error", lifespan="on", http=patient(seconds), ws="none")
    with prompt_server.running(config) as port:
        yield port


@contextmanager
def gateway(
    *, release: Any = "strict", silent: float = 20.0, seconds: float = 60.0, **more: Any
) -> Iterator[Running]:
    """A gateway with one blocking rule; `seconds` is what a client may take."""
    with (
        raw_upstream() as upstream,
        Memory.open("sqlite://", embedder=HashEmbedder(16)) as memory,
    ):
        memory.add([DOSES])
        key = create_key(memory, "default", "client").secret
        there = Upstream(base_url=f"http://127.0.0.1:{upstream.port}/v1", timeout=silent)
        config = Gateway(
            upstreams={"bot": there},
            tenants={"default": Tenant(release=release)},
            max_body_seconds=seconds,
            **more,
        )
        with served(create_app(memory, config), seconds) as port:
            running = Running(port, memory, upstream, key)
            with running.client:
                yield running
