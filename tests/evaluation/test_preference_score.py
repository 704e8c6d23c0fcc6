"""Scores of the preference exam, its report, and answers for a person to label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from benchmarks.preferences import agreement_measures, measures_of
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.prefer import Asked, Followed
from comity.errors import ExamError
from comity.evaluation.preference_cases import read_questions
from comity.evaluation.preference_labelled import labels_for
from comity.evaluation.preference_labels import (
    agreement,
    read_labels,
    to_label,
    write_labels,
)
from comity.evaluation.preference_report import notes, preference_markdown, preference_report
from comity.evaluation.preference_runs import (
    PreferenceItem,
    PreferenceMode,
    PreferencePlan,
    PreferenceRun,
)
from comity.evaluation.preference_score import (
    asked_in,
    bootstrap,
    broken,
    flips,
    follow,
    follow_in,
    gain,
    groups,
    judge_checks,
    leanings,
    rule_change,
    without_priority,
)
from comity.evaluation.preference_tables import followed, rules
from comity.evaluation.preference_verdicts import scored_items
from comity.records import Message

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
Verdict = Literal["wish", "opposite", "neither", "failed"]
WORDS: dict[str, Verdict] = {"+": "wish", "-": "opposite", "?": "neither", "!": "failed"}
FIRST = (Asked(first="one", chose="one"), Asked(first="other", chose="other"))
BOTH = (Asked(first="one", chose="one"), Asked(first="other", chose="one"))


def item(name: str, number: int, mode: PreferenceMode, sign: str, **fields: Any) -> PreferenceItem:
    """A wish with the judge's verdict of a sign; `?` turned with the order."""
    asked = FIRST if sign == "?" else BOTH
    verdict = Followed(verdict=WORDS[sign], by="judge", asked=asked)
    given: dict[str, Any] = {
        "part": "wish",
        "question": name,
        "number": number,
        "mode": mode,
        "family": "helpful",
        "explicit": number == 0,
        "asked": ((Message(role="user", content="Why?"),),),
        "asked_sha256": "ab",
        "text": f"Because of {mode}.",
        "followed": verdict,
        "at": NOW,
    }
    return PreferenceItem(**given | fields)


def items(mode: PreferenceMode, signs: str) -> list[PreferenceItem]:
    """Questions of two wishes each: `+- ++` are two questions."""
    return [
        item(f"q{at}", number, mode, sign)
        for at, pair in enumerate(signs.split())
        for number, sign in enumerate(pair)
    ]


def ruled(mode: PreferenceMode, signs: str) -> list[PreferenceItem]:
    """Rule cases, `x` broken, `.` kept, and ` ` for an empty answer."""
    told = {"x": (True, "Yes."), ".": (False, "No."), " ": (None, "")}
    return [
        item(f"r{at}", 0, mode, "+", part="rule", followed=None, broken=told[sign][0]).model_copy(
            update={"text": told[sign][1]}
        )
        for at, sign in enumerate(signs)
    ]


def cases(folder: Path, *, check: str = "") -> dict[str, str]:
    """Files of three questions and three rule cases, and where a plan finds them."""
    wishes = [
        {"meta": {"user_info": told}, "explicit": told == "x", "family": "helpful", "wish": told}
        | ({"check": {"must_match": check}} if check else {})
        for told in ("x", "y")
    ]
    rows = [{"id": f"q{at}", "question": "Why?", "wishes": wishes} for at in range(3)]
    rule = {"rule": "r", "question": "May I?", "scope": {}, "meta": {"user_info": "x"}}
    ruled = [rule | {"id": f"r{at}", "check": {"must_not_match": "Yes"}} for at in range(3)]
    folder.mkdir(exist_ok=True)
    found = {}
    for name, some in (("cases", rows), ("rule_cases_file", ruled)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in some), encoding="utf-8")
        found[name] = str(file)
    return found


def test_what_is_not_decided_counts_neither_way_and_is_told() -> None:
    (one,) = follow(items("plain", "+- ?! ++"))
    assert (one.asked, one.decided, one.followed, one.turned, one.failed) == (6, 4, 3, 1, 1)
    assert (one.share, one.share_of_asked) == (0.75, 0.5)


def test_where_nothing_was_decided_there_is_no_share() -> None:
    (one,) = follow(items("plain", "?? !!"))
    assert (one.share, one.interval) == (None, None)
    assert follow([]) == ()
    assert gain([], "plain", "meta_prompt").difference is None
    assert judge_checks([]).consistency is None
    assert flips(items("plain", "+?"))[0].rate is None


def test_a_question_flips_where_every_wish_is_followed() -> None:
    (one,) = flips(items("plain", "++ +- ++ +?"))
    assert (one.questions, one.flipped) == (3, 2)


