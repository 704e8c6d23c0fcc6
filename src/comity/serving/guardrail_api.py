"""LiteLLM's remote guardrail, `guardrail: generic_guardrail_api`, answered by the gateway.

LiteLLM's proxy asks twice for each call: before it, with the messages, which get the rules in
force (`GUARDRAIL_INTERVENED`); and behind it, with the answer's texts alone, which are checked and
recorded, and withheld where they break a `block` rule (`BLOCKED`). What was asked is kept in
between by the call's id, in this process. An answer whose question is not known is withheld.

What the request has wrong is `BLOCKED` with the reason, since LiteLLM makes a 5xx of any HTTP
error. Where the memory or the record fails it is a 503, and LiteLLM does as its
`unreachable_fallback` says: it refuses, by default.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from comity.alignment.aligner import Aligner, Case, Options, Stopwatch
from comity.alignment.written import aligner_elsewhere, settle_written
from comity.errors import NotFound, RuleError
from comity.memory.memory import Memory
from comity.models.chat import ChatModel
from comity.records import Decision, Message, Scope
from comity.serving.auth import Principal, allow, principal
from comity.serving.config import Gateway
from comity.serving.limits import Limits
from comity.serving.lookup import looked_up
from comity.serving.wire import (
    Refused,
    read_object,
    read_results,
    read_scope,
    read_turns,
    spoken,
    with_rules,
)

PATH = "/beta/litellm_basic_guardrail_api"

Said = dict[str, Any]

_MOST_OPEN = 10_000
_OPEN_SECONDS = 900.0
_MOST_TEXT = 50_000_000  # characters of all that is open
_HIDDEN = "[present]"  # what LiteLLM sends of a header whose value it keeps to itself
_SCOPE = ("comity_place", "comity_audience", "comity_at")


class Asked(BaseModel):
    """What LiteLLM sends, as far as it is read; other fields are let be."""

    input_type: Literal["request", "response"]
    litellm_call_id: str | None = None
    texts: list[str] | None = None
    structured_messages: list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    request_headers: dict[str, str] | None = None
    additional_provider_specific_params: dict[str, Any] | None = None
    model: str | None = None

    @property
    def params(self) -> Mapping[str, Any]:
        """What LiteLLM's file says of this guardrail."""
        return self.additional_provider_specific_params or {}

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The turns; where LiteLLM sends texts alone, they are the user's."""
        if self.structured_messages:
            return tuple(read_turns(self.structured_messages))
        text = "\n".join(self.texts or ())
        return (Message(role="user", content=text),) if text.strip() else ()

    @property
    def answers(self) -> Iterator[str]:
        """The answers to be checked, tool calls with the one text, or apart where there are more.

        LiteLLM does not say which choice a tool call is of.
        """
        texts = self.texts or []
        calls = spoken({"tool_calls": self.tool_calls}) if self.tool_calls else ""
        if len(texts) <= 1:
            yield "\n".join(part for part in (*texts, calls) if part)
        else:
            yield from filter(None, (*texts, calls))


class Open(NamedTuple):
    """A call that was asked, and whose answer is to come."""

    conversation: tuple[Message, ...]
    case: Case
    since: float

    @property
    def size(self) -> int:
        """Characters of the question."""
        return sum(len(turn.content) for turn in self.conversation)


class OpenCalls:
    """Calls between their question and their answer, by key and call; old ones are forgotten."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        most: int = _MOST_OPEN,
        seconds: float = _OPEN_SECONDS,
        text: int = _MOST_TEXT,
    ) -> None:
        """At most `most` calls, with `text` characters in all, for so many `seconds` each."""
        self._clock, self._most, self._seconds, self._text = clock, most, seconds, text
        self._size = 0
        self._calls: OrderedDict[tuple[str, str], Open] = OrderedDict()

    def keep(self, key: str, call: str, conversation: tuple[Message, ...], case: Case) -> None:
        """Remember a call. Raises `Refused` where another with this id is still open.

        Clients may choose the id: with two questions of one id, an answer could be checked
        against the rules of the other question.
        """
        known = self.find(key, call)
        if known and known.conversation != conversation:
            raise Refused(
                400,
                f"call {call!r} is still open with another question: leave x-litellm-call-id out",
            )
        if known:
            self._size -= self._calls.pop((key, call)).size
        self._calls[(key, call)] = new = Open(conversation, case, self._clock())
        self._size += new.size
        while len(self._calls) > self._most or (self._size > self._text and len(self._calls) > 1):
            self._forget_oldest()

    def find(self, key: str, call: str) -> Open | None:
        """A call that was asked; it stays, since a stream's answer may come in several parts."""
        while self._calls and self._is_old(next(iter(self._calls.values()))):
            self._forget_oldest()
        return self._calls.get((key, call))

    def _forget_oldest(self) -> None:
        _, oldest = self._calls.popitem(last=False)
        self._size -= oldest.size

    def _is_old(self, call: Open) -> bool:
        return call.since < self._clock() - self._seconds


