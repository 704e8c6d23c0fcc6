"""The chat request that asks the same as a request of OpenAI's Responses API."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from comity.serving.responses_request import (
    Asked,
    AudioPart,
    CallItem,
    Choice,
    FilePart,
    Function,
    ImagePart,
    MessageItem,
    OneFunction,
    Option,
    Part,
    RefusalPart,
    ResultItem,
    SchemaForm,
    SomeFunctions,
    TextForm,
    TextPart,
)
from comity.serving.wire import Body, Chat, Refused, read_meta, read_results, read_scope, read_turns

_AS_SENT = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
}


def as_chat(asked: Asked, headers: Mapping[str, str], tenant: str) -> Chat:
    """The chat request that asks the same. Raises `Refused` (400) where nobody asks anything."""
    messages = list(_messages(asked))
    conversation = tuple(read_turns(messages))
    if not any(turn.role == "user" for turn in conversation):
        raise Refused(400, "input holds no text of a user", param="input")
    return Chat(
        model=asked.model,
        conversation=conversation,
        stream=bool(asked.stream),
        include_usage=True,
        given=read_scope(asked.metadata, headers, tenant),
        meta=read_meta(asked.metadata, headers),
        body={
            **_said(asked.model_extra or {}),
            **_options(asked),
            "model": asked.model,
            "messages": messages,
        },
        results=tuple(read_results(messages)),
    )


def as_sent(param: str) -> str:
    """The name in the request of a field that the chat request calls `param`."""
    return _AS_SENT.get(re.split(r"[.\[]", param)[0], param)


def _messages(asked: Asked) -> Iterator[Body]:
    """The messages of a chat: what the model did in one turn is one message there."""
    if asked.instructions:
        yield {"role": "system", "content": asked.instructions}
    turn: Body | None = None  # of the model, as far as it goes
    for item in asked.input:
        match item:
            case MessageItem(role="assistant") if turn and not turn["content"]:
                turn["content"] = _content(item.content)
            case CallItem() if turn:
                turn.setdefault("tool_calls", []).append(_call(item))
            case MessageItem(role="assistant"):
                yield from _whole(turn)
                turn = {"role": "assistant", "content": _content(item.content)}
            case CallItem():
                turn = {"role": "assistant", "content": None, "tool_calls": [_call(item)]}
            case MessageItem():
                yield from _whole(turn)
                turn = None
                yield {"role": item.role, "content": _content(item.content)}
            case ResultItem():
                yield from _whole(turn)
                turn = None
                content = _content(item.output)
                yield {"role": "tool", "tool_call_id": item.call_id, "content": content}
    yield from _whole(turn)


def _whole(turn: Body | None) -> Iterator[Body]:
    if turn:
        yield turn


def _call(item: CallItem) -> Body:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _content(parts: Sequence[Part]) -> str | list[Body]:
    """A content of one text as that text, which every upstream can read; another as parts."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return parts[0].text
    return [_part(part) for part in parts]


def _part(part: Part) -> Body:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case RefusalPart():
            return {"type": "refusal", "refusal": part.refusal}
        case ImagePart():
            url = {"url": part.image_url, "detail": part.detail}
            return {"type": "image_url", "image_url": _said(url)}
        case FilePart():
            return {"type": "file", "file": part.model_dump(exclude={"type"}, exclude_none=True)}
        case AudioPart():
            return {"type": "input_audio", "input_audio": part.input_audio}


def _options(asked: Asked) -> Body:
    """Everything beside the conversation, under the names of a chat request."""
    return _said(
        {
            "tools": [_function(tool) for tool in _offered(asked)] or None,
            "tool_choice": _chosen(asked.tool_choice),
            "parallel_tool_calls": asked.parallel_tool_calls,
            "response_format": _format(asked.text),
            "verbosity": asked.text and asked.text.verbosity,
            "reasoning_effort": asked.reasoning and asked.reasoning.effort,
            "max_tokens": asked.max_output_tokens,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "metadata": asked.metadata,
            "user": asked.user,
            "safety_identifier": asked.safety_identifier,
            "prompt_cache_key": asked.prompt_cache_key,
            "service_tier": asked.service_tier,
        }
    )


def _offered(asked: Asked) -> Sequence[Function]:
    """The tools that the model may choose from. Raises `Refused` for a choice that is not there."""
    tools, choice = asked.tools or (), asked.tool_choice
    names = {tool.name for tool in tools}
    if isinstance(choice, Option) or choice is None:
        return tools
    wanted = (
        [choice.name] if isinstance(choice, OneFunction) else [each.name for each in choice.tools]
    )
    for name in wanted:
        if name not in names:
            raise Refused(400, f"tool_choice: tools has no {name!r}", param="tool_choice")
    return tools if isinstance(choice, OneFunction) else [t for t in tools if t.name in wanted]


def _function(tool: Function) -> Body:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _chosen(choice: Choice | None) -> str | Body | None:
    match choice:
        case OneFunction():
            return {"type": "function", "function": {"name": choice.name}}
        case SomeFunctions():
            return choice.mode
        case Option():
            return choice.type
    return None


def _format(text: TextForm | None) -> Body | None:
    form = text.format if text else None
    if isinstance(form, SchemaForm):
        described = {"name": form.name, "description": form.description, "strict": form.strict}
        return {"type": "json_schema", "json_schema": {**_said(described), "schema": form.of}}
    return {"type": "json_object"} if form and form.type == "json_object" else None


def _said(fields: Body) -> Body:
    return {name: value for name, value in fields.items() if value is not None}
