"""The model behind the gateway: an OpenAI-compatible endpoint, spoken to in its own JSON.

Only endpoints of the settings are reached: no address, key or redirect of a request or an answer
leads anywhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import Field, SecretStr

from comity.errors import ModelError, ModelGarbled, ModelTimeout
from comity.models.chat import estimate_tokens
from comity.models.openai import request_body
from comity.records import Record, Reply, Request

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


class Client:
    """Speaks to the upstreams, over connections that are kept open."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def complete(self, upstream: Upstream, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer. Raises `UpstreamRefused`, `ModelTimeout`, `ModelGarbled`."""
        async with self._posted(upstream, {**body, "stream": False}) as response:
            raw = await self._within(upstream, response.content.read(_MOST + 1))
            while len(raw) <= _MOST and not response.content.at_eof():
                raw += await self._within(upstream, response.content.read(_MOST + 1 - len(raw)))
            return _json(raw, upstream)

    async def stream(
        self, upstream: Upstream, body: Mapping[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        """The answer's chunks. Raises as `complete`, and `ModelError` where it is cut short."""
        async with self._posted(upstream, {**body, "stream": True}) as response:
            async for data in self._events(upstream, response):
                if data == b"[DONE]":
                    return
                chunk = _json(data, upstream)
                if error := chunk.get("error"):
                    raise ModelError(f"the model's endpoint broke off: {_said(error)}")
                yield chunk
        raise ModelError("the model's endpoint cut its answer short: ask again")

    async def _events(
        self, upstream: Upstream, response: aiohttp.ClientResponse
    ) -> AsyncIterator[bytes]:
        """The `data` of each server-sent event."""
        data: list[bytes] = []
        while line := await self._within(upstream, response.content.readline()):
            line = line.rstrip(b"\r\n")
            if not line and data:
                yield b"\n".join(data)
                data = []
            elif line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
        if data:
            yield b"\n".join(data)

    @asynccontextmanager
    async def _posted(
        self, upstream: Upstream, body: Mapping[str, Any]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        url = upstream.base_url.rstrip("/") + "/chat/completions"
        sent = {**body, "model": upstream.model or body["model"]}
        headers = {"content-type": "application/json"}
        if key := upstream.api_key.get_secret_value():
            headers["authorization"] = f"Bearer {key}"
        try:
            response = await self._within(
                upstream,
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
                await self._refused(upstream, response)
            yield response
        except (aiohttp.ClientError, ValueError) as error:
            raise ModelError(f"the model's endpoint broke off: {error}") from error
        finally:
            response.close() if not response.content.at_eof() else response.release()

    async def _refused(self, upstream: Upstream, response: aiohttp.ClientResponse) -> None:
        raw = await self._within(upstream, response.content.read(_MOST))
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

    async def _within(self, upstream: Upstream, call: Any) -> Any:
        try:
            async with asyncio.timeout(upstream.timeout):
                return await call
        except TimeoutError as error:
            raise ModelTimeout(
                f"the model's endpoint was silent for {upstream.timeout:g} seconds"
            ) from error


class UpstreamModel:
    """An upstream as a `ChatModel`, for what the gateway asks on its own behalf."""

    def __init__(self, client: Client, upstream: Upstream) -> None:
        self.name = f"openai:{upstream.model}"
        self._client, self._upstream = client, upstream

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """The whole answer as one piece, then the `Reply`; see `ChatModel.stream`."""
        body = request_body(request) | {"model": self._upstream.model}
        told = await self._client.complete(self._upstream, body)
        try:
            choice = told["choices"][0]
            text, finish = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError) as error:
            raise ModelGarbled("the model's endpoint sent no message") from error
        if not isinstance(text, str):
            raise ModelGarbled("the model's endpoint sent a message without text")
        yield text
        yield Reply(text=text, model=self.name, finish_reason=str(finish or "stop"))

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, estimated on the safe side."""
        return estimate_tokens(text)


def _json(raw: bytes, upstream: Upstream) -> dict[str, Any]:
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
