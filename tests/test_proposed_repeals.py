"""The end of a rule as a draft that somebody else approves."""

from __future__ import annotations

from datetime import timedelta

import pytest

from comity.errors import RuleError
from comity.memory.memory import Memory
from comity.memory.versions import due, in_force
from comity.records import Rule
from conftest import Clock

LAW = Rule(id="law", text="Dogs on a leash.", authority="statute")


def holds(memory: Memory, clock: Clock, days: int) -> str:
    """Text of the version that holds some days from now; empty for none."""
    versions = [stored.rule for stored in memory.history("law")]
    found = in_force(versions, clock.now + timedelta(days=days))
    return found.text if found else ""


def test_a_proposed_repeal_ends_nothing_until_it_is_approved(memory: Memory, clock: Clock) -> None:
    memory.add(LAW)
    clock.advance(days=1)
    draft = memory.propose_repeal("law", author="ann", note="obsolete")
    assert (draft.status, draft.text, draft.valid_to) == ("draft", LAW.text, clock.now)
    made = memory.store.revisions("default")[-1]
    assert (made.kind, made.author, made.note) == ("repeal", "ann", "obsolete")
    clock.advance(days=5)
    assert holds(memory, clock, 0) == LAW.text
    (approved,) = memory.approve("law", author="bob")
    assert (approved.status, approved.valid_from) == ("repealed", clock.now)
    assert holds(memory, clock, -1) == LAW.text
    assert holds(memory, clock, 0) == ""


def test_a_repeal_for_a_later_day_ends_the_rule_on_that_day(memory: Memory, clock: Clock) -> None:
    memory.add(LAW)
    memory.propose_repeal("law", at=clock.now + timedelta(days=30))
    clock.advance(days=1)
    (approved,) = memory.approve("law")
    assert approved.status == "active"
    assert [holds(memory, clock, days) for days in (0, 28, 29)] == [LAW.text, LAW.text, ""]


def test_a_repeal_between_two_later_texts_leaves_the_first_of_them(
    memory: Memory, clock: Clock
) -> None:
    memory.add(LAW)
    for days, text in ((10, "Ten."), (30, "Thirty.")):
        memory.amend("law", {"text": text, "valid_from": clock.now + timedelta(days=days)})
    memory.propose_repeal("law", at=clock.now + timedelta(days=20))
    memory.approve("law")
    told = [holds(memory, clock, days) for days in (0, 9, 10, 19, 20, 30)]
    assert told == [LAW.text, LAW.text, "Ten.", "Ten.", "", ""]


def test_a_rule_that_has_not_begun_never_does_once_its_repeal_is_approved(
    memory: Memory, clock: Clock
) -> None:
    memory.add(LAW.model_copy(update={"valid_from": clock.now + timedelta(days=10)}))
    memory.propose_repeal("law")
    (approved,) = memory.approve("law")
    assert approved.status == "repealed"
    assert due([stored.rule for stored in memory.history("law")], clock.now) == []


def test_a_rejected_repeal_leaves_the_rule_as_it_was(memory: Memory, clock: Clock) -> None:
    memory.add(LAW)
    memory.propose_repeal("law")
    again = memory.reject("law")
    assert (again.status, again.valid_to) == ("active", None)
    assert holds(memory, clock, 100) == LAW.text


def test_a_repeal_takes_the_place_of_a_draft_that_waits(memory: Memory, clock: Clock) -> None:
    memory.add(LAW)
    memory.amend("law", {"text": "Cats too.", "status": "draft"})
    assert memory.propose_repeal("law").text == LAW.text
    memory.approve("law")
    assert holds(memory, clock, 0) == ""


@pytest.mark.parametrize("status", ["repealed", "draft"])
def test_what_is_not_in_force_cannot_be_repealed(memory: Memory, status: str) -> None:
    memory.add(Rule.model_validate(LAW.model_dump() | {"status": status}))
    before = memory.revision
    with pytest.raises(RuleError, match="nothing to repeal"):
        memory.propose_repeal("law")
    assert memory.revision == before
