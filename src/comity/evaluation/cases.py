"""Boundary questions: the same case on either side of a rule's validity, place or audience.

The right answer follows from the scope and the ruling, so no model is asked. Two questions share
a `pair`, the options and their order, and differ in one circumstance and in the right letter. A
question names the rules of its options: first the one that it is about; those with a `reason`
are not in force in its case. Questions on two rules in conflict are made in `conflicts`.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from comity.evaluation.circumstances import (
    PRIVATE,
    RULING,
    Letters,
    Period,
    Wording,
    asked_about,
    decide,
    language_of,
    noon,
    period,
    plain,
    quoted,
    why_not,
)
from comity.evaluation.exams import LETTERS, Question, Rejected
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.memory.places import contains, parent
from comity.memory.store import StoredRule
from comity.records import DEFAULT_TENANT, WORLD, Rule, RuleRef, Ruling, Scope

Axis = Literal["from", "to", "place", "audience"]

_POOL = 2000  # rules that distractors are drawn from; more would take long and add little
_NEAR = 10
_OUTSIDE = 4  # other places that are tried
_DAYS = 300


class _Boundary(NamedTuple):
    """A case in which a version is in force, and cases beyond its boundary."""

    axis: Axis
    stored: StoredRule
    inside: Scope
    outside: tuple[Scope, ...]


class _Side(NamedTuple):
    """What is in force in one of the two cases."""

    scope: Scope
    ruling: Ruling
    said: frozenset[str]
    """The words of the rules kept."""


def boundary_questions(
    memory: Memory,
    *,
    seed: int,
    count: int | None = None,
    domain: str = "",
    place: str = "",
    audience: Sequence[str] = (),
    language: str = "",
    tenant: str = DEFAULT_TENANT,
) -> Iterator[Question | Rejected]:
    """Pairs of questions on the boundaries of a tenant's rules, in an order that `seed` draws.

    At most `count` questions are made, in whole pairs; None is every boundary there is. `domain`,
    `place` (a code or name; rules in it and inside it), `audience` and `language` choose the
    rules asked about. A boundary that cannot be asked without ambiguity gives a `Rejected` with
    the reason. The same memory and seed give the same questions. Raises `UnknownPlace` for a
    place nobody knows.
    """
    maker = _Maker(memory, seed, tenant)
    ids = asked_about(
        memory, tenant, domain=domain, place=place, audience=audience, language=language
    )
    maker.draw.shuffle(ids)
    made = 0
    waiting = deque(maker.of_rule(rule_id) for rule_id in ids)
    while waiting and (count is None or made + 2 <= count):
        turn = waiting.popleft()
        if (found := next(turn, None)) is None:
            continue
        waiting.append(turn)  # one boundary of each rule, then the next
        if isinstance(found, Rejected):
            yield found
        else:
            made += len(found)
            yield from found


class _Maker:
    """Makes the pairs of one memory."""

    def __init__(self, memory: Memory, seed: int, tenant: str) -> None:
        self.memory = memory
        self.tenant = tenant
        self.draw = random.Random(seed)
        self._letters = Letters(self.draw)
        self._wordings = {lang: Wording(memory, lang, tenant) for lang in ("en", "zh")}
        newest = [s.rule for s in memory.rules(tenant=tenant) if s.rule.status == "active"]
        self._twins: dict[str, list[str]] = defaultdict(list)
        for rule in newest:
            self._twins[plain(rule.text)].append(rule.id)
        if len(newest) > _POOL:
            newest = sorted(random.Random(seed).sample(newest, _POOL), key=lambda rule: rule.id)
        self._pool = newest
        self._vectors = memory.vectors.get(memory.embedder, [r.indexed_text for r in newest])
        own = [known.code for known in memory.gazetteer(tenant).own]
        self._places = sorted({*own, *(rule.place for rule in newest)})
        self._audiences = sorted({label for rule in newest for label in rule.audience})

    def of_rule(self, rule_id: str) -> Iterator[tuple[Question, Question] | Rejected]:
        """The pairs on all boundaries of a rule, in a drawn order."""
        history = self._versions(rule_id)
        boundaries = [
            boundary
            for stored in history
            if stored.rule.status == "active"
            and (span := period(stored.rule, [s.rule for s in history])) is not None
            for boundary in self._boundaries(stored, span, history)
        ]
        self.draw.shuffle(boundaries)
        if not boundaries and history:
            yield _rejected(history[-1].rule, "it has no boundary: no date, place or audience ends")
        for boundary in boundaries:
            yield self._pair(boundary, history)

    def _versions(self, rule_id: str) -> list[StoredRule]:
        history = self.memory.store.history(self.tenant, rule_id)
        return [stored for stored in history if stored.rule.status != "draft"]

    def _boundaries(
        self, stored: StoredRule, span: Period, history: Sequence[StoredRule]
    ) -> Iterator[_Boundary]:
        rule = stored.rule
        here = Scope(place=(rule.place,), audience=rule.audience[:1], tenant=self.tenant)
        first, last = span.first_day(), span.last_day()
        if first and last and last < first:
            return
        if first and span.start:
            before = noon(span.start.date() - timedelta(days=1))
            yield _Boundary("from", stored, _at(here, noon(first)), (_at(here, before),))
        if last and (after := span.day_after()) and not span.succeeded:
            yield _Boundary("to", stored, _at(here, noon(last)), (_at(here, noon(after)),))
        some_day = self._day_in(span, stored)
        here = here.model_copy(update={"at": some_day})
        if others := tuple(self._places_outside(rule)):
            scopes = tuple(here.model_copy(update={"place": (code,)}) for code in others)
            yield _Boundary("place", stored, here, scopes)
        if rule.audience:
            against = here.model_copy(update={"audience": (self._another(rule),)})
            yield _Boundary("audience", stored, here, (against,))

    def _day_in(self, span: Period, stored: StoredRule) -> datetime:
        first, last = span.first_day(), span.last_day()
        if first is None:
            recorded = (stored.recorded_at or self.memory.clock()).date()
            return noon(min(last or recorded, recorded))
        room = _DAYS if last is None else min(_DAYS, (last - first).days)
        return noon(first + timedelta(days=self.draw.randint(0, room)))

    def _places_outside(self, rule: Rule) -> Iterator[str]:
        """Places where the rule does not apply: of the nearest rules, beside it, and around it."""
        apart = [
            code
            for code in self._places
            if not contains(code, rule.place) and not contains(rule.place, code)
        ]
        near = [other.place for other in self._nearest(rule) if other.place in apart]
        beside = [code for code in apart if parent(code) == parent(rule.place)]
        self.draw.shuffle(beside)
        wider = parent(rule.place)
        around = [wider] if wider not in (None, WORLD) else []
        tried = list(dict.fromkeys([*near[:2], *beside]))[: _OUTSIDE - 1]
        yield from (code for code in [*tried, *around] if code)

    def _another(self, rule: Rule) -> str:
        """Somebody whom the rule does not bind, named in a like script where there is one."""
        bound = {label.casefold() for label in rule.audience}
        other = [
            label
            for label in self._audiences
            if label.casefold() not in bound and label.isascii() == rule.audience[0].isascii()
        ]
        return self.draw.choice(other) if other else PRIVATE[language_of(rule)]

    def _nearest(self, rule: Rule) -> list[Rule]:
        """The pool's other rules in its language, those in declared conflict first."""
        language = language_of(rule)
        vector = self.memory.vectors.get(self.memory.embedder, [rule.indexed_text])[0]
        order = np.argsort(-(self._vectors @ vector), kind="stable")
        near = [self._pool[n] for n in order if self._pool[n].id != rule.id]
        alike = [other for other in near if language_of(other) == language]
        return sorted(alike, key=lambda other: not _opposed(rule, other))

    def _pair(
        self, boundary: _Boundary, history: Sequence[StoredRule]
    ) -> tuple[Question, Question] | Rejected:
        reasons: dict[str, None] = {}
        for outside in boundary.outside:
            made = self._pair_of(boundary, outside, history)
            if not isinstance(made, str):
                return made
            reasons[made] = None
        rule = boundary.stored.rule
        return _rejected(rule, *(f"{boundary.axis}: {reason}" for reason in reasons))

    def _pair_of(
        self, boundary: _Boundary, outside: Scope, history: Sequence[StoredRule]
    ) -> tuple[Question, Question] | str:
        """Both questions, or why there are none."""
        rule = boundary.stored.rule
        candidates = self._candidates(rule, (boundary.inside, outside), history)
        sides = [self._side(scope, candidates) for scope in (boundary.inside, outside)]
        if problem := _undecided(rule, *sides):
            return problem
        rules = _chosen(rule, [stored.rule for stored in candidates], *sides)
        language = language_of(rule)
        rivals = [stored.rule for stored in candidates]
        texts = [quoted(option, rivals, language) for option in rules]
        if texts[0] is None:
            return "it takes too many words to tell it from the others"
        options = [(option, text) for option, text in zip(rules, texts, strict=True) if text]
        if len(options) < 2:
            return "there is no other rule to tell it from"
        pair = _Pair(self, boundary, tuple(options), self._wordings[language], candidates)
        return pair.questions(sides)

    def _candidates(
        self, rule: Rule, scopes: Sequence[Scope], history: Sequence[StoredRule]
    ) -> list[StoredRule]:
        """Versions of the rule, of its nearest rules that do not plainly apply, of its twins."""
        near = (
            other.id
            for other in self._nearest(rule)
            if (_opposed(rule, other) or not all(_plainly_applies(other, s) for s in scopes))
            and self._names_nothing(other, scopes)
        )
        found = [
            *reversed(history),
            *(s for one in islice(near, _NEAR) for s in reversed(self._versions(one))),
        ]
        twins = {twin for stored in found for twin in self._twins[plain(stored.rule.text)]}
        known = {stored.rule.id for stored in found}
        return found + [s for twin in sorted(twins - known) for s in self._versions(twin)]

    def _names_nothing(self, rule: Rule, scopes: Sequence[Scope]) -> bool:
        """Whether the rule's words as an option leave the scopes of the question as they are."""
        said = f"{rule.text} ({rule.title} {rule.article})"
        return all(locate(self.memory, said, scope) == scope for scope in scopes)

    def _side(self, scope: Scope, candidates: Sequence[StoredRule]) -> _Side:
        ruling = decide(self.memory, candidates, scope)
        return _Side(scope, ruling, frozenset(plain(rule.text) for rule in ruling.kept))

    def located(self, words: str, side: _Side, candidates: Sequence[StoredRule]) -> frozenset[str]:
        """What is in force once the question's own words have completed the scope."""
        scope = locate(self.memory, words, side.scope)
        return side.said if scope == side.scope else self._side(scope, candidates).said

    def order(self, options: int, right: Sequence[int]) -> list[int]:
        """An order of options that keeps the letters balanced."""
        return self._letters.order(options, right)


