"""The cache of vectors: nothing is embedded twice, and an interruption loses one batch."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from comity.errors import MemoryDamaged, StoreError
from comity.memory.embed import HashEmbedder
from comity.memory.vectors import VectorCache


class Counting(HashEmbedder):
    """Remembers what it was asked, and is interrupted before the batch of that number."""

    def __init__(self, dimension: int = 64, *, interrupted_at: int | None = None) -> None:
        super().__init__(dimension)
        self.batches: list[list[str]] = []
        self._interrupted_at = interrupted_at

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(self.batches) == self._interrupted_at:
            raise KeyboardInterrupt
        self.batches.append(list(texts))
        return super().embed_passages(texts)

    @property
    def asked(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


RULES = [f"Rule {number}: dogs are kept on a lead of {number} metres." for number in range(10)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.db"


@pytest.fixture(params=["file", "memory"])
def cache(request: pytest.FixtureRequest, path: Path) -> Iterator[VectorCache]:
    opened = VectorCache(path if request.param == "file" else None, batch_size=4)
    yield opened
    opened.close()


def test_vectors_are_those_of_the_embedder(cache: VectorCache) -> None:
    rows = cache.get(HashEmbedder(), RULES)
    assert rows.dtype == np.float32
    cosines = (rows * HashEmbedder().embed_passages(RULES)).sum(axis=1)
    assert cosines.min() > 1 - 1e-6
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)


def test_nothing_is_embedded_twice(cache: VectorCache) -> None:
    embedder = Counting()
    first = cache.get(embedder, RULES)
    again = cache.get(embedder, RULES[::-1])
    assert embedder.asked == RULES
    np.testing.assert_array_equal(first, again[::-1])


def test_only_what_is_missing_is_embedded(cache: VectorCache) -> None:
    embedder = Counting()
    cache.get(embedder, RULES[:3])
    cache.get(embedder, RULES[2:5])
    assert embedder.batches == [RULES[:3], RULES[3:5]]


def test_duplicates_are_embedded_once_and_answered_twice(cache: VectorCache) -> None:
    embedder = Counting()
    rows = cache.get(embedder, ["a dog", "a cat", "a dog"])
    assert embedder.asked == ["a dog", "a cat"]
    np.testing.assert_array_equal(rows[0], rows[2])


def test_no_texts_give_no_rows(cache: VectorCache) -> None:
    assert cache.get(HashEmbedder(), []).shape == (0, 256)


def test_embedders_do_not_share_vectors(cache: VectorCache) -> None:
    assert cache.get(HashEmbedder(64), ["a dog"]).shape == (1, 64)
    assert cache.get(HashEmbedder(32), ["a dog"]).shape == (1, 32)


def test_progress_counts_distinct_texts_from_what_is_there_to_all(cache: VectorCache) -> None:
    seen: list[tuple[int, int]] = []
    cache.get(HashEmbedder(), RULES[:2])
    cache.get(HashEmbedder(), [*RULES, RULES[0]], lambda done, total: seen.append((done, total)))
    assert seen == [(2, 10), (6, 10), (10, 10)]


def test_an_interrupted_call_loses_one_batch_at_most(path: Path) -> None:
    cache = VectorCache(path, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        cache.get(Counting(interrupted_at=2), RULES)
    cache.close()
    after = Counting()
    reopened = VectorCache(path)
    reopened.get(after, RULES)
    reopened.close()
    assert after.asked == RULES[8:]


@pytest.mark.parametrize(
    "blob",
    [b"", b"\0" * 127, b"\0" * 128, b"\xff" * 128, b"\0" * 256, "text", None],
    ids=["empty", "short", "zero", "not a number", "long", "text", "number"],
)
def test_a_vector_that_is_not_sound_is_embedded_again(path: Path, blob: bytes | str | None) -> None:
    cache = VectorCache(path)
    good = cache.get(HashEmbedder(64), RULES)
    other = apsw.Connection(str(path))
    other.execute("UPDATE vectors SET vector = ?", (7 if blob is None else blob,))
    other.close()
    embedder = Counting(64)
    np.testing.assert_array_equal(cache.get(embedder, RULES), good)
    assert embedder.asked == RULES
    cache.get(embedder, RULES)
    assert embedder.asked == RULES
    cache.close()


def test_a_file_that_is_no_database_is_refused_by_name(path: Path) -> None:
    path.write_bytes(b"certainly not a database" * 100)
    with pytest.raises(MemoryDamaged, match=r"vectors\.db.*delete the file"):
        VectorCache(path)


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent"):
        VectorCache(tmp_path / "absent" / "vectors.db")


def test_a_closed_cache_says_so(path: Path) -> None:
    cache = VectorCache(path)
    cache.close()
    cache.close()
    with pytest.raises(StoreError, match="closed"):
        cache.get(HashEmbedder(), ["a dog"])


def test_several_processes_fill_one_file_at_once(path: Path) -> None:
    code = (
        "import sys; from comity.memory.embed import HashEmbedder;"
        "from comity.memory.vectors import VectorCache;"
        "cache = VectorCache(sys.argv[1], batch_size=2);"
        "cache.get(HashEmbedder(64), [f'rule {n}' for n in range(200)])"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 3
    embedder = Counting(64)
    cache = VectorCache(path)
    cache.get(embedder, [f"rule {number}" for number in range(200)])
    cache.close()
    assert embedder.asked == []


@given(st.lists(st.text(max_size=5), max_size=20), st.integers(1, 7))
def test_any_texts_come_back_in_their_order(texts: list[str], batch_size: int) -> None:
    cache = VectorCache(batch_size=batch_size)
    rows = cache.get(HashEmbedder(16), texts)
    cache.close()
    np.testing.assert_allclose(rows, HashEmbedder(16).embed_passages(texts), atol=1e-3)


def test_a_cache_of_the_earlier_layout_is_taken_over(path: Path) -> None:
    good = HashEmbedder(64).embed_passages(RULES).astype(np.float16)
    keys = [hashlib.sha256(text.encode()).digest() for text in RULES]
    before = apsw.Connection(str(path))
    before.execute(
        "CREATE TABLE vectors (embedder TEXT NOT NULL, content BLOB NOT NULL, vector BLOB NOT NULL,"
        " PRIMARY KEY (embedder, content)) WITHOUT ROWID"
    )
    before.executemany(
        "INSERT INTO vectors VALUES ('hash@64', ?, ?)",
        ((key, row.tobytes()) for key, row in zip(keys, good, strict=True)),
    )
    before.close()
    for _ in range(2):
        cache, embedder = VectorCache(path), Counting(64)
        np.testing.assert_allclose(cache.get(embedder, RULES), good, atol=1e-3)
        assert embedder.asked == []
        cache.close()


def test_what_is_put_beside_what_is_there_is_kept(cache: VectorCache) -> None:
    embedder = Counting()
    cache.get(embedder, RULES[:3])
    wanted = cache.want(embedder, [*RULES[2:6], RULES[4]])
    assert (wanted.missing, wanted.there, wanted.all) == (RULES[3:6], 1, 4)
    wanted.put(RULES[4:6], HashEmbedder(64).embed_passages(RULES[4:6]))
    wanted.put(RULES[3:4], HashEmbedder(64).embed_passages(RULES[3:4]))
    assert cache.want(embedder, RULES[3:6]).missing == RULES[3:6]
    wanted.keep()
    expected = HashEmbedder(64).embed_passages([*RULES[2:6], RULES[4]])
    np.testing.assert_allclose(wanted.rows(), expected, atol=1e-3)
    np.testing.assert_array_equal(cache.get(embedder, [*RULES[2:6], RULES[4]]), wanted.rows())
    assert embedder.asked == RULES[:3]
