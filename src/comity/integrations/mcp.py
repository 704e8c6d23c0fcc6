"""An MCP server (extra `mcp`): rules as resources, search and check as tools.

On stdio it serves one tenant to whoever has started it; over HTTP each caller's key says which
tenant it is, and what it may do.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import anyio
import mcp_types as types
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from pydantic import AnyHttpUrl, BaseModel, ValidationError
from starlette.applications import Starlette

from comity.alignment.aligner import Options
from comity.errors import ComityError, NotFound
from comity.integrations.mcp_resources import (
    NOW_TEMPLATE,
    VERSION_TEMPLATE,
    list_rules,
    read_rule,
    uri_of,
)
from comity.integrations.mcp_tools import DESCRIBED, Described, Tools
from comity.integrations.mcp_watch import Watch
from comity.memory.memory import Memory
from comity.models.chat import ChatModel
from comity.records import DEFAULT_TENANT, Rule
from comity.serving.auth import MAY, Act, Principal, principal
from comity.serving.wire import Refused

Context = ServerRequestContext[Any]
WhoAsks = Callable[[], Principal]
"""Who makes the request at hand. Raises `Refused` for a key that is no longer good."""

_JSON = "application/json"
_INSTRUCTIONS = (
    "Rules that hold at a place, at a time and for a person. Ask rules_in_force before you answer "
    "a question that rules may bear on, follow what is kept, and have the answer checked with "
    "check_answer before you give it."
)


def local_owner(tenant: str) -> WhoAsks:
    """Whoever started the process: everything of one tenant."""
    return lambda: Principal("stdio", tenant, "admin")


def rules_server(
    memory: Memory,
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    judge: ChatModel | None = None,
    who: WhoAsks | None = None,
    poll_seconds: float = 1.0,
) -> Server[Any]:
    """The server. `who` asks; by default whoever has the process, for the default tenant.

    While a client listens, the memory's revision is read every `poll_seconds`.
    """
    watch = Watch(memory, poll_seconds)
    handlers = _Handlers(
        memory, Tools(memory, options, judge), watch, who or local_owner(DEFAULT_TENANT)
    )

    @asynccontextmanager
    async def lifespan(_: Server[Any]) -> AsyncIterator[dict[str, Any]]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch.follow)
            yield {}
            tasks.cancel_scope.cancel()

    return Server(
        "comity",
        version=version("comity"),
        title="Comity",
        instructions=_INSTRUCTIONS,
        lifespan=lifespan,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
        on_subscribe_resource=handlers.subscribe,
        on_unsubscribe_resource=handlers.unsubscribe,
        on_subscriptions_listen=handlers.listen,
    )


def starting(server: Server[Any]) -> InitializationOptions:
    """What the server tells of itself to clients that begin with a handshake."""
    return server.create_initialization_options(NotificationOptions(resources_changed=True))


async def serve_stdio(server: Server[Any]) -> None:
    """Serve the process's own stdin and stdout until they are closed."""
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, starting(server))


def http_app(
    memory: Memory,
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    judge: ChatModel | None = None,
    host: str = "127.0.0.1",
    url: str = "http://127.0.0.1/mcp",
    poll_seconds: float = 1.0,
) -> Starlette:
    """The server as an ASGI application, at `/mcp`, for keys of `comity keys create`."""
    server = rules_server(
        memory, options, judge=judge, who=lambda: _holder(memory), poll_seconds=poll_seconds
    )
    return server.streamable_http_app(
        host=host,
        auth=AuthSettings(issuer_url=AnyHttpUrl(url), resource_server_url=None),
        token_verifier=_Keys(memory),
    )


class _Keys:
    """Access keys, as the SDK asks for them."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def verify_token(self, token: str) -> AccessToken | None:
        """The token's key and what it may do; None for a key that is unknown or was revoked."""
        try:
            who = principal(self._memory, f"Bearer {token}")
        except Refused:
            return None
        return AccessToken(token=token, client_id=who.key, scopes=sorted(MAY[who.role]))


def _holder(memory: Memory) -> Principal:
    token = get_access_token()
    return principal(memory, f"Bearer {token.token}" if token else None)


