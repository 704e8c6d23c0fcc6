"""What code finds wrong with one question, and what it must leave alone."""

from __future__ import annotations

import pytest

from comity.evaluation.exams import Question
from comity.evaluation.question_form import form_faults
from comity.records import Rule

QUAY = Rule(
    id="harbour/4",
    title="Harbour Rules of Merrow",
    article="Article 4",
    text="Boats longer than twelve metres moor at the outer quay between sunset and sunrise. "
    "Whoever leaves a boat at the inner quay overnight pays 40 crowns to the harbour master.",
)
DEPOSIT = Rule(
    id="rent/3",
    title="清河县住房租赁办法",
    article="第三条",
    text="押金不得超过两个月的租金。出租人应当在退房之日起二十日内退还押金，扣除维修费用的，应当出示票据。",
)


def english(**fields: object) -> Question:
    return Question.model_validate(
        {
            "id": "q1",
            "stem": "In Merrow, where does a boat of fifteen metres lie at midnight?",
            "options": ("At the outer quay", "At the inner quay", "At anchor", "Wherever it likes"),
            "answer": "A",
            **fields,
        }
    )


def chinese(**fields: object) -> Question:
    return Question.model_validate(
        {
            "id": "q2",
            "stem": "清河县的房东李某应当在退房后多久把押金还给租客？",
            "options": ("不超过二十天", "两个月之内", "一年以内", "没有期限"),
            "answer": "A",
            **fields,
        }
    )


def test_sound_questions_have_no_faults() -> None:
    assert form_faults(english(), [QUAY], names=["Merrow", "XA-ME"]) == ()
    assert form_faults(chinese(), [DEPOSIT], names=["清河县"]) == ()


def test_options_that_say_the_same_up_to_width_case_and_marks_are_equal() -> None:
    (fault,) = form_faults(english(options=("Ten crowns.", "ＴＥＮ crowns", "None")), [QUAY])
    assert fault == "Option B says the same as option A."


def test_options_that_differ_in_a_connective_only_are_equal() -> None:
    options = ("No, since it is closed.", "No, because it is closed.", "Yes.", "No, it is open.")
    (fault,) = form_faults(english(options=options), [QUAY])
    assert fault == "Option B says the same as option A."
    options = ("不可以，因为已经关门。", "可以。", "不可以，已经关门。", "不可以。")
    (fault,) = form_faults(chinese(options=options), [DEPOSIT])
    assert fault == "Option C says the same as option A."


def test_options_that_differ_in_a_decimal_point_or_a_sign_are_not_equal() -> None:
    assert form_faults(english(options=("1.5 %", "15 %", "-15 %", "15", "1,5")), [QUAY]) == ()


def test_an_option_of_marks_only_is_empty() -> None:
    assert form_faults(english(options=("Yes", "…", "No")), [QUAY]) == ("Option B is empty.",)


def test_options_that_bring_their_own_letters_are_told_and_an_initial_is_not() -> None:
    (fault,) = form_faults(english(options=("A. Yes", "B. No", "Perhaps")), [])
    assert fault == "Options A, B begin with a letter of their own."
    assert form_faults(english(options=("A. Marsh pays", "The master pays")), []) == ()


@pytest.mark.parametrize(
    "option",
    [
        "All of the above",
        "None of the other options is right",
        "Both A and B",
        "A and C are correct",
        "The same as option B",
        "The second option",
        "以上都对",
        "以上说法均不正确",
        "选项A和选项C",
        "A和B都对",
        "A项和C项",
        "全部正确",
        "第二个选项",
        "其他选项都不对",
    ],
)
def test_an_option_that_names_others_is_a_fault(option: str) -> None:
    (fault,) = form_faults(english(options=("Yes", "No", option)), [])
    assert fault.startswith("Option C names other options")


