"""Exam files: both forms, what cannot be used and what is left out, and the way there and back."""

from __future__ import annotations

import os
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import ExamError
from comity.evaluation.exams import Exam, Kind, Question, letter_of, read_exam, write_exam
from comity.evaluation.run import sample
from comity.records import RuleRef, Scope

HEADER = "id,question,A,B,C,D,answer,analysis,principle,location\n"
DOGS = "1,May dogs run?,Yes,No,At noon,At night,B,The act says so,,Elm\n"
CATS = "2,May cats run?,Yes,No,At noon,At night,A,,,Elm\n"


def written(folder: Path, text: str | bytes, name: str = "pets.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, *, skip_bad: bool = False) -> str:
    with pytest.raises(ExamError) as caught:
        read_exam(path, skip_bad=skip_bad)
    return str(caught.value)


def test_opos_form_with_four_options_is_read_whole(tmp_path: Path) -> None:
    row = "1,May dogs run?,Yes,No,At noon,At night,B,The act says so,甲法规定：<第一条：正文>,Elm\n"
    exam = read_exam(written(tmp_path, HEADER + row))
    assert exam.name == "pets"
    assert exam.questions == (
        Question(
            id="1",
            stem="May dogs run?",
            options=("Yes", "No", "At noon", "At night"),
            answer="B",
            analysis="The act says so",
            principle="甲法规定：<第一条：正文>",
            location="Elm",
        ),
    )
    assert len(exam.sha256) == 64


def test_opos_form_with_three_options_and_no_more_columns_is_read(tmp_path: Path) -> None:
    text = "id,question,A,B,C,answer\n7,Kissing at work?,Taboo,Normal,Expected,A\n"
    (question,) = read_exam(written(tmp_path, text)).questions
    assert (question.letters, question.answer) == (("A", "B", "C"), "A")
    assert question.options_text == "A. Taboo\nB. Normal\nC. Expected"


def test_a_question_may_have_fewer_options_than_the_file_has_columns(tmp_path: Path) -> None:
    (question,) = read_exam(written(tmp_path, HEADER + "1,Dogs?,Yes,No,,,A,,,\n")).questions
    assert question.options == ("Yes", "No")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_make_no_difference(
    tmp_path: Path, mark: bytes, end: str
) -> None:
    text = (HEADER + DOGS + CATS).replace("\n", end)
    exam = read_exam(written(tmp_path, mark + text.encode()))
    assert [question.id for question in exam.questions] == ["1", "2"]


@pytest.mark.parametrize("answer", ["Ｂ", "ｂ", "b", " B ", "B.", "(B)", "（Ｂ）", "B、"])
def test_full_width_and_small_answer_letters_are_taken(tmp_path: Path, answer: str) -> None:
    assert letter_of(answer) == "B"
    text = "id,question,A,B,answer\n" + f"1,Dogs?,Yes,No,{answer}\n"
    assert read_exam(written(tmp_path, text)).questions[0].answer == "B"


def test_a_csv_without_the_columns_says_which_are_missing_and_which_there_are(
    tmp_path: Path,
) -> None:
    told = refusal(written(tmp_path, "number,question,A,B,key\n1,Dogs?,Yes,No,A\n"))
    assert "pets.csv: column id, answer is missing (there are: number, question, A, B, key)" in told
    assert "OPO's form has id, question, A, B, C, D, answer" in told


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2,Cats?,Yes,No,,,E,,,\n", "answer 'E' is none of the options A, B"),
        ("2,Cats?,Yes,No,,,C,,,\n", "answer 'C' is none of the options A, B"),
        ("2,Cats?,Yes,No,,,AB,,,\n", "answer 'AB' is none of the options A, B"),
        ("2,Cats?,Yes,No,,,,,,\n", "answer '' is none of the options A, B"),
        ("2,Cats?,Yes,,No,,A,,,\n", "option B is empty"),
        ("2,,Yes,No,,,A,,,\n", "stem: String should have at least 1 character"),
        ("2,Cats?,Yes,,,,A,,,\n", "options: Tuple should have at least 2 items"),
        ("2,Cats, dogs?,Yes,No,,,A,,,,\n", "answer '' is none of the options"),
        ("2,Cats?,Yes,No,,,A,,,Elm, or so\n", "it has more cells than columns"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_left_out_only_on_demand(
    tmp_path: Path, row: str, reason: str
) -> None:
    path = written(tmp_path, HEADER + DOGS + row)
    told = refusal(path)
    assert f"pets.csv: line 3: {reason}" in told
    assert "--skip-bad" in told
    exam = read_exam(path, skip_bad=True)
    assert [question.id for question in exam.questions] == ["1"]
    assert [(row.line, row.question) for row in exam.left_out] == [(3, "2")]
    assert exam.left_out[0].reason.startswith(reason)


def test_blank_cells_beyond_the_columns_do_not_matter(tmp_path: Path) -> None:
    assert len(read_exam(written(tmp_path, HEADER + DOGS.replace("\n", ",, ,\n"))).questions) == 1


def test_the_first_bad_lines_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    bad = "".join(f"{n},Cats {n}?,Yes,No,,,Z,,,\n" for n in range(8))
    told = refusal(written(tmp_path, HEADER + bad))
    assert "line 6: " in told
    assert "line 7: " not in told
    assert "; and 3 more." in told


def test_a_file_of_bad_lines_alone_has_no_question_and_says_why(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "2,Cats?,Yes,No,,,E,,,\n")
    told = refusal(path, skip_bad=True)
    assert "has no question to be used: line 2: answer 'E'" in told


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("empty.csv", b"", "is missing (there are: none)"),
        ("empty.jsonl", b"", "has no question"),
        ("header.csv", HEADER.encode(), "has no question"),
        ("blank.jsonl", b"\n \n", "has no question"),
        ("gbk.csv", "题".encode("gbk"), "is not UTF-8 (byte 0); save it as UTF-8"),
        (
            "open.csv",
            b'id,question,A,B,answer\n1,"Dogs?,Yes,No,A\n',
            "open.csv, the row from line 2 on: unexpected end of data",
        ),
        ("odd.csv", b'id,"question\n', "odd.csv, the row from line 1 on: unexpected end of data"),
    ],
)
def test_a_file_that_is_no_exam_says_what_is_wrong(
    tmp_path: Path, name: str, text: bytes, told: str
) -> None:
    path = written(tmp_path, text, name)
    said = refusal(path)
    assert told in said
    assert str(path) in said


