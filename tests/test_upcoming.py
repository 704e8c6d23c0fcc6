"""What changes between two dates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity import Memory, Rule
from comity.errors import NotFound, UnknownPlace
from comity.memory.upcoming import Upcoming, changes_of, upcoming
from comity.memory.versions import in_force


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


@given(st.lists(st.tuples(DAYS, DAYS), min_size=1, max_size=4))
def test_the_changes_lead_from_what_holds_at_the_start_to_what_holds_at_the_end(
    spans: list[tuple[int | None, int | None]],
) -> None:
    versions = [
        Rule(
            id="r",
            version=number,
            text=f"Text {number}.",
            valid_from=day(start) if start else None,
            valid_to=day(end) if end and (not start or end > start) else None,
        )
        for number, (start, end) in enumerate(spans, start=1)
    ]
    held = in_force(versions, day(1))
    for change in changes_of(versions, day(1), day(28)):
        assert change.before == held
        held = change.after
        assert held == in_force(versions, change.at)
    assert held == in_force(versions, day(28))
