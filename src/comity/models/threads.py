"""Blocking work in a thread of its own, whose results an event loop waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class Stop:
    """Tells a thread that nobody waits for its work any longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._close: Callable[[], None] | None = None

    def is_set(self) -> bool:
        """Whether the work is unwanted."""
        return self._is_set

    def then(self, close: Callable[[], None]) -> None:
        """Call `close` when the work becomes unwanted, at once if it is so already."""
        with self._lock:
            self._close, late = close, self._is_set
        if late:
            close()

    def set(self) -> None:
        """The work is unwanted, or done."""
        with self._lock:
            self._is_set, close = True, self._close
        if close is not None:
            close()


@dataclass(frozen=True)
class _Over:
    error: BaseException | None


async def from_thread(
    work: Callable[[Callable[[T], None], Stop], None], name: str
) -> AsyncGenerator[T, None]:
    """What `work` hands over, as it comes; raises what `work` raises.

    `work(hand, stop)` runs in a thread called `name`. When the reader leaves, `stop` is set and
    what is still handed over is dropped; nobody waits for the thread then.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[T | _Over] = asyncio.Queue()
    stop = Stop()

    def put(item: T | _Over) -> None:
        # The loop may be closed between the look and the call.
        with suppress(RuntimeError):
            if not stop.is_set():
                loop.call_soon_threadsafe(queue.put_nowait, item)

    def run() -> None:
        try:
            work(put, stop)
        except BaseException as error:  # it belongs to whoever waits for the work
            put(_Over(error))
        else:
            put(_Over(None))

    threading.Thread(target=run, name=name).start()
    try:
        while not isinstance(item := await queue.get(), _Over):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
