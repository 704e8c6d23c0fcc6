"""What every index does. A test module imports these and has a fixture `indexed`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from comity.memory.embed import Embedder
from comity.memory.index import Index
from comity.memory.store import Change, Store
from comity.records import Rule, Scope

EMPTY: list[int] = []


@dataclass
class Indexed:
    """A book, an index over it, and a way to open that index once more."""

    store: Store
    embedder: Embedder
    index: Index[Any]
    reopen: Callable[[], Index[Any]]

    def add(self, *rules: Rule, tenant: str = "default") -> int:
        change = Change(tenant=tenant, kind="add", rules=rules, made_at=datetime.now(UTC))
        return self.store.commit(change)

    def nearest(self, text: str, scope: Scope = Scope(), k: int = 10) -> list[str]:  # noqa: B008
        self.index.catch_up()
        mask = self.index.admit(scope)
        return self.ids(self.index.nearest(self.embedder.embed_query(text), mask, k).positions)

    def matching(self, text: str, scope: Scope = Scope(), k: int = 10) -> list[str]:  # noqa: B008
        self.index.catch_up()
        return self.ids(self.index.matching(text, self.index.admit(scope), k).positions)

    def ids(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[str]:
        return [stored.rule.id for stored in self.store.fetch(rows.tolist())]


def test_an_empty_memory_has_no_answers(indexed: Indexed) -> None:
    assert indexed.index.catch_up() == 0
    assert indexed.nearest("dogs") == indexed.matching("dogs") == []
    mask = indexed.index.admit(Scope())
    assert indexed.index.mandatory(mask) == EMPTY
    assert indexed.index.audiences("default") == frozenset()
    indexed.index.save()
    indexed.add(Rule(id="a", text="dogs"))
    assert indexed.nearest("dogs") == indexed.matching("dogs") == ["a"]


def test_rules_are_found_by_meaning_and_by_words_best_first(indexed: Indexed) -> None:
    indexed.add(
        Rule(id="dogs", text="Dogs must be on a leash in the park"),
        Rule(id="cats", text="Cats may sleep anywhere"),
        Rule(id="noise", text="The park is quiet at night"),
        Rule(id="狗", text="养犬人应当为犬只办理登记"),
    )
    assert indexed.nearest("dogs on a leash")[0] == "dogs"
    assert indexed.matching("dogs, park!") == ["dogs", "noise"]
    assert indexed.matching("犬只登记") == ["狗"]
    assert indexed.matching("unheard-of") == []
    assert len(indexed.nearest("anything")) == 4


def test_words_without_letters_match_nothing(indexed: Indexed) -> None:
    indexed.add(Rule(id="a", text="dogs"))
    for question in ("", "  ", "?!…", "，。", "\x00", "AND OR NOT (", 'text:"', "+-*~^"):
        assert indexed.matching(question) == [], question
        assert indexed.nearest(question) == ["a"], question


def test_k_larger_than_the_memory_gives_all_of_it(indexed: Indexed) -> None:
    indexed.add(*(Rule(id=f"r{n}", text=f"dogs {n}") for n in range(5)))
    assert len(indexed.nearest("dogs", k=1000)) == 5
    assert len(indexed.matching("dogs", k=1000)) == 5
    assert len(indexed.nearest("dogs", k=2)) == len(indexed.matching("dogs", k=2)) == 2


def test_a_small_scope_is_never_starved(indexed: Indexed) -> None:
    text = "dogs on a leash in the park"
    near = [Rule(id=f"far-{n}", text=text, place="CN") for n in range(2970)]
    own = [Rule(id=f"own-{n}", text=f"dogs {n} rarely", place="XA") for n in range(30)]
    indexed.add(*near[:1000], *own, *near[1000:])
    for _ in range(2):
        for found in (indexed.nearest, indexed.matching):
            ids = found(text, Scope(place=("XA",)), k=10)
            assert len(ids) == len(set(ids)) == 10
            assert all(name.startswith("own-") for name in ids)
        indexed.index.save()


def test_recent_rules_are_ranked_together_with_saved_ones(indexed: Indexed) -> None:
    filler = [Rule(id=f"filler-{n}", text=f"shops close at {n} on weekdays") for n in range(40)]
    indexed.add(*filler, Rule(id="old", text="dogs on a leash and other animals and shops"))
    indexed.index.catch_up()
    indexed.index.save()
    indexed.add(
        Rule(id="new", text="dogs on a leash"), Rule(id="weak", text="shops " * 20 + "dogs")
    )
    assert indexed.matching("dogs leash") == ["new", "old", "weak"]
    assert indexed.nearest("dogs on a leash")[0] == "new"


def test_the_latest_version_answers_and_each_revision_is_remembered(indexed: Indexed) -> None:
    def rule(text: str, version: int, since: str) -> Rule:
        return Rule.model_validate(
            {"id": "a", "text": text, "version": version, "valid_from": since}
        )

    first = indexed.add(rule("dogs at seven", 1, "2020-01-01"))
    second = indexed.add(rule("dogs at eight", 2, "2025-01-01"))
    repealed = Rule.model_validate(
        {"id": "a", "text": "dogs at eight", "version": 3, "status": "repealed"}
        | {"valid_from": "2027-01-01"}
    )
    third = indexed.add(repealed)
    assert indexed.index.catch_up() == third

    def texts(at: str, as_of: int | None = None) -> list[str]:
        mask = indexed.index.admit(Scope.model_validate({"at": at, "as_of": as_of}))
        found = indexed.index.matching("dogs", mask, 10)
        return [s.rule.text for s in indexed.store.fetch(found.positions.tolist())]

    for _ in range(2):
        assert texts("2019-12-31") == []
        assert texts("2020-01-01") == texts("2024-12-31") == ["dogs at seven"]
        assert texts("2025-01-01") == ["dogs at eight"]
        assert texts("2027-01-01") == []
        assert texts("2027-01-01", second) == ["dogs at eight"]
        assert texts("2027-01-01", first) == ["dogs at seven"]
        assert texts("2027-01-01", 0) == []
        indexed.index.save()


def test_mandatory_rules_and_overriders_are_given_under_the_mask(indexed: Indexed) -> None:
    indexed.add(
        Rule(id="a", text="x", mandatory=True, place="CN"),
        Rule(id="b", text="x", mandatory=True, place="XA"),
        Rule(id="c", text="x", overrides=("b",)),
    )
    indexed.index.catch_up()
    mask = indexed.index.admit(Scope(place=("XA",)))
    rows = {stored.rule.id: stored.row for stored in indexed.store.rows_after(0)}
    assert indexed.index.mandatory(mask) == [rows["b"]]
    assert indexed.index.overriders("default", ["a", "b", "b"], mask) == [rows["c"]]
    assert indexed.index.overriders("other", ["b"], mask) == EMPTY
    assert indexed.index.overriders("default", [], mask) == EMPTY
    assert indexed.index.versions_in(list(rows.values()), mask) == [rows["b"], rows["c"]]


def test_tenants_find_their_own_rules_only(indexed: Indexed) -> None:
    indexed.add(Rule(id="a", text="dogs", audience=("mine",)), Rule(id="b", text="dogs"))
    indexed.add(Rule(id="a", text="dogs", tenant="other", audience=("theirs",)), tenant="other")
    scope = Scope(tenant="other", audience=("theirs", "mine"))
    assert indexed.nearest("dogs", scope) == indexed.matching("dogs", scope) == ["a"]
    assert indexed.nearest("dogs") == ["b"]
    assert indexed.nearest("dogs", Scope(tenant="nobody")) == []
    assert indexed.index.audiences("other") == {"theirs"}
    assert indexed.index.audiences("nobody") == frozenset()


def test_an_index_opened_again_gives_the_same(indexed: Indexed) -> None:
    texts = [f"{animal} may not {verb}" for animal in ("dogs", "cats", "猫") for verb in "abcdefg"]
    indexed.add(*(Rule(id=f"r{n}", text=text) for n, text in enumerate(texts)))
    before = [(indexed.nearest(text), indexed.matching(text)) for text in texts]
    indexed.index.save()
    assert [(indexed.nearest(text), indexed.matching(text)) for text in texts] == before
    indexed.index = indexed.reopen()
    assert [(indexed.nearest(text), indexed.matching(text)) for text in texts] == before
    indexed.add(Rule(id="late", text="zebras"))
    assert indexed.nearest("zebras")[0] == indexed.matching("zebras")[0] == "late"


def test_a_second_index_follows_what_the_first_one_wrote(indexed: Indexed) -> None:
    indexed.add(Rule(id="a", text="dogs"))
    indexed.index.catch_up()
    other = indexed.reopen()
    other.catch_up()
    revision = indexed.add(Rule(id="b", text="zebras"))
    assert other.catch_up() == indexed.index.catch_up() == revision
    rows = other.matching("zebras", other.admit(Scope()), 5).positions
    assert indexed.ids(rows) == ["b"]


def test_a_mask_is_of_the_revision_that_it_names(indexed: Indexed) -> None:
    first = indexed.add(Rule(id="a", text="dogs", mandatory=True))
    indexed.index.catch_up()
    mask = indexed.index.admit(Scope())
    indexed.add(*(Rule(id=f"b{n}", text="dogs dogs", mandatory=True) for n in range(20)))
    indexed.index.catch_up()
    indexed.index.save()
    assert mask.revision == first
    [row] = indexed.index.mandatory(mask)
    assert indexed.index.matching("dogs", mask, 9).positions.tolist() == [row]
    vector = indexed.embedder.embed_query("dogs")
    assert indexed.index.nearest(vector, mask, 9).positions.tolist() == [row]
