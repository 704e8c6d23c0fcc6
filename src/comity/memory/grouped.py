"""Group commit: what several threads want to write at once is written in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from comity.errors import StoreError

_Item = TypeVar("_Item")
_Written = TypeVar("_Written")


class Grouped(Generic[_Item, _Written]):
    """Writes items of many threads, those that wait together.

    The first thread that comes writes its item at once; what comes meanwhile is written by one
    of the threads that wait, all of it together. Every call returns when its own item is
    durable, or raises what has kept it from being written.
    """

    def __init__(self, write: Callable[[Sequence[_Item]], Sequence[_Written]]) -> None:
        """`write` writes all items of a group, or raises and has written none."""
        self._write = write
        self._waiting: list[_Call[_Item, _Written]] = []
        self._list = threading.Lock()
        self._turn = threading.Lock()

    def __call__(self, item: _Item) -> _Written:
        """Write one item. Raises what `write` raises for it."""
        mine: _Call[_Item, _Written] = _Call(item)
        with self._list:
            self._waiting.append(mine)
        with self._turn:
            if not mine.settled:
                with self._list:
                    group, self._waiting = self._waiting, []
                self._settle(group)
        return mine.result()

    def _settle(self, group: Sequence[_Call[_Item, _Written]]) -> None:
        try:
            written = self._write([call.item for call in group])
        except BaseException as error:
            if len(group) == 1 or isinstance(error, StoreError):
                for call in group:
                    call.error = error
            else:  # one item's own fault: the others are written without it
                for call in group:
                    self._settle([call])
        else:
            for call, each in zip(group, written, strict=True):
                call.written = (each,)


class _Call(Generic[_Item, _Written]):
    """One item, and what has become of it."""

    def __init__(self, item: _Item) -> None:
        self.item = item
        self.written: tuple[_Written] | tuple[()] = ()
        self.error: BaseException | None = None

    @property
    def settled(self) -> bool:
        return bool(self.written) or self.error is not None

    def result(self) -> _Written:
        if self.error is not None:
            raise self.error
        return self.written[0]  # type: ignore[misc]  # settled without an error
