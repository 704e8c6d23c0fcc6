"""Whether a worker can answer now: what `/readyz` tells whoever restarts it or sends it requests.

`/healthz` asks nothing but whether the process runs, so that a memory which cannot be used for a
while leads to no restart.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.responses import JSONResponse, Response

from comity.errors import ComityError, StoreError
from comity.memory.memory import Memory
from comity.serving.refusals import outside

_SECONDS = 2.0


class Readiness:
    """Looks whether the memory can be read and written, and whether the index can follow it.

    It looks in a thread of its own, so that a memory that hangs holds up nobody else, and one
    look at a time is under way however often it is asked.
    """

    def __init__(
        self,
        memory: Memory,
        more: Callable[[], Mapping[str, Any]] = dict,
        *,
        opens: bool = False,
    ) -> None:
        """`more` is told beside it; `opens` says that some answer without the memory."""
        self._memory, self._more, self._opens = memory, more, opens
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._look: asyncio.Future[int] | None = None

    async def reply(self) -> Response:
        """200 with the revision, or 503 with the reason, within two seconds.

        Where some answer without the memory, its failure is a 200 with the reason.
        """
        try:
            told = {"status": "ok", "revision": await self._revision(), "pid": os.getpid()}
        except ComityError as error:
            told = {"status": "unavailable", "reason": outside(error), "pid": os.getpid()}
            if not self._opens:
                return JSONResponse({**told, **self._more()}, 503, headers={"retry-after": "5"})
            told["status"] = "open"
        return JSONResponse({**told, **self._more()})

    async def _revision(self) -> int:
        if self._look is None or self._look.done():
            self._look = asyncio.get_running_loop().run_in_executor(self._thread, self._looked)
        try:
            async with asyncio.timeout(_SECONDS):
                return await asyncio.shield(self._look)
        except TimeoutError as error:
            raise StoreError(
                f"the memory gave no answer for {_SECONDS:g} seconds: another process holds it, or "
                "its disk or server is slow or stands still"
            ) from error

    def _looked(self) -> int:
        self._memory.store.probe()
        return self._memory.index.catch_up()


def healthy() -> Response:
    """200: this process runs."""
    return JSONResponse({"status": "ok", "pid": os.getpid()})
