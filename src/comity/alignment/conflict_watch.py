"""Beside the answering: kept rules are compared in pairs, so that the next answer knows of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from comity.alignment.checks import Judge
from comity.alignment.conflicts import judge_pair, suspects
from comity.errors import ComityError
from comity.memory.memory import Memory
from comity.memory.pairs import Pair
from comity.records import Rule

TRY_AGAIN = timedelta(hours=1)
"""After this time a pair whose judgement failed is judged again."""

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Kept(NamedTuple):
    """Rules that were in force together for one answer."""

    tenant: str
    rules: tuple[Rule, ...]


class ConflictWatch:
    """Has a judge compare rules that were kept together, one pair at a time, delaying no answer.

    It works between `async with` and its end, where what is under way is cancelled and awaited.
    Of each answer the `pairs` closest in meaning that have no finding are judged; `waiting`
    answers may wait, and what comes beyond is dropped: the next answer offers its rules again. A
    judgement that fails is kept as a finding that failed; a memory or model that cannot be used
    is logged.
    """

    def __init__(self, memory: Memory, judge: Judge, *, pairs: int = 8, waiting: int = 32) -> None:
        self._memory, self._judge, self._most = memory, judge, pairs
        self._size = waiting
        self._waiting: asyncio.Queue[_Kept] | None = None  # of the loop that it works in
        self._task: asyncio.Task[None] | None = None
        self.dropped = 0

    async def __aenter__(self) -> Self:
        self._waiting = asyncio.Queue(self._size)
        self._task = asyncio.create_task(self._work(self._waiting), name="comity conflicts")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting = None
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def offer(self, tenant: str, kept: Sequence[Rule]) -> None:
        """Take note of rules that were kept together; returns at once."""
        if self._waiting is None or self._waiting.full():
            self.dropped += 1
        else:
            self._waiting.put_nowait(_Kept(tenant, tuple(kept)))

    async def idle(self) -> None:
        """Wait until all that was offered has been seen to."""
        if self._waiting is not None:
            await self._waiting.join()

    async def _work(self, waiting: asyncio.Queue[_Kept]) -> None:
        while True:
            kept = await waiting.get()
            try:
                await self._look(kept)
            except ComityError as error:
                _LOG.warning("rules kept together were not compared: %s", error)
            finally:
                waiting.task_done()

    async def _look(self, kept: _Kept) -> None:
        for pair in await _whole(partial(self._to_judge, kept)):
            found = await judge_pair(self._judge, pair, self._memory.clock())
            if found.verdict == "failed":
                _LOG.warning("rules %s and %s: %s", found.one, found.other, found.reason)
            await _whole(partial(self._memory.store.pairs.keep, kept.tenant, found))

    def _to_judge(self, kept: _Kept) -> list[Pair]:
        pairs = list(suspects(kept.rules))
        since = self._memory.clock() - TRY_AGAIN
        known = {
            found.id
            for found in self._memory.store.pairs.judged(kept.tenant, [pair.id for pair in pairs])
            if found.verdict != "failed" or found.made_at > since
        }
        unknown = [pair for pair in pairs if pair.id not in known]
        return _closest_first(self._memory, unknown)[: self._most]


def _closest_first(memory: Memory, pairs: Sequence[Pair]) -> list[Pair]:
    if not pairs:
        return []
    ones = memory.vectors.get(memory.embedder, [pair.one.indexed_text for pair in pairs])
    others = memory.vectors.get(memory.embedder, [pair.other.indexed_text for pair in pairs])
    order = (-(ones * others).sum(axis=1)).argsort(kind="stable")
    return [pairs[place] for place in order]


async def _whole(work: Callable[[], _T]) -> _T:
    """Work in a thread, waited for even when cancelled: the memory may be closed behind it."""
    begun = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        await asyncio.wait([begun])
        raise
