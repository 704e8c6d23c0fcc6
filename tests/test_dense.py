"""Vectors under a mask: exact where narrow, through a sketch where wide, and never one missing."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from comity.memory.dense import DenseIndex, Sizes
from comity.memory.rows import VectorRows
from comity.memory.sketch import lists_for

# one bit of 32 components tells little: more candidates than of 384
SMALL = Sizes(sketched_from=2_000, behind=200, looked_at=900, candidates=15, least=50)
DIMENSION = 32


def unit_vectors(count: int, seed: int, around: int = 40) -> NDArray[np.float32]:
    """Vectors in clusters, as texts have them, each cluster by itself the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(around, DIMENSION))
    chance = np.random.default_rng(seed)
    rows = centres[chance.integers(0, around, count)]
    rows = (rows + chance.normal(scale=0.7, size=(count, DIMENSION))).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def filled(vectors: NDArray[np.float32], sizes: Sizes = SMALL, batch: int = 500) -> DenseIndex:
    dense = DenseIndex(DIMENSION, sizes)
    for start in range(0, len(vectors), batch):
        dense.append(vectors[start : start + batch])
    dense.settle()
    return dense


def exact(
    vectors: NDArray[np.float32], question: NDArray[np.float32], flags: NDArray[np.bool_], k: int
) -> list[int]:
    scores = np.where(flags, vectors @ question, -2.0)
    return [int(at) for at in np.argsort(-scores, kind="stable")[:k] if flags[at]]


def recall(dense: DenseIndex, vectors: NDArray[np.float32], flags: NDArray[np.bool_]) -> float:
    found = 0
    questions = unit_vectors(60, 99)
    for question in questions:
        ranked = dense.search(question, flags, 10)
        assert flags[ranked.positions].all()
        assert (np.diff(ranked.scores) <= 0).all()
        assert len(ranked.positions) == len(set(ranked.positions.tolist())) == 10
        found += len(set(exact(vectors, question, flags, 10)) & set(ranked.positions.tolist()))
    return found / (10 * len(questions))


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_wide_scope_is_searched_through_the_sketch_with_hardly_a_loss(share: float) -> None:
    vectors = unit_vectors(6_000, 1)
    dense = filled(vectors)
    assert dense.sketched > 5_000
    flags = np.random.default_rng(3).random(len(vectors)) < share
    assert recall(dense, vectors, flags) >= 0.95


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 80))
def test_a_narrow_scope_is_searched_exactly(seed: int, inside: int, k: int) -> None:
    vectors = _KEPT_VECTORS
    flags = np.zeros(len(vectors), np.bool_)
    flags[np.random.default_rng(seed).choice(len(vectors), inside, replace=False)] = True
    question = unit_vectors(1, seed)[0]
    ranked = _KEPT.search(question, flags, k)
    assert len(ranked.positions) == min(k, inside)
    best = np.sort((vectors @ question)[flags])[::-1][:k]
    assert np.allclose(ranked.scores, best, atol=1e-3)  # nothing better was passed over
    assert flags[ranked.positions].all()


_KEPT_VECTORS = unit_vectors(4_000, 2)
_KEPT = filled(_KEPT_VECTORS)


def test_below_the_size_of_a_sketch_every_search_is_exact() -> None:
    vectors = unit_vectors(1_900, 4)
    dense = filled(vectors)
    assert dense.sketched == 0
    assert recall(dense, vectors, np.random.default_rng(5).random(len(vectors)) < 0.5) >= 0.99


def test_rows_behind_the_sketch_are_found_at_once() -> None:
    vectors = unit_vectors(2_150, 6)
    dense = filled(vectors[:2_000])
    assert dense.sketched == 2_000
    everything = np.ones(2_150, np.bool_)
    for at in range(2_000, 2_150):
        dense.append(vectors[at : at + 1])
        assert dense.search(vectors[at], everything[: at + 1], 1).positions.tolist() == [at]
    assert dense.sketched == 2_000


def test_a_mask_of_before_names_nothing_that_came_later() -> None:
    vectors = unit_vectors(3_000, 7)
    dense = filled(vectors)
    flags = np.ones(1_500, np.bool_)
    for question in vectors[2_000:2_020]:
        assert (dense.search(question, flags, 20).positions < 1_500).all()


def test_the_lists_are_made_anew_where_they_no_longer_fit() -> None:
    dense = filled(unit_vectors(2_000, 8, around=3))
    first = dense._sketch
    assert first is not None and first.made.rows == 2_000  # noqa: PT018
    dense.append(unit_vectors(2_000, 9, around=3))
    dense.settle()
    grown = dense._sketch
    assert grown is not None and (grown.size, grown.made) == (4_000, first.made)  # noqa: PT018
    unlike = -unit_vectors(2_000, 10, around=3)
    dense.append(unlike)
    dense.settle()
    anew = dense._sketch
    assert anew is not None and anew.made.rows == 6_000  # noqa: PT018


