"""What an answer cites that is no kept rule in its current version: by mark, name or words.

Code decides, from the answer, the rules kept, and the few versions of the memory that have a
title which the answer names: never from all rules. What is found is a finding without a
consequence of its own: it says that the answer rests on something that nobody put in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from comity.alignment.cite import repeated, unknown_marks
from comity.alignment.named import Named, article_of, is_titled, named_in, titles_of
from comity.memory.memory import Memory
from comity.records import Finding, Rule

_MOST = 20  # names that are looked up for one answer
_SHOWN = 80

NO_RULE = "no rule"
"""Stands for the rule in a finding about a name that is none's; the answer's words may be erased,
and are the finding's quotation."""


class Book(Protocol):
    """The versions of rules that are not kept, as far as an answer can mean them."""

    def before(self, rule: Rule) -> Sequence[Rule]:
        """The versions of a rule that came before this one, newest first."""
        ...

    def titled(self, named: Named) -> Sequence[Rule]:
        """The versions of what a text names, newest first; empty where there is none."""
        ...


class MemoryBook:
    """A `Book` of one tenant's rules in a memory."""

    def __init__(self, memory: Memory, tenant: str) -> None:
        self._memory, self._tenant = memory, tenant

    def before(self, rule: Rule) -> Sequence[Rule]:
        """As in `Book`."""
        if rule.version == 1:
            return ()
        versions = self._memory.store.history(self._tenant, rule.id)
        earlier = [stored.rule for stored in versions if stored.rule.version < rule.version]
        return [one for one in reversed(earlier) if one.status == "active"]

    def titled(self, named: Named) -> Sequence[Rule]:
        """As in `Book`."""
        store = self._memory.store
        found = store.titled(self._tenant, titles_of([named]))
        rows = [
            each.row
            for each in reversed(found)
            if named.article is None or article_of(each.article) == named.article
        ]
        return [stored.rule for stored in store.fetch(rows[:_MOST])]


class Given(NamedTuple):
    """What an answer may cite."""

    kept: Sequence[Rule]
    """All rules kept."""
    prompt: Sequence[Rule]
    """Those that stood in the prompt: [R1] is the first."""


def miscited(
    question: str, answer: str, given: Given, book: Book | None = None
) -> tuple[Finding, ...]:
    """A finding for each citation of what is no kept rule; without a book by marks alone.

    A name counts that no kept rule has and that stands in none of their texts. An article
    without a title, and a document that the memory does not know, count only where the
    question did not bring them up.
    """
    found = [*_by_mark(answer, given.prompt)]
    if book:
        found += [*_by_name(question, answer, given, book), *_by_words(answer, given, book)]
    return tuple(dict.fromkeys(found))


def _by_mark(answer: str, rules: Sequence[Rule]) -> Iterator[Finding]:
    for mark in unknown_marks(answer, len(rules)):
        yield _finding(mark, 0, f"the answer cites {mark}, and was given {len(rules)} rules")


def _by_name(question: str, answer: str, given: Given, book: Book) -> Iterator[Finding]:
    names = [each for each in named_in(answer) if not _is_kept(each, given.kept)]
    if not names:
        return
    referred = [(rule, other) for rule in given.kept for other in named_in(rule.text)]
    asked = named_in(question)
    for named in names[:_MOST]:
        if any(_refers(rule, other, named) for rule, other in referred):
            continue  # a kept rule's own words do
        known = book.titled(named) if named.title else ()
        if known:
            yield _known(named, known[0], given.kept)
        elif named.article and not any(_is_same(named, other) for other in asked):
            reason = f"the answer names {named.words!r}, which none of its rules is"
            yield _finding(NO_RULE, 0, reason, named.words)


def _is_kept(named: Named, kept: Iterable[Rule]) -> bool:
    return any(
        (not named.title or is_titled(rule, named.title))
        and (named.article is None or article_of(rule.article) == named.article)
        for rule in kept
    )


def _refers(rule: Rule, other: Named, named: Named) -> bool:
    """Whether what a rule's text names is what the answer names; `本法第五条` is the rule's own."""
    if not other.title and named.title:
        return other.article == named.article and is_titled(rule, named.title)
    return _is_same(other, named)


def _is_same(one: Named, other: Named) -> bool:
    return one.article == other.article and other.title in ("", one.title)


def _known(named: Named, rule: Rule, kept: Iterable[Rule]) -> Finding:
    """The finding about a name that the memory knows, as that of another rule or version."""
    if named.article is None and rule.article:
        reason = f"the answer names {named.words!r}, of which no rule is in force here"
        return _finding(NO_RULE, 0, reason, named.words)
    current = next((each for each in kept if each.id == rule.id), None)
    if current and current.version != rule.version:
        why = f"version {current.version} is in force"
    else:
        why = "it is not in force here"
    reason = f"the answer names {named.words!r}, version {rule.version} of rule {rule.id!r}: {why}"
    return _finding(rule.id, rule.version, reason, named.words)


def _by_words(answer: str, given: Given, book: Book) -> Iterator[Finding]:
    amended = [rule for rule in given.kept if rule.version > 1]
    earlier = [(one, rule) for rule in amended for one in book.before(rule)]
    if not earlier:
        return
    current = {span for _, span in repeated(answer, given.kept)}
    for place, span in repeated(answer, [one for one, _ in earlier]):
        if span not in current:
            old, new = earlier[place]
            why = f"the answer says what version {old.version} of the rule did"
            reason = f"{why}: version {new.version} is in force"
            yield _finding(old.id, old.version, reason, _short(answer[slice(*span)]))


def _finding(rule: str, version: int, reason: str, quotation: str = "") -> Finding:
    return Finding(
        rule=rule,
        version=version,
        outcome="violated",
        by="code",
        reason=reason,
        quotation=quotation,
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
