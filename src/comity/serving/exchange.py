"""One request and its answer in the form of its route: what routes that ask a model share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from starlette.requests import Request

from comity.serving.completions import Completions
from comity.serving.wire import Body, Chat, read_chat


class Exchange(Protocol):
    """A request that was understood, and the form of its answer."""

    chat: Chat
    """The request as a chat completion."""

    async def complete(self, completions: Completions) -> Body:
        """The whole answer. Raises what `Completions.complete` raises."""

    def stream(self, completions: Completions) -> AsyncGenerator[bytes]:
        """The answer as server-sent events. Raises what `Completions.chunks` raises."""


class ChatExchange:
    """`POST /v1/chat/completions`: the form that `Completions` answers in."""

    def __init__(self, raw: bytes, request: Request, tenant: str) -> None:
        """Raises `Refused` (400) for a body that cannot be understood."""
        self.chat = read_chat(raw, request.headers, tenant)

    async def complete(self, completions: Completions) -> Body:
        """As in `Exchange`."""
        return await completions.complete(self.chat)

    def stream(self, completions: Completions) -> AsyncGenerator[bytes]:
        """As in `Exchange`."""
        return completions.stream(self.chat)