def test_a_gain_is_over_the_wishes_decided_in_both_modes() -> None:
    both = items("plain", "+- -- ?+") + items("meta_prompt", "++ +- ++")
    found = gain(both, "plain", "meta_prompt")
    assert (found.cells.questions, found.cells.gained, found.cells.lost) == (5, 2, 0)
    assert found.difference == pytest.approx(0.4)
    assert found.interval is not None
    assert found.interval.low <= 0.4 <= found.interval.high


def test_broken_rules_are_compared_case_by_case() -> None:
    found = rule_change([*ruled("none", "x..x"), *ruled("meta_prompt", "xx..")], "meta_prompt")
    assert (found.cells.gained, found.cells.lost, found.difference) == (1, 1, 0.0)


def test_wishes_are_told_apart_by_explicit_and_by_who_decides() -> None:
    some = items("plain", "+- ?+")
    some[0] = some[0].model_copy(update={"followed": Followed(verdict="wish", by="code")})
    some[3] = some[3].model_copy(update={"followed": Followed(verdict="wish", by="code")})
    assert {name: len(one) for name, one in groups(some, "explicit").items()} == {
        "explicit": 2,
        "implicit": 2,
    }
    assert {name: len(one) for name, one in groups(some, "decided_by").items()} == {
        "code": 2,
        "judge": 2,
    }


def test_verdicts_that_turn_count_by_how_far_the_judge_leans() -> None:
    def leaning(name: str, mode: PreferenceMode, share: float) -> PreferenceItem:
        verdict = Followed(verdict="neither", by="judge", asked=FIRST, share=share)
        return item(name, 0, mode, "?", followed=verdict)

    some = [leaning("a", "plain", 0.5), leaning("b", "plain", 0.4)]
    some += [leaning("a", "refined", 0.9), leaning("b", "refined", 0.6)]
    plain, refined = leanings(some)
    assert plain.share == pytest.approx(0.45)
    assert plain.gain is None
    assert refined.gain == pytest.approx(0.3)
    assert refined.interval is not None
    assert 0.19 < refined.interval.low <= refined.interval.high < 0.41
    assert leanings(items("plain", "+-")) == ()


def test_a_judge_is_known_by_the_places_it_chooses() -> None:
    seen = [
        item("a", 0, "plain", "?"),
        item("b", 0, "plain", "+", followed=Followed(verdict="wish", by="judge", asked=BOTH)),
        item("c", 0, "plain", "+", followed=Followed(verdict="wish", by="code")),
    ]
    found = judge_checks(seen)
    assert (found.verdicts, found.consistent, found.first_twice, found.second_twice) == (2, 1, 1, 0)


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(2, 4)), min_size=1, max_size=12))
def test_a_bootstrap_lies_among_the_clusters_and_is_none_where_all_are_alike(
    drawn: list[tuple[int, int]],
) -> None:
    clusters = [(float(total), count) for total, count in drawn]
    means = [total / count for total, count in clusters]
    found = bootstrap(clusters, draws=50)
    if len(set(means)) == 1:
        assert found is None
    else:
        assert found is not None
        assert min(means) - 1e-9 <= found.low <= found.high <= max(means) + 1e-9
        assert found == bootstrap(clusters, draws=50)


SEEN = [
    *items("none", "+- -+ +-"),
    *items("plain", "+- ++ +?"),
    *items("meta_prompt", "++ ++ -+"),
    *ruled("none", "..x"),
    *ruled("meta_prompt", ".xx"),
]


def plan(**fields: Any) -> PreferencePlan:
    given: dict[str, Any] = {
        "model": "m",
        "judge": "j",
        "modes": ("none", "plain", "meta_prompt"),
        "cases_sha256": "ab",
        "rule_cases_sha256": "cd",
        "questions": ("q0", "q1", "q2"),
        "rule_cases": ("r0", "r1", "r2"),
        "started": NOW,
    }
    return PreferencePlan(**given | fields)


def run_of(folder: Path, seen: Sequence[PreferenceItem], *, check: str = "") -> PreferenceRun:
    with PreferenceRun.begin(folder, plan(**cases(folder, check=check))) as run:
        for one in seen:
            run.append(one)
    return run


