"""Which rules questions are made from, and which rules have none yet.

A rule is passed over, with the reason, where a question about it would be worth nothing: it says
hardly anything (a heading, a short definition), or it gives way to another rule wherever it
applies, so that what it says is not what holds.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Literal

from pydantic import Field

from comity.alignment.precedence import rule_on
from comity.errors import ExamError
from comity.evaluation.exams import Question
from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.memory.versions import in_force
from comity.models.chat import estimate_tokens
from comity.records import DEFAULT_TENANT, WORLD, Labels, Record, Rule, RuleRef, Scope
from comity.wording import version_of

NEIGHBOUR = "neighbour"
"""Reason of a rule that was only shown beside the one that a question is about."""

_FEWEST_WORDS = 8
_CHINESE_PER_WORD = 2  # characters
_CHINESE = re.compile("[\u3400-\u9fff]")
_WORD = re.compile(r"\w+")


class Wanted(Record):
    """Which questions are to be written."""

    count: int = Field(ge=1, description="Drafts that are tried; not all of them pass.")
    domain: str = Field("", description="Only rules of this domain; empty is any.")
    place: str = Field(WORLD, description="Only rules of this place and of places inside it.")
    audience: Labels = Field((), description="Only rules that bind one of these; empty is any.")
    kinds: tuple[Literal["scenario", "concept"], ...] = Field(
        ("scenario", "concept"), min_length=1, description="What kinds of question."
    )
    seed: int = Field(0, description="Draws rules, kinds, examples and the right letter.")
    language: str = Field("", description="`en` or `zh`; empty is that of the rules.")
    temperature: float = Field(0.7, ge=0.0, description="Of the model that writes.")
    examples: int = Field(3, ge=0, description="Seed questions shown before each draft, at most.")
    max_rules: int = Field(4, ge=1, description="Rules that one question is made from, at most.")
    max_tokens: int = Field(2000, ge=1, description="Tokens that these may have, estimated.")
    tenant: str = Field(DEFAULT_TENANT, min_length=1, description="Whose rules.")


class DocumentCoverage(Record):
    """The rules of one document, with and without a question."""

    document: str = Field(description="Title of the document.")
    place: str = Field(description="Place of its rules.")
    covered: tuple[str, ...] = Field((), description="Ids of rules with a question.")
    uncovered: tuple[str, ...] = Field((), description="Ids of rules without one.")


class Coverage(Record):
    """Which rules in force have a question that is asked, in the version that is in force."""

    covered: tuple[str, ...] = Field((), description="Ids of rules with a question.")
    uncovered: tuple[str, ...] = Field((), description="Ids of rules that could have one.")
    passed_over: dict[str, str] = Field({}, description="Rules that cannot, each with the reason.")
    documents: tuple[DocumentCoverage, ...] = Field((), description="The same by document.")

    @property
    def share(self) -> float | None:
        """Covered rules of those that could be; None where there are none."""
        rules = len(self.covered) + len(self.uncovered)
        return len(self.covered) / rules if rules else None


def rules_in_force(memory: Memory, tenant: str = DEFAULT_TENANT) -> list[Rule]:
    """The version of each rule that holds now, by the memory's clock, in order of id.

    Raises `NotFound` for a tenant without rules.
    """
    memory.check_scope(Scope(tenant=tenant))
    now, held = memory.clock(), []
    for stored in memory.rules(tenant=tenant):
        versions = [stored.rule]
        if stored.rule.version > 1:
            versions = [each.rule for each in memory.history(stored.rule.id, tenant=tenant)]
        if (rule := in_force(versions, now)) is not None:
            held.append(rule)
    return held


def rules_version(memory: Memory, tenant: str = DEFAULT_TENANT) -> str:
    """A hash of the rules in force, that changes with any of them and its text."""
    held = rules_in_force(memory, tenant)
    return version_of([[*rule.key, rule.content_hash] for rule in held])


def passed_over(rules: Sequence[Rule], authorities: Sequence[str]) -> dict[str, str]:
    """Which of the rules in force no question is made of: id and reason.

    Text counts in words, two Chinese characters as one; under eight of them it says too little.
    """
    reasons = {rule.id: reason for rule in rules if (reason := _too_little(rule))}
    by_id = {rule.id: rule for rule in rules}
    declared: dict[str, set[str]] = defaultdict(set)
    for rule in rules:
        for other in rule.overrides:
            declared[rule.id].add(other)
            declared[other].add(rule.id)
    for rule in rules:
        rivals = [by_id[other] for other in declared.get(rule.id, ()) if other in by_id]
        around = [rival for rival in rivals if _holds_with(rival, rule)]
        lost = [o for o in rule_on([rule, *around], authorities).overruled if o.rule is rule]
        if lost:
            reasons.setdefault(
                rule.id, f"gives way to {lost[0].winner.id!r} wherever it applies: {lost[0].reason}"
            )
    return reasons


def gather(memory: Memory, wanted: Wanted) -> Iterator[tuple[Rule, ...]]:
    """`wanted.count` groups of rules in force: one drawn, then its nearest of the same document.

    The same memory and seed give the same groups, and a larger count the same ones first. Rules
    are drawn from every document in turn; when all have been drawn, they are drawn anew. A
    neighbour must hold wherever the drawn rule does, and fit under `max_rules` and `max_tokens`.
    Passed over are rules that say too little or give way wherever they apply, and those over
    `max_tokens`. Raises `ExamError` where no rule is left, `UnknownPlace` and `NotFound` for a
    place or tenant that the memory does not know.
    """
    held = rules_in_force(memory, wanted.tenant)
    reasons = passed_over(held, memory.authorities)
    matching = _matching(memory, held, wanted)
    usable = [
        rule
        for rule in matching
        if rule.id not in reasons and estimate_tokens(rule.text) <= wanted.max_tokens
    ]
    if not usable:
        raise ExamError(
            f"no question can be made: {len(held)} rules are in force, {len(matching)} of them "
            "match domain, place and audience, and all of these say too little, are too long or "
            "give way to others; ask for other rules"
        )
    documents = _by_document(rule for rule in held if _not_overruled(rule, reasons))
    return (
        _with_neighbours(memory, rule, documents[_document(rule)], wanted)
        for rule in islice(_drawn(usable, wanted.seed), wanted.count)
    )


def coverage(
    memory: Memory, questions: Iterable[Question], wanted: Wanted | None = None
) -> Coverage:
    """Which rules in force the questions are about, and which have none.

    Of `wanted`, tenant, domain, place and audience say which rules count; without it, all of the
    default tenant. A retired question covers nothing, nor does one made from another version of
    its rule. A question that a model wrote covers its first rule alone, and so does a boundary
    question: the others were only shown beside it, or stand among the options.
    """
    wanted = wanted or Wanted(count=1)
    held = rules_in_force(memory, wanted.tenant)
    reasons = passed_over(held, memory.authorities)
    held = _matching(memory, held, wanted)
    asked = {
        (ref.id, ref.version)
        for question in questions
        if question.status != "retired"
        for ref in _about(question)
    }
    documents = tuple(
        DocumentCoverage(
            document=title,
            place=place,
            covered=tuple(rule.id for rule in rules if rule.key in asked),
            uncovered=tuple(r.id for r in rules if r.key not in asked and r.id not in reasons),
        )
        for (title, place), rules in sorted(_by_document(held).items())
    )
    return Coverage(
        covered=tuple(rule.id for rule in held if rule.key in asked),
        uncovered=tuple(r.id for r in held if r.key not in asked and r.id not in reasons),
        passed_over={r.id: reasons[r.id] for r in held if r.id in reasons and r.key not in asked},
        documents=documents,
    )


def _about(question: Question) -> tuple[RuleRef, ...]:
    return question.rules if question.kind in ("given", "precedence") else question.rules[:1]


def _too_little(rule: Rule) -> str:
    chinese = len(_CHINESE.findall(rule.text))
    words = len(_WORD.findall(_CHINESE.sub(" ", rule.text))) + chinese / _CHINESE_PER_WORD
    if words >= _FEWEST_WORDS:
        return ""
    return f"says too little: {words:.0f} words, {_FEWEST_WORDS} are needed"


def _not_overruled(rule: Rule, reasons: Mapping[str, str]) -> bool:
    """Short rules may stand beside another: a definition helps to write about what it defines."""
    return rule.id not in reasons or bool(_too_little(rule))


def _holds_with(rule: Rule, other: Rule) -> bool:
    """Whether a rule applies wherever, and to whom, the other one does."""
    labels = {label.casefold() for label in rule.audience}
    bound = {label.casefold() for label in other.audience}
    return contains(rule.place, other.place) and (not labels or (bool(bound) and bound <= labels))


def _matching(memory: Memory, rules: Iterable[Rule], wanted: Wanted) -> list[Rule]:
    place = memory.gazetteer(wanted.tenant).canonical(wanted.place)
    return [rule for rule in rules if _matches(rule, wanted, place)]


def _matches(rule: Rule, wanted: Wanted, place: str) -> bool:
    bound = {label.casefold() for label in rule.audience}
    return (
        contains(place, rule.place)
        and (not wanted.domain or rule.domain.casefold() == wanted.domain.casefold())
        and (not wanted.audience or any(label.casefold() in bound for label in wanted.audience))
    )


_Document = tuple[str, str]


def _document(rule: Rule) -> _Document:
    """Title and place: provinces have laws of the same title. An amended rule has lost its file,
    so the file's name comes only after the title."""
    title = rule.title.partition(" > ")[0]
    return (title or (rule.source.document if rule.source else rule.id.partition("/")[0])), (
        rule.place
    )


