"""Chat completions under the rules: found, sent with the request, checked, recorded.

A request that breaks a rule is no failure of the gateway: the client gets a 400 that names the
rule, or a stream that ends with `finish_reason: content_filter`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from anyio import CancelScope

from comity.alignment.aligner import Aligner, Case, Stopwatch
from comity.alignment.checks import beside
from comity.alignment.release import Gate
from comity.errors import ModelGarbled
from comity.records import Answer, Decision, Message, Reply, Usage
from comity.serving.upstream import Backend, usage_of
from comity.serving.wire import Body, Chat, Refused, spoken, with_rules, without_ours

Choice = dict[str, Any]


class Completions:
    """Answers chat requests with one backend, under one aligner."""

    def __init__(
        self, aligner: Aligner, backend: Backend, decided: Callable[[Decision], None]
    ) -> None:
        """`decided` is told every decision that was recorded."""
        self._aligner, self._backend, self._decided = aligner, backend, decided

    async def complete(self, chat: Chat) -> Body:
        """The whole answer in OpenAI's form, each choice with its decision in `comity`.

        Raises `Refused` where a rule withholds every choice, and what the upstream and the
        memory raise: nothing unrecorded leaves.
        """
        watch = Stopwatch()
        case, sent = await self._prepared(chat, watch)
        with watch("model"):
            told = await self._backend.complete(sent)
        choices = told.get("choices")
        if not isinstance(choices, list) or not choices:
            raise ModelGarbled("the model's endpoint sent an answer without choices")
        used = [usage_of(told.get("usage")), *(Usage() for _ in choices[1:])]  # one call, told once
        settled = [
            await self._settled(case, sent, choice, usage, watch)
            for choice, usage in zip(choices, used, strict=True)
        ]
        answers = [answer for _, answer in settled]
        if all(answer.decision.withheld for answer in answers):
            raise refused(answers[0])
        return {
            **told,
            "choices": [choice for choice, _ in settled],
            "comity": ours(answers[0]),
        }

    async def stream(self, chat: Chat) -> AsyncGenerator[bytes]:
        """The answer as server-sent events; each choice's last one has its decision."""
        async with aclosing(self.chunks(chat)) as chunks:
            async for chunk in chunks:
                yield _event(chunk)
        yield b"data: [DONE]\n\n"

    async def chunks(self, chat: Chat) -> AsyncGenerator[Body]:
        """The answer as `chat.completion.chunk` objects; each choice's last has its decision."""
        watch = Stopwatch()
        case, sent = await self._prepared(chat, watch)
        sent = {**sent, "stream_options": {"include_usage": True}}
        first = self._aligner.gate(case)
        await self._aligner.begin(case, first)
        streamed = _Streamed(self._aligner, case, chat.body.get("n") or 1, first)
        try:
            with watch("model"):
                async with aclosing(self._backend.stream(sent)) as chunks:
                    async for chunk in chunks:
                        for released in streamed.take(chunk):
                            yield released
                        if streamed.all_stopped:
                            break
            usage = usage_of(streamed.usage)  # of the call: the first choice tells it
            for index, choice in sorted(streamed.choices.items()):
                for part in choice.close():
                    yield streamed.chunk(index, {"content": part})
                message, finish = choice.message(), choice.finish or "stop"
                answer = await self._settle(case, sent, message, choice.gate, finish, usage, watch)
                usage = Usage()
                for released in streamed.end(index, answer, message):
                    yield released
        finally:
            left = [gate for gate in streamed.gates if not gate.settled]
            if left:
                # the record is written even where this is being cancelled, and nobody waits for it
                with CancelScope(shield=True):
                    await asyncio.to_thread(self._abandon, case, left, watch)
        if chat.include_usage and streamed.usage:
            yield streamed.usage_chunk()

    def _abandon(self, case: Case, gates: Sequence[Gate], watch: Stopwatch) -> None:
        """Record what had left, and count its tokens: else who goes early asks without limit."""
        asked = sum(self._tokens(turn.content) for turn in case.prompt.messages)
        for gate in gates:
            if decision := self._aligner.abandon(case, gate, watch):
                about = Usage(prompt_tokens=asked, completion_tokens=self._tokens(gate.released))
                self._decided(decision.model_copy(update={"usage": about}))
                asked = 0

    def _tokens(self, text: str) -> int:
        return self._aligner.model.count_tokens(text)

    async def _prepared(self, chat: Chat, watch: Stopwatch) -> tuple[Case, Body]:
        inferred = await self._aligner.inferred(
            chat.conversation, chat.meta, watch, chat.given.tenant
        )
        case = await asyncio.to_thread(
            self._aligner.prepare,
            chat.conversation,
            chat.given,
            watch,
            chat.results,
            chat.meta,
            inferred,
        )
        sent = without_ours(chat.body)
        if not case.prompt.messages:  # the memory has failed, and the tenant goes on without
            return case, sent
        return case, with_rules(sent, case.prompt.messages[0].content, case.prompt.aside)

    async def _settled(
        self, case: Case, sent: Body, choice: Choice, usage: Usage, watch: Stopwatch
    ) -> tuple[Choice, Answer]:
        """A choice as it may be released, and its answer with the record."""
        message = choice.get("message")
        if not isinstance(message, dict):
            raise ModelGarbled("the model's endpoint sent a choice without a message")
        gate, written = self._aligner.gate(case), spoken(message)
        # what a stream would have let go, so that both get the same verdict
        await beside(written, lambda: [*gate.take(written), *gate.finish()])
        finish = str(choice.get("finish_reason") or "stop")
        answer = await self._settle(case, sent, message, gate, finish, usage, watch)
        finish = "content_filter" if answer.decision.withheld else finish
        if answer.text != written:  # what belongs to a text that was not released
            choice = {name: part for name, part in choice.items() if name != "logprobs"}
        return {**choice, "message": message, "finish_reason": finish, "comity": ours(answer)}, (
            answer
        )

    async def _settle(
        self,
        case: Case,
        sent: Body,
        message: Body,
        gate: Gate,
        finish: str,
        usage: Usage,
        watch: Stopwatch,
    ) -> Answer:
        """Check, rewrite and record; `message` becomes what may be released."""
        written = spoken(message)
        versions = {written: dict(message)}
        reply = Reply(text=written, model=str(sent["model"]), finish_reason=finish, usage=usage)
        ask = self._asker(case, sent, versions)
        answer = await self._aligner.settle(case, reply, gate, ask, watch)
        self._decided(answer.decision)
        if answer.text != written:
            said = versions.get(answer.text, {"role": "assistant", "content": answer.text})
            message.clear()
            message.update(said)
        return answer

    def _asker(
        self, case: Case, sent: Body, versions: dict[str, Body]
    ) -> Callable[[tuple[Message, ...]], Awaitable[Reply]]:
        async def ask(messages: tuple[Message, ...]) -> Reply:
            more = [each.model_dump() for each in messages[len(case.prompt.messages) :]]
            body = {**sent, "messages": [*sent["messages"], *more], "n": 1}
            body.pop("stream_options", None)
            told = await self._backend.complete(body)
            try:
                message = told["choices"][0]["message"]
                text = spoken(message)
            except (KeyError, IndexError, TypeError, AttributeError) as error:
                raise ModelGarbled("the model's endpoint sent no message") from error
            versions[text] = message
            return Reply(text=text, model=str(sent["model"]), usage=usage_of(told.get("usage")))

        return ask


