"""The gateway as an ASGI application."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from comity.alignment.aligner import Aligner, Options
from comity.errors import (
    ComityError,
    ModelError,
    ModelTimeout,
    NotFound,
    RuleError,
    SettingsError,
    StoreError,
)
from comity.memory.memory import Memory
from comity.models.chat import ChatModel
from comity.records import Decision
from comity.serving.auth import allow, principal
from comity.serving.completions import Completions
from comity.serving.config import Gateway
from comity.serving.limits import Limits
from comity.serving.rules_api import rules_router
from comity.serving.telemetry import CONTENT_TYPE, Telemetry
from comity.serving.upstream import (
    Backend,
    Counter,
    HttpBackend,
    ModelBackend,
    Upstream,
    UpstreamRefused,
)
from comity.serving.wire import Chat, Refused, read_chat

if TYPE_CHECKING:
    import aiohttp

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    memory: Memory,
    config: Gateway,
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    judge: ChatModel | None = None,
    models: Mapping[str, ChatModel] | None = None,
) -> FastAPI:
    """The application. `options` hold for all tenants, but for what `config` says of one.

    `models` are served by this process itself, by the name that clients ask for.
    """
    if config.approval_above not in ("", *memory.authorities):
        known = ", ".join(memory.authorities)
        raise SettingsError(f"approval_above: no rank {config.approval_above!r}: known are {known}")
    served = _Served(memory, config, options, judge, models or {})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=True
        ) as session:
            served.session = session
            yield

    app = FastAPI(title="Comity", version=comity_version(), lifespan=lifespan)
    app.state.memory = memory
    app.state.telemetry = served.telemetry
    app.state.approval_above = config.approval_above
    for method, path, handler in (
        ("POST", "/v1/chat/completions", served.chat),
        ("GET", "/v1/models", served.models),
        ("GET", "/metrics", served.metrics),
        ("GET", "/healthz", served.healthz),
        ("GET", "/readyz", served.readyz),
    ):
        app.add_route(path, _answered(path, handler, served.telemetry), methods=[method])
    app.include_router(rules_router())
    app.add_exception_handler(ComityError, _told)
    return app


class _Served:
    """What the routes share."""

    def __init__(
        self,
        memory: Memory,
        config: Gateway,
        options: Options,
        judge: ChatModel | None,
        models: Mapping[str, ChatModel],
    ) -> None:
        self._memory, self._config = memory, config
        self._options, self._judge, self._models = options, judge, models
        self._limits = Limits()
        self.telemetry = Telemetry()
        self.session: aiohttp.ClientSession | None = None

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        who = principal(self._memory, request.headers.get("authorization"))
        allow(who, "ask")
        tenant = self._config.tenant(who.tenant)
        self._limits.ask(who.key, tenant.requests_per_minute, tenant.tokens_per_minute)
        chat = read_chat(await self._body(request), request.headers, who.tenant)

        def decided(decision: Decision) -> None:
            used = decision.usage.prompt_tokens + decision.usage.completion_tokens
            self._limits.spend(who.key, tenant.tokens_per_minute, used)
            self.telemetry.decided(chat.model, decision)

        completions = self._completions(chat, decided)
        if not chat.stream:
            with self.telemetry.chat(chat.model):
                return JSONResponse(await completions.complete(chat))
        events = self._traced(chat.model, completions.stream(chat))
        first = await anext(events)  # what fails before it is an error with a status
        return StreamingResponse(
            _guarded(first, events),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},
        )

    async def _traced(self, model: str, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        with self.telemetry.chat(model):
            async with aclosing(events):
                async for event in events:
                    yield event

    async def metrics(self, _: Request) -> Response:
        """`GET /metrics`, in Prometheus' form."""
        return Response(self.telemetry.page(), media_type=CONTENT_TYPE)

    def _completions(self, chat: Chat, decided: Callable[[Decision], None]) -> Completions:
        upstream = self._models.get(chat.model) or self._config.upstream(chat.model)
        tenant = self._config.tenant(chat.given.tenant)
        if upstream is None or (tenant.models and chat.model not in tenant.models):
            raise Refused(
                404,
                f"no model {chat.model!r}: GET /v1/models lists them",
                param="model",
                code="model_not_found",
            )
        backend = self._backend(upstream)
        options = self._config.options(chat.given.tenant, self._options)
        aligner = Aligner(self._memory, Counter(backend), options, judge=self._judge)
        return Completions(aligner, backend, decided)

    def _backend(self, upstream: Upstream | ChatModel) -> Backend:
        if not isinstance(upstream, Upstream):
            return ModelBackend(upstream)
        assert self.session is not None, "the application has started"
        return HttpBackend(self.session, upstream)

    async def _body(self, request: Request) -> bytes:
        most = int(self._config.max_body_mb * 1_000_000)
        too_large = Refused(413, f"the request is larger than {most / 1_000_000:g} MB")
        if int(request.headers.get("content-length") or 0) > most:
            raise too_large
        raw = bytearray()
        async for part in request.stream():
            raw += part
            if len(raw) > most:
                raise too_large
        return bytes(raw)

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        who = principal(self._memory, request.headers.get("authorization"))
        allow(who, "ask")
        allowed = self._config.tenant(who.tenant).models
        names = [*self._models, *(name for name in self._config.upstreams if name != "*")]
        listed = allowed or names
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "comity"} for name in listed
        ]
        return JSONResponse({"object": "list", "data": data})

    async def healthz(self, _: Request) -> Response:
        """`GET /healthz`: the process runs."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """`GET /readyz`: the memory can be read, and the index is level with it."""
        self._memory.index.catch_up()
        return JSONResponse({"status": "ok", "revision": self._memory.revision})


async def _guarded(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    """The events; what fails among them is told in the stream, as SDKs expect it."""
    try:
        async with aclosing(rest):
            yield first
            async for event in rest:
                yield event
    except ComityError as error:
        body = _refusal(error).body
        yield b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def _answered(path: str, handler: Handler, telemetry: Telemetry) -> Handler:
    """The handler with a request id on every reply, and errors in OpenAI's form."""

    async def answered(request: Request) -> Response:
        with telemetry.request(path) as served:
            try:
                response = await handler(request)
            except ComityError as error:
                response = _told(request, error)
            except ClientDisconnect:
                response = Response(status_code=499)
            served.status = response.status_code
        response.headers["x-request-id"] = f"req-{secrets.token_hex(12)}"
        return response

    return answered


def _told(_: Request, error: Exception) -> Response:
    refused = _refusal(error if isinstance(error, ComityError) else ComityError(str(error)))
    return JSONResponse(refused.body, refused.status, headers=refused.headers)


def comity_version() -> str:
    """Version of the installed package."""
    return version("comity")


def _refusal(error: ComityError) -> Refused:
    """An error in OpenAI's form: never a 5xx for what a rule or the request decided."""
    match error:
        case Refused():
            return error
        case UpstreamRefused():
            status = error.status if 400 <= error.status < 600 else 502
            refused = Refused(status, str(error), headers=error.headers)
            refused.body = error.body
            return refused
        case NotFound():
            return Refused(404, str(error), code="not_found")
        case RuleError():
            return Refused(400, str(error))
        case ModelTimeout():
            return Refused(504, str(error), kind="upstream_error", code="timeout")
        case ModelError():
            return Refused(502, str(error), kind="upstream_error")
        case StoreError():
            said = f"no answer without its rules and its record: {error}"
            return Refused(503, said, kind="memory_error", headers={"retry-after": "5"})
        case _:
            return Refused(500, str(error), kind="server_error")