def test_the_report_tells_every_mode_what_got_worse_and_which_rule_broke(tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra exams")
    made = preference_report(run_of(tmp_path / "sitting", SEEN))
    assert "Preference exam: sitting" in made.html
    assert "meta_prompt, q2, wish 1" in made.html
    assert "oracle: with the question" not in made.html  # the key of the other exams' pictures
    assert "| meta\\_prompt | 83.3 % " in made.markdown
    assert "r1" in made.markdown


def test_cells_say_that_nothing_was_decided() -> None:
    table = followed(items("plain", "??"))
    assert table.rows[0][1] == "nothing decided"
    assert followed([]).note == "No question was asked yet."
    assert rules([]).note == "No rule case was asked."


def test_a_judge_that_chooses_places_is_warned_of(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", items("plain", "?? ??"))
    told = "\n".join(notes(tuple(run.items()), run))
    assert "The judge chose what stood first, whatever it was, in 4 of 4 answers" in told
    assert "plain: nothing was decided of 4 answers." in told
    assert "not finished: 20 answers are missing" in told
    done = run_of(tmp_path / "done", SEEN)
    assert "not finished" not in "\n".join(notes(SEEN, done))


def test_rules_are_compared_by_an_interval_that_few_cases_do_not_make_short() -> None:
    some = [*ruled("none", "." * 18), *ruled("meta_prompt", "." * 18)]
    found = rule_change(some, "meta_prompt")
    assert found.interval == found.cells.interval
    assert found.interval is not None
    assert found.interval.low < -0.05
    assert found.interval.high > 0.05


def test_an_empty_answer_to_a_rule_case_is_not_scored() -> None:
    (one,) = broken(ruled("none", "x. "))
    assert (one.asked, one.scored, one.broken, one.share) == (3, 2, 1, 0.5)


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ("...", "breaks no more rules than without the wishes"),
        ("x..", "breaks rules +33.3 points more often than without the wishes (−"),
    ],
)
def test_the_note_on_rules_gives_the_interval_and_claims_no_harm_where_there_is_none(
    tmp_path: Path, after: str, told: str
) -> None:
    seen = [*SEEN[:-6], *ruled("none", "..."), *ruled("meta_prompt", after)]
    (note,) = [one for one in notes(seen, run_of(tmp_path / "run", seen)) if "rules" in one]
    assert told in note
    assert "3 cases" in note
    assert " to +" in note


def test_gains_may_count_what_is_undecided_and_leave_out_what_a_matrix_tells() -> None:
    both = items("plain", "+- ?-") + items("meta_prompt", "++ +?")
    found = gain(both, "plain", "meta_prompt", undecided="not followed")
    assert (found.cells.questions, found.cells.gained, found.cells.lost) == (4, 2, 0)
    assert gain(both, "plain", "meta_prompt").cells.questions == 2
    prior = [one.model_copy(update={"family": "priority"}) for one in both if one.number]
    rest = without_priority([*prior, *(one for one in both if not one.number)])
    assert {one.number for one in rest} == {0}


def test_a_mode_asked_a_share_is_set_beside_plain_on_the_same_questions() -> None:
    some = items("plain", "++ -- --") + items("refined", "+-")
    beside = follow_in(asked_in(some, "refined"), "plain")
    assert beside is not None
    assert (beside.asked, beside.share) == (2, 1.0)
    assert follow_in(some, "contrast") is None
    row = next(row for row in followed(some).rows if row[0] == "refined")
    assert "2 of 2" in row[5]


def test_flips_are_counted_of_all_asked_too() -> None:
    (one,) = flips(items("plain", "++ +- +?"))
    assert one.rate == 0.5
    assert one.rate_of_asked == pytest.approx(1 / 3)


def test_code_verdicts_are_told_anew_from_the_texts_by_the_cases_as_they_stand(
    tmp_path: Path,
) -> None:
    stale = [
        item("q0", 0, "plain", "-", text="Indeed."),  # judged, and has a check now
        item("q0", 1, "plain", "+", text=" "),
        *ruled("none", "x"),
    ]
    stale[2] = stale[2].model_copy(update={"text": "No.", "broken_why": "it says 'No'"})
    run = run_of(tmp_path / "run", stale, check="Indeed")
    first, second, rule = scored_items(run)
    assert (first.follows, first.decided_by) == (True, "code")
    assert second.follows is False
    assert (rule.broken, rule.broken_why) == (False, "")
    assert "100.0 %" not in preference_markdown(run).partition("Rules broken")[2]


def test_an_empty_answer_follows_no_wish_and_asks_no_judge(tmp_path: Path) -> None:
    (one,) = scored_items(run_of(tmp_path / "run", [item("q0", 0, "plain", "!", text=" ")]))
    assert (one.follows, one.decided_by) == (False, "judge")
    assert judge_checks([one]).verdicts == 0


def test_a_code_verdict_without_its_check_decides_nothing(tmp_path: Path) -> None:
    verdict = Followed(verdict="wish", by="code")
    (one,) = scored_items(run_of(tmp_path / "run", [item("q0", 0, "plain", "+", followed=verdict)]))
    assert one.follows is None


def test_answers_to_a_question_that_is_gone_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExamError, match="was asked gone, which the cases do not hold"):
        scored_items(run_of(tmp_path / "run", [item("gone", 0, "plain", "+")]))