class _StreamedChoice:
    """One choice of a stream, as it is put together."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.finish = ""
        self.content: list[str] = []
        self.calls: dict[int, Body] = {}
        self.refusal = ""
        self.sent = ""

    def take(self, piece: str) -> Iterator[str]:
        """What of the content may leave after one more piece of it."""
        self.content.append(piece)
        for part in self.gate.take(piece):
            self.sent += part
            yield part

    def close(self) -> Iterator[str]:
        """What more of the content may leave at the end, when the tool calls are whole, too.

        They go through the gate behind the content, as they do in a plain answer.
        """
        content = "".join(self.content)
        if (self.calls or self.refusal) and not self.gate.stopped_by:
            for _ in self.gate.take(spoken(self.message())[len(content) :]):
                pass
        for _ in self.gate.finish():
            pass
        if part := self.gate.released[: len(content)][len(self.sent) :]:
            self.sent += part
            yield part

    def message(self) -> Body:
        """The whole message."""
        message: Body = {"role": "assistant", "content": "".join(self.content) or None}
        if self.calls:
            message["tool_calls"] = [call for _, call in sorted(self.calls.items())]
        if self.refusal:
            message["refusal"] = self.refusal
        return message

    def add_call(self, delta: Body) -> None:
        """Join a piece of a tool call."""
        index = int(delta.get("index") or 0)
        call = self.calls.setdefault(
            index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = delta.get("id") or call["id"]
        function = delta.get("function") or {}
        for part in ("name", "arguments"):
            call["function"][part] += function.get(part) or ""


class _Streamed:
    """A stream of chunks, choice by choice behind its gate."""

    def __init__(self, aligner: Aligner, case: Case, wanted: Any, first: Gate) -> None:
        """`wanted` is the number of choices that the request asks for; `first` is one's gate."""
        self._aligner, self._case, self._wanted = aligner, case, wanted
        self.gates = [first]
        self.choices: dict[int, _StreamedChoice] = {}
        self.usage: Any = None
        self._head: Body = {}

    @property
    def all_stopped(self) -> bool:
        """Whether nothing of any choice can leave any more."""
        stopped = [choice.gate.stopped_by for choice in self.choices.values()]
        return len(stopped) == self._wanted and all(stopped)

    def take(self, chunk: Body) -> list[Body]:
        """The chunks that may leave after one more chunk."""
        if not self._head:
            self._head = {k: v for k, v in chunk.items() if k not in ("choices", "usage")}
        self.usage = chunk.get("usage") or self.usage
        chunks: list[Body] = []
        for choice in chunk.get("choices") or ():
            index = int(choice.get("index") or 0)
            delta = choice.get("delta") or {}
            if index not in self.choices:
                if self.choices:
                    self.gates.append(self._aligner.gate(self._case))
                self.choices[index] = _StreamedChoice(self.gates[-1])
                chunks.append(self.chunk(index, {"role": "assistant", "content": ""}))
            held = self.choices[index]
            held.finish = choice.get("finish_reason") or held.finish
            chunks += self._taken(index, held, delta)
        return chunks

    def _taken(self, index: int, held: _StreamedChoice, delta: Body) -> list[Body]:
        if held.gate.stopped_by:
            return []
        chunks = []
        for call in delta.get("tool_calls") or ():
            held.add_call(call)
            if not held.gate.release:
                held.gate.passed = True
                chunks.append(self.chunk(index, {"tool_calls": [call]}))
        held.refusal += delta.get("refusal") or ""
        if piece := delta.get("content"):
            chunks += [self.chunk(index, {"content": part}) for part in held.take(piece)]
        return chunks

    def chunk(
        self, index: int, delta: Body, finish: str | None = None, more: Body | None = None
    ) -> Body:
        """One chunk of a choice."""
        choice = {"index": index, "delta": delta, "finish_reason": finish, **(more or {})}
        return {**self._head, "choices": [choice]}

    def end(self, index: int, answer: Answer, message: Body) -> list[Body]:
        """What had to wait for the checks, and the end of a choice with its decision."""
        held = self.choices[index]
        chunks = []
        content = message.get("content") or ""
        if rest := content.removeprefix(held.sent):
            chunks.append(self.chunk(index, {"content": rest}))
        calls = message.get("tool_calls")
        if calls and held.gate.release:
            numbered = [{"index": at, **call} for at, call in enumerate(calls)]
            chunks.append(self.chunk(index, {"tool_calls": numbered}))
        if refusal := message.get("refusal"):
            chunks.append(self.chunk(index, {"refusal": refusal}))
        withheld = answer.decision.withheld
        finish = "content_filter" if withheld else held.finish or "stop"
        return [*chunks, self.chunk(index, {}, finish, {"comity": ours(answer)})]

    def usage_chunk(self) -> Body:
        """The chunk without choices that says what was used."""
        return {**self._head, "choices": [], "usage": self.usage}


