"""What every book of record does with the preferences of persons. Needs a fixture `store`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from comity.errors import NotFound, RuleError
from comity.memory.preference_book import LONGEST, MOST, stored_preference
from comity.memory.store import Store
from comity.records import Check, Rule

NOON = datetime(2030, 6, 1, 12, 0, 0, 123_456, tzinfo=UTC)
DAY = timedelta(days=1)
LEE, ANN = "lee's hash", "ann's hash"


def wish(text: str = "be brief", id: str = "brief", tenant: str = "default") -> Rule:
    return stored_preference(text, "style", id=id, tenant=tenant)


def texts(store: Store, at: datetime, *, person: str = LEE, tenant: str = "default") -> list[str]:
    return [rule.text for rule in store.preferences.in_force(tenant, person, at)]


def test_a_person_nobody_knows_has_no_preferences(store: Store) -> None:
    assert store.preferences.in_force("default", LEE, NOON) == []
    assert store.preferences.history("default", LEE) == []
    assert store.preferences.export("default", LEE).preferences == ()
    assert store.preferences.erase("default", LEE) == 0


def test_a_preference_comes_back_as_it_was_stated_with_the_moment_of_it(store: Store) -> None:
    rule = stored_preference(
        "回答简短一些 “{x}” 𝒳",
        "language",
        id="a'; DROP TABLE preference; --",
        tenant="default",
        valid_from=NOON - DAY,
        valid_to=NOON + DAY,
    )
    assert store.preferences.state("default", LEE, rule, NOON) == rule
    assert store.preferences.in_force("default", LEE, NOON) == [rule]
    [held] = store.preferences.history("default", LEE)
    assert (held.rule, held.recorded_at) == (rule, NOON)
    assert store.preferences.export("default", LEE).preferences == (held,)


def test_preferences_stand_in_the_order_in_which_they_were_first_stated(store: Store) -> None:
    for n in (2, 1, 3):
        store.preferences.state("default", LEE, wish(f"wish {n}", f"w{n}"), NOON)
    store.preferences.state("default", LEE, wish("wish 2, again", "w2"), NOON + DAY)
    assert texts(store, NOON + DAY) == ["wish 2, again", "wish 1", "wish 3"]


def test_a_changed_preference_holds_from_the_change_on(store: Store) -> None:
    store.preferences.state("default", LEE, wish("be brief"), NOON)
    changed = store.preferences.state("default", LEE, wish("be thorough"), NOON + DAY)
    assert (changed.version, changed.valid_from) == (2, NOON + DAY)
    assert texts(store, NOON + DAY - timedelta(microseconds=1)) == ["be brief"]
    assert texts(store, NOON + DAY) == ["be thorough"]


def test_a_withdrawn_preference_held_until_then(store: Store) -> None:
    store.preferences.state("default", LEE, wish(), NOON)
    last = store.preferences.withdraw("default", LEE, "brief", NOON + DAY)
    assert (last.version, last.status) == (2, "repealed")
    assert texts(store, NOON + DAY) == []
    assert texts(store, NOON) == ["be brief"]
    assert len(store.preferences.history("default", LEE, "brief")) == 2


def test_a_withdrawn_preference_can_be_stated_again(store: Store) -> None:
    store.preferences.state("default", LEE, wish(), NOON)
    store.preferences.withdraw("default", LEE, "brief", NOON + DAY)
    again = store.preferences.state("default", LEE, wish(), NOON + 2 * DAY)
    assert again.version == 3
    assert [texts(store, NOON + n * DAY) for n in range(3)] == [["be brief"], [], ["be brief"]]


def test_what_held_is_told_as_it_was_known_at_any_moment(store: Store) -> None:
    store.preferences.state("default", LEE, wish("be brief"), NOON)
    early = wish("be thorough").model_copy(update={"valid_from": NOON - DAY})
    store.preferences.state("default", LEE, early, NOON + DAY)
    at = NOON + timedelta(hours=1)

    def known(moment: datetime) -> list[str]:
        found = store.preferences.in_force("default", LEE, at, known_at=moment)
        return [rule.text for rule in found]

    assert known(NOON - timedelta(microseconds=1)) == []
    assert known(NOON) == ["be brief"]
    assert known(NOON + DAY) == ["be thorough"]


def test_validity_is_half_open_for_preferences_as_well(store: Store) -> None:
    rule = wish().model_copy(update={"valid_from": NOON + DAY, "valid_to": NOON + 2 * DAY})
    store.preferences.state("default", LEE, rule, NOON)
    assert [bool(texts(store, NOON + n * DAY)) for n in range(3)] == [False, True, False]


def test_the_same_words_stated_twice_are_one_preference(store: Store) -> None:
    first = store.preferences.state("default", LEE, wish(), NOON)
    assert store.preferences.state("default", LEE, wish(), NOON + DAY) == first
    assert store.preferences.state("default", LEE, wish(id="other"), NOON + DAY) == first
    assert len(store.preferences.history("default", LEE)) == 1


def test_what_is_withdrawn_must_be_there_and_holding(store: Store) -> None:
    store.preferences.state("default", LEE, wish(), NOON)
    with pytest.raises(NotFound, match=r"no preference 'brif'.*preferences list"):
        store.preferences.withdraw("default", LEE, "brif", NOON)
    with pytest.raises(NotFound, match="'brif'"):
        store.preferences.history("default", LEE, "brif")
    store.preferences.withdraw("default", LEE, "brief", NOON + DAY)
    with pytest.raises(RuleError, match="'brief' has ended already"):
        store.preferences.withdraw("default", LEE, "brief", NOON + 2 * DAY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"authority": "policy"}, "authority is 'policy', and must be 'preference'"),
        ({"domain": "mood"}, "'mood' is no kind of preference: choose safety, helpfulness"),
        ({"text": "x" * (LONGEST + 1)}, "text has 501 characters, 500 at most"),
        ({"id": "x" * 101}, "id has 101 characters"),
        ({"status": "draft"}, "status is 'draft'"),
        ({"place": "CN"}, "place: a preference has none"),
        ({"mandatory": True, "audience": ("nurse",)}, "audience, mandatory: a preference has none"),
        ({"check": Check(must_match="a")}, "check: a preference has none"),
        ({"valid_to": NOON}, "it ended on 2030-06-01"),
        ({"tenant": "other"}, "cannot be kept in tenant 'default': it is of tenant 'other'"),
    ],
)
def test_what_no_preference_can_be_is_refused_and_changes_nothing(
    store: Store, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RuleError, match=message):
        store.preferences.state("default", LEE, wish().model_copy(update=changes), NOON)
    assert store.preferences.history("default", LEE) == []


def test_a_preference_needs_a_person(store: Store) -> None:
    with pytest.raises(RuleError, match="names no person"):
        store.preferences.state("default", "", wish(), NOON)


def test_a_person_has_so_many_preferences_and_no_more(store: Store) -> None:
    for n in range(MOST):
        store.preferences.state("default", LEE, wish(f"wish {n}", f"w{n}"), NOON)
    with pytest.raises(RuleError, match=r"has 100 preferences, which is the most: withdraw one"):
        store.preferences.state("default", LEE, wish(), NOON)
    store.preferences.state("default", LEE, wish("wish 0, changed", "w0"), NOON)
    store.preferences.withdraw("default", LEE, "w1", NOON)
    store.preferences.state("default", LEE, wish(), NOON)
    assert len(texts(store, NOON)) == MOST


def test_erasing_takes_all_versions_of_one_person_alone(store: Store) -> None:
    store.preferences.state("default", LEE, wish(), NOON)
    store.preferences.withdraw("default", LEE, "brief", NOON)
    kept = store.preferences.state("default", ANN, wish(), NOON)
    assert store.preferences.erase("default", LEE) == 2
    assert store.preferences.history("default", LEE) == []
    assert store.preferences.erase("default", LEE) == 0
    assert store.preferences.in_force("default", ANN, NOON) == [kept]
    assert store.preferences.state("default", LEE, wish(), NOON).version == 1


def test_preferences_are_no_revision_and_no_rules_of_the_memory(store: Store) -> None:
    store.preferences.state("default", LEE, wish(), NOON)
    assert store.revision() == 0
    assert list(store.rows_after(0)) == []
    assert list(store.latest("default")) == []
    assert store.history("default", "brief") == []
