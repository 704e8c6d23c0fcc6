"""Bulk import: streams of rules in batches, whatever happens in between."""

from __future__ import annotations

import os
import re
import signal
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from comity.errors import DuplicateRule, EmbedderError, RuleError, UnknownAuthority, UnknownPlace
from comity.memory.bulk import BulkReport, Embedded, bulk_import, plan_bulk
from comity.memory.embed import HashEmbedder
from comity.memory.embed_worker import embedding
from comity.memory.imports import Changed, commit_import, plan_import
from comity.memory.index import Index
from comity.memory.memory import Memory
from comity.memory.sqlite import SqliteStore
from comity.memory.vectors import VectorCache
from comity.records import Rule, Scope, Source
from comity.retrieval.search import search
from comity.workers import ProcessWorkers
from conftest import Clock, OpenMemory


def row(rule_id: str, text: str, **fields: object) -> Rule:
    source = Source(document="laws.jsonl", sha256="0" * 64, start=0, end=9)
    return Rule.model_validate({"id": rule_id, "text": text, "source": source} | fields)


def rows(count: int) -> list[Rule]:
    return [row(f"r{n}", f"dogs of district {n} are kept on a lead") for n in range(count)]


def shape(report: BulkReport) -> tuple[int, int, int, int]:
    return (report.added, report.changed, report.unchanged, report.revisions)


def held(memory: Memory) -> list[tuple[str, int, str, str]]:
    stored = memory.store.rows_after(0)
    return [(s.rule.id, s.rule.version, s.rule.text, s.rule.place) for s in stored]


def test_a_plan_says_what_the_import_does_and_changes_nothing(memory: Memory) -> None:
    bulk_import(memory, rows(5))
    given = [*rows(4), row("r4", "cats"), row("r4", "birds", version=2), row("new", "fish")]
    planned = plan_bulk(memory, given, batch=3)
    assert (planned.revision, len(held(memory))) == (1, 5)
    assert shape(planned) == shape(bulk_import(memory, given, batch=3)) == (1, 2, 4, 2)


def test_a_stream_is_added_in_batches_and_the_same_again_changes_nothing(memory: Memory) -> None:
    report = bulk_import(memory, iter(rows(10)), batch=4, author="ann", note="law")
    assert (shape(report), report.revision) == ((10, 0, 0, 3), 3)
    assert [r.number for r in memory.store.revisions("default")] == [1, 2, 3]
    assert {(r.kind, r.author, r.note) for r in memory.store.revisions("default")} == {
        ("import", "ann", "law")
    }
    assert [rule_id for rule_id, *_ in held(memory)] == [f"r{n}" for n in range(10)]
    again = bulk_import(memory, rows(10), batch=3)
    assert (shape(again), again.revision) == ((0, 0, 10, 0), 3)


def test_what_it_adds_is_what_an_ordinary_import_adds(memory: Memory, clock: Clock) -> None:
    stream = [
        *rows(3),
        row("a", "one", title="T", place="中国"),
        row("a", "two", version=2),
        Rule(id="a", version=3, text="two", status="repealed"),
        row("b", "b"),
    ]
    with Memory.open("sqlite://", embedder=HashEmbedder(64), clock=clock) as other:
        commit_import(other, plan_import(other, stream, tenant="default"))
        bulk_import(memory, stream, batch=2)
        assert sorted(held(memory)) == sorted(held(other))
        assert {s.rule for s in memory.rules()} == {s.rule for s in other.rules()}
        assert search(memory, "two", Scope()).hits == search(other, "two", Scope()).hits


def test_changed_rules_get_their_next_version_once_they_are_confirmed(memory: Memory) -> None:
    bulk_import(memory, rows(6))
    changed = [*rows(3), row("r3", "wolves"), *rows(6)[4:], row("new", "cats")]
    asked: list[Sequence[Changed]] = []

    def refuse(changes: Sequence[Changed]) -> None:
        asked.append(changes)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        bulk_import(memory, changed, confirm=refuse)
    assert [(c.old.text[:4], c.new.text) for c in asked[0]] == [("dogs", "wolves")]
    assert memory.revision == 1
    assert shape(bulk_import(memory, changed, confirm=asked.append)) == (1, 1, 5, 1)
    assert [s.rule.text for s in memory.history("r3")][1:] == ["wolves"]
    assert shape(bulk_import(memory, changed)) == (0, 0, 7, 0)


