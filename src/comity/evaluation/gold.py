"""Gold rules: the rules that a question was made from, found in a memory or in its own file.

OPO's generated questions (Align on the Fly, arXiv 2312.15907) carry them as text in the column
`principle`: `TITLE规定:<article:body> <article:body> …`, one or several titles.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from comity.evaluation.exams import Question
from comity.memory.memory import Memory
from comity.records import DEFAULT_TENANT, Rule, RuleRef

_ENTRY = r"<\s*(?:第[^:：<>]{1,12}|[Aa]rt[^:：<>]{1,24}|[Ss]ection [^:：<>]{1,16})\s*[:：]"
_TITLE = re.compile(rf"(?:\A|>)\s*([^<>]+?)规定\s*[:：]\s*(?={_ENTRY})")
_START = re.compile(rf"(?:\A|>)\s*(?={_ENTRY})")
_COMPARED = 400  # characters of two texts that tell rules of one name apart
_ALIKE = 0.6  # least likeness: texts that have only the name in common have less


class GoldEntry(NamedTuple):
    """One rule as a principle names it."""

    title: str
    article: str
    text: str


def gold_entries(principle: str) -> tuple[GoldEntry, ...]:
    """The rules that a principle names, in its order; empty for a text of another form.

    A rule's text may hold `<` and `>`: it ends where the next rule or title begins.
    """
    principle = principle.rstrip().removesuffix(">")
    titles = list(_TITLE.finditer(principle))
    ends = [*(title.start() for title in titles[1:]), len(principle)][: len(titles)]
    return tuple(
        entry
        for title, end in zip(titles, ends, strict=True)
        for entry in _entries(title.group(1).strip(), principle[title.end() : end])
    )


def _entries(title: str, section: str) -> Iterator[GoldEntry]:
    starts = list(_START.finditer(section))
    ends = [*(start.start() for start in starts[1:]), len(section)]
    for start, end in zip(starts, ends, strict=True):
        entry = section[start.end() : end].removeprefix("<")
        article, text = re.split("[:：]", entry, maxsplit=1)
        if text.strip():
            yield GoldEntry(title, article.strip(), text.strip())


def tie(questions: Sequence[Question], rules: Sequence[Rule]) -> tuple[Question, ...]:
    """The questions, with `rules` filled from `principle` where it is empty.

    `rules` are all versions, so that a text that has been replaced or repealed is found as well.
    A rule is meant where its title (or the title's first part, before its chapters) and article
    are the ones named, blanks apart. Where several rules or versions have that name, the one
    with the principle's very text is meant, else one of the question's `location`, else the
    nearest text. What no rule matches, in name and roughly in text, stays untied.
    """
    by_name = _by_name(rules)
    return tuple(question if question.rules else _tied(question, by_name) for question in questions)


_ByName = Mapping[tuple[str, str], Sequence[Rule]]


def _tied(question: Question, by_name: _ByName) -> Question:
    entries = gold_entries(question.principle)
    named = (_meant(entry, question.location, by_name) for entry in entries)
    found = dict.fromkeys(rule.key for rule in named if rule is not None)
    refs = tuple(RuleRef(id=rule_id, version=version) for rule_id, version in found)
    return question.model_copy(update={"rules": refs}) if refs else question


def _by_name(rules: Sequence[Rule]) -> _ByName:
    by_name: dict[tuple[str, str], list[Rule]] = defaultdict(list)
    for rule in rules:
        for title in {rule.title, rule.title.partition(" > ")[0]}:
            by_name[_name(title, rule.article)].append(rule)
    return by_name


def _meant(entry: GoldEntry, location: str, by_name: _ByName) -> Rule | None:
    text = _plain(entry.text)

    def fit(rule: Rule) -> tuple[bool, bool, float, bool, int]:
        own = _plain(rule.text)
        words = (rule.title, rule.place, *rule.audience)
        there = bool(location) and any(location in each for each in words)
        active = rule.status == "active"  # a repeal keeps the text
        return (own == text, there, _likeness(own, text), active, rule.version)

    known = by_name.get(_name(entry.title, entry.article), ())
    alike = [rule for rule in known if _likeness(_plain(rule.text), text) >= _ALIKE]
    return max(alike, key=fit, default=None)


def _likeness(one: str, other: str) -> float:
    """Of the beginnings, as long as both texts are: a file may have cut one of them."""
    length = min(len(one), len(other), _COMPARED)
    return SequenceMatcher(None, one[:length], other[:length], autojunk=False).ratio()


def _name(title: str, article: str) -> tuple[str, str]:
    return (_plain(title), _plain(article))


def _plain(text: str) -> str:
    return re.sub(r"[\s\u200b-\u200d\ufeff]", "", text)


def gold_texts(question: Question, memory: Memory | None, *, tenant: str = "") -> tuple[Rule, ...]:
    """The rules that answer a question: what the oracle mode puts into the prompt.

    Tied rules come from the memory, in the version tied; those tied with a reason do not apply
    in the question's case (see `cases`) and are left out. What the principle names besides them,
    or all of it without a memory, is read from the principle itself, as rules `principle-1`, … .
    Empty where no rule applies in the question's case, and where the question names none.
    `tenant` is whose memory is read; by default the one of the question's scope.
    Raises `NotFound` for a tied rule or version that the memory does not have.
    """
    tied = _from_memory(question, memory, tenant) if memory else ()
    known = {_name(title, r.article) for r in tied for title in (r.title, r.title.split(" > ")[0])}
    entries = enumerate(gold_entries(question.principle), start=1)
    read = [
        Rule(id=f"principle-{n}", title=entry.title, article=entry.article, text=entry.text)
        for n, entry in entries
        if _name(entry.title, entry.article) not in known
    ]
    return (*tied, *read)


def _from_memory(question: Question, memory: Memory, tenant: str) -> tuple[Rule, ...]:
    tenant = tenant or (question.scope.tenant if question.scope else DEFAULT_TENANT)
    return tuple(
        memory.get(ref.id, version=ref.version, tenant=tenant)
        for ref in question.rules
        if not ref.reason
    )
