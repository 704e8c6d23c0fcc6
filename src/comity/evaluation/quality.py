"""Is a generated question fit to be asked? What code finds, what a judge says, and a trial.

`form_faults` looks at one question and `set_faults` at all of them; `judge_question` is the
separate pass of OPO (Align on the Fly, arXiv 2312.15907) with four checks by a judge model at
temperature 0; `trial` has a model take the question, with its rules and by the options alone;
`balanced` spreads the right letters evenly.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from comity.alignment.compose import prompt_language
from comity.errors import ModelError, ModelNonsense, ModelTimeout
from comity.evaluation.ask import tell
from comity.evaluation.exams import LETTERS, Question
from comity.evaluation.question_form import form_faults
from comity.evaluation.question_set import balanced, set_faults
from comity.evaluation.turns import turned
from comity.models.chat import ChatModel, complete
from comity.records import WORLD, Message, Record, Request, Rule, Scope

__all__ = [
    "Trial",
    "Verdict",
    "balanced",
    "form_faults",
    "judge_question",
    "judge_version",
    "set_faults",
    "trial",
    "version_of",
    "words_of",
]

JUDGE_TIMEOUT = 300.0
TRIAL_TIMEOUT = 120.0
_JUDGE_TOKENS = 256

Words = Mapping[str, Mapping[str, str]]
_T = TypeVar("_T")

_CHECKS = {
    "stem": "the stem is unsound or cannot be understood alone",
    "one_right": "not exactly one option is right",
    "analysis": "the analysis is wrong",
    "answer": "the answer is wrong",
}


class Verdict(Record):
    """What a judge said of one question; one that failed to say is kept, and passes nothing."""

    critique: str = Field("", description="What the judge wrote before it decided.")
    stem: bool = Field(False, description="The stem is sound and can be understood alone.")
    one_right: bool = Field(False, description="Exactly one option is right.")
    analysis: bool = Field(False, description="The analysis is right.")
    answer: bool = Field(False, description="The answer is right.")
    judge: str = Field(description="Name of the model that judged.")
    version: str = Field(description="Version of the judge's prompt, a hash of its words.")
    failed: str = Field("", description="Why there is no verdict; empty if there is one.")

    @property
    def passed(self) -> bool:
        """Whether there is a verdict, and all four checks hold."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """The checks that do not hold, as sentences; or why there is no verdict."""
        if self.failed:
            return (f"The judge gave no verdict: {self.failed}",)
        return tuple(
            f"The judge says: {told}." for name, told in _CHECKS.items() if not getattr(self, name)
        )


class Trial(Record):
    """How a model fared with a question: with its rules, and with the options alone."""

    model: str = Field(description="Name of the model.")
    right: str = Field(description="Text of the right option.")
    with_rules: tuple[str, ...] = Field(
        (), description="Text it picked with the rules before it, in two opposite orders."
    )
    options_only: tuple[str, ...] = Field(
        (), description="Text it picked in each cyclic order, up to the first that is wrong."
    )
    failed: str = Field("", description="Why the trial has no result; empty if it has one.")

    @property
    def faults(self) -> tuple[str, ...]:
        """What the trial has against the question, as sentences; none if it passed."""
        if self.failed:
            return (f"The trial failed: {self.failed}",)
        found = []
        if wrong := next((text for text in self.with_rules if text != self.right), ""):
            found.append(f"With its rules {self.model} answers {wrong!r}.")
        if all(picked == self.right for picked in self.options_only):
            found.append(
                f"{self.model} finds the right option without stem and rules, in any order."
            )
        return tuple(found)


class _Judged(BaseModel):
    """The judge's answer: the critique stands first, so that the verdicts follow from it."""

    model_config = ConfigDict(extra="forbid")
    critique: str = Field(min_length=1)
    stem: StrictBool
    one_right: StrictBool
    analysis: StrictBool
    answer: StrictBool


def judge_version(language: str) -> str:
    """Version of the judge's prompt in a language, `zh` or `en`."""
    return version_of(words_of(language))


def version_of(words: Words) -> str:
    """Version of a judge with these words and the schema of its answer."""
    parts = {"judge": words["judge"], "shown": words["shown"], "schema": _schema()}
    text = json.dumps(parts, ensure_ascii=False)
    return "judge-" + hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def words_of(language: str) -> Words:
    """The words of the checks in a language, `zh` or `en`."""
    file = files("comity.evaluation") / "prompts" / f"quality_{language}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


