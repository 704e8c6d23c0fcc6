"""Names in running text: which of the known labels a text names.

Names are compared folded: width, case and accents do not count. In scripts that set words apart
a name must stand on word boundaries; Chinese, Japanese and Korean characters are boundaries
themselves, so `Vertiv公司` is found in `在Vertiv公司工作`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CHINESE_FORMS = re.compile("(?:股份有限公司|有限责任公司|有限公司|集团公司|集团|公司)$")
LATIN_FORMS = re.compile(
    r"[\s,]+(?:incorporated|inc|limited|ltd|corporation|corp|company|co|gmbh|ag|se|llc|llp|lp|plc"
    r"|s\.?a|n\.?v|b\.?v|pty|group|holdings?)\.?$",
    re.IGNORECASE,
)
LATIN_WITH_KIND = re.compile("(?<=[A-Za-z0-9])(?:协会|学会|组织)$")

ORDINARY_WORDS = frozenset(
    re.split(
        r"\s+",
        """
        all alphabet amazon apple arc arrow ball block blue box bright bull can cardinal chase
        citizen coach core corn crown delta discover dollar eagle edge fast first fox gap general
        global golden green home icon ideal key life light lion live match meta mobile monster
        moody national next northern one open oracle orange paramount phoenix pioneer post premier
        progressive prudential public quest regions republic ring rock royal safe sage sea shell
        smart snap snow southern square stage star state stride sun super target team trade
        travelers true twist union united universal visa vital wave west white world zone
        微创 德高 开云 平安 联想 小米 苹果 百度 太平 人民 招商 光明 大众 东方 长城 新华 统一 中信
        中国 国际 健康 未来 理想 小鹏 海洋 创新 科技 发展 先锋 和平 阳光 永恒 快手 知乎 协会
        """.strip(),
    )
)
"""Words that mean something else first: a company's short name that is one of them is left out,
unless it is written in capitals (`ICON`) and stands so in the text."""


class Fold(dict[int, str]):
    """For `str.translate`: every character becomes one character without width, case, accent.

    One for one, so that positions in the folded text are positions in the text.
    """

    def __missing__(self, point: int) -> str:
        char = chr(point)
        plain = unicodedata.normalize("NFKD", char)[:1].lower()
        if len(plain) != 1 or not unicodedata.normalize("NFKC", char).strip():
            plain = " " if char.isspace() else char
        if unicodedata.category(char) == "Pd":
            plain = "-"
        self[point] = "'" if char in "’‘＇" else plain
        return self[point]

    def name(self, name: str) -> str:
        """A whole name folded: accents composed first, spaces single."""
        return " ".join(unicodedata.normalize("NFC", name).translate(self).split())


def in_word(char: str) -> bool:
    """Whether the character belongs to a word of a script that sets words apart."""
    return char.isalnum() and char < "\u2e80"


def on_boundaries(text: str, start: int, end: int) -> bool:
    """Whether `text[start:end]` begins and ends where words do; CJK neighbours are boundaries."""
    cut_before = start > 0 and in_word(text[start - 1]) and in_word(text[start])
    cut_after = end < len(text) and in_word(text[end - 1]) and in_word(text[end])
    return not (cut_before or cut_after)


def lengths_by_start(names: Iterable[str]) -> dict[str, list[int]]:
    """For each first two characters, the lengths of the names that begin so, longest first."""
    lengths: dict[str, set[int]] = {}
    for name in names:
        lengths.setdefault(name[:2], set()).add(len(name))
    return {start: sorted(found, reverse=True) for start, found in lengths.items()}


class _Form(NamedTuple):
    label: str
    exact: str
    """The spelling that the text must have, letter for letter; empty where case is free."""


class NameFinder:
    """Finds which of the labels a text names.

    A label is found by its full name and by its short forms: without the corporate form
    (`Vertiv公司`, `Vertiv`; `NIO Inc公司`, `NIO Inc`, `NIO`), without or with spaces, in the
    plural (`pharmacist`, `pharmacists`). A short form that two labels share finds both of them,
    since a missed audience loses its rules. Where names overlap the longer one stands.
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._fold = Fold()
        self._forms: dict[str, list[_Form]] = {}
        for label in dict.fromkeys(labels):
            for spelling, exact in _spellings(label):
                self._add(label, spelling, exact)
        self._lengths = lengths_by_start(self._forms)

    def find(self, text: str) -> tuple[str, ...]:
        """The labels named in the text, in the order of their first mention, each once."""
        text = _squeeze(text)
        taken = bytearray(len(text))  # a flag a character: time stays linear in many names
        found: list[tuple[int, str]] = []
        for start, end, labels in sorted(self._occurrences(text), key=_longest_first):
            if not any(taken[start:end]):
                taken[start:end] = b"\1" * (end - start)
                found.extend((start, label) for label in labels)
        return tuple(dict.fromkeys(label for _, label in sorted(found, key=lambda item: item[0])))

    def _add(self, label: str, spelling: str, exact: bool) -> None:
        squeezed = _squeeze(spelling)
        form = _Form(label, squeezed if exact else "")
        if squeezed:
            self._forms.setdefault(squeezed.translate(self._fold), []).append(form)

    def _occurrences(self, text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
        folded = text.translate(self._fold)
        for start in range(len(folded)):
            for length in self._lengths.get(folded[start : start + 2], ()):
                end = start + length
                forms = self._forms.get(folded[start:end])
                if forms and on_boundaries(folded, start, end):
                    labels = tuple(f.label for f in forms if f.exact in ("", text[start:end]))
                    if labels:
                        yield start, end, labels


def _longest_first(occurrence: tuple[int, int, tuple[str, ...]]) -> tuple[int, int]:
    start, end, _ = occurrence
    return (start - end, start)


def _squeeze(text: str) -> str:
    """Without the spaces that do not part two words: `S & P Global` -> `S&P Global`."""
    text = unicodedata.normalize("NFKC", text)
    return re.sub(r"\s+", lambda space: _gap(text, space.start(), space.end()), text)


def _gap(text: str, start: int, end: int) -> str:
    parts_words = start > 0 and end < len(text) and in_word(text[start - 1]) and in_word(text[end])
    return " " if parts_words else ""


def _spellings(label: str) -> Iterator[tuple[str, bool]]:
    """The ways to write a label, each with whether its capitals count."""
    for name in _short_forms(label):
        capitals = name != label and _is_acronym(name)
        yield name, capitals
        if name == label or " " in name:
            yield name.replace(" ", ""), capitals
        if "-" in name:
            yield name.replace("-", " "), capitals
        if name.isascii() and name[-1:].isalpha() and not capitals:
            yield from ((plural, False) for plural in _plurals(name))


def _short_forms(label: str) -> Iterator[str]:
    """The label, then what is left as its corporate forms are dropped one by one."""
    yield label
    name = unicodedata.normalize("NFKC", label).strip()
    while (shorter := _without_form(name)) != name:
        name = shorter
        if _can_stand_alone(name):
            yield name


def _without_form(name: str) -> str:
    for forms in (CHINESE_FORMS, LATIN_FORMS, LATIN_WITH_KIND):
        shorter = forms.sub("", name).strip(" ,")
        if shorter != name:
            return shorter
    return name


def _can_stand_alone(name: str) -> bool:
    if len(name) < (3 if name.isascii() else 2):
        return False
    return _is_acronym(name) or name.lower() not in ORDINARY_WORDS


def _is_acronym(name: str) -> bool:
    return name.isascii() and name.isupper() and len(name) <= 4


def _plurals(name: str) -> tuple[str, ...]:
    if re.search("[^aeiou]y$", name, re.IGNORECASE):
        return (f"{name[:-1]}ies",)
    return (f"{name}s", f"{name}es")
