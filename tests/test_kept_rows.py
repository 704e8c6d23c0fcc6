"""Rule versions that have been read are kept, so many and no more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from comity.errors import NotFound
from comity.memory.kept_rows import KeptRows
from comity.memory.store import StoredRule
from comity.records import Rule


class Book:
    """Versions of rows 1 to 9, and what was asked of them."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def read(self, rows: Sequence[int]) -> Iterator[StoredRule]:
        self.asked.append(list(rows))
        for row in sorted(rows):
            if row < 10:
                yield StoredRule(row=row, revision=1, rule=Rule(id=f"r{row}", text="x"))


def test_rows_come_in_the_order_asked_for_and_are_read_once() -> None:
    book = Book()
    kept = KeptRows(book.read, "rules.db")
    assert [stored.row for stored in kept.fetch([3, 1, 3])] == [3, 1, 3]
    assert [stored.row for stored in kept.fetch([2, 1])] == [2, 1]
    assert [set(rows) for rows in book.asked] == [{1, 3}, {2}]


def test_a_row_that_is_not_there_is_named_with_its_book() -> None:
    with pytest.raises(NotFound, match=r"rules\.db.*no row 12"):
        KeptRows(Book().read, "rules.db").fetch([1, 12])


def test_no_more_rows_are_kept_than_there_is_room_for() -> None:
    book = Book()
    kept = KeptRows(book.read, "rules.db", most=3)
    for rows in ([1, 2], [3, 4], [3, 4], [1], [5, 6, 7, 8], [1]):
        assert [stored.row for stored in kept.fetch(rows)] == rows
    assert book.asked == [[1, 2], [3, 4], [1], [5, 6, 7, 8], [1]]