def test_a_file_that_is_not_there_and_a_folder_are_no_exams(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.csv") == f"there is no exam {tmp_path / 'none.csv'}"
    assert "cannot be read: Is a directory" in refusal(tmp_path)


def test_json_that_cannot_be_used_is_named_by_its_line_in_the_file(tmp_path: Path) -> None:
    good = Question(id="q", stem="Dogs?", options=("Yes", "No"), answer="A").model_dump_json()
    other = '{"id": "x", "stem": "Cats?", "options": ["Yes", "No"], "answer": "A", "colour": 1}'
    path = written(tmp_path, f"{good}\n\n{other}\n{{\n[]\n", "pets.jsonl")
    told = refusal(path)
    assert "line 3: colour: Extra inputs are not permitted" in told
    assert "line 4: Invalid JSON" in told
    assert "at line 1" not in told
    exam = read_exam(path, skip_bad=True)
    assert [question.id for question in exam.questions] == ["q"]
    assert [(row.line, row.question) for row in exam.left_out] == [(3, "x"), (4, ""), (5, "")]


def test_a_repeated_question_is_left_out_with_the_line_of_the_first(tmp_path: Path) -> None:
    again = "9,May dogs run ？,Yes。,No,At noon,At night,B,,,\n"
    exam = read_exam(written(tmp_path, HEADER + CATS + DOGS + again))
    assert [question.id for question in exam.questions] == ["2", "1"]
    (row,) = exam.left_out
    assert (row.line, row.question, row.reason) == (4, "9", "the same question stands on line 3")


def test_a_repeated_question_with_another_answer_says_so(tmp_path: Path) -> None:
    again = "9,May dogs run?,Yes,No,At noon,At night,D,,,\n"
    exam = read_exam(written(tmp_path, HEADER + DOGS + again))
    assert [question.answer for question in exam.questions] == ["B"]
    assert exam.left_out[0].reason == (
        "the same question stands on line 2, with another answer (B there, D here)"
    )


def test_questions_that_differ_in_a_sign_or_in_whom_they_ask_for_are_not_the_same(
    tmp_path: Path,
) -> None:
    fields = {"options": ("Yes", "No"), "answer": "A"}
    asked = [
        Question(id="less", stem="Is it < 3?", **fields),
        Question(id="more", stem="Is it > 3?", **fields),
        Question(id="minus", stem="Is it -3?", **fields),
        Question(id="half", stem="Is it 1.5?", **fields),
        Question(id="fifteen", stem="Is it 15?", **fields),
        Question(id="here", stem="Dogs?", scope=Scope(place="CN"), **fields),
        Question(id="there", stem="Dogs?", scope=Scope(place="FR"), **fields),
    ]
    write_exam(tmp_path / "signs.jsonl", asked)
    assert read_exam(tmp_path / "signs.jsonl").questions == tuple(asked)


def test_questions_of_one_name_get_names_of_their_own(tmp_path: Path) -> None:
    rows = "".join(f"{name},Dogs {n}?,Yes,No,A\n" for n, name in enumerate(("a", "a", "a#3", "a")))
    exam = read_exam(written(tmp_path, "id,question,A,B,answer\n" + rows))
    assert [question.id for question in exam.questions] == ["a", "a#3", "a#3#4", "a#5"]


def test_an_exam_that_cannot_be_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExamError, match=r"file/e\.jsonl cannot be written: "):
        write_exam(tmp_path / "file" / "e.jsonl", [])


