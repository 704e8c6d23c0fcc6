"""Rules made from a seed, a million or any other number, one after the other.

They are written in Chinese, in documents of 40 articles about 24 subjects: a quarter nationwide,
the others of one of 31 provinces or 3,181 towns and districts of the gazetteer. Each is a
variation of one of 3,000 sentences, so that many are near to one another, as articles of many
towns are. 92 % belong to the default tenant, the others to 40 tenants whose sizes fall as 1 / n;
1.5 % are second versions. The same size and seed give the same rules.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

from comity.cache import cache_folder
from comity.memory.place_names import load_table
from comity.memory.place_paths import depth
from comity.records import DEFAULT_TENANT, Rule, Scope

SEED = 20261122
ARTICLES = 40
"""Of each document."""
BASES = 3_000
"""Sentences of which all rules are variations."""
AT = datetime(2026, 6, 1, tzinfo=UTC)
"""When all questions are asked."""
_TENANTS = 40
_OTHERS = 0.08  # share of the rules that belong to another tenant than the default one
_AMENDED = 0.015
_VARIED = 0.3  # share of a sentence's parts that a variation draws anew
_SINCE = datetime(1995, 1, 1, tzinfo=UTC)
_DIGITS = "零一二三四五六七八九十"
_WORDS = Path(__file__).with_name("made_words.toml")
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_ALL = 0xFFFFFFFFFFFFFFFF

Parts = dict[str, str]
"""The words of one sentence by the place they take in it."""


def mixed(*numbers: int) -> int:
    """A number of 64 bits that depends on all of these (splitmix64, Steele and others, 2014)."""
    state = 0
    for number in numbers:
        state = (state ^ number) + _MIX[0] & _ALL
        state = (state ^ state >> 30) * _MIX[1] & _ALL
        state = (state ^ state >> 27) * _MIX[2] & _ALL
        state ^= state >> 31
    return state


def base_of(document: int, article: int, seed: int = SEED) -> int:
    """Which of the sentences an article is a variation of; a document has one subject."""
    subjects = len(_words().subjects)
    subject = mixed(seed, document) % subjects
    return subject + subjects * (mixed(seed, document, article) % (BASES // subjects))


def article_name(number: int) -> str:
    """Such as `第二十一条`, for numbers up to 99."""
    tens, ones = divmod(number, 10)
    if number <= 10:
        return f"第{_DIGITS[number]}条"
    before = "" if tens == 1 else _DIGITS[tens]
    return f"第{before}十{_DIGITS[ones] if ones else ''}条"


class _Words(NamedTuple):
    """What sentences are made of."""

    generic: Mapping[str, list[str]]
    subjects: list[dict[str, list[str]]]
    sentences: Mapping[str, list[str]]


@cache
def _words() -> _Words:
    given = tomllib.loads(_WORDS.read_text(encoding="utf-8"))
    return _Words(
        {name: _list(text) for name, text in given["generic"].items()},
        [{name: _list(text) for name, text in each.items()} for each in given["subject"]],
        {name: text.split("|") for name, text in given["sentences"].items()},
    )


def _list(text: str) -> list[str]:
    return text.split("|") if "|" in text else text.split()


class Maker:
    """Makes rules and questions of one seed."""

    def __init__(self, seed: int = SEED) -> None:
        self.seed = seed
        self._drawn: dict[int, Parts] = {}

    @cached_property
    def places(self) -> list[str]:
        """Codes of all places of the country, itself first, then the provinces."""
        shown = load_table(cache_folder()).shown
        codes = [code for code in shown if code.partition("-")[0].partition("/")[0] == "CN"]
        return sorted(codes, key=lambda code: (depth(code) > 2, len(code) > 2, code))

    @cached_property
    def provinces(self) -> list[str]:
        """Codes of the provinces."""
        return [code for code in self.places if depth(code) == 2]

    @cached_property
    def _names(self) -> dict[str, str]:
        shown = load_table(cache_folder()).shown
        return {code: shown[code].split("\n")[-1] for code in self.places}

    def rules(self, size: int) -> Iterator[Rule]:
        """So many rule versions: those of the default tenant, then one tenant after the other.

        The second version of a rule stands right behind the first.
        """
        documents, own = _documents(size)
        amended = max(0, size - documents * ARTICLES)
        for number in range(own):
            changed = (number + 1) * amended // own - number * amended // own
            for article, rule in enumerate(self.document(number)):
                yield rule
                if article < changed:
                    yield self._second(rule, number, article + 1)
        for number in range(own, documents):
            yield from self.document(number, _tenant(number - own, documents - own))

    def document(self, number: int, tenant: str = DEFAULT_TENANT) -> list[Rule]:
        """The articles of one document."""
        chance = random.Random(mixed(self.seed, number))
        frame = self._frame(number, tenant, chance)
        return [self._article(number, article, frame, chance) for article in _articles()]

    def _frame(self, number: int, tenant: str, chance: random.Random) -> Rule:
        """A rule with what all articles of a document have in common."""
        words = _words()
        subject = words.subjects[mixed(self.seed, number) % len(words.subjects)]
        kind = chance.random()
        if kind < 0.25:
            place, authority = "CN", chance.choice(("statute", "regulation", "policy"))
        elif kind < 0.55:
            place, authority = chance.choice(self.provinces), "local"
        else:
            place, authority = chance.choice(self.places[1 + len(self.provinces) :]), "policy"
        since = _SINCE + timedelta(days=chance.randrange(11_600))
        ended = chance.random() < 0.05
        name = "国家" if place == "CN" else self._names[place]
        title = f"{name}{chance.choice(subject['titles'])}{chance.choice(words.generic['kinds'])}"
        return Rule(
            id=f"{number:06d}",
            text=title,
            title=f"{title}（第{number:06d}号）",
            place=place,
            authority=authority if tenant == DEFAULT_TENANT else "code",
            audience=_some(words.generic["audiences"], chance) if chance.random() < 0.1 else (),
            domain=subject["name"][0],
            valid_from=since,
            valid_to=since + timedelta(days=400 + chance.randrange(3_000)) if ended else None,
            status="draft" if chance.random() < 0.005 else "active",
            tenant=tenant,
            language="zh",
        )

    def _article(self, document: int, article: int, frame: Rule, chance: random.Random) -> Rule:
        binding = document % 100 == 7 and article == 1 and frame.place != "CN"
        opposed = document % 200 == 3 and article == 2 and frame.tenant == DEFAULT_TENANT
        changes = {
            "id": f"{document:06d}/{article}",
            "text": self._text(base_of(document, article, self.seed), chance),
            "article": article_name(article),
            "mandatory": binding,
            "overrides": (f"{document - 1:06d}/2",) if opposed else (),
        }
        return frame.model_copy(update=changes)

    def _second(self, first: Rule, document: int, article: int) -> Rule:
        """The second version of an article, in other words."""
        chance = random.Random(mixed(self.seed, document, article, 2))
        later = (first.valid_from or _SINCE) + timedelta(days=1 + chance.randrange(2_000))
        changes = {
            "text": self._text(base_of(document, article, self.seed), chance),
            "version": 2,
            "valid_from": later,
            "valid_to": None,
        }
        return first.model_copy(update=changes)

    def base(self, number: int) -> str:
        """A sentence itself, with its title as it is indexed."""
        chance = random.Random(mixed(self.seed, number, 1))
        titles = _words().subjects[number % len(_words().subjects)]["titles"]
        kind = chance.choice(_words().generic["kinds"])
        text = _written(self._base(number), chance)
        return f"{chance.choice(titles)}{kind} {article_name(1 + number % ARTICLES)} {text}"

    def _text(self, base: int, chance: random.Random) -> str:
        """A variation of a sentence."""
        choices, parts = _choices(base), self._base(base).copy()
        for name, items in choices.items():
            drawn = chance.random() / _VARIED
            if drawn < 1:
                parts[name] = items[int(drawn * len(items))]
        return _written(parts, chance)

    def _base(self, number: int) -> Parts:
        if number not in self._drawn:
            chance = random.Random(mixed(self.seed, number))
            choices = _choices(number)
            self._drawn[number] = {name: _one(items, chance) for name, items in choices.items()}
        return self._drawn[number]

    def question(self, number: int) -> tuple[str, Scope]:
        """What somebody asks, and where: a province, whose rules and the national ones apply."""
        chance = random.Random(mixed(self.seed, number, 3))
        place = chance.choice(self.provinces)
        base = mixed(self.seed, number, 4) % BASES
        parts = self._base(base) | {"place": self._names[place]}
        sentences = _words().sentences
        text = chance.choice(sentences["situations"]) + chance.choice(sentences["questions"])
        return text.format_map(parts), Scope(place=(place,), at=AT)

    def narrow_scopes(self, size: int, count: int = 200) -> list[Scope]:
        """Scopes that admit few of so many rules: towns, for tenants that are not the default."""
        documents, own = _documents(size)
        others = documents - own
        chosen = range(0, others, max(1, others // count))
        tenants = {number: _tenant(number, others) for number in chosen}
        return [
            Scope(place=(self.document(own + number)[0].place,), at=AT, tenant=tenant)
            for number, tenant in tenants.items()
        ]


def _documents(size: int) -> tuple[int, int]:
    """How many documents so many rules have, and how many of these the default tenant."""
    documents = max(1, int(size * (1 - _AMENDED)) // ARTICLES)
    return documents, max(1, round(documents * (1 - _OTHERS)))


def _articles() -> range:
    return range(1, ARTICLES + 1)


def _tenant(number: int, documents: int) -> str:
    """Whose the document of this number is, of those that other tenants have."""
    ranks = range(1, _TENANTS + 1)
    until, whole = 0.0, sum(1 / rank for rank in ranks)
    for rank in ranks:
        until += documents / rank / whole
        if number < until:
            return f"tenant-{rank:02d}"
    return f"tenant-{_TENANTS:02d}"


def _some(labels: list[str], chance: random.Random) -> tuple[str, ...]:
    return tuple(sorted(chance.sample(labels, 1 + (chance.random() < 0.2))))


def _choices(base: int) -> Mapping[str, list[str]]:
    """What can stand in each part of a sentence about the base's subject."""
    words = _words()
    return _subject_choices(base % len(words.subjects))


