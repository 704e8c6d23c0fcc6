"""Server-sent events that end when their client goes, and what they hold with them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from comity.errors import ComityError
from comity.serving.intake import unless_gone
from comity.serving.refusals import refusal


class Events(StreamingResponse):
    """A stream of events, made with `started`; its source is closed whatever happens."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes]) -> None:
        self._rest = rest
        self._guarded = _guarded(first, rest)
        super().__init__(
            self._guarded, media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._guarded.aclose()
            await self._rest.aclose()


async def started(request: Request, events: AsyncGenerator[bytes]) -> Events:
    """A reply of these events, once the first is there.

    Raises what fails before it, so that it is told with a status, and `ClientDisconnect`.
    """
    return Events(await unless_gone(request, _first(events)), events)


async def _first(events: AsyncGenerator[bytes]) -> bytes:
    return await anext(events)


async def _guarded(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The events; what fails among them is told in the stream, as SDKs expect it."""
    try:
        async with aclosing(rest):
            yield first
            async for event in rest:
                yield event
    except ComityError as error:
        body = refusal(error).body
        yield b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
