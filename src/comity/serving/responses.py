"""`POST /v1/responses`: OpenAI's Responses API, answered by way of a chat completion.

Nothing is stored, so that every request brings its whole conversation. Whatever upstream speaks
chat completions can be asked so, and so can a model of this process.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from starlette.requests import Request

from comity.errors import ComityError, ModelGarbled
from comity.serving.completions import Completions
from comity.serving.refusals import refusal
from comity.serving.responses_answer import Event, Head, Output, ending, usage
from comity.serving.responses_as_chat import as_chat, as_sent
from comity.serving.responses_request import read_asked
from comity.serving.upstream import UpstreamRefused
from comity.serving.wire import Body, Chat, Refused


class ResponsesExchange:
    """One request of the Responses API, and the form of its answer."""

    def __init__(self, raw: bytes, request: Request, tenant: str) -> None:
        """Raises `Refused` (400) for what cannot be understood, or is not offered."""
        asked = read_asked(raw)
        self.chat = as_chat(asked, request.headers, tenant)
        self._head = Head(asked)
        self._rules = f"{str(request.base_url).rstrip('/')}/rules/history"

    async def complete(self, completions: Completions) -> Body:
        """The response. Raises what `Completions.complete` raises, in terms of this request."""
        with _in_its_terms():
            try:
                told = await completions.complete(self.chat)
            except UpstreamRefused as error:
                if not _renames_the_limit(error):
                    raise
                told = await completions.complete(_with_new_limit(self.chat))
        choice, output = told["choices"][0], Output()
        status, details = ending(choice["finish_reason"])
        for _ in output.take(choice["message"]):
            pass  # a stream sends these events; here only what they lead to counts
        for _ in output.end(status, choice["comity"]["citations"], self._rules):
            pass
        return self._head.response(
            status,
            [item.item(status) for item in output.items],
            model=told.get("model") or self.chat.model,
            incomplete_details=details,
            usage=usage(told.get("usage")),
            comity=choice["comity"],
        )

    async def stream(self, completions: Completions) -> AsyncGenerator[bytes]:
        """The response's events. Raises as `complete` what fails before the first of them.

        What fails later is told by `response.failed`, with all that had left, and then by an
        `error`, at which OpenAI's SDKs raise.
        """
        written = _Written(self._head, self._rules)
        try:
            with _in_its_terms():
                async with aclosing(self._chunks(completions)) as chunks:
                    async for chunk in chunks:
                        for event in written.take(chunk):
                            yield event
            if not written.began:
                raise ModelGarbled("the model's endpoint sent an answer without choices")
            for event in written.end():
                yield event
        except ComityError as error:
            if not written.began:
                raise
            for event in written.failed(refusal(error)):
                yield event

    async def _chunks(self, completions: Completions) -> AsyncGenerator[Body]:
        began = False
        try:
            async with aclosing(completions.chunks(self.chat)) as chunks:
                async for chunk in chunks:
                    began = True
                    yield chunk
            return
        except UpstreamRefused as error:
            if began or not _renames_the_limit(error):
                raise
        async with aclosing(completions.chunks(_with_new_limit(self.chat))) as chunks:
            async for chunk in chunks:
                yield chunk


class _Written:
    """The events of one response, numbered, as the chunks of its chat completion come in."""

    def __init__(self, head: Head, rules: str) -> None:
        self._head, self._rules = head, rules
        self._number = 0
        self._output = Output()
        self._finish = ""
        self._told: Body = {}
        self.began = False

    def take(self, chunk: Body) -> Iterator[bytes]:
        """The events of one more chunk."""
        if told := usage(chunk.get("usage")):
            self._told["usage"] = told
        for choice in chunk["choices"]:
            if choice["index"] != 0:
                continue
            if not self.began:
                yield from self._begin(chunk)
            yield from self._events(self._output.take(choice["delta"]))
            self._finish = choice["finish_reason"] or self._finish
            if "comity" in choice:
                self._told["comity"] = choice["comity"]

    def end(self) -> Iterator[bytes]:
        """The last events."""
        status, details = ending(self._finish)
        citations = self._told.get("comity", {}).get("citations", ())
        yield from self._events(self._output.end(status, citations, self._rules))
        items = [item.item(status) for item in self._output.items]
        response = self._head.response(status, items, incomplete_details=details, **self._told)
        yield self._event(Event(f"response.{status}", {"response": response}))

    def failed(self, refused: Refused) -> Iterator[bytes]:
        """The last events of a stream that failed."""
        told = refused.body.get("error")
        error = told if isinstance(told, dict) else {"message": str(refused)}
        error = {"message": str(refused), "type": "server_error", "param": None, **error}
        error["code"] = error.get("code") or "server_error"
        items = [item.item("incomplete") for item in self._output.items]
        shown = {"code": "server_error", "message": error["message"]}
        response = self._head.response("failed", items, error=shown, **self._told)
        yield self._event(Event("response.failed", {"response": response}))
        flat = {name: error[name] for name in ("code", "message", "param")}
        yield self._event(Event("error", {**flat, "error": error}))

    def _begin(self, chunk: Body) -> Iterator[bytes]:
        self.began = True
        if model := chunk.get("model"):
            self._told["model"] = model
        response = self._head.response("in_progress", **self._told)
        for name in ("response.created", "response.in_progress"):
            yield self._event(Event(name, {"response": response}))

    def _events(self, events: Iterable[Event]) -> Iterator[bytes]:
        for event in events:
            yield self._event(event)

    def _event(self, event: Event) -> bytes:
        self._number += 1
        return event.written(self._number - 1)


@contextmanager
def _in_its_terms() -> Iterator[None]:
    """Errors name the fields of this request, not those of the chat request made from it."""
    try:
        yield
    except (Refused, UpstreamRefused) as error:
        told: Any = error.body.get("error")
        param = told.get("param") if isinstance(told, dict) else None
        if isinstance(param, str) and told.get("code") != "content_filter":  # that names a rule
            error.body = {**error.body, "error": {**told, "param": as_sent(param)}}
        raise


def _renames_the_limit(error: UpstreamRefused) -> bool:
    """Whether the upstream wants `max_completion_tokens`, as reasoning models do.

    `max_tokens` is asked first: older servers would read over the new name, and write on.
    """
    return error.status in (400, 422) and "max_completion_tokens" in str(error)


def _with_new_limit(chat: Chat) -> Chat:
    body = {name: value for name, value in chat.body.items() if name != "max_tokens"}
    return chat._replace(body={**body, "max_completion_tokens": chat.body.get("max_tokens")})
