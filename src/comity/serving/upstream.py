"""The model behind the gateway: an OpenAI-compatible endpoint, spoken to in its own JSON.

Only endpoints of the settings are reached: no address, key or redirect of a request or an answer
leads anywhere else.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field, SecretStr, ValidationError

from comity.errors import ModelError, ModelGarbled, ModelTimeout
from comity.models.chat import ChatModel, complete, estimate_tokens
from comity.records import Record, Reply, Request
from comity.serving.wire import Refused, text_of

if TYPE_CHECKING:
    import aiohttp

_MOST = 16 * 1024 * 1024  # bytes of an answer, and of one event
_SHOWN = 200


class Upstream(Record):
    """Where the requests for some models go."""

    base_url: str = Field(min_length=1, description="Such as http://localhost:8000/v1.")
    api_key: SecretStr = Field(SecretStr(""), description="Sent as bearer token; never shown.")
    model: str = Field("", description="Name of the model there; empty is the requested one.")
    timeout: float = Field(120.0, gt=0, description="Seconds that it may stay silent.")


class UpstreamRefused(ModelError):
    """The endpoint answered with an error of its own, which goes to the client."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        error = body.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        super().__init__(str(message or f"the model's endpoint answered {status}"))
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers)


class Backend(Protocol):
    """What answers the gateway's requests, in OpenAI's form."""

    @property
    def name(self) -> str:
        """Name for decision records."""

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer. Raises `ModelError`."""

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The answer's chunks. Raises `ModelError`, also where it is cut short."""


class HttpBackend:
    """An upstream over HTTP, with connections that are kept open."""

    def __init__(self, session: aiohttp.ClientSession, upstream: Upstream) -> None:
        self.name = f"openai:{upstream.model}"
        self._session, self._upstream = session, upstream

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer. Raises `UpstreamRefused`, `ModelTimeout`, `ModelGarbled`."""
        async with self._posted({**body, "stream": False}) as response:
            raw = await self._within(response.content.read(_MOST + 1))
            while len(raw) <= _MOST and not response.content.at_eof():
                raw += await self._within(response.content.read(_MOST + 1 - len(raw)))
            return _json(raw)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The answer's chunks. Raises as `complete`, and `ModelError` where it is cut short."""
        async with self._posted({**body, "stream": True}) as response:
            async for data in self._events(response):
                if data == b"[DONE]":
                    return
                chunk = _json(data)
                if error := chunk.get("error"):
                    raise ModelError(f"the model's endpoint broke off: {_said(error)}")
                yield chunk
        raise ModelError("the model's endpoint cut its answer short: ask again")

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The `data` of each server-sent event."""
        data: list[bytes] = []
        while line := await self._within(response.content.readline()):
            line = line.rstrip(b"\r\n")
            if not line and data:
                yield b"\n".join(data)
                data = []
            elif line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
        if data:
            yield b"\n".join(data)

    @asynccontextmanager
    async def _posted(self, body: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        upstream = self._upstream
        url = upstream.base_url.rstrip("/") + "/chat/completions"
        sent = {**body, "model": upstream.model or body["model"]}
        headers = {"content-type": "application/json"}
        if key := upstream.api_key.get_secret_value():
            headers["authorization"] = f"Bearer {key}"
        try:
            response = await self._within(
                self._session.post(
                    url,
                    data=json.dumps(sent, ensure_ascii=False).encode(),
                    headers=headers,
                    allow_redirects=False,
                ),
            )
        except aiohttp.ClientError as error:
            raise ModelError(f"the model's endpoint cannot be reached: {error}") from error
        try:
            if response.status != 200:
                await self._refused(response)
            yield response
        except (aiohttp.ClientError, ValueError) as error:
            raise ModelError(f"the model's endpoint broke off: {error}") from error
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _refused(self, response: aiohttp.ClientResponse) -> None:
        raw = await self._within(response.content.read(_MOST))
        try:
            body = json.loads(raw)
        except ValueError:
            body = {}
        if not isinstance(body, dict) or "error" not in body:
            said = raw[:_SHOWN].decode(errors="replace")
            body = {
                "error": {
                    "message": f"the model's endpoint answered {response.status}: {said}",
                    "type": "upstream_error",
                    "param": None,
                    "code": None,
                }
            }
        kept = (
            {"retry-after": response.headers["retry-after"]}
            if ("retry-after" in response.headers)
            else {}
        )
        raise UpstreamRefused(response.status, body, kept)

    async def _within(self, call: Any) -> Any:
        try:
            async with asyncio.timeout(self._upstream.timeout):
                return await call
        except TimeoutError as error:
            raise ModelTimeout(
                f"the model's endpoint was silent for {self._upstream.timeout:g} seconds"
            ) from error


class ModelBackend:
    """A chat model of this process, such as the local one, in OpenAI's form."""

    def __init__(self, model: ChatModel) -> None:
        self.name = model.name
        self._model = model

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """As in `Backend`. Raises `Refused` for what such a model cannot do."""
        reply = await complete(self._model, asked_of(body))
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        head = _head(body, "chat.completion")
        return {**head, "choices": [choice], "usage": _usage(reply)}

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """As in `Backend`. Raises `Refused` for what such a model cannot do."""
        head = _head(body, "chat.completion.chunk")
        async for piece in self._model.stream(asked_of(body)):
            if isinstance(piece, Reply):
                end = {"index": 0, "delta": {}, "finish_reason": piece.finish_reason}
                yield {**head, "choices": [end], "usage": _usage(piece)}
            else:
                delta = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
                yield {**head, "choices": [delta]}


def asked_of(body: Mapping[str, Any]) -> Request:
    """A chat request for a model of this process. Raises `Refused` (400) for what it cannot do."""
    if (body.get("n") or 1) != 1:
        raise Refused(400, "this model gives one choice: n must be 1", param="n")
    for field in ("tools", "functions", "response_format", "logprobs"):
        if body.get(field):
            raise Refused(400, f"this model knows no {field}", param=field)
    turns = [
        {"role": "system" if turn["role"] == "developer" else turn["role"], "content": text}
        for turn in body["messages"]
        if (text := text_of(turn.get("content")))
    ]
    asked = {
        "messages": turns,
        "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens") or 512,
        "temperature": body.get("temperature") or 0.0,
        "seed": body.get("seed"),
    }
    try:
        return Request.model_validate(asked)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = str(first["loc"][0])
        raise Refused(400, f"{where}: {first['msg']}", param=where) from error


def _head(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": body["model"],
    }


def _usage(reply: Reply) -> dict[str, int]:
    read, written = reply.usage.prompt_tokens, reply.usage.completion_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


class Counter:
    """Stands for a backend where an aligner needs a model: it counts tokens, and is never asked."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name

    def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Never called: the gateway asks the backend itself."""
        raise NotImplementedError(f"ask the backend of {self.name}, not this")

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, estimated on the safe side."""
        return estimate_tokens(text)


def _json(raw: bytes) -> dict[str, Any]:
    if len(raw) > _MOST:
        raise ModelGarbled(f"the model's endpoint sent more than {_MOST // 1024 // 1024} MB")
    try:
        told = json.loads(raw)
    except (ValueError, RecursionError) as error:
        shown = raw[:_SHOWN].decode(errors="replace")
        raise ModelGarbled(f"the model's endpoint sent no JSON: {shown!r}") from error
    if not isinstance(told, dict):
        raise ModelGarbled("the model's endpoint sent JSON that is no object")
    return told


def _said(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