def _by_document(rules: Iterable[Rule]) -> dict[_Document, list[Rule]]:
    documents: dict[_Document, list[Rule]] = defaultdict(list)
    for rule in rules:
        documents[_document(rule)].append(rule)
    return documents


def _drawn(rules: Sequence[Rule], seed: int) -> Iterator[Rule]:
    """The rules without end, one of each document in turn."""
    chance = random.Random(f"rules {seed}")
    while True:
        documents = [chance.sample(group, len(group)) for group in _by_document(rules).values()]
        chance.shuffle(documents)
        for turn in zip_longest(*documents):
            yield from (rule for rule in turn if rule is not None)


def _with_neighbours(
    memory: Memory, rule: Rule, document: Sequence[Rule], wanted: Wanted
) -> tuple[Rule, ...]:
    others = [other for other in document if other.id != rule.id and _holds_with(other, rule)]
    texts = [each.indexed_text for each in (rule, *others)]
    vectors = memory.vectors.get(memory.embedder, texts)
    nearness = (vectors[1:] @ vectors[0]).tolist()
    chosen, tokens = [rule], estimate_tokens(rule.text)
    for _, other in sorted(zip(nearness, others, strict=True), key=lambda pair: -pair[0]):
        cost = estimate_tokens(other.text)
        if len(chosen) < wanted.max_rules and tokens + cost <= wanted.max_tokens:
            chosen.append(other)
            tokens += cost
    return tuple(chosen)
