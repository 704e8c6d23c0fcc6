"""Runs in their folder: kept as they come, continued after a stop, one writer at a time."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comity.errors import ExamError
from comity.evaluation.exams import LeftOut
from comity.evaluation.runs import ExamTaken, Item, Mode, Plan, Run
from comity.records import Message, RuleRef, Usage

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)


def exam(*questions: str, **fields: Any) -> ExamTaken:
    given: dict[str, Any] = {"name": "pets", "path": "pets.csv", "sha256": "ab" * 32}
    return ExamTaken(questions=questions, **given | fields)


def plan(**fields: Any) -> Plan:
    given: dict[str, Any] = {
        "model": "scripted",
        "modes": ("base", "comity"),
        "exams": (exam("q1", "q2"),),
        "memory": "sqlite:///rules.db",
        "revision": 3,
        "options": {"budget": 1000, "incomplete_note": True, "relevance": 0.6},
        "started": NOW,
    }
    return Plan(**given | fields)


def item(question: str = "q1", mode: Mode = "base", **fields: Any) -> Item:
    given: dict[str, Any] = {
        "question_sha256": "1",
        "asked": (Message(role="user", content=" What?\u2028A. Yes "),),
        "asked_sha256": "2",
        "answer": "A",
        "letter": "A",
        "at": NOW,
    }
    return Item(exam="pets", question=question, mode=mode, **given | fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "first"


def refusal(folder: Path, wanted: Plan, *, resume: bool = True) -> str:
    with pytest.raises(ExamError) as caught:
        Run.begin(folder, wanted, resume=resume)
    return str(caught.value)


def test_items_are_kept_whole_and_in_the_order_in_which_they_came(folder: Path) -> None:
    whole = item(
        "q2",
        "comity",
        letter="",
        not_scored="two letters",
        scored_by="text",
        logprobs={"A": -0.1},
        hits=(RuleRef(id="dogs", version=2, score=0.5),),
        gold_at={100: 0.5},
        usage=Usage(prompt_tokens=3, completion_tokens=1),
        seconds={"model": 1.5},
    )
    with Run.begin(folder, plan()) as run:
        for each in (whole, item()):
            run.append(each)
        assert list(run.items()) == [whole, item()]
    assert list(Run.read(folder).items()) == [whole, item()]
    assert Run.read(folder).plan == plan()


def test_the_last_item_of_a_question_and_mode_counts(folder: Path) -> None:
    with Run.begin(folder, plan()) as run:
        for letter in "AB":
            run.append(item(letter=letter))
        run.append(item(mode="comity"))
        found = run.latest()
    assert {key: each.letter for key, each in found.items()} == {
        ("pets", "q1", "base"): "B",
        ("pets", "q1", "comity"): "A",
    }


def test_an_item_is_right_wrong_or_neither() -> None:
    assert item(letter="A").right is True
    assert item(letter="B").right is False
    assert item(letter="", not_scored="no letter").right is None


def test_a_torn_last_line_is_passed_over_and_dropped_on_continuing(folder: Path) -> None:
    with Run.begin(folder, plan()) as run:
        run.append(item())
    file = folder / "items.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    assert list(Run.read(folder).items()) == [item()]
    with Run.begin(folder, plan(), resume=True) as run:
        assert file.read_bytes() == whole
        run.append(item("q2"))
        assert list(run.items()) == [item(), item("q2")]


def test_a_file_torn_within_its_first_line_is_empty(folder: Path) -> None:
    with Run.begin(folder, plan()):
        pass
    (folder / "items.jsonl").write_text('{"exam": "pe')
    assert list(Run.read(folder).items()) == []
    with Run.begin(folder, plan(), resume=True):
        assert (folder / "items.jsonl").read_bytes() == b""


def test_another_broken_line_is_named_in_one_line(folder: Path) -> None:
    with Run.begin(folder, plan()) as run:
        run.append(item())
    with (folder / "items.jsonl").open("a") as stream:
        stream.write('{"exam": "pets"}\n')
    with pytest.raises(ExamError) as caught:
        list(Run.read(folder).items())
    assert str(caught.value) == f"{folder / 'items.jsonl'}, line 2: question: Field required"


def test_a_folder_that_holds_a_run_is_not_begun_again(folder: Path) -> None:
    with Run.begin(folder, plan()) as run:
        run.append(item())
    told = refusal(folder, plan(model="other"), resume=False)
    assert "holds a run already: continue it with --resume, or name another folder" in told
    assert Run.read(folder).plan.model == "scripted"
    assert list(Run.read(folder).items()) == [item()]


def test_the_moment_and_why_something_is_not_asked_make_no_other_plan(folder: Path) -> None:
    with Run.begin(folder, plan()):
        pass
    reworded = exam(
        "q1",
        "q2",
        path="elsewhere/pets.csv",
        left_out=(LeftOut(line=3, reason="so"),),
        retired={"q3": "so"},
    )
    later = plan(started=datetime(2031, 1, 1, tzinfo=UTC), exams=(reworded,))
    with Run.begin(folder, later, resume=True) as run:
        assert run.plan.started == NOW


def test_what_an_earlier_version_did_not_note_is_not_compared(folder: Path) -> None:
    with Run.begin(folder, plan()) as run:
        run.append(item())
    now = plan(
        endpoint="http://localhost:1/v1",
        embedder="e5:1",
        options=plan().options | {"max_tokens": 256},
        exams=(exam("q1", "q2", with_gold=("q1",)),),
    )
    with Run.begin(folder, now, resume=True) as run:
        assert (run.plan, list(run.answered())) == (plan(), [item().key])
    assert "relevance was 0.6, not 0.1" in refusal(
        folder, now.model_copy(update={"options": now.options | {"relevance": 0.1}})
    )


def test_another_embedder_or_endpoint_is_another_plan(folder: Path) -> None:
    with Run.begin(folder, plan(embedder="e5:1", endpoint="http://a/v1")):
        pass
    assert 'embedder was "e5:1", not "hash:64"' in refusal(
        folder, plan(embedder="hash:64", endpoint="http://a/v1")
    )
    assert 'endpoint was "http://a/v1", not ""' in refusal(folder, plan(embedder="e5:1"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "local"}, 'model was "scripted", not "local"'),
        ({"modes": ("base",)}, 'modes was ["base", "comity"], not ["base"]'),
        ({"revision": 4}, "revision was 3, not 4"),
        ({"seed": 5}, "seed was 0, not 5"),
        ({"options": {"budget": 1000, "relevance": 0.6}}, "incomplete_note was true, not null"),
        (
            {"options": {"budget": 400, "incomplete_note": True, "relevance": 0.5}},
            "budget was 1000, not 400; relevance was 0.6, not 0.5",
        ),
        ({"exams": (exam("q1"),)}, "exam pets asked q2"),
        ({"exams": (exam("q1", "q2", "q3"),)}, "exam pets asked 2 questions, not 3"),
        (
            {"exams": (exam("q1", retired={"q2": "rule dogs was repealed"}),)},
            "exam pets asked q2, now retired: rule dogs was repealed",
        ),
        ({"exams": (exam("q1", "q2", sha256="cd" * 32),)}, "the file of exam pets was another one"),
        (
            {"exams": (exam("q1", "q2"), exam("q1", name="law"))},
            "exam law was not asked",
        ),
        ({"exams": (exam("q1", name="law"),)}, "exam law was not asked; exam pets was asked"),
    ],
)
def test_another_plan_is_refused_naming_the_difference(
    folder: Path, change: dict[str, Any], told: str
) -> None:
    with Run.begin(folder, plan()):
        pass
    said = refusal(folder, plan(**change))
    assert f"was begun otherwise ({told})" in said
    assert "give what it was begun with, or name another folder" in said


def test_exams_in_another_order_are_another_plan(folder: Path) -> None:
    two = (exam("q1"), exam("q1", name="law"))
    with Run.begin(folder, plan(exams=two)):
        pass
    assert "(exams in another order)" in refusal(folder, plan(exams=two[::-1]))


def test_only_one_at_a_time_appends(folder: Path) -> None:
    with Run.begin(folder, plan()):
        for resume in (True, False):
            assert "is being written by another process" in refusal(folder, plan(), resume=resume)
        assert Run.read(folder).plan == plan()
    with Run.begin(folder, plan(), resume=True) as run:
        run.append(item())


def test_a_refusal_leaves_the_run_to_others(folder: Path) -> None:
    with Run.begin(folder, plan()):
        pass
    refusal(folder, plan(seed=1))
    refusal(folder, plan(), resume=False)
    with Run.begin(folder, plan(), resume=True) as run:
        assert list(run.items()) == []


def test_a_second_process_cannot_append(folder: Path) -> None:
    with Run.begin(folder, plan()):
        code = (
            "import sys, pathlib\n"
            "from comity.evaluation.runs import Plan, Run\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "Run.begin(folder, Run.read(folder).plan, resume=True)\n"
        )
        other = subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
        )
    assert other.returncode == 1
    assert "is being written by another process" in other.stderr


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExamError, match=r"is no run: it has no run\.json"):
        Run.read(tmp_path)
    (tmp_path / "run.json").write_text('{"model": 1}')
    with pytest.raises(ExamError, match=r"run\.json cannot be used: model: Input should be"):
        Run.read(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ExamError, match=f"{folder} cannot be written: "):
            Run.begin(folder, plan())


def test_items_that_cannot_be_written_are_an_error(folder: Path) -> None:
    with Run.begin(folder, plan()) as run:
        (folder / "items.jsonl").mkdir()
        with pytest.raises(ExamError, match=r"items\.jsonl cannot be written: Is a directory"):
            run.append(item())
