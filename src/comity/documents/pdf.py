"""Text of PDF files: lines as they lie on the page, joined again into paragraphs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from comity.documents.clean import joint, language_of, normalise
from comity.documents.structure import starts_block
from comity.errors import DocumentError

if TYPE_CHECKING:
    from pypdfium2 import PdfiumError, PdfPage

_EDGE_LINES = 2
_PAGE_NUMBER = re.compile(
    r"(?i)[-–—·\s]*(?:page|p\.|第)?\s*(?:\d{1,4}|[ivxlc]{1,6})\s*(?:页)?"
    r"(?:\s*(?:/|of|,|，|共)\s*(?:共)?\s*\d{1,4}\s*页?)?[-–—·\s]*"
)
# Where a word is divided at a line's end, PDFium gives one of these for hyphen and line end.
_DIVIDED = ("\ufffe", "\x02", "\u00ad")
_LINE_END = re.compile("(\r\n|[\r\n\ufffe\x02\u00ad])")


class PageLine(NamedTuple):
    """One line of a page, in points from the page's lower left corner."""

    text: str
    left: float
    right: float
    top: float
    bottom: float
    divided: bool


def pdf_text(path: Path, data: bytes) -> tuple[str, tuple[int, ...]]:
    """Text of a PDF, and the offset in it at which each page starts.

    Raises `DocumentError` for an encrypted, a damaged and an image-only file.
    """
    import pypdfium2

    try:
        with pypdfium2.PdfDocument(data) as document:
            pages = [_lines(page) for page in document]
    except pypdfium2.PdfiumError as error:
        raise _refusal(path, error) from error
    if not any(pages):
        raise DocumentError(
            path,
            f"its {len(pages)} pages are images without a text layer; "
            "run text recognition (OCR) over it first, for example with ocrmypdf",
        )
    return _flow(without_running_heads(pages))


def _refusal(path: Path, error: PdfiumError) -> DocumentError:
    from pypdfium2.raw import FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY

    if getattr(error, "err_code", None) in (FPDF_ERR_PASSWORD, FPDF_ERR_SECURITY):
        return DocumentError(path, "is encrypted; save a copy without a password and add that")
    return DocumentError(path, f"is no readable PDF ({error}); it may be damaged or cut short")


def _lines(page: PdfPage) -> list[PageLine]:
    textpage = page.get_textpage()
    lines, at = [], 0
    raw = textpage.get_text_range()
    pieces = [*re.split(_LINE_END, raw), ""]
    for piece, ending in zip(pieces[::2], pieces[1::2], strict=True):
        words = normalise(piece).strip()
        if words:
            boxes = [textpage.get_charbox(at + i) for i in _inked(piece)]
            lines.append(
                PageLine(
                    words,
                    left=min(box[0] for box in boxes),
                    right=max(box[2] for box in boxes),
                    top=max(box[3] for box in boxes),
                    bottom=min(box[1] for box in boxes),
                    divided=ending in _DIVIDED,
                )
            )
        at += len(piece) + len(ending)
    textpage.close()
    page.close()
    return lines


def _inked(piece: str) -> list[int]:
    """Places of a few characters that show the line's extent: the first, the last, some between."""
    inked = [i for i, c in enumerate(piece) if not c.isspace()]
    return [inked[0], *inked[1 : -1 : max(1, len(inked) // 8)], inked[-1]]


def without_running_heads(pages: Sequence[Sequence[PageLine]]) -> list[list[PageLine]]:
    """Drop page numbers, and lines at the edge of the page that repeat over pages.

    Digits are not compared, so that `Page 3` equals `Page 4`; a line that starts an article or
    a clause must repeat exactly.
    """
    counts = Counter(key for page in pages for key in {_edge_key(line) for line in _edges(page)})
    needed = max(2, round(0.4 * len(pages)))
    return [
        [
            line
            for i, line in enumerate(page)
            if not (
                _is_edge(i, len(page))
                and (counts[_edge_key(line)] >= needed or _PAGE_NUMBER.fullmatch(line.text))
            )
        ]
        for page in pages
    ]


def _is_edge(i: int, count: int) -> bool:
    return i < _EDGE_LINES or i >= count - _EDGE_LINES


def _edges(page: Sequence[PageLine]) -> list[PageLine]:
    return [line for i, line in enumerate(page) if _is_edge(i, len(page))]


def _edge_key(line: PageLine) -> tuple[str, int]:
    """Words and size: a title in large letters is kept where small ones repeat it on each page."""
    words = line.text if starts_block(line.text) else re.sub(r"\d+", "#", line.text)
    return words, round((line.top - line.bottom) / 3)


def _flow(pages: Sequence[Sequence[PageLine]]) -> tuple[str, tuple[int, ...]]:
    """Join lines into paragraphs, one to a line, with a blank line between them."""
    text, starts = "", []
    shape = _Shape.of(pages)
    before: PageLine | None = None
    for page in pages:
        for i, line in enumerate(page):
            if before is None:
                pass
            elif shape.parts(before, line, new_page=i == 0):
                text += "\n\n"
            elif _mends(before, line, text):
                text = text.removesuffix("-")
            else:
                text += joint(text, line.text)
            if i == 0:
                starts.append(len(text))
            text += line.text
            before = line
        if not page:
            starts.append(len(text))
    return text, tuple(starts)


def _mends(before: PageLine, line: PageLine, text: str) -> bool:
    """Whether a word was divided at the line's end, so that its halves are one word again."""
    hyphen = before.divided or (text.endswith("-") and text[-2:-1].isalpha())
    return hyphen and line.text[:1].islower()


class _Shape(NamedTuple):
    """Measures of the type area, in points: its right edge, and a line's usual step and height."""

    right: float
    pitch: float
    height: float

    @classmethod
    def of(cls, pages: Sequence[Sequence[PageLine]]) -> _Shape:
        lines = [line for page in pages for line in page]
        steps = [
            a.bottom - b.bottom
            for page in pages
            for a, b in pairwise(page)
            if a.bottom > b.bottom + 1
        ]
        return cls(
            right=max((line.right for line in lines), default=0),
            pitch=sorted(steps)[len(steps) // 5] if steps else 0,
            height=median(line.top - line.bottom for line in lines) if lines else 0,
        )

    def parts(self, before: PageLine, line: PageLine, new_page: bool) -> bool:
        """Whether a paragraph ends between two lines that follow one another."""
        if starts_block(line.text) or self._has_room(before, line):
            return True
        if new_page:
            return False
        gap = before.bottom - line.bottom
        resized = abs((before.top - before.bottom) - (line.top - line.bottom))
        return (
            gap > 1.4 * self.pitch
            or before.left < line.left - self.height
            or resized > 0.5 * self.height
        )

    def _has_room(self, before: PageLine, line: PageLine) -> bool:
        """Whether the next word would have stood on the line before, had the paragraph gone on."""
        letter = (line.right - line.left) / len(line.text)
        chinese = language_of(line.text[0]) == "zh"
        word = 2 if chinese else len(line.text.split(maxsplit=1)[0]) + 1
        return before.right + 1.5 * word * letter < self.right
