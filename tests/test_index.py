"""The index in this process: the contract, snapshots and what may befall them, and its size."""

from __future__ import annotations

import json
import logging
import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from comity.errors import EmbedderError
from comity.memory.dense import DenseIndex
from comity.memory.embed import HashEmbedder
from comity.memory.index import LocalIndex, remove_index
from comity.memory.lexical import WordIndex
from comity.memory.scope import ScopeMask
from comity.memory.sqlite import SqliteStore
from comity.memory.store import Change, StoredRule, to_micros
from comity.memory.vectors import VectorCache
from comity.records import Rule, Scope
from contracts.index import *  # noqa: F403 - the contract's tests
from contracts.index import Indexed

TEXTS = [f"{a} must not {b} near {c}" for a in ("dogs", "cats") for b in "abcde" for c in "fghij"]


def open_indexed(folder: Path | None, embedder: HashEmbedder | None = None) -> Indexed:
    embedder = embedder or HashEmbedder(64)
    store = SqliteStore(folder / "rules.db" if folder else None)
    vectors = VectorCache(None)
    home = folder / "index" if folder else None

    def reopen() -> LocalIndex:
        return LocalIndex(store, embedder, vectors, home)

    return Indexed(store, embedder, reopen(), reopen)


@pytest.fixture(params=["memory", "folder", "reopened"])
def indexed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Indexed]:
    opened = open_indexed(None if request.param == "memory" else tmp_path)
    if request.param == "reopened":  # every catch-up begins from a snapshot

        class Reopened(Indexed):
            def nearest(self, *args: object, **kwargs: object) -> list[str]:
                self.index.catch_up()
                self.index.save()
                self.index = self.reopen()
                return super().nearest(*args, **kwargs)  # type: ignore[arg-type]

        opened = Reopened(opened.store, opened.embedder, opened.index, opened.reopen)
    yield opened
    opened.store.close()


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Indexed]:
    """A memory of fifty rules on disk with a snapshot of its index."""
    opened = open_indexed(tmp_path)
    opened.add(*(Rule(id=f"r{n}", text=text) for n, text in enumerate(TEXTS)))
    opened.index.catch_up()
    opened.index.save()
    yield opened
    opened.store.close()


def answers(indexed: Indexed) -> list[object]:
    return [(indexed.nearest(text), indexed.matching(text)) for text in TEXTS[::7]]


def snapshot(folder: Path) -> Path:
    [found] = (folder / "index").glob("snapshot-*")
    return found