class _Pair(NamedTuple):
    """What both questions of a pair share."""

    maker: _Maker
    boundary: _Boundary
    options: tuple[tuple[Rule, str], ...]
    wording: Wording
    candidates: list[StoredRule]

    def questions(self, sides: Sequence[_Side]) -> tuple[Question, Question] | str:
        """The question inside and the one outside, or why they cannot be asked."""
        shown = [self._shown(rule, text) for rule, text in self.options]
        shown.append(str(self.wording.words["none"]))
        if len({plain(option) for option in shown}) < len(shown):
            return "two options would read the same"
        right = [self._right(side.said) for side in sides]
        words = [self._stem(side.scope) for side in sides]
        for stem, side, answer in zip(words, sides, right, strict=True):
            for query in (stem, "\n".join((stem, *shown))):
                if self._right(self.maker.located(query, side, self.candidates)) != answer:
                    return "the words of the question name a place or audience that changes it"
        order = self.maker.order(len(shown), right)
        inside, outside = (
            self._question(stem, [shown[n] for n in order], order.index(answer), side, name)
            for stem, answer, side, name in zip(words, right, sides, ("in", "out"), strict=True)
        )
        return inside, outside

    def _right(self, said: frozenset[str]) -> int:
        """Number of the option that is in force; the last one is `none`."""
        kept = [n for n, (rule, _) in enumerate(self.options) if plain(rule.text) in said]
        return kept[0] if kept else len(self.options)

    def _shown(self, rule: Rule, text: str) -> str:
        heading = self.wording.heading(rule)
        return str(self.wording.words["option"].format(text=text, heading=heading))

    def _stem(self, scope: Scope) -> str:
        said = self.wording.words["stem"]
        rules = [rule for rule, _ in self.options]
        parts = [self.wording.case(scope)]
        # without these, a rule of a part of the place or of some of its people might apply
        if any(rule.place not in scope.place and _inside(rule, scope) for rule in rules):
            parts.append(said["no_narrower"])
        if not scope.audience and any(rule.audience for rule in rules):
            parts.append(said["public"])
        case = ("" if self.wording.language == "zh" else " ").join(parts)
        return str(said["boundary"].format(case=case))

    def _question(
        self, stem: str, options: Sequence[str], right: int, side: _Side, name: str
    ) -> Question:
        rule = self.boundary.stored.rule
        pair = f"boundary/{rule.id}@{rule.version}/{self.boundary.axis}"
        return Question(
            id=f"{pair}/{name}",
            stem=stem,
            options=tuple(options),
            answer=LETTERS[right],
            kind="boundary",
            analysis=self._analysis(side),
            rules=tuple(self._ref(rule, side) for rule, _ in self.options),
            scope=side.scope,
            pair=pair,
            origin=RULING,
        )

    def _ref(self, rule: Rule, side: _Side) -> RuleRef:
        reason = self._why_not(rule, side)
        winner = ""
        if reason == "overruled":
            lost = (gone for gone in side.ruling.overruled if gone.rule.key == rule.key)
            winner = next((gone.winner.id for gone in lost), "")
        return RuleRef(id=rule.id, version=rule.version, reason=reason, winner=winner)

    def _why_not(self, rule: Rule, side: _Side) -> str:
        """Empty where the rule is in force."""
        if any(kept.key == rule.key for kept in side.ruling.kept):
            return ""
        return why_not(rule, self._span(rule), side.scope)

    def _span(self, rule: Rule) -> Period | None:
        versions = [stored.rule for stored in self.candidates if stored.rule.id == rule.id]
        return period(rule, versions)

    def _analysis(self, side: _Side) -> str:
        said = self.wording.words["analysis"]
        in_force: list[str] = []
        others: list[str] = []
        for rule, _ in self.options:
            reason = self._why_not(rule, side)
            told = said["not_right"] if reason else said["right"]
            line = told.format(
                heading=self._named(rule),
                circumstances=self.wording.circumstances(rule, self._span(rule)),
                why=self.wording.words["why_not"].get(reason, ""),
            )
            (others if reason else in_force).append(line)
        return ("" if self.wording.language == "zh" else " ").join(
            [*(in_force or [said["none"]]), *others]
        )

    def _named(self, rule: Rule) -> str:
        number = self.wording.words["version"].format(number=rule.version)
        return self.wording.heading(rule) + str(self.wording.words["aside"].format(text=number))


