"""Long passages, cut where their own structure allows it."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from comity.documents.clean import CJK

LONGEST_LEAD = 300

_ITEM = (
    r"[（(](?:[一二三四五六七八九十]{1,3}|\d{1,2}|[a-z]{1,3}|[A-Z])[）)]|[①-⑳]|[-*•·]\s"
    r"|\d{1,2}[.、]\s"
)
_BEFORE_ITEM = re.compile(rf"(?:(?<=[\n：:；;。.，,])|(?<=[：:；;。.，,]\s))\s*(?={_ITEM})")
_SENTENCE_END = re.compile(
    rf"(?<=[。！？；])[”’」』）]?|(?<=[.!?;])[\"')]?\s+(?=[A-Z\"'(\d])|\n+|(?<=[.;])(?=[{CJK}])"
)
_CLAUSE_END = re.compile(r"(?<=[，、,：:])|\s+")


class Cut(NamedTuple):
    """A text cut into parts: their spans, and how much of its start is repeated as context."""

    spans: list[tuple[int, int]]
    lead_end: int


def cut(text: str, longest: int) -> Cut:
    """Cut a text into parts of at most `longest` characters, the repeated lead-in included.

    Parts end before sub-items where there are any, else at sentences, else at clauses, and only
    then within words. The spans lose nothing but the spaces between them. A text that is short
    enough is one part with no lead-in.
    """
    if len(text) <= longest:
        return Cut([(0, len(text))], 0)
    lead_end = _lead_end(text, min(LONGEST_LEAD, longest // 3))
    room = longest - lead_end
    pieces = _pieces(text, 0, len(text), room, (_BEFORE_ITEM, _SENTENCE_END, _CLAUSE_END))
    return Cut([_trim(text, start, end) for start, end in _pack(pieces, room, lead_end)], lead_end)


def _lead_end(text: str, limit: int) -> int:
    """End of what introduces the rest: up to the first sub-item, or the first sentence."""
    for pattern in (_BEFORE_ITEM, _SENTENCE_END):
        found = pattern.search(text)
        if found and 0 < found.start() <= limit:
            return found.start()
    return 0


def _pieces(
    text: str, start: int, end: int, room: int, patterns: tuple[re.Pattern[str], ...]
) -> list[tuple[int, int]]:
    """Spans that follow one another from start to end, none longer than `room`."""
    if end - start <= room and len(patterns) < 3:
        return [(start, end)]
    if not patterns:
        return [(at, min(at + room, end)) for at in range(start, end, room)]
    stops = [found.end() for found in patterns[0].finditer(text, start, end)]
    bounds = [start, *(stop for stop in stops if start < stop < end), end]
    return [piece for a, b in pairwise(bounds) for piece in _pieces(text, a, b, room, patterns[1:])]


def _pack(pieces: list[tuple[int, int]], room: int, lead_end: int) -> list[tuple[int, int]]:
    """Join neighbours while they fit; the first part has room for the lead-in that it holds."""
    packed = [pieces[0]]
    for start, end in pieces[1:]:
        first = packed[-1][0]
        if end - first <= room + (lead_end if len(packed) == 1 else 0):
            packed[-1] = (first, end)
        else:
            packed.append((start, end))
    return packed


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
