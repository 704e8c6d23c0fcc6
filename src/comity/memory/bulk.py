"""Bulk import: a stream of rules of any length, in batches, with the vectors made side by side.

Memory does not grow with the stream (the index itself apart). Each batch is one revision of kind
`import`, so that whatever ends the import, all batches before are there, and whole; the note of
each says how far the stream had come, so that the next call goes on there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import groupby
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from comity.errors import EmbedderError, RuleError
from comity.memory.imports import Changed, RulePlan, imports_of, plan_rule, refuse_doubles
from comity.memory.index import Progress
from comity.memory.marks import Mark
from comity.memory.memory import Memory
from comity.memory.places import Canonical
from comity.memory.seen import SeenIds
from comity.memory.store import Change, StoredRule
from comity.memory.vectors import Wanted
from comity.records import DEFAULT_TENANT, Record, Rule
from comity.workers import Here, Workers

BATCH = 8_000
"""Rules of one revision."""

_TEXTS = 64  # of one worker's job
_KEEP_SECONDS = 1.0  # at most so much embedding is lost when the import is killed
_AHEAD = 3  # batches that are read while the vectors of the first are made
_SAVE_AFTER = 50_000  # rules that the index takes in before it is saved; ever more in a large one


class Embedded(NamedTuple):
    """What a worker gives for some texts."""

    embedder: str
    """Id of the embedder that made them."""
    vectors: NDArray[np.floating]
    """(n, dimension), unit length."""


EmbeddingWorkers = Workers[Sequence[str], Embedded]


@runtime_checkable
class RuleStream(Protocol):
    """Rules one by one, and how far they have come."""

    def __iter__(self) -> Generator[Rule, None, None]:
        """The rules; the versions of one stand one after another."""

    def where(self) -> str:
        """Where the last one stands, for messages."""

    def mark(self) -> Mark | None:
        """How far they have come, for a later call that goes on there; None where none can."""

    def share(self) -> float:
        """Share of the whole that has been read, 0 to 1; 0 where that is not known."""


class BulkReport(Record):
    """What a bulk import did."""

    added: int = Field(0, ge=0, description="Rules that were new, and later versions of these.")
    changed: int = Field(0, ge=0, description="New versions of rules that were there already.")
    unchanged: int = Field(0, ge=0, description="Versions that were there already.")
    left_out: int = Field(0, ge=0, description="Rules that could not be taken.")
    revisions: int = Field(0, ge=0, description="How many revisions were made: one a batch.")
    revision: int = Field(0, ge=0, description="The memory's revision afterwards.")


class _Part(NamedTuple):
    """So much of the stream as makes one revision."""

    rules: list[Rule]
    places: list[str]
    """Where each of them stands."""
    mark: Mark | None
    share: float


class _Batch(NamedTuple):
    """A part with its vectors."""

    rules: list[Rule]
    places: list[str]
    mark: Mark | None
    share: float
    wanted: Wanted


def bulk_import(
    memory: Memory,
    rules: RuleStream | Iterable[Rule],
    *,
    tenant: str = DEFAULT_TENANT,
    workers: EmbeddingWorkers | None = None,
    batch: int = BATCH,
    author: str = "",
    note: str = "",
    progress: Progress | None = None,
    committed: Callable[[int], object] | None = None,
    confirm: Callable[[Sequence[Changed]], object] | None = None,
    left_out: Callable[[RuleError], object] | None = None,
) -> BulkReport:
    """Add the rules of a stream, each batch as one revision, and let the index follow.

    A rule that is there and says the same is skipped, one that differs gets its next version, as
    in `plan_import`; nothing is repealed for not being in the stream. `workers` embed (by default
    this process does); `progress` is told of the rules that have their vectors and of how many
    there may be in all, `committed` of each revision as soon as it is durable. `confirm` is asked
    before rules that the memory held before are changed, and may raise. A rule that cannot be taken
    raises `RuleError`, saying where it stands, or is handed to `left_out`.

    Whatever is raised, the batches before are there; called with the same stream again, it goes on.
    """
    stream = _as_stream(rules)
    run = _Run(
        memory,
        tenant,
        author=author,
        note=note,
        committed=committed,
        confirm=confirm,
        left_out=left_out,
    )
    memory.vectors.expect_many()
    embedding = workers or Here(_in_this_process(memory))
    with closing(iter(stream)) as given, ThreadPoolExecutor(1, "index-keeper") as thread:
        follower = _Follower(memory, thread)
        batches = (_wanting(memory, part) for part in _parts(given, stream, batch))
        for one in _embedded(memory, batches, embedding, progress):
            follower.follow(*run.write(one))
        follower.finish()
    return run.report.model_copy(update={"revision": memory.revision})


def plan_bulk(
    memory: Memory,
    rules: RuleStream | Iterable[Rule],
    *,
    tenant: str = DEFAULT_TENANT,
    gazetteer: Canonical | None = None,
    batch: int = BATCH,
    confirm: Callable[[Sequence[Changed]], object] | None = None,
    left_out: Callable[[RuleError], object] | None = None,
) -> BulkReport:
    """What `bulk_import` would do: all is read and compared, and nothing embedded or changed.

    `gazetteer` knows the places of rules, by default those that the memory has. The rest is as in
    `bulk_import`; the report's `revisions` are those that it would make.
    """
    stream = _as_stream(rules)
    run = _Run(memory, tenant, confirm=confirm, left_out=left_out, gazetteer=gazetteer)
    with closing(iter(stream)) as given:
        for part in _parts(given, stream, batch):
            run.plan(part)
    return run.report.model_copy(update={"revision": memory.revision})


def _as_stream(rules: RuleStream | Iterable[Rule]) -> RuleStream:
    return rules if isinstance(rules, RuleStream) else _Numbered(rules)


class _Numbered:
    """Any rules as a stream: named by their number, and not to be gone on with."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._rules = rules
        self._number = 0

    def __iter__(self) -> Generator[Rule, None, None]:
        with closing(SeenIds()) as seen:
            for rule in self._rules:
                self._number += 1
                seen.note(rule.id, f"number {self._number}")
                yield rule

    def where(self) -> str:
        """As in `RuleStream`."""
        return f"number {self._number}"

    def mark(self) -> None:
        """As in `RuleStream`: there is none."""

    def share(self) -> float:
        """As in `RuleStream`."""
        return 0.0


