"""Which rules can apply: against a reference that knows nothing of arrays."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.memory.scope import ScopeTable
from comity.memory.store import StoredRule, from_micros, to_micros
from comity.records import Rule, Scope

PLACES = (
    "world",
    "CN",
    "CN-HN",
    "CN-HN/长沙市",
    "CN-HN/长沙市/岳麓区",
    "CN-SH",
    "XA",
    "XA-N/Harwick",
)
ASKED = (*PLACES, "CN-HNX", "XA-N", "XA-N/Harwick/Quay", "C", "US")
LABELS = ("acme", "Acme", "nurse", "律师", "driver")
TENANTS = ("default", "other")
LEAP = datetime(2028, 2, 29, tzinfo=UTC)
MOMENTS = (
    datetime(1999, 12, 31, 23, 59, 59, 999_999, UTC),
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(2020, 7, 1, tzinfo=timezone(timedelta(hours=8))),
    datetime(2020, 7, 1, tzinfo=UTC),
    LEAP - timedelta(microseconds=1),
    LEAP,
    LEAP + timedelta(days=1),
    datetime(2100, 1, 1, tzinfo=timezone(-timedelta(hours=11, minutes=30))),
)


def lies_in(place: str, wide: str) -> bool:
    """Whether a place is another or lies in it, by its letters alone."""
    if wide in ("world", place):
        return True
    return any(place.startswith(wide + mark) for mark in ("-", "/")) and not (
        "-" in wide and place[len(wide)] == "-"
    )


def applies(stored: StoredRule, book: Sequence[StoredRule], scope: Scope, at: datetime) -> bool:
    """One rule at a time, in the words of the design; `book` may hold its own versions only."""
    rule = stored.rule
    if rule.tenant != scope.tenant or rule.status != "active":
        return False
    if scope.as_of is not None and stored.revision > scope.as_of:
        return False
    if not any(lies_in(place, rule.place) for place in scope.place or ("world",)):
        return False
    labels = {label.casefold() for label in scope.audience}
    if rule.audience and not any(label.casefold() in labels for label in rule.audience):
        return False
    if (rule.valid_from and at < rule.valid_from) or (rule.valid_to and at >= rule.valid_to):
        return False
    return not any(
        later.rule.version > rule.version
        and later.rule.status != "draft"
        and (scope.as_of is None or later.revision <= scope.as_of)
        and (later.rule.valid_from is None or later.rule.valid_from <= at)
        for later in book
        if (later.rule.tenant, later.rule.id) == (rule.tenant, rule.id)
    )


def random_book(chance: random.Random, size: int) -> list[StoredRule]:
    """Rules with versions, repeals and drafts; several rules to a revision."""
    versions: dict[tuple[str, str], int] = {}
    book: list[StoredRule] = []
    revision = 1
    for row in range(1, size + 1):
        key = (chance.choice(TENANTS), f"rule-{chance.randrange(1 + size // 2)}")
        versions[key] = versions.get(key, 0) + 1
        edges = sorted(chance.sample(MOMENTS, 2))
        statuses: tuple[Literal["active", "draft", "repealed"], ...]
        statuses = ("active", "active", "active", "draft", "repealed")
        rule = Rule(
            id=key[1],
            tenant=key[0],
            version=versions[key],
            text="x",
            place=chance.choice(PLACES),
            audience=tuple(chance.sample(LABELS, chance.choice((0, 0, 1, 2)))),
            valid_from=chance.choice((None, edges[0])),
            valid_to=chance.choice((None, None, edges[1])),
            status=chance.choice(statuses),
            mandatory=chance.random() < 0.2,
        )
        book.append(StoredRule(row=row * 3, revision=revision, rule=rule))
        revision += chance.random() < 0.5
    return book


def random_scope(chance: random.Random, book: Sequence[StoredRule]) -> Scope:
    moment = chance.choice(MOMENTS) + timedelta(microseconds=chance.choice((-1, 0, 0, 0, 1)))
    return Scope(
        place=tuple(chance.sample(ASKED, chance.choice((0, 1, 1, 2)))),
        audience=tuple(chance.sample((*LABELS, "LAWYER"), chance.choice((0, 1, 2)))),
        at=moment,
        as_of=chance.choice((None, None, chance.randint(0, book[-1].revision + 1))),
        tenant=chance.choice((*TENANTS, "nobody")),
    )


def table_of(book: Sequence[StoredRule]) -> ScopeTable:
    table = ScopeTable()
    for stored in book:
        mine = (stored.rule.tenant, stored.rule.id)
        earlier = [s.row for s in book if (s.rule.tenant, s.rule.id) == mine and s.row < stored.row]
        table.append(stored, earlier)
    return table


@pytest.mark.parametrize("seed", range(100))
def test_a_mask_admits_what_the_reference_admits(seed: int) -> None:
    chance = random.Random(seed)
    book = random_book(chance, chance.choice((1, 3, 30)))
    table = table_of(book)
    versions = {s.row: [o for o in book if o.rule.id == s.rule.id] for s in book}
    for _ in range(200):  # 100 x 200 = 20,000 scopes
        scope = random_scope(chance, book)
        assert scope.at
        expected = [s.row for s in book if applies(s, versions[s.row], scope, scope.at)]
        mask = table.mask(scope)
        positions = mask.rows.nonzero()[0]
        assert table.rows(positions).tolist() == expected, (seed, scope)
        assert {int(table.kinds[p]) for p in positions} <= set(mask.kinds)


@given(st.integers(0, 2**32), st.data())
def test_as_of_each_revision_a_mask_is_what_it_was_then(seed: int, data: st.DataObject) -> None:
    chance = random.Random(seed)
    book = random_book(chance, 12)
    revision = data.draw(st.integers(0, book[-1].revision))
    then = [stored for stored in book if stored.revision <= revision]
    scope = random_scope(chance, book).model_copy(update={"as_of": None})
    before = table_of(then).mask(scope).rows
    after = table_of(book).mask(scope.model_copy(update={"as_of": revision})).rows
    assert after[: len(then)].tolist() == before.tolist()
    assert not after[len(then) :].any()


@given(st.integers(0, 2**32), st.integers(0, 12))
def test_a_table_loaded_again_admits_the_same(seed: int, cut: int) -> None:
    chance = random.Random(seed)
    book = random_book(chance, 12)
    table = ScopeTable.from_state(*table_of(book[:cut]).state())
    for stored in book[cut:]:
        mine = (stored.rule.tenant, stored.rule.id)
        same = [s.row for s in book if (s.rule.tenant, s.rule.id) == mine and s.row < stored.row]
        table.append(stored, same)
    whole = table_of(book)
    for _ in range(10):
        scope = random_scope(chance, book)
        assert table.mask(scope).rows.tolist() == whole.mask(scope).rows.tolist()
    assert table.audiences("default") == whole.audiences("default")
    assert table.last_row == whole.last_row


def one_rule(**fields: object) -> ScopeTable:
    return table_of(
        [StoredRule(row=1, revision=1, rule=Rule.model_validate({"id": "a", "text": "x"} | fields))]
    )


def test_a_rule_holds_from_the_first_moment_and_up_to_the_last() -> None:
    table = one_rule(valid_from="2028-02-29", valid_to="2028-03-01")

    def holds(at: str) -> bool:
        return bool(table.mask(Scope.model_validate({"at": at})).rows[0])

    assert not holds("2028-02-28T23:59:59.999999+00:00")
    assert holds("2028-02-29")
    assert holds("2028-02-29T23:59:59.999999+00:00")
    assert not holds("2028-03-01")
    assert holds("2028-03-01T07:59:59+08:00")
    assert not holds("2028-02-29T07:59:59+08:00")


def test_a_mask_made_before_an_append_can_still_be_used() -> None:
    table = one_rule(mandatory=True)
    mask = table.mask(Scope())
    table.append(
        StoredRule(row=2, revision=2, rule=Rule(id="b", text="y", mandatory=True, overrides=("a",)))
    )
    assert table.mandatory(mask).tolist() == [0]
    assert table.overriders("default", "a", mask) == []
    assert table.overriders("default", "a", table.mask(Scope())) == [1]


def test_an_empty_table_admits_nothing() -> None:
    mask = ScopeTable().mask(Scope(place=("CN",)))
    assert mask.rows.tolist() == []
    assert mask.kinds == ()


@given(st.datetimes(min_value=datetime(1, 1, 2), timezones=st.just(UTC)))
def test_microseconds_keep_every_moment(moment: datetime) -> None:
    assert from_micros(to_micros(moment)) == moment
