"""How the preference exam puts a question in each mode.

All modes get the same words of provider and user, the same question, the same longest answer and
the same model (`adapter` apart); what differs is the way the words are put.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from pydantic import Field

from comity.alignment.aligner import Aligner, Options
from comity.errors import ExamError
from comity.evaluation.preference_cases import PreferenceQuestion, RuleCase
from comity.evaluation.preference_runs import PreferenceMode
from comity.memory.memory import Memory
from comity.models.chat import ChatModel, complete
from comity.models.steer import steered
from comity.preferences.contrast import without_user
from comity.records import VERBATIM, Decision, Message, MetaPrompt, Record, Reply, Request, Scope


class Put(Record):
    """What a question was answered with."""

    model_config = VERBATIM

    asked: tuple[tuple[Message, ...], ...] = Field(description="Every prompt that was sent.")
    reply: Reply = Field(description="The answer as released, with the tokens of all calls.")
    decision: Decision | None = Field(None, description="The record, where an aligner answered.")


class Recorded:
    """A chat model that keeps what it is sent."""

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.requests: list[Request] = []

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.model.name

    def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """What the model answers."""
        self.requests.append(request)
        return self.model.stream(request)

    def count_tokens(self, text: str) -> int:
        """As the model counts."""
        return self.model.count_tokens(text)


class Examinee(NamedTuple):
    """Who is examined, and how answers are made."""

    model: ChatModel
    memory: Memory
    options: Options
    adapter: ChatModel | None = None
    """The model of mode `adapter`."""
    samples: int = 3
    """Answers that mode `refined` chooses from."""
    strength: float = 1.5
    """Of mode `contrast`; 1 changes nothing."""
    judge: ChatModel | None = None
    """Scores the samples of mode `refined`; None is the model itself."""


async def put_wish(
    examinee: Examinee, question: PreferenceQuestion, number: int, mode: PreferenceMode
) -> Put:
    """Put a question under one of its wishes. Raises the `ModelError` of a model that fails."""
    meta = question.wishes[number].meta
    if mode in ("none", "plain"):
        words = provider_words(meta) if mode == "none" else all_words(meta)
        return await _directly(examinee, words, question.question)
    # no rule of the memory bears on these questions, and none applies without a place
    return await _aligned(examinee, question.question, Scope(), meta, mode)


async def put_rule_case(examinee: Examinee, case: RuleCase, mode: PreferenceMode) -> Put:
    """Put a rule case: by the aligner, with its wish, or without it in `none`."""
    if mode == "plain":
        raise ExamError("rule cases have no mode plain: no rule would stand in the prompt")
    meta = MetaPrompt() if mode == "none" else case.meta
    return await _aligned(examinee, case.question, case.scope, meta, mode)


def provider_words(meta: MetaPrompt) -> str:
    """What the provider says, one thing after the other."""
    wishes = [one.text for one in meta.preferences if one.by == "provider"]
    return "\n".join(filter(None, (meta.system_info.strip(), *wishes)))


def all_words(meta: MetaPrompt) -> str:
    """What provider and user say, one thing after the other, as one would write it down."""
    wishes = [one.text for one in meta.preferences if one.by == "user"]
    return "\n".join(filter(None, (provider_words(meta), meta.user_info.strip(), *wishes)))


async def _directly(examinee: Examinee, words: str, question: str) -> Put:
    options, user = examinee.options, Message(role="user", content=question)
    messages = (Message(role="system", content=words), user) if words else (user,)
    request = Request(
        messages=messages,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    return Put(asked=(messages,), reply=await complete(examinee.model, request))


async def _aligned(
    examinee: Examinee, question: str, scope: Scope, meta: MetaPrompt, mode: PreferenceMode
) -> Put:
    model = Recorded(model_of(examinee, mode))
    options = examinee.options
    if mode == "refined":
        told = options.model_dump() | {"samples": examinee.samples}
        options = Options.model_validate(told)
    judge = examinee.judge if mode == "refined" else None
    aligner = Aligner(examinee.memory, model, options, judge=judge)
    answer = await aligner.answer(question, scope, meta)
    decision = answer.decision
    reply = Reply(
        text=answer.text,
        model=decision.model,
        finish_reason=decision.finish_reason,
        usage=decision.usage,
    )
    asked = tuple(request.messages for request in model.requests)
    return Put(asked=asked, reply=reply, decision=decision)


def model_of(examinee: Examinee, mode: PreferenceMode) -> ChatModel:
    """Who answers in a mode.

    Raises `ExamError` for `adapter` without one, and `SettingsError` for `contrast` with a model
    that does not tell its next token.
    """
    if mode == "adapter":
        if examinee.adapter is None:
            raise ExamError("mode adapter needs the model with the adapter: give --adapter-model")
        return examinee.adapter
    if mode == "contrast":
        return steered(examinee.model, strength=examinee.strength, without=without_user)
    return examinee.model