def test_what_was_amended_by_hand_is_not_undone(memory: Memory) -> None:
    bulk_import(memory, rows(3))
    memory.amend("r1", {"text": "by hand"})
    assert shape(bulk_import(memory, rows(3))) == (0, 0, 3, 0)
    assert memory.get("r1").text == "by hand"


def test_the_versions_of_a_rule_are_never_cut_apart(memory: Memory) -> None:
    versions = [row("a", f"v{n}", version=n) for n in range(1, 6)]
    report = bulk_import(memory, [row("b", "b"), *versions, row("c", "c")], batch=2)
    assert shape(report) == (7, 0, 0, 2)
    assert [s.revision for s in memory.history("a")] == [1] * 5
    assert shape(bulk_import(memory, [*versions, row("b", "b")], batch=1)) == (0, 0, 6, 0)


def test_a_rule_that_stands_in_two_places_is_refused_by_both(memory: Memory) -> None:
    stream = [*rows(4), row("r1", "again", version=2)]
    with pytest.raises(DuplicateRule, match=r"'r1' stands in two places: number 2, and number 5"):
        bulk_import(memory, stream, batch=3)
    assert len(held(memory)) == 3
    with pytest.raises(DuplicateRule, match="twice in version 1"):
        bulk_import(memory, [row("x", "1"), row("x", "2")])


def test_a_rule_that_cannot_be_taken_says_where_it_stands_or_is_left_out(memory: Memory) -> None:
    bad = {
        "where": row("where", "x", place="Nowhere at all"),
        "rank": row("rank", "x", authority="whim"),
        "later": row("later", "x", version=3),
        "theirs": row("theirs", "x", tenant="other"),
    }
    kinds = (UnknownPlace, UnknownAuthority, RuleError, RuleError)
    for (name, rule), kind in zip(bad.items(), kinds, strict=True):
        with pytest.raises(kind, match=f"number 3: .*{name if name != 'where' else 'Nowhere'}"):
            bulk_import(memory, [*rows(2), rule], batch=2)
    told: list[RuleError] = []
    report = bulk_import(memory, [*bad.values(), *rows(5)], batch=4, left_out=told.append)
    assert (report.left_out, report.added, report.unchanged) == (4, 3, 2)
    assert [str(error).partition(":")[0] for error in told] == [f"number {n}" for n in (1, 2, 3, 4)]
    assert len(memory.rules()) == 5


def test_every_batch_is_found_at_once_and_after_opening_again(open_memory: OpenMemory) -> None:
    memory = open_memory()
    bulk_import(memory, rows(20), batch=6)
    for opened in (memory, open_memory()):
        found = search(opened, "dogs of district 17", Scope()).hits
        assert {hit.rule.id for hit in found} == {f"r{n}" for n in range(20)}
        # the fake's vectors of ten of them are equally near: only words tell the one that is meant
        best = opened.index.matching("dogs of district 17", opened.index.admit(Scope()), 1)
        assert [s.rule.id for s in opened.store.fetch(best.positions.tolist())] == ["r17"]


def test_progress_goes_to_the_end_and_each_revision_is_told_of(memory: Memory) -> None:
    seen: list[tuple[int, int]] = []
    told: list[int] = []
    bulk_import(
        memory,
        rows(10),
        batch=4,
        progress=lambda done, total: seen.append((done, total)),
        committed=told.append,
    )
    assert seen == sorted(seen)
    assert seen[-1] == (10, 10)
    assert told == [1, 2, 3]


def test_another_tenants_stream_is_apart(memory: Memory) -> None:
    bulk_import(memory, rows(3))
    report = bulk_import(memory, [Rule(id="r1", text="theirs")], tenant="other")
    assert shape(report) == (1, 0, 0, 1)
    assert memory.get("r1", tenant="other").text == "theirs"
    assert memory.get("r1").version == 1


class Costless:
    """An embedder that costs nothing."""

    id, dimension = "costless", 4

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(np.array([1, 0, 0, 0], np.float32), (len(texts), 1))

    def embed_query(self, text: str) -> NDArray[np.float32]:
        return np.array([1, 0, 0, 0], np.float32)


