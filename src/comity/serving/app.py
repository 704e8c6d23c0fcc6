"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from comity.alignment.aligner import Options
from comity.alignment.checks import Judge
from comity.alignment.conflict_watch import ConflictWatch
from comity.errors import ComityError, SettingsError
from comity.memory.memory import Memory
from comity.models.chat import ChatModel
from comity.records import Decision
from comity.serving.auth import Principal, allow, principal
from comity.serving.completions import Completions
from comity.serving.config import Gateway, Tenant
from comity.serving.conflicts_api import conflicts_router
from comity.serving.direct import Direct, Handler
from comity.serving.erasure_api import erasure_router
from comity.serving.events import started
from comity.serving.exchange import ChatExchange, Exchange
from comity.serving.fail_open import FailOpen
from comity.serving.guardrail_api import PATH as GUARDRAIL
from comity.serving.guardrail_api import GuardrailApi
from comity.serving.intake import Intake, unless_gone
from comity.serving.ledger import Ledger
from comity.serving.limits import Limits
from comity.serving.lookup import looked_up
from comity.serving.openapi import describe
from comity.serving.preferences_api import preferences_router
from comity.serving.pressure import Pressure
from comity.serving.probes import Readiness, healthy
from comity.serving.refusals import tell_errors, told
from comity.serving.responses import ResponsesExchange
from comity.serving.rules_api import rules_router
from comity.serving.telemetry import CONTENT_TYPE, Telemetry
from comity.serving.turns import Turn, Turns, read_body
from comity.serving.upstream import (
    Backend,
    BackendModel,
    HttpBackend,
    ModelBackend,
    Upstream,
)
from comity.serving.wire import Chat, Refused

if TYPE_CHECKING:
    import aiohttp


def create_app(
    memory: Memory,
    config: Gateway,
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    judge: ChatModel | None = None,
    models: Mapping[str, ChatModel] | None = None,
    ledger: Ledger | None = None,
) -> FastAPI:
    """The application. `options` hold for all tenants, but for what `config` says of one.

    `models` are served by this process itself, by the name that clients ask for. `ledger` counts
    what keys use; by default this process counts for itself.
    """
    if config.approval_above not in ("", *memory.authorities):
        known = ", ".join(memory.authorities)
        raise SettingsError(f"approval_above: no rank {config.approval_above!r}: known are {known}")
    served = _Served(memory, config, options, judge, models or {}, ledger)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        import aiohttp

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),  # an upstream's cookie would join all tenants
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=True,
        ) as session:
            served.session = session
            async with served.conflicts or nullcontext(), served.failing:
                yield

    app = FastAPI(title="Comity", version=comity_version(), lifespan=lifespan)
    app.state.memory = memory
    app.state.telemetry = served.telemetry
    app.state.turns = served.turns
    app.state.conflicts = served.conflicts
    app.state.approval_above = config.approval_above
    app.state.options = options
    app.state.failing = served.failing
    handlers = {
        ("POST", "/v1/chat/completions"): served.chat,
        ("POST", "/v1/responses"): served.responses,
        ("POST", GUARDRAIL): served.guardrail.handle,
        ("GET", "/v1/models"): served.models,
        ("GET", "/metrics"): served.metrics,
        ("GET", "/healthz"): served.healthz,
        ("GET", "/readyz"): served.readyz,
    }
    answered = {
        (method, path): _answered(path, handler, served.telemetry)
        for (method, path), handler in handlers.items()
    }
    for (method, path), handler in answered.items():
        app.add_route(path, handler, methods=[method])
    app.include_router(rules_router())
    app.include_router(erasure_router())
    app.include_router(conflicts_router())
    app.include_router(preferences_router())
    tell_errors(app)
    describe(app)
    app.add_middleware(Direct, handlers=answered)
    app.add_middleware(Pressure, most=config.max_in_progress, refused=served.telemetry.overloaded)
    app.add_middleware(
        Intake, most=int(config.max_body_mb * 1_000_000), seconds=config.max_body_seconds
    )
    return app


def _conflict_watch(
    memory: Memory, judge: ChatModel | None, options: Options
) -> ConflictWatch | None:
    """Who compares rules beside the answering. Raises `SettingsError` if there is no judge."""
    if not options.judge_conflicts:
        return None
    if judge is None:
        raise SettingsError("judge_conflicts: there is no judge; name one in `judge`")
    return ConflictWatch(memory, Judge(judge, options.judge_timeout))


