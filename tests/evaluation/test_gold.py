"""Gold rules: read from a principle, tied to a memory's rules, and fetched for the oracle."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.documents.extract import extract
from comity.errors import NotFound
from comity.evaluation.exams import Question, read_exam
from comity.evaluation.gold import GoldEntry, gold_entries, gold_texts, tie
from comity.memory.memory import Memory
from comity.records import Rule, RuleRef

PRINCIPLE = "湖港市养犬办法规定:<第三条:遛狗应当牵绳。> <第七条:犬只应当登记。>"
LEASH = Rule(id="r3", title="湖港市养犬办法", article="第三条", text="遛狗应当牵绳。")
CHIP = Rule(id="r7", title="湖港市养犬办法", article="第七条", text="犬只应当登记。")


def question(principle: str, *rules: RuleRef) -> Question:
    return Question(
        id="1", stem="?", options=("a", "b"), answer="A", principle=principle, rules=rules
    )


def keys(asked: Question) -> list[tuple[str, int]]:
    return [(ref.id, ref.version) for ref in asked.rules]


@pytest.mark.parametrize(
    "principle",
    [
        PRINCIPLE,
        "湖港市养犬办法规定：<第三条：遛狗应当牵绳。><第七条：犬只应当登记。>",
        " 湖港市养犬办法 规定: < 第三条 : 遛狗应当牵绳。>\n<第七条:犬只应当登记。> ",
    ],
)
def test_a_principle_is_read_in_every_spelling(principle: str) -> None:
    assert gold_entries(principle) == (
        GoldEntry("湖港市养犬办法", "第三条", "遛狗应当牵绳。"),
        GoldEntry("湖港市养犬办法", "第七条", "犬只应当登记。"),
    )


def test_several_titles_keep_their_own_articles() -> None:
    both = f"{PRINCIPLE} 星岭公司规定:<第一条:本规定:见下。>"
    assert [(entry.title, entry.article) for entry in gold_entries(both)] == [
        ("湖港市养犬办法", "第三条"),
        ("湖港市养犬办法", "第七条"),
        ("星岭公司", "第一条"),
    ]
    assert gold_entries(both)[2].text == "本规定:见下。"


def test_a_text_may_hold_angle_brackets_and_the_words_of_the_form() -> None:
    text = "目标如下规定： >安全 >质量<高> 温度<5度。"
    entries = gold_entries(f"甲公司规定:<第一条:{text}> <第二条:乙。>")
    assert [entry.text for entry in entries] == [text, "乙。"]


def test_a_title_may_say_the_word_that_ends_it() -> None:
    (entry,) = gold_entries("湖港市若干规定规定:<第一条:甲。>")
    assert entry.title == "湖港市若干规定"


def test_another_form_names_nothing() -> None:
    assert gold_entries("") == ()
    assert gold_entries("见养犬办法第三条规定。") == ()
    assert gold_entries("养犬办法规定:<第三条:>") == ()


WORD = st.text(alphabet="甲乙丙丁 。，:>", min_size=1, max_size=12).filter(
    lambda text: text.strip(" :>") != "" and text == text.strip(" :>")
)
NUMBER = st.text(alphabet="一二三四五六七八九十百", min_size=1, max_size=4)


@given(st.lists(st.tuples(NUMBER, WORD), min_size=1, max_size=4))
def test_what_was_written_is_read(articles: list[tuple[str, str]]) -> None:
    written = " ".join(f"<第{number}条:{text}>" for number, text in articles)
    assert gold_entries(f"湖港 办法规定:{written}") == tuple(
        GoldEntry("湖港 办法", f"第{number}条", text) for number, text in articles
    )


def test_questions_are_tied_to_the_rules_that_they_name() -> None:
    tied, untied = tie([question(PRINCIPLE), question("")], [CHIP, LEASH])
    assert keys(tied) == [("r3", 1), ("r7", 1)]
    assert untied.rules == ()


def test_blanks_in_titles_do_not_count() -> None:
    rules = [LEASH.model_copy(update={"title": "湖港市\u200b养犬 办法 "})]
    assert keys(tie([question(PRINCIPLE)], rules)[0]) == [("r3", 1)]


def test_a_title_with_chapters_is_known_by_its_first_part() -> None:
    rules = [LEASH.model_copy(update={"title": "湖港市养犬办法 > 第一章"})]
    assert keys(tie([question(PRINCIPLE)], rules)[0]) == [("r3", 1)]


def test_of_rules_with_one_name_the_one_with_the_words_is_meant() -> None:
    other = LEASH.model_copy(update={"id": "elsewhere", "text": "犬只不得进入公园。"})
    later = LEASH.model_copy(update={"version": 2, "text": "遛狗应当戴嘴套。"})
    for rules in ([LEASH, other, later], [later, other, LEASH]):
        assert keys(tie([question(PRINCIPLE)], rules)[0]) == [("r3", 1)]


def test_of_versions_the_one_that_is_not_repealed_and_the_newest_with_the_words_is_meant() -> None:
    amended = LEASH.model_copy(update={"version": 2, "text": "遛狗应当牵短绳。"})
    restored = LEASH.model_copy(update={"version": 3})
    repealed = LEASH.model_copy(update={"version": 4, "status": "repealed"})
    for rules, version in (([LEASH, amended], 1), ([LEASH, amended, restored, repealed], 3)):
        for order in (rules, rules[::-1]):
            assert keys(tie([question(PRINCIPLE)], order)[0]) == [("r3", version)]


def test_a_rule_that_has_only_the_name_in_common_is_not_tied() -> None:
    other = LEASH.model_copy(update={"text": "车辆在市区行驶不得超过每小时三十公里。"})
    assert tie([question(PRINCIPLE)], [other])[0].rules == ()


def test_a_text_that_a_file_has_cut_is_still_the_rules() -> None:
    longer = LEASH.model_copy(update={"text": LEASH.text + "车辆在市区行驶不得超过三十公里。" * 9})
    assert keys(tie([question(PRINCIPLE)], [longer])[0]) == [("r3", 1)]


@pytest.mark.parametrize("location", ["湖港", "星岭"])
def test_of_rules_with_one_name_and_text_that_of_the_location_is_meant(location: str) -> None:
    rules = [
        LEASH.model_copy(update={"id": name, "audience": (name,)}) for name in ("湖港", "星岭")
    ]
    asked = question(PRINCIPLE).model_copy(update={"location": location})
    assert keys(tie([asked], rules)[0]) == [(location, 1)]


def test_a_question_that_is_tied_stays_as_it_is() -> None:
    asked = question(PRINCIPLE, RuleRef(id="mine", version=4))
    assert tie([asked], [LEASH]) == (asked,)


def test_the_oracle_gets_the_version_that_was_tied(memory: Memory) -> None:
    memory.add([LEASH, CHIP])
    memory.amend("r3", {"text": "遛狗不必牵绳。"})
    asked = question("", RuleRef(id="r3", version=1), RuleRef(id="r7", version=1))
    assert [rule.text for rule in gold_texts(asked, memory)] == [LEASH.text, CHIP.text]


def test_the_oracle_reads_an_untied_question_from_its_principle(memory: Memory) -> None:
    for known in (memory, None):
        found = gold_texts(question(PRINCIPLE), known)
        assert [(rule.id, rule.heading, rule.text) for rule in found] == [
            ("principle-1", LEASH.heading, LEASH.text),
            ("principle-2", CHIP.heading, CHIP.text),
        ]


def test_what_the_memory_lacks_is_read_from_the_principle(memory: Memory) -> None:
    memory.add(LEASH)
    (asked,) = tie([question(PRINCIPLE)], [LEASH])
    assert [rule.id for rule in gold_texts(asked, memory)] == ["r3", "principle-2"]


def test_rules_that_do_not_apply_in_the_case_are_no_gold(memory: Memory) -> None:
    memory.add([LEASH, CHIP])
    outside = RuleRef(id="r7", version=1, reason="another place")
    assert [
        r.id for r in gold_texts(question("", RuleRef(id="r3", version=1), outside), memory)
    ] == ["r3"]
    assert gold_texts(question("", outside), memory) == ()


def test_the_oracle_reads_the_rules_of_its_tenant(memory: Memory) -> None:
    memory.add(LEASH.model_copy(update={"tenant": "ours"}))
    asked = question("", RuleRef(id="r3", version=1))
    assert [rule.id for rule in gold_texts(asked, memory, tenant="ours")] == ["r3"]
    with pytest.raises(NotFound):
        gold_texts(asked, memory)


def test_a_tied_version_that_is_gone_is_an_error(memory: Memory) -> None:
    memory.add(LEASH)
    with pytest.raises(NotFound, match="no version 3"):
        gold_texts(question("", RuleRef(id="r3", version=3)), memory)


@pytest.fixture
def opo() -> Path:
    data = os.environ.get("COMITY_OPO_DATA")
    if not data:
        pytest.skip("COMITY_OPO_DATA does not name a folder with rules and questions")
    return Path(data)


@pytest.mark.parametrize(("name", "number"), [("law", 252), ("professional_morality", 174)])
def test_every_generated_question_of_opo_is_tied_to_all_that_it_names(
    opo: Path, name: str, number: int
) -> None:
    rules = extract([opo / "rules"], None, lambda _: "CN").rules
    tied = tie(read_exam(opo / "questions" / f"a_{name}.csv").questions, rules)
    assert len(tied) == number
    for asked in tied:
        named = re.findall(r"<\s*第[^:：<>]{1,12}?\s*[:：]", asked.principle)
        assert len(asked.rules) == len(named) == len(gold_entries(asked.principle)) > 0
        assert all(len(entry.text) > 5 for entry in gold_entries(asked.principle))