class _Handlers:
    """What the server does with each request."""

    def __init__(self, memory: Memory, tools: Tools, watch: Watch, who: WhoAsks) -> None:
        self._memory, self._tools, self._watch, self._who = memory, tools, watch, who

    async def list_tools(self, _: Context, __: Any) -> types.ListToolsResult:
        """The tools that the caller's key allows."""
        role = self._who().role
        tools = [_tool(name, told) for name, told in DESCRIBED.items() if told.act in MAY[role]]
        return types.ListToolsResult(tools=tools)

    async def call_tool(
        self, _: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """What a tool gives; what is wrong with a call is told as its result."""
        told = DESCRIBED.get(params.name)
        if told is None:
            known = ", ".join(DESCRIBED)
            raise MCPError(types.INVALID_PARAMS, f"no tool {params.name!r}: known are {known}")
        try:
            tenant = self._tenant(told.act)
            asked = told.takes.model_validate(params.arguments or {})
            given = await told.does(self._tools, tenant, asked)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "arguments"
            return _failed(f"{where}: {first['msg']}")
        except ComityError as error:
            return _failed(str(error))
        return _done(given)

    async def list_resources(
        self, _: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """The rules that hold, a page at a time."""
        tenant = self._reader()
        after = (params.cursor if params else None) or ""
        page = await anyio.to_thread.run_sync(list_rules, self._memory, tenant, after)
        resources = [_resource(rule) for rule in page.rules]
        return types.ListResourcesResult(resources=resources, next_cursor=page.after)

    async def list_templates(self, _: Context, __: Any) -> types.ListResourceTemplatesResult:
        """A rule as it holds now, and one of its versions."""
        templates = (
            ("rule", NOW_TEMPLATE, "The rule in the version that is in force."),
            ("rule-version", VERSION_TEMPLATE, "One version of a rule; it never changes."),
        )
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    name=name, uri_template=uri, description=said, mime_type=_JSON
                )
                for name, uri, said in templates
            ]
        )

    async def read_resource(
        self, _: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """A rule as JSON."""
        tenant = self._reader()
        uri = str(params.uri)
        try:
            rule = await anyio.to_thread.run_sync(read_rule, self._memory, tenant, uri)
        except NotFound as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        text = rule.model_dump_json(exclude={"tenant"})
        content = types.TextResourceContents(uri=uri, mime_type=_JSON, text=text)
        return types.ReadResourceResult(contents=[content])

    async def subscribe(
        self, ctx: Context, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        """An older client's way to be told of a changed rule."""
        await self._watch.subscribe(self._reader(), _connection(ctx), ctx.session, str(params.uri))
        return types.EmptyResult()

    async def unsubscribe(
        self, ctx: Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        """The end of a subscription."""
        await self._watch.unsubscribe(self._reader(), _connection(ctx), str(params.uri))
        return types.EmptyResult()

    async def listen(
        self, ctx: Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """A stream of changes."""
        return await self._watch.listen(self._reader(), ctx, params)

    def _tenant(self, act: Act) -> str:
        who = self._who()
        if not who.may(act):
            roles = ", ".join(role for role, acts in MAY.items() if act in acts)
            raise Refused(403, f"a key of role {who.role} may not {act}; roles that may: {roles}")
        return who.tenant

    def _reader(self) -> str:
        try:
            return self._tenant("read rules")
        except Refused as error:
            raise MCPError(types.INVALID_REQUEST, str(error)) from error


def _connection(ctx: Context) -> str:
    """Name of an older client's connection: there is only one on stdio."""
    headers = getattr(ctx.request, "headers", {})
    return str(headers.get("mcp-session-id", ""))


def _tool(name: str, told: Described) -> types.Tool:
    said = (told.does.__doc__ or "").strip()
    return types.Tool(
        name=name,
        description=said,
        input_schema=told.takes.model_json_schema(),
        output_schema=told.gives.model_json_schema(mode="serialization"),
        annotations=types.ToolAnnotations(
            read_only_hint=told.reads_only, destructive_hint=False, open_world_hint=False
        ),
    )


def _resource(rule: Rule) -> types.Resource:
    name = f"{rule.id}@{rule.version}"
    return types.Resource(
        uri=uri_of(rule.id), name=name, title=rule.heading, description=rule.text, mime_type=_JSON
    )


def _done(given: BaseModel) -> types.CallToolResult:
    told = given.model_dump(mode="json")
    text = json.dumps(told, ensure_ascii=False)
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=told
    )


def _failed(said: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=said)], is_error=True)
