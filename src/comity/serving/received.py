"""What an upstream answered, as far as it can be checked: the rest does not leave.

Text in a field that no check reads would pass by the rules, so that only known fields are kept.
What is not of OpenAI's form is an error, in a plain answer and in a stream alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from comity.errors import ModelGarbled
from comity.serving.wire import Body

_HEAD = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
_MOST_CHOICES = 128
_MOST_CALLS = 1000
_T = TypeVar("_T")


def read_answer(told: Mapping[str, Any]) -> Body:
    """A plain answer: its choices, each with a message. Raises `ModelGarbled`."""
    choices = _of(told, "choices", list)
    if not choices:
        raise ModelGarbled("the model's endpoint sent an answer without choices")
    _few(choices)
    return {
        **_head(told),
        "choices": [_choice(each, number) for number, each in enumerate(choices)],
        "usage": _of(told, "usage", dict),
    }


def read_chunk(told: Mapping[str, Any]) -> Body:
    """A chunk of a stream: its choices, each with a delta. Raises `ModelGarbled`."""
    choices = _of(told, "choices", list) or []
    _few(choices)
    return {
        **_head(told),
        "choices": [_piece(each) for each in choices],
        "usage": _of(told, "usage", dict),
    }


def _few(choices: list[Any]) -> None:
    if len(choices) > _MOST_CHOICES:
        raise ModelGarbled(f"the model's endpoint sent {len(choices)} choices")


def _head(told: Mapping[str, Any]) -> Body:
    return {
        name: told[name]
        for name in _HEAD
        if isinstance(told.get(name), str | int | float | None) and name in told
    }


def _choice(told: Any, number: int) -> Body:
    choice = _object(told, "a choice")
    message = _of(choice, "message", dict)
    if message is None:
        raise ModelGarbled("the model's endpoint sent a choice without a message")
    read: Body = {
        "index": _index(choice, _MOST_CHOICES, number),
        "message": {"role": "assistant", "content": _content(message), **_rest(message)},
        "finish_reason": _of(choice, "finish_reason", str),
    }
    if logprobs := _of(choice, "logprobs", dict):
        read["logprobs"] = logprobs
    if calls := _of(message, "tool_calls", list):
        read["message"]["tool_calls"] = [_call(each) for each in calls]
    return read


def _piece(told: Any) -> Body:
    choice = _object(told, "a choice")
    delta = _of(choice, "delta", dict) or {}
    read: Body = {"content": _of(delta, "content", str), **_rest(delta)}
    if calls := _of(delta, "tool_calls", list):
        read["tool_calls"] = [_call_piece(each, number) for number, each in enumerate(calls)]
    return {
        "index": _index(choice, _MOST_CHOICES, 0),
        "delta": read,
        "finish_reason": _of(choice, "finish_reason", str),
    }


def _rest(message: Mapping[str, Any]) -> Body:
    refusal = _of(message, "refusal", str)
    return {"refusal": refusal} if refusal else {}


def _content(message: Mapping[str, Any]) -> str | None:
    """Text, also where it comes in parts; a part of another kind cannot be checked."""
    content = message.get("content")
    if not isinstance(content, list):
        return _of(message, "content", str)
    parts = [_object(part, "a part of a message") for part in content]
    if other := [
        part.get("type") for part in parts if part.get("type") not in ("text", "output_text")
    ]:
        raise ModelGarbled(f"the model's endpoint sent a part that is no text: {other[0]!r}")
    return "\n".join(_of(part, "text", str) or "" for part in parts)


def _call(told: Any) -> Body:
    """A tool call as a whole."""
    call = _object(told, "a tool call")
    function = _of(call, "function", dict)
    if function is None or not _of(function, "name", str):
        raise ModelGarbled("the model's endpoint sent a tool call that is no function's")
    return {
        "id": _of(call, "id", str) or "",
        "type": "function",
        "function": {
            "name": function["name"],
            "arguments": _of(function, "arguments", str) or "",
        },
    }


def _call_piece(told: Any, number: int) -> Body:
    """A piece of a tool call; its parts come once, or bit by bit."""
    call = _object(told, "a tool call")
    if _of(call, "type", str) not in (None, "", "function"):
        raise ModelGarbled("the model's endpoint sent a tool call that is no function's")
    function = _of(call, "function", dict) or {}
    said = {name: _of(function, name, str) for name in ("name", "arguments")}
    kept = {name: text for name, text in said.items() if text is not None}
    read: Body = {"index": _index(call, _MOST_CALLS, number), "function": kept}
    if name := _of(call, "id", str):
        read |= {"id": name, "type": "function"}
    return read


def _object(told: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(told, dict):
        raise ModelGarbled(f"the model's endpoint sent {what} that is no object")
    return told


def _of(told: Mapping[str, Any], name: str, kind: type[_T]) -> _T | None:
    value = told.get(name)
    if value is not None and not isinstance(value, kind):
        raise ModelGarbled(
            f"the model's endpoint sent {name} as {type(value).__name__}, not {kind.__name__}"
        )
    return value


def _index(told: Mapping[str, Any], most: int, default: int) -> int:
    index = told.get("index", default)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < most:
        raise ModelGarbled(f"the model's endpoint sent the index {index!r:.20}")
    return index
