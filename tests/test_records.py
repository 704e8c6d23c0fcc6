"""What the records make of times and labels."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from comity.records import Rule, parse_time


@pytest.mark.parametrize("value", ["2026-01-01", date(2026, 1, 1), "2026-01-01T08:00+08:00"])
def test_dates_and_times_become_aware_times_in_utc(value: object) -> None:
    assert parse_time(value) == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("value", [20260101, 1.5, 0])
def test_a_number_is_no_time(value: float) -> None:
    with pytest.raises(ValidationError, match="write a date as text, such as '2026-01-01'"):
        Rule.model_validate({"id": "a", "text": "x", "valid_from": value})


@pytest.mark.parametrize("value", ["0001-01-01T00:00+08:00", "9999-12-31T23:00-08:00"])
def test_a_time_that_utc_has_no_year_for_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="lies outside the years 1 to 9999 in UTC"):
        parse_time(value)


def test_text_that_is_no_time_is_refused_with_how_to_write_one() -> None:
    with pytest.raises(ValueError, match="'soon' is no date or time: write 2026-07-01"):
        parse_time("soon")


@pytest.mark.parametrize("value", [["", " ", "baker"], "| |baker", ("baker",)])
def test_blank_labels_are_dropped(value: object) -> None:
    rule = Rule.model_validate({"id": "a", "text": "x", "audience": value})
    assert rule.audience == ("baker",)
