"""Routes that are asked all the time are reached without a search among all routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class Direct:
    """ASGI middleware: calls the handler of a known method and path itself.

    What the application does around each route (matching, error handling) is left out for these,
    so that their handlers must turn every error into a response.
    """

    def __init__(self, app: ASGIApp, handlers: Mapping[tuple[str, str], Handler]) -> None:
        """`handlers` by method and path, without parameters in the path."""
        self._app, self._handlers = app, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        asked = (scope.get("method", ""), scope.get("path", ""))
        handler = self._handlers.get(asked) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        response = await handler(Request(scope, receive, send))
        await response(scope, receive, send)