def _in_this_process(memory: Memory) -> Callable[[Sequence[str]], Embedded]:
    def embed(texts: Sequence[str]) -> Embedded:
        return Embedded(memory.embedder.id, memory.embedder.embed_passages(texts))

    return embed


def _wanting(memory: Memory, part: _Part) -> _Batch:
    texts = [rule.indexed_text for rule in part.rules]
    return _Batch(*part, memory.vectors.want(memory.embedder, texts))


def _parts(stream: Iterable[Rule], told: RuleStream, size: int) -> Iterator[_Part]:
    """The stream in parts, in none of which the versions of a rule are cut apart."""
    rules: list[Rule] = []
    places: list[str] = []
    mark, share = None, 0.0
    for rule in stream:
        if len(rules) >= size and rule.id != rules[-1].id:
            yield _Part(rules, places, mark, share)
            rules, places = [], []
        rules.append(rule)
        places.append(told.where())
        if len(rules) >= size:
            mark, share = told.mark(), told.share()
    if rules:
        yield _Part(rules, places, told.mark(), told.share())


def _embedded(
    memory: Memory, batches: Iterator[_Batch], workers: EmbeddingWorkers, progress: Progress | None
) -> Iterator[_Batch]:
    """The batches in their order, each as soon as all its vectors are in the cache.

    What the stream raises is raised behind the batches before.
    """
    ahead: deque[_Batch] = deque()
    jobs: dict[int, tuple[_Batch, Sequence[str]]] = {}
    reading = _Reading(batches)
    told, kept = _Told(progress), time.monotonic()
    while True:
        while len(ahead) < _AHEAD and (read := reading.next()):
            ahead.append(read)
            for start in range(0, len(read.wanted.missing), _TEXTS):
                job = read.wanted.missing[start : start + _TEXTS]
                jobs[workers.submit(job)] = (read, job)
        if not ahead:
            reading.end()
            return
        head = ahead[0]
        while head.wanted.there < head.wanted.all:
            number, found = workers.done()
            if number not in jobs:
                continue  # of an import before, which ended with an error
            batch, texts = jobs.pop(number)
            _check(memory, found, len(texts))
            batch.wanted.put(texts, found.vectors)
            if time.monotonic() > kept + _KEEP_SECONDS:
                for each in ahead:
                    each.wanted.keep()
                kept = time.monotonic()
            told.of(head)
        head.wanted.keep()
        told.whole(head)
        yield ahead.popleft()


