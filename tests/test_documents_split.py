from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.documents.split import Passage, split
from data_documents import document

CLOUD_RIDGE = """云岭市公共场所养犬管理条例

（2031年3月2日云岭市第四届人民代表大会常务委员会第九次会议通过）

目　录
第一章　总则
第二章　携犬出户

第一章　总则

第一条　为了规范养犬行为，维护公共秩序，制定本条例。
第二条　本条例所称公共场所，是指：
（一）道路、广场和公园；
（二）商场、医院；
（三）市人民政府公布的其他场所。
第三条　违反本条例第二条的规定，或者不执行
第二条、第四条所列措施的，依照第五条处理。
第三条之一：导盲犬不受前条限制。

第二章　携犬出户
第一节 一般规定
第 四 条 携犬出户应当牵绳，绳长不得超过二米。
第5条携犬乘坐电梯的，应当避让老人和儿童。
附件一 收费标准
登记每年五十元。
"""

PORT_MERROW = """\
Port Merrow
Harbour Ordinance

TABLE OF CONTENTS
Article 1. Scope ................ 2
Article 2. Definitions .......... 2

CHAPTER I
GENERAL PROVISIONS

Article 1. This Ordinance applies to every vessel. A master who acts under
Section 4 of the Coast Act, or under
Article 9 of this Ordinance, is not bound.

Article 2
Definitions
In this Ordinance:
(a) "vessel" means anything that floats and is steered;
(b) "quay" means the wall between the two lights.

Chapter II: Mooring

Art. 3 Vessels moor at the quay only.
Article 3-2 Rafts moor at the slip.

Schedule A: Fees
The fee for a night is 12 crowns.
"""


def articles(text: str, format: str = "text") -> list[tuple[str, str]]:
    return [(one.article, one.text) for one in passages(text, format)]


def passages(text: str, format: str = "text") -> list[Passage]:
    return split(document(text, format))  # type: ignore[arg-type]


def test_a_chinese_statute_becomes_its_articles() -> None:
    names = [one.article for one in passages(CLOUD_RIDGE)]
    expected = ["序言", "第一条", "第二条", "第三条", "第三条之一", "第四条", "第5条", ""]
    assert names == expected


def test_chapters_and_sections_are_the_title_path() -> None:
    titles = {one.article: one.title for one in passages(CLOUD_RIDGE)}
    name = "云岭市公共场所养犬管理条例"
    assert titles["第三条"] == f"{name} > 第一章 总则"
    assert titles["第四条"] == f"{name} > 第二章 携犬出户 > 第一节 一般规定"
    assert titles[""] == f"{name} > 附件一 收费标准"


def test_a_definition_keeps_its_list_of_terms() -> None:
    text = dict(articles(CLOUD_RIDGE))["第二条"]
    assert text.startswith("本条例所称公共场所，是指：")
    assert text.endswith("（三）市人民政府公布的其他场所。")


def test_a_reference_at_the_start_of_a_broken_line_starts_no_article() -> None:
    text = dict(articles(CLOUD_RIDGE))["第三条"]
    assert text.endswith("依照第五条处理。")
    assert "Article 9 of this Ordinance, is not bound." in dict(articles(PORT_MERROW))["Article 1"]


def test_an_english_ordinance_becomes_its_articles() -> None:
    found = [(one.title, one.article) for one in passages(PORT_MERROW)]
    name = "Port Merrow Harbour Ordinance"
    assert found == [
        (f"{name} > CHAPTER I GENERAL PROVISIONS", "Article 1"),
        (f"{name} > CHAPTER I GENERAL PROVISIONS", "Article 2"),
        (f"{name} > Chapter II: Mooring", "Art. 3"),
        (f"{name} > Chapter II: Mooring", "Article 3-2"),
        (f"{name} > Schedule A: Fees", ""),
    ]


@pytest.mark.parametrize(
    "reference",
    [
        "第三条的规定不适用于渔船。",
        "第三条第二款所列的船只除外。",
        "第三条、第四条和第五条不适用。",
        "第三条至第五条不适用。",
        "第三条规定的费用加倍。",
        "Article 3 of this Ordinance does not apply.",
        "Article 3, paragraph 2, does not apply.",
        "Section 3 applies to rafts as well.",
        "Section 3(2) and Section 4 do not apply.",
        "§ 3 of the Coast Act prevails.",
    ],
)
def test_a_line_that_goes_on_as_a_reference_starts_no_article(reference: str) -> None:
    label = "第一条" if reference.startswith("第") else "Article 1"
    text = f"Title\n\n{label} First words.\n{reference}"
    assert [name for name, _ in articles(text)] == [label]


