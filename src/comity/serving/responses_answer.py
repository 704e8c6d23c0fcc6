"""What OpenAI's Responses API answers: the response object, and the events that build it up."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from comity.serving.responses_request import Asked, Choice, Option
from comity.serving.wire import Body, text_of

Status = Literal["in_progress", "completed", "incomplete", "failed"]

Kind = Literal["output_text", "refusal"]

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Event(NamedTuple):
    """One event of a stream, but for its number."""

    type: str
    fields: Body

    def written(self, number: int) -> bytes:
        """As a server-sent event."""
        body = {"type": self.type, "sequence_number": number, **self.fields}
        data = json.dumps(body, ensure_ascii=False)
        return f"event: {self.type}\ndata: {data}\n\n".encode()


class Spoken:
    """The message of an answer: one part of text, or of a refusal by the model itself."""

    def __init__(self, at: int, kind: Kind = "output_text") -> None:
        """`at` is its place in the response's output."""
        self.at, self.kind, self.text = at, kind, ""
        self.id = f"msg_{secrets.token_hex(16)}"
        self.annotations: list[Body] = []

    def item(self, status: Status) -> Body:
        """As it stands."""
        return self._item(status, [self._part()])

    def opened(self) -> Iterator[Event]:
        """The events before its text."""
        yield self._about("response.output_item.added", item=self._item("in_progress", []))
        yield self._within("response.content_part.added", part=self._part())

    def more(self, text: str) -> Iterator[Event]:
        """The events of more text."""
        self.text += text
        logprobs: Body = {"logprobs": []} if self.kind == "output_text" else {}
        yield self._within(f"response.{self.kind}.delta", delta=text, **logprobs)

    def closed(self, status: Status) -> Iterator[Event]:
        """The events after its text."""
        for number, annotation in enumerate(self.annotations):
            yield self._within(
                "response.output_text.annotation.added",
                annotation_index=number,
                annotation=annotation,
            )
        part = self._part()
        told = {name: value for name, value in part.items() if name not in ("type", "annotations")}
        yield self._within(f"response.{self.kind}.done", **told)
        yield self._within("response.content_part.done", part=part)
        yield self._about("response.output_item.done", item=self._item(status, [part]))

    def _item(self, status: Status, content: Sequence[Body]) -> Body:
        head = {"id": self.id, "type": "message", "role": "assistant", "status": status}
        return {**head, "content": list(content)}

    def _part(self) -> Body:
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        annotations = list(self.annotations)
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": annotations,
            "logprobs": [],
        }

    def _about(self, type: str, **fields: Any) -> Event:
        return Event(type, {"output_index": self.at, **fields})

    def _within(self, type: str, **fields: Any) -> Event:
        return self._about(type, item_id=self.id, content_index=0, **fields)


class Called:
    """A call of a function."""

    def __init__(self, at: int, call_id: str) -> None:
        """`at` is its place in the response's output."""
        self.at, self.call_id, self.name, self.arguments = at, call_id, "", ""
        self.id = f"fc_{secrets.token_hex(16)}"

    def item(self, status: Status) -> Body:
        """As it stands."""
        return {
            "id": self.id,
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
            "status": status,
        }

    def opened(self) -> Iterator[Event]:
        """The event before its arguments."""
        fields = {"output_index": self.at, "item": self.item("in_progress")}
        yield Event("response.output_item.added", fields)

    def more(self, arguments: str) -> Iterator[Event]:
        """The event of more of its arguments."""
        self.arguments += arguments
        fields = {"output_index": self.at, "item_id": self.id, "delta": arguments}
        yield Event("response.function_call_arguments.delta", fields)

    def closed(self, status: Status) -> Iterator[Event]:
        """The events after its arguments."""
        fields = {"output_index": self.at, "item_id": self.id}
        told = {"name": self.name, "arguments": self.arguments}
        yield Event("response.function_call_arguments.done", {**fields, **told})
        item = self.item(status)
        yield Event("response.output_item.done", {"output_index": self.at, "item": item})


