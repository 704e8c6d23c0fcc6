"""What a worker refuses because it has too much to do already."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from comity.serving.refusals import told
from comity.serving.wire import Refused

_ALWAYS = ("/healthz", "/readyz", "/metrics")


class Pressure:
    """ASGI middleware: of the requests in progress, those beyond a number are refused at once.

    A stream is in progress until its last event was taken. Probes and metrics are always
    answered: a worker that is busy is not dead.
    """

    def __init__(self, app: ASGIApp, most: int, refused: Callable[[], None]) -> None:
        """`most` requests at once, 0 for any number; `refused` is told of each one beyond."""
        self._app, self._most, self._refused = app, most, refused
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self._app(scope, receive, send)
            return
        if self._most and self._running >= self._most:
            self._refused()
            await told(_overloaded(self._most))(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._running -= 1


def _overloaded(most: int) -> Refused:
    return Refused(
        503,
        f"{most} requests are in progress here, the most that are taken: try again in a second",
        kind="overloaded_error",
        code="overloaded",
        headers={"retry-after": "1"},
    )
