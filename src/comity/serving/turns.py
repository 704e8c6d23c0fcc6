"""One answer in progress: the time that it may take, and its place, which it gives back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Self, TypeVar

from starlette.requests import Request

from comity.serving.wire import Refused

_T = TypeVar("_T")


class Turn:
    """An answer that was let in. Its time runs from now on.

    As a context it ends with the block, or with the last of the events that were begun there.
    """

    def __init__(self, seconds: float | None, leave: Callable[[], None]) -> None:
        """`seconds` is None for no limit; `leave` is called once, when the answer has ended."""
        self._seconds = seconds
        self._until = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._leave: Callable[[], None] | None = leave
        self._goes_on = False
        self._stopped = False
        self._limit: asyncio.Timeout | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or not self._goes_on:
            self.leave()

    def leave(self) -> None:
        """Give the place back; more than once does no harm."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()

    def stop(self) -> None:
        """Let the time be over: what is awaited `within` it ends, as is told there."""
        self._stopped, self._until = True, asyncio.get_running_loop().time()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(self._until)

    async def within(self, work: Awaitable[_T]) -> _T:
        """What `work` gives. Raises what `work` raises.

        Where time runs out that is `Refused`: 504, or 503 after `stop`.
        """
        self._limit = limit = asyncio.timeout_at(self._until)
        try:
            async with limit:
                return await work
        except TimeoutError as error:
            if limit.expired():
                raise self._late() from error
            raise
        finally:
            self._limit = None

    def events(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The events, and then the place is given back. Raises as `within`, between two events.

        What makes the events is cancelled then, and records what has left.
        """
        self._goes_on = True
        return self._events(events)

    async def _events(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(events):
                while True:
                    if self._is_over():  # where a client takes events slowly, nothing waits above
                        raise self._late()
                    try:
                        event = await self.within(anext(events))
                    except StopAsyncIteration:
                        return
                    yield event
        finally:
            self.leave()

    def _is_over(self) -> bool:
        return self._until is not None and asyncio.get_running_loop().time() >= self._until

    def _late(self) -> Refused:
        if self._stopped:
            said = "the gateway stops, and this answer was not whole in time: ask again"
            again = {"retry-after": "1"}
            return Refused(503, said, kind="server_error", code="stopping", headers=again)
        said = f"the answer was not whole after {self._seconds:g} seconds, the most it may take"
        return Refused(504, said, kind="timeout_error", code="timeout")


class Turns:
    """The answers in progress of one application."""

    def __init__(self) -> None:
        self._running: set[Turn] = set()

    def begin(self, seconds: float | None, leave: Callable[[], None]) -> Turn:
        """A turn, as `Turn` describes it."""

        def ended() -> None:
            self._running.discard(turn)
            leave()

        turn = Turn(seconds, ended)
        self._running.add(turn)
        return turn

    def stop(self) -> None:
        """Let the time of all of them be over."""
        for turn in tuple(self._running):
            turn.stop()


async def read_body(request: Request, most_mb: float | None) -> bytes:
    """The body, of `most_mb` MB at most. Raises `Refused` (413) for a larger one."""
    if most_mb is None:
        return await request.body()
    most = int(most_mb * 1_000_000)
    too_large = Refused(413, f"the request is larger than {most_mb:g} MB")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > most:
            raise too_large
    return bytes(raw)
