"""Documents and articles that a text names: 《夜市办法》第三条, Article 4 of the Drone Act, § 5."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from comity.documents.structure import number_of
from comity.records import Rule

_ZH_NUMBER = r"[零〇一二两三四五六七八九十百千\d]{1,9}"
_ZH_ARTICLE = rf"第\s{{0,3}}(?P<zh>{_ZH_NUMBER})\s{{0,3}}条(?:之(?P<next>{_ZH_NUMBER}))?"
_EN_NUMBER = r"\d{1,4}(?:[.-]\d{1,3}){0,3}[a-zA-Z]?|[IVXLC]{1,7}"
_EN_ARTICLE = (
    rf"(?:\b(?P<kind>(?i:articles?|art\.|sections?|sec\.|clauses?))\s{{0,3}}|§{{1,2}}\s{{0,3}})"
    rf"(?P<en>{_EN_NUMBER})(?!\w)"
)
_ARTICLE = re.compile(f"{_ZH_ARTICLE}|{_EN_ARTICLE}")
_ZH_TITLE = re.compile(r"《([^《》\n]{1,60})》")
_KINDS_OF_LAW = (
    "Act|Law|Code|Regulations?|Rules|Policy|Ordinance|Directive|Statute|Constitution|Bylaws?"
    "|Convention|Treaty|Charter|Handbook|Guidelines?"
)
_EN_TITLE = re.compile(
    rf"(?:[A-Z][\w'’-]{{0,30}}\s(?:(?:of|on|and|for|to|the|in)\s){{0,3}}){{1,8}}(?:{_KINDS_OF_LAW})\b"
)
_LEADS_IN = re.compile(
    r"(?:(?:According to|Under|The|In|By|Per|As|See|And|But|So|If|Both|Of|of|to|the|on|and|for|in)"
    r"\s)+"
)
_FROM_TITLE = re.compile(r"[\s,，]{0,3}(?:[（(][^（）()\n]{0,30}[）)])?\s?(?:的|之|['’]s)?\s?")
_FROM_ARTICLE = re.compile(r"\s?(?:[（(]\w{1,4}[）)]\s?){0,3}(?:第\w{1,4}[款项]\s?){0,2}")
_LISTED = re.compile(r"(?:[、,，和及与或至-]|\s(?:and|or|to)\s|\s){0,3}")
_TO_TITLE = re.compile(r"\sof\s(?:the\s)?")
_REMARK = re.compile(r"[（(][^（）()]*[）)]$")


class Article(NamedTuple):
    """An article's number, however it is spelled."""

    section: bool
    """Whether it is a section or clause; else an article or 条."""
    number: str


class Named(NamedTuple):
    """A document, an article of one, or an article alone."""

    title: str
    """Empty for an article alone."""
    article: Article | None
    """None for a document as a whole."""
    words: str
    """As the text has it."""


class _Found(NamedTuple):
    start: int
    end: int
    title: str
    article: Article | None


def named_in(text: str) -> tuple[Named, ...]:
    """What a text names, in its order, each once. Takes linear time."""
    parts = sorted([*_titles(text), *_articles(text)])
    named = {(each.title, each.article): each for each in reversed(list(_joined(text, parts)))}
    return tuple(reversed(named.values()))


def article_of(name: str) -> Article | None:
    """The article that a rule's `article` names; None where it names none."""
    found = _ARTICLE.search(name)
    return _article(found) if found else None


def is_titled(rule: Rule, title: str) -> bool:
    """Whether a text that names `title` can mean the rule's document.

    Short forms count: 劳动法 is 中华人民共和国劳动法, and `the Drone Act` the Drone Act.
    """
    wanted = _plain(title)
    known = {_plain(rule.title), *map(_plain, rule.title.split(" > "))} - {""}
    return any(one == wanted or _ends_with(one, wanted) or _ends_with(wanted, one) for one in known)


def _ends_with(long: str, short: str) -> bool:
    """Whether the last words of one title are the other."""
    rest = long.removesuffix(short)
    return rest != long and (not short[0].isascii() or rest[-1:] in ("", " "))


def _plain(title: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", title).casefold().split())
    return _REMARK.sub("", plain.strip("《》\"'")).strip()


def _titles(text: str) -> Iterator[_Found]:
    for found in _ZH_TITLE.finditer(text):
        yield _Found(*found.span(), found[1].strip(), None)
    for found in _EN_TITLE.finditer(text):
        lead = _LEADS_IN.match(found[0])
        start = found.start() + (lead.end() if lead else 0)
        if " " in text[start : found.end()]:
            yield _Found(start, found.end(), text[start : found.end()], None)


def _articles(text: str) -> Iterator[_Found]:
    for found in _ARTICLE.finditer(text):
        yield _Found(*found.span(), "", _article(found))


def _article(found: re.Match[str]) -> Article:
    if found["zh"]:
        more = f"-{number_of(found['next'])}" if found["next"] else ""
        return Article(False, f"{number_of(found['zh'])}{more}")
    number = found["en"]
    number = str(number_of(number) or number) if number.isalnum() else number
    return Article(not (found["kind"] or "s").lower().startswith("a"), number.lower())


def _joined(text: str, parts: list[_Found]) -> Iterator[Named]:
    """Each article with the title beside it; titles that no article stands beside."""
    owners: dict[int, int] = {}
    for place, (one, other) in enumerate(pairwise(parts)):
        between = text[one.end : other.start] if other.start >= one.end else "."
        if other.article and not one.article and _FROM_TITLE.fullmatch(between):
            owners[place + 1] = place
        elif one.article and not other.article and _is_of(between) and place not in owners:
            owners[place] = place + 1
        elif one.article and other.article and place in owners and _goes_on(between):
            owners[place + 1] = owners[place]
    taken = set(owners.values())
    for place, part in enumerate(parts):
        if part.article:
            owner = parts[owners[place]] if place in owners else part
            words = text[part.start : part.end]
            if abs(owners.get(place, place) - place) == 1:
                words = text[min(owner.start, part.start) : max(owner.end, part.end)]
            elif owner.title:
                words = f"{text[owner.start : owner.end]} {words}"
            yield Named(owner.title, part.article, words)
        elif place not in taken:
            yield Named(part.title, None, text[part.start : part.end])


def _is_of(between: str) -> bool:
    rest = between[_end(_FROM_ARTICLE, between) :]
    return bool(_TO_TITLE.fullmatch(rest) or _TO_TITLE.fullmatch(f" {rest}"))


def _goes_on(between: str) -> bool:
    return bool(_LISTED.fullmatch(between[_end(_FROM_ARTICLE, between) :]))


def _end(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return found.end() if found else 0


def titles_of(named: Iterable[Named]) -> tuple[str, ...]:
    """The titles as a memory may have them: without lead-in, and with the state's full name."""
    titles: list[str] = []
    for each in named:
        if each.title:
            titles += [each.title, f"中华人民共和国{each.title}", f"《{each.title}》"]
    return tuple(dict.fromkeys(titles))
