"""Which of the rules that apply are in force: against a pairwise definition written apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.precedence import rule_on
from comity.memory.memory import Memory
from comity.records import AUTHORITIES, Overruled, Rule, Scope
from comity.retrieval.search import search

PLACES = ("world", "CN", "CN-HN", "CN-HN/长沙市")
IDS = "abcdefgh"


def levels(place: str) -> int:
    return 0 if place == "world" else 1 + place.count("-") + place.count("/")


def goes_before(one: Rule, other: Rule) -> bool:
    """Whether one rule has precedence over another by rank, place, audience or date."""
    ranks = [AUTHORITIES.index(rule.authority) for rule in (one, other)]
    if ranks[0] != ranks[1]:
        return ranks[0] < ranks[1]
    if levels(one.place) != levels(other.place):
        return levels(one.place) > levels(other.place)
    if bool(one.audience) != bool(other.audience):
        return bool(one.audience)
    long_ago = datetime(1, 1, 1, tzinfo=UTC)
    return (one.valid_from or long_ago) > (other.valid_from or long_ago)


def conflict(one: Rule, other: Rule) -> bool:
    return one.id in other.overrides or other.id in one.overrides


def rules(tied: bool = False) -> st.SearchStrategy[list[Rule]]:
    one = st.builds(
        Rule,
        id=st.sampled_from(IDS),
        text=st.just("x"),
        place=st.sampled_from(PLACES[:1] if tied else PLACES),
        authority=st.sampled_from(AUTHORITIES[:1] if tied else AUTHORITIES[:3]),
        audience=st.sampled_from(((),) if tied else ((), ("nurse",))),
        valid_from=st.sampled_from((None,) if tied else (None, "2020-01-01", "2021-01-01")),
        overrides=st.lists(st.sampled_from(IDS), max_size=3, unique=True).map(tuple),
        mandatory=st.booleans(),
    )
    return st.lists(one, max_size=8, unique_by=lambda rule: rule.id)


@given(rules())
def test_every_rule_is_kept_or_gives_way_to_a_kept_one_of_higher_precedence(
    candidates: list[Rule],
) -> None:
    ruling = rule_on(candidates)
    assert sorted(r.id for r in ruling.kept) + sorted(o.rule.id for o in ruling.overruled) == (
        sorted(r.id for r in candidates if r in ruling.kept)
        + sorted(r.id for r in candidates if r not in ruling.kept)
    )
    for lost in ruling.overruled:
        assert lost.winner in ruling.kept
        assert conflict(lost.rule, lost.winner)
        assert not goes_before(lost.rule, lost.winner)
    for at, one in enumerate(ruling.kept):
        for other in ruling.kept[at + 1 :]:
            assert not conflict(one, other)
            assert not goes_before(other, one)


@given(rules())
def test_a_rule_gives_way_only_if_a_kept_rule_before_it_conflicts(candidates: list[Rule]) -> None:
    kept = rule_on(candidates).kept
    for rule in candidates:
        stronger = [other for other in kept if goes_before(other, rule) and conflict(other, rule)]
        tied = [
            other
            for other in kept
            if other != rule
            and conflict(other, rule)
            and not goes_before(other, rule)
            and not goes_before(rule, other)
        ]
        assert (rule in kept) == (not stronger and not tied)


@given(rules(), st.randoms(use_true_random=False))
def test_order_of_insertion_does_not_matter(candidates: list[Rule], chance: random.Random) -> None:
    expected = rule_on(candidates)
    chance.shuffle(candidates)
    assert rule_on(candidates) == expected
    assert rule_on([*candidates, *candidates]) == expected


@given(rules(tied=True), st.randoms(use_true_random=False))
def test_among_equals_cycles_of_overrides_are_decided_the_same_way_each_time(
    candidates: list[Rule], chance: random.Random
) -> None:
    expected = rule_on(candidates)
    chance.shuffle(candidates)
    assert rule_on(candidates) == expected


@given(rules(), st.integers(0, 7))
def test_a_lower_authority_never_overrides_a_higher_one(candidates: list[Rule], at: int) -> None:
    for lost in rule_on(candidates).overruled:
        assert AUTHORITIES.index(lost.winner.authority) <= AUTHORITIES.index(lost.rule.authority)


@given(rules())
def test_the_reason_names_the_first_point_in_which_the_winner_is_ahead(
    candidates: list[Rule],
) -> None:
    for lost in rule_on(candidates).overruled:
        assert lost.reason == expected_reason(lost)


def expected_reason(lost: Overruled) -> str:
    winner, rule = lost.winner, lost.rule
    if winner.authority != rule.authority:
        return "higher authority"
    if levels(winner.place) != levels(rule.place):
        return "narrower place"
    if bool(winner.audience) != bool(rule.audience):
        return "narrower audience"
    return "declared" if winner.valid_from == rule.valid_from else "later"


def test_a_rule_that_gave_way_overrules_nobody() -> None:
    law = Rule(id="law", text="x", authority="statute")
    policy = Rule(id="policy", text="x", authority="policy", overrides=("law",))
    custom = Rule(id="custom", text="x", authority="custom", overrides=("policy",))
    ruling = rule_on([custom, policy, law])
    assert [rule.id for rule in ruling.kept] == ["law", "custom"]
    assert [(lost.rule.id, lost.winner.id) for lost in ruling.overruled] == [("policy", "law")]


def test_of_two_equal_rules_the_one_that_declares_the_conflict_is_kept() -> None:
    general, special = Rule(id="a", text="x"), Rule(id="b", text="y", overrides=("a",))
    assert rule_on([general, special]).kept == (special,)


def test_a_rule_that_names_itself_is_not_at_odds_with_itself() -> None:
    odd = Rule(id="a", text="x", overrides=("a",))
    assert rule_on([odd, Rule(id="b", text="y")]).kept[0] == odd


def test_a_microsecond_decides_between_two_versions_of_time() -> None:
    first = Rule(id="a", text="x", valid_from="2030-01-01T00:00:00.000001", overrides=("b",))
    second = Rule(id="b", text="y", valid_from="2030-01-01T00:00:00.000002")
    assert rule_on([first, second]).kept == (second,)


def test_an_authority_that_the_table_does_not_rank_goes_last() -> None:
    odd = Rule(id="a", text="x", authority="decree", overrides=("b",))
    assert rule_on([odd, Rule(id="b", text="y", authority="preference")]).kept[0].id == "b"


def test_the_table_of_authorities_is_data() -> None:
    house = Rule(id="house", text="x", authority="house", overrides=("guest",))
    guest = Rule(id="guest", text="y", authority="guest")
    assert rule_on([house, guest], ("guest", "house")).kept == (guest,)
    assert rule_on([house, guest], ("house", "guest")).kept == (house,)


def test_no_rules_make_an_empty_ruling() -> None:
    assert rule_on([]).kept == ()


def chained_rules() -> Sequence[Rule]:
    """Forty rules about everyday things; the mandatory one is in a chain of conflicts."""
    others = [Rule(id=f"other-{n}", text=f"Cats may sleep in room {n}") for n in range(40)]
    return (
        *others,
        Rule(id="must", text="Say that you are a machine", mandatory=True, authority="code"),
        Rule(id="statute", text="Zebras graze", authority="statute", overrides=("policy",)),
        Rule(id="policy", text="Quiet yachts", authority="policy", overrides=("must",)),
    )


def test_similarity_decides_nothing_about_a_mandatory_rule(memory: Memory) -> None:
    memory.add(chained_rules())
    for question in ("cats sleep in room 3", "are you a machine", "zebras", "quiet yachts", ""):
        for k in (1, 5, 100):
            ruling = rule_on(search(memory, question, Scope(), k=k).candidates)
            assert "must" in {rule.id for rule in ruling.kept}, (question, k)
            assert {lost.rule.id for lost in ruling.overruled} == {"policy"}, (question, k)


def test_a_hit_gives_way_to_a_rule_that_the_search_did_not_find(memory: Memory) -> None:
    noise = [Rule(id=f"n{n}", text=f"Dogs may bark at noon {n}", overrides=()) for n in range(30)]
    memory.add(
        [
            *noise,
            Rule(id="dogs", text="Dogs may bark at noon"),
            Rule(id="ban", text="Silentium", authority="statute", overrides=("dogs",)),
        ]
    )
    found = search(memory, "Dogs may bark at noon", Scope(), k=1)
    assert [hit.rule.id for hit in found.hits] == ["dogs"]
    ruling = rule_on(found.candidates)
    assert [(lost.rule.id, lost.winner.id) for lost in ruling.overruled] == [("dogs", "ban")]
