"""What every book of record does with findings on pairs of rules. Needs a fixture `store`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from comity.errors import NotFound
from comity.memory.pairs import JudgedPair, PairDecision
from comity.memory.store import Store

NOON = datetime(2030, 6, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def finding(name: str = "c-1", **fields: object) -> JudgedPair:
    return JudgedPair.model_validate(
        {
            "id": name,
            "one": "a",
            "one_version": 1,
            "other": "b",
            "other_version": 3,
            "verdict": "contradict",
            "reason": "  a says 9, b “10”\n",
            "one_quotation": "by nine",
            "other_quotation": "by ten",
            "judge": "scripted",
            "wording": "en-0",
            "made_at": NOON,
        }
        | fields
    )


def pair_decision(pair: str = "c-1", **fields: object) -> PairDecision:
    return PairDecision.model_validate(
        {"pair": pair, "decided": "dismissed", "author": "Ada", "note": "no", "made_at": NOON}
        | fields
    )


def test_a_finding_comes_back_as_it_was_kept(store: Store) -> None:
    store.pairs.keep("default", finding())
    assert store.pairs.judged("default", ["c-1", "c-2"]) == [finding()]
    assert store.pairs.found("default", "contradict") == [finding()]
    assert store.pairs.found("default", "unsure") == []


def test_a_finding_stays_unless_it_failed_or_is_made_again(store: Store) -> None:
    store.pairs.keep("default", finding(verdict="failed"))
    store.pairs.keep("default", finding(verdict="unsure"))
    store.pairs.keep("default", finding(verdict="compatible"))
    assert [f.verdict for f in store.pairs.judged("default", ["c-1"])] == ["unsure"]
    store.pairs.keep("default", finding(verdict="compatible"), again=True)
    assert [f.verdict for f in store.pairs.judged("default", ["c-1"])] == ["compatible"]


def test_what_an_owner_decided_on_is_not_judged_away(store: Store) -> None:
    store.pairs.keep("default", finding())
    store.pairs.decide("default", pair_decision(decided="confirmed", winner="a", winner_version=2))
    store.pairs.keep("default", finding(verdict="compatible"), again=True)
    (kept,) = store.pairs.judged("default", ["c-1"])
    assert (kept.verdict, kept.decided) == ("contradict", "confirmed")


def test_suspicions_are_contradictions_among_the_rules_that_nobody_dismissed(store: Store) -> None:
    store.pairs.keep("default", finding("c-1"))
    store.pairs.keep("default", finding("c-2", other="c"))
    store.pairs.keep("default", finding("c-3", one="b", other="c", verdict="unsure"))
    store.pairs.decide("default", pair_decision("c-1"))
    assert [f.id for f in store.pairs.suspicions("default", ["a", "b", "c"])] == ["c-2"]
    assert store.pairs.suspicions("default", ["a", "b"]) == []
    store.pairs.decide("default", pair_decision("c-1", decided="confirmed"))
    assert [f.id for f in store.pairs.suspicions("default", ["b", "a"])] == ["c-1"]


def test_decisions_on_a_pair_are_all_kept(store: Store) -> None:
    store.pairs.keep("default", finding())
    made = [pair_decision(), pair_decision(decided="confirmed", made_at=NOON + timedelta(days=1))]
    for each in made:
        store.pairs.decide("default", each)
    assert store.pairs.decisions("default", "c-1") == made


def test_findings_and_decisions_of_tenants_do_not_meet(store: Store) -> None:
    store.pairs.keep("default", finding())
    store.pairs.keep("other", finding(verdict="unsure"))
    with pytest.raises(NotFound, match="c-2"):
        store.pairs.decide("other", pair_decision("c-2"))
    store.pairs.decide("other", pair_decision())
    assert [f.decided for f in store.pairs.judged("default", ["c-1"])] == [None]
    assert store.pairs.decisions("default", "c-1") == []
    assert store.pairs.found("nobody", "contradict") == []
    assert store.pairs.suspicions("other", ["a", "b"]) == []
