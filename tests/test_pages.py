"""Pages of rules and decisions say the same as a walk over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.decisions import affected
from comity.errors import NotFound
from comity.memory.pages import DecisionFilter, RuleFilter
from comity.memory.place_paths import contains
from comity.memory.sealed import whole
from comity.memory.sqlite import SqliteStore
from comity.memory.store import Change, Store, StoredRule
from comity.records import Citation, Decision, Rule, RuleRef, Scope

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
PLACES = ("world", "CN", "CN-HN", "CN-HN/长沙市", "CN-H", "XA", "XA-CN", "XA-CN/CN")


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    book = SqliteStore(None)
    fill(book)
    yield book
    book.close()


def fill(book: Store) -> None:
    """Write the rules and decisions of which pages are read."""
    for number in range(40):
        rule = Rule(
            id=f"rule {number:02}",
            text=f"Dogs {number % 7} 狗",
            title="Park Order" if number % 2 else "",
            place=PLACES[number % len(PLACES)],
            audience=("nurse", "night nurse")[: number % 3],
            authority=("policy", "statute")[number % 2],
            domain=("", "law")[number % 3 == 0],
            status=("active", "draft")[number % 5 == 0],
        )
        _commit(book, rule)
        if number % 4 == 0:
            changed = {"version": 2, "text": "Cats", "status": "repealed"}
            _commit(book, rule.model_copy(update=changed))
    _commit(book, Rule(id="rule 07", text="Dogs", tenant="other"), "other")
    for number in range(30):
        _record(book, _decision(number))


def _commit(book: Store, rule: Rule, tenant: str = "default") -> None:
    book.commit(Change(tenant=tenant, kind="add", rules=(rule,), made_at=NOON))


def _record(book: Store, decision: Decision) -> None:
    book.append_decision("default", lambda _: whole(decision))


def _decision(number: int) -> Decision:
    ref = RuleRef(id=("a", 'b "quoted" 狗', "a b")[number % 3], version=1 + number % 2)
    parts: tuple[dict[str, Any], ...] = (
        {"kept": (ref,)},
        {"overruled": (ref.model_copy(update={"winner": "winner"}),)},
        {"left_out": (ref,)},
        {"hits": (ref,)},  # found, but without a part
        {"citations": (Citation(id=ref.id, version=ref.version, label="[R1]", start=0, end=1),)},
    )
    return Decision(
        id=f"d-{number}",
        made_at=NOON + timedelta(hours=number),
        revision=1,
        scope=Scope(),
        question="?",
        model=("one", "two")[number % 2],
        withheld=number % 4 == 0,
        hash=f"{number}",
        **parts[number % 5],
    )


def wanted(stored: StoredRule, chosen: RuleFilter) -> bool:
    rule = stored.rule
    words = f"{rule.id} {rule.title} {rule.article} {rule.text}".lower()
    return (
        (not chosen.place or contains(chosen.place, rule.place))
        and (not chosen.audience or chosen.audience in rule.audience)
        and chosen.authority in ("", rule.authority)
        and chosen.domain in ("", rule.domain)
        and chosen.status in (None, rule.status)
        and chosen.text.lower() in words
    )


rule_filters = st.builds(
    RuleFilter,
    place=st.sampled_from(("", *PLACES)),
    audience=st.sampled_from(("", "nurse", "night nurse", "night")),
    authority=st.sampled_from(("", "policy", "statute")),
    domain=st.sampled_from(("", "law")),
    status=st.sampled_from((None, "draft", "active", "repealed")),
    text=st.sampled_from(("", "狗", "dogs 3", "PARK order", "%", "rule 1")),
)


@given(
    chosen=rule_filters,
    after=st.sampled_from(("", "rule 07", "rule 2", "z")),
    limit=st.integers(1, 50),
    as_of=st.none() | st.integers(0, 55),
)
def test_a_page_of_rules_is_what_a_walk_over_all_would_give(
    store: Store, chosen: RuleFilter, after: str, limit: int, as_of: int | None
) -> None:
    walked = [each for each in store.latest("default", as_of) if wanted(each, chosen)]
    expected = [each for each in walked if each.rule.id > after][:limit]
    assert store.page("default", chosen, after=after, limit=limit, as_of=as_of) == expected


def test_pages_one_after_another_hold_every_rule_once(store: Store) -> None:
    ids: list[str] = []
    while page := store.page("default", RuleFilter(), after=ids[-1] if ids else "", limit=7):
        ids += [each.rule.id for each in page]
    assert ids == [each.rule.id for each in store.latest("default")]


decision_filters = st.builds(
    DecisionFilter,
    since=st.none() | st.integers(-1, 31).map(lambda hours: NOON + timedelta(hours=hours)),
    until=st.none() | st.integers(-1, 31).map(lambda hours: NOON + timedelta(hours=hours)),
    model=st.sampled_from(("", "one", "two", "three")),
    withheld=st.sampled_from((None, True, False)),
    rule=st.sampled_from(("", "a", 'b "quoted" 狗', "a b", "winner", "b")),
    version=st.sampled_from((None, 1, 2, 3)),
)


@given(
    chosen=decision_filters,
    after=st.sampled_from(("", "d-3", "d-29")),
    limit=st.integers(1, 40),
)
def test_a_page_of_decisions_is_what_a_walk_over_all_would_give(
    store: Store, chosen: DecisionFilter, after: str, limit: int
) -> None:
    every = list(store.decisions("default"))
    behind = [each.id for each in every].index(after) + 1 if after else 0
    expected = [
        each
        for each in every[behind:]
        if (chosen.since is None or each.made_at >= chosen.since)
        and (chosen.until is None or each.made_at < chosen.until)
        and chosen.model in ("", each.model)
        and chosen.withheld in (None, each.withheld)
        and (not chosen.rule or any(affected([each], chosen.rule, chosen.version)))
    ][:limit]
    assert store.decision_page("default", chosen, after=after, limit=limit) == expected


def test_a_page_after_an_unknown_decision_is_no_empty_page(store: Store) -> None:
    with pytest.raises(NotFound, match="'d-99'"):
        store.decision_page("default", DecisionFilter(), after="d-99")


def test_another_tenant_has_pages_of_its_own(store: Store) -> None:
    assert [each.rule.tenant for each in store.page("other", RuleFilter())] == ["other"]
    assert store.decision_page("other", DecisionFilter()) == []
    with pytest.raises(NotFound):
        store.decision_page("other", DecisionFilter(), after="d-3")