async def judge_question(
    model: ChatModel, question: Question, rules: Sequence[Rule], *, timeout: float = JUDGE_TIMEOUT
) -> Verdict:
    """Have a model check a question against its rules, in one call at temperature 0.

    `timeout` is in seconds. A judge that fails, is too slow or answers off-schema makes a
    verdict that is `failed`, never an error.
    """
    language = prompt_language(question.query)
    request = _judge_request(words_of(language), question, rules)
    version = judge_version(language)
    try:
        reply = await _within(complete(model, request), timeout, model.name)
        if reply.finish_reason != "stop":
            raise ModelNonsense(f"its answer ended early ({reply.finish_reason})")
        judged = _Judged.model_validate_json(reply.text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        reason = f"the answer does not follow the schema: {where}: {first['msg']}"
        return Verdict(judge=model.name, version=version, failed=reason)
    except ModelError as error:
        return Verdict(judge=model.name, version=version, failed=str(error))
    return Verdict(**judged.model_dump(), judge=model.name, version=version)


async def trial(
    model: ChatModel, question: Question, rules: Sequence[Rule], *, timeout: float = TRIAL_TIMEOUT
) -> Trial:
    """Have a model take a question with its rules, and then by the options alone.

    With the rules the options are shown in two opposite orders, and alone in each of their
    cyclic orders, until the model picks a wrong one: it must be right in both orders with the
    rules, and only who is right in all orders without them has been told by the options.
    `timeout` is in seconds for each call. A model that fails makes a trial that is `failed`,
    never an error.
    """
    taken = Trial(model=model.name, right=question.options[LETTERS.index(question.answer)])
    count = len(question.options)
    try:
        with_rules = await _picked(
            model, question, (0, count // 2), lambda put: _with_rules(put, rules), timeout
        )
        alone = await _picked(model, question, range(count), _options_only, timeout)
    except ModelError as error:
        return taken.model_copy(update={"failed": str(error)})
    return taken.model_copy(update={"with_rules": with_rules, "options_only": alone})


async def _picked(
    model: ChatModel,
    question: Question,
    starts: Iterable[int],
    put: Callable[[Question], tuple[Message, ...]],
    timeout: float,
) -> tuple[str, ...]:
    """Texts picked with each of the options first in turn, up to the first wrong one."""
    picked: list[str] = []
    for start in starts:
        shown = turned(question, start)
        letter = await _letter(model, shown, put(shown), timeout)
        picked.append(shown.options[LETTERS.index(letter)])
        if letter != shown.answer:
            break
    return tuple(picked)


async def _letter(
    model: ChatModel, question: Question, messages: tuple[Message, ...], timeout: float
) -> str:
    told = await _within(tell(model, question, messages), timeout, model.name)
    if told.letter not in question.letters:
        raise ModelNonsense(f"{model.name} chose no option: {told.not_scored or told.letter}")
    return told.letter


async def _within(call: Awaitable[_T], timeout: float, name: str) -> _T:
    try:
        async with asyncio.timeout(timeout):
            return await call
    except TimeoutError as error:
        raise ModelTimeout(f"{name} did not answer within {timeout:g} seconds") from error


def _judge_request(words: Words, question: Question, rules: Sequence[Rule]) -> Request:
    judge = words["judge"]
    asked = judge["question"].format(
        rules=_rules(rules, words["shown"]),
        stem=_stem(question, words["shown"]),
        options=question.options_text,
        answer=question.answer,
        right=question.options[LETTERS.index(question.answer)],
        analysis=question.analysis or judge["no_analysis"],
    )
    return Request(
        messages=_messages(judge["instructions"], asked),
        max_tokens=_JUDGE_TOKENS,
        temperature=0.0,
        seed=0,
        json_schema=_schema(),
    )


def _with_rules(question: Question, rules: Sequence[Rule]) -> tuple[Message, ...]:
    words = words_of(prompt_language(question.query))
    asked = words["trial"]["with_rules_question"].format(
        rules=_rules(rules, words["shown"]),
        stem=_stem(question, words["shown"]),
        options=question.options_text,
    )
    return _messages(words["trial"]["with_rules"], asked)


def _options_only(question: Question) -> tuple[Message, ...]:
    words = words_of(prompt_language(question.query))["trial"]
    asked = words["options_only_question"].format(options=question.options_text)
    return _messages(words["options_only"], asked)


def _messages(system: str, user: str) -> tuple[Message, ...]:
    return (
        Message(role="system", content=system.strip()),
        Message(role="user", content=user.strip()),
    )


def _schema() -> dict[str, Any]:
    return _Judged.model_json_schema()


def _rules(rules: Sequence[Rule], words: Mapping[str, str]) -> str:
    return "\n".join(
        words["rule"].format(
            number=number,
            heading=rule.heading,
            qualities=words["separator"].join(_qualities(rule, words)),
            text=rule.text,
        )
        for number, rule in enumerate(rules, start=1)
    )


def _qualities(rule: Rule, words: Mapping[str, str]) -> Iterator[str]:
    yield words["place"].format(place=rule.place)
    if rule.audience:
        yield words["audience"].format(audience=", ".join(rule.audience))
    if rule.valid_from:
        yield words["since"].format(date=_day(rule.valid_from))
    if rule.valid_to:
        yield words["until"].format(date=_day(rule.valid_to))


def _stem(question: Question, words: Mapping[str, str]) -> str:
    told = words["separator"].join(_circumstances(question.scope or Scope(), words))
    head = words["circumstances"].format(circumstances=told) + "\n" if told else ""
    return head + question.stem


def _circumstances(scope: Scope, words: Mapping[str, str]) -> Iterator[str]:
    if places := [place for place in scope.place if place != WORLD]:
        yield words["place"].format(place=", ".join(places))
    if scope.audience:
        yield words["asker"].format(audience=", ".join(scope.audience))
    if scope.at:
        yield words["at"].format(date=_day(scope.at))


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}"
