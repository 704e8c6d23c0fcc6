"""Conflicts that nobody declared: pairs of rules that a judge model compares.

A finding is a suspicion and changes no ruling: both rules stay in force until an owner confirms
it (see `confirm.py`). Each call to the judge holds one pair and nothing else, so that what one
rule's text says to the judge can bear on that rule's own pairs alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import combinations
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from comity.alignment.checks import Judge
from comity.errors import ModelError, ModelMissing
from comity.material import as_material, words_in
from comity.memory.memory import Memory
from comity.memory.pairs import JudgedPair, Pair
from comity.memory.places import contains
from comity.models.chat import complete
from comity.records import Message, Request, Rule, SuspectedPair
from comity.wording import prompt_language, schema_fault, version_of, words_of

LONGEST = 8_000
"""Characters of a rule that the judge is given; a longer rule is not judged."""

_TOKENS = 512


def suspects(rules: Iterable[Rule], judged: Container[str] = ()) -> Iterator[Pair]:
    """The pairs that may hide a conflict: neither declared, nor impossible, nor judged.

    `judged` holds the ids of pairs that have a finding.
    """
    for first, second in combinations(rules, 2):
        if not declared(first, second) and can_meet(first, second):
            pair = Pair.of(first, second)
            if pair.id not in judged:
                yield pair


def declared(one: Rule, other: Rule) -> bool:
    """Whether it is settled already that the two conflict: by versions, or by `overrides`."""
    return one.id == other.id or one.id in other.overrides or other.id in one.overrides


def can_meet(one: Rule, other: Rule) -> bool:
    """Whether two rules can be in force in the same place at the same moment.

    Whoever is bound by one audience can be bound by another as well.
    """
    nested = contains(one.place, other.place) or contains(other.place, one.place)
    return nested and _starts_in(one, other) and _starts_in(other, one)


def _starts_in(one: Rule, other: Rule) -> bool:
    """Whether one begins before the other has ended."""
    return one.valid_from is None or other.valid_to is None or one.valid_from < other.valid_to


def suspected(memory: Memory, kept: Sequence[Rule], tenant: str) -> tuple[SuspectedPair, ...]:
    """The pairs among kept rules that a judge found to contradict, and no owner has dismissed."""
    rules = {rule.id: rule for rule in kept}
    return tuple(
        SuspectedPair(
            id=found.id,
            one=found.one,
            one_version=rules[found.one].version,
            other=found.other,
            other_version=rules[found.other].version,
            judge=found.judge,
        )
        for found in memory.store.pairs.suspicions(tenant, list(rules))
        if Pair(rules[found.one], rules[found.other]).id == found.id
    )


class _Found(BaseModel):
    """What the model writes on a pair; the order of the fields is that of writing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str
    first_quotation: str
    second_quotation: str
    verdict: Literal["contradict", "compatible", "unsure"]


async def judge_pair(judge: Judge, pair: Pair, at: datetime) -> JudgedPair:
    """Have two rules compared, in one call to the judge; `at` is when that is.

    A reply that is off the schema or late, an error of the model, a rule that is too long and a
    contradiction whose quotations do not stand in the rules give a finding that `failed`, with
    the reason. Raises `ModelMissing` if the model is not there.
    """
    language = prompt_language(pair.one.text + pair.other.text)
    begun = JudgedPair(
        id=pair.id,
        one=pair.one.id,
        one_version=pair.one.version,
        other=pair.other.id,
        other_version=pair.other.version,
        verdict="failed",
        judge=judge.model.name,
        wording=wording_version(language),
        made_at=at,
    )
    for rule in pair:
        if len(rule.text) > LONGEST:
            return _failed(begun, f"rule {rule.id!r} has more than {LONGEST} characters: split it")
    try:
        async with asyncio.timeout(judge.timeout):
            reply = await complete(judge.model, pair_request(pair, language))
    except TimeoutError:
        return _failed(begun, f"no verdict within {judge.timeout:g} s")
    except ModelMissing:
        raise  # it would be missing for every pair
    except ModelError as error:
        return _failed(begun, str(error))
    return _read(begun, pair, reply.text)


def pair_request(pair: Pair, language: str) -> Request:
    """What a judge model is sent. `language` is `zh` or `en`."""
    words = _words(language)
    first, second = (_as_material(rule, words) for rule in pair)
    parts = (
        words["first"].format(rule=first),
        words["second"].format(rule=second),
        words["request"],
    )
    return Request(
        messages=(
            Message(role="system", content=words["instructions"].strip()),
            Message(role="user", content="\n\n".join(parts)),
        ),
        max_tokens=_TOKENS,
        json_schema=_schema(),
        seed=0,
    )


def wording_version(language: str) -> str:
    """Name of the prompt and schema: changes with every word of them."""
    return f"{language}-{version_of(_words(language), _schema())}"


def _words(language: str) -> Mapping[str, Any]:
    return words_of("conflicts", language, package="comity.alignment")


def _as_material(rule: Rule, words: Mapping[str, Any]) -> str:
    heading = "" if rule.heading == rule.id else rule.heading
    binds = words["binds"].format(audience=", ".join(rule.audience)) if rule.audience else ""
    return as_material("\n".join(filter(None, (heading, binds, rule.text))))


def _schema() -> dict[str, Any]:
    whole = _Found.model_json_schema()
    properties = whole["properties"]
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _read(begun: JudgedPair, pair: Pair, text: str) -> JudgedPair:
    try:
        found = _Found.model_validate_json(text)
    except ValidationError as error:
        said = schema_fault(error)
        return _failed(begun, f"the judge's reply does not follow the schema: {said}")
    told = begun.model_copy(
        update={
            "verdict": found.verdict,
            "reason": found.reason,
            "one_quotation": found.first_quotation,
            "other_quotation": found.second_quotation,
        }
    )
    problem = _quotation_problem(told, pair)
    return _failed(told, f"{problem}; the judge said: {found.reason}") if problem else told


def _quotation_problem(told: JudgedPair, pair: Pair) -> str:
    """Why a suspicion does not rest on the rules' own words; empty if it does."""
    if told.verdict == "compatible":
        return ""
    quotations = (told.one_quotation, told.other_quotation)
    for rule, quotation in zip(pair, quotations, strict=True):
        quoted = words_in(quotation)
        if not quoted:
            return f"nothing is quoted from rule {rule.id!r}"
        if quoted not in words_in(f"{rule.heading} {', '.join(rule.audience)} {rule.text}"):
            return f"what is quoted from rule {rule.id!r} does not stand there"
    return ""


def _failed(begun: JudgedPair, reason: str) -> JudgedPair:
    return begun.model_copy(update={"verdict": "failed", "reason": reason})
