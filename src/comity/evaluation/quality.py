"""Is a generated question fit to be asked? What a judge says of it, and how a model fares with it.

`judge_question` is the separate pass of OPO (Align on the Fly, arXiv 2312.15907) with four checks
by a judge model at temperature 0; `trial` has a model take the question, with its rules and by
the options alone. What code can tell is in `question_form` and `question_set`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from comity.errors import ModelGarbled, ModelNonsense, ModelTimeout
from comity.evaluation.ask import tell
from comity.evaluation.exams import LETTERS, Question
from comity.evaluation.turns import turned
from comity.models.chat import ChatModel, complete
from comity.records import WORLD, Message, Record, Request, Rule, Scope
from comity.wording import prompt_language, schema_fault, version_of, words_of

_JUDGE_TOKENS = 256

Words = Mapping[str, Mapping[str, str]]

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


def judge_version(words: Words) -> str:
    """Version of a judge with these words and the schema of its answer."""
    return f"judge-{version_of(words['judge'], words['shown'], _schema())}"


def trial_version(words: Words) -> str:
    """Version of a trial with these words."""
    return f"trial-{version_of(words['trial'], words['shown'])}"


async def judge_question(model: ChatModel, question: Question, rules: Sequence[Rule]) -> Verdict:
    """Have a model check a question against its rules, in one call at temperature 0.

    A judge that is too slow or answers off-schema makes a verdict that is `failed`; the
    `ModelError` of one that cannot be asked at all is raised.
    """
    words = words_of("quality", prompt_language(question.query))
    begun = Verdict(judge=model.name, version=judge_version(words))
    try:
        reply = await complete(model, _judge_request(words, question, rules))
        if reply.finish_reason != "stop":
            raise ModelNonsense(f"its answer ended early ({reply.finish_reason})")
        judged = _Judged.model_validate_json(reply.text)
    except ValidationError as error:
        reason = f"the answer does not follow the schema: {schema_fault(error)}"
        return begun.model_copy(update={"failed": reason})
    except ModelGarbled:
        raise
    except (ModelTimeout, ModelNonsense) as error:
        return begun.model_copy(update={"failed": str(error)})
    return begun.model_copy(update=judged.model_dump())


async def trial(model: ChatModel, question: Question, rules: Sequence[Rule]) -> Trial:
    """Have a model take a question with its rules, and then by the options alone.

    With the rules the options are shown in two opposite orders, and alone in each of their
    cyclic orders, until the model picks a wrong one: it must be right in both orders with the
    rules, and only who is right in all orders without them has been told by the options.
    A model that is too slow or names no letter makes a trial that is `failed`; the `ModelError`
    of one that cannot be asked at all is raised.
    """
    taken = Trial(model=model.name, right=question.options[LETTERS.index(question.answer)])
    count = len(question.options)
    try:
        with_rules = await _picked(
            model, question, (0, count // 2), lambda put: _with_rules(put, rules)
        )
        alone = await _picked(model, question, range(count), _options_only)
    except ModelGarbled:
        raise
    except (ModelTimeout, ModelNonsense) as error:
        return taken.model_copy(update={"failed": str(error)})
    return taken.model_copy(update={"with_rules": with_rules, "options_only": alone})


async def _picked(
    model: ChatModel,
    question: Question,
    starts: Iterable[int],
    put: Callable[[Question], tuple[Message, ...]],
) -> tuple[str, ...]:
    """Texts picked with each of the options first in turn, up to the first wrong one."""
    picked: list[str] = []
    for start in starts:
        shown = turned(question, start)
        letter = await _letter(model, shown, put(shown))
        picked.append(shown.options[LETTERS.index(letter)])
        if letter != shown.answer:
            break
    return tuple(picked)


async def _letter(model: ChatModel, question: Question, messages: tuple[Message, ...]) -> str:
    told = await tell(model, question, messages)
    if told.letter not in question.letters:
        raise ModelNonsense(f"{model.name} chose no option: {told.not_scored or told.letter}")
    return told.letter


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
    words = words_of("quality", prompt_language(question.query))
    asked = words["trial"]["with_rules_question"].format(
        rules=_rules(rules, words["shown"]),
        stem=_stem(question, words["shown"]),
        options=question.options_text,
    )
    return _messages(words["trial"]["with_rules"], asked)


def _options_only(question: Question) -> tuple[Message, ...]:
    words = words_of("quality", prompt_language(question.query))["trial"]
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
