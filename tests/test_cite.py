"""Which rules an answer names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.cite import cite
from comity.records import Rule

RULES = [
    Rule.model_validate(
        {"id": name, "text": "x", "title": f"Title {name}", "article": "第一条", "version": 2}
        | {"valid_from": "2020-01-01", "valid_to": "2030-01-01"}
    )
    for name in "abc"
]


def cited(text: str) -> list[str]:
    return [citation.id for citation in cite(text, RULES)]


def test_a_citation_holds_what_a_reader_needs() -> None:
    text = "Dogs need a leash [2]."
    [citation] = cite(text, RULES)
    assert (citation.id, citation.version, citation.label) == ("b", 2, "[2]")
    assert (citation.title, citation.article) == ("Title b", "第一条")
    assert (citation.valid_from, citation.valid_to) == (RULES[1].valid_from, RULES[1].valid_to)
    assert text[citation.start : citation.end] == "[2]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing", []),
        ("[2] then [1], and [2] again", ["b", "a"]),
        ("[1, 3]", ["a", "c"]),
        ("［2］和【1、3】", ["b", "a", "c"]),
        ("[２]", ["b"]),
        ("[0] [4] [99] [-1] [1.5] [a]", []),
        ("see (1) and 1", []),
        ("[1][2]", ["a", "b"]),
        ("[" + "9" * 10_000 + "]", []),
        ("[1", []),
    ],
)
def test_only_marks_of_rules_that_are_there_count(text: str, expected: list[str]) -> None:
    assert cited(text) == expected


def test_without_rules_nothing_is_cited() -> None:
    assert cite("[1]", []) == ()


@given(st.text(alphabet="[]【】0123456789, 、 a", max_size=80))
def test_every_citation_stands_where_it_says(text: str) -> None:
    for citation in cite(text, RULES):
        assert citation.start is not None
        mark = text[citation.start : citation.end]
        assert mark[0] in "[【"
        assert citation.label.strip("[]") in mark
