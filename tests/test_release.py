"""When text leaves, however a model cuts it into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.release import Gate, Release
from comity.records import Check, Rule

RULES = [
    Rule(id="mg", text="No doses.", enforcement="block", check=Check(must_not_match="mg")),
    Rule(id="call", text="Name it.", enforcement="revise", check=Check(must_match="0800")),
]
TEXT = "Ask a doctor. It is 3.5 km away! Take 20 mg of it.\nNow。好的。Or never"


def leaves(text: str, release: Release, cuts: list[int] = []) -> tuple[str, bool]:  # noqa: B006
    gate, left = Gate(RULES, release), ""
    at = sorted({0, len(text), *(cut for cut in cuts if 0 < cut < len(text))})
    for start, end in pairwise(at):
        left += "".join(gate.take(text[start:end]))
        if gate.stopped_by:
            break
    left += "".join(gate.finish())
    assert left == gate.released
    return left, bool(gate.stopped_by)


def test_strict_lets_nothing_go_before_the_whole_was_checked() -> None:
    assert leaves(TEXT, "strict") == ("", False)


def test_observe_lets_everything_go() -> None:
    assert leaves(TEXT, "observe") == (TEXT, False)


def test_a_window_stops_before_the_sentence_that_breaks_a_rule() -> None:
    assert leaves(TEXT, "window") == ("Ask a doctor. It is 3.5 km away!", True)


def test_a_window_lets_the_last_sentence_go_at_the_end() -> None:
    assert leaves("One. Two", "window") == ("One. Two", False)
    assert leaves("One. Two mg", "window") == ("One.", True)


@pytest.mark.parametrize("release", ["strict", "window", "observe"])
def test_text_flows_where_no_rule_has_to_be_checked(release: Release) -> None:
    gate = Gate([], release)
    assert list(gate.take("Take 5 mg")) == ["Take 5 mg"]
    assert gate.release == ""


@given(st.lists(st.integers(1, len(TEXT)), max_size=20))
def test_pieces_make_no_difference_to_what_leaves(cuts: list[int]) -> None:
    assert leaves(TEXT, "window", cuts) == leaves(TEXT, "window")


@given(st.text(alphabet="ag. m!\n。0", max_size=40), st.lists(st.integers(1, 40), max_size=10))
def test_a_window_gives_the_same_for_every_cut_of_any_text(text: str, cuts: list[int]) -> None:
    whole = leaves(text, "window")
    assert leaves(text, "window", cuts) == whole
    assert "mg" not in whole[0]
