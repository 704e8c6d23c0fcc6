"""Scores: what is counted, the intervals and tests against scipy, and what has no score."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from comity.evaluation.runs import Item, Mode
from comity.evaluation.score import (
    Paired,
    compare,
    costs,
    difference_interval,
    got_better,
    got_worse,
    letters,
    mcnemar,
    of,
    overhead_share,
    quantile,
    recalls,
    scores,
    scores_by_kind,
    wilson,
)
from comity.records import RuleRef, Usage

COUNTS = st.integers(0, 400)


def item(question: str, letter: str, mode: Mode = "base", **fields: Any) -> Item:
    """An item whose right letter is A."""
    given: dict[str, Any] = {
        "exam": "pets",
        "question": question,
        "question_sha256": f"hash of {question}",
        "mode": mode,
        "asked": (),
        "asked_sha256": "",
        "answer": "A",
        "letter": letter,
        "at": datetime(2030, 1, 1, tzinfo=UTC),
    }
    return Item(**given | fields)


def answers(letters_: str, mode: Mode = "base", **fields: Any) -> list[Item]:
    """One item for each letter; a blank was not scored."""
    return [
        item(f"q{n}", letter.strip(), mode, not_scored="" if letter.strip() else "silent", **fields)
        for n, letter in enumerate(letters_)
    ]


@given(right=COUNTS, wrong=COUNTS)
def test_wilsons_interval_is_scipys(right: int, wrong: int) -> None:
    assume(right + wrong)
    theirs = binomtest(right, right + wrong).proportion_ci(0.95, method="wilson")
    ours = wilson(right, right + wrong)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= right / (right + wrong) <= ours.high <= 1


@given(gained=COUNTS, lost=COUNTS)
def test_mcnemars_p_is_scipys_sign_test(gained: int, lost: int) -> None:
    assume(gained + lost)
    theirs = binomtest(gained, gained + lost).pvalue
    assert mcnemar(gained, lost) == pytest.approx(theirs, rel=1e-9, abs=1e-300)


def test_where_no_answer_changed_there_is_no_evidence() -> None:
    assert mcnemar(0, 0) == 1


def test_mcnemars_p_is_finite_for_very_many_changes() -> None:
    assert mcnemar(5000, 5000) == 1
    assert 0 < mcnemar(2600, 2400) < 0.01


@given(gained=COUNTS, lost=COUNTS, same=COUNTS)
def test_a_difference_lies_in_its_interval(gained: int, lost: int, same: int) -> None:
    assume(gained + lost + same)
    found = difference_interval(gained, lost, gained + lost + same)
    assert found is not None
    difference = (gained - lost) / (gained + lost + same)
    assert -1 <= found.low <= difference <= found.high <= 1
    turned = difference_interval(lost, gained, gained + lost + same)
    assert turned is not None
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize(
    ("questions", "gain", "loss"), [(30, 0.2, 0.1), (60, 0.15, 0.1), (60, 0.05, 0.02)]
)
def test_the_interval_of_a_difference_holds_its_level(
    questions: int, gain: float, loss: float
) -> None:
    cases = [(g, k) for g in range(questions + 1) for k in range(questions + 1 - g)]
    chances = multinomial.pmf(
        [(g, k, questions - g - k) for g, k in cases], questions, [gain, loss, 1 - gain - loss]
    )
    covered = 0.0
    for (gained, lost), chance in zip(cases, chances, strict=True):
        found = difference_interval(gained, lost, questions)
        assert found is not None
        covered += float(chance) * (found.low <= gain - loss <= found.high)
    assert 0.94 <= covered <= 0.985


def test_the_interval_of_a_difference_nears_walds_with_many_questions() -> None:
    found = difference_interval(1500, 860, 16000)
    assert found is not None
    reach = 1.959964 * math.sqrt(1500 + 860 - 640**2 / 16000) / 16000
    assert (found.low, found.high) == pytest.approx((0.04 - reach, 0.04 + reach), abs=1e-4)


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1), share=st.floats(0, 1))
def test_a_quantile_is_numpys(values: list[float], share: float) -> None:
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), abs=1e-6)


def test_an_exam_without_a_scored_item_has_no_accuracy() -> None:
    (score,) = scores(answers("  "))
    assert (score.asked, score.scored, score.right) == (2, 0, 0)
    assert score.accuracy is None
    assert score.interval is None
    assert score.not_scored == {"silent": 2}


def test_what_was_not_scored_is_neither_right_nor_wrong() -> None:
    (score,) = scores([*answers("AAAB "), item("q9", "", not_scored="two letters")])
    assert (score.asked, score.scored, score.right) == (6, 4, 3)
    assert score.accuracy == 0.75
    assert score.interval == wilson(3, 4)
    assert score.not_scored == {"silent": 1, "two letters": 1}


def test_scores_come_by_exam_and_then_from_base_to_oracle() -> None:
    items = [
        *answers("A", "oracle", exam="z"),
        *answers("B", "base", exam="z"),
        *answers("A", "comity", exam="a"),
    ]
    found = [(score.exam, score.mode, score.accuracy) for score in scores(items)]
    assert found == [("z", "base", 0), ("z", "oracle", 1), ("a", "comity", 1)]


def test_nothing_asked_has_no_scores() -> None:
    assert scores([]) == ()


def test_kinds_of_questions_are_scored_apart() -> None:
    items = [*answers("AA", kind="scenario"), *answers("BA ", kind="boundary")]
    found = {
        score.kind: (score.right, score.scored, score.asked) for score in scores_by_kind(items)
    }
    assert found == {"scenario": (2, 2, 2), "boundary": (1, 2, 3)}


def test_two_modes_are_compared_over_questions_scored_in_both() -> None:
    paired = compare(answers("AABBAB A"), answers("ABABA A ", "comity"))
    assert (paired.both_right, paired.gained, paired.lost, paired.both_wrong) == (2, 1, 1, 1)
    assert paired.questions == 5
    assert paired.difference == 0
    assert paired.p == 1
    assert paired.interval == difference_interval(1, 1, 5)


def test_a_question_whose_text_changed_is_another_one() -> None:
    changed = item("q0", "B", "comity", question_sha256="another")
    assert compare(answers("A"), [changed]).questions == 0


def test_nothing_compared_has_no_difference() -> None:
    nothing = Paired(both_right=0, gained=0, lost=0, both_wrong=0)
    assert nothing.difference is None
    assert nothing.interval is None


def test_what_got_worse_and_better_is_told_by_question() -> None:
    before, after = answers("AAB B"), answers("AB AA", "comity")
    worse, better = got_worse(before, after), got_better(before, after)
    assert [(c.before.question, c.before.mode, c.after.letter) for c in worse] == [
        ("q1", "base", "B")
    ]
    assert [(c.before.question, c.before.mode, c.after.mode) for c in better] == [
        ("q4", "base", "comity")
    ]


def test_recall_is_the_mean_over_questions_with_gold_rules() -> None:
    gold = (RuleRef(id="r", version=1),)
    items = [
        item("q1", "A", "comity", gold=gold, gold_found=1, gold_sent=0.5, gold_at={100: 0, 200: 1}),
        item("q2", "", "comity", gold=gold, gold_found=0.5, gold_sent=0.5, gold_at={100: 0.5}),
        item("q3", "A", "comity"),
        item("q1", "A", "base"),
    ]
    (recall,) = recalls(items)
    assert (recall.mode, recall.questions, recall.found, recall.sent) == ("comity", 2, 0.75, 0.5)
    assert recall.at == {100: 0.25, 200: 1}


def test_recall_of_an_oracle_knows_no_search() -> None:
    (recall,) = recalls([item("q1", "A", "oracle", gold_sent=1)])
    assert recall.found is None
    assert recall.sent == 1


def test_costs_are_told_as_mean_median_and_ninetieth_percentile() -> None:
    items = [
        item(
            f"q{n}",
            "A",
            usage=Usage(prompt_tokens=10 * n, completion_tokens=1),
            seconds={"prepare": 0.1, "model": n, "total": n + 0.5},
        )
        for n in range(1, 12)
    ]
    (cost,) = costs(items)
    assert cost.read is not None
    assert (cost.read.mean, cost.read.median, cost.read.p90) == (60, 60, 100)
    assert cost.seconds is not None
    assert (cost.seconds.median, cost.seconds.p90) == (6.5, 10.5)
    assert cost.rules is None


def test_reused_answers_cost_no_time_and_failed_calls_no_tokens() -> None:
    items = [
        item("q1", "A", usage=Usage(prompt_tokens=8), reused=True, seconds={"total": 9}),
        item("q2", "", not_scored="the model failed", seconds={"total": 2, "model": 1}),
    ]
    (cost,) = costs(items)
    assert cost.read is not None
    assert (cost.read.count, cost.read.mean) == (1, 8)
    assert cost.seconds is not None
    assert (cost.seconds.count, cost.seconds.mean) == (1, 2)


def test_the_overhead_is_what_the_harness_took_beside_the_model() -> None:
    items = [
        item("q1", "A", seconds={"model": 2, "total": 2.1}),
        item("q2", "A", seconds={"model": 3, "total": 3.4}),
        item("q3", "A", seconds={"model": 1, "total": 99}, reused=True),
    ]
    assert overhead_share(items) == pytest.approx(0.1)
    assert overhead_share([item("q1", "A")]) is None


def test_a_model_that_always_gives_one_letter_is_seen() -> None:
    right = "AABBBC"
    items = [
        item(f"q{n}", "B", mode, answer=letter)
        for n, letter in enumerate(right)
        for mode in ("base", "comity")
    ]
    (found,) = letters(items)
    assert found.right == {"A": 2, "B": 3, "C": 1}
    assert found.chosen == {"base": {"B": 6}, "comity": {"B": 6}}
    assert (found.majority, found.majority_share) == ("B", 0.5)


def test_items_of_one_exam_and_mode_are_picked() -> None:
    items = [*answers("A"), *answers("B", "comity"), *answers("B", exam="other")]
    assert of(items, "pets", "base") == answers("A")


def test_of_nothing_there_is_no_interval() -> None:
    assert wilson(0, 0) is None
    assert difference_interval(0, 0, 0) is None
