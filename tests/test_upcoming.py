"""What changes between two dates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity import Memory, Rule
from comity.errors import NotFound, UnknownPlace
from comity.memory.embed import HashEmbedder
from comity.memory.upcoming import Upcoming, upcoming
from comity.memory.versions import in_force
from conftest import Clock


def day(number: int) -> datetime:
    return datetime(2031, 1, number, tzinfo=UTC)


def told(changes: list[Upcoming]) -> list[tuple[int, str, str]]:
    return [(change.at.day, change.kind, change.rule.id) for change in changes]


def test_rules_that_begin_change_and_end_are_told_in_order_of_time(memory: Memory) -> None:
    memory.add(
        [
            Rule(id="new", text="New from the fifth.", valid_from=day(5)),
            Rule(id="short", text="Until the third.", valid_to=day(3)),
            Rule(id="other", text="As it was."),
            Rule(id="gone", text="Repealed soon."),
            Rule(id="same", text="Always."),
        ]
    )
    memory.amend("other", {"valid_from": day(4), "text": "As it will be."})
    memory.repeal("gone", at=day(6))
    found = upcoming(memory, day(1), day(31))
    assert told(found) == [
        (3, "ends", "short"),
        (4, "changes", "other"),
        (5, "begins", "new"),
        (6, "ends", "gone"),
    ]
    change = found[1]
    assert change.before is not None
    assert change.after is not None
    assert (change.before.text, change.after.text) == ("As it was.", "As it will be.")


def test_the_first_moment_counts_and_what_has_begun_by_the_start_does_not(memory: Memory) -> None:
    memory.add([Rule(id="r", text="From the fifth.", valid_from=day(5))])
    assert told(upcoming(memory, day(4), day(5))) == [(5, "begins", "r")]
    assert upcoming(memory, day(5), day(9)) == []


def test_only_what_concerns_a_place_and_an_audience_is_told(memory: Memory) -> None:
    memory.add(
        [
            Rule(id="nation", text="Nation.", place="CN", valid_from=day(2)),
            Rule(id="hunan", text="Hunan.", place="CN-HN", valid_from=day(2)),
            Rule(id="hubei", text="Hubei.", place="CN-HB", valid_from=day(2)),
            Rule(id="nurses", text="Nurses.", audience=("Nurses",), valid_from=day(2)),
        ]
    )
    hunan = upcoming(memory, day(1), day(3), place="CN-HN", audience="cooks")
    assert [change.rule.id for change in hunan] == ["hunan", "nation"]
    nurses = upcoming(memory, day(1), day(3), audience="nurses")
    assert [change.rule.id for change in nurses] == ["hubei", "hunan", "nation", "nurses"]


def test_drafts_change_nothing(memory: Memory) -> None:
    memory.add([Rule(id="d", text="Draft.", status="draft", valid_from=day(2))])
    assert upcoming(memory, day(1), day(3)) == []


def test_bad_dates_places_and_tenants_are_told(memory: Memory) -> None:
    memory.add([Rule(id="r", text="Rule.")])
    with pytest.raises(ValueError, match="2031-01-01 is before 2031-01-02"):
        upcoming(memory, day(2), day(1))
    with pytest.raises(UnknownPlace):
        upcoming(memory, day(1), day(2), place="CN-QQ")
    with pytest.raises(NotFound):
        upcoming(memory, day(1), day(2), tenant="acme")


DAYS = st.one_of(st.none(), st.integers(1, 20))


@given(st.lists(st.tuples(DAYS, DAYS, st.booleans()), min_size=1, max_size=4))
def test_the_changes_lead_from_what_holds_at_the_start_to_what_holds_at_the_end(
    versions: list[tuple[int | None, int | None, bool]],
) -> None:
    clock = Clock(day(1))
    with Memory.open("sqlite://", embedder=HashEmbedder(8), clock=clock) as memory:
        for number, (start, end, _) in enumerate(versions):
            begins = day(start) if start else None
            ends = day(end) if end and (not start or end > start) else None
            rule = Rule(id="r", text=f"Text {number}.", valid_from=begins, valid_to=ends)
            if number == 0:
                memory.add([rule])
            else:
                memory.write(
                    "amend", [rule.model_copy(update={"version": number + 1})], tenant="default"
                )
        held = {rule.key for rule in _at(memory, day(1))}
        for change in upcoming(memory, day(1), day(28)):
            held -= {change.before.key} if change.before else set()
            held |= {change.after.key} if change.after else set()
            assert held == {rule.key for rule in _at(memory, change.at)}
        assert held == {rule.key for rule in _at(memory, day(28))}


def _at(memory: Memory, at: datetime) -> list[Rule]:
    rule = in_force([stored.rule for stored in memory.history("r")], at)
    return [rule] if rule else []