class Output:
    """The items of a response, put together from what a chat completion says."""

    def __init__(self) -> None:
        self.items: list[Spoken | Called] = []
        self._spoken: dict[Kind, Spoken] = {}
        self._calls: dict[int, Called] = {}

    def take(self, message: Mapping[str, Any]) -> Iterator[Event]:
        """The events of a message, or of a piece of one."""
        if text := text_of(message.get("content")):
            yield from self._say(text, "output_text")
        if refusal := message.get("refusal"):
            yield from self._say(str(refusal), "refusal")
        for number, call in enumerate(message.get("tool_calls") or ()):
            index = call.get("index")
            yield from self._call(number if index is None else int(index), call)

    def end(self, status: Status, citations: Sequence[Body], address: str) -> Iterator[Event]:
        """The events after all pieces; an answer of nothing is an empty text.

        `citations` are told at the text too, as pages at `address`, where rules are read.
        """
        if not self.items:
            yield from self._say("", "output_text")
        if spoken := self._spoken.get("output_text"):
            spoken.annotations = list(_annotations(citations, spoken.text, address))
        for item in self.items:
            yield from item.closed(status)

    def _say(self, text: str, kind: Kind) -> Iterator[Event]:
        if kind not in self._spoken:
            self._spoken[kind] = Spoken(len(self.items), kind)
            self.items.append(self._spoken[kind])
            yield from self._spoken[kind].opened()
        if text:
            yield from self._spoken[kind].more(text)

    def _call(self, number: int, piece: Mapping[str, Any]) -> Iterator[Event]:
        function = piece.get("function") or {}
        if number not in self._calls:
            call = Called(len(self.items), self._call_id(piece.get("id")))
            call.name = str(function.get("name") or "")
            self._calls[number] = call
            self.items.append(call)
            yield from call.opened()
        else:
            self._calls[number].name += str(function.get("name") or "")
        if arguments := function.get("arguments"):
            yield from self._calls[number].more(str(arguments))

    def _call_id(self, given: Any) -> str:
        """The upstream's id, unless it gives none or one twice."""
        known = {call.call_id for call in self._calls.values()}
        fine = isinstance(given, str) and given and given not in known
        return given if fine else f"call_{secrets.token_hex(12)}"


class Head:
    """What all forms of one response have in common."""

    def __init__(self, asked: Asked) -> None:
        self._id = f"resp_{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._said = _echoed(asked)

    def response(self, status: Status, output: Sequence[Body] = (), **more: Any) -> Body:
        """The response object."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": list(output),
            "usage": None,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            **self._said,
            **more,
        }


def ending(finish: str) -> tuple[Status, Body | None]:
    """A response's status and `incomplete_details` after a choice that finished so."""
    reason = _REASONS.get(finish)
    return ("incomplete", {"reason": reason}) if reason else ("completed", None)


def usage(told: Any) -> Body | None:
    """A chat completion's usage under the names of a response; None where it tells none."""
    if not isinstance(told, dict):
        return None
    read, written = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": _count(told.get("prompt_tokens_details"), "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": written,
        "output_tokens_details": {
            "reasoning_tokens": _count(told.get("completion_tokens_details"), "reasoning_tokens")
        },
        "total_tokens": read + written,
    }


def _count(told: Any, name: str) -> int:
    value = told.get(name) if isinstance(told, dict) else None
    return value if isinstance(value, int) and value > 0 else 0


def _echoed(asked: Asked) -> Body:
    """What a response repeats of its request, with the defaults that held."""
    text, reasoning = asked.text, asked.reasoning
    form = text.format.model_dump(by_alias=True) if text and text.format else {"type": "text"}
    functions = [tool.model_dump() for tool in asked.tools or ()]
    return {
        "model": asked.model,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
        "temperature": asked.temperature,
        "text": {"format": form, "verbosity": text.verbosity if text else None},
        "tool_choice": _choice(asked.tool_choice),
        "tools": [{**each, "strict": bool(each["strict"])} for each in functions],
        "top_p": asked.top_p,
        "user": asked.user,
        "safety_identifier": asked.safety_identifier,
        "prompt_cache_key": asked.prompt_cache_key,
    }


def _choice(choice: Choice | None) -> str | Body:
    if choice is None:
        return "auto"
    return choice.type if isinstance(choice, Option) else choice.model_dump(mode="json")


def _annotations(citations: Sequence[Body], text: str, address: str) -> Iterator[Body]:
    """The citations in the text as OpenAI's `url_citation`: the page is the rule's history."""
    for cited in citations:
        if cited["end"] <= len(text):
            heading = " ".join(part for part in (cited["title"], cited["article"]) if part)
            yield {
                "type": "url_citation",
                "start_index": cited["start"],
                "end_index": cited["end"],
                "title": heading or cited["id"],
                "url": f"{address}?id={quote(cited['id'], safe='')}",
            }