@pytest.mark.parametrize(
    ("line", "name", "body"),
    [
        ("第十二条中华人民共和国的船只免费。", "第十二条", "中华人民共和国的船只免费。"),
        ("第二十一条：船只应当登记。", "第二十一条", "船只应当登记。"),
        ("第 7 条　船只应当登记。", "第7条", "船只应当登记。"),
        ("第一百零二条之二 船只应当登记。", "第一百零二条之二", "船只应当登记。"),
        ("ARTICLE IV. Vessels are registered.", "ARTICLE IV", "Vessels are registered."),
        ("Art. 5 - Vessels are registered.", "Art. 5", "Vessels are registered."),
        ("Sec. 12. Vessels are registered.", "Sec. 12", "Vessels are registered."),
        ("§ 12-4 Vessels are registered.", "§ 12-4", "Vessels are registered."),
        ("Section 2.1: Vessels are registered.", "Section 2.1", "Vessels are registered."),
        (
            "Article 5(1) Every vessel is registered.",
            "Article 5",
            "(1) Every vessel is registered.",
        ),
    ],
)
def test_labels_are_read_in_all_their_forms(line: str, name: str, body: str) -> None:
    assert (name, body) in articles(f"Title\n\n{line}\n")


def test_markdown_headings_are_articles_and_chapters() -> None:
    text = (
        "# House Rules\n\n## 2. Pets\n\n### Article 4: Dogs\n\nDogs wear a lead.\n\n"
        "#### Exceptions\n\nGuide dogs do not.\n\n## Noise\n\nQuiet after ten.\n"
    )
    assert [(one.title, one.article, one.text) for one in passages(text, "markdown")] == [
        (
            "House Rules > 2. Pets",
            "Article 4",
            "Dogs\n\nDogs wear a lead.\n\n#### Exceptions\n\nGuide dogs do not.",
        ),
        ("House Rules > Noise", "", "Quiet after ten."),
    ]


def test_the_items_of_a_list_are_rules_with_the_sentence_that_introduces_them() -> None:
    text = "# Gifts\n\nEmployees must not:\n\n- accept money;\n  - nor vouchers;\n- give money.\n"
    first, second = passages(text, "markdown")
    assert first.text == "Employees must not:\n\n- accept money;\n  - nor vouchers;"
    assert (second.text, second.context) == (
        "Employees must not:\ngive money.",
        "Employees must not:",
    )


def test_the_numbers_of_a_list_name_its_rules() -> None:
    text = "Pool rules\n\n1. No running\n2. No glass\n3. No dogs\n"
    assert articles(text) == [("1", "No running"), ("2", "No glass"), ("3", "No dogs")]


def test_numbered_headings_are_the_title_path_and_numbered_clauses_the_rules() -> None:
    text = (
        "Code of Conduct\n\n1. Gifts\n1.1 No gift above 50 crowns is accepted.\n"
        "1.2 Every gift is registered.\n2. Travel\n2.1 Trains come first.\n"
    )
    found = [(one.title, one.article, one.text) for one in passages(text)]
    assert found == [
        ("Code of Conduct > 1. Gifts", "1.1", "No gift above 50 crowns is accepted."),
        ("Code of Conduct > 1. Gifts", "1.2", "Every gift is registered."),
        ("Code of Conduct > 2. Travel", "2.1", "Trains come first."),
    ]


def test_chinese_numbered_clauses_stand_under_their_headings() -> None:
    text = (
        "云岭公司考勤办法\n\n一、工作时间\n（一）九时上班。\n（二）十八时下班。\n"
        "二、请假应当提前一天。\n"
    )
    found = [(one.title, one.article, one.text) for one in passages(text)]
    assert found == [
        ("云岭公司考勤办法 > 一、工作时间", "（一）", "九时上班。"),
        ("云岭公司考勤办法 > 一、工作时间", "（二）", "十八时下班。"),
        ("云岭公司考勤办法", "二", "请假应当提前一天。"),
    ]


def test_articles_that_hold_sections_are_chapters() -> None:
    text = (
        "Charter\n\nArticle I\nThe Council\n\nSection 1. It meets weekly.\n\n"
        "Section 2. It votes.\n\nArticle II\nThe Mayor\n\nSection 1. The mayor presides.\n"
    )
    found = [(one.title, one.article) for one in passages(text)]
    assert found == [
        ("Charter > Article I The Council", "Section 1"),
        ("Charter > Article I The Council", "Section 2"),
        ("Charter > Article II The Mayor", "Section 1"),
    ]


def test_sections_that_hold_articles_are_chapters_with_their_captions() -> None:
    text = (
        "Data Act\n\nTITLE II\nRIGHTS\n\nChapter 1: Access\n\nArticle 8\nScope\n\n"
        "Everybody may ask.\n\nSection 1\nWays to ask\n\nArticle 9\nLetters\n\nA letter will do.\n"
    )
    found = [(one.title, one.article, one.text) for one in passages(text)]
    path = "Data Act > TITLE II RIGHTS > Chapter 1: Access"
    assert found == [
        (path, "Article 8", "Scope\n\nEverybody may ask."),
        (f"{path} > Section 1 Ways to ask", "Article 9", "Letters\n\nA letter will do."),
    ]


