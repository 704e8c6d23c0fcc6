"""The circumstances of a question: where, when and for whom; what is in force there, and why not.

The code decides from the scope and the ruling; no model is asked. Words are looked up in
`prompts/cases_*.toml`.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import permutations
from typing import NamedTuple

from comity.alignment.precedence import rule_on
from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.memory.store import StoredRule
from comity.records import WORLD, Rule, Ruling, Scope
from comity.retrieval.search import applying
from comity.wording import prompt_language, words_of

PRIVATE = {"en": "private person", "zh": "普通个人"}
"""Audience of somebody who belongs to none of those whom a memory's rules name."""

RULING = "ruling"
"""Origin of the questions whose answer follows from the ruling."""

OUTSIDE = ("another place", "another audience", "not yet in force", "no longer in force")
"""Reasons of a rule that is not in force in a case, apart from being overruled."""

LONGEST = 400
"""Characters of a rule's words in an option; what cannot be told in so many is not asked."""

_WHOLE = 220  # up to here a rule is quoted whole
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def noon(day: date) -> datetime:
    """The middle of a day in UTC: what holds for the whole day holds then."""
    return datetime.combine(day, time(12), UTC)


class Period(NamedTuple):
    """When a version is in force: `[start, end)`, None without limit."""

    start: datetime | None
    end: datetime | None
    succeeded: bool
    """Whether a later version takes its place at the end."""

    def first_day(self) -> date | None:
        """The first whole day of it."""
        if self.start is None:
            return None
        day = self.start.date()
        return day if self.start == datetime.combine(day, time(), UTC) else day + timedelta(days=1)

    def last_day(self) -> date | None:
        """The last whole day of it."""
        return None if self.end is None else self.end.date() - timedelta(days=1)

    def day_after(self) -> date | None:
        """The first whole day after its end."""
        return None if self.end is None else Period(self.end, None, False).first_day()


def period(rule: Rule, versions: Sequence[Rule]) -> Period | None:
    """When a version is in force among the versions of its rule; None for never."""
    end, succeeded = rule.valid_to, False
    for later in versions:
        if later.version <= rule.version or later.status == "draft":
            continue
        if later.valid_from is None:
            return None
        if end is None or later.valid_from <= end:
            end, succeeded = later.valid_from, later.status == "active"
    if end is not None and rule.valid_from is not None and end <= rule.valid_from:
        return None
    return Period(rule.valid_from, end, succeeded)


def decide(memory: Memory, versions: Iterable[StoredRule], scope: Scope) -> Ruling:
    """The ruling over those of the versions that apply in a scope, and all that bears on them.

    The mandatory rules of the scope, and whatever has a declared conflict with one of these, are
    ruled on too, so that a rule is kept here if it is kept in the ruling over the whole scope.
    """
    memory.index.catch_up()
    mask = memory.index.admit(scope)
    rows = memory.index.versions_in(sorted({stored.row for stored in versions}), mask)
    eligible = [stored.rule for stored in memory.store.fetch(rows)]
    return rule_on(applying(memory, eligible, mask, scope.tenant), memory.authorities)


def why_not(rule: Rule, span: Period | None, scope: Scope) -> str:
    """Why a version is not in force in a scope: a key of the words under `why_not`."""
    at = scope.at
    labels = {label.casefold() for label in scope.audience}
    if not any(contains(rule.place, place) for place in scope.place):
        return OUTSIDE[0]
    if rule.audience and labels.isdisjoint(label.casefold() for label in rule.audience):
        return OUTSIDE[1]
    if at and rule.valid_from and at < rule.valid_from:
        return OUTSIDE[2]
    if span is None or (at and span.end and at >= span.end):
        return OUTSIDE[3]
    return "overruled"


def asked_about(
    memory: Memory,
    tenant: str,
    *,
    domain: str = "",
    place: str = "",
    audience: Sequence[str] = (),
    language: str = "",
) -> list[str]:
    """Ids of a tenant's rules of a domain, in a place, for an audience and in a language.

    Empty is any. Raises `UnknownPlace` for a place that nobody knows.
    """
    within = memory.gazetteer(tenant).canonical(place) if place else WORLD
    wanted = {label.casefold() for label in audience}
    spoken = language and ("zh" if language.casefold().startswith("zh") else "en")
    return [
        stored.rule.id
        for stored in memory.rules(tenant=tenant)
        if domain.casefold() in ("", stored.rule.domain.casefold())
        and contains(within, stored.rule.place)
        and (not wanted or not wanted.isdisjoint(one.casefold() for one in stored.rule.audience))
        and spoken in ("", language_of(stored.rule))
    ]


