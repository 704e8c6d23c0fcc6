"""Codes of places, read as paths from wide to narrow."""

from __future__ import annotations

import re

from comity.records import WORLD

CODE = re.compile(r"world|[A-Z]{2}(?:-[A-Z0-9]{1,8})?(?:/[^/\s][^/]*)*")
"""What a code looks like; which ones there are, the gazetteer knows."""


def parent(code: str) -> str | None:
    """The place right around this one; None for `world`."""
    if code == WORLD:
        return None
    head, inside, _ = code.rpartition("/")
    if inside:
        return head
    country, subdivision, _ = code.partition("-")
    return country if subdivision else WORLD


def ancestors(code: str) -> tuple[str, ...]:
    """From `world` down to the place itself, which comes last."""
    path = [code]
    while (above := parent(path[-1])) is not None:
        path.append(above)
    return tuple(reversed(path))


def contains(wide: str, narrow: str) -> bool:
    """Whether `narrow` is `wide` or lies inside it."""
    if wide in (narrow, WORLD) or narrow.startswith(f"{wide}/"):
        return True
    return len(wide) == 2 and narrow.startswith(f"{wide}-")


def depth(code: str) -> int:
    """0 for `world`, 1 for a country, 2 for a subdivision, one more for each level inside."""
    return len(ancestors(code)) - 1
