"""Explicit preferences: the sentences of a free text that are wishes about the answers.

MetaAlign (arXiv 2410.14184) parts explicit preferences, which are stated, from implicit ones, which
follow from who somebody is. Word lists tell them apart here (`data/statements.toml`; English,
Chinese, German, French and Spanish): what they do not know is background, and stays where it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Literal, NamedTuple

from comity.preferences.words import any_of, closed_up, data_of, folded
from comity.records import Preference, PreferenceKind

_LANGUAGES = ("en", "zh", "de", "fr", "es")
# The end of a sentence: Latin marks need a blank after them, Chinese ones do not.
_END = re.compile(r"""[.!?…]+["'”’»)\]]*(?=\s)|[。！？；]+[”’」）]*|;(?=\s)|\n""")
_BULLET = re.compile(r"\s*(?:[-*•·–]\s+|\(?\d{1,2}[.)]\s+)?")
_SMALL = re.compile(r"[ \t]*[a-zà-öø-ÿ]")
_BLANKS = re.compile(r"\s*")
_BEGINNING = 80  # characters in which bullet and label stand
_WORD = 16
_LABEL = re.compile(r"([^\W\d_][^:：\n]{0,24}?)\s*[:：]\s*(?=\S)")


class _Lists(NamedTuple):
    begin: re.Pattern[str]
    anywhere: re.Pattern[str]
    want: re.Pattern[str]
    about: re.Pattern[str]


class _Part(NamedTuple):
    """A sentence, or a line with a label; what it says without bullet and label, and its kind."""

    whole: str
    text: str
    kind: PreferenceKind | Literal[""]

    @property
    def is_wish(self) -> bool:
        return bool(self.text) and (bool(self.kind) or is_wish(self.text))


def stated(info: str, by: Literal["provider", "user"]) -> tuple[Preference, ...]:
    """The wishes that a text of system info or user info states, in order, in its own words.

    A line `KIND: wish` (`style: be brief`, `语言：中文`) states one with its kind; of other lines
    each sentence that speaks of the answers is one, its kind unknown.
    """
    return tuple(
        Preference(text=part.text, kind=part.kind, by=by) for part in _parts(info) if part.is_wish
    )


def background(info: str) -> str:
    """What `stated` takes for no wish, in order: who somebody is."""
    return "".join(part.whole for part in _parts(info) if not part.is_wish).strip()


def without(info: str, wishes: Collection[str]) -> str:
    """The text without the sentences, or labelled lines, that state one of these wishes."""
    kept = (part.whole for part in _parts(info) if not (part.is_wish and part.text in wishes))
    return "".join(kept).strip()


def sentences(text: str) -> tuple[str, ...]:
    """The text in sentences, bullets and lines with a label, each with the blanks around it.

    Put together they are the text again.
    """
    return tuple(part.whole for part in _parts(text))


def is_wish(sentence: str) -> bool:
    """Whether a sentence is a wish about the answers, by the words of the languages known here."""
    plain = closed_up(folded(sentence)).strip(" \t\n\"'“”«»¡¿-*•")
    plain = _spoken().sub(" … ", plain)
    return any(_speaks_of_answers(plain, _lists(language)) for language in _LANGUAGES)


def _speaks_of_answers(plain: str, lists: _Lists) -> bool:
    if lists.anywhere.search(plain) or lists.begin.match(plain):
        return True
    return bool(lists.want.search(plain) and lists.about.search(plain))


def _parts(text: str) -> Iterator[_Part]:
    for piece in _pieces(text):
        bare = piece[_BULLET.match(piece).end() :].strip()  # type: ignore[union-attr]
        label = _LABEL.match(bare)
        kind = _labelled(label[1]) if label else ""
        yield _Part(piece, bare[label.end() :] if label and kind else bare, kind)


def _pieces(text: str) -> Iterator[str]:
    """Lines with a label whole, other text in sentences; blanks go with what is before them."""
    start = 0
    for end in _ends(text):
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _ends(text: str) -> Iterator[int]:
    """Where each piece ends; the last one ends with the text."""
    start = 0
    for mark in _END.finditer(text):
        if mark.end() <= start or _is_inside(text, start, mark):
            continue
        end = _BLANKS.match(text, mark.end()).end()  # type: ignore[union-attr]
        if end < len(text) and text[start : mark.end()].strip():
            yield end
            start = end


def _is_inside(text: str, start: int, mark: re.Match[str]) -> bool:
    """Whether a mark ends no piece: in a labelled line, a wrapped line, after an abbreviation."""
    begin = text[start : min(mark.start(), start + _BEGINNING)]
    if mark[0] == "\n":
        wrapped = bool(begin.strip()) and _SMALL.match(text, mark.end()) is not None
        return wrapped and not _is_labelled(begin)
    if mark[0] == ".":
        word = text[max(start, mark.start() - _WORD) : mark.start()].split()[-1:]
        if word and word[0].lower() in _abbreviations():
            return True
        if re.fullmatch(r"\s*\d{1,2}", begin):
            return True
    return _is_labelled(begin)


def _is_labelled(piece: str) -> bool:
    label = _LABEL.match(piece[_BULLET.match(piece).end() :])  # type: ignore[union-attr]
    return bool(label and _labelled(label[1]))


def _labelled(word: str) -> PreferenceKind | Literal[""]:
    plain = folded(word).strip()
    return next((kind for kind, names in _labels().items() if names.fullmatch(plain)), "")


@cache
def _labels() -> dict[PreferenceKind, re.Pattern[str]]:
    return {kind: any_of(names) for kind, names in data_of("statements")["labels"].items()}


@cache
def _lists(language: str) -> _Lists:
    lists = data_of("statements")[language]
    return _Lists(*(any_of(lists[name]) for name in _Lists._fields))


@cache
def _spoken() -> re.Pattern[str]:
    return any_of(data_of("statements")["spoken"]["to"])


@cache
def _abbreviations() -> frozenset[str]:
    return frozenset(data_of("statements")["abbreviations"])
