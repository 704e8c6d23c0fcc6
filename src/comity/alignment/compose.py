"""The prompt: a ruling, packed into a token budget, before the conversation.

Mandatory rules go in whatever they cost. Of the others the most similar go first, and one that
does not fit is skipped, so that shorter ones behind it still find room. What goes in is listed
in order of precedence, each rule labelled with its place and validity; what does not is named.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import Field

from comity.material import harmless
from comity.preferences.meta_prompt import Aside, Framed, aside, head, paragraphs
from comity.records import VERBATIM, WORLD, Hit, Message, Record, Rule, Ruling, Scope

_RANK_OFFSET = 3
_COST_POWER = 0.25
_POINTED_AT = 3

CountTokens = Callable[[str], int]
NamePlace = Callable[[str, str], str]


class Prompt(Record):
    """What the model is sent."""

    messages: tuple[Message, ...] = Field(description="The rules as a system message, the turns.")
    rules: tuple[Rule, ...] = Field((), description="The rules in it; rule [R1] is the first.")
    left_out: tuple[Rule, ...] = Field((), description="Kept rules that did not fit.")
    rule_tokens: int = Field(0, ge=0, description="Tokens that the rules take.")
    aside: Aside = Field(Aside(), description="What stands around the user's last words, of them.")

    model_config = VERBATIM


class Packed(Record):
    """Which kept rules fit."""

    rules: tuple[Rule, ...] = Field((), description="In order of precedence.")
    left_out: tuple[Rule, ...] = Field((), description="Most similar first.")
    tokens: int = Field(0, ge=0, description="What the rules cost together.")


def compose(
    ruling: Ruling,
    conversation: Sequence[Message],
    scope: Scope,
    *,
    hits: Sequence[Hit],
    budget: int,
    count_tokens: CountTokens,
    name_place: NamePlace,
    language: str,
    may_be_incomplete: bool = True,
    words: Mapping[str, Any] | None = None,
    by_document: bool = False,
    framed: Framed | None = None,
) -> Prompt:
    """Put the rules in force before a conversation, then what provider and user want.

    `budget` bounds the tokens of the rules with their labels; `count_tokens` is the model's own
    counter. `language` is `zh` or `en`, `name_place(code, language)` the name of a place.
    `may_be_incomplete` adds OPO's note that the rules may not be all, and that the model's own
    knowledge may help. `words` replaces some of the prompt's words (exams ask for a letter). The
    rules stand in order of precedence, or, `by_document`, as one would read them: the document
    of the most similar rule first, and the rules of a document in its own order. `framed` stands
    in place of the conversation's system turns, which it must hold.
    """
    words = {**wording(language), **(words or {})}
    label = _labeller(words, name_place, language)
    packed = pack(ruling, hits, budget, lambda rule: count_tokens(label(0, rule)))
    kind = "rules" if packed.rules else "none_fit" if ruling.kept else "no_rules"
    opening = words[kind].format(
        place=_one_line(harmless(_and(name_place(place, language) for place in scope.place))),
        date=_day(scope.at) if scope.at else "",
    )
    ranks = _relevance(ruling, hits)
    rules = _by_document(packed.rules, ranks) if by_document else packed.rules
    listed = [label(number, rule) for number, rule in enumerate(rules, start=1)]
    provider = [turn.content for turn in conversation if turn.role == "system"]
    # where none fits, the model's own knowledge must not stand in for rules that there are
    note = words["incomplete"] if may_be_incomplete and kind != "none_fit" else ""
    personal = framed is not None and framed.is_personal
    if framed and personal and not ruling.kept:
        parts = head(framed, language)
    else:
        form = words["wished_form" if personal else "form"]
        stable = (words["instructions"].format(form=form), note, words["example"])
        parts = [*(part.strip() for part in stable if part), opening, *listed]
    nearest = _nearest(rules, ranks) if words["nearest"] else []
    if nearest:
        parts.append(words["nearest"].format(marks=words["separator"].join(nearest)))
    if framed:
        parts += paragraphs(framed, language, ruled=bool(ruling.kept))
    elif provider:
        parts += [words["provider"], *map(harmless, provider)]
    added = aside(framed, language, ruled=bool(ruling.kept)) if framed else Aside()
    turns = with_aside([turn for turn in conversation if turn.role != "system"], added)
    return Prompt(
        messages=(Message(role="system", content="\n\n".join(parts)), *turns),
        aside=added,
        rules=rules,
        left_out=packed.left_out,
        rule_tokens=packed.tokens,
    )


def with_aside(turns: Sequence[Message], added: Aside) -> list[Message]:
    """The turns, with `added` around the last one of the user."""
    last = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=None)
    return [
        Message(role=turn.role, content=f"{added.before}{turn.content}{added.behind}")
        if at == last
        else turn
        for at, turn in enumerate(turns)
    ]


def _by_document(rules: Sequence[Rule], ranks: Mapping[tuple[str, int], int]) -> tuple[Rule, ...]:
    """Rules as they stand in their documents, the document of the most similar rule first."""
    last = len(ranks)
    best: dict[tuple[str, str], int] = {}
    for rule in rules:
        document = _document(rule)
        best[document] = min(best.get(document, last), ranks.get(rule.key, last))

    def place(rule: Rule) -> tuple[int, tuple[str, str], int]:
        document = _document(rule)
        return (best[document], document, rule.source.start if rule.source else 0)

    return tuple(sorted(rules, key=place))


def _document(rule: Rule) -> tuple[str, str]:
    """Title without its chapters, and place: texts of one name are made in many places."""
    return (rule.title.partition(" > ")[0], rule.place)


def _nearest(rules: Sequence[Rule], ranks: Mapping[tuple[str, int], int]) -> list[str]:
    """Marks of the rules that search put first; none where there are too few to choose from."""
    if len(rules) <= _POINTED_AT:
        return []
    numbers = {rule.key: number for number, rule in enumerate(rules, start=1)}
    found = sorted(numbers.keys() & ranks.keys(), key=ranks.__getitem__)
    return [f"[R{numbers[key]}]" for key in found[:_POINTED_AT]]


def pack(ruling: Ruling, hits: Sequence[Hit], budget: int, cost: Callable[[Rule], int]) -> Packed:
    """Choose the kept rules that fit into a budget of tokens.

    Mandatory rules come first. Of the others those come first whose likelihood to be needed,
    which falls with their rank as 1 / (3 + rank), from rank 0, is highest for the fourth root of
    what they cost: a long rule has to be somewhat likelier than a short one. (Constants measured:
    docs/design/retrieval.md.) What only earlier turns of a conversation brought comes last.
    """
    ranks = _relevance(ruling, hits)
    late = next((rank for rank, hit in enumerate(hits) if hit.by in ("earlier", "heard")), None)
    costs = {rule.key: cost(rule) for rule in ruling.kept}

    def worth(rule: Rule) -> float:
        rank = ranks.get(rule.key, len(hits))
        return 1 / (_RANK_OFFSET + rank) / math.pow(max(costs[rule.key], 1), _COST_POWER)

    def order(rule: Rule) -> tuple[bool, bool, float]:
        is_late = late is not None and ranks.get(rule.key, late) >= late
        return (not rule.mandatory, is_late, -worth(rule))

    chosen: set[tuple[str, int]] = set()
    left_out: list[Rule] = []
    used = 0
    for rule in sorted(ruling.kept, key=order):
        if rule.mandatory or used + costs[rule.key] <= budget:
            chosen.add(rule.key)
            used += costs[rule.key]
        else:
            left_out.append(rule)
    left_out.sort(key=lambda rule: ranks.get(rule.key, len(hits)))
    rules = tuple(rule for rule in ruling.kept if rule.key in chosen)
    return Packed(rules=rules, left_out=tuple(left_out), tokens=used)


def _relevance(ruling: Ruling, hits: Sequence[Hit]) -> dict[tuple[str, int], int]:
    """Rank of each rule; one that overruled a hit matters as much as the hit did."""
    ranks = {hit.rule.key: rank for rank, hit in enumerate(hits)}
    for lost in ruling.overruled:
        rank = min(ranks.get(lost.rule.key, len(hits)), ranks.get(lost.winner.key, len(hits)))
        ranks[lost.winner.key] = rank
    return ranks


@cache
def wording(language: str) -> Mapping[str, Any]:
    """The words of the prompt in a language; English where there are none in it."""
    folder = files("comity.alignment") / "prompts"
    file = folder / f"{language}.toml"
    text = (file if file.is_file() else folder / "en.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _labeller(
    words: Mapping[str, Any], name_place: NamePlace, language: str
) -> Callable[[int, Rule], str]:
    parts: dict[tuple[str, int], dict[str, str]] = {}  # a rule is counted, then listed

    def label(number: int, rule: Rule) -> str:
        if rule.key not in parts:
            parts[rule.key] = _parts(rule, words, name_place, language)
        line: str = words["rule"].format(number=number, **parts[rule.key])
        return line

    return label


def _parts(
    rule: Rule, words: Mapping[str, Any], name_place: NamePlace, language: str
) -> dict[str, str]:
    """What a rule's label says: heading, qualities and text."""
    qualities = [
        words["authorities"].get(rule.authority, rule.authority),
        name_place(rule.place, language) if rule.place != WORLD else "",
        _validity(rule, words),
        words["binds"].format(audience=_and(rule.audience)) if rule.audience else "",
        words["mandatory"] if rule.mandatory else "",
    ]
    return {
        "heading": _one_line(harmless(_heading(rule, words))),
        "qualities": _one_line(harmless(words["separator"].join(filter(None, qualities)))),
        "text": "\n  ".join(harmless(rule.text).split("\n")),  # no line can pass for a label
    }


def _heading(rule: Rule, words: Mapping[str, Any]) -> str:
    if rule.title and rule.article:
        return str(words["heading"].format(title=rule.title, article=rule.article))
    return rule.heading


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _validity(rule: Rule, words: Mapping[str, Any]) -> str:
    since = _day(rule.valid_from) if rule.valid_from else ""
    until = _day(rule.valid_to) if rule.valid_to else ""
    if since and until:
        return str(words["between"].format(since=since, until=until))
    if since:
        return str(words["since"].format(date=since))
    return str(words["until"].format(date=until)) if until else ""


def _day(time: datetime) -> str:
    whole = (time.hour, time.minute, time.second) == (0, 0, 0)
    return f"{time:%Y-%m-%d}" if whole else f"{time:%Y-%m-%d %H:%M} UTC"


def _and(names: Iterable[str]) -> str:
    return ", ".join(names)
