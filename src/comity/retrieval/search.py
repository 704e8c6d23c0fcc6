"""Search: the rules that apply in a scope, ranked by meaning and words.

The scope decides first which rules can apply; ranking only chooses among them. What search
returns besides its hits does not depend on similarity at all: mandatory rules, and every rule
of the scope that has a declared conflict with one of those found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from pydantic import Field

from comity.memory.dense import Ranked
from comity.memory.index import Admitted
from comity.memory.memory import Memory
from comity.memory.store import StoredRule
from comity.records import WORLD, Hit, Record, Rule, Scope
from comity.retrieval.fuse import fuse
from comity.retrieval.turns import Asked, Before, Late

_Ranked = TypeVar("_Ranked")

_DEPTH = 100
_SURE = 4  # hits that no threshold drops: a short list costs little (docs/design/exams.md)
_DENSE_WEIGHT = 1.0
_WORDS_WEIGHT = 1.5  # measured together with RANK_CONSTANT


class Found(Record):
    """What a search found."""

    revision: int = Field(ge=0, description="Revision of the memory that was searched.")
    hits: tuple[Hit, ...] = Field((), description="Rules by similarity, best first.")
    candidates: tuple[Rule, ...] = Field(
        (), description="The hits, the mandatory rules, and what conflicts with either."
    )


class Reranker(Protocol):
    """Orders hits anew, with a model that reads the question and each rule together."""

    def rerank(self, question: str, hits: Sequence[Hit]) -> Sequence[Hit]:
        """The same hits, best first, with scores of the reranker's own."""


def search(
    memory: Memory,
    question: str | Asked,
    scope: Scope,
    *,
    k: int = 20,
    relevance: float = 0.0,
    reranker: Reranker | None = None,
) -> Found:
    """Find the rules that apply to a question, the k most similar ones as hits.

    Nothing is read from the question into the scope (see `locate`); its places may be names, and
    the memory's clock holds where it has no `at`. The search sees every change that was
    committed before it began, and nothing of a later one. Beyond the first four, hits whose
    score is below `relevance` (0 to 1) times the best one's are not given.

    Of a conversation (see `asked`) the last turns are the question; behind its hits come the
    first few of each of its rewritten forms, of each earlier question, and of what else was said.

    Raises `ValueError` for a k below 1, `UnknownPlace` for a place that nobody knows, and
    `NotFound` for a tenant or revision that is not there.
    """
    if k < 1:
        raise ValueError(f"k is {k}: ask for at least one rule")
    memory.check_scope(scope)
    scope = _canonical(memory, scope)
    index = memory.index
    index.catch_up()
    mask = index.admit(scope.model_copy(update={"at": scope.at or memory.clock()}))
    depth = max(_DEPTH, k)
    asked = question if isinstance(question, Asked) else Asked(question)
    ranked = rank(memory, asked.question, mask, depth)
    near = _relevant(ranked[:k], relevance) if reranker is None else ranked[:depth]
    hits = _hits(memory, near)
    if reranker is not None:
        reranked = reranker.rerank(asked.question, hits)[:k]
        kept = _relevant([(hit, hit.score) for hit in reranked], relevance)
        hits = [hit for hit, _ in kept]
    before = Before(memory, mask)
    before.keep(asked.question, ranked)
    if asked.also or asked.earlier or asked.heard:
        hits += _behind(memory, before, asked, hits, mask, relevance)
    candidates = applying(memory, [hit.rule for hit in hits], mask, scope.tenant)
    revision = mask.revision if scope.as_of is None else min(scope.as_of, mask.revision)
    return Found(revision=revision, hits=tuple(hits), candidates=candidates)


def _behind(
    memory: Memory,
    before: Before,
    asked: Asked,
    hits: Sequence[Hit],
    mask: Admitted,
    relevance: float,
) -> list[Hit]:
    """Hits of all that is searched besides the question, without those that it has itself."""
    known = {hit.rule.key for hit in hits}
    late: dict[int, Late] = {}
    for found in before.rows(asked, lambda text: rank(memory, text, mask), _SURE, relevance):
        late.setdefault(found.row, found)
    stored = memory.store.fetch(list(late))
    return [
        Hit(rule=each.rule, score=late[each.row].score, by=late[each.row].by)
        for each in stored
        if each.rule.key not in known
    ]


def _hits(memory: Memory, ranked: Sequence[tuple[int, float]]) -> list[Hit]:
    stored = memory.store.fetch([row for row, _ in ranked])
    return [
        Hit(rule=found.rule, score=score) for found, (_, score) in zip(stored, ranked, strict=True)
    ]


def _relevant(
    ranked: Sequence[tuple[_Ranked, float]], relevance: float
) -> list[tuple[_Ranked, float]]:
    """What has a share of the first one's score, and the first few in any case."""
    return [
        (each, score)
        for rank, (each, score) in enumerate(ranked)
        if rank < _SURE or score >= relevance * ranked[0][1]
    ]


def _canonical(memory: Memory, scope: Scope) -> Scope:
    """The scope with the codes of its places."""
    if set(scope.place) <= {WORLD}:
        return scope  # loads no place names
    gazetteer = memory.gazetteer(scope.tenant)
    return scope.model_copy(update={"place": tuple(map(gazetteer.canonical, scope.place))})


def rank(
    memory: Memory, question: str, mask: Admitted, depth: int = _DEPTH
) -> list[tuple[int, float]]:
    """Rows of the mask with their fused scores, best first, from the first `depth` of each kind."""
    index = memory.index

    def by_meaning() -> Ranked:
        return index.nearest(memory.query_vector(question), mask, depth)

    if not mask.side_by_side:
        nearest, matching = by_meaning(), index.matching(question, mask, depth)
    else:
        waiting = memory.searchers.submit(index.matching, question, mask, depth)
        nearest, matching = by_meaning(), waiting.result()
    return fuse(
        [
            (_DENSE_WEIGHT, nearest.positions.tolist()),
            (_WORDS_WEIGHT, matching.positions.tolist()),
        ]
    )


def applying(
    memory: Memory, rules: Iterable[Rule], mask: Admitted, tenant: str
) -> tuple[Rule, ...]:
    """The rules given, the mandatory ones, and all that is in declared conflict with any."""
    found = {rule.key: rule for rule in rules}
    new = list(found.values())
    mandatory = memory.store.fetch(memory.index.mandatory(mask))
    new += [stored.rule for stored in mandatory if stored.rule.key not in found]
    while new:
        found |= {rule.key: rule for rule in new}
        opposed = _opposed(memory, new, mask, tenant)
        new = [stored.rule for stored in opposed if stored.rule.key not in found]
    return tuple(found.values())


def _opposed(
    memory: Memory, rules: Sequence[Rule], mask: Admitted, tenant: str
) -> list[StoredRule]:
    index = memory.index
    rows = set(index.overriders(tenant, [rule.id for rule in rules], mask))
    declared = {target for rule in rules for target in rule.overrides}
    versions = [
        stored.row for target in declared for stored in memory.store.history(tenant, target)
    ]
    return memory.store.fetch(sorted(rows | set(index.versions_in(versions, mask))))
