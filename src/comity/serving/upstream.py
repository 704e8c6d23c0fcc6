"""The model behind the gateway: an OpenAI-compatible endpoint, spoken to in its own JSON.

Only endpoints of the settings are reached: no address, key or redirect of a request or an answer
leads anywhere else.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import Field, SecretStr, ValidationError

from comity.errors import ModelError, ModelGarbled, ModelTimeout
from comity.models.chat import ChatModel, complete, estimate_tokens
from comity.models.openai import request_body
from comity.records import Record, Reply, Request, Usage
from comity.serving.received import read_answer, read_chunk
from comity.serving.strict_json import read_json
from comity.serving.wire import Refused, text_of

if TYPE_CHECKING:
    import aiohttp

_MOST = 16 * 1024 * 1024  # bytes of an answer, and of one event
_SHOWN = 200
_WAITS = re.compile(r"[ -~]{1,64}")  # a Retry-After that can be passed on


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
            raw = await self._whole(response)
            told = _json(raw, _page(raw))
        if error := told.get("error"):
            raise ModelError(f"the model's endpoint failed: {_said(error)}")
        return read_answer(told)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The answer's chunks. Raises as `complete`, and `ModelError` where it is cut short.

        A stream is whole when each of its choices has its `finish_reason`, and `[DONE]` came.
        """
        finished: dict[int, bool] = {}
        async with self._posted({**body, "stream": True}) as response:
            _streams(response)
            async with aclosing(self._events(response)) as events:
                async for data in events:
                    if data == b"[DONE]":
                        break
                    chunk = _chunk(data)
                    for choice in chunk["choices"]:
                        index = choice["index"]
                        finished[index] = finished.get(index, False) or bool(
                            choice["finish_reason"]
                        )
                    yield chunk
                else:
                    raise _cut_short()
            if not finished or not all(finished.values()):
                raise _cut_short()

    async def _events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """The `data` of each server-sent event; of one that is cut off, too."""
        data: list[bytes] = []
        async with aclosing(self._lines(response)) as lines:
            async for line in lines:
                if line.startswith(b"data:"):
                    data.append(line[5:].removeprefix(b" "))
                    if sum(map(len, data)) > _MOST:
                        raise _too_much()
                elif not line and data:
                    yield b"\n".join(data)
                    data = []
        if data:
            yield b"\n".join(data)

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """Lines without their ends, wherever the network has cut them."""
        pieces: list[bytes] = []
        size = 0
        while part := await self._within(response.content.readany()):
            *ended, rest = part.split(b"\n")
            for line in ended:
                yield b"".join((*pieces, line)).removesuffix(b"\r")
                pieces, size = [], 0
            pieces.append(rest)
            size += len(rest)
            if size > _MOST:
                raise _too_much()
        if line := b"".join(pieces):
            yield line

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        while part := await self._within(response.content.readany()):
            parts.append(part)
            size += len(part)
            if size > _MOST:
                raise _too_much()
        return b"".join(parts)

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
            # one that was not read to its end may not be used again
            response.release() if response.content.at_eof() else response.close()

    async def _refused(self, response: aiohttp.ClientResponse) -> None:
        """Raises what an answer other than 200 says."""
        import aiohttp

        try:
            raw = await self._whole(response)
        except (aiohttp.ClientError, ModelError):
            raw = b""  # the status says enough
        if response.status == 401:
            raise ModelError("the model's endpoint does not take the gateway's key: see api_key")
        waits = response.headers.get("retry-after", "")
        kept = {"retry-after": waits} if _WAITS.fullmatch(waits) else {}
        raise UpstreamRefused(response.status, _error_of(response.status, raw), kept)

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
    for field in ("tools", "functions", "logprobs"):
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
        "json_schema": _schema_asked(body.get("response_format")),
    }
    try:
        return Request.model_validate(asked)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = str(first["loc"][0])
        raise Refused(400, f"{where}: {first['msg']}", param=where) from error


