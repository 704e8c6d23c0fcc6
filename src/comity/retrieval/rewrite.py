"""What to search for besides a question: rewritten, taken apart, or made plain by a model.

The three ways of RQ-RAG (arXiv 2404.00610), which trains a model for them; here any chat model
is asked for them, once and before the search. What it writes is only searched: the question
itself always is, and place, audience and time are read from the user's own words alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from comity.errors import ModelError, ModelMissing
from comity.material import as_material, words_in
from comity.models.chat import ChatModel, complete
from comity.records import Message, Request, Rewriting, Rewritten
from comity.wording import prompt_language, schema_fault, version_of, words_of

TIMEOUT = 60.0
"""Seconds that one rewriting may take."""

MOST = 3
"""Queries that are searched besides the question."""

_LONGEST = 300  # characters of a query; a longer one is an answer
_READ = 2000  # characters of a question, from its end
_TOKENS = 200


class _Written(BaseModel):
    """What the model writes; the order of the fields is that of writing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Rewriting
    queries: list[str]


async def rewrite(model: ChatModel, question: str, *, timeout: float = TIMEOUT) -> Rewritten:
    """Ask a model what to search for besides a question; one call.

    A model that fails, is late (after `timeout` seconds) or off the schema gives no query, and
    `failed` says why. Queries that are empty, longer than 300 characters, or the same as the
    question or one before are dropped. Raises `ModelMissing` if the model is not there.
    """
    begun = Rewritten(model=model.name, prompt=prompt_version(prompt_language(question)))
    try:
        async with asyncio.timeout(timeout):
            reply = await complete(model, rewrite_request(question))
    except TimeoutError:
        return begun.model_copy(update={"failed": f"no query within {timeout:g} s"})
    except ModelMissing:
        raise  # it would be missing for the answer as well
    except ModelError as error:
        return begun.model_copy(update={"failed": str(error)})
    told = begun.model_copy(update={"usage": reply.usage})
    try:
        written = _Written.model_validate_json(reply.text)
    except ValidationError as error:
        fault = f"the reply does not follow the schema: {schema_fault(error)}"
        return told.model_copy(update={"failed": fault})
    return told.model_copy(
        update={"kind": written.kind, "queries": tuple(_usable(question, written))}
    )


def _usable(question: str, written: _Written) -> Iterator[str]:
    if written.kind == "none":
        return
    known = {words_in(question)}
    for query in map(_one_line, written.queries[:MOST]):
        words = words_in(query)
        if words and words not in known and len(query) <= _LONGEST:
            known.add(words)
            yield query


def _one_line(text: str) -> str:
    return " ".join(text.split())


def rewrite_request(question: str) -> Request:
    """What a model is asked about a question, or the last turns of a conversation."""
    words = _words(prompt_language(question))
    system = "\n\n".join((words["instructions"].strip(), words["example"].strip().format()))
    asked = words["question"].format(question=as_material(question[-_READ:]))
    return Request(
        messages=(Message(role="system", content=system), Message(role="user", content=asked)),
        max_tokens=_TOKENS,
        json_schema=_schema(),
        seed=0,
    )


def prompt_version(language: str) -> str:
    """Name of the prompt and its schema: changes with every word of them."""
    return f"{language}-{version_of(dict(_words(language)), _schema())}"


def _words(language: str) -> Mapping[str, Any]:
    return words_of("rewrite", language, package="comity.retrieval")


def _schema() -> dict[str, Any]:
    kinds: Sequence[str] = get_args(Rewriting)
    return {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "enum": list(kinds)},
            "queries": {"type": "array", "items": {"type": "string"}, "maxItems": MOST},
        },
        "required": ["kind", "queries"],
        "additionalProperties": False,
    }