def test_the_lists_are_made_anew_at_four_times_the_size() -> None:
    vectors = unit_vectors(8_500, 11)
    dense = filled(vectors, batch=8_500 // 4)
    assert dense._sketch is not None
    dense.settle()
    assert dense._sketch.lists >= lists_for(2_125)
    dense.append(unit_vectors(1, 12))
    made = dense._sketch.made.rows
    assert 4 * made >= dense._sketch.size


@pytest.mark.parametrize(
    ("size", "lists"), [(1, 1), (200_000, 256), (10**6, 512), (4 * 10**6, 1024)]
)
def test_there_are_half_as_many_lists_as_the_root_of_the_rows(size: int, lists: int) -> None:
    assert lists_for(size) == lists


def test_nothing_is_lost_while_sketches_are_made_beside_searches_and_appending() -> None:
    vectors = unit_vectors(9_000, 13)
    dense = DenseIndex(DIMENSION, Sizes(sketched_from=1_000, behind=50, looked_at=400, least=100))
    dense.append(vectors[:100])
    done = threading.Event()
    wrong: list[str] = []
    seen: set[int] = set()

    def look(seed: int) -> None:
        chance = np.random.default_rng(seed)
        while not done.is_set():
            size = len(dense)
            at = int(chance.integers(0, size))
            flags = chance.random(size) < 0.5
            flags[at] = True
            ranked = dense.search(vectors[at], flags, 5)
            seen.add(dense.sketched)
            if at not in ranked.positions or not flags[ranked.positions].all():
                wrong.append(f"{at} of {size} with a sketch of {dense.sketched}")

    readers = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for reader in readers:
        reader.start()
    for start in range(100, len(vectors), 100):
        dense.append(vectors[start : start + 100])
    dense.settle()
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(seen) > 2, "no sketch was swapped under the searches"
    assert dense.sketched > 8_500


def test_a_sketch_is_read_back_as_it_was(tmp_path: Path) -> None:
    vectors = unit_vectors(3_100, 14)
    dense = filled(vectors)
    dense.save(tmp_path / "a", 3_100)
    again = DenseIndex.load(tmp_path / "a", DIMENSION, SMALL)
    assert (len(again), again.sketched) == (3_100, dense.sketched)
    flags = np.random.default_rng(1).random(3_100) < 0.5
    for question in unit_vectors(40, 15):
        before, after = dense.search(question, flags, 10), again.search(question, flags, 10)
        assert before.positions.tolist() == after.positions.tolist()
        assert before.scores.tolist() == after.scores.tolist()


def test_what_was_saved_before_is_linked_and_small_files_are_joined(tmp_path: Path) -> None:
    dense = DenseIndex(DIMENSION)
    vectors = unit_vectors(2_000, 16)
    dense.append(vectors[:1_000])
    dense.save(tmp_path / "a", 1_000)
    dense.adopt(tmp_path / "a")
    dense.append(vectors[1_000:1_100])
    dense.save(tmp_path / "b", 1_100)
    first, second = sorted((tmp_path / "b").glob("*.npy"))
    assert first.samefile(tmp_path / "a" / first.name)
    assert np.load(second).shape == (100, DIMENSION)
    dense.adopt(tmp_path / "b")
    dense.append(vectors[1_100:])
    dense.save(tmp_path / "c", 2_000)
    assert len(list((tmp_path / "c").glob("*.npy"))) == 1
    again = DenseIndex.load(tmp_path / "c", DIMENSION)
    everything = np.ones(2_000, np.bool_)
    for at in (0, 999, 1_000, 1_099, 1_100, 1_999):
        assert again.search(vectors[at], everything, 1).positions.tolist() == [at]


def test_rows_appended_while_others_are_written_stay(tmp_path: Path) -> None:
    vectors = unit_vectors(700, 17)
    dense = DenseIndex(DIMENSION)
    dense.append(vectors[:500])
    dense.save(tmp_path / "a", 300)
    dense.append(vectors[500:])
    dense.adopt(tmp_path / "a")
    everything = np.ones(700, np.bool_)
    for at in (0, 299, 300, 499, 500, 699):
        assert dense.search(vectors[at], everything, 1).positions.tolist() == [at]


def test_vectors_of_another_dimension_are_refused(tmp_path: Path) -> None:
    dense = DenseIndex(DIMENSION)
    dense.append(unit_vectors(3, 18))
    dense.save(tmp_path / "a", 3)
    with pytest.raises(ValueError, match="no vectors of 16 dimensions"):
        DenseIndex.load(tmp_path / "a", 16)


def test_a_sketch_that_cannot_be_made_is_warned_of_and_searches_stay_exact(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class NoMemory(VectorRows):
        def read(self, start: int, end: int) -> object:  # type: ignore[override]
            raise MemoryError

    dense = DenseIndex(DIMENSION, SMALL)
    dense._rows = NoMemory(DIMENSION)
    vectors = unit_vectors(2_500, 19)
    dense.append(vectors)
    dense.settle()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no sketch" in caplog.text
    dense.append(unit_vectors(1, 20))
    dense.settle()
    assert len(caplog.records) == 1
    assert dense.search(vectors[7], np.ones(2_500, np.bool_), 1).positions.tolist() == [7]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 1_500), min_size=1, max_size=6), st.data())
def test_rows_are_where_they_were_put(batches: list[int], data: st.DataObject) -> None:
    vectors = unit_vectors(sum(batches), 21)
    rows = VectorRows(DIMENSION)
    at = 0
    for size in batches:
        rows.append(vectors[at : at + size])
        at += size
    assert len(rows) == len(vectors)
    chosen = data.draw(st.lists(st.integers(0, len(vectors) - 1), max_size=20))
    taken = rows.take(np.array(chosen, np.int64))
    assert np.array_equal(taken, vectors[chosen].astype(np.float16))
    start = data.draw(st.integers(0, len(vectors)))
    read = list(rows.read(start, len(vectors)))
    whole = np.concatenate(read) if read else np.empty((0, DIMENSION))
    assert np.array_equal(whole.astype(np.float16), vectors[start:].astype(np.float16))