def ours(answer: Answer) -> Body:
    """The documented extra field: which decision this is, and what it rests on.

    What findings quote of a withheld answer stays in the record.
    """
    decision = answer.decision
    quoting = {"reason", "quotation", "critique"} if decision.withheld else set()
    return {
        "decision": decision.id if decision.hash else None,  # not on record yet
        **({"open": decision.opened_why} if decision.opened else {}),
        "revision": decision.revision,
        "withheld": decision.withheld,
        "disclosed": decision.disclosed,
        "citations": [c.model_dump(mode="json") for c in answer.citations],
        "findings": [f.model_dump(mode="json", exclude=quoting) for f in decision.findings],
        **_wishes(decision),
    }


def _wishes(decision: Decision) -> Body:
    """What became of the wishes of provider and user, and what was inferred from which words."""
    if not decision.preferences:
        return {}
    told = [one.model_dump(mode="json", exclude_defaults=True) for one in decision.preferences]
    return {"preferences": told}


def refused(answer: Answer) -> Refused:
    """A withheld answer: a 400 that names the rule, or a 503 where a check has failed."""
    rules = [
        f"{finding.rule}@{finding.version}"
        for finding in answer.decision.findings
        if finding.outcome == "violated" and finding.enforcement != "advise"
    ]
    if not rules:
        return Refused(
            503,
            answer.text,
            kind="check_error",
            code="check_failed",
            headers={"retry-after": "5"},
            more={"comity": ours(answer)},
        )
    return Refused(
        400,
        answer.text,
        kind="rule_violation",
        param=rules[0],
        code="content_filter",
        more={"comity": ours(answer)},
    )


def _event(body: Body) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"