def test_a_text_without_structure_becomes_its_paragraphs() -> None:
    text = "Whoever arrives last\nstands at the end.\n\nGuests take off their shoes.\n"
    assert [one.text for one in passages(text)] == [
        "Whoever arrives last\nstands at the end.",
        "Guests take off their shoes.",
    ]
    assert passages(text)[0].title == "bylaws"


def test_a_long_article_is_cut_at_its_sub_items_and_each_part_repeats_the_lead_in() -> None:
    items = "\n".join(f"（{n}）船只第{n}类应当在港口办公室登记并缴纳费用；" for n in "一二三四五六")
    text = f"港口条例\n\n第一条 船长应当遵守下列规定：\n{items}\n第二条 完。"
    parts = split(document(text), longest=80)
    assert [one.article for one in parts] == [
        "第一条 (1/3)",
        "第一条 (2/3)",
        "第一条 (3/3)",
        "第二条",
    ]
    assert all(one.text.startswith("船长应当遵守下列规定：") for one in parts[:3])
    assert parts[1].context == "船长应当遵守下列规定："
    assert parts[1].text.splitlines()[1].startswith("（三）")
    assert all(len(one.text) <= 80 for one in parts)


def test_a_long_article_without_sub_items_is_cut_at_sentences() -> None:
    sentences = " ".join(f"Vessel number {n} pays a fee of {n} crowns a night." for n in range(30))
    parts = split(document(f"Fees\n\nArticle 1. {sentences}"), longest=300)
    assert len(parts) > 4
    assert all(one.text.endswith(".") and len(one.text) <= 300 for one in parts)


def test_a_word_longer_than_a_part_is_cut_and_kept() -> None:
    parts = split(document("Title\n\nArticle 1. " + "x" * 500), longest=100)
    assert "".join(one.text for one in parts) == "x" * 500


# Sentences that never end a line as a heading would, in both languages, with references inside.
SENTENCES = st.sampled_from(
    [
        "船只应当登记。",
        "依照本条例第三条的规定，船长负责。",
        "违反第十二条第二款的，处五十元罚款；",
        "Vessels are registered, as Article 3 of the Coast Act says.",
        "Under Section 12 and § 4, the fee is 12 crowns.",
        "The master answers for it (see Chapter 2 of the Act).",
    ]
)
BODIES = st.lists(SENTENCES, min_size=1, max_size=30).map(" ".join)


@given(bodies=st.lists(BODIES, min_size=1, max_size=8), chinese=st.booleans())
@settings(deadline=None)
def test_every_article_is_found_whatever_its_sentences_refer_to(
    bodies: list[str], chinese: bool
) -> None:
    labels = [f"第{n}条" if chinese else f"Article {n}." for n in range(1, len(bodies) + 1)]
    text = "Title\n\n" + "\n".join(f"{a} {b}" for a, b in zip(labels, bodies, strict=True))
    found = split(document(text), longest=10_000)
    assert [one.text for one in found] == bodies
    assert [one.article for one in found] == [label.rstrip(".") for label in labels]


LINES = st.one_of(
    SENTENCES,
    BODIES,
    st.just(""),
    st.sampled_from(
        [
            "第一章 总则",
            "第二条 船只应当登记。",
            "Article 3",
            "Section 4. Vessels moor.",
            "- a bullet point.",
            "  - nested.",
            "1. First.",
            "2.1 Second.",
            "一、工作时间",
            "（一）九时上班。",
            "Chapter II: Mooring",
            "## Heading",
            "They must not:",
            "plain words",
        ]
    ),
    st.text("ab第条一.:。 \u4e00(", max_size=12),
)


@given(
    lines=st.lists(LINES, min_size=1, max_size=25),
    markup=st.booleans(),
    longest=st.sampled_from([60, 200, 1200]),
)
@settings(deadline=None, max_examples=300)
def test_nothing_but_headings_labels_and_marks_is_lost(
    lines: list[str], markup: bool, longest: int
) -> None:
    text = "Title of it\n\n" + "\n".join(lines)
    found = split(document(text, "markdown" if markup else "text"), longest)
    assert all(a.end <= b.start for a, b in pairwise(found))
    for one in found:
        own = text[one.start : one.end]
        assert own == own.strip() != ""
        assert one.text.endswith(own)
        assert one.text[: -len(own)].strip() == one.context
    left = text
    for one in reversed(found):
        left = left[: one.start] + "\n" * (len(left[one.start :]) > 0) + left[one.end :]
    for line in filter(None, (piece.strip() for piece in left.splitlines())):
        assert line != "They must not:"
        assert not re.search(r"[。；]$", line), f"a sentence is lost: {line}"