class Letters:
    """Orders options so that over many questions every letter is right as often."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._used: Counter[int] = Counter()

    def order(self, options: int, right: Sequence[int]) -> list[int]:
        """An order of options; `right` are those that questions with this order ask for."""
        orders = list(permutations(range(options)))
        self._draw.shuffle(orders)
        best = min(orders, key=lambda order: sum(self._used[order.index(one)] for one in right))
        self._used.update(best.index(one) for one in right)
        return list(best)


def plain(text: str) -> str:
    """A text's words alone: what two rules that say the same have in common."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def language_of(rule: Rule) -> str:
    """`zh` or `en`: the language in which a rule is asked about."""
    return "zh" if (rule.language or prompt_language(rule.text)).startswith("zh") else "en"


def quoted(rule: Rule, rivals: Iterable[Rule], language: str) -> str | None:
    """A rule's words for an option: whole, or the first sentences that tell it from its rivals.

    None where that takes more than `LONGEST` characters.
    """
    text = " ".join(rule.text.split())
    if len(text) > _WHOLE:
        others = [plain(rival.text) for rival in rivals if plain(rival.text) != plain(text)]
        sentences = [piece for piece in _SENTENCE.split(text) if piece]
        for count in range(1, len(sentences)):
            begun = ("" if language == "zh" else " ").join(sentences[:count])
            if not any(other.startswith(plain(begun)) for other in others):
                text = words_of("cases", language)["more"].format(text=begun)
                break
    return text if len(text) <= LONGEST else None


class Wording:
    """Says places, dates, people and rules in a language."""

    def __init__(self, memory: Memory, language: str, tenant: str) -> None:
        self.words = words_of("cases", language)
        self.language = language
        self._place = memory.gazetteer(tenant).name

    def date(self, moment: datetime) -> str:
        """A day, without its time."""
        month = self.words["months"][moment.month - 1]
        written: str = self.words["date"].format(day=moment.day, month=month, year=moment.year)
        return written

    def case(self, scope: Scope) -> str:
        """When, where and for whom."""
        stem = self.words["stem"]
        place = scope.place[0] if scope.place else WORLD
        key = "when" if place == WORLD else "when_where"
        when = self.date(scope.at) if scope.at else ""
        name = "" if place == WORLD else self._place(place, self.language)
        parts = [stem[key].format(date=when, place=name)]
        parts += [self._person(label, more=n > 0) for n, label in enumerate(scope.audience)]
        return ("" if self.language == "zh" else " ").join(parts)

    def _person(self, label: str, *, more: bool) -> str:
        """Who somebody is, or with `more` what the same person is besides."""
        if label in PRIVATE.values():
            key = "private"
        else:
            # professions and roles are written small, organisations are not
            key = "acts_as" if label.islower() else "belongs"
        said: str = self.words["stem"][f"also_{key}" if more else key].format(audience=label)
        return said

    def heading(self, rule: Rule) -> str:
        """Document and article, without the chapters; the id where there is neither."""
        title = rule.title.partition(" > ")[0]
        if title and rule.article:
            named: str = self.words["heading"].format(title=title, article=rule.article)
            return named
        return title or rule.article or rule.id

    def circumstances(self, rule: Rule, span: Period | None = None, *, rank: bool = False) -> str:
        """Rank, place, audience and validity of a rule, in a row."""
        said = self.words["circumstances"]
        parts = []
        if rank:
            parts.append(self.words["authorities"].get(rule.authority, rule.authority))
        if rule.place != WORLD:
            parts.append(said["place"].format(place=self._place(rule.place, self.language)))
        if rule.audience:
            binds = self.words["separator"].join(rule.audience)
            parts.append(said["binds"].format(audience=binds))
        end = span.end if span else rule.valid_to
        parts.append(self._validity(rule.valid_from, end and end - timedelta(microseconds=1)))
        return str(self.words["separator"].join(parts))

    def _validity(self, start: datetime | None, end: datetime | None) -> str:
        since = self.date(start) if start else ""
        until = self.date(end) if end else ""
        key = "between" if start and end else "since" if start else "until" if end else "always"
        said: str = self.words["circumstances"][key].format(
            date=since or until, since=since, until=until
        )
        return said
