"""Labels in the place of the judge's verdicts, in figures and reports of the preference exam."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from benchmarks.preferences import measures_of

from comity.alignment.prefer import Asked, Followed
from comity.evaluation.preference_labelled import Labels, labels_for, with_labels
from comity.evaluation.preference_labels import Label, agreement, unlabelled, write_labels
from comity.evaluation.preference_report import notes, preference_markdown, preference_report
from comity.evaluation.preference_runs import (
    PreferenceItem,
    PreferenceMode,
    PreferencePlan,
    PreferenceRun,
)
from comity.evaluation.preference_score import follow, groups, judge_checks
from comity.evaluation.preference_verdicts import cases_of, scored_items
from comity.records import Message
from comity_command import Command

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
TURNED = Followed(
    verdict="neither",
    by="judge",
    asked=(Asked(first="one", chose="one"), Asked(first="other", chose="other")),
    share=0.5,
)


def item(number: int, mode: PreferenceMode, text: str) -> PreferenceItem:
    """An answer on which the judge's two orders disagree."""
    return PreferenceItem(
        part="wish",
        question="bread",
        number=number,
        mode=mode,
        asked=((Message(role="user", content="Why does bread rise?"),),),
        asked_sha256="ab",
        text=text,
        followed=TURNED,
        at=NOW,
    )


def run_of(folder: Path, *seen: PreferenceItem) -> PreferenceRun:
    """A run of one question: wish 0 has a check by code, wishes 1 and 2 have none."""
    wishes: list[dict[str, object]] = [
        {
            "meta": {"user_info": told},
            "explicit": True,
            "family": "helpful",
            "wish": told,
            "opposite": f"Not: {told}",
        }
        for told in ("In one word.", "With a joke.", "Like a poem.")
    ]
    wishes[0]["check"] = {"longest_words": 1}
    cases = folder.parent / "cases.jsonl"
    row = {"id": "bread", "question": "Why does bread rise?", "wishes": wishes}
    cases.write_text(json.dumps(row) + "\n", encoding="utf-8")
    plan = PreferencePlan(
        model="m",
        judge="j",
        modes=("plain", "meta_prompt"),
        cases=str(cases),
        cases_sha256="ab",
        rule_cases_sha256="cd",
        questions=("bread",),
        started=NOW,
    )
    with PreferenceRun.begin(folder, plan) as run:
        for one in seen:
            run.append(one)
    return run


SEEN = (
    item(0, "plain", "Because of yeast."),
    item(1, "plain", "Yeast."),
    item(2, "plain", "It rises."),
    item(0, "meta_prompt", "Yeast!"),
    item(1, "meta_prompt", "Yeast was on a roll."),
    item(2, "meta_prompt", "It rises as the sun does."),
)
GIVEN: dict[str, Label] = {
    "Because of yeast.": "wish",
    "Yeast.": "opposite",
    "It rises.": "neither",
    "Yeast was on a roll.": "wish",
}


def labels_of(run: PreferenceRun, given: dict[str, Label], **other: str) -> Labels:
    """Labels of the answers of a run, read from a file; `other` is what it says otherwise."""
    (question,) = cases_of(run)[0]
    file = run.folder.parent / "labels.jsonl"
    lines = [
        unlabelled(one, question).model_copy(update={"label": given.get(one.text, ""), **other})
        for one in run.latest().values()
    ]
    file.unlink(missing_ok=True)
    write_labels(file, lines)
    return labels_for(scored_items(run), (question,), file, "Ada")


def test_labels_decide_what_no_code_decides_and_neither_is_not_followed(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *SEEN)
    items = with_labels(scored_items(run), labels_of(run, GIVEN))
    told = {one.text: (one.follows, one.decided_by) for one in items}
    assert told == {
        "Because of yeast.": (False, "code"),  # the label says otherwise, and code goes before
        "Yeast.": (False, "label"),
        "It rises.": (False, "label"),
        "Yeast!": (True, "code"),
        "Yeast was on a roll.": (True, "label"),
        "It rises as the sun does.": (None, "label"),  # nobody labelled it
    }
    plain, meta = follow(items)
    assert (plain.followed, plain.decided, plain.turned, plain.failed) == (0, 3, 0, 0)
    assert (meta.followed, meta.decided, meta.turned, meta.failed) == (2, 2, 0, 1)
    assert sorted(groups(items, "decided_by")) == ["code", "label"]
    assert judge_checks(items).verdicts == judge_checks(items).failed == 0


def test_a_judges_verdict_does_not_stand_in_for_a_missing_label(tmp_path: Path) -> None:
    judged = item(1, "plain", "Yeast.").model_copy(
        update={"followed": Followed(verdict="wish", by="judge", asked=TURNED.asked)}
    )
    run = run_of(tmp_path / "run", judged)
    (before,) = scored_items(run)
    (after,) = with_labels([before], labels_of(run, {}))
    assert (before.follows, after.follows) == (True, None)


