"""The API's description: what FastAPI tells of its routes, and by hand the routes of OpenAI's form.

Every route answers an error in OpenAI's form, and says so here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from comity.serving import guardrail_api
from comity.serving.responses_request import asked_schemas

Described = dict[str, Any]

_ERROR: Described = {
    "type": "object",
    "description": "An error in OpenAI's form.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field, or the rule."},
                "code": {"type": ["string", "null"]},
            },
        },
        "comity": {"$ref": "#/components/schemas/Comity"},
    },
}
_COMITY: Described = {
    "type": "object",
    "description": "Which decision this is, and what it rests on.",
    "required": ["decision", "revision", "withheld", "disclosed", "citations", "findings"],
    "properties": {
        "decision": {
            "type": ["string", "null"],
            "description": "Null where the record has failed, and the tenant goes on without.",
        },
        "open": {"type": "string", "description": "What had failed, and how; absent otherwise."},
        "revision": {"type": "integer"},
        "withheld": {"type": "boolean"},
        "disclosed": {"type": "boolean"},
        "citations": {"type": "array", "items": {"type": "object"}},
        "findings": {"type": "array", "items": {"type": "object"}},
    },
}
_TEXT: Described = {
    "description": "Text, or parts of which those of type text are read.",
    "anyOf": [
        {"type": "string"},
        {"type": "null"},
        {
            "type": "array",
            "items": {
                "anyOf": [
                    {
                        "type": "object",
                        "required": ["type", "text"],
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                    },
                    {
                        "type": "object",
                        "required": ["type"],
                        "properties": {"type": {"enum": ["image_url", "input_audio", "file"]}},
                    },
                ]
            },
        },
    ],
}
_TURN: Described = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]},
        "content": _TEXT,
    },
}
_CHAT: Described = {
    "type": "object",
    "description": "OpenAI's chat request: fields not named here go to the upstream as they come.",
    "required": ["model", "messages"],
    "properties": {
        "model": {"type": "string", "minLength": 1},
        "messages": {"type": "array", "minItems": 1, "items": _TURN},
        "stream": {"type": ["boolean", "null"]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
        "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 128},
        "metadata": {
            "type": ["object", "null"],
            "properties": {
                "comity_place": {"type": "string", "description": "Such as CN-HN/长沙市."},
                "comity_audience": {"type": "string", "description": "Labels, parted by |."},
                "comity_at": {"type": "string", "description": "ISO 8601: when the facts were."},
            },
        },
    },
}
_ANSWER: Described = {
    "type": "object",
    "required": ["choices", "comity"],
    "properties": {
        "choices": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["message", "finish_reason", "comity"],
                "properties": {
                    "message": {"type": "object"},
                    "finish_reason": {"type": "string"},
                    "comity": {"$ref": "#/components/schemas/Comity"},
                },
            },
        },
        "comity": {"$ref": "#/components/schemas/Comity"},
    },
}
_RESPONSE: Described = {
    "type": "object",
    "required": ["id", "object", "status", "output", "comity"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "response"},
        "status": {"enum": ["completed", "incomplete"]},
        "output": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "comity": {"$ref": "#/components/schemas/Comity"},
    },
}
_MODELS: Described = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "object"],
                "properties": {"id": {"type": "string"}, "object": {"const": "model"}},
            },
        },
    },
}
_STATE: Described = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string"}, "revision": {"type": "integer"}},
}
_EVENT: Described = {
    "type": "object",
    "description": "One event of the stream: its data is JSON, or [DONE].",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
_GUARDED: Described = {
    "type": "object",
    "required": ["action"],
    "properties": {
        "action": {"enum": ["NONE", "BLOCKED", "GUARDRAIL_INTERVENED"]},
        "blocked_reason": {"type": "string"},
        "structured_messages": {"type": "array", "items": {"type": "object"}},
    },
}
_ERRORS: Mapping[str, str] = {
    "400": "The request cannot be used, or a rule withholds the answer.",
    "401": "The key is missing, unknown or revoked.",
    "403": "The key's role may not do this.",
    "404": "There is no such thing here.",
    "408": "The request did not come within the time for it.",
    "409": "What was looked at has changed since.",
    "413": "The request is too large.",
    "415": "The body is of a kind that is not read.",
    "422": "A field of the request cannot be used.",
    "429": "The key may ask no more for now.",
    "503": "The memory or its record cannot be used: nothing is answered without them.",
}
_UPSTREAM_ERRORS: Mapping[str, str] = {
    "502": "The upstream cannot be reached, or answered what is no answer.",
    "504": "The upstream was silent for too long.",
    "default": "What the upstream refused, with its status.",
}
_OPEN: Described = {"security": []}


def _json(schema: Described, says: str) -> Described:
    return {"description": says, "content": {"application/json": {"schema": schema}}}


def asking(request: Described, answer: Described, summary: str) -> Described:
    """A route of OpenAI's form that asks a model, streaming or not."""
    told = _json(answer, "The answer, or a stream of events.")
    told["content"]["text/event-stream"] = {"schema": _EVENT}
    return {
        "summary": summary,
        "tags": ["openai"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": told, **_errors(_UPSTREAM_ERRORS)},
    }


def _plain(answer: Described, summary: str, more: Described) -> Described:
    return {
        "summary": summary,
        "tags": ["openai" if not more else "operation"],
        "responses": {"200": _json(answer, "As it says.")},
        **more,
    }


_METRICS: Described = {
    "summary": "Metrics, in Prometheus' form",
    "tags": ["operation"],
    "responses": {
        "200": {
            "description": "Metrics.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
    **_OPEN,
}


def _guardrail() -> Described:
    request = guardrail_api.Asked.model_json_schema()
    return {
        "summary": "LiteLLM's remote guardrail",
        "tags": ["integrations"],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": _json(_GUARDED, "What LiteLLM is to do.")},
    }


def by_hand() -> dict[str, Described]:
    """The routes that FastAPI cannot describe, by path and method."""
    return {
        "/v1/chat/completions": {
            "post": asking(_CHAT, _ANSWER, "A chat completion under the rules in force")
        },
        "/v1/responses": {
            "post": asking(
                {"$ref": "#/components/schemas/Asked"},
                _RESPONSE,
                "A response under the rules in force",
            )
        },
        guardrail_api.PATH: {"post": _guardrail()},
        "/v1/models": {"get": _plain(_MODELS, "The models that the key may ask", {})},
        "/metrics": {"get": _METRICS},
        "/healthz": {"get": _plain(_STATE, "Whether the process runs", _OPEN)},
        "/readyz": {"get": _plain(_STATE, "Whether the memory can be read", _OPEN)},
    }


def describe(app: FastAPI) -> None:
    """Make the application's description complete; what routes it has is read when it is asked."""
    generated = app.openapi

    def whole() -> Described:
        told = generated()
        _complete(told)
        return told

    app.openapi = whole  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(told: Described) -> None:
    paths = told["paths"]
    for path, operations in by_hand().items():
        paths.setdefault(path, {}).update(operations)
    parts = told.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas.update({"Error": _ERROR, "Comity": _COMITY, **asked_schemas()})
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    told["security"] = [{"key": []}]
    for operations in paths.values():
        for operation in operations.values():
            operation["responses"] |= _errors(_ERRORS)


def _errors(said: Mapping[str, str]) -> Described:
    schema = {"$ref": "#/components/schemas/Error"}
    return {status: _json(schema, text) for status, text in said.items()}
