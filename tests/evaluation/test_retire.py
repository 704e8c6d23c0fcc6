"""Which questions a change of the rules retires or flags."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from comity.errors import ExamError
from comity.evaluation.cases import boundary_questions
from comity.evaluation.conflicts import precedence_questions
from comity.evaluation.exams import Kind, Question
from comity.evaluation.gather import NEIGHBOUR
from comity.evaluation.retire import review
from comity.memory.memory import Memory
from comity.records import Rule, RuleRef, Scope
from conftest import Clock

PETS = Rule(id="pets-1", text="Dogs are kept on a leash.", place="CN-SH", valid_from="2026-01-01")
CATS = Rule(id="cats", text="Cats stay at home.", place="CN-BJ", valid_from="2026-01-01")


def question(
    *versions: int, kind: Kind = "scenario", rule: str = "pets-1", **fields: Any
) -> Question:
    given: dict[str, Any] = {
        "id": "q",
        "stem": "May a dog run free?",
        "options": ("Yes", "No"),
        "answer": "B",
        "kind": kind,
        "rules": tuple(RuleRef(id=rule, version=version) for version in versions),
    }
    return Question(**given | fields)


def reviewed(asked: Question, memory: Memory) -> tuple[str, str]:
    (found,) = review([asked], memory)
    return found.status, found.reason


def test_a_question_on_the_current_version_is_active(memory: Memory) -> None:
    memory.add(PETS)
    assert reviewed(question(1), memory) == ("active", "")


def test_a_question_is_retired_when_the_text_changes(memory: Memory) -> None:
    memory.add(PETS)
    memory.amend("pets-1", {"text": "Dogs run free.", "valid_from": "2026-07-01"})
    assert reviewed(question(1), memory) == (
        "retired",
        "rule pets-1: version 1 was replaced by version 2 (valid from 2026-07-01)",
    )
    assert reviewed(question(2), memory) == ("active", "")


def test_a_question_is_retired_when_its_rule_is_repealed(memory: Memory, clock: Clock) -> None:
    memory.add(PETS)
    memory.repeal("pets-1")
    assert reviewed(question(1), memory) == (
        "retired",
        "rule pets-1: version 1 was repealed by version 2 (valid from 2030-06-01)",
    )
    past = Scope(at=clock.now - timedelta(days=1))
    assert reviewed(question(1, scope=past), memory)[0] == "active"


def test_a_change_due_later_retires_nothing_before_it_is_in_force(
    memory: Memory, clock: Clock
) -> None:
    memory.add(PETS)
    memory.amend("pets-1", {"text": "Dogs run free.", "valid_from": "2030-07-01"})
    assert reviewed(question(1), memory)[0] == "active"
    assert reviewed(question(1, scope=Scope(at="2030-08-01")), memory)[0] == "retired"
    clock.advance(days=31)
    assert reviewed(question(1), memory)[0] == "retired"
    assert reviewed(question(1, scope=Scope(at="2030-06-30")), memory)[0] == "active"


def test_a_change_with_effect_for_the_past_retires_questions_on_it(memory: Memory) -> None:
    memory.add(PETS)
    asked = question(1, scope=Scope(at="2026-06-30"))
    memory.amend("pets-1", {"text": "Dogs run free.", "valid_from": "2026-06-01"})
    assert reviewed(asked, memory)[0] == "retired"


def test_a_question_that_fixes_the_revision_outlives_later_ones(memory: Memory) -> None:
    revision = memory.add(PETS)
    memory.amend("pets-1", {"text": "Dogs run free.", "valid_from": "2026-06-01"})
    assert reviewed(question(1, scope=Scope(as_of=revision)), memory)[0] == "active"
    assert reviewed(question(2, scope=Scope(as_of=revision)), memory)[0] == "retired"


@pytest.mark.parametrize(
    "change",
    [
        {"place": "CN"},
        {"audience": "vet"},
        {"authority": "local"},
        {"mandatory": True},
        {"overrides": "cats"},
        {"valid_to": "2031-01-01"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changed_circumstances_flag_a_question_and_retire_one_that_rests_on_them(
    memory: Memory, change: dict[str, Any]
) -> None:
    memory.add([PETS, CATS])
    memory.amend("pets-1", {"valid_from": "2026-01-01"} | change)
    (name,) = change
    assert reviewed(question(1), memory) == (
        "flagged",
        "rule pets-1: version 1 was replaced by version 2 (valid from 2026-01-01), with the same "
        f"text but another {name}",
    )
    for kind in ("boundary", "precedence"):
        assert reviewed(question(1, kind=kind), memory)[0] == "retired"


def test_a_version_that_only_checks_answers_otherwise_changes_nothing(memory: Memory) -> None:
    memory.add(PETS)
    memory.amend("pets-1", {"enforcement": "revise", "valid_from": "2026-01-01"})
    assert reviewed(question(1), memory) == ("active", "")


def test_a_draft_changes_nothing_until_it_is_approved(memory: Memory) -> None:
    memory.add(PETS)
    memory.amend("pets-1", {"text": "Dogs run free.", "status": "draft"})
    assert reviewed(question(1), memory) == ("active", "")
    memory.approve("pets-1")
    status, reason = reviewed(question(1), memory)
    assert status == "retired"
    assert "replaced by version 3" in reason


def test_what_the_memory_does_not_know_is_retired(memory: Memory) -> None:
    memory.add(PETS)
    known = RuleRef(id="pets-1", version=1)
    assert reviewed(question(rules=(known, RuleRef(id="gone", version=1))), memory) == (
        "retired",
        "rule gone: the memory does not know it",
    )
    assert reviewed(question(4), memory) == (
        "retired",
        "rule pets-1: the memory does not know version 4 (its newest is version 1)",
    )


def test_a_memory_that_knows_none_of_the_rules_is_the_wrong_one(memory: Memory) -> None:
    memory.add(PETS)
    with pytest.raises(ExamError, match=r"none of the 1 rules.*'gone' of tenant 'default'"):
        review([question(1, rule="gone"), question()], memory)
    with pytest.raises(ExamError, match="'pets-1' of tenant 'guild'"):
        review([question(1)], memory, tenant="guild")


def test_the_rules_of_the_tenant_in_the_scope_are_meant_unless_one_is_named(
    memory: Memory,
) -> None:
    memory.add(PETS)
    memory.add(PETS.model_copy(update={"tenant": "guild"}))
    memory.repeal("pets-1", tenant="guild")
    theirs = question(1, scope=Scope(tenant="guild"))
    assert reviewed(theirs, memory)[0] == "retired"
    assert [each.status for each in review([theirs], memory, tenant="default")] == ["active"]
    assert reviewed(question(1), memory)[0] == "active"


def test_a_question_is_retired_when_its_rule_has_ended(memory: Memory, clock: Clock) -> None:
    memory.add(PETS.model_copy(update={"valid_to": clock.now + timedelta(days=30)}))
    past = Scope(at=clock.now)
    assert reviewed(question(1), memory)[0] == "active"
    clock.advance(days=31)
    assert reviewed(question(1), memory) == (
        "retired",
        "rule pets-1: version 1 ended on 2030-07-01",
    )
    assert reviewed(question(1, scope=past), memory)[0] == "active"


def test_a_question_is_flagged_when_its_rule_gives_way_to_another(memory: Memory) -> None:
    memory.add(PETS)
    free = Rule(id="free", text="Dogs run free.", authority="statute", overrides=("pets-1",))
    scope = Scope(place="CN-SH")
    memory.add([free.model_copy(update={"id": "elsewhere", "place": "CN-BJ"})])
    assert reviewed(question(1), memory)[0] == "active"
    memory.add(free)
    for asked in (question(1), question(1, scope=scope), question(1, kind="given")):
        assert reviewed(asked, memory) == (
            "flagged",
            "rule pets-1: version 1 gives way to rule free (higher authority)",
        )
    memory.repeal("free")
    flagged = question(1, status="flagged", reason="rule pets-1: version 1 gives way to rule free")
    assert reviewed(flagged, memory) == ("active", "")


def test_what_becomes_of_a_neighbour_only_flags(memory: Memory) -> None:
    memory.add([PETS, CATS])
    refs = (RuleRef(id="pets-1", version=1), RuleRef(id="cats", version=1, reason=NEIGHBOUR))
    assert reviewed(question(rules=refs), memory)[0] == "active"
    memory.repeal("cats")
    status, reason = reviewed(question(rules=refs), memory)
    assert status == "flagged"
    assert "rule cats: version 1 was repealed" in reason


@pytest.mark.parametrize("status", ["flagged", "retired"])
@pytest.mark.parametrize("said", ["ambiguous: read by hand", ""])
def test_what_somebody_said_of_a_question_stays(memory: Memory, status: str, said: str) -> None:
    memory.add(PETS)
    asked = question(1, status=status, reason=said)
    assert review([asked], memory) == (asked,)
    memory.amend("pets-1", {"place": "CN", "valid_from": "2026-01-01"})
    assert review([asked], memory) == (asked,)
    (flagged,) = review([question(1)], memory)
    dropped = flagged.model_copy(update={"status": "retired"})  # on reading why it was flagged
    assert review([flagged, dropped], memory) == (flagged, dropped)


def test_what_somebody_flagged_is_retired_with_its_rule_and_both_reasons_stay(
    memory: Memory,
) -> None:
    memory.add(PETS)
    memory.repeal("pets-1")
    (once,) = review([question(1, status="flagged", reason="ambiguous")], memory)
    assert once.status == "retired"
    assert once.reason.startswith("ambiguous; rule pets-1: version 1 was repealed")
    assert review([once], memory) == (once,)


def test_a_retired_question_is_active_again_when_the_text_comes_back(memory: Memory) -> None:
    memory.add(PETS)
    memory.amend("pets-1", {"text": "Dogs run free.", "valid_from": "2026-07-01"})
    (retired,) = review([question(1)], memory)
    memory.amend("pets-1", {"text": PETS.text, "valid_from": PETS.valid_from})
    (again,) = review([retired], memory)
    assert (retired.status, again.status, again.reason) == ("retired", "active", "")


def test_a_question_without_rules_is_left_as_it_is(memory: Memory) -> None:
    asked = question(status="flagged", reason="a reader doubts it")
    assert review([asked], memory) == (asked,)


def test_all_reasons_are_told_and_the_worst_one_counts(memory: Memory) -> None:
    memory.add([PETS, CATS])
    memory.amend("pets-1", {"mandatory": True, "valid_from": "2026-01-01"})
    memory.repeal("cats")
    refs = (RuleRef(id="pets-1", version=1), RuleRef(id="cats", version=1))
    status, reason = reviewed(question(rules=refs), memory)
    assert status == "retired"
    assert "rule pets-1: version 1 was replaced by version 2" in reason
    assert "; rule cats: version 1 was repealed by version 2" in reason


def made(memory: Memory) -> list[Question]:
    found = [*boundary_questions(memory, seed=1), *precedence_questions(memory, seed=1)]
    return [one for one in found if isinstance(one, Question)]


def statuses(questions: list[Question], memory: Memory) -> dict[str, str]:
    return {asked.id: asked.status for asked in review(questions, memory)}


def test_a_boundary_question_is_retired_by_a_change_before_its_date_only(memory: Memory) -> None:
    memory.add([PETS, CATS])
    questions = [asked for asked in made(memory) if asked.pair == "boundary/pets-1@1/from"]
    memory.amend("pets-1", {"text": "Dogs run free.", "valid_from": "2026-03-01"})
    assert set(statuses(questions, memory).values()) == {"active"}
    memory.amend("pets-1", {"text": "No dogs.", "valid_from": "2026-01-01"})
    assert statuses(questions, memory) == {
        "boundary/pets-1@1/from/in": "retired",
        "boundary/pets-1@1/from/out": "active",
    }


def test_a_question_on_two_versions_knows_both(memory: Memory) -> None:
    memory.add([PETS, CATS])
    memory.amend("pets-1", {"text": "Dogs run free.", "valid_from": "2026-07-01"})
    questions = made(memory)
    assert any(asked.kind == "precedence" for asked in questions)
    assert set(statuses(questions, memory).values()) == {"active"}


def test_a_new_rule_that_overrules_retires_what_it_touches(memory: Memory) -> None:
    memory.add([PETS, CATS])
    questions = made(memory)
    free = Rule(id="free", text="Dogs run free.", authority="statute", overrides=("pets-1",))
    memory.add(free)
    touched = {name for name, status in statuses(questions, memory).items() if status == "retired"}
    assert "boundary/pets-1@1/from/in" in touched
    assert "boundary/pets-1@1/from/out" not in touched


def test_an_option_outside_the_case_matters_once_it_comes_inside(memory: Memory) -> None:
    memory.add([PETS, CATS])
    questions = [asked for asked in made(memory) if asked.pair == "boundary/pets-1@1/from"]
    memory.amend("cats", {"text": "Cats run free.", "valid_from": "2026-01-01"})
    assert set(statuses(questions, memory).values()) == {"active"}
    memory.amend("cats", {"text": CATS.text, "place": "CN", "valid_from": "2026-01-01"})
    assert statuses(questions, memory)["boundary/pets-1@1/from/in"] == "retired"
