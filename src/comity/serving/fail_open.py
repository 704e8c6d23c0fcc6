"""Answers though a part has failed: denied by default, let go where the tenant's settings say so.

- `memory`: rules or search cannot be used. The request goes to the model without rules and stored
  wishes, those that it states go with it; a key is known if this process has seen it before.
- `checks`: the judge has failed under a `block` rule. The answer leaves unchecked.
- `record`: the decision cannot be recorded. It waits in a spool file until it can.

Every such answer says so, is counted and logged, and what had failed stands in its decision.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

from comity.alignment.aligner import Aligner, Case, Options, Stopwatch, as_conversation
from comity.alignment.compose import Prompt, with_aside
from comity.alignment.conflict_watch import ConflictWatch
from comity.alignment.decisions import append, recover
from comity.alignment.erasure import person_hash
from comity.alignment.spool import Spool, spool_beside
from comity.errors import ComityError, EmbedderError, StoreError
from comity.memory.memory import Memory
from comity.memory.recent import Lately
from comity.models.chat import ChatModel
from comity.preferences.infer import Inferred
from comity.preferences.kinds import Kinds
from comity.preferences.meta_prompt import Framed, aside, frame, head, paragraphs
from comity.records import Decision, Message, MetaPrompt, Part, Rewritten, Ruling, Scope
from comity.retrieval.search import Found
from comity.retrieval.turns import asked
from comity.serving.auth import Principal, hash_of, principal
from comity.serving.config import Gateway
from comity.serving.telemetry import Telemetry
from comity.serving.wire import Chat, Refused
from comity.wording import prompt_language

_LOG = logging.getLogger(__name__)
_KEYS = 10_000
_SURELY_OVER = timedelta(hours=1)  # of a stream: another worker may still be at it
_REST_SECONDS = 5.0  # before a record that failed is tried again for tenants that can do without


class FailOpen:
    """What goes on in this process when the memory or the record has failed."""

    def __init__(self, memory: Memory, config: Gateway, telemetry: Telemetry) -> None:
        """The spool is the file of `config`, or lies beside the memory's.

        A memory that has no file has no spool unless `config` names one: decisions that cannot be
        recorded are dropped then, and counted.
        """
        self._memory, self._config, self._telemetry = memory, config, telemetry
        self._spool = _spool(memory, config)
        self._known: Lately[str, Principal | None] = Lately(_KEYS)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._bringing = False
        self._rests_until = 0.0
        self._failed_last: StoreError | None = None
        self.dropped = 0
        memory.store.texts.person_key()  # is kept, for when the memory cannot be read

    @property
    def opens_memory(self) -> bool:
        """Whether any tenant's answers go without the memory when it has failed."""
        return any("memory" in tenant.opens for tenant in self._config.tenants.values())

    async def __aenter__(self) -> Self:
        self.bring_in()
        await asyncio.to_thread(self._recover)
        return self

    def _recover(self) -> None:
        """Record what began to leave in a process that was killed."""
        try:
            for decision in recover(self._memory, self._memory.clock() - _SURELY_OVER):
                _LOG.warning("decision %s: the answer was never ended", decision.id)
        except ComityError as error:
            _LOG.warning("answers that were never ended are not on record yet: %s", error)

    async def __aexit__(self, *_: object) -> None:
        self._thread.shutdown()

    def principal(self, authorization: str | None) -> Principal:
        """Who asks (see `auth.principal`), as known before where the memory has failed.

        Raises `StoreError` where it has failed and the tenant does not go on without.
        """
        name = hash_of(authorization or "")
        try:
            who = principal(self._memory, authorization)
        except Refused:
            self._known.put(name, None)
            raise
        except StoreError:
            known = self._known.get(name)
            if known is None or "memory" not in self._config.tenant(known.tenant).opens:
                raise
            return known
        self._known.put(name, who)
        return who

    def aligner(
        self,
        chat: Chat,
        model: ChatModel,
        options: Options,
        judge: ChatModel | None,
        conflicts: ConflictWatch | None,
    ) -> Aligner:
        """An aligner for one request, which goes on as the settings of its tenant say."""
        tenant = chat.given.tenant
        user = chat.body.get("safety_identifier") or chat.body.get("user")
        person = person_hash(self._memory, tenant, user) if isinstance(user, str) and user else ""
        opens = self._config.tenant(tenant).opens
        return _OpenAligner(
            self._memory, model, options, judge, conflicts, _Way(self, opens, person)
        )

    def record(self, decision: Decision, opens: frozenset[Part]) -> Decision:
        """Record a decision, or let it wait where the record fails and the tenant goes on.

        A decision that waits has no hash. Raises `StoreError` for other tenants.
        """
        if "record" in opens and self._failed_last and time.monotonic() < self._rests_until:
            return self.told(self._wait(decision, self._failed_last))
        try:
            recorded = append(self._memory, decision)
        except StoreError as error:
            if "record" not in opens:
                raise
            self._failed_last, self._rests_until = error, time.monotonic() + _REST_SECONDS
            return self.told(self._wait(decision, error))
        self.bring_in()
        return self.told(recorded)

    def told(self, recorded: Decision) -> Decision:
        """The decision; what it went without is counted and logged."""
        for part in recorded.opened:
            self._telemetry.failed_open(part)
            _LOG.warning("decision %s: answered without %s", recorded.id, part)
        return recorded

    def _wait(self, decision: Decision, error: StoreError) -> Decision:
        waiting = with_failure(decision, "record", str(error))
        try:
            if self._spool is None:
                raise StoreError("no spool file is set")
            self._spool.keep(waiting)
        except StoreError as full:
            self.dropped += 1
            self._telemetry.dropped()
            _LOG.error("decision %s is dropped: %s", decision.id, full)
        return waiting

    def bring_in(self) -> None:
        """Begin to record what waits in the spool, if anything does."""
        if self._spool is not None and self._spool.waits and not self._bringing:
            self._bringing = True
            self._thread.submit(self._bring_in)

    def _bring_in(self) -> None:
        try:
            self.bring_in_now()
            self._failed_last = None
        except ComityError as error:
            _LOG.warning("decisions still wait for the record: %s", error)
        finally:
            self._bringing = False

    def bring_in_now(self) -> None:
        """Record what waits in the spool. Raises `StoreError` where the record still fails."""
        if self._spool is not None:
            self._spool.bring_in(self._memory)

    def state(self) -> Mapping[str, Any]:
        """What `/readyz` tells: decisions that wait for the record, and those that were dropped."""
        waiting = self._spool.count() if self._spool else 0
        told = {"waiting": waiting, "dropped": self.dropped}
        return {name: number for name, number in told.items() if number}


