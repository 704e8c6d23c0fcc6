"""Looking through a memory for conflicts that nobody declared, as far as it can be paid for.

All pairs of 10,000 rules are fifty million, so that a rule is compared only with those nearest to
it in meaning among the rules that can be in force where it is. What that leaves out is in
docs/conflicts.md.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.alignment.checks import Judge
from comity.alignment.conflicts import judge_pair, wording_version
from comity.memory.memory import Memory
from comity.memory.pairs import JudgedPair, Pair
from comity.memory.place_paths import ancestors, contains
from comity.memory.store import to_micros
from comity.memory.versions import live
from comity.records import Rule, Scope

NEIGHBOURS = 5
"""How many of the nearest rules each rule is compared with."""

Progress = Callable[[int, int], None]

_SIMILARITY_E5 = 0.85  # measured: docs/conflicts.md
_BLOCK = 4_000_000  # similarities that are looked at together
_OUT = -2.0  # below any cosine
_EVER = np.iinfo(np.int64)


class Plan(NamedTuple):
    """What a scan has to judge."""

    pairs: tuple[Pair, ...]
    """Closest in meaning first."""
    judged: int
    """Neighbouring pairs that have a finding already."""
    rules: int
    """Versions, in force or due, that were looked through."""


def default_similarity(memory: Memory) -> float:
    """The cosine from which two rules are compared; other embedders than E5 have other scales."""
    return _SIMILARITY_E5 if "e5" in memory.embedder.id else 0.0


def plan(
    memory: Memory,
    tenant: str,
    *,
    places: Sequence[str] = (),
    neighbours: int = NEIGHBOURS,
    similarity: float | None = None,
    again: Judge | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Which pairs of a tenant's rules to judge: near ones that can be in force together.

    `places` (codes or names) keeps to rules that apply in or inside one of them. What has a
    finding is left out, but for those that failed, and with `again` those that an owner has not
    decided on and another judge or wording found. Raises `NotFound` and `UnknownPlace`.
    """
    memory.check_scope(Scope(tenant=tenant))
    wanted = [memory.gazetteer(tenant).canonical(place) for place in places]
    rules = [rule for rule in _live_rules(memory, tenant) if _applies(rule, wanted)]
    texts = [rule.indexed_text for rule in rules]
    vectors = memory.vectors.get(memory.embedder, texts, progress=progress)
    least = default_similarity(memory) if similarity is None else similarity
    near = near_pairs(rules, vectors, neighbours, least)
    judged = memory.store.pairs.judged(tenant, [pair.id for pair in near])
    done = {found.id for found in judged if not _wants_another(found, again)}
    pairs = tuple(pair for pair in near if pair.id not in done)
    return Plan(pairs, len(near) - len(pairs), len(rules))


def _live_rules(memory: Memory, tenant: str) -> Iterator[Rule]:
    now = memory.clock()
    for stored in memory.rules(tenant=tenant):
        versions = [stored.rule]
        if stored.rule.version > 1:
            versions = [each.rule for each in memory.history(stored.rule.id, tenant=tenant)]
        yield from live(versions, now)


def _applies(rule: Rule, places: Sequence[str]) -> bool:
    return not places or any(
        contains(place, rule.place) or contains(rule.place, place) for place in places
    )


def _wants_another(found: JudgedPair, again: Judge | None) -> bool:
    if found.verdict == "failed":
        return True
    if again is None or found.decided:
        return False
    asked = (again.model.name, wording_version(found.wording.partition("-")[0]))
    return asked != (found.judge, found.wording)


