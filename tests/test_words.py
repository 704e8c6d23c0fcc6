"""The terms of texts, one at a time and many at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from comity.memory.words import folded, spaced, words

PIECES = st.sampled_from(
    [
        "养犬",
        "条",
        "第5条",
        "a",
        "Dogs",
        "dog_1",
        "，",
        "。",
        " ",
        "\n",
        "\x00",
        "\x7f",
        "…",
        "（",
        "·",
    ]
)
TEXT = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


@given(st.lists(TEXT, max_size=6))
def test_many_texts_have_the_terms_that_each_has_by_itself(texts: list[str]) -> None:
    assert spaced(texts) == [" ".join(words(text)) for text in texts]


def test_every_character_has_the_same_terms_among_others_as_by_itself() -> None:
    texts = [
        f"犬{chr(code)}猫 {chr(code)}" for code in range(0x10000) if not 0xD800 <= code < 0xE000
    ]
    assert spaced(texts) == [" ".join(words(text)) for text in texts]


@given(TEXT)
def test_every_term_stands_in_the_folded_text(text: str) -> None:
    assert all(term in folded(text) for term in words(text))


def test_chinese_gives_pairs_of_neighbours_and_other_writing_words() -> None:
    assert spaced(["第五条：Dogs，犬。", "", "犬 ＡＢ１"]) == ["第五 五条 dogs 犬", "", "犬 ab1"]