def test_measures_of_the_benchmark_have_the_names_that_are_asked_for(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", SEEN)
    found = {one.measure: one.value for one in measures_of(SEEN, run)}
    assert found["plain.followed"] == 0.8
    assert found["meta_prompt.gain_points"] == 0.0
    assert found["meta_prompt.gain_to_none_points"] == 33.33
    assert found["meta_prompt.flip_rate"] == 0.6667
    assert found["meta_prompt.gain_points_of_asked"] == 16.67
    assert found["meta_prompt.flip_rate_of_asked"] == 0.6667
    assert found["rules_broken.change_points"] == 33.33
    assert found["rules_broken.change_points_upper"] > 33.33
    assert "refined.followed" not in found


def answers(count: int) -> list[PreferenceItem]:
    """Answers to packaged questions, in two modes."""
    return [
        item(question.id, 0, mode, "+" if at % 2 else "-", text=f"{question.id} by {mode}")
        for at, question in enumerate(read_questions()[:count])
        for mode in ("plain", "meta_prompt")
    ]


def test_answers_to_be_labelled_hide_mode_and_verdict_and_come_back(tmp_path: Path) -> None:
    seen = answers(10)
    file = tmp_path / "labels.jsonl"
    write_labels(file, to_label(seen, read_questions(), count=12, seed=1))
    labelled = read_labels(file)
    assert len(labelled) == 12
    assert "meta_prompt" not in " ".join(one.key for one in labelled)
    assert agreement(seen, labelled)["judge"].share is None
    told = [one.model_copy(update={"label": "wish"}) for one in labelled]
    found = agreement(seen, told)["judge"]
    follow_it = {item.text for item in seen if item.follows}
    assert found.decided == 12
    assert found.agreed == sum(one.answer in follow_it for one in labelled)


def test_a_label_that_nobody_knows_is_named_and_no_label_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    write_labels(file, to_label(answers(2), read_questions(), count=2))
    with pytest.raises(ExamError, match="there already"):
        write_labels(file, ())
    file.write_text(file.read_text().replace('"label":""', '"label":"maybe"'))
    with pytest.raises(ExamError, match=r"labels\.jsonl, line 1: label"):
        read_labels(file)


def test_two_labels_of_one_answer_are_refused_where_they_differ(tmp_path: Path) -> None:
    (one,) = to_label([item("why-sleep", 0, "plain", "+")], read_questions(), count=1)
    file = tmp_path / "labels.jsonl"
    wish, other = (one.model_copy(update={"label": label}) for label in ("wish", "opposite"))
    write_labels(file, [wish, wish])
    assert read_labels(file) == (wish,)
    write_labels(tmp_path / "both.jsonl", [wish, other])
    with pytest.raises(ExamError, match=r"both\.jsonl, line 2: .* 'opposite' here and 'wish'"):
        read_labels(tmp_path / "both.jsonl")


def test_the_same_answer_in_two_modes_is_labelled_once() -> None:
    twice = [item("why-sleep", 0, mode, "+", text="Rest.") for mode in ("plain", "meta_prompt")]
    assert len(to_label(twice, read_questions(), count=5)) == 1


def test_only_answers_that_are_the_judges_to_decide_are_labelled_where_that_is_asked() -> None:
    seen = [
        item("why-sleep", 0, "plain", "+", text="Rest."),
        item("why-sleep", 1, "plain", "?", text="Sleep."),
        item("dinner", 0, "plain", "+", followed=Followed(verdict="wish", by="code")),
    ]
    drawn = to_label(seen, read_questions(), count=5, judged_only=True)
    assert sorted(one.answer for one in drawn) == ["Rest.", "Sleep."]


def test_the_measure_of_agreement_says_who_labelled(tmp_path: Path) -> None:
    seen, file = answers(4), tmp_path / "labels.jsonl"
    drawn = to_label(seen, read_questions(), count=8)
    write_labels(file, [one.model_copy(update={"label": "wish"}) for one in drawn])
    labels = labels_for(seen, read_questions(), file, "a larger model")
    found, decided = agreement_measures(seen, labels)
    assert found.peer_name == decided.peer_name == "labels of a larger model"
    assert "person" not in found.note
    assert (found.measure, decided.measure) == ("judge.agreement", "judge.decided_of_labelled")
    assert decided.value == 1.0


def test_labels_of_what_the_judge_never_decided_say_so(tmp_path: Path) -> None:
    seen, file = [item("why-sleep", 0, "plain", "?", text="Rest.")], tmp_path / "labels.jsonl"
    drawn = to_label(seen, read_questions(), count=1)
    write_labels(file, [drawn[0].model_copy(update={"label": "wish"})])
    (found,) = agreement_measures(seen, labels_for(seen, read_questions(), file, "a person"))
    assert (found.measure, found.value) == ("judge.decided_of_labelled", 0.0)
