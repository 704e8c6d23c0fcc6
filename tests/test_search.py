"""Search: the scope first, then meaning and words, and what conflicts with what was found."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import NotFound, UnknownPlace
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.records import Hit, Rule, Scope
from comity.retrieval.fuse import RANK_CONSTANT, fuse
from comity.retrieval.search import search
from conftest import Clock, OpenMemory


@given(st.lists(st.lists(st.integers(0, 20), unique=True), max_size=4))
def test_a_fused_score_is_the_sum_of_reciprocal_ranks(rankings: list[list[int]]) -> None:
    fused = fuse([(1.0, rows) for rows in rankings])
    assert {row for row, _ in fused} == {row for rows in rankings for row in rows}
    for row, score in fused:
        ranks = [rows.index(row) + 1 for rows in rankings if row in rows]
        assert score == pytest.approx(sum(1 / (RANK_CONSTANT + rank) for rank in ranks))
    assert fused == sorted(fused, key=lambda item: (-item[1], item[0]))


def test_hits_come_best_first_and_within_the_scope(memory: Memory) -> None:
    memory.add(
        [
            Rule(id="cn", text="dogs on a leash", place="CN"),
            Rule(id="sh", text="dogs on a leash at noon", place="CN-SH"),
            Rule(id="us", text="dogs on a leash at noon", place="US"),
        ]
    )
    found = search(memory, "dogs on a leash at noon", Scope(place="CN-SH"))
    assert [hit.rule.id for hit in found.hits] == ["sh", "cn"]
    assert found.hits[0].score > found.hits[1].score
    assert found.revision == 1


def test_as_many_hits_as_asked_for(memory: Memory) -> None:
    memory.add([Rule(id=f"r{n}", text=f"dogs {n}") for n in range(450)])
    for k in (1, 100, 101, 300, 1000):
        ids = [hit.rule.id for hit in search(memory, "dogs 7", Scope(), k=k).hits]
        assert len(ids) == len(set(ids)) == min(k, 450)
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"k is {k}"):
            search(memory, "dogs", Scope(), k=k)


def test_a_scope_without_a_moment_is_now_by_the_memorys_clock(memory: Memory, clock: Clock) -> None:
    memory.add(Rule.model_validate({"id": "a", "text": "dogs", "valid_from": "2030-07-01"}))
    assert search(memory, "dogs", Scope()).hits == ()
    clock.advance(days=40)
    assert len(search(memory, "dogs", Scope()).hits) == 1


@pytest.mark.parametrize("place", ["CN-SH", "cn-sh", "Shanghai", "上海", "world|Shanghai"])
def test_a_place_may_be_given_as_people_write_it(memory: Memory, place: str) -> None:
    memory.add(Rule(id="a", text="dogs", place="CN-SH"))
    assert len(search(memory, "dogs", Scope.model_validate({"place": place})).hits) == 1


def test_a_scope_that_nobody_knows_is_refused(memory: Memory) -> None:
    memory.add(Rule(id="a", text="dogs", mandatory=True))
    with pytest.raises(UnknownPlace, match="Atlantis"):
        search(memory, "dogs", Scope(place="Atlantis"))
    with pytest.raises(NotFound, match="no tenant 'typo'"):
        search(memory, "dogs", Scope(tenant="typo"))
    with pytest.raises(NotFound, match="no revision 9"):
        search(memory, "dogs", Scope(as_of=9))


def test_a_memory_without_rules_finds_nothing(memory: Memory) -> None:
    found = search(memory, "dogs", Scope(place="CN"))
    assert (found.revision, found.hits, found.candidates) == (0, (), ())


def test_an_older_revision_is_named_as_the_one_searched(memory: Memory) -> None:
    memory.add(Rule(id="a", text="dogs"))
    memory.add(Rule(id="b", text="dogs"))
    found = search(memory, "dogs", Scope(as_of=1))
    assert (found.revision, [hit.rule.id for hit in found.hits]) == (1, ["a"])


def test_candidates_are_closed_under_declared_conflicts(memory: Memory) -> None:
    memory.add(
        [
            *(Rule(id=f"n{n}", text=f"cats {n}") for n in range(20)),
            Rule(id="a", text="dogs bark", overrides=("b",)),
            Rule(id="b", text="yachts"),
            Rule(id="c", text="zebras", overrides=("b", "gone", "c")),
            Rule(id="elsewhere", text="x", place="US", overrides=("a",)),
            Rule(id="theirs", text="x", tenant="other", overrides=("a",)),
        ][:-1]
    )
    memory.add(Rule(id="theirs", text="x", tenant="other", overrides=("a",)))
    found = search(memory, "dogs bark", Scope(place="CN"), k=1)
    assert {rule.id for rule in found.candidates} == {"a", "b", "c"}


def test_a_conflict_is_with_the_version_in_force(memory: Memory, clock: Clock) -> None:
    memory.add([Rule(id="a", text="dogs bark", overrides=("b",)), Rule(id="b", text="yachts")])
    clock.advance(days=1)
    memory.amend("b", {"text": "zebras"})
    found = search(memory, "dogs bark", Scope(), k=1)
    assert [rule.key for rule in found.candidates] == [("a", 1), ("b", 2)]
    memory.repeal("b")
    found = search(memory, "dogs bark", Scope(), k=1)
    assert [rule.key for rule in found.candidates] == [("a", 1)]


class Backwards:
    """Puts the last first."""

    def rerank(self, question: str, hits: Sequence[Hit]) -> Sequence[Hit]:
        return list(reversed(hits))


def test_a_reranker_sees_more_than_it_may_keep(memory: Memory) -> None:
    memory.add([Rule(id=f"r{n}", text="dogs " * (n + 1)) for n in range(30)])
    plain = search(memory, "dogs", Scope(), k=30).hits
    turned = search(memory, "dogs", Scope(), k=3, reranker=Backwards()).hits
    assert list(turned) == list(reversed(plain))[:3]


@pytest.mark.parametrize(
    "question", ["", " ", "?", "\x00", "𝒳", "a" * 50_000, "'; DROP TABLE rule"]
)
def test_odd_questions_are_answered(memory: Memory, question: str) -> None:
    memory.add(Rule(id="a", text="dogs"))
    assert [hit.rule.id for hit in search(memory, question, Scope()).hits] == ["a"]


@pytest.mark.parametrize("memories", [1, 2])
def test_a_search_sees_whole_changes_while_another_thread_commits_and_saves(
    open_memory: OpenMemory, memories: int
) -> None:
    opened = [open_memory() for _ in range(memories)]
    writer, reader = opened[0], opened[-1]
    writer.add(Rule(id="must", text="dogs", mandatory=True))
    done = threading.Event()

    def write() -> None:
        try:
            for n in range(15):
                writer.add([Rule(id=f"{n}-{i}", text="dogs", mandatory=i > 1) for i in range(4)])
                writer.amend("must", {"text": f"dogs on {n} leashes"})
                writer.index.save()
        finally:
            done.set()

    def read(_: int) -> list[int]:
        seen = [0]
        while not done.is_set():
            held = writer.revision
            found = search(reader, "dogs", Scope(), k=100)
            assert found.revision >= max(held, seen[-1])
            changes = found.revision - 1
            rules = {hit.rule.id: hit.rule for hit in found.hits}
            assert len(rules) == len(found.hits) == 1 + 4 * ((changes + 1) // 2)
            assert rules["must"].version == 1 + changes // 2
            assert {rule.key for rule in found.candidates} == {r.key for r in rules.values()}
            seen.append(found.revision)
        return seen

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(write)
        reads = list(pool.map(read, range(2)))
        writing.result()
    assert min(map(len, reads)) > 1
    assert search(reader, "dogs", Scope(), k=100).revision == 31


def test_far_less_relevant_hits_after_the_fourth_are_left_out_and_mandatory_rules_are_not() -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder(16)) as memory:
        near = [Rule(id=f"near{n}", text=f"Dogs bark at noon {n}.") for n in range(6)]
        far = [Rule(id=f"far{n}", text=f"Bread, cheese and wine {n}.") for n in range(6)]
        memory.add([*near, *far, Rule(id="must", text="Boats are moored.", mandatory=True)])
        every = search(memory, "dogs bark at noon", Scope(), k=13)
        some = search(memory, "dogs bark at noon", Scope(), k=13, relevance=0.6)
        first = search(memory, "dogs bark at noon", Scope(), k=13, relevance=1.0)
    assert len(every.hits) == 13
    assert 4 < len(some.hits) < 13
    assert all(hit.score >= 0.6 * some.hits[0].score for hit in some.hits[4:])
    left_out = every.hits[len(some.hits) :]
    assert all(hit.score < 0.6 * some.hits[0].score for hit in left_out)
    assert first.hits == every.hits[:4]
    assert "must" in {rule.id for rule in first.candidates}