@cache
def _subject_choices(number: int) -> Mapping[str, list[str]]:
    words = _words()
    subject, generic, sentences = words.subjects[number], words.generic, words.sentences
    return {
        "main": sentences["mains"],
        "second": sentences["seconds"],
        "third": sentences["thirds"],
        "fourth": sentences["fourths"],
        "actor": subject["actors"],
        "other_actor": subject["actors"],
        "act": subject["acts"],
        "object": subject["objects"],
        "fact": subject["facts"],
        "other_fact": subject["facts"],
        "modal": generic["modals"],
        "agency": generic["agencies"],
        "measure": generic["measures"],
        "penalty": generic["penalties"],
        "time": generic["times"],
        "exception": generic["exceptions"],
        "purpose": generic["purposes"],
    }


def _one(items: list[str], chance: random.Random) -> str:
    return items[int(chance.random() * len(items))]


def _written(parts: Parts, chance: random.Random) -> str:
    """The sentence of these parts, with numbers and a name of its own."""
    drawn = chance.random
    n = 50 * int(1 + drawn() * 100)
    numbers = {
        "n": str(n),
        "m": str(n * int(2 + drawn() * 9)),
        "d": str(int(3 + drawn() * 58)),
        "h": str(int(18 + drawn() * 6)),
        "o": str(int(4 + drawn() * 6)),
        "name": _made_name(chance),
        "rare": _rare(chance),
        "rarer": _rare(chance),
        "agency": parts["agency"],
    }
    filled = parts | numbers
    for name in ("penalty", "time", "exception"):
        filled[name] = parts[name].format_map(numbers)
    pattern = parts["main"] + parts["second"] + parts["third"] + parts["fourth"]
    return pattern.format_map(filled)


def _rare(chance: random.Random) -> str:
    """A word of two characters that few texts have, as any body of texts has many."""
    return chr(0x4E00 + int(chance.random() ** 2 * 3_000)) + chr(
        0x4E00 + int(chance.random() ** 2 * 3_000)
    )


def _made_name(chance: random.Random) -> str:
    """The name of a river, square or estate, of two or three syllables."""
    generic = _words().generic
    syllables, names = generic["syllables"][0], generic["names"]
    drawn = chance.random
    # squared: some syllables are far more common than others
    made = [syllables[int(drawn() ** 2 * len(syllables))] for _ in range(2 + (drawn() < 0.3))]
    return "".join(made) + names[int(drawn() * len(names))]
