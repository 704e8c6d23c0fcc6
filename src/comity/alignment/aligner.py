"""The aligner: from a question to an answer that follows the rules in force, and its record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import cast

from pydantic import Field

from comity.alignment import decisions
from comity.alignment.checks import Judge, can_check, check, to_check
from comity.alignment.cite import cite
from comity.alignment.compose import Prompt, compose, prompt_language
from comity.alignment.enforce import Enforced, disclosed, enforce, stopped
from comity.alignment.precedence import rule_on
from comity.alignment.release import Gate, Release
from comity.errors import ModelNonsense
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.models.chat import ChatModel, complete
from comity.records import (
    WORLD,
    Answer,
    Decision,
    Finding,
    Message,
    Record,
    Reply,
    Request,
    RuleRef,
    Ruling,
    Scope,
    Usage,
)
from comity.retrieval.search import Found, Reranker, search

_USER_TURNS_SEARCHED = 3


class Options(Record):
    """How an aligner answers."""

    place: str = Field(WORLD, description="Place of a question that names none.")
    hits: int = Field(20, ge=1, description="How many rules search gives.")
    relevance: float = Field(
        0.75, ge=0, le=1, description="Hits after the fourth must score this share of the best."
    )
    budget: int = Field(1000, ge=0, description="Tokens that the rules may take in the prompt.")
    incomplete_note: bool = Field(True, description="Tell the model that rules may be missing.")
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(0.0, ge=0.0, description="0 is greedy.")
    seed: int | None = Field(None, description="For sampling that can be repeated.")
    release: Release = Field("strict", description="When text leaves (see `release`).")
    rounds: int = Field(2, ge=0, description="How often an answer is rewritten, at most.")
    judge_timeout: float = Field(30.0, gt=0, description="Seconds that the judge may take.")


class Aligner:
    """Answers with any chat model, under the rules of a memory.

    The method is OPO's (Align on the Fly, arXiv 2312.15907): the rules that apply are found and
    put before the question at inference time. Beyond it, the scope decides which rules can apply
    before anything is ranked, conflicts are decided by precedence, and each answer leaves a
    decision record.
    """

    def __init__(
        self,
        memory: Memory,
        model: ChatModel,
        options: Options = Options(),  # noqa: B008 - frozen
        *,
        judge: ChatModel | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        """`judge` checks what code cannot; without one that is recorded as not checked."""
        self.memory = memory
        self.model = model
        self.options = options
        self.judge = Judge(judge, options.judge_timeout) if judge else None
        self.reranker = reranker

    async def answer(
        self,
        question: str | Sequence[Message],
        scope: Scope = Scope(),  # noqa: B008 - frozen
    ) -> Answer:
        """The answer to a question or conversation, with its citations and decision record.

        Raises `ModelError` when the model fails and `StoreError` when the memory or the record
        does: an answer without a record is never returned.
        """
        last: str | Answer = ""
        async for piece in self.stream(question, scope):
            last = piece
        if not isinstance(last, Answer):
            raise ModelNonsense(f"model {self.model.name!r} ended without an answer")
        return last

    async def stream(
        self,
        question: str | Sequence[Message],
        scope: Scope = Scope(),  # noqa: B008 - frozen
    ) -> AsyncIterator[str | Answer]:
        """The answer's text piece by piece, and as the last item the whole `Answer`.

        Where a rule in force has a consequence and can be checked, `options.release` says when
        text leaves; text that waited for its checks leaves after the decision is recorded.
        `answer` releases nothing unrecorded.
        """
        watch = Stopwatch()
        conversation = as_conversation(question)
        with watch("search"):
            scope, found, ruling = await asyncio.to_thread(self.rule, conversation, scope)
        with watch("compose"):
            prompt = self.compose(ruling, found, conversation, scope)
        checked = [rule for rule in to_check(ruling.kept) if can_check(rule, self.judge)]
        gate = Gate(checked, self.options.release)
        with watch("model"):
            async with aclosing(self._write(prompt, gate)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Reply):
                        reply = piece
                    else:
                        yield piece
        with watch("checks"):
            enforced = await self._enforce(reply, gate, conversation, prompt, ruling)
        decision = self._record(conversation, scope, found, ruling, prompt, reply, enforced, watch)
        decision = decision.model_copy(update={"release": gate.release})
        decision = await asyncio.to_thread(decisions.append, self.memory, decision)
        if rest := enforced.text.removeprefix(gate.released):
            yield rest
        yield Answer(text=enforced.text, citations=decision.citations, decision=decision)

    async def _write(self, prompt: Prompt, gate: Gate) -> AsyncGenerator[str | Reply]:
        """What may leave of the model's answer as it comes, and last its reply.

        An answer that the gate stopped is not read further. Raises `ModelNonsense` for an empty
        one.
        """
        text, reply = "", None
        stream = cast(
            "AsyncGenerator[str | Reply]", self.model.stream(self._request(prompt.messages))
        )
        async with aclosing(stream):
            async for piece in stream:
                if isinstance(piece, Reply):
                    reply = piece
                    continue
                text += piece
                for part in gate.take(piece):
                    yield part
                if gate.stopped_by:
                    break
        for part in gate.finish():
            yield part
        if gate.stopped_by:
            reply = Reply(text=text, model=self.model.name, finish_reason="content_filter")
        if reply is None or not reply.text.strip():
            raise ModelNonsense(f"model {self.model.name!r} gave an empty answer: ask again")
        yield reply

    async def _enforce(
        self,
        reply: Reply,
        gate: Gate,
        conversation: Sequence[Message],
        prompt: Prompt,
        ruling: Ruling,
    ) -> Enforced:
        """Check the answer; have it rewritten, or withhold it, as far as it has not left."""
        asked = _asked(conversation)[-1]

        async def checked(text: str) -> tuple[Finding, ...]:
            return await check(asked, text, ruling.kept, prompt.rules, self.judge)

        async def ask(messages: tuple[Message, ...]) -> Reply:
            return await complete(self.model, self._request(messages))

        language = prompt_language(asked)
        if gate.stopped_by:
            return stopped(reply.text, gate.released, gate.stopped_by, ruling.kept, language)
        if gate.released:
            return disclosed(reply.text, await checked(reply.text))
        return await enforce(
            reply.text,
            prompt.messages,
            ruling.kept,
            check=checked,
            ask=ask,
            rounds=self.options.rounds,
            language=language,
        )

    def rule(self, question: str | Sequence[Message], given: Scope) -> tuple[Scope, Found, Ruling]:
        """Scope, search and ruling for a question or conversation: all before the prompt.

        The last three user turns are searched; the scope is read from the newest turn that
        names a place, and from the newest that names an audience.
        """
        conversation = as_conversation(question)
        turns = _asked(conversation)
        scope = locate(self.memory, turns, given, default_place=self.options.place)
        found = search(
            self.memory,
            _query(conversation),
            scope,
            k=self.options.hits,
            relevance=self.options.relevance,
            reranker=self.reranker,
        )
        return scope, found, rule_on(found.candidates, self.memory.authorities)

    def compose(
        self, ruling: Ruling, found: Found, conversation: Sequence[Message], scope: Scope
    ) -> Prompt:
        """The prompt for a ruling, in the language of the last question."""
        return compose(
            ruling,
            conversation,
            scope,
            hits=found.hits,
            budget=self.options.budget,
            count_tokens=self.model.count_tokens,
            name_place=self.memory.gazetteer(scope.tenant).name,
            may_be_incomplete=self.options.incomplete_note,
            language=prompt_language(_asked(conversation)[-1]),
        )

    def _request(self, messages: tuple[Message, ...]) -> Request:
        return Request(
            messages=messages,
            max_tokens=self.options.max_tokens,
            temperature=self.options.temperature,
            seed=self.options.seed,
        )

    def _record(
        self,
        conversation: Sequence[Message],
        scope: Scope,
        found: Found,
        ruling: Ruling,
        prompt: Prompt,
        reply: Reply,
        enforced: Enforced,
        watch: Stopwatch,
    ) -> Decision:
        cited = cite(enforced.text, prompt.rules)
        last = enforced.replies[-1] if enforced.replies else reply
        return Decision(
            id=decisions.new_id(),
            tenant=scope.tenant,
            made_at=self.memory.clock(),
            revision=found.revision,
            scope=scope,
            question=_query(conversation),
            hits=tuple(
                RuleRef(id=hit.rule.id, version=hit.rule.version, score=hit.score)
                for hit in found.hits
            ),
            kept=tuple(decisions.refs(ruling.kept)),
            overruled=tuple(decisions.overruled_refs(ruling)),
            left_out=tuple(decisions.refs(prompt.left_out)),
            prompt_sha256=decisions.prompt_hash(prompt.messages),
            model=reply.model or self.model.name,
            answer=enforced.text,
            finish_reason="content_filter" if enforced.withheld else last.finish_reason,
            citations=cited.citations,
            unknown_marks=cited.unknown,
            findings=enforced.findings,
            attempts=enforced.attempts,
            withheld=enforced.withheld,
            disclosed=enforced.disclosed,
            timings=watch.seconds,
            usage=_sum(reply.usage, *(each.usage for each in enforced.replies)),
        )


class Stopwatch:
    """Seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = round(time.perf_counter() - start, 4)


def as_conversation(question: str | Sequence[Message]) -> tuple[Message, ...]:
    """A question as a conversation of one turn; a conversation as it is.

    Raises `ValueError` for one that has no user turn.
    """
    if isinstance(question, str):
        return (Message(role="user", content=question),)
    if not any(turn.role == "user" for turn in question):
        raise ValueError("a conversation needs a user turn")
    return tuple(question)


def _query(conversation: Sequence[Message]) -> str:
    return "\n".join(_asked(conversation)[-_USER_TURNS_SEARCHED:])


def _asked(conversation: Sequence[Message]) -> list[str]:
    return [turn.content for turn in conversation if turn.role == "user"]


def _sum(*usages: Usage) -> Usage:
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
    )
