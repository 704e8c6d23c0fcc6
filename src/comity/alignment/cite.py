"""Citations: which rules an answer relies on, checked against the rules it was given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

from comity.memory.words import folded, words
from comity.records import Citation, Rule

_NUMBER = r"R?\d{1,4}"
_MARK = re.compile(rf"[\[【［]\s*({_NUMBER}(?:\s*[,，、;；]\s*{_NUMBER})*)\s*[\]】］]")
_SENTENCE = re.compile(r"\S.*?(?:[。！？]|[.!?](?=\s)|$)", re.MULTILINE)
_SHARED = 0.6  # of a sentence's words
_FEWEST = 4  # words: "No." and "可以。" repeat no rule
_SPELLED = re.compile(
    "[零〇一二两三四五六七八九十百千万亿]{2,}"
    "|[一二两三四五六七八九十](?=[年月周日天时点小分元倍次个只人名岁米条款])"
    r"|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    r"|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    r"|hundred|thousand|million|half|twice|noon|midnight)\b"
)


class Cited(NamedTuple):
    """What an answer cites."""

    citations: tuple[Citation, ...]
    unknown: tuple[str, ...]
    """Marks that name none of the rules that the answer was given."""


def cite(text: str, rules: Sequence[Rule]) -> Cited:
    """The rules that an answer cites, in the order of their first mark.

    Rule `[R1]` is the first of `rules`; several numbers in one mark and full-width brackets
    count too. A mark without `R`, such as `[1]`, counts only in an answer that has none with it:
    beside those it is a year or a footnote. An answer without any mark of a rule it was given is
    compared with the rules word by word: a sentence that repeats a rule cites it `by` words, and
    so does one that names its document and article.
    """
    found: dict[int, Citation] = {}
    for number, span in _marked(text):
        if 1 <= number <= len(rules) and number not in found:
            found[number] = citation(number, rules[number - 1], span, "mark")
    if not found:
        guesses = [*_by_name(text, rules), *_by_words(text, rules)]
        found = {each.number: each.citation for each in reversed(guesses)}
    return Cited(tuple(sorted(found.values(), key=_start)), unknown_marks(text, len(rules)))


def unknown_marks(text: str, given: int) -> tuple[str, ...]:
    """The marks of an answer that name none of the `given` rules, each once."""
    marks = (name for mark in _marks(text) for name in re.findall(_NUMBER, mark[1]))
    unknown = (name for name in marks if not 1 <= int(name.removeprefix("R")) <= given)
    return tuple(dict.fromkeys(f"[{name}]" for name in unknown))


def _marked(text: str) -> Iterator[tuple[int, tuple[int, int]]]:
    for mark in _marks(text):
        for name in re.findall(_NUMBER, mark[1]):
            yield int(name.removeprefix("R")), mark.span()


def _marks(text: str) -> list[re.Match[str]]:
    marks = list(_MARK.finditer(text))
    return [mark for mark in marks if "R" in mark[1]] or marks


def citation(
    number: int, rule: Rule, span: tuple[int, int], by: Literal["mark", "words"]
) -> Citation:
    """A citation of a rule by its number in the prompt; `span` is the mark or the sentence."""
    return Citation(
        id=rule.id,
        version=rule.version,
        title=rule.title,
        article=rule.article,
        valid_from=rule.valid_from,
        valid_to=rule.valid_to,
        label=f"[R{number}]",
        start=span[0],
        end=span[1],
        by=by,
    )


class _Numbered(NamedTuple):
    number: int
    citation: Citation


def _by_name(text: str, rules: Sequence[Rule]) -> Iterator[_Numbered]:
    """The rules whose document and article an answer names together."""
    for number, rule in enumerate(rules, start=1):
        if not (rule.title and rule.article and rule.article in text):
            continue
        titles = "|".join(map(re.escape, (rule.title, rule.title.split(" > ")[0])))
        name = re.search(rf"(?:{titles})[\s,，》]*{re.escape(rule.article)}(?![\d之])", text)
        if name:
            yield _Numbered(number, citation(number, rule, name.span(), "words"))


def _by_words(text: str, rules: Sequence[Rule]) -> Iterator[_Numbered]:
    for place, span in repeated(text, rules):
        yield _Numbered(place + 1, citation(place + 1, rules[place], span, "words"))


def repeated(text: str, rules: Sequence[Rule]) -> Iterator[tuple[int, tuple[int, int]]]:
    """The sentences that repeat a rule: its place among `rules`, and the sentence's span.

    A sentence repeats the rule that it shares most words with, if those are most of its own. A
    number in the sentence must stand in the rule: an answer with another hour or amount does
    not repeat it.
    """
    known = [_Rule(f"{rule.heading} {rule.text}") for rule in rules]
    for sentence in _SENTENCE.finditer(text):
        said = _said(_MARK.sub(" ", sentence[0]))
        if len(said.words) < _FEWEST:
            continue
        shares = [
            (len(said.words & rule.said.words) / len(said.words), -place)
            for place, rule in enumerate(known)
            if rule.may_hold(said.words) and said.numbers <= rule.said.numbers
        ]
        share, place = max(shares, default=(0.0, 0))
        if share >= _SHARED:
            yield -place, sentence.span()


class _Said(NamedTuple):
    words: frozenset[str]
    numbers: frozenset[str]


def _said(text: str) -> _Said:
    """The words of a text, and its numbers as they are written: `22`, `9pm`, `二十`, `twenty`."""
    said = frozenset(words(text))
    figures = {word for word in said if any(map(str.isdigit, word))}
    return _Said(said, frozenset(figures.union(_SPELLED.findall(text.lower()))))


class _Rule:
    """A rule's words, found only where a sentence could repeat the rule."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._folded = folded(text)

    def may_hold(self, words: frozenset[str]) -> bool:
        """Whether enough of a sentence's words stand in the rule, be it inside longer ones."""
        return sum(word in self._folded for word in words) >= _SHARED * len(words)

    @cached_property
    def said(self) -> _Said:
        """The words and numbers."""
        return _said(self._text)


def _start(cited: Citation) -> int:
    return cited.start
