"""Which of the places that share a name a text means, and where the text names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from comity.memory.names import in_word, on_boundaries
from comity.memory.place_names import ADJACENT, ALONE, IN_CONTEXT, Entry
from comity.memory.place_paths import contains, depth

NOT_A_START = re.compile("(?<=[0-9０-９])日")
NOT_AN_END = re.compile(
    "市场|区[域间别块]|县级|省[级略]|旗[下帜舰]|国(?:家(?![庭长])|有|务)|地[区带方段质域点]|纳[税入]"
)
"""A name whose last character goes on like this ends inside a word: 吉林|市场, 法|国家, 海地|区."""

WIDE_FIRST = frozenset(("", " ", "/", "·"))
NARROW_FIRST = frozenset((", ", ","))
"""What may stand between a place and one inside it named beside it: 湖南省长沙市; Paris, Texas."""


class Mention(NamedTuple):
    """A place named in a text: `text[start:end] == name`."""

    code: str
    name: str
    start: int
    end: int


class Span(NamedTuple):
    start: int
    end: int
    entries: list[Entry]


def in_hyphened(text: str, start: int, last_end: int) -> bool:
    """Whether this is the later part of a name such as `Owens-Illinois`; not `China-Germany`."""
    return start > 1 and text[start - 1] == "-" and last_end != start - 1 and in_word(text[start])


def only(entries: Iterable[Entry]) -> str | None:
    """The code of the highest level; a country among equals; None where that is not one place."""
    entries = list(entries)
    if len(entries) < 2:
        return entries[0][2] if entries else None
    ranked = sorted((rank, -strength, code) for rank, strength, code in entries)
    codes = {code for *level, code in ranked if level == [*ranked[0][:2]]}
    countries = [code for code in codes if depth(code) == 1]
    if len(codes) == 1 or len(countries) == 1:
        return countries[0] if countries else next(iter(codes))
    return None


def stands(text: str, start: int, end: int) -> bool:
    if NOT_A_START.match(text, start) or NOT_AN_END.match(text, end - 1):
        return False
    if not on_boundaries(text, start, end):
        return False
    short_latin = end - start <= 3 and in_word(text[start])
    return not short_latin or text[start:end].isupper() or end - start == 3


def resolve(text: str, spans: list[Span]) -> list[tuple[Span, str]]:
    """Give each span its place: first those that stand alone, then those that need others."""
    sure = {span.start: code for span in spans if (code := _alone(span))}
    named = set(sure.values())
    for before, span, after in zip([None, *spans], spans, [*spans[1:], None], strict=False):
        own = sure.get(span.start)
        following = _following(text, span, after, sure)
        if own and not _shared_with_country(span) and not _denied(own, following):
            continue
        beside = following | _preceding(text, before, span, sure)
        if code := _fitting(span, beside, ADJACENT) or _fitting(span, named, IN_CONTEXT):
            sure[span.start] = code
    return [(span, sure[span.start]) for span in spans if span.start in sure]


def _preceding(text: str, before: Span | None, span: Span, sure: dict[int, str]) -> set[str]:
    """The place named right before a span, wide first: 湖南省|长沙市."""
    near = before is not None and text[before.end : span.start] in WIDE_FIRST
    return {sure[before.start]} if before and near and before.start in sure else set()


def _following(text: str, span: Span, after: Span | None, sure: dict[int, str]) -> set[str]:
    """The place named right after a span, narrow first: `Nice, France`."""
    near = after is not None and text[span.end : after.start] in NARROW_FIRST
    return {sure[after.start]} if after and near and after.start in sure else set()


def _denied(code: str, following: set[str]) -> bool:
    """Whether what follows a name says another place: `London, Ontario`."""
    return bool(following) and not any(contains(near, code) for near in following)


def _alone(span: Span) -> str | None:
    return only(entry for entry in span.entries if entry[1] == ALONE)


def _shared_with_country(span: Span) -> bool:
    return len({code for rank, _, code in span.entries if rank == 0}) > 1


def _fitting(span: Span, around: set[str], strength: int) -> str | None:
    """The one place of this name that lies in, or around, a place of `around`."""
    strong = [entry for entry in span.entries if entry[1] >= strength]
    return only(entry for entry in strong if any(_fits(entry, near) for near in around))


def _fits(entry: Entry, near: str) -> bool:
    rank, strength, code = entry
    if rank == 3 and strength == ADJACENT and depth(near) == 1:
        return False  # a country says too little: 中华人民共和国|资源税法 is not about 资源县
    return code != near and (contains(code, near) or contains(near, code))


def collapse(text: str, found: list[tuple[Span, str]]) -> Iterator[Mention]:
    """Join a place and the places inside it that stand right beside it."""
    current: Mention | None = None
    for span, code in found:
        if current and (narrow := _narrower(current.code, code, text[current.end : span.start])):
            name = text[current.start : span.end]
            current = Mention(narrow, name, current.start, span.end)
            continue
        if current:
            yield current
        current = Mention(code, text[span.start : span.end], span.start, span.end)
    if current:
        yield current


def _narrower(first: str, second: str, gap: str) -> str | None:
    """The narrower of two places named side by side, if one lies in the other."""
    if gap in WIDE_FIRST and contains(first, second):
        return second
    return first if gap in NARROW_FIRST and contains(second, first) else None