def _at(scope: Scope, moment: datetime) -> Scope:
    return scope.model_copy(update={"at": moment})


def _inside(rule: Rule, scope: Scope) -> bool:
    return any(contains(place, rule.place) for place in scope.place)


def _opposed(one: Rule, other: Rule) -> bool:
    return one.id in other.overrides or other.id in one.overrides


def _plainly_applies(rule: Rule, scope: Scope) -> bool:
    return why_not(rule, Period(rule.valid_from, rule.valid_to, False), scope) == "overruled"


def _undecided(rule: Rule, inside: _Side, outside: _Side) -> str:
    """Why a pair would be ambiguous; empty if it is not."""
    if lost := next((g for g in inside.ruling.overruled if g.rule.key == rule.key), None):
        return f"rule {lost.winner.id} overrules it ({lost.reason})"
    if all(kept.key != rule.key for kept in inside.ruling.kept):
        return "it is not in force in the case"
    same = [kept for kept in outside.ruling.kept if plain(kept.text) == plain(rule.text)]
    if same:
        return f"rule {same[0].id}, version {same[0].version}, says the same beyond the boundary"
    return ""


def _chosen(rule: Rule, candidates: Sequence[Rule], inside: _Side, outside: _Side) -> list[Rule]:
    """The rule and up to two others, of which none is in force inside, and one at most outside.

    Its own versions come first, then the nearest rule that is in force beyond the boundary; of
    another rule one version is taken.
    """
    kept = {other.key for other in outside.ruling.kept}
    active = [other for other in candidates if other.status == "active" and other.key != rule.key]
    ranks = {rule_id: rank for rank, rule_id in enumerate(dict.fromkeys(o.id for o in active))}
    active.sort(key=lambda o: (o.id != rule.id, o.key not in kept, ranks[o.id]))
    chosen, used, taken = [rule], {plain(rule.text)}, False
    for other in active:
        said = plain(other.text)
        another = other.id != rule.id and any(other.id == one.id for one in chosen)
        if said in used or said in inside.said or another or len(chosen) == 3:
            continue
        if said in outside.said:
            if taken or other.key not in kept:
                continue
            taken = True
        chosen.append(other)
        used.add(said)
    return chosen


def _rejected(rule: Rule, *reasons: str) -> Rejected:
    ref = RuleRef(id=rule.id, version=rule.version)
    named = tuple(f"rule {rule.id}, version {rule.version}: {reason}" for reason in reasons)
    return Rejected(rules=(ref,), kind="boundary", stage="form", reasons=named)