def _schema_asked(form: Any) -> Any:
    """The JSON schema of a `response_format`. Raises `Refused` (400) for another form."""
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return None
    inner = form.get("json_schema") if isinstance(form, dict) else None
    if kind != "json_schema" or not isinstance(inner, dict) or "schema" not in inner:
        said = "this model knows response_format as text and as json_schema with a schema"
        raise Refused(400, said, param="response_format")
    return inner["schema"]


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


class BackendModel:
    """A backend as the chat model of an aligner: counts tokens, and is asked beside the answer."""

    def __init__(self, backend: Backend, model: str) -> None:
        """`model` is the name that the client asks for."""
        self.name = backend.name
        self._backend, self._model = backend, model

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """The whole text, then the `Reply`. Raises `ModelError`."""
        body = {**request_body(request), "model": self._model, "stream": False}
        del body["stream_options"]
        told = await self._backend.complete(body)
        try:
            text = told["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ModelGarbled("the model's endpoint sent no message") from error
        if not isinstance(text, str) or not text:
            raise ModelGarbled("the model's endpoint sent a message without text")
        yield text
        yield Reply(text=text, model=self._model, usage=usage_of(told.get("usage")))

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, estimated on the safe side."""
        return estimate_tokens(text)


def usage_of(told: Any) -> Usage:
    """Tokens as OpenAI's form tells them; none where it does not."""
    if not isinstance(told, dict):
        return Usage()
    read, written = told.get("prompt_tokens"), told.get("completion_tokens")
    return Usage(
        prompt_tokens=read if isinstance(read, int) and read > 0 else 0,
        completion_tokens=written if isinstance(written, int) and written > 0 else 0,
    )


def _json(raw: bytes, shown: str = "") -> dict[str, Any]:
    """The object that came. What came instead is not told: half an answer is one unchecked."""
    try:
        told = read_json(raw)
    except ValueError as error:
        raise ModelGarbled(f"the model's endpoint sent no JSON ({error}){shown}") from error
    if not isinstance(told, dict):
        raise ModelGarbled("the model's endpoint sent JSON that is no object")
    return told


def _page(raw: bytes) -> str:
    """The beginning of a web page, which tells whose it is; nothing of what else came."""
    begun = raw[:_SHOWN].lstrip()
    return f": {begun.decode(errors='replace')!r}" if begun.startswith(b"<") else ""


def _chunk(data: bytes) -> dict[str, Any]:
    told = _json(data)
    if error := told.get("error"):
        raise ModelError(f"the model's endpoint broke off: {_said(error)}")
    return read_chunk(told)


def _streams(response: aiohttp.ClientResponse) -> None:
    """Raises `ModelGarbled` for an answer that says itself that it is no stream."""
    if response.content_type in ("text/html", "application/json"):
        raise ModelGarbled(f"the model's endpoint sent {response.content_type}, not a stream")


def _error_of(status: int, raw: bytes) -> dict[str, Any]:
    """What an endpoint says of its refusal, in OpenAI's form."""
    try:
        told = read_json(raw)
    except ValueError:
        told = None
    error = told.get("error") if isinstance(told, dict) else None
    if isinstance(error, str):
        error = {"message": error}
    if not isinstance(error, dict):
        said = raw[:_SHOWN].decode(errors="replace")
        error = {"message": f"the model's endpoint answered {status}: {said}"}
    fields = {name: error.get(name) for name in ("message", "type", "param", "code")}
    texts = {name: None if told is None else str(told) for name, told in fields.items()}
    kind = texts["type"] or "upstream_error"
    return {"error": {**texts, "message": texts["message"] or str(status), "type": kind}}


def _cut_short() -> ModelError:
    return ModelError("the model's endpoint cut its answer short: ask again")


def _too_much() -> ModelGarbled:
    return ModelGarbled(f"the model's endpoint sent more than {_MOST // 1024 // 1024} MB at once")


def _said(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
