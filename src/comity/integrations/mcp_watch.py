"""Who is told that rules have changed: the clients of an MCP server, each of its own tenant's.

Clients of today open a stream (`subscriptions/listen`), older ones subscribe to a resource and
hear of it on their connection. The memory's revision is read once a second while anyone listens.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import anyio
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
)
from mcp_types import SubscriptionsListenRequestParams, SubscriptionsListenResult

from comity.integrations.mcp_resources import uri_of
from comity.memory.memory import Memory

_MOST_SESSIONS = 1000


class Listeners:
    """The listeners of one tenant."""

    def __init__(self, revision: int) -> None:
        self.bus = InMemorySubscriptionBus()
        self.listen = ListenHandler(self.bus)
        self.open = 0
        """Streams that are open."""
        self.sessions: OrderedDict[str, tuple[ServerSession, set[str]]] = OrderedDict()
        """Connections of older clients, with the resources they follow."""
        self.told = revision
        """The revision whose changes they know of."""

    async def tell(self, uris: list[str]) -> None:
        """Tell of changed resources, and that their list is to be read again."""
        for uri in uris:
            await self.bus.publish(ResourceUpdated(uri=uri))
        await self.bus.publish(ResourcesListChanged())
        for name, (session, followed) in list(self.sessions.items()):
            try:
                for uri in uris:
                    if uri in followed:
                        await session.send_resource_updated(uri)
                await session.send_resource_list_changed()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self.sessions.pop(name, None)


class Watch:
    """Follows a memory's revisions for those who listen."""

    def __init__(self, memory: Memory, seconds: float = 1.0) -> None:
        self._memory, self._seconds = memory, seconds
        self._tenants: dict[str, Listeners] = {}

    async def listen(
        self, tenant: str, ctx: Any, params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Serve one stream of changes, until its client goes."""
        listeners = await self._listeners(tenant)
        listeners.open += 1
        try:
            return await listeners.listen(ctx, params)
        finally:
            listeners.open -= 1

    async def subscribe(self, tenant: str, name: str, session: ServerSession, uri: str) -> None:
        """Have an older client told of a resource; `name` is its connection's."""
        sessions = (await self._listeners(tenant)).sessions
        _, followed = sessions.get(name, (session, set()))
        sessions[name] = (session, followed | {uri})
        sessions.move_to_end(name)
        if len(sessions) > _MOST_SESSIONS:
            sessions.popitem(last=False)

    async def unsubscribe(self, tenant: str, name: str, uri: str) -> None:
        """Tell an older client no more of a resource."""
        sessions = (await self._listeners(tenant)).sessions
        if name in sessions:
            session, followed = sessions[name]
            sessions[name] = (session, followed - {uri})
            if not sessions[name][1]:
                del sessions[name]

    async def follow(self) -> None:
        """Tell of changes as they come, for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            for tenant, listeners in list(self._tenants.items()):
                if listeners.open or listeners.sessions:
                    await self._tell(tenant, listeners)
                else:
                    del self._tenants[tenant]

    async def _listeners(self, tenant: str) -> Listeners:
        known = self._tenants.get(tenant)
        if known is None:
            revision = await asyncio.to_thread(lambda: self._memory.revision)
            known = self._tenants.setdefault(tenant, Listeners(revision))
        return known

    async def _tell(self, tenant: str, listeners: Listeners) -> None:
        revision = await asyncio.to_thread(lambda: self._memory.revision)
        if revision == listeners.told:
            return
        changed = await asyncio.to_thread(self._memory.changes_since, listeners.told, tenant=tenant)
        listeners.told = revision
        if changed:
            await listeners.tell(list(dict.fromkeys(uri_of(each.rule.id) for each in changed)))
