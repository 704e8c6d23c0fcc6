"""Precedence questions: two rules bear on one case and conflict; which is followed, and why.

The pairs are declared conflicts (`overrides`) whose rules are in force together somewhere, and
successive versions of one rule. Who wins, and for which reason, is what `rule_on` says. The
question names both rules: the one that is followed, and with a `reason` the one that gives way.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from comity.alignment.precedence import precedence, rule_on
from comity.evaluation.circumstances import (
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
)
from comity.evaluation.exams import LETTERS, Question, Rejected
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.memory.store import StoredRule
from comity.records import DEFAULT_TENANT, Overruled, Rule, RuleRef, Scope

_RANKED = ("higher authority", "narrower place", "narrower audience", "later")
_DAYS = 300


class _Clash(NamedTuple):
    """Two rules that conflict, in the order in which the stem names them."""

    rules: tuple[StoredRule, StoredRule]
    scope: Scope
    lost: Overruled


def precedence_questions(
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
    """Questions on a tenant's rules that conflict, in an order that `seed` draws.

    At most `count` questions are made; None is every conflict there is. `domain`, `place` (a
    code or name), `audience` and `language` choose the conflicts by the rule that declares
    them. A conflict that never comes up, or whose outcome a third rule decides, gives a
    `Rejected` with the reason. Raises `UnknownPlace` for a place that nobody knows.
    """
    draw = random.Random(seed)
    letters = Letters(draw)
    chosen = asked_about(
        memory, tenant, domain=domain, place=place, audience=audience, language=language
    )
    draw.shuffle(chosen)
    made = 0
    for one, other in _pairs(memory, chosen, tenant):
        if count is not None and made >= count:
            return
        found = _clash(memory, one, other, draw)
        question = _asked(memory, found, letters) if isinstance(found, _Clash) else found
        if isinstance(question, str):
            yield _rejected(one.rule, other.rule, question)
            continue
        made += 1
        yield question


_Couple = tuple[StoredRule, StoredRule]


def _pairs(memory: Memory, chosen: Sequence[str], tenant: str) -> Iterator[_Couple]:
    """Each pair once, also where both of its rules declare the conflict."""
    seen: set[frozenset[tuple[str, int]]] = set()
    for rule_id in chosen:
        for one, other in _pairs_of(memory, rule_id, tenant):
            pair = frozenset((one.rule.key, other.rule.key))
            if pair not in seen:
                seen.add(pair)
                yield one, other


def _pairs_of(memory: Memory, rule_id: str, tenant: str) -> Iterator[_Couple]:
    versions = _active(memory, rule_id, tenant)
    for before, after in pairwise(versions):
        if plain(before.rule.text) != plain(after.rule.text):
            yield after, before
    for declaring in versions:
        for target in dict.fromkeys(declaring.rule.overrides):
            for other in _active(memory, target, tenant):
                if target != rule_id:
                    yield declaring, other


def _active(memory: Memory, rule_id: str, tenant: str) -> list[StoredRule]:
    history = memory.store.history(tenant, rule_id)
    return [stored for stored in history if stored.rule.status == "active"]


def _span(memory: Memory, rule: Rule) -> Period | None:
    history = memory.store.history(rule.tenant, rule.id)
    return period(rule, [stored.rule for stored in history])


def _clash(memory: Memory, one: StoredRule, other: StoredRule, draw: random.Random) -> _Clash | str:
    """The case in which both rules bear, or why there is none."""
    first, second = _span(memory, one.rule), _span(memory, other.rule)
    if first is None or second is None:
        return "one of them is never in force"
    common = _common(one.rule, other.rule)
    if common is None:
        return "there is no place in which both apply"
    # of two versions only the later one is in force then; the question is which one that is
    shared = first if one.rule.id == other.rule.id else _overlap(first, second)
    if shared is None:
        return "they are never in force at the same time"
    day = _day(shared, one, memory, draw)
    scope = common.model_copy(update={"at": noon(day)})
    if (lost := _outcome(memory, one, other, scope)) is None:
        return "neither gives way to the other, or a third rule decides"
    return _Clash((other, one) if draw.random() < 0.5 else (one, other), scope, lost)


def _common(one: Rule, other: Rule) -> Scope | None:
    """Where and for whom both rules apply: one whom both name, else somebody whom each names."""
    narrow, wide = (other, one) if contains(one.place, other.place) else (one, other)
    if not contains(wide.place, narrow.place):
        return None
    theirs = {label.casefold() for label in other.audience}
    both = tuple(label for label in one.audience if label.casefold() in theirs)[:1]
    audience = both or (*one.audience[:1], *other.audience[:1])
    return Scope(place=(narrow.place,), audience=audience, tenant=one.tenant)


def _overlap(one: Period, other: Period) -> Period | None:
    starts = [span.start for span in (one, other) if span.start]
    ends = [span.end for span in (one, other) if span.end]
    both = Period(max(starts, default=None), min(ends, default=None), False)
    first, last = both.first_day(), both.last_day()
    return None if first and last and last < first else both


def _day(span: Period, stored: StoredRule, memory: Memory, draw: random.Random) -> date:
    first, last = span.first_day(), span.last_day()
    if first is None:
        recorded = (stored.recorded_at or memory.clock()).date()
        return min(last or recorded, recorded)
    room = _DAYS if last is None else max(0, min(_DAYS, (last - first).days))
    return first + timedelta(days=draw.randint(0, room))


def _outcome(memory: Memory, one: StoredRule, other: StoredRule, scope: Scope) -> Overruled | None:
    """Which of the two gave way to the other, if that is what the ruling says."""
    pair = {one.rule.key, other.rule.key}
    ruling = decide(memory, (one, other), scope)
    kept = {rule.key for rule in ruling.kept}
    if one.rule.id == other.rule.id:
        alone = rule_on((one.rule, other.rule), memory.authorities)
        lost = alone.overruled[0]
        return lost if kept & pair == {lost.winner.key} else None
    among = [g for g in ruling.overruled if {g.rule.key, g.winner.key} == pair]
    return among[0] if among else None


def _asked(memory: Memory, clash: _Clash, letters: Letters) -> Question | str:
    rules = [stored.rule for stored in clash.rules]
    language = language_of(clash.lost.winner)
    wording = Wording(memory, language, clash.scope.tenant)
    told = [_told(rule, clash, wording) for rule in rules]
    if not all(told):
        return "they take too many words"
    ranks = [wording.words["authorities"].get(name, name) for name in memory.authorities]
    stem = wording.words["stem"]["precedence"].format(
        case=wording.case(clash.scope),
        first=told[0],
        second=told[1],
        ranks=wording.words["separator"].join(ranks),
    )
    options = _options(clash, wording.words, memory.authorities)
    order = letters.order(len(options), (0,))
    query = "\n".join((stem, *options))
    located = locate(memory, query, clash.scope)
    if located != clash.scope and _outcome(memory, *clash.rules, located) != clash.lost:
        return "the words of the question name a place or audience that changes it"
    return Question(
        id=_name(clash),
        stem=stem,
        options=tuple(options[n] for n in order),
        answer=LETTERS[order.index(0)],
        kind="precedence",
        analysis=_analysis(clash, wording.words),
        rules=_refs(clash.lost),
        scope=clash.scope,
        origin=RULING,
    )


def _told(rule: Rule, clash: _Clash, wording: Wording) -> str:
    """A rule in the stem: its words, and what decides its rank."""
    text = quoted(rule, [stored.rule for stored in clash.rules], wording.language)
    if text is None:
        return ""
    separator = wording.words["separator"]
    parts = [wording.heading(rule), wording.circumstances(rule, rank=True)]
    if clash.lost.reason == "newer version":
        parts.insert(1, wording.words["version"].format(number=rule.version))
    shown = wording.words["option"].format(text=text, heading=separator.join(parts))
    return str(shown)


def _options(clash: _Clash, words: Mapping[str, Any], authorities: Sequence[str]) -> list[str]:
    """The right option first; then the same reason for the loser, and another one for each.

    Every rule and every reason stands in two of the options, so that none of them stands out.
    """
    lost = clash.lost
    winner, loser = _numbers(clash)
    theirs = _advantages(lost.rule, lost.winner, authorities)
    mine = _advantages(lost.winner, lost.rule, authorities)
    # what speaks for the loser is the tempting mistake
    untrue = (reason for reason in (*theirs, *_RANKED) if reason not in (*mine, lost.reason))
    # where the winner is ahead in every step, what cannot hold of two rules, or of two versions
    never = "declared" if lost.reason == "newer version" else "newer version"
    other = next(untrue, never)
    return [
        _follow(words, winner, lost.reason),
        _follow(words, loser, lost.reason),
        _follow(words, winner, other),
        _follow(words, loser, other),
    ]


def _advantages(rule: Rule, over: Rule, authorities: Sequence[str]) -> list[str]:
    """In which steps of precedence a rule comes before another."""
    steps = zip(_RANKED, precedence(rule, authorities), precedence(over, authorities), strict=True)
    return [reason for reason, mine, theirs in steps if mine < theirs]


def _numbers(clash: _Clash) -> tuple[int, int]:
    """Numbers in the stem of the rule that is followed and of the one that gives way."""
    first = clash.rules[0].rule.key == clash.lost.winner.key
    return (1, 2) if first else (2, 1)


def _follow(words: Mapping[str, Any], number: int, reason: str) -> str:
    said: str = words["follow"]["one"].format(number=number, reason=words["reasons"][reason])
    return said


def _analysis(clash: _Clash, words: Mapping[str, Any]) -> str:
    winner, loser = _numbers(clash)
    reason = words["reasons"][clash.lost.reason]
    said: str = words["analysis"]["precedence"].format(winner=winner, loser=loser, reason=reason)
    return said


def _name(clash: _Clash) -> str:
    winner, loser = clash.lost.winner, clash.lost.rule
    return f"precedence/{winner.id}@{winner.version}/{loser.id}@{loser.version}"


def _refs(lost: Overruled) -> tuple[RuleRef, RuleRef]:
    winner, loser = lost.winner, lost.rule
    return (
        RuleRef(id=winner.id, version=winner.version),
        RuleRef(id=loser.id, version=loser.version, reason=lost.reason, winner=winner.id),
    )


def _rejected(one: Rule, other: Rule, reason: str) -> Rejected:
    named = (
        f"rule {one.id}, version {one.version}, and rule {other.id}, version {other.version}: "
        f"{reason}"
    )
    refs = tuple(RuleRef(id=rule.id, version=rule.version) for rule in (one, other))
    return Rejected(rules=refs, kind="precedence", stage="form", reasons=(named,))
