"""The wire form of OpenAI's chat completions: what a request says, and how it is sent on.

A request is checked as far as the gateway has to understand it; every other field goes to the
upstream as it came, and may be refused there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from comity.errors import ComityError
from comity.preferences.meta_prompt import MOST_WISHES, Aside, as_wishes
from comity.records import Message, MetaPrompt, OptionalTime, Record, Scope
from comity.serving.strict_json import read_json

Body = dict[str, Any]

_NOTHING = Aside()
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
TOOLS = ("tool", "function")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_ABOUT_USER = ("comity_user_info", "comity_preferences")
MOST_SAID = 4000
"""Characters that may be said of a user, and of what they prefer."""

_ESCAPED = re.compile(r"((?:\\u[0-9a-fA-F]{4})+)|\\(.)", re.DOTALL)
_BLANKS = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " "}


class Refused(ComityError):
    """A request that is not answered, in OpenAI's form of an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body: Body = {
            "error": {"message": message, "type": kind, "param": param, "code": code},
            **(more or {}),
        }


class Chat(NamedTuple):
    """A request for a chat completion, as far as it has to be understood."""

    model: str
    conversation: tuple[Message, ...]
    """The turns that have text; parts that have none (images, sound) are passed on unread."""
    stream: bool
    include_usage: bool
    given: Scope
    """What `metadata` says of place, audience and time; the tenant is the key's."""
    body: Body
    """The request as it came."""
    results: tuple[str, ...] = ()
    """What tools gave: searched for the rules it touches on, and for nothing else."""
    meta: MetaPrompt = MetaPrompt()
    """What `metadata` says of the user; the provider speaks in system messages."""


class _Metadata(Record):
    """What a request's `metadata` may say of the scope: OpenAI allows text values only."""

    comity_place: str = ""
    comity_audience: str = ""
    comity_at: OptionalTime = None


def read_chat(raw: bytes, headers: Mapping[str, str], tenant: str) -> Chat:
    """Understand a request. Raises `Refused` (400) and says which field is wrong."""
    body = read_object(raw)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refused(400, "model must be the name of a model", param="model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages must be a list of at least one message", param="messages")
    conversation = tuple(read_turns(messages))
    if not any(turn.role == "user" for turn in conversation):
        raise Refused(400, "messages holds no text of a user", param="messages")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise Refused(400, "stream must be true or false", param="stream")
    options = body.get("stream_options") or {}
    return Chat(
        model=model,
        conversation=conversation,
        stream=stream,
        include_usage=bool(isinstance(options, dict) and options.get("include_usage")),
        given=read_scope(body.get("metadata"), headers, tenant),
        body=body,
        results=tuple(read_results(messages)),
        meta=read_meta(body.get("metadata"), headers),
    )


