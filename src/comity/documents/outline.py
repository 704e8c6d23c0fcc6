"""Where a document's headings, articles and numbered clauses stand."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from comity.documents.structure import (
    EN_CHAPTER_RANK,
    Heading,
    Label,
    article_at,
    chapter_at,
    is_contents_line,
    is_finished,
    is_title_like,
    markdown_heading,
    numbered_at,
    starts_block,
)

_CONTAINER_RANK = 30
_NUMBERED_RANK = 42
_HEADING_MARK = re.compile(r"#{1,6}\s+")


class Line(NamedTuple):
    """One line: its span without surrounding space, its words, and its indentation."""

    start: int
    end: int
    text: str
    indent: int


class Mark(NamedTuple):
    """The start of a heading or an article in a document's text."""

    kind: str
    """`heading`, `article`, `clause` (numbered without a word such as Article) or `contents`."""
    name: str
    rank: int
    start: int
    body: int
    """First character after the mark."""
    series: str
    """Labels of one series are numbered together."""
    number: int


def lines_of(text: str, start: int = 0, end: int | None = None) -> list[Line]:
    """The lines of a part of the text, blank ones included."""
    lines, at = [], start
    for raw in text[start:end].split("\n"):
        words = raw.strip()
        indent = len(raw) - len(raw.lstrip())
        first = at + indent
        lines.append(Line(first, first + len(words), words, indent))
        at += len(raw) + 1
    return lines


def title_of(lines: Sequence[Line]) -> tuple[str, int]:
    """The document's title and how many lines it takes; an empty one where it shows none."""
    first = next((i for i, line in enumerate(lines) if line.text), None)
    if first is None:
        return "", 0
    heading = markdown_heading(lines[first].text)
    if heading and not article_at(_without_marks(lines[first].text)):
        return heading.name, first + 1
    taken = []
    for line in lines[first : first + 3]:
        if not is_title_like(line.text) or starts_block(line.text) or is_contents_line(line.text):
            break
        taken.append(line.text)
    end = first + len(taken)
    goes_on = end < len(lines) and lines[end].text[:1].islower()
    alone = not any(line.text for line in lines[end:])
    return ("", 0) if alone or goes_on or not taken else (" ".join(taken), end)


def marks_of(lines: Sequence[Line], markup: bool) -> list[Mark]:
    """All marks in the order of the text.

    `markup` says that `#` makes a heading. Numbered headings and clauses count only in a
    document without articles.
    """
    marks = _ranked(list(_statutory(lines, markup)))
    if any(mark.kind == "article" for mark in marks):
        return _containers_as_headings(marks, lines)
    return sorted([*marks, *_numbered(lines)], key=lambda mark: mark.start)


def _ranked(marks: list[Mark]) -> list[Mark]:
    """Parts, titles and chapters in English: whichever kind comes first is the wider one."""
    kinds = list(dict.fromkeys(mark.series for mark in marks if mark.rank == EN_CHAPTER_RANK))
    return [
        mark._replace(rank=mark.rank + kinds.index(mark.series))
        if mark.rank == EN_CHAPTER_RANK
        else mark
        for mark in marks
    ]


def _statutory(lines: Sequence[Line], markup: bool) -> Iterator[Mark]:
    last: dict[str, int] = {}
    before: str | None = None
    article_rank = 99
    skip = -1
    for i, line in enumerate(lines):
        if not line.text or i == skip:
            before = None
            continue
        heading = markdown_heading(line.text) if markup else None
        mark, skip = _mark_at(lines, i, heading, before, last)
        if mark and heading and mark.kind == "heading" and mark.rank > article_rank:
            mark = None
        if mark is None:
            before = line.text
            continue
        before = None
        if mark.kind == "article":
            last[mark.series] = mark.number or last.get(mark.series, 0)
            article_rank = heading.rank if heading else 99
        elif mark.kind == "heading":
            article_rank = 99
        yield mark


def _mark_at(
    lines: Sequence[Line], i: int, heading: Heading | None, before: str | None, last: dict[str, int]
) -> tuple[Mark | None, int]:
    """The mark on a line, and the number of the next line that belongs to it (or -1)."""
    line = lines[i]
    words = _without_marks(line.text) if heading else line.text
    offset = line.start + line.text.find(words)
    if is_contents_line(line.text):
        return Mark("contents", "", 0, line.start, line.end, "", 0), -1
    label = article_at(words)
    if label and (heading or _begins(label, before, last)):
        body = offset + label.width
        return _article(label, line.start, min(body, line.end)), -1
    if heading:
        return _heading(heading, line.start, line.end), -1
    chapter = chapter_at(line.text) if before is None or is_finished(before) else None
    if chapter is None:
        return None, -1
    caption = _caption_after(lines, i) if chapter.bare else -1
    if caption < 0:
        return _heading(chapter, line.start, line.end), -1
    named = chapter._replace(name=f"{chapter.name} {lines[caption].text}")
    return _heading(named, line.start, lines[caption].end), caption