@pytest.mark.parametrize(
    "option",
    [
        "All of them must leave",
        "Both the tenant and the landlord",
        "Vitamins A and D may be sold",
        "A and the harbour master share it",
        "Persons aged 18 and above",
        "The first boat to arrive",
        "十人以上均须登记",
        "以上午的公告为准",
        "A项目的负责人",
        "全部退还给租客",
        "第二个租客优先",
    ],
)
def test_an_option_that_only_sounds_like_it_is_none(option: str) -> None:
    assert form_faults(english(options=("Yes", "No", option)), []) == ()


def test_a_right_option_that_is_far_longer_or_shorter_than_all_others_is_told() -> None:
    long = "It moors at the outer place from dusk on and its owner tells the master by letter"
    (fault,) = form_faults(english(options=(long, "At anchor", "Ashore")), [])
    assert fault == "The right option A is much longer than all the others."
    (fault,) = form_faults(english(options=("Ashore", long, long + " in time")), [])
    assert fault == "The right option A is much shorter than all the others."
    assert form_faults(english(options=("Ashore", long, "At anchor")), []) == ()


def test_a_sentence_of_a_rule_in_stem_or_option_is_copied() -> None:
    copied = "Boats longer than twelve metres moor at the outer quay between sunset and sunrise."
    (fault,) = form_faults(english(stem=f"In Merrow: {copied} Why?"), [QUAY])
    assert fault == "The stem repeats a whole sentence of Harbour Rules of Merrow Article 4."
    options = ("It moors at the inner quay and pays nothing for it", copied.upper(), "At anchor")
    (fault,) = form_faults(english(options=options), [QUAY])
    assert fault.startswith("Option B repeats a whole sentence")


def test_half_a_sentence_is_not_copied_and_a_long_run_of_words_is() -> None:
    half = ("出租人应当在退房之日起二十日内退还押金", "租客搬走满两个月以后再商量退还")
    assert form_faults(chinese(options=half), [DEPOSIT]) == ()
    rule = Rule(
        id="port/7",
        text="各类船舶在港区内航行、停泊、装卸和检修期间，应当按照港务机构公布的时间和泊位依次进出，"
        "不得擅自变更航线或者占用公共航道。",
    )
    long = (
        "船舶在港区内航行、停泊、装卸和检修期间，应当按照港务机构公布的时间和泊位依次进出，否则停"
    )
    other = "船舶可以自行决定何时进出港区，只要事后告诉港务机构就行"
    (fault,) = form_faults(chinese(options=(long, other)), [rule])
    assert fault.startswith("Option A repeats a long run of words of port/7: '船舶在港区内航行停泊")


def test_titles_names_and_numbers_that_question_and_rule_share_are_not_copied() -> None:
    title = (
        "The Harbour, Lights, Buoys, Pilots, Quays, Dues, Tides, Moorings, Wharves, Locks, "
        "Towage, Salvage, Bridges, Customs, Slipways, Signals and Ferries Act of the Isle"
    )
    rule = Rule(id="a", title=title, text=f"Whoever breaks the {title} pays 40 crowns.")
    stem = f"What does somebody pay who breaks the {title}?"
    assert form_faults(english(stem=stem), [rule]) == ()
    assert len(form_faults(english(stem=stem), [rule.model_copy(update={"title": ""})])) == 1
    office = "清河县住房和城乡建设局房屋租赁管理办公室押金纠纷调解委员会秘书处第一接待站"
    rule = Rule(id="b", title="办法", text=f"{office}受理投诉。")
    question = chinese(stem=f"租客向{office}投诉，多久得到答复？")
    assert form_faults(question, [rule], names=[office]) == ()
    assert len(form_faults(question, [rule])) == 1


def test_a_run_of_numbers_is_not_copied() -> None:
    series = ", ".join(str(n) for n in range(100, 140))
    rule = Rule(id="lots", text=f"The lots {series} are let by the master.")
    options = (f"He lets the lots {series}", "He lets none of his lots to anybody from abroad")
    assert form_faults(english(options=options), [rule]) == ()


