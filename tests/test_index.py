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
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from comity.errors import EmbedderError
from comity.memory.dense import Sizes
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


SKETCHED = Sizes(sketched_from=30, behind=8, looked_at=200, least=100)


def open_indexed(
    folder: Path | None, embedder: HashEmbedder | None = None, sizes: Sizes | None = None
) -> Indexed:
    embedder = embedder or HashEmbedder(64)
    store = SqliteStore(folder / "rules.db" if folder else None)
    vectors = VectorCache(None)
    home = folder / "index" if folder else None

    def reopen() -> LocalIndex:
        return LocalIndex(store, embedder, vectors, home, sizes or Sizes())

    return Indexed(store, embedder, reopen(), reopen)


@pytest.fixture(params=["memory", "folder", "reopened", "sketched", "sketched and reopened"])
def indexed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Indexed]:
    sizes = SKETCHED if "sketched" in request.param else None
    opened = open_indexed(None if request.param == "memory" else tmp_path, sizes=sizes)
    if "reopened" in request.param:  # every catch-up begins from a snapshot

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
    opened = open_indexed(tmp_path, sizes=SKETCHED)
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


def test_a_snapshot_of_an_older_format_is_made_anew(
    saved: Indexed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, file = answers(saved), snapshot(tmp_path) / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(manifest | {"format": manifest["format"] - 1}), "utf-8")
    digest = sha256(file.read_bytes()).hexdigest()
    (tmp_path / "index" / "CURRENT").write_text(f"{file.parent.name} {digest}", "ascii")
    saved.index = saved.reopen()
    assert "another memory or version" in caplog.text
    assert answers(saved) == before
    saved.index.save()
    assert snapshot(tmp_path).name != file.parent.name
    caplog.clear()
    saved.index = saved.reopen()
    assert answers(saved) == before
    assert not caplog.records


class Halting(SqliteStore):
    """A book that tells its name only when it may: snapshots are half written until then."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked, self.may = threading.Event(), threading.Event()

    def identity(self) -> str:
        self.asked.set()
        assert self.may.wait(30)
        return super().identity()


def test_searches_and_changes_go_on_while_a_snapshot_is_written(tmp_path: Path) -> None:
    store = Halting(tmp_path / "rules.db")
    embedder, vectors = HashEmbedder(64), VectorCache(None)
    index = LocalIndex(store, embedder, vectors, tmp_path / "index", SKETCHED)
    indexed = Indexed(store, embedder, index, lambda: index)
    indexed.add(*(Rule(id=f"r{n}", text=text) for n, text in enumerate(TEXTS)))
    index.catch_up()
    saving = threading.Thread(target=index.save)
    saving.start()
    assert store.asked.wait(120)
    for n in range(20):
        text = f"zebra {n * 7919:08d}"
        indexed.add(Rule(id=f"late-{n}", text=text))
        assert indexed.matching(text)[0] == f"late-{n}"
        assert f"late-{n}" in indexed.nearest(text, k=3)
    store.may.set()
    saving.join()
    again = LocalIndex(store, embedder, vectors, tmp_path / "index", SKETCHED)
    assert again.admit(Scope()).rows.sum() == len(TEXTS)  # what there was when it began
    again.catch_up()
    for found in (index, again):
        mask = found.admit(Scope())
        assert mask.rows.sum() == len(TEXTS) + 20
        assert len(set(found.matching("zebra", mask, 50).positions.tolist())) == 20
        assert len(set(found.matching("dogs", mask, 50).positions.tolist())) == len(TEXTS) // 2
    store.close()


def test_a_revision_at_hand_is_taken_in_where_it_is_the_next_one() -> None:
    indexed = open_indexed(None)
    indexed.add(Rule(id="a", text="dogs"))
    index = indexed.index
    assert isinstance(index, LocalIndex)
    indexed.add(Rule(id="b", text="zebras"), Rule(id="c", text="wolves"))
    batches = [indexed.store.fetch([1]), indexed.store.fetch([2, 3])]
    vectors = [
        indexed.embedder.embed_passages([stored.rule.indexed_text for stored in batch])
        for batch in batches
    ]
    assert not index.feed(batches[1], vectors[1])
    assert not index.feed([*batches[0], *batches[1]], np.concatenate(vectors))
    assert not index.feed([], vectors[0][:0])
    assert index.feed(batches[0], vectors[0])
    assert not index.feed(batches[0], vectors[0])
    assert index.feed(batches[1], vectors[1])
    assert index.admit(Scope()).revision == index.catch_up() == 2
    assert indexed.nearest("zebras", k=1) == indexed.matching("zebras") == ["b"]
    indexed.store.close()


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
        for n in range(10):
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


def test_moments_are_compared_exactly(tmp_path: Path) -> None:
    since = datetime(2030, 1, 1, 0, 0, 0, 1, UTC)
    indexed = open_indexed(tmp_path)
    indexed.add(Rule(id="a", text="dogs", valid_from=since))
    assert indexed.nearest("dogs", Scope(at=since)) == ["a"]
    assert indexed.nearest("dogs", Scope(at=since.replace(microsecond=0))) == []
    assert to_micros(since) % 1_000_000 == 1
    indexed.store.close()


@pytest.mark.parametrize("k", [1, 3, 10])
def test_words_find_the_few_rows_in_force_among_many_of_their_kind(tmp_path: Path, k: int) -> None:
    words = WordIndex()
    words.append(
        0, [0] * 3_000, [f"{'leash' if n % 10 == 5 else 'dogs'} {n}" for n in range(3_000)]
    )
    words.append(3_000, [1] * 50, ["leash of another place"] * 50)
    words.save(tmp_path / "words", 3_050)
    words.adopt(tmp_path / "words", 3_050)
    rows = np.zeros(3_050, np.bool_)
    few = rows.copy()
    few[[5, 705, 1_905, 2_995]] = True
    found = words.search("leash 1905", ScopeMask(few, (0,)), k).positions.tolist()
    assert found[0] == 1_905
    assert len(found) == len(set(found)) == min(k, 4)
    assert set(found) <= {5, 705, 1_905, 2_995}
    assert not len(words.search("leash", ScopeMask(rows, (0,)), k).positions)


def test_a_long_text_scores_alike_while_recent_and_once_saved(tmp_path: Path) -> None:
    everything = ScopeMask(np.ones(501, np.bool_), (0,), 0)
    saved = WordIndex()
    texts = [f"short rule number {n} about dogs and cats in parks" for n in range(500)]
    saved.append(0, [0] * 500, texts)
    saved.save(tmp_path / "first", 500)
    saved.adopt(tmp_path / "first", 500)
    saved.append(500, [0], ["leash " + "many other words " * 500])
    recent = saved.search("leash", everything, 5)
    saved.save(tmp_path / "second", 1)
    saved.adopt(tmp_path / "second", 1)
    kept = saved.search("leash", everything, 5)
    assert recent.positions.tolist() == kept.positions.tolist() == [500]
    assert recent.scores[0] == pytest.approx(kept.scores[0], rel=0.1)
