"""Group commit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from comity.errors import StoreError
from comity.memory.grouped import Grouped


class Book:
    """Takes groups down, the first one only when `go` is set."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.full = False

    def write(self, items: Sequence[str]) -> list[str]:
        self.begun.set()
        assert self.go.wait(10)
        if self.full:
            raise StoreError("the disk is full")
        if "bad" in items:
            raise ValueError("bad")
        self.groups.append(list(items))
        return [item.upper() for item in items]


def all_at_once(book: Book, items: Sequence[str]) -> list[str]:
    """What became of a first item and of those that came while it was written."""
    call: Grouped[str, str] = Grouped(book.write)
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(call, items[0])]
        assert book.begun.wait(10)
        futures += [pool.submit(call, item) for item in items[1:]]
        while len(call._waiting) < len(items) - 1:
            threading.Event().wait(0.001)
        book.go.set()
        return [repr(error) if (error := each.exception()) else each.result() for each in futures]


def test_what_comes_while_another_is_written_is_written_together() -> None:
    book = Book()
    assert all_at_once(book, ["a", "b", "c", "d"]) == ["A", "B", "C", "D"]
    assert [sorted(group) for group in book.groups] == [["a"], ["b", "c", "d"]]


def test_an_item_that_cannot_be_written_keeps_no_other_from_it() -> None:
    book = Book()
    assert all_at_once(book, ["a", "bad", "c"]) == ["A", "ValueError('bad')", "C"]
    assert sorted(item for group in book.groups for item in group) == ["a", "c"]


def test_a_book_that_fails_fails_all_and_is_not_asked_again() -> None:
    book = Book()
    book.full = True
    assert set(all_at_once(book, ["a", "b", "c"])) == {"StoreError('the disk is full')"}
    assert book.groups == []


def test_a_failure_does_not_stick() -> None:
    book = Book()
    book.go.set()
    call: Grouped[str, str] = Grouped(book.write)
    with pytest.raises(ValueError, match="bad"):
        call("bad")
    assert call("next") == "NEXT"
