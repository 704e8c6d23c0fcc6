"""The marks by which documents show their structure, in Chinese and English.

A mark is recognised at the start of a line only, and only where the line does not go on as a
reference would (`第三条的规定`, `Article 5 of this Act`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from comity.documents.clean import CJK

ZH_NUMBER = r"[零〇一二两三四五六七八九十百千\d]+"
_EN_NUMBER = r"(?:\d+[A-Za-z]?(?:[.\-–]\d+[a-z]?)*|[IVXLC]+)"
_SEPARATOR = r"[.:：、．)）\]】—–-]"

_ZH_ARTICLE = re.compile(rf"第\s*({ZH_NUMBER})\s*条(?:\s*之\s*({ZH_NUMBER}))?")
_ZH_GOES_ON = re.compile(
    r"第\s*[零〇一二两三四五六七八九十百千\d]+\s*[条款项目]|至|、|的|中(?![华国央外小心等])|之[外内]|以[外内]|"
    r"所[列称述规指定]|规定|[，,；;。）)]|[和及或与]\s*[第本前]|[款项]"
)
_EN_ARTICLE = re.compile(
    rf"(ARTICLE|Article|ART\.|Art\.|SECTION|Section|SEC\.|Sec\.|CLAUSE|Clause|RULE|Rule|§{{1,2}})"
    rf"\s*({_EN_NUMBER})(?![\w])"
)
_EN_STARTS = re.compile(rf"""(?:\(\w{{1,4}}\)\s*)*(?:[A-Z0-9"'“‘「《【（\[{CJK}]|\([A-Z]|$)""")
_PARAGRAPH_SIGN_GOES_ON = re.compile(
    r"(?:\(\w{1,4}\)\s*)*(?:of|and|or|to|in|above|below|shall|applies|apply|is|are)\b|[,;]"
)

_ZH_CHAPTER = re.compile(rf"第\s*({ZH_NUMBER})\s*(分编|编|篇|章|节)")
_ZH_ANNEX = re.compile(r"(?:附件|附录|附表)\s*[零〇一二两三四五六七八九十\d]*(?=$|[\s:：.、])")
_EN_CHAPTER = re.compile(
    rf"(?i:(part|title|chapter|subchapter|division|subpart|schedule|annex|appendix))"
    rf"\s+({_EN_NUMBER}|[A-Z])(?![\w])"
)
EN_CHAPTER_RANK = 20
_ZH_CHAPTER_RANK = {"编": 12, "篇": 12, "分编": 13, "章": 14, "节": 15}
_MARKDOWN_HEADING = re.compile(r"(#{1,6})\s+(\S.*?)\s*#*$")
_NUMBERED = re.compile(r"(\d{1,3}(?:\.\d{1,3})+)[.、)）]?\s+|(\d{1,3})(?:[.)）]\s+|、\s*)")
_ZH_DIGITS = "[一二三四五六七八九十]{1,3}"
_ZH_NUMBERED = re.compile(rf"({_ZH_DIGITS})、\s*|([（(]{_ZH_DIGITS}[）)])\s*")
_BULLET = re.compile(r"[-*+•·●○■◆▪–]\s+")
_CONTENTS_LINE = re.compile(r".*(?:\.{4,}|…{2,}|·{4,}|(?:\. ){4,})\s*\d+$")
_CONTENTS_TITLE = re.compile(r"(?:目\s*[录次]|(?i:table of contents|contents))$")
_TERMINAL = re.compile(r"[。！？；：.!?;:][”’」』\"')）\]】]*$")


class Label(NamedTuple):
    """The name of an article, chapter or numbered clause at the start of a line."""

    kind: str
    """`zh`, `article`, `section`, `§`, …: labels of one kind are numbered together."""
    name: str
    """As a reader would write it: `第三条之一`, `Article 3`, `1.2`."""
    number: int
    """Its number, 0 where it has none that counts (`3-2`, `第三条之一`)."""
    width: int
    """Characters up to the body of the line."""


def article_at(line: str) -> Label | None:
    """Read the label of an article at the start of a line without indentation, if there is one."""
    return _zh_article(line) or _en_article(line)


def _zh_article(line: str) -> Label | None:
    found = _ZH_ARTICLE.match(line)
    if not found or _ZH_GOES_ON.match(line, found.end()):
        return None
    name = re.sub(r"\s+", "", found[0])
    number = 0 if found[2] else number_of(found[1])
    return Label("zh", name, number, _after_separator(line, found.end()))


def _en_article(line: str) -> Label | None:
    found = _EN_ARTICLE.match(line)
    if not found:
        return None
    body = _after_separator(line, found.end())
    separated = bool(line[found.end() : body].strip())
    goes_on = _PARAGRAPH_SIGN_GOES_ON.match(line, body)
    if found[1].startswith("§"):
        starts = not goes_on
    else:
        starts = bool(_EN_STARTS.match(line, body)) or (separated and not goes_on)
    if not starts:
        return None
    number = number_of(found[2])
    kind = found[1].rstrip(".").lower()
    series = {"art": "article", "sec": "section", "§§": "§"}.get(kind, kind)
    return Label(series, " ".join(found[0].split()), number, body)


def _after_separator(line: str, end: int) -> int:
    found = re.compile(rf"\s*(?:{_SEPARATOR}(?!\d))*\s*").match(line, end)
    return found.end() if found else end


def number_of(text: str) -> int:
    """Value of a Chinese, Arabic or Roman numeral; 0 where the text is none of these."""
    if text.isascii() and text.isdigit():
        return int(text)
    if re.fullmatch("[IVXLC]+", text):
        return _roman(text)
    return _chinese_number(text) if re.fullmatch(ZH_NUMBER, text) else 0


def _roman(text: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[letter] for letter in text]
    following = [*values[1:], 0]
    return sum(-v if v < after else v for v, after in zip(values, following, strict=True))


def _chinese_number(text: str) -> int:
    digits = {c: i for i, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
    units = {"十": 10, "百": 100, "千": 1000}
    if not any(c in units for c in text):
        return int("".join(c if c.isdigit() else str(digits[c]) for c in text))
    total, pending = 0, 0
    for c in text:
        if c in units:
            total += (pending or 1) * units[c]
            pending = 0
        else:
            pending = digits[c] if c in digits else int(c)
    return total + pending


class Heading(NamedTuple):
    """A heading: a chapter, a Markdown heading or the like."""

    rank: int
    """Smaller is wider; a heading ends all narrower ones."""
    name: str
    kind: str
    bare: bool
    """Whether the line holds only the label, so that the next line may be its caption."""


def markdown_heading(line: str) -> Heading | None:
    """Read a Markdown heading; its rank is 1 to 6."""
    found = _MARKDOWN_HEADING.match(line)
    return Heading(len(found[1]), tidy_title(found[2]), "#", False) if found else None


def chapter_at(line: str) -> Heading | None:
    """Read the heading of a part, chapter, annex or the like; ranks 11 to 29."""
    return _zh_chapter(line) or _en_chapter(line)


def _zh_chapter(line: str) -> Heading | None:
    annex = _ZH_ANNEX.match(line)
    found = annex or _ZH_CHAPTER.match(line)
    if not found or len(line) > 50 or re.search("[，。；]$", line):
        return None
    if not annex and _ZH_GOES_ON.match(line, found.end()):
        return None
    rank = 11 if annex else _ZH_CHAPTER_RANK[found[2]]
    return Heading(rank, tidy_title(line), "zh", found.end() == len(line))


def _en_chapter(line: str) -> Heading | None:
    found = _EN_CHAPTER.match(line)
    if not found or len(line) > 120 or is_finished(line.rstrip(":")):
        return None
    body = _after_separator(line, found.end())
    if not (line[0].isupper() and re.compile(rf"[A-Z{CJK}(\"“]|$").match(line, body)):
        return None
    kind = found[1].lower()
    rank = 11 if kind in {"schedule", "annex", "appendix"} else EN_CHAPTER_RANK
    return Heading(rank, tidy_title(line), kind, body == len(line))


def numbered_at(line: str) -> tuple[Label, int] | None:
    """Read a numbered line (`1.`, `1.2`, `一、`, `（一）`): its label and its depth from 1."""
    found = _NUMBERED.match(line)
    if found:
        name = found[1] or found[2]
        number = number_of(name)
        return Label("number", name, number, found.end()), name.count(".") + 1
    found = _ZH_NUMBERED.match(line)
    if found:
        name = found[1] or found[2]
        depth = 1 if found[1] else 2
        return Label(f"zh-{depth}", name, number_of(name.strip("（()）")), found.end()), depth
    return None


def bullet_width(line: str) -> int:
    """Characters of the bullet that the line starts with; 0 without one."""
    found = _BULLET.match(line)
    return found.end() if found else 0


def is_contents_line(line: str) -> bool:
    """Whether the line belongs to a table of contents (dots and a page number, or its title)."""
    return bool(_CONTENTS_LINE.match(line) or _CONTENTS_TITLE.match(line))


def is_finished(line: str) -> bool:
    """Whether the line ends as a sentence or clause does."""
    return bool(_TERMINAL.search(line))


def is_title_like(line: str) -> bool:
    """Whether a line can be a title or a caption: short, and not ending as a sentence does."""
    limit = 40 if re.search(f"[{CJK}]", line) else 90
    return 0 < len(line) <= limit and not re.search(r"[。；，,;.:：!?！？]$", line)


def starts_block(line: str) -> bool:
    """Whether a line starts something of its own, so that it never continues the line before."""
    return bool(
        article_at(line)
        or chapter_at(line)
        or numbered_at(line)
        or bullet_width(line)
        or sub_item_at(line)
    )


_SUB_ITEM = re.compile(
    r"[（(](?:[一二三四五六七八九十]{1,3}|\d{1,2}|[a-z]{1,4}|[A-Z])[）)]|[①-⑳]|\d{1,2}[.、]\s*(?=\D)|[a-z][.)]\s"
)


def sub_item_at(line: str) -> bool:
    """Whether a line starts with a sub-item's mark: `（一）`, `(a)`, `①`, `1.`."""
    return bool(_SUB_ITEM.match(line))


def tidy_title(text: str) -> str:
    """A heading without emphasis marks, spaced as in `第一章 总则`."""
    text = re.sub(r"[*_`]{1,3}(\S.*?\S|\S)[*_`]{1,3}", r"\1", " ".join(text.split()))
    label = _ZH_CHAPTER.match(text)
    if not label:
        return re.sub(rf"(?<=^[{CJK}])\s(?=[{CJK}]$)", "", text)
    rest = re.sub(rf"(?<=[{CJK}])\s(?=[{CJK}])", "", text[label.end() :].strip())
    return " ".join(part for part in (re.sub(r"\s", "", label[0]), rest) if part)
