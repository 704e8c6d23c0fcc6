"""The same questions under today's rules, with the differences listed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from comity import Aligner, Rule, Scope
from comity.alignment.erasure import erase
from comity.alignment.replays import Facts, replay_all, replayed, summary
from comity.errors import NotFound
from comity.memory.memory import Memory
from comity.memory.sealed import record_hash
from comity.models.scripted import ScriptedModel
from comity.records import Decision
from conftest import Clock

RULES = [
    Rule(id="leash", text="Dogs on a leash in the park."),
    Rule(id="noise", text="No noise in the park at night."),
]


async def asked(memory: Memory, scope: Scope = Scope()) -> Decision:  # noqa: B008 - frozen
    aligner = Aligner(memory, ScriptedModel(["Yes."]))
    return (await aligner.answer("May dogs run in the park?", scope)).decision


def versions(memory: Memory, decision: Decision, facts: Facts) -> dict[str, int]:
    again = replayed(memory, decision, as_of=memory.revision, facts=facts)
    return {ref.id: ref.version for ref in again.kept}


async def test_a_question_of_no_date_meets_the_rules_of_today(memory: Memory, clock: Clock) -> None:
    memory.add(RULES)
    decision = await asked(memory)
    assert not decision.at_given
    clock.advance(days=10)
    memory.amend("leash", {"text": "Dogs may run in the park."})
    memory.repeal("noise")
    memory.add(Rule(id="muzzle", text="Dogs wear a muzzle in the park.", valid_from=clock.now))
    again = replayed(memory, decision, as_of=memory.revision, facts="asked")
    assert (again.facts_at, again.as_of) == (clock.now, memory.revision)
    assert [each.model_dump() for each in again.amended] == [{"id": "leash", "then": 1, "now": 2}]
    assert {ref.id for ref in again.came} == {"leash", "muzzle"}
    assert {ref.id for ref in again.went} == {"leash", "noise"}
    assert not again.same


async def test_a_question_of_another_day_keeps_its_day_under_todays_rules(
    memory: Memory, clock: Clock
) -> None:
    memory.add(RULES)
    then = clock.now - timedelta(days=300)
    decision = await asked(memory, Scope(at=then))
    assert decision.at_given
    clock.advance(days=10)
    memory.amend("leash", {"text": "Dogs may run in the park."})
    again = replayed(memory, decision, as_of=memory.revision, facts="asked")
    assert (again.same, again.facts_at) == (True, then)
    assert versions(memory, decision, "now")["leash"] == 2


async def test_the_facts_can_be_left_where_they_were(memory: Memory, clock: Clock) -> None:
    memory.add(RULES)
    decision = await asked(memory)
    clock.advance(days=10)
    memory.amend("leash", {"text": "Dogs may run in the park."})
    assert versions(memory, decision, "then")["leash"] == 1
    memory.amend("leash", {"text": "Dogs may never run.", "valid_from": None})  # for all time
    assert versions(memory, decision, "then")["leash"] == 3


async def test_at_its_own_revision_the_facts_are_as_recorded(memory: Memory, clock: Clock) -> None:
    memory.add(RULES)
    decision = await asked(memory)
    clock.advance(days=10)
    memory.repeal("leash")
    again = replayed(memory, decision, facts="now")
    assert (again.same, again.facts_at, again.as_of) == (True, decision.scope.at, 1)


async def test_many_replays_are_summed_up_by_what_changed(memory: Memory, clock: Clock) -> None:
    memory.add(RULES)
    told = [await asked(memory) for _ in range(3)]
    told.append(await asked(memory, Scope(at=clock.now)))  # states its day, and keeps it
    clock.advance(days=1)
    memory.amend("leash", {"text": "Dogs may run in the park."})
    memory.repeal("noise")
    total = summary(replay_all(memory, told, as_of=memory.revision, facts="asked"))
    assert (total.replayed, total.same, total.changed) == (4, 1, 3)
    assert [(each.id, each.then, each.now, each.decisions) for each in total.rules] == [
        ("leash", 1, 2, 3),
        ("noise", 1, None, 3),
    ]


async def test_a_record_of_before_the_field_was_there_keeps_its_hash(memory: Memory) -> None:
    memory.add(RULES)
    decision = await asked(memory)
    old = Decision.model_validate(decision.model_dump(exclude={"at_given"}))
    assert record_hash(old) == decision.hash


async def test_an_erased_question_is_not_put_again_and_is_counted(
    memory: Memory, clock: Clock
) -> None:
    memory.add(RULES)
    told = [await asked(memory) for _ in range(2)]
    erase(memory, "default", [told[0].id], by="ann")
    held = list(memory.store.decisions("default"))
    total = summary(replay_all(memory, held, as_of=memory.revision), asked=len(held))
    assert (total.replayed, total.erased, total.same) == (1, 1, 1)
    with pytest.raises(NotFound, match="was erased on"):
        replayed(memory, held[0], as_of=memory.revision)
    assert replayed(memory, held[0]).same
