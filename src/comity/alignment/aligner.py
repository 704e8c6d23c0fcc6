"""The aligner: from a question to an answer that follows the rules in force, and its record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import cast

from pydantic import Field

from comity.alignment import decisions
from comity.alignment.checks import Judge, beside, can_check, check, to_check
from comity.alignment.cite import cite
from comity.alignment.compose import Prompt, compose
from comity.alignment.conflict_watch import ConflictWatch
from comity.alignment.conflicts import suspected
from comity.alignment.enforce import (
    Ask,
    CheckText,
    Enforced,
    broken_off,
    denies,
    disclosed,
    enforce,
    stopped,
)
from comity.alignment.miscited import MemoryBook
from comity.alignment.options import Infer, Options
from comity.alignment.precedence import rule_on
from comity.alignment.refine import Refined, best_of, wish_of, with_versions
from comity.alignment.release import Gate, Release
from comity.errors import ModelNonsense
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.models.chat import ChatModel, complete
from comity.preferences.infer import Inferred, infer_once
from comity.preferences.kinds import Kinds
from comity.preferences.meta_prompt import Framed, frame, preference_of, without_orders
from comity.records import (
    VERBATIM,
    Answer,
    Decision,
    Finding,
    Message,
    MetaPrompt,
    Preference,
    Record,
    Reply,
    Request,
    Rewritten,
    Ruling,
    Scope,
    SuspectedPair,
    Usage,
    Weighed,
)
from comity.retrieval.rewrite import rewrite
from comity.retrieval.search import Found, Reranker, search
from comity.retrieval.turns import Asked, asked, overheard
from comity.wording import prompt_language

__all__ = ["Aligner", "Case", "Infer", "Options", "Stopwatch", "as_conversation"]


class Case(Record):
    """One question or conversation, with the rules that are in force for it."""

    model_config = VERBATIM

    conversation: tuple[Message, ...] = Field(description="All turns, as they were given.")
    scope: Scope = Field(description="For whom, where and when.")
    at_given: bool = Field(False, description="Whether the caller stated the time of the facts.")
    searched: Asked = Field(description="What was searched: the turns of the conversation.")
    found: Found = Field(description="What search found.")
    ruling: Ruling = Field(description="The rules in force, and what gave way.")
    prompt: Prompt = Field(description="What the model is sent.")
    suspected: tuple[SuspectedPair, ...] = Field(
        (), description="Kept rules that may contradict one another."
    )
    meta: MetaPrompt = Field(MetaPrompt(), description="What provider and user want.")
    weighed: tuple[Weighed, ...] = Field((), description="Each wish, and what became of it.")
    inference_failed: str = Field("", description="Why no wish could be inferred.")
    inference_usage: Usage = Field(Usage(), description="Tokens of the inference.")
    rewritten: Rewritten | None = Field(None, description="What was searched besides.")

    @property
    def asked(self) -> str:
        """The last question."""
        return _said_by(self.conversation, "user")[-1]


class Aligner:
    """Answers with any chat model, under the rules of a memory.

    The method is OPO's (Align on the Fly, arXiv 2312.15907): the rules that apply are found and
    put before the question at inference time. Beyond it, the scope decides which rules can apply
    before anything is ranked, conflicts are decided by precedence, the answer is checked, and
    each one leaves a decision record.
    """

    def __init__(
        self,
        memory: Memory,
        model: ChatModel,
        options: Options = Options(),  # noqa: B008 - frozen
        *,
        judge: ChatModel | None = None,
        reranker: Reranker | None = None,
        conflicts: ConflictWatch | None = None,
    ) -> None:
        """`judge` checks what code cannot; without one that is recorded as not checked.

        `conflicts` is told which rules were kept together, and has them compared.
        """
        self.memory = memory
        self.model = model
        self.options = options
        self.judge = Judge(judge, options.judge_timeout) if judge else None
        self.reranker = reranker
        self.conflicts = conflicts

    async def answer(
        self,
        question: str | Sequence[Message],
        scope: Scope = Scope(),  # noqa: B008 - frozen
        meta: MetaPrompt = MetaPrompt(),  # noqa: B008 - frozen
    ) -> Answer:
        """The answer to a question or conversation, with its citations and decision record.

        `meta` says what provider and user want, and is followed as far as rules leave room.
        Raises `ModelError` when the model fails and `StoreError` when the memory or the record
        does: an answer without a record is never returned.
        """
        last: str | Answer = ""
        async for piece in self._stream(question, scope, meta, leaves=False):
            last = piece
        if not isinstance(last, Answer):
            raise ModelNonsense(f"model {self.model.name!r} ended without an answer")
        return last

    async def stream(
        self,
        question: str | Sequence[Message],
        scope: Scope = Scope(),  # noqa: B008 - frozen
        meta: MetaPrompt = MetaPrompt(),  # noqa: B008 - frozen
    ) -> AsyncIterator[str | Answer]:
        """The answer's text piece by piece, and as the last item the whole `Answer`.

        Where a rule in force has a consequence and can be checked, `options.release` says when
        text leaves; text that waited for its checks leaves after the decision is recorded.
        `answer` releases nothing unrecorded. Of a stream that fails or is closed, what had left
        is recorded.
        """
        async with aclosing(self._stream(question, scope, meta, leaves=True)) as pieces:
            async for piece in pieces:
                yield piece

    async def _stream(
        self, question: str | Sequence[Message], scope: Scope, meta: MetaPrompt, *, leaves: bool
    ) -> AsyncGenerator[str | Answer]:
        watch = Stopwatch()
        inferred = await self.inferred(question, meta, watch, scope.tenant)
        rewritten = await self._rewritten(question, watch)
        case = await asyncio.to_thread(
            self.prepare,
            question,
            scope,
            watch,
            meta=meta,
            inferred=inferred,
            rewritten=rewritten,
        )
        if self.options.samples > 1:
            answer = await self._best_of(case, watch)
            yield answer.text
            yield answer
            return
        gate = self.gate(case)
        if leaves:
            await self.begin(case, gate)
        try:
            with watch("model"):
                async with aclosing(self._write(case, gate)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Reply):
                            reply = piece
                        else:
                            yield piece
            answer = await self.settle(case, reply, gate, self._ask, watch)
        except BaseException:
            if leaves:
                self.abandon(case, gate, watch)
            raise
        if rest := answer.text.removeprefix(gate.released):
            yield rest
        yield answer

    def prepare(
        self,
        question: str | Sequence[Message],
        given: Scope,
        watch: Stopwatch,
        results: Sequence[str] = (),
        meta: MetaPrompt = MetaPrompt(),  # noqa: B008 - frozen
        inferred: Inferred = Inferred(),  # noqa: B008 - frozen
        rewritten: Rewritten | None = None,
    ) -> Case:
        """All before the model: the scope, the search, the ruling, the wishes and the prompt.

        The last three user turns are searched as the question, and all turns before them, so
        that the rules of earlier turns stay in force (see `retrieval.turns`). The scope is read
        from the newest user turn that names a place, and from the newest that names an
        audience. `results` are what tools gave: searched, and never read for the scope. Nor is
        what is said of the user in `meta`, or what a model has `rewritten`.
        """
        conversation = as_conversation(question)
        turns = _said_by(conversation, "user")
        searched = asked(turns, overheard(_said_by(conversation, "assistant"), results))
        if rewritten:
            searched = searched._replace(also=rewritten.queries)
        with watch("search"):
            scope = locate(self.memory, turns, given, default_place=self.options.place)
            found = search(
                self.memory,
                searched,
                scope,
                k=self.options.hits,
                relevance=self.options.relevance,
                reranker=self.reranker,
            )
            ruling = rule_on(found.candidates, self.memory.authorities)
            suspicions = suspected(self.memory, ruling.kept, scope.tenant)
        with watch("compose"):
            framed = self._framed(conversation, scope, meta, inferred, ruled=bool(ruling.kept))
            prompt = compose(
                ruling,
                conversation,
                scope,
                hits=found.hits,
                budget=self.options.budget,
                count_tokens=self.model.count_tokens,
                name_place=self.memory.gazetteer(scope.tenant).name,
                may_be_incomplete=self.options.incomplete_note,
                language=prompt_language(turns[-1]),
                framed=framed,
            )
        return Case(
            conversation=conversation,
            searched=searched,
            scope=scope,
            at_given=given.at is not None,
            found=found,
            ruling=ruling,
            prompt=prompt,
            suspected=suspicions,
            meta=meta,
            weighed=framed.weighed if framed else (),
            inference_failed=inferred.failed,
            rewritten=rewritten,
        )

    async def _rewritten(
        self, question: str | Sequence[Message], watch: Stopwatch
    ) -> Rewritten | None:
        """What the model would search for besides; None where that is off.

        Raises `ModelMissing`; other failures stand in what is returned.
        """
        if self.options.rewrite == "off":
            return None
        turns = _said_by(as_conversation(question), "user")
        with watch("rewrite"):
            return await rewrite(self.model, asked(turns).question)

    async def inferred(
        self,
        question: str | Sequence[Message],
        meta: MetaPrompt,
        watch: Stopwatch,
        tenant: str,
    ) -> Inferred:
        """The wishes that follow from what is said of the user, or from their turns as well.

        Asked of the model once for each new text. Raises `ModelMissing`.
        """
        told = [meta.user_info]
        if self.options.infer == "conversation":
            told += _said_by(as_conversation(question), "user")
        said = "\n".join(filter(None, told))
        if self.options.infer == "never" or not said:
            return Inferred()
        text, _ = without_orders(said)
        with watch("infer"):
            return await infer_once(self.model, text, self.memory.recent, tenant)

    def _framed(
        self,
        conversation: Sequence[Message],
        scope: Scope,
        meta: MetaPrompt,
        inferred: Inferred,
        *,
        ruled: bool,
    ) -> Framed | None:
        """What provider and user want, weighed; None where only system turns say anything."""
        stored = self._stored(scope, meta)
        wanted = (meta.system_info, meta.user_info, meta.preferences, stored, inferred.preferences)
        if not any(wanted):
            return None
        system = "\n\n".join(filter(None, (meta.system_info, *_said_by(conversation, "system"))))
        return frame(
            meta.model_copy(update={"system_info": system}),
            (*stored, *inferred.preferences),
            understands=Kinds(self.memory.embedder),
            ruled=ruled,
        )

    def _stored(self, scope: Scope, meta: MetaPrompt) -> tuple[Preference, ...]:
        """What the memory holds of the user's wishes now, whenever the facts were."""
        if not meta.person:
            return ()
        now = self.memory.clock()
        rules = self.memory.store.preferences.in_force(scope.tenant, meta.person, now)
        return tuple(map(preference_of, rules))

    async def _best_of(self, case: Case, watch: Stopwatch) -> Answer:
        """The best of several versions; nothing leaves before it is chosen, checked and recorded.

        Wishes are judged by the judge, without one by the model itself; rules by the judge alone.
        """
        judge = self.judge or Judge(self.model, self.options.judge_timeout)
        with watch("model"):
            refined = await best_of(
                self.model,
                self._request(case.prompt.messages),
                case.asked,
                check=self._check(case),
                wish=wish_of(case.weighed, case.meta),
                judge=judge,
                samples=self.options.samples,
                rounds=self.options.refine_rounds,
                deny=self.options.deny_unchecked,
            )
        gate = self.gate(case, "strict")
        return await self.settle(case, refined.reply, gate, self._ask, watch, refined)

    def gate(self, case: Case, release: Release | None = None) -> Gate:
        """What lets the answer's text go, as the options and the rules in force say."""
        checked = [
            rule
            for rule in to_check(case.ruling.kept)
            if can_check(rule, self.judge) or denies(rule, self.options.deny_unchecked)
        ]
        return Gate(checked, release or self.options.release)

    async def begin(self, case: Case, gate: Gate) -> None:
        """Note durably that text is about to leave before its record can be made.

        Raises `StoreError`, and then nothing may leave.
        """
        if gate.release == "strict":
            return
        gate.decision_id = decisions.new_id()
        begun = Reply(text="", model=self.model.name, finish_reason="broken_off")
        decision = self._record(case, begun, Enforced("", ()), gate, Stopwatch())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.memory.recorders, self.note, decision)

    async def settle(
        self,
        case: Case,
        reply: Reply,
        gate: Gate,
        ask: Ask,
        watch: Stopwatch,
        refined: Refined | None = None,
    ) -> Answer:
        """Check an answer, have it rewritten or withhold it, and record what was decided.

        `ask` asks the model again; `refined` is what the answer was chosen from. What has left
        through the gate stays as it is. Raises `ModelError` where the model fails to rewrite,
        `StoreError` where the record fails.
        """
        with watch("checks"):
            enforced = await self._enforce(case, reply, gate, ask, refined)
        decision = await beside(
            enforced.text, lambda: self._record(case, reply, enforced, gate, watch)
        )
        decision = await self._recorded(decision, gate)
        if self.conflicts and case.scope.as_of is None:
            self.conflicts.offer(case.scope.tenant, case.ruling.kept)
        return Answer(text=enforced.text, citations=decision.citations, decision=decision)

    async def _recorded(self, decision: Decision, gate: Gate) -> Decision:
        """The decision on record, also where whoever waits for it is cancelled meanwhile."""
        gate.settled = True
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.shield(
                loop.run_in_executor(self.memory.recorders, self.record, decision)
            )
        except Exception:
            gate.settled = False
            raise

    def abandon(self, case: Case, gate: Gate, watch: Stopwatch) -> Decision | None:
        """Record what has left of an answer that failed or was cancelled.

        None if nothing has, or if the answer is on record.
        """
        if gate.settled:
            return None
        if not (gate.released.strip() or gate.passed):
            if gate.decision_id:
                self.memory.store.begun.drop(case.scope.tenant, gate.decision_id)
            return None
        reply = Reply(text=gate.released, model=self.model.name, finish_reason="broken_off")
        enforced = broken_off(gate.released, case.ruling.kept)
        return self.record(self._record(case, reply, enforced, gate, watch))

    def note(self, decision: Decision) -> None:
        """Note that an answer begins to leave, durable when it returns. Raises `StoreError`."""
        self.memory.store.begun.note(decision)

    def record(self, decision: Decision) -> Decision:
        """Put a decision on record, durable when it returns. Raises `StoreError`."""
        return decisions.append(self.memory, decision)

    async def _write(self, case: Case, gate: Gate) -> AsyncGenerator[str | Reply]:
        """What may leave of the model's answer as it comes, and last its reply.

        An answer that the gate stopped is not read further. Raises `ModelNonsense` for an empty
        one.
        """
        text, reply = "", None
        stream = self.model.stream(self._request(case.prompt.messages))
        async with aclosing(cast("AsyncGenerator[str | Reply]", stream)) as pieces:
            async for piece in pieces:
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

    async def _ask(self, messages: tuple[Message, ...]) -> Reply:
        return await complete(self.model, self._request(messages))

    def _request(self, messages: tuple[Message, ...]) -> Request:
        return Request(
            messages=messages,
            max_tokens=self.options.max_tokens,
            temperature=self.options.temperature,
            seed=self.options.seed,
        )

    def _check(self, case: Case, refined: Refined | None = None) -> CheckText:
        """Checks a version of the answer; what was checked while refining is not checked again."""
        known = {one.text: one.findings for one in refined.attempts} if refined else {}
        book = MemoryBook(self.memory, case.scope.tenant)

        async def checked(text: str) -> tuple[Finding, ...]:
            if text in known:
                return known[text]
            kept = case.ruling.kept
            return await check(case.asked, text, kept, case.prompt.rules, self.judge, book)

        return checked

    async def _enforce(
        self, case: Case, reply: Reply, gate: Gate, ask: Ask, refined: Refined | None
    ) -> Enforced:
        kept, language = case.ruling.kept, prompt_language(case.asked)
        checked = self._check(case, refined)
        if gate.stopped_by:
            return stopped(reply.text, gate.released, gate.stopped_by, kept, language)
        if gate.released:
            return disclosed(reply.text, await checked(reply.text))
        enforced = await enforce(
            reply.text,
            case.prompt.messages,
            kept,
            check=checked,
            ask=ask,
            rounds=self.options.rounds,
            language=language,
            deny=self.options.deny_unchecked,
        )
        return with_versions(enforced, refined) if refined else enforced

    def _record(
        self, case: Case, reply: Reply, enforced: Enforced, gate: Gate, watch: Stopwatch
    ) -> Decision:
        cited = cite(enforced.text, case.prompt.rules)
        last = enforced.replies[-1] if enforced.replies else reply
        return Decision(
            id=gate.decision_id or decisions.new_id(),
            tenant=case.scope.tenant,
            made_at=self.memory.clock(),
            revision=case.found.revision,
            scope=case.scope,
            at_given=case.at_given,
            question=case.searched.question,
            turns=tuple(said) if len(said := _said_by(case.conversation, "user")) > 1 else (),
            heard=case.searched.heard,
            rewritten=case.rewritten,
            hits=tuple(decisions.hit_refs(case.found.hits)),
            kept=tuple(decisions.refs(case.ruling.kept)),
            overruled=tuple(decisions.overruled_refs(case.ruling)),
            suspected=case.suspected,
            left_out=tuple(decisions.refs(case.prompt.left_out)),
            prompt_sha256=decisions.prompt_hash(case.prompt.messages),
            model=reply.model or self.model.name,
            answer=enforced.text,
            finish_reason="content_filter" if enforced.withheld else last.finish_reason,
            citations=cited.citations,
            unknown_marks=cited.unknown,
            findings=enforced.findings,
            attempts=enforced.attempts,
            refining_failed=enforced.refining_failed,
            withheld=enforced.withheld,
            disclosed=enforced.disclosed,
            release=gate.release,
            opened=("checks",) if enforced.unchecked else (),
            opened_why=f"checks: {enforced.unchecked}" if enforced.unchecked else "",
            timings=watch.seconds,
            usage=_sum(
                case.inference_usage,
                *([case.rewritten.usage] if case.rewritten else []),
                reply.usage,
                *(each.usage for each in enforced.replies),
            ),
            person=case.meta.person,
            user_info=case.meta.user_info,
            preferences=case.weighed,
            inference_failed=case.inference_failed,
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


def _said_by(conversation: Sequence[Message], role: str) -> list[str]:
    return [turn.content for turn in conversation if turn.role == role]


def _sum(*usages: Usage) -> Usage:
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
    )
