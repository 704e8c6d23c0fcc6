"""Which letter a free text chose: what is doubtful is not read."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.evaluation.exams import LETTERS
from comity.evaluation.letters import read_letter

OPTIONS = (
    "A dog may be walked in the park at any hour",
    "Dogs must be kept on a lead after dusk",
    "Only Bob may take Plan B home",
    "Cats are not allowed on the ferry",
)
ZH = ("可以随时遛狗", "遛狗应当牵绳", "狗不得进入公园", "由市政府另行规定")
JUDGED = ("Taboo", "Normal", "Expected")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        (" c. ", "C"),
        ("(c)", "C"),
        ("**C**", "C"),
        ("Ｃ", "C"),
        ("（C）", "C"),
        ("[C]", "C"),
        ("Ⓒ", "C"),
        ('"C"', "C"),
        ("C.", "C"),
        ("Answer: C", "C"),
        ("answer: c", "C"),
        ("Answer:C", "C"),
        ("ANSWER: A", "A"),
        ("Answer: (B)", "B"),
        ("**Answer:** D", "D"),
        ("### Answer\n\nD", "D"),
        ("Answer C", "C"),
        ("Final answer: B.", "B"),
        ("The answer is C", "C"),
        ("The answer is **C**.", "C"),
        ("The correct answer is option B, because the rule says so.", "B"),
        ("The correct answer to this question is: D", "D"),
        ("The answer is A.", "A"),
        ("The answer is A because a dog may run there.", "A"),
        ("The answer is probably C.", "C"),
        ("The correct option is therefore D.", "D"),
        ("My choice is B", "B"),
        ("Bob … C", "C"),
        ("Bob says the answer is C", "C"),
        ("Bob would choose C.", "C"),
        ("Bob thinks it is C.", "C"),
        ("Bob and Alice must leave the park. C", "C"),
        ("I would go with option D.", "D"),
        ("I'd say B.", "B"),
        ("C. Only some may do that.", "C"),
        ("C) Only some may do that", "C"),
        ("C: that is what the rule says", "C"),
        ("C because the rule says so", "C"),
        ("C, because A and B are wrong", "C"),
        ("C, not A", "C"),
        ("Option C. It follows from the rule.", "C"),
        ("C\n\nA is wrong since dogs are banned. B is wrong as well.", "C"),
        ("The answer is not A but B", "B"),
        ("The answer isn't A but B.", "B"),
        ("Not A, but B.", "B"),
        ("It is not option A but option D.", "D"),
        ("The answer is B, not A.", "B"),
        ("The answer is B rather than A.", "B"),
        ("I choose B instead of C.", "B"),
        ("A is wrong because dogs are banned, so the answer is D", "D"),
        ("A is wrong. B is wrong. So the answer is D, and C is wrong.", "D"),
        ("A, B and C are wrong. Therefore, D.", "D"),
        ("Neither A nor B fits. The answer is C.", "C"),
        ("A is tempting, B too strict, C too lax, D unrelated. Therefore: B", "B"),
        ("C is the correct answer.", "C"),
        ("C is correct.", "C"),
        ("A is wrong, B is wrong, D is wrong, and C is right.", "C"),
        ("The statement in D is wrong, so the answer is D.", "D"),
        ("A dog may not run there. The answer is C.", "C"),
        ("Vitamin C is irrelevant; the answer is B.", "B"),
        ("A and B signed a contract. The answer is C.", "C"),
        ("If a dog is loose, its owner must pay, so the answer is C.", "C"),
        ('{"choice": "B"}', "B"),
        ('```json\n{"answer": "b"}\n```', "B"),
        ('{"reason": "A is wrong", "choice": "D"}', "D"),
        ("{'choice': 'B'}", "B"),
        ("<answer>C</answer>", "C"),
        (r"The result is \boxed{C}.", "C"),
        (r"\boxed{\text{D}}", "D"),
        ("<think>A? No. The answer is A or B.</think>\nC", "C"),
        ("Which one is right? C", "C"),
        ("Answer: A or B? I choose B.", "B"),
        ("I am unsure between B and C, but I'd go with C.", "C"),
        ("As an AI, I can't give legal advice, but the answer is C.", "C"),
        ("So the right one is C.", "C"),
        ("First I thought of A. Wait, that is for cats. The answer is C.", "C"),
        ("It's definitely D.", "D"),
        ("The rule [R2] settles it. Answer: B [R2]", "B"),
        ("One might say the answer is A, but it is B.", "B"),
        ("Actually, the answer is C.", "C"),
        ("The answer is B. The rule actually asks for a leash.", "B"),
        ("At least two days must pass, so the answer is C.", "C"),
        ("The most appropriate answer is A.", "A"),
        ("Answer: B\n\nA. wrong\nC. wrong\nD. wrong", "B"),
        ("A. x\nB. y\nC. z\nD. w\n\nAnswer: B", "B"),
        ("A. x\nB. y\nC. z\nD. w\n\nC", "C"),
    ],
)
def test_a_conclusion_in_english_is_read(text: str, letter: str) -> None:
    assert read_letter(text, OPTIONS).letter == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("答案：Ｃ", "C"),
        ("答案：C", "C"),
        ("答案是C。", "C"),
        ("答案C", "C"),
        ("正确答案为选项B。", "B"),
        ("正确的是D", "D"),
        ("选C", "C"),
        ("我选择C。", "C"),
        ("应选（B）。", "B"),
        ("选C项", "C"),
        ("选C，因为规则如此。", "C"),
        ("C。因为狗不能进公园", "C"),
        ("C、狗不得进入", "C"),
        ("C.不得进入", "C"),
        ("C项正确", "C"),
        ("C选项符合题意。", "C"),
        ("不是A，而是B", "B"),
        ("答案不是A，而是B。", "B"),
        ("正确答案不是A而是C", "C"),
        ("不选A，选B", "B"),
        ("A错误，B错误，D错误，C正确。", "C"),
        ("A、B、C正确，D错误，故选D。", "D"),
        ("A项正确，B项正确，C项正确，D项错误。故选D", "D"),
        ("A可以，B不行，C太严，D无关。故选B", "B"),
        ("综上，答案为B", "B"),
        ("综上所述，选B。", "B"),
        ("综上：B", "B"),
        ("因此，B。", "B"),
        ("不合规定故选C", "C"),
        ("C（狗不得进入）", "C"),
        ("答案：C（狗不得进入）", "C"),
        ("A选项说法错误，B选项说法错误，C选项说法正确，D选项说法错误。", "C"),
        ("排除A、B、D，选C", "C"),
        ("如果选A，就错了；所以选B。", "B"),
        ("最可能的答案是C", "C"),
        ("由此可见C正确", "C"),
        ("首先排除A，其次排除B，C项也不对，答案只能是D", "D"),
        ("【答案】C", "C"),
        ("【C】", "C"),
        ("维生素C与本题无关，答案是A。", "A"),
        ('{"答案": "B"}', "B"),
    ],
)
def test_a_conclusion_in_chinese_is_read(text: str, letter: str) -> None:
    assert read_letter(text, ZH).letter == letter


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no letter"),
        ("I cannot answer", "no letter"),
        ("I cannot answer that question.", "no letter"),
        ("无法回答", "no letter"),
        ("A dog may swim here.", "no letter"),
        ("Answer: A dog may swim here.", "no letter"),
        ("Bob", "no letter"),
        ("BAD", "no letter"),
        ("All of the above", "no letter"),
        ("Vitamin C helps.", "no letter"),
        ("He proposed Plan B.", "no letter"),
        ("Under section 3(a) of the Act it is banned.", "no letter"),
        ("See paragraph (b).", "no letter"),
        ("A公司应当承担责任", "no letter"),
        ("A市的居民可以进入", "no letter"),
        ("应当补充维生素C。", "no letter"),
        ("A-Law is the name of the set.", "no letter"),
        ("It is written in C++.", "no letter"),
        ("Washington, D.C.", "no letter"),
        ("<think>The answer is C", "no letter"),
        ("A and C", "two letters: A, C"),
        ("A, C", "two letters: A, C"),
        ("A/C", "two letters: A, C"),
        ("Both A and C.", "no conclusion about A, C"),
        ("The answer is A and C", "two letters: A, C"),
        ("The answer is C or D.", "two letters: C, D"),
        ("The answer is A, B or D.", "three letters: A, B, D"),
        ("Answer: A, C are correct", "two letters: A, C"),
        ("答案：AC", "two letters: A, C"),
        ("选A和C", "two letters: A, C"),
        ("故选ABD", "three letters: A, B, D"),
        ("A、C", "two letters: A, C"),
        ('{"answer": ["A", "C"]}', "two letters: A, C"),
        ("Answer: A. No: the answer is B.", "two letters: A, B"),
        ("C. But the correct answer is D.", "two letters: C, D"),
        ("故选B。综上，答案为C", "two letters: B, C"),
        ('The answer is A. {"choice": "B"}', "two letters: A, B"),
        ("A is correct. B is correct.", "two letters: A, B"),
        ("A正确，B正确。", "two letters: A, B"),
        ("Answer: C. Wait, that is for cats.", "second thoughts about C"),
        ("E", "E is none of the options"),
        ("Answer: E", "E is none of the options"),
        ("选F", "F is none of the options"),
        ('{"choice": "Z"}', "Z is none of the options"),
        ("C. Dogs must be kept on a lead after dusk", "two letters: B, C"),
        ("A is wrong.", "no conclusion about A"),
        ("A、B错误", "no conclusion about A, B"),
        ("The answer is not A.", "no conclusion about A"),
        ("I do not think the answer is C.", "no conclusion about C"),
        ("I cannot say whether it is C.", "no conclusion about C"),
        ("It might be C.", "no conclusion about C"),
        ("Perhaps the answer is C.", "no conclusion about C"),
        ("答案可能是C", "no conclusion about C"),
        ("C?", "no conclusion about C"),
        ("Grade: A", "no conclusion about A"),
        ("The answer is C. However, A is also correct.", "second thoughts about C"),
        ("The answer is C, but A could also be right.", "second thoughts about C"),
        ("选C。不过A也可以。", "second thoughts about C"),
        ("Is it C?", "no conclusion about C"),
        ("答案是C吗？", "no conclusion about C"),
        ("The answer is C, unless the dog is loose.", "no conclusion about C"),
        ("Some say the answer is C.", "no conclusion about C"),
        ("Most people would choose A.", "no conclusion about A"),
        ("Many would choose A.", "no conclusion about A"),
        ("It is tempting to choose B.", "no conclusion about B"),
        ("The worst answer is A.", "no conclusion about A"),
        ("The least likely answer is A.", "no conclusion about A"),
        ("Answer: C. Actually, D.", "second thoughts about C"),
        ("He claims the answer is C, which is false.", "no conclusion about C"),
        ("So C, the driver, must pay.", "no conclusion about C"),
        ("C, because it fits. Hmm, that is for cats.", "second thoughts about C"),
        ("Instructions: reply with A or B.", "no conclusion about A, B"),
        ("If the owner agrees, the answer is C.", "no conclusion about C"),
        ("如果主人同意，选C", "no conclusion about C"),
        ("A, the driver, is liable to B.", "no conclusion about A"),
        ("A is liable.", "no conclusion about A"),
        ("The text of A is longer than that of B.", "no conclusion about A, B"),
    ],
)
def test_what_is_doubtful_is_not_read_and_the_reason_is_told(text: str, reason: str) -> None:
    reading = read_letter(text, OPTIONS)
    assert reading.letter == ""
    assert reading.reason == reason


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("Dogs must be kept on a lead after dusk.", OPTIONS, "B"),
        ("dogs must be kept\non a lead after dusk", OPTIONS, "B"),
        ("Only Bob may take Plan B home.", OPTIONS, "C"),
        ("A dog may be walked in the park at any hour", OPTIONS, "A"),
        ("The rule says: Cats are not allowed on the ferry.", OPTIONS, "D"),
        ("C. Only Bob may take Plan B home", OPTIONS, "C"),
        ("Only Bob may take Plan B home (C)", OPTIONS, "C"),
        ("The answer is Dogs must be kept on a lead after dusk", OPTIONS, "B"),
        ("根据规则，遛狗应当牵绳。", ZH, "B"),
        ("应当选择：狗不得进入公园", ZH, "C"),
        ("Taboo", JUDGED, "A"),
        ("This is normal.", JUDGED, "B"),
        ("Answer: Expected", JUDGED, "C"),
        ("不合法", ("合法", "不合法"), "B"),
        ("合法", ("合法", "不合法"), "A"),
        ("It must be paid and filed.", ("must be paid", "must be paid and filed"), "B"),
    ],
)
def test_an_option_repeated_word_for_word_is_read(
    text: str, options: tuple[str, ...], letter: str
) -> None:
    assert read_letter(text, options).letter == letter


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Not so: Dogs must be kept on a lead after dusk is false.", OPTIONS),
        ("It is not true that cats are not allowed on the ferry.", OPTIONS),
        ("Perhaps dogs must be kept on a lead after dusk.", OPTIONS),
        (" ".join(OPTIONS[:2]), OPTIONS),
        ("According to option A, dogs must be kept on a lead after dusk", OPTIONS),
        ("It is not taboo.", JUDGED),
        ("Normal people expected this.", JUDGED),
        ("对于此事没有规定", ("对", "错")),
        ("The sign that dogs must be kept on a lead after dusk has been stolen.", OPTIONS),
        ("从知道权利受到侵害之日起算", ("权利受到侵害", "知道权利受到侵害")),
        ("狗不得进入公园、车站和商场。", ZH),
        ("由市政府另行规定的事项，不在此列。", ZH),
    ],
)
def test_an_option_that_is_denied_doubted_or_one_of_several_is_not_read(
    text: str, options: tuple[str, ...]
) -> None:
    assert read_letter(text, options).letter == ""


def test_options_that_are_letters_themselves_are_not_read() -> None:
    assert read_letter("B", ("B", "A", "O")).reason == "the options are letters themselves"


def test_an_analysis_that_goes_through_the_options_in_one_line_is_no_conclusion() -> None:
    text = "选项A：虽然方便，但是违反规定；选项B：符合规定；选项C：过于严格；选项D：与本题无关。"
    assert read_letter(text, ZH).letter == ""
    assert read_letter(text.replace("选项A", "A选项"), ZH).letter == ""
    assert read_letter(f"{text}故选B。", ZH).letter == "B"


def test_a_list_of_the_options_alone_is_no_conclusion() -> None:
    listed = "\n".join(
        f"{letter}. {option}" for letter, option in zip("ABCD", OPTIONS, strict=True)
    )
    assert read_letter(listed, OPTIONS).letter == ""
    assert read_letter(f"{listed}\nAnswer: D", OPTIONS).letter == "D"


@pytest.mark.parametrize(
    "piece", ["A ", "A, ", "\n", " ", "{", '"answer": "', "A.B", "选", "(A) ", "."]
)
def test_a_very_long_text_is_read_in_time_that_grows_with_its_length(piece: str) -> None:
    def seconds(times: int) -> float:
        started = time.perf_counter()
        read_letter(piece * times, (*OPTIONS[:3], "No"))
        return time.perf_counter() - started

    assert min(seconds(20_000) for _ in range(2)) < 40 * max(seconds(2_000), 0.01)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_a_number_of_options_without_letters_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} options"):
        read_letter("A", ["x"] * count)


WORDS = (
    "A|B|C|D|E|H|Z|AC|a|b|Ｃ|Answer|answer:|The|is|not|but|and|or|so|dog|because|:|.|,|。\n|(|)|**|{|}|"
    '"choice":|"|\'|\ue001|<think>|</think>|故选|选|答案|是|错误|正确'
)
FRAGMENTS = st.sampled_from(sorted(WORDS.split("|")))


@given(
    st.one_of(st.text(), st.lists(FRAGMENTS, max_size=25).map(" ".join)),
    st.lists(st.text(max_size=12), min_size=2, max_size=8),
)
def test_a_letter_that_is_no_option_is_never_read(text: str, options: list[str]) -> None:
    reading = read_letter(text, options)
    assert reading.letter in ("", *LETTERS[: len(options)])
    assert bool(reading.letter) != bool(reading.reason)


@given(st.sampled_from("ABCD"), st.lists(FRAGMENTS, max_size=12).map(" ".join))
def test_two_conclusions_that_disagree_are_never_read(letter: str, between: str) -> None:
    other = "ABCD"[("ABCD".index(letter) + 1) % 4]
    text = f"Answer: {letter}\n{between}\nAnswer: {other}"
    if "think>" not in between:
        assert read_letter(text, OPTIONS).letter == ""
