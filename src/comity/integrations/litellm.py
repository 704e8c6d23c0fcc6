"""A guardrail of LiteLLM's proxy, in its process (extra `litellm`).

Before a call the rules in force go before its messages; behind it the answer is checked, recorded,
and withheld or rewritten, whether it is streamed or not. For a proxy that runs elsewhere, the
gateway answers LiteLLM's remote guardrail (`serving/guardrail_api.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.types.guardrails import GuardrailEventHooks
from litellm.types.utils import ModelResponseStream

from comity.alignment.aligner import Aligner, Case, Options, Stopwatch
from comity.alignment.release import Release
from comity.alignment.written import aligner_elsewhere, asker, settle_written
from comity.errors import ComityError, NotFound, RuleError
from comity.memory.memory import Memory
from comity.models.chat import ChatModel, open_model
from comity.records import DEFAULT_TENANT, WORLD, Answer, Decision
from comity.serving.completions import Completions
from comity.serving.upstream import ModelBackend
from comity.serving.wire import (
    Body,
    Chat,
    Refused,
    read_results,
    read_scope,
    read_turns,
    spoken,
    with_rules,
)

Inputs = dict[str, Any]


class ComityGuardrail(CustomGuardrail):
    """Rules before a call, checks and the record behind it.

    An answer that breaks a `block` rule is a 400 that names the rule, or a stream that ends with
    `finish_reason: content_filter`. What the memory or the record cannot do is a 503.
    """

    def __init__(
        self,
        memory: Memory | str,
        *,
        tenant: str = DEFAULT_TENANT,
        place: str = WORLD,
        release: Release = "strict",
        rewriter: ChatModel | str | None = None,
        judge: ChatModel | str | None = None,
        options: Options = Options(),  # noqa: B008 - frozen
        embedder: str = "e5",
        **litellm_params: Any,
    ) -> None:
        """`memory` is one that is open, or its URL; `tenant` is whose rules hold for all calls.

        `place` is that of a question that names none; `release` says when a stream's text leaves;
        `rewriter` writes anew what breaks a `revise` rule, and without one such a breach is
        recorded only; `judge` checks what code cannot. Models are given by name, as to
        `open_model`. LiteLLM gives the rest, with everything else that its file can say.
        """
        super().__init__(
            supported_event_hooks=[GuardrailEventHooks.pre_call, GuardrailEventHooks.post_call],
            **litellm_params,
        )
        self._memory = Memory.open(memory, embedder=embedder) if isinstance(memory, str) else memory
        self._tenant = tenant
        self._rewriter = _model(rewriter)
        self._judge = _model(judge)
        self._options = options.model_copy(update={"place": place, "release": release})
        # LiteLLM has one such object for each call, and gives it to every hook of the call
        self._cases: WeakKeyDictionary[Any, Case] = WeakKeyDictionary()

    async def apply_guardrail(  # type: ignore[override]  # LiteLLM's TypedDicts are dicts here
        self,
        inputs: Inputs,
        request_data: Body,
        input_type: Literal["request", "response"],
        logging_obj: Any = None,
    ) -> Inputs:
        """LiteLLM's hook: the messages with the rules, or the answer's texts as released.

        Raises `GuardrailRaisedException` (400) for an answer that is withheld.
        """
        with _told(self.guardrail_name):
            if input_type == "request":
                return await self._before(inputs, request_data, logging_obj)
            return await self._behind(inputs, request_data, logging_obj)

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Body
    ) -> AsyncGenerator[Any]:
        """LiteLLM's hook for streams: what may leave of a chat answer, as it comes.

        A stream of another form is held until it is whole and checked.
        """
        first, arriving = await _begun(response)
        if isinstance(first, ModelResponseStream):
            released = self._chunks(arriving, request_data)
        else:
            released = self._held(user_api_key_dict, arriving, request_data)
        async with aclosing(released) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _chunks(self, arriving: Any, request_data: Body) -> AsyncGenerator[Any]:
        with _told(self.guardrail_name):
            case = await self._case(request_data, request_data.get("litellm_logging_obj"))
            aligner = self._aligner(request_data, rewrites=self._rewriter is not None)
            backend = _Arriving(aligner.model.name, arriving, self._asked)
            answered = _Answered(case, aligner, backend).chunks(_chat(request_data, case))
            async with aclosing(answered) as chunks:
                async for chunk in chunks:
                    yield ModelResponseStream(**chunk)

    def _held(self, user: Any, arriving: Any, request_data: Body) -> AsyncGenerator[Any]:
        from litellm.proxy.guardrails.guardrail_hooks.unified_guardrail import unified_guardrail

        hooks: Any = unified_guardrail.UnifiedLLMGuardrails()  # type: ignore[no-untyped-call]
        held: AsyncGenerator[Any] = hooks.async_post_call_streaming_iterator_hook(
            user,
            arriving,
            request_data,
            guardrail_to_apply=self,
            buffer_until_moderated_default=True,
        )
        return held

    async def _before(self, inputs: Inputs, request_data: Body, logging_obj: Any) -> Inputs:
        messages = inputs.get("structured_messages")
        if not messages:
            return inputs  # texts to be embedded, say
        case = await self._prepared(messages, request_data)
        if logging_obj is not None:
            self._cases[logging_obj] = case
        system = case.prompt.messages[0].content
        return {
            **inputs,
            "structured_messages": with_rules({"messages": messages}, system)["messages"],
        }

    async def _behind(self, inputs: Inputs, request_data: Body, logging_obj: Any) -> Inputs:
        case = await self._case(request_data, logging_obj)
        texts: list[str] = list(inputs.get("texts") or ())
        calls = spoken({"tool_calls": [_plain(call) for call in inputs.get("tool_calls") or ()]})
        # what a stream of another form than chat would bring is what it was, and no other text
        rewrites = self._rewriter is not None and not (calls or request_data.get("stream"))
        aligner = self._aligner(request_data, rewrites=rewrites, release="strict")
        model = str(inputs.get("model") or "")
        answers = {
            said: await self._settled(aligner, case, said, model)
            for said in (*texts, calls)
            if said.strip()
        }
        withheld = [answer.text for answer in answers.values() if answer.decision.withheld]
        if withheld:
            raise self._block("\n".join(dict.fromkeys(withheld)))
        return {**inputs, "texts": [answers[t].text if t in answers else t for t in texts]}

    async def _settled(self, aligner: Aligner, case: Case, text: str, model: str) -> Answer:
        ask = asker(self._rewriter, aligner.options) if self._rewriter else None
        return await settle_written(aligner, case, text, model=model, ask=ask)

    async def _case(self, request_data: Body, logging_obj: Any) -> Case:
        """The case of a call; made now where only answers are guarded."""
        known = self._cases.get(logging_obj) if logging_obj is not None else None
        return known or await self._prepared(_messages(request_data), request_data)

    async def _prepared(self, messages: Sequence[Body], request_data: Body) -> Case:
        turns = tuple(read_turns(messages))
        if not any(turn.role == "user" for turn in turns):
            raise Refused(400, "messages holds no text of a user", param="messages")
        headers = (request_data.get("proxy_server_request") or {}).get("headers") or {}
        named = {name.lower(): value for name, value in headers.items()}
        given = read_scope(request_data.get("metadata"), named, self._tenant)
        return await asyncio.to_thread(
            self._aligner(request_data).prepare,
            turns,
            given,
            Stopwatch(),
            tuple(read_results(messages)),
        )

    def _aligner(
        self, request_data: Body, *, rewrites: bool = False, release: Release | None = None
    ) -> Aligner:
        options = self._options
        if release is not None:
            options = options.model_copy(update={"release": release})
        return aligner_elsewhere(
            self._memory,
            options,
            name=str(request_data.get("model") or "litellm"),
            judge=self._judge,
            rewrites=rewrites,
        )

    async def _asked(self, body: Mapping[str, Any]) -> Body:
        assert self._rewriter is not None, "an aligner without a rewriter has no rounds"
        plain = {name: body[name] for name in ("model", "messages", "max_tokens") if name in body}
        return await ModelBackend(self._rewriter).complete(plain)

    def _block(self, message: str) -> GuardrailRaisedException:
        return GuardrailRaisedException(
            guardrail_name=self.guardrail_name,
            message=message,
            should_wrap_with_default_message=False,
            blocked_content=True,
        )


class _Answered(Completions):
    """An answer that comes to a question whose case is known."""

    def __init__(self, case: Case, aligner: Aligner, backend: _Arriving) -> None:
        super().__init__(aligner, backend, _ignored)
        self._case = case

    async def _prepared(self, chat: Chat, watch: Stopwatch) -> tuple[Case, Body]:
        return self._case, chat.body


class _Arriving:
    """The stream that LiteLLM has begun, as a backend."""

    def __init__(self, name: str, chunks: Any, complete: Any) -> None:
        self.name = name
        self._chunks = chunks
        self.complete = complete

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[Body]:
        """The chunks as they come."""
        async for chunk in self._chunks:
            yield chunk.model_dump(exclude_none=True)


async def _begun(response: Any) -> tuple[Any, AsyncGenerator[Any]]:
    """The first item of a stream, and the whole stream; None of an empty one."""
    arriving = aiter(response)
    first = await anext(arriving, None)

    async def whole() -> AsyncGenerator[Any]:
        if first is not None:
            yield first
        async for item in arriving:
            yield item

    return first, whole()


def _messages(request_data: Body) -> Sequence[Body]:
    """What was asked, whichever route it came by."""
    if messages := request_data.get("messages"):
        return list(messages)
    asked = request_data.get("prompt") or request_data.get("input")
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else ()


def _ignored(_: Decision) -> None:
    """Nobody counts decisions here."""


def _chat(request_data: Body, case: Case) -> Chat:
    body = {"model": "litellm", **{k: v for k, v in request_data.items() if k in _READ}}
    body["messages"] = [turn.model_dump() for turn in case.prompt.messages]
    usage = (request_data.get("stream_options") or {}).get("include_usage")
    return Chat(str(body["model"]), case.conversation, True, bool(usage), case.scope, body)


_READ = ("model", "n", "max_tokens")


def _plain(call: Any) -> Body:
    """A tool call as a dictionary, whichever of its forms LiteLLM has."""
    plain: Body = call if isinstance(call, dict) else call.model_dump()
    return plain


def _model(given: ChatModel | str | None) -> ChatModel | None:
    return open_model(given) if isinstance(given, str) else given


@contextmanager
def _told(name: str | None) -> Iterator[None]:
    """Our errors as LiteLLM's: a 400 for what the request has wrong, else a 503."""
    try:
        yield
    except ComityError as error:
        theirs = isinstance(error, Refused | RuleError | NotFound)
        raise GuardrailRaisedException(
            guardrail_name=name,
            message=str(error),
            should_wrap_with_default_message=False,
            status_code=400 if theirs else 503,
        ) from error