def _spool(memory: Memory, config: Gateway) -> Spool | None:
    beside = getattr(memory.store, "path", None)
    path = Path(config.spool) if config.spool else beside and spool_beside(beside)
    return Spool(path, int(config.spool_mb * 1_000_000)) if path else None


class _Way(NamedTuple):
    """How one request goes on when a part fails."""

    failing: FailOpen
    opens: frozenset[Part]
    person: str
    """Keyed hash of the user that the client named; empty for none."""


def _framed(conversation: Sequence[Message], meta: MetaPrompt, inferred: Inferred) -> Framed | None:
    """What provider and user want, weighed without the memory; None where the user says nothing."""
    if not (meta.user_info or meta.preferences):
        return None
    said = (turn.content for turn in conversation if turn.role == "system")
    system = "\n\n".join(filter(None, (meta.system_info, *said)))
    meta = meta.model_copy(update={"system_info": system})
    return frame(meta, inferred.preferences, understands=Kinds(None))


def _prompt(conversation: Sequence[Message], framed: Framed | None) -> Prompt:
    """The prompt without rules; no messages where the request goes as it came."""
    if framed is None:
        return Prompt(messages=())
    turns = [turn for turn in conversation if turn.role != "system"]
    language = prompt_language(turns[-1].content)
    system = "\n\n".join((*head(framed, language), *paragraphs(framed, language)))
    if not system:
        return Prompt(messages=())
    added = aside(framed, language)
    first = Message(role="system", content=system)
    return Prompt(messages=(first, *with_aside(turns, added)), aside=added)


class _OpenAligner(Aligner):
    """An aligner that goes on as one tenant's settings say when a part fails."""

    def __init__(
        self,
        memory: Memory,
        model: ChatModel,
        options: Options,
        judge: ChatModel | None,
        conflicts: ConflictWatch | None,
        way: _Way,
    ) -> None:
        super().__init__(memory, model, options, judge=judge, conflicts=conflicts)
        self._way = way
        self._memory_failed = ""

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
        """As in `Aligner`; without rules where the memory has failed and the tenant goes on."""
        meta = meta.model_copy(update={"person": self._way.person})
        try:
            return super().prepare(question, given, watch, results, meta, inferred, rewritten)
        except (StoreError, EmbedderError) as error:
            if "memory" not in self._way.opens:
                raise
            self._memory_failed = str(error)
            return self._without_rules(question, given, meta, inferred)

    def _without_rules(
        self,
        question: str | Sequence[Message],
        given: Scope,
        meta: MetaPrompt,
        inferred: Inferred,
    ) -> Case:
        conversation = as_conversation(question)
        framed = _framed(conversation, meta, inferred)
        turns = [turn.content for turn in conversation if turn.role == "user"]
        return Case(
            conversation=conversation,
            searched=asked(turns, ()),
            scope=given.model_copy(update={"at": given.at or self.memory.clock()}),
            at_given=given.at is not None,
            found=Found(revision=self._revision()),
            ruling=Ruling(),
            prompt=_prompt(conversation, framed),
            meta=meta,
            weighed=framed.weighed if framed else (),
            inference_failed=inferred.failed,
        )

    def _revision(self) -> int:
        try:
            return self.memory.revision
        except StoreError:
            return 0

    def note(self, decision: Decision) -> None:
        """As in `Aligner`; a tenant that goes on without the record goes on without the note."""
        try:
            super().note(decision)
        except StoreError:
            if not {"record", "memory"} & self._way.opens:
                raise

    def record(self, decision: Decision) -> Decision:
        """As in `Aligner`; where the record has failed and the tenant goes on, it waits."""
        if self._memory_failed:
            decision = with_failure(decision, "memory", self._memory_failed)
        return self._way.failing.record(decision, self._way.opens)


def with_failure(decision: Decision, part: Part, why: str) -> Decision:
    """The decision, saying that one more part has failed."""
    told = [decision.opened_why] if decision.opened_why else []
    update = {
        "opened": (*decision.opened, part),
        "opened_why": "; ".join((*told, f"{part}: {why}")),
    }
    return decision.model_copy(update=update)