class NoIndex:
    """Takes nothing in, so that what grows is not the index."""

    def catch_up(self, progress: Callable[[int, int], None] | None = None) -> int:
        return 0

    def save(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        store = SqliteStore(tmp_path / f"{count}.db")
        vectors = VectorCache(tmp_path / f"{count}.vectors")
        with Memory(store, cast("Index[Any]", NoIndex()), Costless(), vectors) as memory:
            bulk_import(memory, rows(1), batch=1)  # what is imported and cached the first time
            tracemalloc.start()
            bulk_import(memory, (row(f"s{n}", "x" * 200) for n in range(count)), batch=100)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return most

    peak(100)
    assert peak(3_000) < peak(500) + 800_000  # 2,500 rules more would take some 4 MB


def dies_at(folder: Path, text: str) -> Callable[[Sequence[str]], Embedded]:
    """A worker that is killed, once, over the texts that hold these words."""
    embedder = HashEmbedder(64)

    def embed(texts: Sequence[str]) -> Embedded:
        if any(text in each for each in texts):
            try:
                (folder / "died").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return Embedded(embedder.id, embedder.embed_passages(texts))

    return embed


def test_nothing_is_lost_or_done_twice_where_a_worker_dies(
    open_memory: OpenMemory, tmp_path: Path
) -> None:
    with ProcessWorkers(partial(dies_at, tmp_path, "district 170 "), 1) as workers:
        bulk_import(open_memory(), rows(400), batch=150, workers=workers)
    memory = open_memory()
    assert (tmp_path / "died").exists()
    assert [rule_id for rule_id, *_ in held(memory)] == [f"r{n}" for n in range(400)]
    texts = [rule.indexed_text for rule in rows(400)]
    known = memory.vectors.want(memory.embedder, texts)
    assert known.missing == []
    np.testing.assert_allclose(known.rows(), HashEmbedder(64).embed_passages(texts), atol=1e-3)


def test_workers_open_the_embedder_by_its_name_and_another_one_is_refused(memory: Memory) -> None:
    with ProcessWorkers(embedding("hash"), 1) as workers:
        with pytest.raises(EmbedderError, match="'hash@256', but the memory 'hash@64'"):
            bulk_import(memory, rows(3), workers=workers)
        assert memory.revision == 0
        with Memory.open("sqlite://", embedder="hash") as same:
            assert bulk_import(same, rows(3), workers=workers).added == 3


def test_workers_go_on_to_another_import_where_one_ended_with_an_error(memory: Memory) -> None:
    bulk_import(memory, rows(300))

    def refuse(_: Sequence[Changed]) -> None:
        raise RuleError("no")

    with ProcessWorkers(partial(dies_at, Path(), "never"), 1) as workers:
        changed = [row(f"r{n}", f"cats of district {n}") for n in range(300)]
        with pytest.raises(RuleError, match="no"):
            bulk_import(memory, changed, batch=100, workers=workers, confirm=refuse)
        report = bulk_import(memory, [*changed[:150], row("new", "wolves")], workers=workers)
    assert (report.added, report.changed) == (1, 150)
    vector = memory.vectors.get(memory.embedder, ["wolves"])[0]
    np.testing.assert_allclose(vector, memory.embedder.embed_query("wolves"), atol=1e-3)


def test_a_stream_that_fails_midway_leaves_whole_batches_and_the_index_follows(
    memory: Memory,
) -> None:
    def failing() -> Iterator[Rule]:
        yield from rows(7)
        raise RuleError("the line is cut")

    with pytest.raises(RuleError, match="the line is cut"):
        bulk_import(memory, failing(), batch=3)
    assert len(held(memory)) == 6
    assert len(search(memory, "dogs", Scope()).hits) == 6
    assert shape(bulk_import(memory, rows(9), batch=3)) == (3, 0, 6, 1)


def test_rules_may_come_from_any_iterable(memory: Memory) -> None:
    def given(rules: Iterable[Rule]) -> int:
        return bulk_import(memory, rules).added

    assert given({"a": row("a", "a")}.values()) == 1
    assert given([]) == 0


def test_the_example_of_the_page_runs() -> None:
    page = Path(__file__).parents[1] / "docs" / "bulk.md"
    [code] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    exec(compile(code, str(page), "exec"), {})
