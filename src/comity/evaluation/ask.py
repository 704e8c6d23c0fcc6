"""How a question is put to a model, and how its letter is told: the same way for every model.

Three modes, as in OPO (Align on the Fly, arXiv 2312.15907): `base` asks without rules, `comity`
with those that the whole pipeline finds, `oracle` with the ones that the question was made from.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from pydantic import Field

from comity.alignment import decisions
from comity.alignment.compose import Prompt, compose
from comity.alignment.precedence import rule_on
from comity.errors import ModelGarbled, ModelNonsense
from comity.evaluation.exams import Question
from comity.evaluation.gold import gold_texts
from comity.evaluation.letters import read_cut, read_letter
from comity.evaluation.runs import BUDGETS, Mode, ScoredBy
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.memory.places import Gazetteer
from comity.models.chat import ChatModel, complete
from comity.records import (
    WORLD,
    Hit,
    Message,
    Record,
    Reply,
    Request,
    Rule,
    RuleRef,
    Ruling,
    Scope,
    Usage,
)
from comity.retrieval.search import search
from comity.wording import prompt_language

_NO_LIMIT = 10**9

CountTokens = Callable[[str], int]


class ExamOptions(Record):
    """How the questions of a run are put."""

    place: str = Field(WORLD, description="Place of a question that names none.")
    tenant: str = Field("default", description="Whose rules are meant.")
    hits: int = Field(20, ge=1, description="How many rules search gives.")
    relevance: float = Field(
        0.75, ge=0, le=1, description="Hits after the fourth must score this share of the best."
    )
    budget: int = Field(1000, ge=0, description="Tokens that rules may take in the prompt.")
    turns: bool = Field(True, description="Ask in more than one order of the options (`turns`).")
    max_tokens: int = Field(
        256, ge=1, description="Longest answer where the letter has to be read from the text."
    )
    seed: int | None = Field(None, description="For models that sample.")


class Put(Record):
    """A question, ready to be sent in one mode."""

    mode: Mode = Field(description="How it is put.")
    messages: tuple[Message, ...] = Field(description="The whole prompt.")
    rules_text: str = Field("", description="The part of it that holds the rules, if any.")
    scope: Scope | None = Field(None, description="For whom, where and when (comity).")
    revision: int | None = Field(None, description="Revision of the memory (comity, oracle).")
    hits: tuple[Hit, ...] = Field((), description="What search found (comity).")
    ruling: Ruling = Field(Ruling(), description="What is in force, and what gave way.")
    rules: tuple[Rule, ...] = Field((), description="Rules in the prompt.")
    left_out: tuple[Rule, ...] = Field((), description="Kept rules that the budget left out.")
    rule_tokens: int = Field(0, ge=0, description="Tokens that the rules take.")
    gold: tuple[RuleRef, ...] = Field(
        (), description="The rules that the question was made from, in the version with that text."
    )
    gold_found: float | None = Field(None, description="Their share among the hits (comity).")
    gold_sent: float | None = Field(None, description="Their share in the prompt (comity).")
    gold_at: dict[int, float] = Field(
        {}, description="Share of the gold rules that fit into each token budget."
    )

    @property
    def sha256(self) -> str:
        """SHA-256 of the prompt."""
        return decisions.prompt_hash(self.messages)


class Told(NamedTuple):
    """What a model answered to a question in one order of its options."""

    letter: str
    """The letter it chose; empty if there is none that can be read."""
    by: ScoredBy
    """How the letter was told."""
    reply: Reply
    """What it wrote."""
    logprobs: Mapping[str, float]
    """Natural log-probability of each letter, where the model tells."""
    not_scored: str
    """Why there is no letter."""


def put(
    question: Question,
    mode: Mode,
    memory: Memory | None,
    count_tokens: CountTokens,
    options: ExamOptions,
) -> Put:
    """Put a question in one mode.

    `comity` reads the scope from the question (and its `scope`, which stands for what a caller
    would say), searches, rules and packs as an answer would. `oracle` puts all gold rules,
    whatever they cost, and `base` none. Raises `ValueError` for `comity` without a memory.
    """
    if mode == "base":
        return Put(mode=mode, messages=messages_of(question), gold=tied(question))
    if mode == "oracle":
        return _with_gold(question, memory, count_tokens, options)
    if memory is None:
        raise ValueError("mode comity needs a memory")
    return _with_found(question, memory, count_tokens, options)


async def tell(
    model: ChatModel,
    question: Question,
    messages: Sequence[Message],
    *,
    seed: int | None = None,
    max_tokens: int = 256,
) -> Told:
    """The letter that a model chooses.

    It is asked to choose among the letters, which a `ChatModel` does by log-probabilities or by
    constrained output. Where its answer is none of them, the letter is read from a free answer
    of at most `max_tokens`; one that cannot be read is not scored. Raises the `ModelError` of a
    model that fails, `ModelGarbled` where what answers is no chat model.
    """
    request = Request(messages=tuple(messages), choices=question.letters, max_tokens=8, seed=seed)
    try:
        reply = await complete(model, request)
    except ModelGarbled:
        raise
    except ModelNonsense:
        free = Request(messages=tuple(messages), max_tokens=max_tokens, seed=seed)
        return await _read(model, question, free)
    by: ScoredBy = "logprobs" if reply.choice_logprobs else "constrained"
    return Told(reply.text.strip(), by, reply, reply.choice_logprobs or {}, "")


async def _read(model: ChatModel, question: Question, request: Request) -> Told:
    try:
        reply = await complete(model, request)
    except ModelGarbled:
        raise
    except ModelNonsense as error:
        nothing = Reply(text="", model=model.name, usage=Usage())
        return Told("", "", nothing, {}, str(error))
    read = read_cut if reply.finish_reason == "length" else read_letter
    reading = read(reply.text, question.options)
    return Told(reading.letter, "text" if reading.letter else "", reply, {}, reading.reason)


@cache
def exam_words(language: str) -> Mapping[str, Any]:
    """The words with which questions are put in a language, `zh` or `en`."""
    file = files("comity.evaluation") / "prompts" / f"exam_{language}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def messages_of(question: Question, rules: str = "") -> tuple[Message, ...]:
    """The rules with their notes and what to do with them (if any), the question, the cue."""
    words = exam_words(prompt_language(question.query))
    asked = words["question"].format(stem=question.stem, options=question.options_text)
    if rules:
        asked = f"{rules}\n\n{words['by_rules']}\n{asked}"
    return (
        Message(role="system", content=words["system"]),
        Message(role="user", content=f"{asked}\n\n{words['cue']}"),
    )


def _with_found(
    question: Question, memory: Memory, count_tokens: CountTokens, options: ExamOptions
) -> Put:
    scope = _scope(question, memory, options)
    found = search(memory, question.query, scope, k=options.hits, relevance=options.relevance)
    ruling = rule_on(found.candidates, memory.authorities)
    form = _Form(question, memory, count_tokens, options)
    prompt = form.compose(ruling, found.hits, scope, options.budget)
    rules_text = prompt.messages[0].content if prompt.rules else ""
    hits = [hit.rule for hit in found.hits]
    gold = _standing(question, memory, options.tenant, (*hits, *ruling.kept))
    keys = {(ref.id, ref.version) for ref in gold}
    return Put(
        mode="comity",
        messages=messages_of(question, rules_text),
        rules_text=rules_text,
        scope=scope,
        revision=found.revision,
        hits=found.hits,
        ruling=ruling,
        rules=prompt.rules,
        left_out=prompt.left_out,
        rule_tokens=prompt.rule_tokens,
        gold=gold,
        gold_found=_share(keys, hits) if keys else None,
        gold_sent=_share(keys, prompt.rules) if keys else None,
        gold_at=form.recall(keys, ruling, found.hits, scope) if keys else {},
    )


def _with_gold(
    question: Question, memory: Memory | None, count_tokens: CountTokens, options: ExamOptions
) -> Put:
    """All gold rules, whatever they cost."""
    rules = gold_texts(question, memory, tenant=options.tenant)
    scope = _scope(question, memory, options) if memory else Scope(place=(options.place,))
    form = _Form(question, memory, count_tokens, options)
    ruling = Ruling(kept=rules)
    prompt = form.compose(ruling, (), scope, _NO_LIMIT)
    rules_text = prompt.messages[0].content if rules else ""
    return Put(
        mode="oracle",
        messages=messages_of(question, rules_text),
        rules_text=rules_text,
        scope=scope,
        revision=memory.revision if memory else None,
        ruling=ruling,
        rules=prompt.rules,
        rule_tokens=prompt.rule_tokens,
        gold=tied(question),
    )


def tied(question: Question) -> tuple[RuleRef, ...]:
    """The rules that a question is tied to, without those that do not apply in its case."""
    return tuple(ref for ref in question.rules if not ref.reason)


def _standing(
    question: Question, memory: Memory, tenant: str, rules: Iterable[Rule]
) -> tuple[RuleRef, ...]:
    """The tied rules; of one that was replaced with the same text, the version among `rules`."""
    there = {(rule.id, rule.text): rule.version for rule in rules}

    def standing(ref: RuleRef) -> RuleRef:
        history = memory.store.history(tenant, ref.id)
        texts = [stored.rule.text for stored in history if stored.rule.version == ref.version]
        version = there.get((ref.id, texts[0]), ref.version) if texts else ref.version
        return ref.model_copy(update={"version": version})

    return tuple(map(standing, tied(question)))


def _scope(question: Question, memory: Memory, options: ExamOptions) -> Scope:
    given = (question.scope or Scope()).model_copy(update={"tenant": options.tenant})
    return locate(memory, question.stem, given, default_place=options.place)


class _Form(NamedTuple):
    """The prompt's form for one question, the same for found and for gold rules."""

    question: Question
    memory: Memory | None
    count_tokens: CountTokens
    options: ExamOptions

    def compose(self, ruling: Ruling, hits: Sequence[Hit], scope: Scope, budget: int) -> Prompt:
        language = prompt_language(self.question.query)
        gazetteer = self.memory.gazetteer(scope.tenant) if self.memory else Gazetteer()
        return compose(
            ruling,
            (),
            scope,
            hits=hits,
            budget=budget,
            count_tokens=self.count_tokens,
            name_place=gazetteer.name,
            language=language,
            may_be_incomplete=False,
            words=exam_words(language)["rules"],
            by_document=True,
        )

    def recall(
        self, gold: Set[tuple[str, int]], ruling: Ruling, hits: Sequence[Hit], scope: Scope
    ) -> dict[int, float]:
        """Share of the gold rules that fit into each token budget."""
        packed = {budget: self.compose(ruling, hits, scope, budget) for budget in BUDGETS}
        return {budget: _share(gold, prompt.rules) for budget, prompt in packed.items()}


def _share(gold: Set[tuple[str, int]], rules: Iterable[Rule]) -> float:
    """Share of the gold rules, by id and version, that are among some rules."""
    return len(gold & {rule.key for rule in rules}) / len(gold)
