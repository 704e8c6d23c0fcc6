"""What every embedder promises. A test module makes a class of it and gives the embedder:

class TestMine(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> Embedder: ...
"""

from __future__ import annotations

import numpy as np
import pytest

from comity.memory.embed import Embedder

TEXTS = (
    "Dogs are kept on a lead in the park between eight and twenty o'clock.",
    "第三条 公园内遛犬应当使用牵引绳。",
    "Shops close at noon on the first day of the year.",
    "x",
)
TOLERANCE = 1e-3


class EmbedderContract:
    @pytest.fixture
    def embedder(self) -> Embedder:
        raise NotImplementedError("a contract test names its embedder")

    def test_passages_are_one_float32_row_a_text(self, embedder: Embedder) -> None:
        rows = embedder.embed_passages(TEXTS)
        assert rows.shape == (len(TEXTS), embedder.dimension)
        assert rows.dtype == np.float32

    def test_a_query_is_one_float32_vector(self, embedder: Embedder) -> None:
        vector = embedder.embed_query(TEXTS[0])
        assert vector.shape == (embedder.dimension,)
        assert vector.dtype == np.float32

    def test_no_texts_give_no_rows_of_the_right_width(self, embedder: Embedder) -> None:
        assert embedder.embed_passages([]).shape == (0, embedder.dimension)

    def test_all_vectors_have_unit_length(self, embedder: Embedder) -> None:
        rows = embedder.embed_passages([*TEXTS, "", " ", "\n"])
        query = embedder.embed_query("Where may I walk my dog?")
        lengths = np.linalg.norm(np.vstack([rows, query]), axis=1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-4)

    def test_the_same_text_has_the_same_vector_again(self, embedder: Embedder) -> None:
        first, second = embedder.embed_passages(TEXTS), embedder.embed_passages(TEXTS)
        np.testing.assert_allclose(first, second, atol=1e-6)
        np.testing.assert_allclose(
            embedder.embed_query(TEXTS[1]), embedder.embed_query(TEXTS[1]), atol=1e-6
        )

    def test_a_vector_does_not_depend_on_its_neighbours(self, embedder: Embedder) -> None:
        together = embedder.embed_passages([*TEXTS, "Long neighbours matter not. " * 20])
        alone = np.vstack([embedder.embed_passages([text]) for text in TEXTS])
        np.testing.assert_allclose(together[: len(TEXTS)], alone, atol=TOLERANCE)

    def test_rows_stand_in_the_order_of_the_texts(self, embedder: Embedder) -> None:
        forwards = embedder.embed_passages(TEXTS)
        backwards = embedder.embed_passages(TEXTS[::-1])
        np.testing.assert_allclose(forwards, backwards[::-1], atol=TOLERANCE)

    def test_different_texts_have_different_vectors(self, embedder: Embedder) -> None:
        rows = embedder.embed_passages(TEXTS)
        similar = rows @ rows.T - np.eye(len(TEXTS))
        assert similar.max() < 0.999

    def test_a_long_text_is_embedded_like_any_other(self, embedder: Embedder) -> None:
        long = "The owner keeps the pavement clear of snow and ice. 业主应当清除积雪。" * 200
        vector = embedder.embed_passages([long])[0]
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)

    def test_lone_surrogates_and_emoji_do_no_harm(self, embedder: Embedder) -> None:
        rows = embedder.embed_passages(["no dogs 🐕 here", "bad \ud800 character"])
        assert np.isfinite(rows).all()

    def test_the_id_is_a_stable_word(self, embedder: Embedder) -> None:
        assert embedder.id == embedder.id.strip() != ""

    @pytest.mark.parametrize(
        ("question", "near", "far"),
        [
            ("dogs in the park on a lead", TEXTS[0], TEXTS[2]),
            ("公园内遛犬要用牵引绳吗?", TEXTS[1], "第九条 商店应当在中午停止营业。"),
        ],
    )
    def test_a_question_is_nearer_to_the_rule_that_shares_its_words(
        self, embedder: Embedder, question: str, near: str, far: str
    ) -> None:
        rows = embedder.embed_passages([near, far])
        scores = rows @ embedder.embed_query(question)
        assert scores[0] > scores[1]
