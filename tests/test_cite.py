"""Which rules an answer names, by marks or by their words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.cite import Cited, cite
from comity.records import Rule

RULES = [
    Rule.model_validate(
        {"id": name, "text": "x", "title": f"Title {name}", "article": "第一条", "version": 2}
        | {"valid_from": "2020-01-01", "valid_to": "2030-01-01"}
    )
    for name in "abc"
]


def ids(cited: Cited) -> list[str]:
    return [citation.id for citation in cited.citations]


def test_a_citation_holds_what_a_reader_needs() -> None:
    text = "Dogs need a leash [R2]."
    [citation] = cite(text, RULES).citations
    assert (citation.id, citation.version) == ("b", 2)
    assert (citation.label, citation.by) == ("[R2]", "mark")
    assert (citation.title, citation.article) == ("Title b", "第一条")
    assert (citation.valid_from, citation.valid_to) == (RULES[1].valid_from, RULES[1].valid_to)
    assert text[citation.start : citation.end] == "[R2]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing", []),
        ("[R2] then [R1], and [R2] again", ["b", "a"]),
        ("[2] then [1], and [2] again", ["b", "a"]),
        ("[R1, R3]", ["a", "c"]),
        ("[1, R3]", ["a", "c"]),
        ("［R2］和【R1、R3】", ["b", "a", "c"]),
        ("［2］和【1、3】", ["b", "a", "c"]),
        ("[２]和[ 3 ]", ["b", "c"]),
        ("[2] and [ R3 ]", ["c"]),
        ("[1, R3] and [2]", ["a", "c"]),
        ("[R0] [R4] [99] [-1] [1.5] [a] [R] [RR1] [R1 and R2]", []),
        ("see (R1), R1 and 1", []),
        ("[R1][2]", ["a"]),
        ("[R9][2]", []),
        ("[R01]", ["a"]),
        ("[" + "9" * 10_000 + "]", []),
        ("[R1", []),
    ],
)
def test_only_marks_of_rules_that_are_there_count(text: str, expected: list[str]) -> None:
    assert ids(cite(text, RULES)) == expected


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("[R1] and [R3]", ()),
        ("[R9]", ("[R9]",)),
        ("[R4] [R9] [R4] [R2]", ("[R4]", "[R9]")),
        ("国办发[2021]15号 [R1]", ()),
        ("see note [7]; so no [R2]", ()),
        ("[9] and [4]", ("[9]", "[4]")),
        ("【R1、R7】", ("[R7]",)),
        ("[R0]", ("[R0]",)),
        ("[R2.5] [note]", ()),
    ],
)
def test_marks_that_name_no_rule_are_told_once_each(text: str, unknown: tuple[str, ...]) -> None:
    assert cite(text, RULES).unknown == unknown


def test_without_rules_nothing_is_cited() -> None:
    assert cite("Dogs need a leash [R1].", []) == ((), ("[R1]",))


LEASH = Rule(id="leash", text="Dogs must be kept on a leash in the market square.")
SHOPS = Rule(id="shops", text="Shops must close by 20:00 on weekdays, and pay a fine of 200 euros.")
FIRES = Rule(id="fires", text="Fireworks are forbidden within twenty metres of a school.")
ENGLISH = [LEASH, SHOPS, FIRES]

DOGS_ZH = Rule(id="犬只", text="携带犬只外出的，应当使用牵引带并由成年人牵领。", title="养犬规定")
SHOPS_ZH = Rule(id="商店", text="商店工作日应当在二十时前关门，违者罚款二百元。")
NOISE_ZH = Rule(id="噪声", text="每日22时至次日6时不得使用产生噪声的设备。")
CHINESE = [DOGS_ZH, SHOPS_ZH, NOISE_ZH]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dogs must be kept on a leash in the market square.", ["leash"]),
        ("In the market square, dogs must always be on a LEASH!", ["leash"]),
        ("Shops must close by 20:00 on weekdays.", ["shops"]),
        ("携带犬只外出应当使用牵引带，由成年人牵领。", ["犬只"]),
        ("商店工作日应当在二十时前关门。", ["商店"]),
        ("每日22时至次日6时不得使用产生噪声的设备", ["噪声"]),
    ],
)
def test_an_answer_without_marks_cites_the_rule_that_it_repeats(
    text: str, expected: list[str]
) -> None:
    rules = [*ENGLISH, *CHINESE]
    cited = cite(text, rules)
    assert ids(cited) == expected
    assert cited.unknown == ()
    [citation] = cited.citations
    number = [rule.id for rule in rules].index(citation.id) + 1
    assert (citation.by, citation.label) == ("words", f"[R{number}]")
    assert text[citation.start : citation.end] == text


@pytest.mark.parametrize(
    "text",
    [
        "Shops must close by 21:00 on weekdays.",
        "Shops must close by 8pm on weekdays.",
        "Shops must pay a fine of 300 euros on weekdays.",
        "Fireworks are forbidden within thirty metres of a school.",
        "商店工作日应当在二十一时前关门。",
        "商店工作日应当在21时前关门。",
        "商店工作日应当在九时前关门。",
        "商店违者罚款三百元。",
        "每日23时至次日6时不得使用产生噪声的设备。",
    ],
)
def test_a_sentence_with_another_number_than_the_rules_does_not_repeat_it(text: str) -> None:
    assert cite(text, [*ENGLISH, *CHINESE]) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "The museum opens its doors to visitors every morning.",
        "A cyclist must carry a lamp at night in the old town.",
        "No.",
        "Yes, they must.",
        "可以。",
        "应当在前。",
        "博物馆每天上午向公众免费开放。",
        "?!…\n。",
        "",
    ],
)
def test_an_unrelated_or_a_bare_sentence_cites_nothing(text: str) -> None:
    assert cite(text, [*ENGLISH, *CHINESE]) == ((), ())


def test_three_fifths_of_a_sentences_words_are_enough_and_fewer_are_not() -> None:
    rule = Rule(id="r", text="alpha beta gamma delta epsilon zeta")
    assert ids(cite("alpha beta gamma other words", [rule])) == ["r"]
    assert ids(cite("alpha beta gamma other words more", [rule])) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "I looked it up. Shops must close by 20:00 on weekdays. So a shop breaks the law.\n"
            "Dogs must be kept on a leash in the market square. Shops must close on weekdays.",
            {
                "shops": "Shops must close by 20:00 on weekdays.",
                "leash": "Dogs must be kept on a leash in the market square.",
            },
        ),
        (
            "经查：\n商店工作日应当在二十时前关门。携带犬只外出的，应当使用牵引带！所以不可以。",
            {
                "商店": "商店工作日应当在二十时前关门。",
                "犬只": "携带犬只外出的，应当使用牵引带！",
            },
        ),
    ],
)
def test_sentences_of_two_rules_are_two_citations_in_the_order_of_the_answer(
    text: str, expected: dict[str, str]
) -> None:
    found = cite(text, [*ENGLISH, *CHINESE]).citations
    assert {each.id: text[each.start : each.end] for each in found} == expected
    assert [each.id for each in found] == list(expected)


def test_a_sentence_cites_the_rule_that_it_shares_most_with() -> None:
    near = Rule(
        id="near", text="Dogs must be kept on a leash in the park and on the market square."
    )
    exact = Rule(id="exact", text="Dogs must be kept on a leash in the park.")
    assert ids(cite("Dogs must be kept on a short leash on the market square", [exact, near])) == [
        "near"
    ]
    assert ids(cite("Dogs must be kept on a leash in the park.", [exact, near])) == ["exact"]


def test_a_known_mark_leaves_no_room_for_guesses_but_an_unknown_one_does() -> None:
    text = "Dogs must be kept on a leash in the market square {}. Shops close [{}]."
    marked = cite(text.format("[R9]", "R2"), ENGLISH)
    assert [(each.id, each.by) for each in marked.citations] == [("shops", "mark")]
    assert marked.unknown == ("[R9]",)
    guessed = cite(text.format("[R9]", "R8"), ENGLISH)
    assert [(each.id, each.by) for each in guessed.citations] == [("leash", "words")]
    assert guessed.unknown == ("[R9]", "[R8]")


@given(st.text(alphabet="[]【】R0123456789, 、 a", max_size=80))
def test_every_mark_stands_where_it_says(text: str) -> None:
    for citation in cite(text, RULES).citations:
        mark = text[citation.start : citation.end]
        assert (citation.by, mark[0] in "[【") == ("mark", True)
        assert citation.label.strip("[R]") in mark


@given(st.lists(st.sampled_from([*(r.text for r in ENGLISH), "So no.", "\n", " ", "为什么？"])))
def test_every_repeated_sentence_stands_where_it_says(parts: list[str]) -> None:
    text = "".join(parts)
    found = cite(text, ENGLISH).citations
    by_text = {rule.id: rule.text for rule in ENGLISH}
    assert [each.start for each in found] == sorted(each.start for each in found)
    assert len({each.id for each in found}) == len(found)
    for each in found:
        assert by_text[each.id] in text[each.start : each.end]


def test_a_long_answer_without_an_end_is_read_at_once() -> None:
    assert cite("a!b " * 50_000, ENGLISH) == ((), ())
    assert cite("a!b" * 50_000, ENGLISH) == ((), ())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Under the Drone Act > Part I, Article 4 it is not allowed.", ["four"]),
        ("The Drone Act, Article 4, forbids it.", ["four"]),
        ("The Drone Act, Article 41, forbids it.", []),
        ("Article 4 of another act forbids it.", []),
        ("依照《夜市办法》第三条，不可以。", ["third"]),
        ("依照《夜市办法》第三条之一，不可以。", []),
    ],
)
def test_a_rule_named_by_document_and_article_is_cited(answer: str, expected: list[str]) -> None:
    named = [
        Rule(id="four", text="No flying.", title="Drone Act > Part I", article="Article 4"),
        Rule(id="third", text="关门。", title="夜市办法", article="第三条"),
    ]
    citations = cite(answer, named).citations
    assert [citation.id for citation in citations] == expected
    assert {citation.by for citation in citations} <= {"words"}
