"""Implicit preferences: what a user would want and has not said, inferred by a model.

MetaAlign (arXiv 2410.14184) has a model follow what a user's background implies. Here it is also
said beforehand, so that it can be seen: each inferred wish names the user's words that it rests
on, and code checks that these were said. What is inferred holds for one answer and is stored
nowhere.
"""

from __future__ import annotations

import asyncio
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from comity.errors import ModelError, ModelMissing
from comity.material import as_material, words_in
from comity.memory.recent import Recent, digest
from comity.models.chat import ChatModel, complete
from comity.preferences.orders import gives_orders
from comity.records import VERBATIM, Message, Preference, PreferenceKind, Record, Request, Usage
from comity.wording import prompt_language, schema_fault, words_of

TIMEOUT = 60.0
"""Seconds that one inference may take."""

_MOST = 3
_TOKENS = 240
_SHORTEST = 2  # words of a quotation: fewer stand in nearly every text


class Inferred(Record):
    """What was inferred from what was said of a user."""

    model_config = VERBATIM

    preferences: tuple[Preference, ...] = Field((), description="Each with the words it rests on.")
    failed: str = Field("", description="Why nothing could be inferred; empty where it could.")
    usage: Usage = Field(Usage(), description="Tokens read and written; none for what was known.")


class _One(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    quotation: str
    wish: str
    kind: PreferenceKind


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    inferred: list[_One]


async def infer(model: ChatModel, told: str, *, timeout: float = TIMEOUT) -> Inferred:
    """Ask a model what follows from what a user told of themselves; one call.

    An inference whose quotation was not said, and one that gives orders, is dropped. A model
    that fails, is late (after `timeout` seconds) or off the schema gives none, and says why.
    Raises `ModelMissing` if the model is not there.
    """
    if not told.strip():
        return Inferred()
    try:
        async with asyncio.timeout(timeout):
            reply = await complete(model, infer_request(told))
    except TimeoutError:
        return Inferred(failed=f"no inference within {timeout:g} s")
    except ModelMissing:
        raise  # it would be missing for the answer as well
    except ModelError as error:
        return Inferred(failed=str(error))
    try:
        written = _Written.model_validate_json(reply.text)
    except ValidationError as error:
        why = f"the reply does not follow the schema: {schema_fault(error)}"
        return Inferred(failed=why, usage=reply.usage)
    return Inferred(preferences=tuple(_checked(written.inferred, told)), usage=reply.usage)


def infer_request(told: str) -> Request:
    """What a model is asked about a user's own words."""
    words = words_of("infer", prompt_language(told), package="comity.preferences")
    system = "\n\n".join((words["instructions"].strip(), words["example"].strip().format()))
    about = words["about"].format(text=as_material(told))
    return Request(
        messages=(Message(role="system", content=system), Message(role="user", content=about)),
        max_tokens=_TOKENS,
        json_schema=_schema(),
        seed=0,
    )


def _schema() -> dict[str, Any]:
    one = {
        "type": "object",
        "properties": {
            "quotation": {"type": "string"},
            "wish": {"type": "string"},
            "kind": {"type": "string", "enum": list(get_args(PreferenceKind))},
        },
        "required": ["quotation", "wish", "kind"],
        "additionalProperties": False,
    }
    inferred = {"type": "array", "items": one, "maxItems": _MOST}
    return {
        "type": "object",
        "properties": {"inferred": inferred},
        "required": ["inferred"],
        "additionalProperties": False,
    }


def _checked(written: list[_One], told: str) -> list[Preference]:
    """The inferences that rest on what was said, the first of equal ones."""
    said, kept = words_in(told), dict[str, Preference]()
    for one in written[:_MOST]:
        quoted, wish = words_in(one.quotation), " ".join(one.wish.split())
        if len(quoted.split()) < _SHORTEST or quoted not in said:
            continue
        if wish and not gives_orders(wish):
            kept.setdefault(
                words_in(wish),
                Preference(text=wish, kind=one.kind, origin="inferred", quotation=one.quotation),
            )
    return list(kept.values())


async def infer_once(
    model: ChatModel, told: str, recent: Recent, tenant: str, *, timeout: float = TIMEOUT
) -> Inferred:
    """As `infer`, but what was inferred lately is not asked again; failures are not kept."""
    key = digest(f"{tenant}\0{model.name}\0{told}")
    known = recent.inferred.get(key)
    if known is not None:
        return Inferred(preferences=known)
    inferred = await infer(model, told, timeout=timeout)
    if not inferred.failed:
        recent.inferred.put(key, inferred.preferences)
    return inferred
