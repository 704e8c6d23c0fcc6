"""Search at full size, beside a small memory and beside OPO's way, on the same vectors."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from datetime import UTC, datetime
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.made_vectors import Vectors
from benchmarks.report import Measure
from benchmarks.scale.alternate import alternate
from benchmarks.scale.setup import (
    DEPTH,
    WARM_UP,
    Bench,
    K,
    exact,
    milliseconds,
    recall,
    short,
    vectors_of,
)
from comity.memory.memory import Memory
from comity.records import Scope
from comity.retrieval.search import search

_OPO_DEPTH = 384  # OPO asks for as many as a vector is long
_EARLY = datetime(1995, 7, 1, tzinfo=UTC)  # when few of the made rules were in force

Asked = Sequence[tuple[str, Scope]]


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    asked = bench.asked()
    with bench.memory(bench.rules) as memory, bench.memory(bench.few_rules) as few:
        for each in (memory, few):
            each.index.catch_up()
        opo = _OpoWay(vectors_of(bench, bench.rules, bench.made_embedder()))
        wide = _wide(bench, memory, few, asked, opo)
        return [*wide, *_narrow(bench, memory, asked, opo)]


class _Truth(NamedTuple):
    """What is exactly nearest in the scope of each question."""

    queries: NDArray[np.float32]
    admitted: list[NDArray[np.bool_]]
    """Flags by position; questions of one scope share them."""
    nearest: list[NDArray[np.int64]]


def _truth(bench: Bench, memory: Memory, asked: Asked) -> _Truth:
    vectors = vectors_of(bench, bench.rules, bench.made_embedder())
    queries = np.array([memory.query_vector(question) for question, _ in asked], np.float32)
    flags: dict[str, NDArray[np.bool_]] = {}
    for _, scope in asked:
        name = scope.model_dump_json()
        if name not in flags:
            flags[name] = admitted(memory, scope)
    of_each = [flags[scope.model_dump_json()] for _, scope in asked]
    return _Truth(queries, of_each, exact(vectors, queries, of_each, DEPTH))


def admitted(memory: Memory, scope: Scope) -> NDArray[np.bool_]:
    """Which rows a scope admits: row r at position r - 1."""
    rows: NDArray[np.bool_] = memory.index.admit(scope).rows
    return rows


def _wide(
    bench: Bench, memory: Memory, few: Memory, asked: Asked, opo_way: _OpoWay
) -> list[Measure]:
    """One province and the nation: some fifth of all rules."""
    truth = _truth(bench, memory, asked)
    theirs: dict[int, NDArray[np.int64]] = {}

    def flat(number: int) -> None:
        theirs[number] = opo_way.one(truth.queries[number], truth.admitted[number])

    taken = alternate(
        {
            "ours": lambda n: search(memory, *asked[n], k=K),
            "few": lambda n: search(few, *asked[n], k=K),
            "opo": flat,
        },
        len(asked),
        warm_up=WARM_UP,
    )
    ours = nearest_by_meaning(memory, asked, DEPTH)
    p50, p99 = (milliseconds(taken["ours"], percent) for percent in (50, 99))
    opo50, opo99 = (milliseconds(taken["opo"], percent) for percent in (50, 99))
    few50 = milliseconds(taken["few"], 50)
    sizes = [int(flags.sum()) for flags in truth.admitted]
    name, measured = f"search_{bench.size}", len(taken["ours"])
    note = (
        f"{bench.rules} rules, {min(sizes)} to {max(sizes)} in scope, {measured} questions, "
        f"seed {bench.seed}, k={K}; without the question's embedding"
    )
    opo = {"peer_name": "OPO's way: faiss flat fp32, filter afterwards"}
    exactly = [where[:K] for where in truth.nearest]
    found = [theirs[number] for number in range(len(asked))]
    return [
        Measure(measure=f"{name}.p50_ms", value=p50, unit="ms", goal="<= 6", peer=opo50, note=note,
                **opo),
        Measure(measure=f"{name}.p99_ms", value=p99, unit="ms", goal="<= 15", peer=opo99, **opo),
        Measure(measure=f"{name}.recall", value=recall([f[:K] for f in ours], exactly),
                unit="share", goal=">= 0.98",
                peer=recall(found, exactly),
                note="of the exact 20 nearest in the scope, those among the first 20 by meaning",
                **opo),
        Measure(measure=f"{name}.recall_at_{DEPTH}", value=recall(ours, truth.nearest),
                unit="share", note=f"of the exact {DEPTH}, as deep as a search ranks by meaning"),
        Measure(measure="opo_way.speedup", value=round(opo50 / p50, 2), unit="times",
                goal=">= 10", peer=opo50, peer_name="OPO's way (ms)",
                note="theirs by meaning alone, on all cores; ours by words too, with rules read"),
        Measure(measure="opo_way.starved", value=_starved(found, exactly),
                unit="share",
                goal="ours 0", peer=_starved(ours, exactly), peer_name="ours",
                note=f"questions with fewer than {K} of their scope among the {_OPO_DEPTH} "
                     "nearest of all"),
        Measure(measure=f"growth_{short(bench.few_rules)}_to_{bench.size}.factor",
                value=round(p50 / few50, 2), unit="times", goal="< 4", peer=few50,
                peer_name=f"search at {bench.few_rules} rules (ms)", note="medians, by turns"),
    ]  # fmt: skip


def _starved(found: Sequence[Sized], exactly: Sequence[Sized]) -> float:
    """Share of the questions that got fewer rules than their scope has for them."""
    few = [len(has) < len(wants) for has, wants in zip(found, exactly, strict=True)]
    return round(sum(few) / len(few), 4)


class _OpoWay:
    """Exact nearest over everything, the scope afterwards; gives the first 20 that pass."""

    def __init__(self, vectors: Vectors) -> None:
        import faiss

        self._index = faiss.IndexFlatL2(vectors.shape[1])
        for first in range(0, len(vectors), 50_000):
            self._index.add(np.ascontiguousarray(vectors[first : first + 50_000]))
        self._depth = min(_OPO_DEPTH, len(vectors))
        self._threads = faiss.omp_get_max_threads()

    def one(self, query: Vectors, admitted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Positions for one question, as they would be asked for."""
        return self.all(query[np.newaxis], [admitted])[0]

    def all(
        self, queries: Vectors, admitted: Sequence[NDArray[np.bool_]]
    ) -> list[NDArray[np.int64]]:
        """Positions for many questions at once, which takes less time for each."""
        import faiss

        faiss.omp_set_num_threads(self._threads)  # ours has set one
        _, found = self._index.search(queries, self._depth)
        return [row[flags[row]][:K] for row, flags in zip(found, admitted, strict=True)]


