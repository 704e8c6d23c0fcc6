"""Looks something up in the book of record for a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from comity.memory.memory import Memory

_T = TypeVar("_T")


async def looked_up(memory: Memory, look: Callable[[], _T]) -> _T:
    """What a short look gives: at once from a file, from a thread where a server is asked.

    A server that does not answer keeps that request waiting, and none of the others.
    """
    return await asyncio.to_thread(look) if memory.store.far else look()
