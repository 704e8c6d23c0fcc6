"""What holds for every request: how large it may be, how slowly it may come, and its name.

Sizes and times of bodies are held by an ASGI middleware, for every route alike. What goes on
before a request's headers are whole, and while a client does not take its answer, only the
server's protocol can tell: `patient` gives one for uvicorn.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comity.serving.wire import Refused

_T = TypeVar("_T")
_MOST_HEAD = 65_536  # bytes of a request's first line and headers


class Intake:
    """ASGI middleware: bounds a request's body, and names the request in its reply.

    The body is bounded while it is read, so that a route may refuse a request before that.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        """`most` bytes, which must have come `seconds` after the body's reading began."""
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = f"req-{secrets.token_hex(12)}"

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        incoming = _Incoming(Headers(scope=scope), receive, self._most, self._seconds)
        await self._app(scope, incoming, named)


class _Incoming:
    """A request's body, as it comes. Raises `Refused` for what is not waited for or read."""

    def __init__(self, headers: Headers, receive: Receive, most: int, seconds: float) -> None:
        self._headers, self._receive = headers, receive
        self._most, self._seconds = most, seconds
        self._until: float | None = None
        self._taken = 0
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        if self._until is None:
            self._begin()
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError as error:
            said = f"the request was not whole after {self._seconds:g} seconds: send it again"
            raise Refused(408, said, code="request_timeout") from error
        self._taken += len(message.get("body", b""))
        if self._taken > self._most:
            raise self._too_large()
        self._whole = not message.get("more_body", False)
        return message

    def _begin(self) -> None:
        self._until = asyncio.get_running_loop().time() + self._seconds
        if self._headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "the body must not be compressed: send it without content-encoding")
        declared = self._headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._most:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, f"the request is larger than {self._most / 1_000_000:g} MB")


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What `work` gives, unless the client goes away before: then `work` is cancelled.

    The request's body must have been read. Raises `ClientDisconnect`, and what `work` raises.
    """
    task, left = asyncio.current_task(), False
    assert task is not None

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError as error:
        if left and task.uncancel() == 0:
            raise ClientDisconnect from error
        raise
    finally:
        watching.cancel()


class _Patience:
    """Closes a connection whose client is too slow, or whose headers do not end.

    Stands before one of uvicorn's protocols, which itself waits for ever in these cases.
    """

    seconds: float
    cycle: Any
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _head = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self._head_timer = self.loop.call_later(self.seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # type: ignore[misc]
        self._stop_timers(head=True, writing=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)  # type: ignore[misc]
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering:
            self._head = 0
            self._stop_timers(head=True)
            return
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.seconds, self.transport.close)
        if self.cycle is None or not self.cycle.more_body:  # else the rest of a refused body
            self._head += len(data)
        if self._head > _MOST_HEAD:
            self.transport.abort()

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        self._write_timer = self._write_timer or self.loop.call_later(
            self.seconds, self.transport.abort
        )

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self._stop_timers(writing=True)

    def _stop_timers(self, *, head: bool = False, writing: bool = False) -> None:
        if head and self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        if writing and self._write_timer:
            self._write_timer.cancel()
            self._write_timer = None


def patient(seconds: float) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP protocol, with `seconds` for a request's headers and for taking an answer.

    To be given as `http=` to uvicorn.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    return type("Patient", (_Patience, AutoHTTPProtocol), {"seconds": seconds})