def nearest_by_meaning(memory: Memory, asked: Asked, depth: int) -> list[NDArray[np.int64]]:
    """Positions that the index finds nearest in the scope of each question."""
    found = []
    for question, scope in asked:
        mask = memory.index.admit(scope)
        rows = memory.index.nearest(memory.query_vector(question), mask, depth).positions
        found.append(rows - 1)
    return found


def _narrow(bench: Bench, memory: Memory, asked: Asked, opo_way: _OpoWay) -> list[Measure]:
    """Scopes that admit few rules: of small tenants, and of a time when few were in force."""
    early = [scope.model_copy(update={"at": _EARLY}) for _, scope in asked]
    tenants = bench.maker.narrow_scopes(bench.rules)
    mixed = [each for pair in zip(early, cycle(tenants)) for each in pair]
    known = [scope for scope in mixed if admitted(memory, scope).any()]
    if not known:
        return []
    narrow = [(question, scope) for (question, _), scope in zip(asked, cycle(known))]
    truth = _truth(bench, memory, narrow)
    taken = alternate(
        {"ours": lambda n: search(memory, *narrow[n], k=K)}, len(narrow), warm_up=WARM_UP
    )["ours"]
    ours = nearest_by_meaning(memory, narrow, DEPTH)
    exactly = [where[:K] for where in truth.nearest]
    theirs = opo_way.all(truth.queries, truth.admitted)
    sizes = [int(flags.sum()) for flags in truth.admitted]
    name = f"small_scope_{bench.size}"
    return [
        Measure(measure=f"{name}.recall", value=recall([f[:K] for f in ours], exactly),
                unit="share", goal=">= 0.98", peer=recall(theirs, exactly),
                peer_name="OPO's way: faiss flat fp32, filter afterwards",
                note=f"{min(sizes)} to {max(sizes)} rules in scope, median {np.median(sizes):.0f}: "
                     "towns of small tenants, and what was in force in 1995"),
        Measure(measure="opo_way.starved_in_small_scopes", value=_starved(theirs, exactly),
                unit="share", goal="ours 0", peer=_starved(ours, exactly), peer_name="ours",
                note=f"fewer than {K} of the scope, or than it has, among the {_OPO_DEPTH} "
                     "nearest of all"),
        Measure(measure=f"{name}.p50_ms", value=milliseconds(taken, 50), unit="ms"),
        Measure(measure=f"{name}.p99_ms", value=milliseconds(taken, 99), unit="ms"),
    ]  # fmt: skip
