"""The scope of a question: what the caller gives, completed from the question's words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from comity.errors import NotFound, UnknownPlace
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.records import Rule, Scope
from conftest import Clock

QUESTION = "在长沙市可以遛狗吗？"


def test_a_place_in_the_question_is_found(memory: Memory) -> None:
    assert locate(memory, QUESTION, Scope()).place == ("CN-HN/长沙市",)


def test_a_given_place_holds_against_one_elsewhere(memory: Memory) -> None:
    assert locate(memory, QUESTION, Scope(place="CN-SH")).place == ("CN-SH",)
    assert locate(memory, QUESTION, Scope(place="CN-HNX".replace("X", ""))).place == (
        "CN-HN",
        "CN-HN/长沙市",
    )


def test_a_given_place_may_be_a_name_and_is_not_doubled(memory: Memory) -> None:
    assert locate(memory, QUESTION, Scope(place="长沙")).place == ("CN-HN/长沙市",)
    assert locate(memory, QUESTION, Scope(place="world")).place == ("world", "CN-HN/长沙市")


def test_without_any_place_the_default_holds(memory: Memory) -> None:
    assert locate(memory, "May I?", Scope()).place == ("world",)
    assert locate(memory, "May I?", Scope(), default_place="上海").place == ("CN-SH",)
    assert locate(memory, QUESTION, Scope(), default_place="CN-SH").place == ("CN-HN/长沙市",)


def test_audiences_are_read_from_the_text_where_none_is_given(memory: Memory) -> None:
    memory.add(Rule(id="a", text="x", audience=("Vertiv", "Nurse")))
    assert locate(memory, "As a nurse at Vertiv, may I?", Scope()).audience == ("Nurse", "Vertiv")
    given = Scope(audience=("driver",))
    assert locate(memory, "As a nurse at Vertiv, may I?", given).audience == ("driver",)
    assert locate(memory, "May I?", Scope()).audience == ()


def test_an_audience_that_another_instance_added_is_known_at_once(
    open_memory: Callable[[], Memory],
) -> None:
    first, second = open_memory(), open_memory()
    assert locate(second, "at Vertiv", Scope()).audience == ()
    first.add(Rule(id="a", text="x", audience=("Vertiv",)))
    assert locate(second, "at Vertiv", Scope()).audience == ("Vertiv",)


def test_audiences_of_another_tenant_are_not_read(memory: Memory) -> None:
    memory.add(Rule(id="a", text="x", audience=("Vertiv",), tenant="other"))
    assert locate(memory, "at Vertiv", Scope()).audience == ()
    assert locate(memory, "at Vertiv", Scope(tenant="other")).audience == ("Vertiv",)


def test_of_several_turns_the_newest_that_names_anything_decides(memory: Memory) -> None:
    memory.add(Rule(id="a", text="x", audience=("nurse",)))
    located = locate(memory, ["I am a nurse in Beijing", QUESTION, "May I?"], Scope())
    assert (located.place, located.audience) == (("CN-HN/长沙市",), ("nurse",))
    assert locate(memory, [], Scope()).place == ("world",)


def test_now_is_what_the_memorys_clock_says(memory: Memory, clock: Clock) -> None:
    assert locate(memory, "May I?", Scope()).at == clock.now
    given = Scope.model_validate({"at": "2020-02-29"})
    assert locate(memory, "May I?", given).at == given.at


def test_what_is_not_there_is_refused(memory: Memory) -> None:
    memory.add(Rule(id="a", text="x"))
    with pytest.raises(UnknownPlace, match="Atlantis"):
        locate(memory, "May I?", Scope(place="Atlantis"))
    with pytest.raises(UnknownPlace, match="Atlantis"):
        locate(memory, "May I?", Scope(), default_place="Atlantis")
    with pytest.raises(NotFound, match="no tenant 'nobody'"):
        locate(memory, "May I?", Scope(tenant="nobody"))
    with pytest.raises(NotFound, match="no revision 2"):
        locate(memory, "May I?", Scope(as_of=2))
    assert locate(memory, "May I?", Scope(as_of=1)).as_of == 1


def test_the_tenant_and_the_revision_are_the_callers(memory: Memory) -> None:
    memory.add(Rule(id="a", text="x", tenant="other"))
    located = locate(memory, "May I?", Scope(tenant="other", as_of=0))
    assert (located.tenant, located.as_of) == ("other", 0)