def test_a_stem_without_the_place_or_organisation_is_told_where_one_is_wanted() -> None:
    question = english(stem="Where does a boat of fifteen metres lie at midnight?")
    (fault,) = form_faults(question, [QUAY], names=["Merrow", "Port Merrow"])
    assert fault == (
        "The stem names no place or organisation; it should name Merrow or Port Merrow."
    )
    assert form_faults(question, [QUAY]) == ()
    assert form_faults(question, [QUAY], names=[" "]) == ()


def test_a_name_counts_whatever_its_width_and_case_but_not_inside_a_word() -> None:
    assert form_faults(english(stem="Who moors at MERROW's quay?"), [], names=["Merrow"]) == ()
    assert form_faults(english(stem="Who moors in Tomerrow?"), [], names=["Merrow"]) != ()


@pytest.mark.parametrize(
    "stem",
    [
        "According to the above rule, where does the boat lie?",
        "Based on the given passage, where does the boat lie?",
        "What does this article say about boats?",
        "Which of these is right under this regulation?",
        "According to Article 4, where does the boat lie?",
        "根据上述规定，船只应当停在哪里？",
        "依照本办法，船只应当停在哪里？",
        "根据第四条，船只应当停在哪里？",
        "根据规则1，船只应当停在哪里？",
        "By [R2], where does the boat lie?",
        "By rule [1], where does the boat lie?",
    ],
)
def test_a_stem_that_points_at_a_text_nobody_sees_is_told(stem: str) -> None:
    (fault,) = form_faults(english(stem=stem), [QUAY])
    assert fault.startswith("The stem ")


def test_a_title_in_the_stem_says_which_text_is_meant() -> None:
    rule = Rule(id="b", title="Bell Order", text="Bells are silent at night.")
    named = english(stem="Under the Bell Order of Merrow, who rings by the given provisions?")
    assert form_faults(named, [rule]) == ()
    assert len(form_faults(named, [QUAY])) == 1


@pytest.mark.parametrize(
    "stem",
    [
        "Under Article 4 of the Harbour Rules of Merrow, where does the boat lie?",
        "The Harbour Rules of Merrow bind everybody. According to Article 4, who pays?",
        "The club made a rule against bells. Who may object to this rule?",
        "The quay above the lock is closed. Where does the boat lie?",
        "根据《清河县住房租赁办法》第三条，押金最多是多少？",
        "清河县港口规定船只夜间亮灯。李某违反上述规定，应当向谁缴费？",
        "本法院受理的案件中，押金应当如何退还？",
        "该县有第三条航线，谁可以使用？",
        "In the above situation, who pays?",
    ],
)
def test_a_stem_that_can_be_understood_alone_is_none(stem: str) -> None:
    assert form_faults(english(stem=stem), [QUAY]) == ()


def test_a_stem_with_options_of_its_own_or_with_the_answer_is_told() -> None:
    (fault,) = form_faults(english(stem="Where in Merrow? A. At sea B. At home"), [QUAY])
    assert fault == "The stem lists options of its own."
    options = ("It goes to the dry dock of the old mill", "It stays for one more night", "It sinks")
    stem = "A boat is too long, so it goes to the dry dock of the old mill. Where does it go?"
    (fault,) = form_faults(english(stem=stem, options=options), [])
    assert fault == "The stem holds the words of the right option A."
    assert form_faults(english(stem="Is it allowed?", options=("Allowed", "Not so")), []) == ()


def test_a_name_inside_the_name_of_something_else_does_not_count() -> None:
    def faults(stem: str) -> tuple[str, ...]:
        others = ["海南藏族自治州"]
        return form_faults(chinese(stem=stem), [], names=["海南"], others=others)

    assert "it should name 海南" in faults("海南藏族自治州的押金几天退还？")[0]
    assert faults("海南的押金与海南藏族自治州的押金，几天退还？") == ()
    stem, names = "海南藏族自治州的押金与海南的押金，几天退还？", ["海南藏族自治州"]
    assert form_faults(chinese(stem=stem), [], names=names, others=["海南"]) == ()
