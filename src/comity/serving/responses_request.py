"""What a request of OpenAI's Responses API says, and the chat request that asks the same.

Every field that the gateway understands is checked. A field that neither of them knows, such as
an upstream's own `top_k`, goes on as it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from comity.serving.wire import Refused, read_object

_STORED = "nothing is stored here: send the whole conversation as input"
_NOT_OFFERED = {
    "previous_response_id": _STORED,
    "conversation": _STORED,
    "prompt": "templates of prompts are not kept here: send instructions and input",
    "background": "an answer is made while its client waits: ask with stream for a long one",
    "context_management": "the gateway does not shorten a conversation",
    "moderation": "answers are checked by the rules in force",
    "image": "the gateway does not compress images",
    "access_programs": "there are none here",
    "top_logprobs": "log-probabilities are not told",
    "n": "there is one answer",
    "messages": "a conversation is sent as input",
}
_KINDS = {
    *("message", "function_call", "function_call_output", "reasoning"),
    *("input_text", "output_text", "text", "refusal", "input_image", "input_file", "input_audio"),
    *("none", "auto", "required", "function", "allowed_tools", "json_object", "json_schema"),
}
_CHOSEN = ("tool_choice", "format")
_ABSENT = (None, False, "")


class _Said(BaseModel):
    """Base of what a request says: strict about types, and blind to what it does not know."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class TextPart(_Said):
    """Text, of whoever."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(_Said):
    """What a model said in place of an answer."""

    type: Literal["refusal"]
    refusal: str


class ImagePart(_Said):
    """A picture, by its address or as a data URL."""

    type: Literal["input_image"]
    image_url: str
    detail: str | None = None


class FilePart(_Said):
    """A file, in itself or by the upstream's id."""

    type: Literal["input_file"]
    filename: str | None = None
    file_data: str | None = None
    file_id: str | None = None


class AudioPart(_Said):
    """Sound, in the form that chat completions have, too."""

    type: Literal["input_audio"]
    input_audio: dict[str, Any]


Part = Annotated[
    TextPart | RefusalPart | ImagePart | FilePart | AudioPart, Field(discriminator="type")
]


def _parts(content: Any) -> Any:
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise ValueError("must be text or a list of parts")
    return content


_TEXT_OR_PARTS = BeforeValidator(_parts, json_schema_input_type=str | tuple[Part, ...])
Content = Annotated[tuple[Part, ...], Field(strict=False), _TEXT_OR_PARTS]


class MessageItem(_Said):
    """What somebody said."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class CallItem(_Said):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class ResultItem(_Said):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: Content


class ThoughtItem(_Said):
    """What a reasoning model thought; chat completions have no place for it, and it is left out."""

    type: Literal["reasoning"]


def _typed(item: Any) -> Any:
    easy = isinstance(item, dict) and item.get("type") is None and "role" in item
    return {**item, "type": "message"} if easy else item


Item = Annotated[
    MessageItem | CallItem | ResultItem | ThoughtItem,
    Field(discriminator="type"),
    BeforeValidator(_typed),
]


def _items(given: Any) -> Any:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise ValueError("must be text or a list of items")
    return given


_TEXT_OR_ITEMS = BeforeValidator(_items, json_schema_input_type=str | tuple[Item, ...])


class Function(_Said):
    """A function that the model may call."""

    type: str = Field(json_schema_extra={"const": "function"})
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @field_validator("type")
    @classmethod
    def _is_a_function(cls, value: str) -> str:
        if value != "function":
            raise ValueError(f"only tools of type function are offered here, not {value!r}")
        return value


class Option(_Said):
    """Whether the model is to call anything."""

    type: Literal["none", "auto", "required"]


class OneFunction(_Said):
    """The function that the model must call, or may."""

    type: Literal["function"]
    name: str


class SomeFunctions(_Said):
    """The functions among which the model may choose."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[tuple[OneFunction, ...], Field(strict=False)]


def _option(choice: Any) -> Any:
    return {"type": choice} if isinstance(choice, str) else choice


_WORD_OR_TOOL = BeforeValidator(
    _option,
    json_schema_input_type=Literal["none", "auto", "required"] | OneFunction | SomeFunctions,
)
Choice = Annotated[Option | OneFunction | SomeFunctions, Field(discriminator="type"), _WORD_OR_TOOL]


class PlainForm(_Said):
    """Text as it comes, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaForm(_Said):
    """JSON that follows a schema."""

    model_config = ConfigDict(protected_namespaces=())

    type: Literal["json_schema"]
    name: str
    of: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextForm(_Said):
    """The form of the answer's text."""

    format: Annotated[PlainForm | SchemaForm, Field(discriminator="type")] | None = None
    verbosity: str | None = None


class Reasoning(_Said):
    """How much a reasoning model is to think."""

    effort: str | None = None


class Asked(BaseModel):
    """A request, with its fields checked."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    model: str = Field(min_length=1)
    input: Annotated[tuple[Item, ...], Field(strict=False), _TEXT_OR_ITEMS]
    instructions: str | None = None
    tools: Annotated[tuple[Function, ...] | None, Field(strict=False)] = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    text: TextForm | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_tool_calls: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    store: bool | None = None
    include: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    truncation: Literal["disabled"] | None = None


def asked_schemas() -> dict[str, Any]:
    """The JSON schemas of `Asked` and its parts, by name, as OpenAPI's components."""
    schema = Asked.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Asked": schema}


def read_asked(raw: bytes) -> Asked:
    """Understand a request. Raises `Refused` (400) that names the field which is wrong."""
    body = read_object(raw)
    for name, why in _NOT_OFFERED.items():
        if body.get(name) not in _ABSENT:
            raise Refused(400, f"{name} is not offered: {why}", param=name)
    rest = {name: value for name, value in body.items() if name not in _NOT_OFFERED}
    try:
        asked = Asked.model_validate(rest)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = _path(first["loc"])
        if first["type"].startswith("union_tag") and isinstance(first["loc"][-1], int):
            where += ".type"
        said = str(first["msg"]).removeprefix("Value error, ").replace("tuple", "list")
        raise Refused(400, f"{where}: {said}", param=where) from error
    if "message.output_text.logprobs" in (asked.include or ()):
        raise Refused(400, "include: log-probabilities are not told", param="include")
    return asked


def _path(loc: Sequence[str | int]) -> str:
    """The place of an error as `input[0].content`, without the names of what it may be there."""
    path = ""
    before: str | int = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not (step in _KINDS and (before in _CHOSEN or isinstance(before, int))):
            path += f".{step}" if path else step
        before = step
    return path