def test_an_empty_answer_needs_no_label_to_be_not_followed(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", item(1, "plain", " "))
    (one,) = with_labels(scored_items(run), labels_of(run, {}))
    assert (one.follows, one.decided_by) == (False, "label")


def test_one_label_holds_for_the_same_answer_in_two_modes(tmp_path: Path) -> None:
    modes: tuple[PreferenceMode, ...] = ("plain", "meta_prompt")
    run = run_of(tmp_path / "run", *(item(1, mode, "A joke.") for mode in modes))
    labels = labels_of(run, {"A joke.": "wish"})
    assert len(labels.labelled) == 1
    assert [one.follows for one in with_labels(scored_items(run), labels)] == [True, True]


def test_a_label_of_an_answer_that_has_changed_since_is_not_used(tmp_path: Path) -> None:
    labels = labels_of(run_of(tmp_path / "old", item(1, "plain", "Yeast.")), {"Yeast.": "wish"})
    now = run_of(tmp_path / "run", item(1, "plain", "Yeast, mostly."))
    items = scored_items(now)
    found = labels_for(items, cases_of(now)[0], tmp_path / "labels.jsonl", "Ada")
    assert (len(labels.labelled), labels.strange) == (1, 0)
    assert (found.labelled, found.strange) == ((), 1)
    assert with_labels(items, found)[0].follows is None
    assert agreement(items, found.labelled)["judge"].labelled == 0


@pytest.mark.parametrize("field", ["question", "wish", "opposite", "answer", "key"])
def test_a_label_is_used_only_where_all_that_was_shown_is_the_same(
    tmp_path: Path, field: str
) -> None:
    run = run_of(tmp_path / "run", item(1, "plain", "Yeast."))
    assert labels_of(run, {"Yeast.": "wish"}).strange == 0
    assert labels_of(run, {"Yeast.": "wish"}, **{field: "Another."}).strange == 1


def test_verdicts_of_labels_agree_with_nothing_but_themselves_and_are_not_counted(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path / "run", *SEEN)
    labels = labels_of(run, GIVEN)
    judged = scored_items(run)
    before, after = (
        agreement(some, labels.labelled) for some in (judged, with_labels(judged, labels))
    )
    assert (before["code"].decided, before["code"].agreed) == (1, 0)
    assert after["code"] == before["code"]
    assert (before["judge"].labelled, before["judge"].decided) == (2, 0)
    assert after["judge"].labelled == 0


def test_the_report_says_whose_labels_decide_and_how_many_fit_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *SEEN)
    labels = labels_of(run, GIVEN).model_copy(update={"strange": 3})
    told = "\n".join(notes(with_labels(scored_items(run), labels), run, labels))
    assert "labels of Ada, in the place of the judge's; 3 of 4 such answers have one" in told
    assert "Not used: 3 of the 7 labels" in told
    page = preference_markdown(run, labels)
    assert "| decided by: label | plain | 0.0 %" in page
    assert "Agreement with the labels of Ada" in page
    assert "| code | 1 | 0 | 1 | 0.0 % (0.0 to 79.3) 0 of 1 |" in page
    assert "| 4 | 0.0 % | 4 | 0 | 0 |" in page  # the judge's own verdicts, which count nowhere
    assert "label" not in preference_markdown(run).replace("no label has a say", "")


def test_the_page_tells_the_method_by_which_its_verdicts_were_made(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra exams")
    run = run_of(tmp_path / "run", *SEEN)
    labelled = preference_report(run, labels_of(run, GIVEN)).html
    assert "where the labels of Ada, given to texts that tell neither mode nor verdict" in labelled
    assert "in place of the judge" in labelled
    assert "labels of" not in preference_report(run).html


def test_measures_by_labels_say_whose_they_are_and_leave_the_judge_its_own(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", *SEEN)
    items, labels = scored_items(run), labels_of(run, GIVEN)
    by_judge = {one.measure: one for one in measures_of(items, run)}
    found = {one.measure: one for one in measures_of(items, run, labels)}
    assert "0 turned with the order, 1 failed; m, labels of Ada, seed 0" in (
        found["meta_prompt.followed"].note
    )
    assert (by_judge["plain.followed"].value, found["meta_prompt.followed"].value) == (0.0, 1.0)
    assert found["meta_prompt.gain_points"].value == 100.0
    told = "2 wishes, decided by code and labels of Ada: 2 gained, 0 lost"
    assert told in found["meta_prompt.gain_points"].note
    assert "decided by labels of Ada" in found["meta_prompt.gain_points_by_label"].note
    assert found["plain.followed_by_label"].note.startswith("0 of 2 decided; 2 left to labels of")
    assert found["plain.followed_by_code"] == by_judge["plain.followed_by_code"]
    assert found["judge.consistency"] == by_judge["judge.consistency"]
    assert not [name for name in by_judge if name.endswith("_by_label")]


def test_a_run_is_reported_on_by_labels_at_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra exams")
    run = run_of(tmp_path / "run", *SEEN)
    labels_of(run, GIVEN)
    comity = Command(tmp_path)
    report = ("exam", "report", str(run.folder), "--out", str(tmp_path / "page.html"))
    labels = ("--labels", str(tmp_path / "labels.jsonl"))
    assert "labels of Ada" in comity.done(*report, *labels, "--labelled-by", "Ada")
    for wrong in (labels, (*labels, "--labelled-by", " "), ("--labelled-by", "Ada")):
        result = comity(*report, *wrong)
        assert result.exit_code == 2
        assert "go together: say who labelled" in result.stderr


def test_labels_are_for_preference_exams_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.jsonl").touch()
    labels = ("--labels", str(tmp_path / "labels.jsonl"), "--labelled-by", "Ada")
    result = Command(tmp_path)("exam", "report", str(tmp_path / "elsewhere"), *labels)
    assert result.exit_code == 2
    assert "for the run of a preference exam" in result.stderr