def near_pairs(
    rules: Sequence[Rule], vectors: NDArray[np.float32], neighbours: int, similarity: float
) -> list[Pair]:
    """Pairs of rules that can be in force together and are near in meaning, nearest first.

    `vectors` are unit vectors of shape (rules, dimension). Each rule is compared with those of
    its own place and of the places around it, and the `neighbours` nearest are taken whose cosine
    is at least `similarity`; declared conflicts and versions of one rule take nobody's room.
    """
    found: dict[str, tuple[float, Pair]] = {}
    table = _Table(rules, vectors)
    for one, other, cosine in table.nearest(neighbours, similarity):
        pair = Pair.of(rules[one], rules[other])
        found.setdefault(pair.id, (cosine, pair))
    return [pair for _, pair in sorted(found.values(), key=lambda each: (-each[0], each[1].id))]


class _Table:
    """Rules as columns: `starts` and `ends` in microseconds, `names` equal for equal ids."""

    def __init__(self, rules: Sequence[Rule], vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors
        self._starts = _micros([rule.valid_from for rule in rules], _EVER.min)
        self._ends = _micros([rule.valid_to for rule in rules], _EVER.max)
        self._names = np.unique([rule.id for rule in rules], return_inverse=True)[1]
        self._at_place: dict[str, list[int]] = defaultdict(list)
        for position, rule in enumerate(rules):
            self._at_place[rule.place].append(position)
        self._declared = _declared_pairs(rules)

    def nearest(self, most: int, least: float) -> Iterator[tuple[int, int, float]]:
        """Positions of near rules, and their cosine; a pair may come from either side."""
        for place, own in self._at_place.items():
            around = [at for each in ancestors(place) for at in self._at_place.get(each, ())]
            others = np.array(around, np.int64)
            size = max(1, _BLOCK // len(others))
            for start in range(0, len(own), size):
                block = np.array(own[start : start + size], np.int64)
                yield from self._in_block(block, others, most, least)

    def _in_block(
        self, own: NDArray[np.int64], others: NDArray[np.int64], most: int, least: float
    ) -> Iterator[tuple[int, int, float]]:
        cosines = self._vectors[own] @ self._vectors[others].T
        meet = self._starts[own][:, None] < self._ends[others][None]
        meet &= self._starts[others][None] < self._ends[own][:, None]
        meet &= self._names[own][:, None] != self._names[others][None]
        cosines[~meet] = _OUT
        for row, position in enumerate(own):
            if settled := self._declared.get(int(position)):
                cosines[row, np.isin(others, settled)] = _OUT
        count = min(most, len(others))
        columns = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        for row, position in enumerate(own):
            for column in columns[row]:
                cosine = float(cosines[row, column])
                if cosine > _OUT and cosine >= least:
                    yield int(position), int(others[column]), cosine


def _micros(times: Sequence[datetime | None], without: int) -> NDArray[np.int64]:
    return np.array([without if time is None else to_micros(time) for time in times], np.int64)


def _declared_pairs(rules: Sequence[Rule]) -> dict[int, list[int]]:
    """Of each position, those whose rules it is in declared conflict with."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, rule in enumerate(rules):
        positions[rule.id].append(position)
    settled: dict[int, list[int]] = defaultdict(list)
    for position, rule in enumerate(rules):
        for other in (at for name in rule.overrides for at in positions.get(name, ())):
            settled[position].append(other)
            settled[other].append(position)
    return settled


async def scan(
    memory: Memory,
    tenant: str,
    judge: Judge,
    pairs: Sequence[Pair],
    *,
    at_once: int = 4,
    progress: Progress | None = None,
) -> Counter[str]:
    """Have pairs judged, `at_once` calls side by side, and count the verdicts.

    Each finding is kept as soon as it is there: a scan that is stopped goes on where it was.
    Raises `ModelMissing` if the model is not there, and `StoreError`.
    """
    verdicts: Counter[str] = Counter()
    left = iter(pairs)

    async def work() -> None:
        for pair in left:
            found = await judge_pair(judge, pair, memory.clock())
            memory.store.pairs.keep(tenant, found, again=found.verdict != "failed")
            verdicts[found.verdict] += 1
            if progress is not None:
                progress(verdicts.total(), len(pairs))

    workers = [asyncio.create_task(work()) for _ in range(max(1, at_once))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)
    return verdicts
