"""From a document to passages, along the document's own structure.

Articles (`第三条`, `Article 3`, `Section 3`, `§ 3`) where there are any; else numbered clauses and
the items of lists; else paragraphs. Chapters and headings become the title path. Nothing is
lost: the spans of the passages cover everything but headings, labels and blank space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from comity.documents.clean import language_of
from comity.documents.outline import Line, Mark, lines_of, marks_of, title_of
from comity.documents.parts import cut
from comity.documents.read import MARKUP, Document
from comity.documents.structure import bullet_width, is_finished, numbered_at
from comity.records import Record

LONGEST = 1200


class Passage(Record):
    """A piece of a document that can become a rule."""

    title: str = Field(description="Title of the document, with its chapters: `A > B`.")
    article: str = Field("", description="`第三条`, `Article 3 (2/3)`, `1.2`, or empty.")
    kind: Literal["article", "clause", "preamble", "item", "paragraph"] = Field(
        description="What it is in the document's structure."
    )
    text: str = Field(min_length=1, description="Its words, after the lead-in that it needs.")
    context: str = Field("", description="The lead-in that `text` starts with, where repeated.")
    start: int = Field(ge=0, description="First character of its own words in the document.")
    end: int = Field(ge=0, description="Character after its own last one.")


class _Block(NamedTuple):
    """The text between two marks, and where it stands."""

    path: tuple[str, ...]
    mark: Mark | None
    start: int
    end: int


class _Unit(NamedTuple):
    """One passage before it is cut: its own span and the span of its lead-in."""

    kind: Literal["article", "clause", "preamble", "item", "paragraph"]
    article: str
    start: int
    end: int
    lead: str = ""


def split(document: Document, longest: int = LONGEST, title: str = "") -> list[Passage]:
    """Split a document into passages, in the order of the text.

    A passage of more than `longest` characters is cut at its sub-items or sentences; each part
    repeats the lead-in and is named `Article 3 (2/3)`. `title` replaces the document's own.
    """
    lines = lines_of(document.text)
    found, taken = title_of(lines)
    marks = marks_of(lines[taken:], document.format in MARKUP)
    body = lines[taken].start if taken < len(lines) else len(document.text)
    name = title or found or document.stem
    return [
        passage
        for block in _blocks(name, marks, body if taken else 0, len(document.text))
        for unit in _units(document.text, block, marks)
        for passage in _passages(document.text, " > ".join(block.path), unit, longest)
    ]


def _blocks(title: str, marks: Sequence[Mark], start: int, end: int) -> Iterator[_Block]:
    stack: list[tuple[int, str]] = []
    yield _Block((title,), None, start, marks[0].start if marks else end)
    for i, mark in enumerate(marks):
        if mark.kind in ("heading", "clause"):
            stack = [entry for entry in stack if entry[0] < mark.rank]
        if mark.kind == "heading" and (stack or mark.name != title):
            stack.append((mark.rank, mark.name))
        stop = marks[i + 1].start if i + 1 < len(marks) else end
        yield _Block((title, *(name for _, name in stack)), mark, mark.body, stop)


def _units(text: str, block: _Block, marks: Sequence[Mark]) -> Iterator[_Unit]:
    start, end = _trimmed(text, block.start, block.end)
    if start >= end:
        return
    if block.mark is not None and block.mark.kind in ("article", "clause"):
        kind: Literal["article", "clause"] = "article" if block.mark.kind == "article" else "clause"
        yield _Unit(kind, block.mark.name, start, end)
    elif _is_preamble(block, marks):
        name = "序言" if language_of(text[start:end]) == "zh" else "Preamble"
        yield _Unit("preamble", name, start, end)
    else:
        yield from _loose(text, lines_of(text, start, end))


def _is_preamble(block: _Block, marks: Sequence[Mark]) -> bool:
    """Whether a block stands before the first heading of a document that has articles."""
    first = next((mark for mark in marks if mark.kind != "contents"), None)
    before = block.mark is None or (first is not None and block.end <= first.start)
    return before and any(mark.kind == "article" for mark in marks)


class _Group(NamedTuple):
    """Lines that belong together: a paragraph, or one item of a list."""

    item: bool
    name: str
    mark: int
    body: int
    end: int


def _loose(text: str, lines: Sequence[Line]) -> Iterator[_Unit]:
    """Paragraphs, and the items of lists of two or more."""
    groups = _groups(lines)
    i = 0
    while i < len(groups):
        run = i
        while run < len(groups) and groups[run].item:
            run += 1
        if run - i >= 2:
            yield from _items(text, groups[i - 1] if i else None, groups[i:run])
            i = run
            continue
        group, following = groups[i], groups[i + 1 : i + 3]
        introduces = text[group.mark : group.end].endswith((":", "："))
        if not (introduces and len(following) == 2 and all(one.item for one in following)):
            yield _Unit("paragraph", "", group.mark, group.end)
        i += 1


def _items(text: str, before: _Group | None, items: Sequence[_Group]) -> Iterator[_Unit]:
    """Items with the sentence that introduces them: in the first one's span, before the others."""
    lead = text[before.mark : before.end] if before else ""
    introduced = lead.endswith((":", "："))
    for n, item in enumerate(items):
        start = before.mark if before and introduced and n == 0 else item.body
        shared = f"{lead}\n" if introduced and n else ""
        yield _Unit("item", item.name, start, item.end, shared)


def _groups(lines: Sequence[Line]) -> list[_Group]:
    groups: list[_Group] = []
    open_at: Line | None = None
    margin = 0
    for line in lines:
        if not line.text:
            open_at = None
            continue
        inside = bool(groups) and groups[-1].item and line.indent > margin
        width, name = _item_mark(line.text)
        if width and not inside:
            margin = line.indent
            groups.append(_Group(True, name, line.start, line.start + width, line.end))
        elif inside or (open_at is not None and not _breaks(open_at, line)):
            groups[-1] = groups[-1]._replace(end=line.end)
        else:
            groups.append(_Group(False, "", line.start, line.start, line.end))
        open_at = line
    return groups


def _item_mark(text: str) -> tuple[int, str]:
    bullet = bullet_width(text)
    numbered = numbered_at(text)
    if bullet and bullet < len(text):
        return bullet, ""
    if numbered and numbered[0].width < len(text):
        return numbered[0].width, numbered[0].name
    return 0, ""


def _breaks(before: Line, line: Line) -> bool:
    """Whether two lines without a blank one between them are two paragraphs."""
    if line.indent > before.indent:
        return True
    return is_finished(before.text) and language_of(before.text) == "zh"


def _passages(text: str, title: str, unit: _Unit, longest: int) -> Iterator[Passage]:
    body = text[unit.start : unit.end]
    spans, lead_end = cut(body, max(longest - len(unit.lead), longest // 2))
    lead = body[:lead_end].strip()
    for n, (start, end) in enumerate(spans, 1):
        context = unit.lead + (f"{lead}\n" if lead and n > 1 else "")
        part = f" ({n}/{len(spans)})" if len(spans) > 1 else ""
        yield Passage(
            title=title,
            article=f"{unit.article}{part}" if unit.article else "",
            kind=unit.kind,
            text=context + body[start:end],
            context=context.strip(),
            start=unit.start + start,
            end=unit.start + end,
        )


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())