WORDS = st.text(min_size=1, max_size=30).map(str.strip).filter(bool)
PLAIN = st.text(string.ascii_letters, min_size=1, max_size=5)
KINDS: tuple[Kind, ...] = ("given", "scenario", "concept", "boundary", "precedence")


@st.composite
def questions(draw: st.DrawFn) -> tuple[Question, ...]:
    """Questions with names of their own, of which no two ask the same."""
    made = []
    for number in range(draw(st.integers(1, 4))):
        options = draw(st.lists(WORDS, min_size=2, max_size=8))
        made.append(
            Question(
                id=f"q{number}",
                stem=f"{number} {draw(WORDS)}",
                options=tuple(options),
                answer=draw(st.sampled_from("ABCDEFGH"[: len(options)])),
                kind=draw(st.sampled_from(KINDS)),
                analysis=draw(WORDS),
                rules=tuple(RuleRef(id=n, version=1, reason="r") for n in draw(st.lists(PLAIN))),
                scope=draw(st.none() | st.builds(Scope, audience=st.lists(PLAIN).map(tuple))),
                status=draw(st.sampled_from(["active", "flagged", "retired"])),
            )
        )
    return tuple(made)


@given(questions())
def test_what_was_written_is_read_again(asked: tuple[Question, ...]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exams" / "pets.jsonl"
        write_exam(path, asked)
        exam = read_exam(path)
        assert (exam.questions, exam.left_out) == (asked, ())
        assert os.listdir(path.parent) == ["pets.jsonl"]


def exam_of(count: int, retired: frozenset[int] = frozenset()) -> Exam:
    return Exam(
        name="pets",
        questions=tuple(
            Question(
                id=f"q{n}",
                stem=f"Dog {n}?",
                options=("Yes", "No"),
                answer="A",
                status="retired" if n in retired else "active",
            )
            for n in range(count)
        ),
    )


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_a_larger_sample_of_one_seed_asks_the_same_questions_and_more(
    count: int, one: int, other: int, seed: int
) -> None:
    exam = exam_of(count)
    small, large = (sample(exam, limit, seed) for limit in sorted((one, other)))
    assert set(small) <= set(large) <= set(exam.questions)
    assert (len(small), len(large)) == (min(one, other, count), min(max(one, other), count))
    assert len(set(large)) == len(large)


def test_other_seeds_draw_other_questions() -> None:
    assert sample(exam_of(30), 5, 1) != sample(exam_of(30), 5, 2)
    assert sample(exam_of(5), None, 1) == exam_of(5).questions


@given(st.sets(st.integers(0, 29), max_size=20), st.integers(1, 10), st.integers(0, 5))
def test_retired_questions_are_replaced_in_a_sample_and_the_rest_stay(
    retired: set[int], limit: int, seed: int
) -> None:
    before = sample(exam_of(30), limit, seed)
    after = sample(exam_of(30, frozenset(retired)), limit, seed)
    gone = {f"q{n}" for n in retired}
    assert {q.id for q in before} - gone <= {q.id for q in after}
    assert not gone & {q.id for q in after}
    assert len(after) == limit


def test_the_hash_of_a_question_tells_what_is_asked_and_what_is_right() -> None:
    question = Question(id="q", stem="Dogs?", options=("Yes", "No"), answer="A")
    same = question.model_copy(update={"id": "p", "analysis": "so", "status": "flagged"})
    assert same.content_hash == question.content_hash
    for change in ({"answer": "B"}, {"stem": "Cats?"}, {"scope": Scope(place="CN")}):
        assert question.model_copy(update=change).content_hash != question.content_hash


@pytest.mark.parametrize(
    ("file", "asked", "left_out"),
    [
        ("a_law", 252, 0),
        ("a_professional_morality", 174, 0),
        ("h_law", 1112, 21),
        ("h_basic_morality", 474, 2),
        ("h_social_morality", 1349, 1),
    ],
)
def test_opos_own_files_are_read(file: str, asked: int, left_out: int) -> None:
    folder = os.environ.get("COMITY_OPO_DATA")
    if not folder:
        pytest.skip("COMITY_OPO_DATA names no folder with OPO's data")
    exam = read_exam(Path(folder) / "questions" / f"{file}.csv")
    assert (len(exam.questions), len(exam.left_out)) == (asked, left_out)