class _Served:
    """What the routes share."""

    def __init__(
        self,
        memory: Memory,
        config: Gateway,
        options: Options,
        judge: ChatModel | None,
        models: Mapping[str, ChatModel],
        ledger: Ledger | None,
    ) -> None:
        self._memory, self._config = memory, config
        self._options, self._judge, self._models = options, judge, models
        self.conflicts = _conflict_watch(memory, judge, options)
        self._limits = Limits(ledger=ledger)
        self.turns = Turns()
        self.telemetry = Telemetry()
        self.failing = FailOpen(memory, config, self.telemetry)
        self._readiness = Readiness(memory, self.failing.state, opens=self.failing.opens_memory)
        self.guardrail = GuardrailApi(
            memory,
            config,
            options,
            judge=judge,
            limits=self._limits,
            decided=self._guarded,
        )
        self.session: aiohttp.ClientSession | None = None

    def _guarded(self, model: str, decision: Decision) -> None:
        self.telemetry.decided(model, self.failing.told(decision))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        return await self._asked(request, ChatExchange)

    async def responses(self, request: Request) -> Response:
        """`POST /v1/responses`."""
        return await self._asked(request, ResponsesExchange)

    async def _asked(
        self, request: Request, understood: Callable[[bytes, Request, str], Exchange]
    ) -> Response:
        """What a model answers to a request, in the form of its route."""
        key = request.headers.get("authorization")
        who = await looked_up(self._memory, partial(self.failing.principal, key))
        allow(who, "ask")
        tenant = self._config.tenant(who.tenant)
        with self._turn(who, tenant) as turn:
            return await self._answer(request, understood, who, tenant, turn)

    def _turn(self, who: Principal, tenant: Tenant) -> Turn:
        """A turn for one answer. Raises `Refused` (429) where the key may ask no more."""
        per_minute, tokens = tenant.requests_per_minute, tenant.tokens_per_minute
        self._limits.ask(who.key, per_minute, tokens, tenant.concurrent)
        leave = partial(self._limits.leave, who.key, tenant.concurrent)
        return self.turns.begin(tenant.timeout, leave)

    async def _answer(
        self,
        request: Request,
        understood: Callable[[bytes, Request, str], Exchange],
        who: Principal,
        tenant: Tenant,
        turn: Turn,
    ) -> Response:
        raw = await read_body(request, tenant.max_body_mb)
        exchange = understood(raw, request, who.tenant)
        chat = exchange.chat

        def decided(decision: Decision) -> None:
            used = decision.usage.prompt_tokens + decision.usage.completion_tokens
            self._limits.spend(who.key, tenant.tokens_per_minute, used)
            self.telemetry.decided(chat.model, decision)

        completions = self._completions(chat, decided)
        if not chat.stream:
            with self.telemetry.chat(chat.model):
                answered = unless_gone(request, exchange.complete(completions))
                return JSONResponse(await turn.within(answered))
        events = self.telemetry.streamed(chat.model, exchange.stream(completions))
        return await started(request, turn.events(events))

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
        aligner = self.failing.aligner(
            chat, BackendModel(backend, chat.model), options, self._judge, self.conflicts
        )
        return Completions(aligner, backend, decided)

    def _backend(self, upstream: Upstream | ChatModel) -> Backend:
        if not isinstance(upstream, Upstream):
            return ModelBackend(upstream)
        assert self.session is not None, "the application has started"
        return HttpBackend(self.session, upstream)

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        key = request.headers.get("authorization")
        who = await looked_up(self._memory, partial(principal, self._memory, key))
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
        return healthy()

    async def readyz(self, _: Request) -> Response:
        """`GET /readyz`: the memory can be read and written, and the index is level with it."""
        self.failing.bring_in()
        return await self._readiness.reply()


def _answered(path: str, handler: Handler, telemetry: Telemetry) -> Handler:
    """The handler, timed, and with errors in OpenAI's form."""

    async def answered(request: Request) -> Response:
        with telemetry.request(path) as served:
            try:
                response = await handler(request)
            except ComityError as error:
                response = told(error)
            except ClientDisconnect:
                response = Response(status_code=499)
            served.status = response.status_code
        return response

    return answered


def comity_version() -> str:
    """Version of the installed package."""
    return version("comity")