def _begins(label: Label, before: str | None, last: dict[str, int]) -> bool:
    """Whether a label starts an article, rather than a line broken before a reference."""
    if before is None or is_finished(before) or label.kind not in last:
        return True
    return label.number == last[label.kind] + 1


def _caption_after(lines: Sequence[Line], i: int) -> int:
    following = next((j for j in range(i + 1, len(lines)) if lines[j].text), -1)
    if following < 0 or following > i + 2:
        return -1
    text = lines[following].text
    after = next((line.text for line in lines[following + 1 :] if line.text), "")
    own = starts_block(text) or markdown_heading(text) or not is_title_like(text)
    return -1 if own or not after else following


def _article(label: Label, start: int, body: int) -> Mark:
    return Mark("article", label.name, 0, start, body, label.kind, label.number)


def _heading(heading: Heading, start: int, body: int) -> Mark:
    return Mark("heading", heading.name, heading.rank, start, body, heading.kind, 0)


def _containers_as_headings(marks: list[Mark], lines: Sequence[Line]) -> list[Mark]:
    """Where articles hold sections (or sections articles), the outer ones are headings."""
    articles = [mark for mark in marks if mark.kind == "article" and mark.series != "zh"]
    count = Counter(mark.series for mark in articles)
    if len(count) < 2:
        return marks
    first = articles[0].series
    outer = first if count[first] < count.total() - count[first] else ""
    ends = [*(mark.start for mark in marks[1:]), lines[-1].end + 1]
    with_words = {
        mark.series for mark, end in zip(marks, ends, strict=True) if not _bare(mark, end, lines)
    }
    containers = {series for series in count if series == outer or series not in with_words}
    if containers == set(count):
        return marks
    return [_contain(mark, lines) if mark.series in containers else mark for mark in marks]


def _bare(mark: Mark, end: int, lines: Sequence[Line]) -> bool:
    """Whether there is nothing but a caption between a mark and the next one."""
    first = _line_at(lines, mark.start)
    after = bisect_left(lines, end, key=_start, lo=first)
    words = [line.text for line in lines[first:after] if mark.body < line.end and line.text]
    return not words or (len(words) == 1 and is_title_like(words[0]))


def _start(line: Line) -> int:
    return line.start


def _line_at(lines: Sequence[Line], offset: int) -> int:
    """Number of the line that starts at an offset, or else of the next one."""
    return bisect_left(lines, offset, key=_start)


def _contain(mark: Mark, lines: Sequence[Line]) -> Mark:
    i = _line_at(lines, mark.start)
    line = lines[i]
    if mark.body < line.end:
        if not is_title_like(line.text):
            return mark
        return mark._replace(kind="heading", name=line.text, rank=_CONTAINER_RANK, body=line.end)
    caption = _caption_after(lines, i)
    if caption < 0:
        return mark._replace(kind="heading", rank=_CONTAINER_RANK)
    name = f"{mark.name} {lines[caption].text}"
    return mark._replace(kind="heading", name=name, rank=_CONTAINER_RANK, body=lines[caption].end)


def _numbered(lines: Sequence[Line]) -> Iterator[Mark]:
    """Numbered headings and clauses; plain lists (`1.`, `2.`) are left to the list items."""
    found = [(i, numbered_at(line.text)) for i, line in enumerate(lines) if line.indent < 4]
    numbered = [(i, *hit) for i, hit in found if hit]
    dotted = any(depth > 1 and label.kind == "number" for _, label, depth in numbered)
    outer_clause = False
    for i, label, depth in numbered:
        heading = _is_numbered_heading(lines, i, label, depth)
        if label.kind == "zh-2" and outer_clause and not heading:
            continue
        if not (heading or label.kind != "number" or depth > 1 or dotted):
            continue
        if label.kind == "zh-1":
            outer_clause = not heading
        line = lines[i]
        rank = _NUMBERED_RANK + depth if label.kind == "number" else _NUMBERED_RANK - 2 + depth
        if heading:
            yield Mark("heading", line.text, rank, line.start, line.end, label.kind, 0)
        else:
            body = line.start + label.width
            yield Mark("clause", label.name, rank, line.start, body, label.kind, label.number)


def _is_numbered_heading(lines: Sequence[Line], i: int, label: Label, depth: int) -> bool:
    """A numbered line is a heading if it is short and has something of its own below it."""
    if not is_title_like(lines[i].text) or len(lines[i].text) == label.width:
        return False
    below = next((line for line in lines[i + 1 :] if line.text), None)
    if below is None or below.text[0].islower() or lines[i].indent < below.indent < 4:
        return False
    after = numbered_at(below.text)
    if markdown_heading(below.text):
        return False
    return after is None or (after[0].kind, after[1]) != (label.kind, depth)


def _without_marks(text: str) -> str:
    return _HEADING_MARK.sub("", text, count=1)