class _Reading:
    """Reads batches ahead of what is written."""

    def __init__(self, batches: Iterator[_Batch]) -> None:
        self._batches = batches
        self._error: Exception | None = None

    def next(self) -> _Batch | None:
        """The next batch; None behind the last, and where the stream has failed."""
        if self._error is not None:
            return None
        try:
            return next(self._batches, None)
        except Exception as error:  # raised by `end`, whatever it is
            self._error = error
            return None

    def end(self) -> None:
        """Raise what the stream raised."""
        if self._error is not None:
            raise self._error


def _check(memory: Memory, found: Embedded, texts: int) -> None:
    own = memory.embedder
    if found.embedder != own.id:
        raise EmbedderError(
            f"a worker has the embedder {found.embedder!r}, but the memory {own.id!r}: install the "
            "same version of Comity and its packages everywhere"
        )
    if found.vectors.shape != (texts, own.dimension):
        raise EmbedderError(
            f"a worker gave vectors of shape {found.vectors.shape} for {texts} texts"
        )


class _Told:
    """Progress: rules that have their vectors, and how many there may be."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._before = 0

    def of(self, batch: _Batch, *, whole: bool = False) -> None:
        if self._progress is None:
            return
        size = len(batch.rules)
        done = size if whole else size * batch.wanted.there // max(1, batch.wanted.all)
        behind = self._before + size  # rules that were read when the share was taken
        total = round(behind / batch.share) if batch.share else behind
        self._progress(self._before + done, max(total, behind))

    def whole(self, batch: _Batch) -> None:
        self.of(batch, whole=True)
        self._before += len(batch.rules)


class _Run:
    """Plans and writes one batch after another."""

    def __init__(
        self,
        memory: Memory,
        tenant: str,
        *,
        author: str = "",
        note: str = "",
        committed: Callable[[int], object] | None = None,
        confirm: Callable[[Sequence[Changed]], object] | None,
        left_out: Callable[[RuleError], object] | None,
        gazetteer: Canonical | None = None,
    ) -> None:
        self._memory = memory
        self._tenant = tenant
        self._author = author
        self._note = note
        self._committed = committed
        self._confirm = confirm
        self._left_out = left_out
        self._imports = imports_of(memory, tenant)
        self._gazetteer = _Remembered(gazetteer or memory.gazetteer(tenant))
        self.report = BulkReport()

    def write(self, batch: _Batch) -> tuple[list[StoredRule], NDArray[np.float32]]:
        """Write what is new of a batch, and give it with its vectors."""
        plan = self.plan(batch)
        new = [*plan.added, *(change.new for change in plan.changed)]
        if not new:
            return [], np.empty((0, self._memory.embedder.dimension), np.float32)
        vectors = self._vectors(batch, new)
        mark = None if self.report.left_out else batch.mark  # what was left out is tried again
        change = Change(
            tenant=self._tenant,
            kind="import",
            rules=tuple(new),
            author=self._author,
            note=f"{self._note} {mark or ''}".strip(),
            made_at=self._memory.clock(),
        )
        revision = self._memory.store.commit(change)
        self._imports.add(revision)
        if self._committed:
            self._committed(revision)
        rows = self._memory.store.rows_of(revision)
        stored = [
            StoredRule.model_construct(
                row=row, revision=revision, rule=rule, recorded_at=change.made_at
            )
            for row, rule in zip(rows, new, strict=True)
        ]
        return stored, vectors

    def _count(self, plan: RulePlan, rules: int) -> None:
        ids = {rule.id for rule in plan.added}
        later = sum(change.new.id in ids for change in plan.changed)
        new = len(plan.added) + len(plan.changed)
        more = {
            "added": len(plan.added) + later,
            "changed": len(plan.changed) - later,
            "unchanged": plan.unchanged,
            "left_out": rules - new - plan.unchanged,
            "revisions": int(new > 0),
        }
        now = {name: getattr(self.report, name) + value for name, value in more.items()}
        self.report = self.report.model_copy(update=now)

    def _vectors(self, batch: _Batch, new: Sequence[Rule]) -> NDArray[np.float32]:
        texts = [rule.indexed_text for rule in new]
        if all(text in batch.wanted for text in texts):
            return batch.wanted.rows(texts)
        # an amendment inherits words from the version before, and was embedded without them
        return self._memory.vectors.get(self._memory.embedder, texts)

    def plan(self, batch: _Part | _Batch) -> RulePlan:
        """What is new of a batch, which is counted."""
        ids = list({rule.id: None for rule in batch.rules})
        known = self._memory.store.known(self._tenant, ids)
        whole = RulePlan([], [], 0)
        alone = len(ids) == len(batch.rules)
        at = 0
        for rule_id, rows in _chains(batch.rules, alone=alone):
            try:
                plan = self._plan_one(rows, new=rule_id not in known)
            except RuleError as error:
                self._refuse(error, batch.places[at])
                continue
            finally:
                at += len(rows)
            whole.added.extend(plan.added)
            whole.changed.extend(plan.changed)
            whole = whole._replace(unchanged=whole.unchanged + plan.unchanged)
        fresh = {rule.id for rule in whole.added}
        held = [change for change in whole.changed if change.new.id not in fresh]
        if held and self._confirm:
            self._confirm(held)
        self._count(whole, len(batch.rules))
        return whole

    def _plan_one(self, chain: Sequence[Rule], *, new: bool) -> RulePlan:
        own = [rule if rule.tenant == self._tenant else self._ours(rule) for rule in chain]
        if new and len(own) == 1 and own[0].version == 1:
            return RulePlan([self._memory.checked(own[0], self._gazetteer)], [], 0)
        refuse_doubles(own)
        return plan_rule(self._memory, own, self._gazetteer, self._imports, draft=False)

    def _ours(self, rule: Rule) -> Rule:
        if "tenant" in rule.model_fields_set:
            raise RuleError(f"rule {rule.id!r} is of tenant {rule.tenant!r}, not {self._tenant!r}")
        return rule.model_copy(update={"tenant": self._tenant})

    def _refuse(self, error: RuleError, where: str) -> None:
        told = type(error)(f"{where}: {error}")
        if self._left_out is None:
            raise told from error
        self._left_out(told)


def _chains(rules: Sequence[Rule], *, alone: bool) -> Iterator[tuple[str, Sequence[Rule]]]:
    """The versions of each rule; `alone` where no rule has several."""
    if alone:
        return ((rule.id, (rule,)) for rule in rules)
    return ((name, tuple(rows)) for name, rows in groupby(rules, key=lambda rule: rule.id))


class _Remembered:
    """Codes of places for a run, which asks for the same few again and again."""

    def __init__(self, places: Canonical) -> None:
        self._places = places
        self._codes: dict[str, str] = {}

    def canonical(self, name_or_code: str) -> str:
        """As in `Canonical`."""
        code = self._codes.get(name_or_code)
        if code is None:
            code = self._codes[name_or_code] = self._places.canonical(name_or_code)
        return code


class _Follower:
    """Has the index follow each batch, and save itself now and then in a thread of its own."""

    def __init__(self, memory: Memory, thread: ThreadPoolExecutor) -> None:
        self._memory = memory
        self._thread = thread
        self._saving: Future[None] | None = None
        self._since = self._taken = 0

    def follow(self, batch: Sequence[StoredRule], vectors: NDArray[np.float32]) -> None:
        """Take in a batch; raises what an earlier save raised."""
        if not batch:
            return
        index = self._memory.index
        feed = getattr(index, "feed", None)
        if feed is None or not feed(batch, vectors):
            index.catch_up()
        self._since += len(batch)
        self._taken += len(batch)
        if self._since > max(_SAVE_AFTER, self._taken // 2):
            self._saved()
            self._saving = self._thread.submit(index.save)
            self._since = 0

    def _saved(self) -> None:
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def finish(self) -> None:
        """Let the index have everything, and save it."""
        self._saved()
        self._memory.index.catch_up()
        self._memory.index.save()
