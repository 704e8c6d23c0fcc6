"""Questions that ask the same, and right letters spread evenly over a set."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.evaluation.exams import LETTERS, Question
from comity.evaluation.question_set import balanced, set_faults
from comity.records import Scope


def asks(name: str, stem: str, *options: str, **fields: object) -> Question:
    return Question.model_validate(
        {"id": name, "stem": stem, "options": options or ("Yes", "No"), "answer": "A", **fields}
    )


LONG = "Ms Oda sells pickled herring from a boat in Merrow on a Sunday morning in {month}. May she?"


def test_a_question_asked_twice_is_told_whatever_the_order_of_its_options() -> None:
    first = asks("a", "May Ms Oda fish here?", "Yes", "No", "At night")
    again = asks("b", "May Ms Oda fish  here", "No.", "at night", "Yes", answer="C")
    other = asks("c", "May Ms Oda swim in the lock at noon?", "Yes", "No", "At night")
    assert set_faults([first, again, other]) == {"b": "It asks the same as question a."}


def test_a_question_that_differs_in_a_word_resembles_the_first_which_stays() -> None:
    near = [asks(str(n), LONG.format(month=month)) for n, month in enumerate(("June", "July"))]
    found = set_faults(near)
    assert list(found) == ["1"]
    assert found["1"].startswith("It resembles question 0 (similarity 0.")
    assert set_faults(near, near=0.99) == {}


def test_a_pair_may_resemble_each_other_but_not_be_equal() -> None:
    before, after = (
        asks(name, LONG.format(month=month), pair="p1")
        for name, month in (("before", "June"), ("after", "July"))
    )
    again = after.model_copy(update={"id": "again"})
    assert set_faults([before, after]) == {}
    assert set_faults([before, after, again]) == {"again": "It asks the same as question after."}


def test_the_same_words_for_another_scope_are_another_question() -> None:
    here, there = (asks(p, LONG, scope=Scope(place=(p,))) for p in ("XA-ME", "XA-OS"))
    assert set_faults([here, there]) == {}


def test_a_set_of_none_has_no_faults_and_equal_ids_are_refused() -> None:
    assert set_faults([]) == {}
    with pytest.raises(ValueError, match="same id"):
        set_faults([asks("a", "One?"), asks("a", "Two?")])


words = st.text("abcdefgh 甲乙丙", min_size=1, max_size=12).filter(lambda text: text.strip())


@st.composite
def questions(draw: st.DrawFn, counts: st.SearchStrategy[int]) -> Question:
    options = [f"option text {n} {draw(words).strip()}" for n in range(draw(counts))]
    answer = draw(st.sampled_from(LETTERS[: len(options)]))
    return Question(
        id=str(draw(st.uuids())),
        stem=f"which {draw(words)}",
        options=tuple(options),
        answer=answer,
        analysis=" ".join(
            f"Option {LETTERS[n]} says “{option}”." for n, option in enumerate(options)
        ),
    )


def right(question: Question) -> str:
    return question.options[LETTERS.index(question.answer)]


@given(st.lists(questions(st.integers(2, 6)), max_size=20), st.integers())
def test_balancing_keeps_questions_options_and_the_right_text(
    given_: list[Question], seed: int
) -> None:
    done = balanced(given_, seed)
    assert [question.id for question in done] == [question.id for question in given_]
    for before, after in zip(given_, done, strict=True):
        assert right(after) == right(before)
        assert sorted(after.options) == sorted(before.options)
        assert {"options", "answer", "analysis"} >= {
            name for name in Question.model_fields if getattr(before, name) != getattr(after, name)
        }


@given(st.integers(2, 6).flatmap(lambda n: st.lists(questions(st.just(n)), max_size=30)))
def test_letters_of_questions_with_equally_many_options_differ_by_one_at_most(
    given_: list[Question],
) -> None:
    used = Counter(question.answer for question in balanced(given_, 3))
    letters = given_[0].letters if given_ else ()
    counts = [used[letter] for letter in letters]
    assert not counts or max(counts) - min(counts) <= 1


@given(st.lists(questions(st.integers(2, 6)), max_size=8), st.integers())
def test_letters_in_the_analysis_go_with_their_options(given_: list[Question], seed: int) -> None:
    for question in balanced(given_, seed):
        for letter, option in zip(question.letters, question.options, strict=True):
            assert f"Option {letter} says “{option}”." in question.analysis


def test_the_same_seed_gives_the_same_set_and_another_seed_another() -> None:
    plain = [asks(str(n), f"Question {n}?", "w", "x", "y", "z") for n in range(20)]
    assert balanced(plain, 1) == balanced(plain, 1)
    assert balanced(plain, 1) != balanced(plain, 2)


@pytest.mark.parametrize(
    ("analysis", "expected"),
    [
        ("选项A正确，B、C项错误。", "选项B正确，A、C项错误。"),
        ("A项符合规定；选项B和C都是错误的。故选A。", "B项符合规定；选项A和C都是错误的。故选B。"),
        ("因此排除B，A是正确答案。", "因此排除A，B是正确答案。"),
        ("A: right.\nB: wrong.", "B: right.\nA: wrong."),
        ("Options A and C differ; (B) is wrong.", "Options B and C differ; (A) is wrong."),
        ("A tenant may ask, so the answer is A.", "A tenant may ask, so the answer is B."),
        ("B is wrong because A says so.", "A is wrong because B says so."),
        ("No letters here.", "No letters here."),
    ],
)
def test_the_ways_in_which_an_analysis_names_options_are_understood(
    analysis: str, expected: str
) -> None:
    # one question keeps A, so the next, whichever it is, has to move to B
    fixed = asks("fixed", "Which?", "One", "Two", "Both A and B")
    moving = asks("moving", "Who?", "One", "Two", "Three", analysis=analysis)
    third = asks("third", "Which?", "Two", "One", "A和B都对", answer="C")
    _, moved, _ = balanced([fixed, moving, third], 0)
    assert (moved.answer, moved.options) == ("B", ("Two", "One", "Three"))
    assert moved.analysis == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"analysis": "Company B pays, and so option A is right."},
        {"analysis": "Section B is not about dogs, so option A is right."},
        {"analysis": "甲向B借款，所以选项A正确。"},
        {"analysis": "The first option is right."},
        {"analysis": "We take option a here."},
        {"stem": "B公司应当怎么办？"},
        {"options": ("One", "Two", "All of the above")},
    ],
)
def test_a_question_whose_letters_cannot_be_told_from_names_keeps_its_order(
    fields: dict[str, object],
) -> None:
    question = Question.model_validate(
        {"stem": "Who?", "options": ("One", "Two", "Three"), "answer": "A", "id": "x", **fields}
    )
    others = [asks(str(n), "Who?", "One", "Two", "Three") for n in range(5)]
    done = balanced([question, *others], 0)
    assert done[0] == question
    assert sorted(Counter(one.answer for one in done).values()) == [2, 2, 2]


def test_fixed_questions_keep_their_letters_and_the_others_make_up_for_them() -> None:
    options = ("By rail", "By barge", "By mule", "By sledge")
    questions = [asks(str(n), f"How does parcel {n} travel?", *options) for n in range(8)]
    fixed = [question.id for question in questions[:2]]
    found = balanced(questions, seed=3, fixed=fixed)
    assert found[:2] == tuple(questions[:2])
    assert set(Counter(question.answer for question in found).values()) == {2}
