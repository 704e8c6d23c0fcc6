"""Scores of the preference exam, its report, and answers for a person to label."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from benchmarks.preferences import measures_of
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.prefer import Asked, Followed
from comity.errors import ExamError
from comity.evaluation.preference_cases import read_questions
from comity.evaluation.preference_labels import (
    agreement,
    read_labels,
    to_label,
    write_labels,
)
from comity.evaluation.preference_report import notes, preference_report
from comity.evaluation.preference_runs import (
    PreferenceItem,
    PreferenceMode,
    PreferencePlan,
    PreferenceRun,
)
from comity.evaluation.preference_score import (
    bootstrap,
    flips,
    follow,
    gain,
    groups,
    judge_checks,
    leanings,
    rule_change,
)
from comity.evaluation.preference_tables import followed, rules
from comity.records import Message

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
Verdict = Literal["wish", "opposite", "neither", "failed"]
WORDS: dict[str, Verdict] = {"+": "wish", "-": "opposite", "?": "neither", "!": "failed"}
FIRST = (Asked(first="one", chose="one"), Asked(first="other", chose="other"))
BOTH = (Asked(first="one", chose="one"), Asked(first="other", chose="one"))


def item(name: str, number: int, mode: PreferenceMode, sign: str, **fields: Any) -> PreferenceItem:
    """A wish with the verdict of a sign; `?` was judged, and turned with the order."""
    by: Literal["judge", "code"] = "judge" if sign == "?" else "code"
    verdict = Followed(verdict=WORDS[sign], by=by, asked=FIRST if sign == "?" else ())
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
    """Rule cases, `x` broken and `.` kept."""
    return [
        item(f"r{at}", 0, mode, "+", part="rule", followed=None, broken=sign == "x")
        for at, sign in enumerate(signs)
    ]


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
    assert {name: len(one) for name, one in groups(some, "explicit").items()} == {
        "explicit": 2,
        "implicit": 2,
    }
    assert {name: len(one) for name, one in groups(some, "decided_by").items()} == {
        "code": 3,
        "judge": 1,
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
        item("c", 0, "plain", "+"),
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


def plan() -> PreferencePlan:
    return PreferencePlan(
        model="m",
        judge="j",
        modes=("none", "plain", "meta_prompt"),
        cases_sha256="ab",
        rule_cases_sha256="cd",
        questions=("q0", "q1", "q2"),
        started=NOW,
    )


def run_of(folder: Path, seen: Sequence[PreferenceItem]) -> PreferenceRun:
    with PreferenceRun.begin(folder, plan()) as run:
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
    assert "not finished" in told


def test_measures_of_the_benchmark_have_the_names_that_are_asked_for(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", SEEN)
    found = {one.measure: one.value for one in measures_of(SEEN, run)}
    assert found["plain.followed"] == 0.8
    assert found["meta_prompt.gain_points"] == 0.0
    assert found["meta_prompt.gain_to_none_points"] == 33.33
    assert found["meta_prompt.flip_rate"] == 0.6667
    assert found["rules_broken.change_points"] == 33.33
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
    assert agreement(seen, labelled)["code"].share is None
    told = [one.model_copy(update={"label": "wish"}) for one in labelled]
    found = agreement(seen, told)["code"]
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


def test_the_same_answer_in_two_modes_is_labelled_once() -> None:
    twice = [item("why-sleep", 0, mode, "+", text="Rest.") for mode in ("plain", "meta_prompt")]
    assert len(to_label(twice, read_questions(), count=5)) == 1
