"""How a report writes figures down, and the form of its tables."""

from __future__ import annotations

from pydantic import Field

from comity.records import VERBATIM, Record

NONE = "–"
"""Stands where there is nothing to tell."""


class Table(Record):
    """A table: the first `words` columns hold words, the others figures.

    A cell may have several lines. Nothing here is escaped.
    """

    model_config = VERBATIM

    title: str = Field(description="What it shows.")
    columns: tuple[str, ...] = Field(description="Heads of the columns.")
    rows: tuple[tuple[str, ...], ...] = Field((), description="As wide as there are columns.")
    words: int = Field(1, description="Columns of words, from the left.")
    note: str = Field("", description="How to read it.")


def points(share: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−") if round(share, 3) else "0.0"


def p_value(p: float) -> str:
    """A p as it is printed."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def percent(share: float | None) -> str:
    """A share in percent."""
    return NONE if share is None else f"{100 * share:.1f} %"
