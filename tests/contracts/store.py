"""What every book of record does. A test module imports these and has a fixture `store`."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from comity.errors import DuplicateRule, NotFound, StoreError
from comity.memory.sealed import Sealed, whole
from comity.memory.store import AccessKey, Change, PlaceNames, Store
from comity.records import Check, Decision, Rule, Scope, Source

NOON = datetime(2030, 6, 1, 12, 0, 0, 123_456, tzinfo=UTC)


def change(*rules: Rule, tenant: str = "default", **fields: object) -> Change:
    return Change.model_validate(
        {"tenant": tenant, "kind": "add", "rules": rules, "made_at": NOON} | fields
    )


def decision(name: str, previous: str = "", tenant: str = "default") -> Decision:
    return Decision(
        id=name,
        tenant=tenant,
        made_at=NOON,
        revision=0,
        scope=Scope(),
        question="?",
        previous_hash=previous,
        hash=f"hash of {name}",
    )


def test_a_new_book_is_empty_and_has_a_name_of_its_own(store: Store) -> None:
    assert len(store.identity()) == 32
    assert store.revision() == 0
    assert list(store.rows_after(0)) == []
    assert list(store.latest("default")) == []
    assert store.history("default", "a") == []
    assert store.revisions("default") == []
    assert list(store.decisions("default")) == []


def test_a_commit_is_one_revision_and_everything_comes_back_as_it_was(store: Store) -> None:
    rule = Rule(
        id="a'; DROP TABLE rule; --",
        text="  狗 must be on a leash\n\n“{place}” \x00 𝒳 ",
        title="A > B",
        article="第三条之一",
        place="CN-HN/长沙市",
        audience=("nurse", "a, b"),
        domain="law",
        authority="statute",
        valid_from=datetime(2020, 2, 29, 1, 2, 3, 4, UTC),
        valid_to=datetime(2020, 3, 1, tzinfo=UTC),
        mandatory=True,
        enforcement="block",
        check=Check(must_match="a|b"),
        overrides=("b", "c"),
        source=Source(document="d.pdf", sha256="0" * 64, start=1, end=2),
        language="zh",
        status="draft",
    )
    assert store.commit(change(rule, author="ann", note="why")) == 1
    assert store.revision() == 1
    [stored] = store.rows_after(0)
    assert stored.rule == rule
    assert (stored.revision, stored.recorded_at) == (1, NOON)
    assert store.history("default", rule.id) == [stored]
    assert store.fetch([stored.row]) == [stored]
    [revision] = store.revisions("default")
    assert (revision.number, revision.kind, revision.author) == (1, "add", "ann")
    assert (revision.note, revision.made_at) == ("why", NOON)


def test_rows_come_in_the_order_asked_for(store: Store) -> None:
    store.commit(change(*(Rule(id=f"r{n}", text="x") for n in range(5))))
    rows = [stored.row for stored in store.rows_after(0)]
    assert rows == sorted(rows)
    wanted = [rows[3], rows[0], rows[3]]
    assert [stored.row for stored in store.fetch(wanted)] == wanted
    assert store.fetch([]) == []
    assert [stored.row for stored in store.rows_after(rows[2])] == rows[3:]


def test_the_versions_of_a_document_are_found_by_its_title(store: Store) -> None:
    titles = ("Dog Act", "Dog Act > Part I", "Dog Acts", "The Dog Act", "dog act", "")
    store.commit(
        change(
            *(
                Rule(id=f"r{n}", text="x", title=title, article=f"Article {n}")
                for n, title in enumerate(titles)
            )
        )
    )
    store.commit(change(Rule(id="r0", version=2, text="y", title="Dog Act", article="Article 9")))
    store.commit(change(Rule(id="t", text="x", title="Dog Act", tenant="other"), tenant="other"))
    found = store.titled("default", ["Dog Act", "Nothing"])
    assert [each.article for each in found] == ["Article 0", "Article 1", "Article 9"]
    assert [rule.rule.version for rule in store.fetch([each.row for each in found])] == [1, 1, 2]
    assert [each.article for each in store.titled("default", ["Dog Act > Part I"])] == ["Article 1"]
    assert [each.article for each in store.titled("other", ["Dog Act"])] == [""]
    assert store.titled("default", ["'; --", "%", "Dog Act >"]) == []


@pytest.mark.parametrize("length", [150, 196, 197, 198, 199, 200, 201, 260])
def test_a_long_title_finds_its_own_chapters_and_no_others(store: Store, length: int) -> None:
    title, longer = "t" * length, "t" * 300
    titles = (title, f"{title} > Chapter I", f"{title} >> no chapter", f"{title}, amended", longer)
    store.commit(change(*(Rule(id=each, text="x", title=each) for each in titles)))
    found = store.fetch([each.row for each in store.titled("default", [title])])
    assert [stored.rule.title for stored in found] == list(titles[:2])


def test_a_row_that_is_not_there_is_an_error(store: Store) -> None:
    with pytest.raises(NotFound, match="99"):
        store.fetch([99])


@pytest.mark.parametrize("version", [1, 3])
def test_a_version_that_repeats_or_skips_is_refused_and_nothing_changes(
    store: Store, version: int
) -> None:
    store.commit(change(Rule(id="a", text="x")))
    places = (PlaceNames(code="XA", names=("Xanadu",)),)
    fresh, wrong = Rule(id="b", text="y"), Rule(id="a", text="z", version=version)
    with pytest.raises(DuplicateRule, match="'a'"):
        store.commit(change(fresh, wrong, places=places))
    assert store.revision() == 1
    assert [stored.rule.id for stored in store.rows_after(0)] == ["a"]
    assert store.places() == []
    assert len(store.revisions("default")) == 1
    assert store.commit(change(fresh)) == 2


def test_the_same_new_rule_twice_in_one_change_is_refused(store: Store) -> None:
    with pytest.raises(DuplicateRule):
        store.commit(change(Rule(id="a", text="x"), Rule(id="a", text="x")))
    assert store.revision() == 0


def test_several_versions_of_a_rule_may_come_in_one_change(store: Store) -> None:
    store.commit(change(*(Rule(id="a", text=f"v{n}", version=n) for n in (1, 2, 3))))
    assert [s.rule.version for s in store.history("default", "a")] == [1, 2, 3]


def test_the_rows_of_a_revision_and_the_ids_that_are_taken(store: Store) -> None:
    odd = "a'\u2028\x00 \\\"𝒳"
    store.commit(change(Rule(id="a", text="1"), Rule(id=odd, text="1")))
    store.commit(change(Rule(id="t", text="1", tenant="other"), tenant="other"))
    store.commit(change(Rule(id="a", text="2", version=2), Rule(id=odd, text="2", version=2)))
    rows = [stored.row for stored in store.rows_after(0)]
    assert [store.rows_of(number) for number in range(1, 5)] == [rows[:2], rows[2:3], rows[3:], []]
    assert store.known("default", ["b", odd, "a", "t", "a"]) == {"a", odd}
    assert store.known("default", []) == set()


def test_latest_gives_what_a_revision_held(store: Store) -> None:
    store.commit(change(Rule(id="b", text="b1"), Rule(id="a", text="a1")))
    store.commit(change(Rule(id="a", text="a2", version=2, status="draft")))
    store.commit(change(Rule(id="a", text="a3", version=3, status="repealed")))

    def texts(as_of: int | None) -> list[str]:
        return [stored.rule.text for stored in store.latest("default", as_of)]

    assert texts(0) == []
    assert texts(1) == ["a1", "b1"]
    assert texts(2) == ["a2", "b1"]
    assert texts(None) == ["a3", "b1"]


def test_tenants_do_not_see_one_another(store: Store) -> None:
    store.commit(change(Rule(id="a", text="mine")))
    store.commit(change(Rule(id="a", text="theirs", tenant="other"), tenant="other"))
    place = PlaceNames(code="XA", names=("Xanadu",))
    store.commit(change(tenant="other", places=(place,), kind="places"))
    store.append_decision("other", lambda last: whole(decision("d", last, "other")))
    assert [s.rule.text for s in store.history("default", "a")] == ["mine"]
    assert [s.rule.text for s in store.latest("other")] == ["theirs"]
    assert [r.number for r in store.revisions("default")] == [1]
    assert [r.number for r in store.revisions("other", after=2)] == [3]
    assert store.places("default") == []
    assert store.places("other") == store.places() == [place]
    assert list(store.decisions("default")) == []
    with pytest.raises(NotFound):
        store.decision("default", "d")
    assert [s.rule.tenant for s in store.rows_after(0)] == ["default", "other"]


def test_a_place_can_be_renamed(store: Store) -> None:
    store.commit(change(places=(PlaceNames(code="XA", names=("Xanadu",)),)))
    store.commit(change(places=(PlaceNames(code="XA", names=("Xanadu", "仙那都")),)))
    assert store.places("default") == [PlaceNames(code="XA", names=("Xanadu", "仙那都"))]


def test_decisions_are_sealed_with_the_hash_of_the_one_before(store: Store) -> None:
    seen: list[str] = []
    for name in ("one", "two", "three"):

        def seal(last: str, name: str = name) -> Sealed:
            seen.append(last)
            return whole(decision(name, last))

        store.append_decision("default", seal)
    store.append_decision("other", lambda last: whole(decision("one", last, "other")))
    assert seen == ["", "hash of one", "hash of two"]
    assert [made.id for made in store.decisions("default")] == ["one", "two", "three"]
    assert [made.previous_hash for made in store.decisions("other")] == [""]
    assert store.decision("default", "two") == decision("two", "hash of one")


def test_a_seal_that_fails_records_nothing(store: Store) -> None:
    def fail(last: str) -> Sealed:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.append_decision("default", fail)
    assert list(store.decisions("default")) == []
    store.append_decision("default", lambda last: whole(decision("d", last)))
    assert [made.id for made in store.decisions("default")] == ["d"]


def test_an_unknown_decision_is_named(store: Store) -> None:
    with pytest.raises(NotFound, match="d-1"):
        store.decision("default", "d-1")


def test_a_reader_that_stops_half_way_holds_nobody_up(store: Store) -> None:
    store.commit(change(*(Rule(id=f"r{n}", text="x") for n in range(50))))
    reader, latest = store.rows_after(0), store.latest("default")
    next(reader), next(latest)
    later = change(Rule(id="z", text="x"), made_at=NOON + timedelta(seconds=1))
    assert store.commit(later) == 2
    assert store.revision() == 2


def test_a_book_that_can_be_used_passes_its_probe_and_is_not_changed(store: Store) -> None:
    store.commit(change(Rule(id="a", text="x")))
    store.probe()
    assert store.revision() == 1


def key(name: str, tenant: str = "default", **fields: object) -> AccessKey:
    given = {"id": name, "hash": f"hash of {name}", "tenant": tenant, "role": "client"}
    return AccessKey.model_validate(given | {"made_at": NOON} | fields)


def test_a_key_comes_back_as_it_was_kept_and_is_found_by_its_hash(store: Store) -> None:
    one, other = key("k1", note="for Lee"), key("k2", "acme", role="editor")
    store.add_key(one)
    store.add_key(other)
    assert store.key("hash of k1") == one
    assert store.key("hash of none") is None
    assert (store.keys("default"), store.keys("acme"), store.keys("x")) == ([one], [other], [])
    assert store.keys() == [one, other]
    with pytest.raises(StoreError):
        store.add_key(key("k1", "acme", hash="another"))
    assert store.keys() == [one, other]


def test_a_key_that_has_ended_stays_ended_as_it_was(store: Store) -> None:
    store.add_key(key("k1"))
    ended = store.revoke_key("k1", NOON + timedelta(days=1))
    assert ended == key("k1", revoked_at=NOON + timedelta(days=1))
    assert store.revoke_key("k1", NOON + timedelta(days=2)) == ended == store.key("hash of k1")
    with pytest.raises(NotFound, match="k9"):
        store.revoke_key("k9", NOON)


# Several at once


def test_of_threads_that_change_the_same_rule_one_wins_each_version(store: Store) -> None:
    store.commit(change(Rule(id="a", text="v1")))
    barrier = threading.Barrier(8)

    def amend(name: int) -> int | None:
        barrier.wait()
        try:
            return store.commit(change(Rule(id="a", text=f"by {name}", version=2)))
        except DuplicateRule:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [number for number in pool.map(amend, range(8)) if number]
    assert won == [2]
    assert len(store.history("default", "a")) == 2


def test_threads_append_decisions_without_a_fork(store: Store) -> None:
    def sealed(name: str, last: str) -> Sealed:
        return whole(decision(name, last))

    def append(name: int) -> None:
        for n in range(10):
            store.append_decision("default", partial(sealed, f"{name}-{n}"))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(append, range(6)))
    previous = ""
    made = list(store.decisions("default"))
    for each in made:
        assert each.previous_hash == previous
        previous = each.hash
    assert len(made) == 60


def test_readers_see_whole_revisions_while_another_thread_writes(store: Store) -> None:
    done = threading.Event()

    def write() -> None:
        for n in range(30):
            store.commit(change(*(Rule(id=f"{n}-{i}", text="x") for i in range(10))))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert len(list(store.rows_after(0))) % 10 == 0
    writer.join()
