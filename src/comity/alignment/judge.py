"""A judge of free-text answers: named criteria, a critique before each verdict, a version.

The judge is a chat model, asked once for each answer, and checked by code: its reply must follow
the schema, and every verdict must rest on words that stand in the answer. Whatever goes wrong is
kept as `failed` and counts neither as followed nor as broken. How far a model can be trusted as
judge is measured by `judge_check.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from comity.errors import ModelError, ModelMissing
from comity.material import as_material, words_in
from comity.models.chat import ChatModel, complete
from comity.records import VERBATIM, Message, Record, Request, Rule, Usage
from comity.wording import prompt_language, schema_fault, version_of, words_of

TIMEOUT = 300.0
"""Seconds that one judgement may take."""

_TOKENS = 320  # for each criterion: critique, quotation, and JSON around them
_TOKENS_MORE = 64

Decided = Literal["passed", "violated", "not_applicable"]
Verdict = Literal["passed", "violated", "not_applicable", "failed"]


class Criterion(Record):
    """What an answer is judged by."""

    name: str = Field(min_length=1, description="Name of the criterion: a rule's id.")
    text: str = Field(min_length=1, description="What it demands.")


class Outcome(Record):
    """What became of one criterion."""

    model_config = VERBATIM

    criterion: str = Field(description="Name of the criterion.")
    critique: str = Field("", description="What the judge wrote before its verdict.")
    quotation: str = Field("", description="The answer's words on which the verdict rests.")
    verdict: Verdict = Field(description="The judge's verdict, or `failed` if there is none.")
    reason: str = Field("", description="Why it failed.")


class Judgement(Record):
    """What a judge said of one answer."""

    model_config = VERBATIM

    judge: str = Field(description="Name of the model that judged.")
    version: str = Field(description="Language and hash of the judge's prompt and schema.")
    outcomes: tuple[Outcome, ...] = Field(description="One for each criterion, in their order.")
    failed: str = Field("", description="Why there is no judgement at all; empty if there is.")
    text: str = Field("", description="What the model wrote.")
    usage: Usage = Field(Usage(), description="Tokens read and written.")

    @property
    def share_followed(self) -> float | None:
        """Share of the applicable criteria that the answer follows; None where none was decided.

        Failed and inapplicable ones count neither way.
        """
        verdicts = [outcome.verdict for outcome in self.outcomes]
        decided = verdicts.count("passed") + verdicts.count("violated")
        return verdicts.count("passed") / decided if decided else None


class _Judged(BaseModel):
    """What the model writes for one criterion; the order of the fields is that of writing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    critique: str
    quotation: str
    verdict: Decided


_REPLY = TypeAdapter(dict[str, _Judged])


def criterion_of(rule: Rule) -> Criterion:
    """A rule as a criterion: its heading and words, and the question of its check for a judge."""
    heading = "" if rule.heading == rule.id else rule.heading
    question = rule.check.judge if rule.check else ""
    return Criterion(
        name=rule.id, text="\n".join(part for part in (heading, rule.text, question) if part)
    )


async def judge(
    model: ChatModel,
    question: str,
    answer: str,
    criteria: Sequence[Criterion],
    *,
    timeout: float = TIMEOUT,
) -> Judgement:
    """Judge an answer by each of the criteria, in one call to the model.

    A reply that is off the schema, late (after `timeout` seconds) or an error of the model gives
    a judgement with `failed` set and every outcome `failed`. A verdict whose quotation does not
    stand in the answer fails alone. Raises `ValueError` without criteria, or with two of one
    name, and `ModelMissing` if the model is not there.
    """
    names = [criterion.name for criterion in criteria]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"criteria {names}: give at least one, each with a name of its own")
    language = prompt_language(question + answer)
    begun = Judgement(judge=model.name, version=judge_version(language), outcomes=())
    if not answer.strip():
        return _failed(begun, names, "the answer is empty")
    request = judge_request(question, answer, criteria, language)
    try:
        async with asyncio.timeout(timeout):
            reply = await complete(model, request)
    except TimeoutError:
        return _failed(begun, names, f"no verdict within {timeout:g} s")
    except ModelMissing:
        raise  # it would be missing for every answer
    except ModelError as error:
        return _failed(begun, names, str(error))
    told = begun.model_copy(update={"text": reply.text, "usage": reply.usage})
    try:
        judged = _read(reply.text, len(names))
    except ValueError as error:
        return _failed(told, names, f"the judge's reply does not follow the schema: {error}")
    outcomes = tuple(_outcome(name, one, answer) for name, one in zip(names, judged, strict=True))
    return told.model_copy(update={"outcomes": outcomes})


def judge_request(
    question: str, answer: str, criteria: Sequence[Criterion], language: str
) -> Request:
    """What a judge model is sent. `language` is `zh` or `en`."""
    words = _words(language)
    labels = _labels(len(criteria))
    parts = [
        words["question"].format(question=as_material(question)),
        *(
            words["criterion"].format(label=label, text=as_material(criterion.text))
            for label, criterion in zip(labels, criteria, strict=True)
        ),
        words["answer"].format(answer=as_material(answer)),
        words["request"].format(labels=", ".join(labels)),
    ]
    return Request(
        messages=(
            Message(role="system", content=words["instructions"].strip()),
            Message(role="user", content="\n\n".join(parts)),
        ),
        max_tokens=_TOKENS_MORE + _TOKENS * len(criteria),
        json_schema=_schema(labels),
        seed=0,
    )


def judge_version(language: str) -> str:
    """Name of the judge's prompt and schema: changes with every word of them."""
    return f"{language}-{version_of(_words(language), _schema(_labels(1)))}"


def _words(language: str) -> Mapping[str, Any]:
    return words_of("judge", language, package="comity.alignment")


def _labels(count: int) -> list[str]:
    return [f"C{number}" for number in range(1, count + 1)]


def _schema(labels: Sequence[str]) -> dict[str, Any]:
    """One object for each criterion, in order; a critique, a quotation, then the verdict."""
    one = _Judged.model_json_schema()
    return {
        "type": "object",
        "properties": dict.fromkeys(
            labels,
            {k: one[k] for k in ("type", "properties")}
            | {"required": list(one["properties"]), "additionalProperties": False},
        ),
        "required": list(labels),
        "additionalProperties": False,
    }


def _read(text: str, count: int) -> list[_Judged]:
    """The judge's verdicts, in the order of the criteria. Raises `ValueError` off the schema."""
    try:
        judged = _REPLY.validate_json(text)
    except ValidationError as error:
        raise ValueError(schema_fault(error)) from error
    if set(judged) != set(_labels(count)):
        raise ValueError(f"it judges {', '.join(judged) or 'nothing'} of {count} criteria")
    return [judged[label] for label in _labels(count)]


def _outcome(name: str, judged: _Judged, answer: str) -> Outcome:
    reason = _quotation_problem(judged, answer)
    return Outcome(
        criterion=name,
        critique=judged.critique,
        quotation=judged.quotation,
        verdict="failed" if reason else judged.verdict,
        reason=reason,
    )


def _quotation_problem(judged: _Judged, answer: str) -> str:
    quoted = words_in(judged.quotation)
    if not quoted:
        return "" if judged.verdict == "not_applicable" else "there is no quotation"
    return "" if quoted in words_in(answer) else "the quotation is not in the answer"


def _failed(begun: Judgement, names: Sequence[str], reason: str) -> Judgement:
    outcomes = tuple(Outcome(criterion=name, verdict="failed", reason=reason) for name in names)
    return begun.model_copy(update={"outcomes": outcomes, "failed": reason})