class GuardrailApi:
    """Answers LiteLLM's guardrail client."""

    def __init__(
        self,
        memory: Memory,
        config: Gateway,
        options: Options,
        *,
        judge: ChatModel | None,
        limits: Limits,
        decided: Callable[[str, Decision], None],
    ) -> None:
        """`decided` is told the model and every decision that was recorded."""
        self._memory, self._config, self._options = memory, config, options
        self._judge, self._limits, self._decided = judge, limits, decided
        self._open = OpenCalls()

    async def handle(self, request: Request) -> Response:
        """`POST /beta/litellm_basic_guardrail_api`."""
        key = request.headers.get("authorization")
        who = await looked_up(self._memory, lambda: principal(self._memory, key))
        allow(who, "ask")
        asked = _asked(await request.body())
        step = self._before if asked.input_type == "request" else self._behind
        try:
            said = await step(who, asked)
        except (Refused, RuleError, NotFound) as error:
            if isinstance(error, Refused) and error.status != 400:
                raise
            said = {"action": "BLOCKED", "blocked_reason": str(error)}
        return JSONResponse(said)

    async def _before(self, who: Principal, asked: Asked) -> Said:
        """The messages with the rules in force."""
        self._ask(who)
        conversation = asked.conversation
        if not any(turn.role == "user" for turn in conversation):
            raise Refused(400, "messages holds no text of a user", param="messages")
        case = await self._prepared(who, asked)
        self._open.keep(who.key, _call(asked), conversation, case)
        if not asked.structured_messages:
            return {"action": "NONE"}  # texts alone may be there to be embedded, say
        system = case.prompt.messages[0].content
        messages = with_rules({"messages": asked.structured_messages}, system)["messages"]
        return {"action": "GUARDRAIL_INTERVENED", "structured_messages": messages}

    async def _behind(self, who: Principal, asked: Asked) -> Said:
        """Whether the answer may be released; its decision is recorded by then."""
        aligner = self._aligner(who, asked)
        if known := self._open.find(who.key, _call(asked)):
            case = known.case
        elif asked.params.get("comity_answer_only") is True and asked.conversation:
            self._ask(who)
            case = await self._prepared(who, asked)
        else:
            raise Refused(
                400,
                f"the question of call {_call(asked)!r} was not seen here: give the guardrail "
                "mode [pre_call, post_call], and one worker of this gateway",
            )
        model = asked.model or ""
        answers = [
            await settle_written(aligner, case, text, model=model)
            for text in asked.answers
            if text.strip()
        ]
        for answer in answers:
            self._decided(aligner.model.name, answer.decision)
        told: Said = {"comity": {"decisions": [answer.decision.id for answer in answers]}}
        withheld = [answer.text for answer in answers if answer.decision.withheld]
        if withheld:
            # all of it, even where one choice of several is at fault: rewritten texts do not
            # reach the client of a stream
            reason = "\n".join(dict.fromkeys(withheld))
            return {"action": "BLOCKED", "blocked_reason": reason, **told}
        return {"action": "NONE", **told}

    def _ask(self, who: Principal) -> None:
        """Take one of the requests that the key may make. Raises `Refused` (429)."""
        tenant = self._config.tenant(who.tenant)
        self._limits.ask(who.key, tenant.requests_per_minute, tenant.tokens_per_minute)

    def _aligner(self, who: Principal, asked: Asked) -> Aligner:
        options = self._config.options(who.tenant, self._options)
        return aligner_elsewhere(
            self._memory,
            options.model_copy(update={"release": "strict"}),
            name=asked.model or "litellm",
            judge=self._judge,
        )

    async def _prepared(self, who: Principal, asked: Asked) -> Case:
        return await asyncio.to_thread(
            self._aligner(who, asked).prepare,
            asked.conversation,
            _scope(who, asked),
            Stopwatch(),
            tuple(read_results(asked.structured_messages or ())),
        )


def _asked(raw: bytes) -> Asked:
    try:
        return Asked.model_validate(read_object(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(422, f"{where}: {first['msg']}", param=where) from error


def _call(asked: Asked) -> str:
    if not asked.litellm_call_id:
        raise Refused(400, "litellm_call_id is missing: it joins an answer with its question")
    return asked.litellm_call_id


def _scope(who: Principal, asked: Asked) -> Scope:
    """Place, audience and time of the headers that LiteLLM sends on, else of LiteLLM's file."""
    headers = {name.lower(): value for name, value in (asked.request_headers or {}).items()}
    sent = {name: headers.get("x-" + name.replace("_", "-"), _HIDDEN) for name in _SCOPE}
    given = {name: asked.params[name] for name in _SCOPE if asked.params.get(name)}
    given |= {name: value for name, value in sent.items() if value != _HIDDEN}
    return read_scope(given, {}, who.tenant)