def test_a_snapshot_is_used_and_not_made_again(
    saved: Indexed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, name = answers(saved), snapshot(tmp_path).name
    saved.index = saved.reopen()
    assert not caplog.records
    saved.index.save()
    assert snapshot(tmp_path).name == name
    assert answers(saved) == before


@pytest.mark.parametrize("damage", ["flip", "cut", "missing"])
def test_a_damaged_snapshot_is_made_anew_with_a_warning(
    saved: Indexed, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    before = answers(saved)
    folder = snapshot(tmp_path)
    files = [f for f in folder.rglob("*") if f.is_file() and f.suffix != ".lock"]
    files.append(tmp_path / "index" / "CURRENT")
    chance = random.Random(7)
    assert len(files) > 5
    for file in files:
        content = file.read_bytes()
        if damage == "flip" and content:
            at = chance.randrange(len(content))
            flipped = content[at] ^ (1 << chance.randrange(8))
            file.write_bytes(content[:at] + bytes([flipped]) + content[at + 1 :])
        elif damage == "cut" and content:
            file.write_bytes(content[: chance.randrange(len(content))])
        elif damage == "missing" and file.name != "CURRENT":
            file.unlink()
        else:
            continue
        caplog.clear()
        saved.index = saved.reopen()
        assert [r.levelno for r in caplog.records] == [logging.WARNING], file
        assert "made anew" in caplog.text
        assert answers(saved) == before
        file.write_bytes(content)


def test_a_damaged_snapshot_is_replaced_by_the_next_one(
    saved: Indexed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = answers(saved)
    (snapshot(tmp_path) / "dense.faiss").write_bytes(b"")
    saved.index = saved.reopen()
    saved.index.catch_up()
    saved.index.save()
    caplog.clear()
    saved.index = saved.reopen()
    assert answers(saved) == before
    assert not caplog.records


def test_a_snapshot_of_another_memory_is_not_used(
    saved: Indexed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = open_indexed_beside(tmp_path / "other", tmp_path / "index")
    assert "another memory" in caplog.text
    assert other.nearest("dogs") == ["only"]
    other.store.close()


def open_indexed_beside(folder: Path, index: Path) -> Indexed:
    folder.mkdir()
    shutil.copytree(index, folder / "index")
    first = SqliteStore(folder / "rules.db")
    first.commit(change(Rule(id="only", text="dogs")))
    first.close()
    return open_indexed(folder)


def change(*rules: Rule) -> Change:
    return Change(tenant="default", kind="add", rules=rules, made_at=datetime.now(UTC))


@pytest.mark.parametrize("again", [0, 1, 3])
def test_a_book_restored_from_an_older_backup_has_its_index_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, again: int
) -> None:
    first = open_indexed(tmp_path)
    first.add(Rule(id="a", text="dogs"))
    first.store.close()
    backup = (tmp_path / "rules.db").read_bytes()
    first = open_indexed(tmp_path)
    for n in range(3):
        first.add(Rule(id=f"lost-{n}", text="dogs" if n == 2 else "lost"))
    first.index.catch_up()
    first.index.save()
    first.store.close()
    (tmp_path / "rules.db").write_bytes(backup)
    restored = open_indexed(tmp_path)
    assert "another history" in caplog.text
    for n in range(again):
        restored.add(Rule(id=f"lost-{n}", text="dogs"))
    assert len(restored.matching("dogs")) == 1 + again
    restored.store.close()


def test_a_restored_book_that_lacks_only_places_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_indexed(tmp_path)
    first.add(Rule(id="a", text="dogs"))
    first.store.close()
    backup = (tmp_path / "rules.db").read_bytes()
    first = open_indexed(tmp_path)
    first.add()
    first.index.catch_up()
    first.index.save()
    first.store.close()
    (tmp_path / "rules.db").write_bytes(backup)
    restored = open_indexed(tmp_path)
    restored.add(Rule(id="b", text="cats"))
    assert restored.matching("cats") == ["b"]
    assert "another history" in caplog.text
    restored.store.close()


def test_a_snapshot_of_another_embedder_is_a_clear_error(saved: Indexed, tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match=r"hash@64.*hash@32.*comity index rebuild"):
        open_indexed(tmp_path, HashEmbedder(32))
    remove_index(tmp_path / "index")
    rebuilt = open_indexed(tmp_path, HashEmbedder(32))
    assert rebuilt.nearest(TEXTS[3])[0] == "r3"
    rebuilt.store.close()


def test_two_indexes_of_one_folder_save_in_turn(saved: Indexed, tmp_path: Path) -> None:
    others = [saved.reopen(), saved.reopen()]
    for n in range(6):
        saved.add(Rule(id=f"new-{n}", text=f"zebra {n}"))
        index = [saved.index, *others][n % 3]
        index.catch_up()
        index.save()
    for index in [saved.index, *others, saved.reopen()]:
        index.catch_up()
        found = index.matching("zebra", index.admit(Scope()), 10).positions
        assert sorted(saved.ids(found)) == [f"new-{n}" for n in range(6)]
    assert len(list((tmp_path / "index").glob("snapshot-*"))) <= 2


def test_an_index_removed_under_an_open_one_is_made_anew(saved: Indexed, tmp_path: Path) -> None:
    before = answers(saved)
    remove_index(tmp_path / "index")
    saved.add(Rule(id="late", text="zebras"))
    saved.index.catch_up()
    saved.index.save()
    assert snapshot(tmp_path).is_dir()
    saved.index = saved.reopen()
    assert saved.matching("zebras") == ["late"]
    assert answers(saved)[0] == before[0]


def test_a_snapshot_that_cannot_be_written_is_a_warning_only(
    saved: Indexed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved.add(Rule(id="late", text="zebras"))
    saved.index.catch_up()
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "index").write_text("a file in the folder's place")
    saved.index.save()
    assert "is not saved" in caplog.text
    assert saved.matching("zebras") == ["late"]


class Interrupted(HashEmbedder):
    """Stops after some texts, once, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        super().__init__(64)
        self.left = after

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.left -= len(texts)
        if self.left < 0:
            self.left = 10**9
            raise KeyboardInterrupt
        return super().embed_passages(texts)


@pytest.mark.parametrize("after", [0, 3_000, 5_100])
def test_a_catch_up_that_was_interrupted_goes_on(after: int) -> None:
    indexed = open_indexed(None, Interrupted(after))
    indexed.add(*(Rule(id=f"r{n}", text=f"dogs {n * 7919:08d}") for n in range(5_500)))
    with pytest.raises(KeyboardInterrupt):
        indexed.index.catch_up()
    assert indexed.index.catch_up() == 1
    mask = indexed.index.admit(Scope())
    assert int(mask.rows.sum()) == 5_500
    for n in (17, 4_999, 5_000, 5_432):
        assert f"r{n}" in indexed.nearest(f"dogs {n * 7919:08d}", k=3)
        assert indexed.matching(f"{n * 7919:08d}") == [f"r{n}"]
    indexed.store.close()


class FailingHistory(SqliteStore):
    """A book whose histories cannot be read once it has been told so."""

    failing = False

    def history(self, tenant: str, rule_id: str) -> list[StoredRule]:
        if self.failing:
            raise KeyboardInterrupt
        return super().history(tenant, rule_id)


def test_a_catch_up_that_failed_half_way_leaves_nothing_out_of_step() -> None:
    indexed = open_indexed(None)
    store = FailingHistory(None)
    indexed.store = store
    indexed.index = LocalIndex(store, indexed.embedder, VectorCache(None), None)
    indexed.add(Rule(id="a", text="dogs"), Rule(id="b", text="cats"))
    indexed.index.catch_up()
    indexed.add(Rule(id="c", text="zebras"), Rule(id="a", text="wolves", version=2))
    store.failing = True
    with pytest.raises(KeyboardInterrupt):
        indexed.index.catch_up()
    store.failing = False
    for text, name in (("wolves", "a"), ("cats", "b"), ("zebras", "c")):
        assert indexed.nearest(text, k=1) == indexed.matching(text) == [name]
    assert indexed.matching("dogs") == []


def test_many_rules_are_saved_without_being_asked(tmp_path: Path) -> None:
    indexed = open_indexed(tmp_path)
    indexed.add(*(Rule(id=f"r{n}", text=f"dogs {n}") for n in range(1_001)))
    indexed.index.catch_up()
    indexed.index.close()  # waits for what is being written
    assert json.loads((snapshot(tmp_path) / "manifest.json").read_text("utf-8"))["revision"] == 1
    indexed.store.close()


def test_words_of_every_fifth_rule_count_only_where_no_other_word_is_asked(tmp_path: Path) -> None:
    indexed = open_indexed(tmp_path)
    shared = [Rule(id=f"r{n}", text=f"dogs {n}") for n in range(1_100)]
    indexed.add(Rule(id="rare", text="zebras graze"), *shared)
    indexed.index.catch_up()  # saves, for they are many
    indexed.index.close()
    indexed.add(Rule(id="new", text="zebras and dogs"))
    assert sorted(indexed.matching("dogs zebras", k=2_000)) == ["new", "rare"]
    assert indexed.matching("dogs 17") == ["r17"]
    assert len(indexed.matching("dogs", k=2_000)) == 1_101
    indexed.store.close()


def test_in_a_small_memory_common_words_count_beside_rare_ones(saved: Indexed) -> None:
    assert len(saved.matching("dogs zebras", k=100)) == len(TEXTS) / 2


def test_threads_search_while_another_writes(tmp_path: Path) -> None:
    indexed = open_indexed(tmp_path)
    indexed.add(Rule(id="first", text="dogs", mandatory=True))
    done = threading.Event()

    def write() -> None:
        for n in range(25):
            indexed.add(*(Rule(id=f"{n}-{i}", text="dogs", mandatory=True) for i in range(4)))
            indexed.index.catch_up()
            indexed.index.save()
        done.set()

    def read(_: int) -> int:
        count = 0
        while not done.is_set():
            indexed.index.catch_up()
            mask = indexed.index.admit(Scope())
            held = 1 + 4 * (mask.revision - 1)
            assert len(indexed.index.mandatory(mask)) == held
            assert len(indexed.index.matching("dogs", mask, 500).positions) == held
            vector = indexed.embedder.embed_query("dogs")
            assert len(indexed.index.nearest(vector, mask, 500).positions) == held
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        writing = pool.submit(write)
        reads = list(pool.map(read, range(3)))
        writing.result()
    assert min(reads) > 0
    indexed.store.close()


def unit_vectors(count: int, seed: int, around: int = 40) -> NDArray[np.float32]:
    """Vectors in clusters, as texts have them."""
    random_numbers = np.random.default_rng(seed)
    centres = random_numbers.normal(size=(around, 32))
    chosen = centres[random_numbers.integers(0, around, count)]
    rows = (chosen + random_numbers.normal(scale=0.7, size=(count, 32))).astype(np.float32)
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@pytest.mark.parametrize("batch", [2_500, 22_000])
def test_beyond_twenty_thousand_vectors_recall_stays(batch: int) -> None:
    vectors = np.concatenate((unit_vectors(20_000, 1), unit_vectors(2_000, 2, around=5)))
    dense = DenseIndex(32)
    for start in range(0, len(vectors), batch):
        dense.append(vectors[start : start + batch])
    assert len(dense) == 22_000
    mask = np.random.default_rng(3).random(22_000) < 0.3
    found = 0
    questions = np.concatenate((unit_vectors(50, 4), vectors[-50:]))
    for question in questions:
        exact = np.argsort(-(vectors @ question) - 10 * mask)[:10]
        ranked = dense.search(question, mask, 10)
        assert mask[ranked.positions].all()
        assert (np.diff(ranked.scores) <= 0).all()
        found += len(set(exact.tolist()) & set(ranked.positions.tolist()))
    assert found / (10 * len(questions)) >= 0.95


def test_rules_unlike_all_before_them_are_found_as_well() -> None:
    old = unit_vectors(20_001, 1, around=1)
    new = unit_vectors(1_000, 8, around=1)
    vectors = np.concatenate((old, new))
    dense = DenseIndex(32)
    dense.append(old)
    for start in range(0, 1_000, 100):
        dense.append(new[start : start + 100])
    everything = np.ones(len(vectors), np.bool_)
    found = 0
    for question in new[:50]:
        exact = set(np.argsort(-(vectors @ question))[:10].tolist())
        found += len(exact & set(dense.search(question, everything, 10).positions.tolist()))
    assert found / 500 >= 0.9


def test_at_the_size_where_vectors_are_packed_nothing_is_lost() -> None:
    vectors = unit_vectors(20_001, 5)
    dense = DenseIndex(32)
    dense.append(vectors[:20_000])
    everything = np.ones(20_001, np.bool_)
    assert dense.search(vectors[7], everything[:20_000], 1).positions.tolist() == [7]
    dense.append(vectors[20_000:])
    for at in (0, 7, 20_000):
        assert dense.search(vectors[at], everything, 1).positions.tolist() == [at]


def test_moments_are_compared_exactly(tmp_path: Path) -> None:
    since = datetime(2030, 1, 1, 0, 0, 0, 1, UTC)
    indexed = open_indexed(tmp_path)
    indexed.add(Rule(id="a", text="dogs", valid_from=since))
    assert indexed.nearest("dogs", Scope(at=since)) == ["a"]
    assert indexed.nearest("dogs", Scope(at=since.replace(microsecond=0))) == []
    assert to_micros(since) % 1_000_000 == 1
    indexed.store.close()


def test_a_long_text_scores_alike_while_recent_and_once_saved(tmp_path: Path) -> None:
    everything = ScopeMask(np.ones(501, np.bool_), (0,), 0)
    saved = WordIndex()
    for position in range(500):
        saved.append(position, 0, f"short rule number {position} about dogs and cats in parks")
    saved.save(tmp_path / "first", 500)
    saved.adopt(tmp_path / "first", 500)
    saved.append(500, 0, "leash " + "many other words " * 500)
    recent = saved.search("leash", everything, 5)
    saved.save(tmp_path / "second", 1)
    saved.adopt(tmp_path / "second", 1)
    kept = saved.search("leash", everything, 5)
    assert recent.positions.tolist() == kept.positions.tolist() == [500]
    assert recent.scores[0] == pytest.approx(kept.scores[0], rel=0.1)
