"""Changing rules and looking back at them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest

from comity.errors import (
    DuplicateRule,
    NotFound,
    RuleError,
    SettingsError,
    StoreError,
    UnknownAuthority,
    UnknownPlace,
)
from comity.memory.embed import HashEmbedder
from comity.memory.memory import FieldChange, Memory, path_of
from comity.memory.store import PlaceNames
from comity.records import Rule, Scope
from comity.retrieval.search import search
from conftest import Clock

LEASH = Rule(id="leash", text="Dogs on a leash of two metres", place="CN-SH", authority="local")


def texts(memory: Memory, scope: Scope) -> list[str]:
    return [hit.rule.text for hit in search(memory, "dogs", scope).hits]


def at(moment: datetime, **fields: object) -> Scope:
    return Scope.model_validate({"place": ("CN-SH",), "at": moment} | fields)


def test_an_amended_rule_keeps_its_old_text_for_earlier_facts(memory: Memory, clock: Clock) -> None:
    memory.add(LEASH)
    noon = clock.now
    clock.advance(days=1)
    new = memory.amend("leash", {"text": "Dogs on a leash of one metre"}, author="ann", note="why")
    assert (new.version, new.valid_from) == (2, clock.now)
    assert texts(memory, at(noon)) == ["Dogs on a leash of two metres"]
    before = clock.now - timedelta(microseconds=1)
    assert texts(memory, at(before)) == ["Dogs on a leash of two metres"]
    assert texts(memory, at(clock.now)) == ["Dogs on a leash of one metre"]
    assert [stored.rule.version for stored in memory.history("leash")] == [1, 2]


def test_today_can_be_asked_as_the_memory_knew_it_then(memory: Memory, clock: Clock) -> None:
    first = memory.add(LEASH)
    clock.advance(days=1)
    memory.amend("leash", {"text": "Dogs on a leash of one metre", "valid_from": "2030-01-01"})
    today = clock.advance(days=1)
    assert texts(memory, at(today)) == ["Dogs on a leash of one metre"]
    assert texts(memory, at(today, as_of=first)) == ["Dogs on a leash of two metres"]
    assert memory.get("leash", as_of=first).version == 1
    assert [stored.rule.version for stored in memory.rules(as_of=first)] == [1]
    assert [stored.rule.version for stored in memory.rules()] == [2]


def test_a_repealed_rule_ends_then_and_stays_for_earlier_facts(
    memory: Memory, clock: Clock
) -> None:
    memory.add(LEASH)
    noon = clock.now
    end = clock.advance(days=2)
    memory.repeal("leash", at=end)
    assert texts(memory, at(noon))
    assert texts(memory, at(end - timedelta(microseconds=1)))
    assert texts(memory, at(end)) == []
    with pytest.raises(RuleError, match=r"repealed already, as of 2030-06-03$"):
        memory.repeal("leash")
    with pytest.raises(RuleError, match="amend its status to active"):
        memory.amend("leash", {"text": "z"})
    clock.advance(days=1)
    memory.amend("leash", {"status": "active"})
    assert texts(memory, at(clock.now))
    assert texts(memory, at(end)) == []


def test_a_draft_waits_for_approval(memory: Memory, clock: Clock) -> None:
    memory.add(LEASH.model_copy(update={"status": "draft"}))
    assert texts(memory, at(clock.now)) == []
    (approved,) = memory.approve("leash")
    assert (approved.status, approved.version) == ("active", 2)
    assert texts(memory, at(clock.now)) == [LEASH.text]
    with pytest.raises(RuleError, match="nothing to approve"):
        memory.approve("leash")


def test_an_amended_draft_keeps_the_validity_that_it_states(memory: Memory, clock: Clock) -> None:
    later = clock.now + timedelta(days=400)
    memory.add(LEASH.model_copy(update={"status": "draft", "valid_from": later}))
    memory.amend("leash", {"text": "Dogs on a short leash"})
    assert memory.approve("leash")[0].valid_from == later


def test_an_amendment_of_a_future_version_does_not_bring_it_forward(
    memory: Memory, clock: Clock
) -> None:
    memory.add(LEASH)
    later = clock.now + timedelta(days=30)
    clock.advance(days=1)
    memory.amend("leash", {"text": "Dogs free", "valid_from": later})
    with pytest.raises(RuleError, match="version 2 is due from 2030-07-01: give --from"):
        memory.amend("leash", {"text": "Dogs quite free"})
    memory.amend("leash", {"text": "Dogs quite free", "valid_from": later})
    assert texts(memory, at(clock.now)) == [LEASH.text]
    assert texts(memory, at(later)) == ["Dogs quite free"]


def test_an_approved_amendment_does_not_reach_back_to_its_drafting(
    memory: Memory, clock: Clock
) -> None:
    memory.add(LEASH)
    memory.amend("leash", {"text": "Dogs free", "status": "draft"})
    between = clock.advance(days=1)
    now = clock.advance(days=1)
    (approved,) = memory.approve("leash")
    assert approved.valid_from == now
    assert texts(memory, at(between)) == [LEASH.text]
    assert texts(memory, at(now)) == ["Dogs free"]


def test_an_approved_amendment_that_states_a_later_start_keeps_it(
    memory: Memory, clock: Clock
) -> None:
    memory.add(LEASH)
    later = clock.now + timedelta(days=9)
    memory.amend("leash", {"status": "draft", "valid_from": later})
    assert memory.approve("leash")[0].valid_from == later


def test_drafts_are_approved_as_one_revision_or_not_at_all(memory: Memory) -> None:
    drafts = [Rule(id=name, text="x", status="draft") for name in "abc"]
    memory.add([*drafts, LEASH])
    with pytest.raises(RuleError, match="'leash' is active"):
        memory.approve(["a", "leash"])
    assert memory.revision == 1
    assert [rule.id for rule in memory.approve(["a", "b", "a"])] == ["a", "b"]
    assert memory.revision == 2
    assert memory.approve([]) == []
    assert memory.revision == 2


def test_a_rejected_amendment_leaves_the_version_in_force(memory: Memory, clock: Clock) -> None:
    memory.add(LEASH)
    clock.advance(days=1)
    memory.amend("leash", {"text": "Dogs free", "status": "draft"})
    with pytest.raises(RuleError, match="comity rules reject leash"):
        memory.repeal("leash")
    rejected = memory.reject("leash")
    assert rejected == LEASH.model_copy(update={"version": 3})
    assert texts(memory, at(clock.now)) == [LEASH.text]
    with pytest.raises(RuleError, match="nothing to approve or reject"):
        memory.reject("leash")


@pytest.mark.parametrize("discard", ["reject", "repeal"])
def test_a_draft_of_nothing_in_force_is_discarded(memory: Memory, discard: str) -> None:
    memory.add(LEASH.model_copy(update={"status": "draft"}))
    rule = memory.reject("leash") if discard == "reject" else memory.repeal("leash")
    assert (rule.status, rule.version) == ("repealed", 2)


def test_a_difference_names_the_fields(memory: Memory) -> None:
    memory.add(LEASH)
    assert memory.diff("leash") == []
    memory.amend("leash", {"text": "z", "mandatory": True, "valid_from": None})
    memory.amend("leash", {"text": "y", "valid_from": None})
    assert memory.diff("leash") == [FieldChange("text", "z", "y")]
    assert memory.diff("leash", 1, 2) == [
        FieldChange("text", LEASH.text, "z"),
        FieldChange("mandatory", False, True),
    ]
    with pytest.raises(NotFound, match="version 9"):
        memory.diff("leash", 1, 9)


def test_changes_since_a_revision_are_the_tenants_own(memory: Memory) -> None:
    memory.add(LEASH)
    revision = memory.add(Rule(id="cats", text="cats"))
    memory.add(Rule(id="theirs", text="x", tenant="other"))
    memory.repeal("cats")
    assert [s.rule.key for s in memory.changes_since(revision)] == [("cats", 2)]
    assert [s.rule.key for s in memory.changes_since(0, tenant="other")] == [("theirs", 1)]
    assert memory.changes_since(memory.revision) == []


def test_an_unknown_rule_is_answered_with_near_ones(memory: Memory) -> None:
    memory.add([LEASH, Rule(id="pets-1", text="x")])
    actions: list[Callable[[str], object]] = [
        memory.get,
        memory.history,
        memory.repeal,
        memory.approve,
        memory.reject,
        memory.diff,
        lambda name: memory.amend(name, {"text": "z"}),
    ]
    for action in actions:
        with pytest.raises(NotFound, match="did you mean leash"):
            action("leesh")
    with pytest.raises(NotFound, match="no version 7:"):
        memory.get("leash", version=7)
    with pytest.raises(NotFound, match="comity rules list"):
        memory.get("leash", tenant="other")
    assert memory.revision == 1


def test_a_revision_that_is_not_there_is_refused(memory: Memory) -> None:
    with pytest.raises(NotFound, match="no revision 5: the latest is 0"):
        memory.rules(as_of=5)


@pytest.mark.parametrize(
    ("rule", "error", "hint"),
    [
        (Rule(id="a", text="x", authority="statut"), UnknownAuthority, "did you mean 'statute'"),
        (Rule(id="a", text="x", authority="zzz"), UnknownAuthority, "constitution, statute"),
        (Rule(id="a", text="x", place="CN-QQ"), UnknownPlace, "CN-QQ"),
    ],
)
def test_a_rule_that_cannot_be_taken_changes_nothing(
    memory: Memory, rule: Rule, error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        memory.add([LEASH, rule])
    assert memory.revision == 0


def test_a_place_may_be_given_by_name(memory: Memory) -> None:
    memory.add(Rule(id="a", text="x", place="长沙"))
    assert memory.get("a").place == "CN-HN/长沙市"


def test_doubles_are_refused(memory: Memory) -> None:
    with pytest.raises(DuplicateRule, match="stands twice"):
        memory.add([LEASH, LEASH])
    memory.add(LEASH)
    with pytest.raises(DuplicateRule, match="is there already"):
        memory.add([Rule(id="new", text="x"), LEASH])
    with pytest.raises(RuleError, match="another tenant"):
        memory.add([Rule(id="new", text="x"), Rule(id="b", text="x", tenant="other")])
    assert memory.revision == 1
    assert memory.add([]) == 1


def test_a_new_rule_begins_with_version_one(memory: Memory) -> None:
    memory.add(Rule(id="a", text="x", version=7))
    assert memory.get("a").version == 1


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"id": "b"}, "id cannot be amended"),
        ({"version": 4, "tenant": "x"}, "tenant, version cannot be amended"),
        ({"colour": "red"}, "colour"),
        ({"valid_to": "2000-01-01"}, "validity: valid_to 2000-01-01 is not after"),
        ({"valid_from": "soon"}, "valid_from"),
        ({"text": ""}, "text"),
        ({"enforcement": "maybe"}, "enforcement"),
        ({"authority": "zzz"}, "unknown authority"),
    ],
)
def test_an_amendment_that_cannot_be_made_changes_nothing(
    memory: Memory, changes: dict[str, object], hint: str
) -> None:
    memory.add(LEASH)
    with pytest.raises(RuleError, match=hint):
        memory.amend("leash", changes)
    assert memory.revision == 1


def test_of_two_amendments_at_once_one_wins_and_the_other_is_told(
    open_memory: Callable[[], Memory],
) -> None:
    memories = [open_memory(), open_memory()]
    memories[0].add(LEASH)
    for turn in range(5):
        barrier = Barrier(2)

        def amend(memory: Memory, barrier: Barrier = barrier, turn: int = turn) -> str:
            old = memory.get("leash")
            barrier.wait()
            new = old.model_copy(update={"version": old.version + 1, "text": f"dogs {turn}"})
            try:
                memory.write("amend", [new], tenant="default")
            except DuplicateRule as error:
                return str(error)
            return "won"

        with ThreadPoolExecutor(2) as pool:
            outcomes = sorted(pool.map(amend, memories))
        assert outcomes[1] == "won"
        assert "changed meanwhile" in outcomes[0]
    assert memories[1].get("leash").version == 6


def test_a_change_is_found_by_another_instance_at_once(open_memory: Callable[[], Memory]) -> None:
    first, second = open_memory(), open_memory()
    first.add(LEASH)
    scope = at(first.clock())
    assert texts(second, scope) == [LEASH.text]
    second.amend("leash", {"text": "Dogs free"})
    assert texts(first, scope) == ["Dogs free"]
    first.repeal("leash")
    assert texts(second, scope) == []


def test_own_places_are_defined_once(memory: Memory) -> None:
    place = PlaceNames(code="XA", names=("Aurelia", "金国"))
    assert memory.define_places([place]) == 1
    assert memory.define_places([place]) == 1
    memory.add(Rule(id="a", text="x", place="Aurelia"))
    assert memory.get("a").place == "XA"
    assert memory.gazetteer().name("XA", "zh") == "金国"


def test_the_tenants_places_are_not_shared(memory: Memory) -> None:
    memory.define_places([PlaceNames(code="XA", names=("Aurelia",))], tenant="other")
    with pytest.raises(UnknownPlace):
        memory.add(Rule(id="a", text="x", place="XA"))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///rules.db", Path("rules.db")),
        ("sqlite:////var/rules.db", Path("/var/rules.db")),
        ("rules.db", Path("rules.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_a_memorys_url_names_its_file(url: str, path: Path | None) -> None:
    assert path_of(url) == path


@pytest.mark.parametrize("url", ["mysql://host/db", "sqlite://rules.db", "http://x"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="sqlite:///rules"):
        path_of(url)


def test_an_index_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "rules.db.index").write_text("a file in the folder's place")
    with pytest.raises(StoreError, match=r"rules\.db\.index"):
        Memory.open(f"sqlite:///{tmp_path}/rules.db", embedder=HashEmbedder(8))


def test_a_time_without_a_zone_is_utc(memory: Memory) -> None:
    memory.add(LEASH)
    new = memory.amend("leash", {"valid_from": "2031-02-03T04:05:06+08:00"})
    assert new.valid_from == datetime(2031, 2, 2, 20, 5, 6, tzinfo=UTC)
    assert memory.amend("leash", {"valid_from": "2032-02-29"}).valid_from == datetime(
        2032, 2, 29, tzinfo=UTC
    )
