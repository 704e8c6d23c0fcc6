from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from comity.documents.duplicates import NEAR, SHINGLE, find_duplicates
from comity.records import Rule


def rules(*texts: str) -> list[Rule]:
    return [Rule(id=f"r{n}", text=text) for n, text in enumerate(texts)]


LONG = (
    "Vessels that enter the harbour of Port Merrow after sunset show a white light at the bow, "
    "keep to the northern side of the channel and moor at the quay between the two lights."
)


def test_equal_texts_are_exact_duplicates_whatever_their_spacing_width_and_case() -> None:
    (found,) = find_duplicates(rules("携犬应当牵绳，绳长2米。", "携犬应当牵绳， 绳长２米。"))
    assert (found.id, found.of, found.kind, found.similarity) == ("r1", "r0", "exact", 1.0)


def test_texts_that_differ_in_a_word_are_near_duplicates() -> None:
    (found,) = find_duplicates(rules(LONG, "Nets dry.", LONG.replace("two", "2")))
    assert (found.id, found.of, found.kind) == ("r2", "r0", "near")
    assert NEAR <= found.similarity < 1


def test_texts_that_differ_in_a_sentence_are_no_duplicates() -> None:
    assert find_duplicates(rules(LONG, LONG.partition(",")[0] + ". Nets dry on the slip.")) == []


def test_versions_of_one_rule_are_no_duplicates() -> None:
    versions = [Rule(id="a", text=LONG), Rule(id="a", version=2, text=LONG + " Always.")]
    same = Rule(id="a", version=3, text=LONG)
    assert find_duplicates([*versions, same]) == []


def test_many_equal_texts_are_each_reported_once() -> None:
    found = find_duplicates(rules(*["Quiet after ten."] * 100))
    assert len(found) == 99
    assert {one.of for one in found} == {"r0"}


def test_short_texts_and_no_rules_are_no_trouble() -> None:
    assert find_duplicates([]) == []
    assert find_duplicates(rules("ab", "abc", "x")) == []


def jaccard(a: str, b: str) -> float:
    first, second = (
        {text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)}
        for text in ("".join(a.split()), "".join(b.split()))
    )
    return len(first & second) / len(first | second)


@given(
    base=st.text("abcdef", min_size=60, max_size=90),
    edits=st.lists(st.tuples(st.integers(0, 59), st.sampled_from("abcdef")), max_size=4),
    others=st.lists(st.text("abcdef", min_size=20, max_size=60), max_size=5),
)
def test_a_pair_is_found_exactly_when_its_similarity_is_high_enough(
    base: str, edits: list[tuple[int, str]], others: list[str]
) -> None:
    edited = base
    for at, letter in edits:
        edited = edited[:at] + letter + edited[at + 1 :]
    found = find_duplicates(rules(base, *others, edited))
    reported = any(one.id == f"r{len(others) + 1}" for one in found)
    alike = [jaccard(edited, one) for one in (base, *others)]
    assert reported == (max(alike) >= NEAR)
