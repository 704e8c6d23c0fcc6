"""LanceDB and milvus-lite beside Comity: the same rules, vectors, scopes and questions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Measure
from benchmarks.scale.alternate import alternate
from benchmarks.scale.peer_stores import Asked, Peer, lancedb, milvus_lite, read_rows
from benchmarks.scale.searching import admitted
from benchmarks.scale.setup import (
    WARM_UP,
    Bench,
    K,
    Skipped,
    exact,
    milliseconds,
    recall,
    vectors_of,
)
from comity.memory.memory import Memory
from comity.records import Scope
from comity.retrieval.search import search

_GOOD = 0.95  # recall from which the fastest of a peer's index types is taken

Open = Callable[[Path, Asked], Iterator[Peer]]
_PEERS: dict[str, tuple[Open, Sequence[str]]] = {
    "lancedb": (lancedb, ("lancedb",)),
    "milvus_lite": (milvus_lite, ("pymilvus", "milvus-lite")),
}


class Compared(NamedTuple):
    """A peer's way beside ours, measured by turns; medians in milliseconds."""

    peer: Peer
    theirs: float
    theirs_p99: float
    ours: float
    whole: float
    """Our whole search, by words too, with rules read."""
    recall: float
    ours_recall: float


def run_lancedb(bench: Bench) -> list[Measure]:
    """All measures beside LanceDB."""
    return _run(bench, "lancedb")


def run_milvus_lite(bench: Bench) -> list[Measure]:
    """All measures beside milvus-lite."""
    return _run(bench, "milvus_lite")


def _run(bench: Bench, name: str) -> list[Measure]:
    opened, packages = _PEERS[name]
    missing = [package for package in packages if not find_spec(package.replace("-", "_"))]
    if missing:
        raise Skipped(f"{name} is not measured: pip install {' '.join(missing)}")
    scratch = bench.folder / f"peer-{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    asked = bench.asked()
    with bench.memory(bench.peer_rules) as memory:
        memory.index.catch_up()
        given = _given(bench, memory, asked)
        nearest = exact(given.vectors, given.queries, _flags(memory, asked), K)
        compared = [_compare(memory, asked, peer, nearest) for peer in opened(scratch, given)]
    shutil.rmtree(scratch)
    return list(_measures(bench, name, compared))


def _given(bench: Bench, memory: Memory, asked: Sequence[tuple[str, Scope]]) -> Asked:
    """What the peer gets; raises `SystemExit` where its filter is not the scope of a search."""
    vectors = vectors_of(bench, bench.peer_rules, bench.made_embedder())
    queries = np.array([memory.query_vector(question) for question, _ in asked], np.float32)
    rows = read_rows(bench.book(bench.peer_rules), bench.peer_rules)
    for _, scope in asked[:20]:
        if (rows.admitted(scope) != admitted(memory, scope)[: bench.peer_rules]).any():
            raise SystemExit(f"the peer's filter is another scope than ours: {scope}")
    return Asked(rows, vectors, queries, [scope for _, scope in asked])


def _flags(memory: Memory, asked: Sequence[tuple[str, Scope]]) -> list[NDArray[np.bool_]]:
    return [admitted(memory, scope) for _, scope in asked]


def _compare(
    memory: Memory,
    asked: Sequence[tuple[str, Scope]],
    peer: Peer,
    nearest: Sequence[NDArray[np.int64]],
) -> Compared:
    index = memory.index
    found: dict[str, list[list[int]]] = {"theirs": [], "ours": []}

    def theirs(number: int) -> None:
        found["theirs"].append(peer.search(number))

    def ours(number: int) -> None:
        question, scope = asked[number]
        rows = index.nearest(memory.query_vector(question), index.admit(scope), K).positions
        found["ours"].append(rows.tolist())

    def whole(number: int) -> None:
        search(memory, *asked[number], k=K)

    taken = alternate({"theirs": theirs, "ours": ours, "whole": whole}, len(asked), warm_up=WARM_UP)
    rows = [(positions + 1).tolist() for positions in nearest]
    return Compared(
        peer,
        milliseconds(taken["theirs"], 50),
        milliseconds(taken["theirs"], 99),
        milliseconds(taken["ours"], 50),
        milliseconds(taken["whole"], 50),
        recall(found["theirs"], rows),
        recall(found["ours"], rows),
    )


def _measures(bench: Bench, name: str, compared: Sequence[Compared]) -> Iterator[Measure]:
    """The best of the peer's index types, and what each of them takes."""
    good = [each for each in compared if each.recall >= _GOOD]
    best = min(good, key=_time) if good else max(compared, key=_recall)
    yield Measure(
        measure=f"{name}.speedup",
        value=round(best.theirs / best.ours, 2),
        unit="times",
        goal="> 1",
        peer=best.theirs,
        peer_name=f"{best.peer.name} (ms)",
        note=f"{bench.peer_rules} rules, scope and 20 nearest: ours {best.ours} ms; our whole "
        f"search, with words and rules read, {best.whole} ms; medians, by turns",
    )
    yield Measure(
        measure=f"{name}.recall",
        value=round(best.ours_recall, 4),
        unit="share",
        goal="at least the peer",
        peer=round(best.recall, 4),
        peer_name=best.peer.name,
        note="of the exact 20 nearest in the scope; the peer's fastest index type with at least "
        f"{_GOOD}, else its best",
    )
    for each in compared:
        kind = each.peer.name.rpartition(", ")[2].replace(" ", "_").lower()
        yield Measure(
            measure=f"{name}.{kind}_p50_ms",
            value=each.theirs,
            unit="ms",
            note=f"p99 {each.theirs_p99}, recall {each.recall:.4f}, index built in "
            f"{each.peer.build:.1f} s; ours beside it {each.ours} ms, {each.ours_recall:.4f}",
        )


def _time(each: Compared) -> float:
    return each.theirs


def _recall(each: Compared) -> float:
    return each.recall