def read_object(raw: bytes) -> Body:
    """The JSON object of a body. Raises `Refused` (400) for what is none, or cannot be written."""
    try:
        body = read_json(raw)
    except ValueError as error:
        raise Refused(400, f"the body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "the body must be a JSON object")
    return body


def read_turns(messages: Sequence[Any]) -> Iterator[Message]:
    """The turns that have text. Raises `Refused` (400) for what is no message."""
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise Refused(400, f"{where} must be an object", param=where)
        role = message.get("role")
        if role in TOOLS:
            continue
        if not isinstance(role, str) or role not in _ROLES:
            known = ", ".join((*_ROLES, *TOOLS))
            raise Refused(400, f"{where}.role must be one of {known}", param=f"{where}.role")
        if text := text_of(message.get("content"), f"{where}.content"):
            yield Message.model_validate({"role": _ROLES[role], "content": text})


def read_results(messages: Sequence[Any]) -> Iterator[str]:
    """The texts of tools' results among the messages; others are left to the upstream."""
    for number, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") in TOOLS:
            yield text_of(message.get("content"), f"messages[{number}].content")


def text_of(content: Any, where: str = "content") -> str:
    """The text of a message's content: plain, or of its parts. Raises `Refused` for another."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(400, f"{where} must be text or a list of parts", param=where)
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            raise Refused(400, f"{where}[{number}] must be an object", param=where)
        if part.get("type") in _TEXT_PARTS:
            text = part.get("text", part.get("refusal"))
            if not isinstance(text, str):
                raise Refused(400, f"{where}[{number}].text must be text", param=where)
            texts.append(text)
    return "\n".join(texts)


def read_scope(metadata: Any, headers: Mapping[str, str], tenant: str) -> Scope:
    """Place, audience and time of the headers or, where they do not say it, of the metadata.

    Raises `Refused` (400) for a value that cannot be one.
    """
    told = metadata if isinstance(metadata, dict) else {}
    names = ("comity_place", "comity_audience", "comity_at")
    given = {name: told[name] for name in names if name in told}
    for name in names:
        if value := headers.get("x-" + name.replace("_", "-")):
            given[name] = _as_written(value)
    try:
        read = _Metadata.model_validate(given)
        return Scope(
            place=read.comity_place,
            audience=read.comity_audience,
            at=read.comity_at,
            tenant=tenant,
        )
    except ValueError as error:
        first = error.errors(include_url=False)[0] if hasattr(error, "errors") else None
        name = str(first["loc"][0]) if first else "metadata"
        said = first["msg"] if first else str(error)
        raise Refused(400, f"{name}: {said}", param=f"metadata.{name}") from error


def read_meta(metadata: Any, headers: Mapping[str, str]) -> MetaPrompt:
    """What headers or, where they do not say it, the metadata tell of the user.

    Raises `Refused` (400) for what is no text, too long, or too many wishes.
    """
    told = metadata if isinstance(metadata, dict) else {}
    given = {name: told.get(name) or "" for name in _ABOUT_USER}
    for name in _ABOUT_USER:
        if value := headers.get("x-" + name.replace("_", "-")):
            given[name] = _as_written(value)
        if not isinstance(given[name], str) or len(given[name]) > MOST_SAID:
            said = f"{name} must be text of at most {MOST_SAID} characters"
            raise Refused(400, said, param=f"metadata.{name}")
    wishes = as_wishes(given["comity_preferences"])
    if len(wishes) > MOST_WISHES:
        said = f"comity_preferences states {len(wishes)} wishes, one on each line: {MOST_WISHES} "
        raise Refused(400, said + "are the most", param="metadata.comity_preferences")
    return MetaPrompt(user_info=given["comity_user_info"], preferences=wishes)


def _as_written(header: str) -> str:
    """A header's value as clients mean it: in UTF-8, where it is none of the old Latin-1."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def with_rules(body: Body, system: str, aside: Aside = _NOTHING) -> Body:
    """The request with the rules: one system message, in place of all it had, then the turns.

    `aside` goes around the last words of the user.
    """
    turns = [message for message in body["messages"] if _ROLES.get(message.get("role")) != "system"]
    if any(aside):
        last = max(at for at, turn in enumerate(turns) if turn.get("role") == "user")
        turns[last] = {**turns[last], "content": _with_aside(turns[last].get("content"), aside)}
    return {**body, "messages": [{"role": "system", "content": system}, *turns]}


def _with_aside(content: Any, aside: Aside) -> Any:
    """The content of a message, with a text more before or behind it."""
    if isinstance(content, list):
        before, behind = (
            [{"type": "text", "text": text.strip()}] if text else [] for text in aside
        )
        return [*before, *content, *behind]
    return f"{aside.before}{content or ''}{aside.behind}"


def without_ours(body: Body) -> Body:
    """The request without what only the gateway reads."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict):
        return body
    rest = {name: value for name, value in metadata.items() if not name.startswith("comity_")}
    if rest:
        return {**body, "metadata": rest}
    return {name: value for name, value in body.items() if name != "metadata"}


def spoken(message: Mapping[str, Any]) -> str:
    """All text of a choice's message that a user or a tool would get: content and arguments.

    Raises `Refused` (400) for a tool call whose text cannot be found.
    """
    parts = [text_of(message.get("content"))]
    parts += map(_called, message.get("tool_calls") or ())
    if refusal := message.get("refusal"):
        parts.append(refusal)
    return "\n".join(part for part in parts if part)


def _called(call: Mapping[str, Any]) -> str:
    """A tool call as a check reads it: `name(arguments)`."""
    function = call.get("function")
    if not isinstance(function, dict):
        raise Refused(400, "a tool call is no function's: it cannot be checked", param="tool_calls")
    arguments = function.get("arguments") or ""
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f"{function.get('name') or ''}({_unescaped(arguments)})"


def _unescaped(text: str) -> str:
    """JSON with the characters that its escapes stand for, as whoever is called will read it.

    Models write `\\u4e2d` as well as `中`, and a check has to find both.
    """
    return _ESCAPED.sub(_character, text) if "\\" in text else text


def _character(escaped: re.Match[str]) -> str:
    if escaped[1]:
        units = bytes.fromhex(escaped[1].replace("\\u", ""))
        return units.decode("utf-16-be", "replace")
    return _BLANKS.get(escaped[2], escaped[2])
