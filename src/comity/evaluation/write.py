"""One exam question about gathered rules, written by a model in one schema-checked call.

The model gives the right answer and three wrong ones, and code draws the letter: a small model
that has to name a letter itself often names another one than it means.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from comity.errors import ModelGarbled, ModelNonsense, ModelTimeout
from comity.evaluation.exams import LETTERS, Question, Rejected
from comity.evaluation.gather import NEIGHBOUR, Wanted
from comity.models.chat import ChatModel, complete
from comity.records import DEFAULT_TENANT, WORLD, Message, Request, Rule, RuleRef, Scope
from comity.wording import prompt_language, schema_fault, version_of, words_of

_MAX_TOKENS = 500
_SHARE = 10  # drafts in a row with the same example of a kind

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Written(BaseModel):
    """The form of the model's answer."""

    model_config = ConfigDict(extra="forbid")
    stem: _Text
    right: _Text
    wrong_1: _Text
    wrong_2: _Text
    wrong_3: _Text
    analysis: _Text


async def write(
    model: ChatModel,
    rules: Sequence[Rule],
    wanted: Wanted,
    *,
    examples: Sequence[Question] = (),
    number: int,
    names: Sequence[str] = (),
) -> Question | Rejected:
    """One question about the first of the rules, written in one call; not checked yet.

    `number` is the draft's, from 1: with the seed it draws kind and letter. The first of
    `names` is what the stem is to name: the place or, of a rule with an audience, whom it binds.
    A model that is too slow and an answer that cannot be used make a `Rejected`; the `ModelError`
    of a model that cannot be asked at all is raised.
    """
    language = _language(rules, wanted)
    kind = kind_of(wanted, number)
    words = words_of("generate", language)
    request = Request(
        messages=_messages(words, rules, kind, examples, names),
        max_tokens=_MAX_TOKENS,
        temperature=wanted.temperature,
        seed=wanted.seed + number,
        json_schema=_Written.model_json_schema(),
    )
    rejected = partial(Rejected, rules=refs_of(rules), kind=kind, stage="model")
    try:
        reply = await complete(model, request)
    except ModelGarbled:
        raise
    except (ModelTimeout, ModelNonsense) as error:
        return rejected(reasons=(str(error),))
    if reply.finish_reason == "length":
        reason = f"the answer was cut off after {_MAX_TOKENS} tokens"
        return rejected(reasons=(reason,), text=reply.text)
    try:
        written = _Written.model_validate_json(reply.text)
    except ValidationError as error:
        reason = f"the answer does not follow the schema: {schema_fault(error)}"
        return rejected(reasons=(reason,), text=reply.text)
    prompt = writer_version(language)
    origin = f"{model.name}, prompt {prompt}, seed {wanted.seed}, draft {number}"
    return _question(written, rules, wanted, number, origin)


def writer_version(language: str) -> str:
    """Version of the writer's prompt in `en` or `zh`: changes with its words and its schema."""
    words = words_of("generate", language)
    return f"{language}-{version_of(words, _Written.model_json_schema())}"


@cache
def own_seeds(language: str) -> tuple[Question, ...]:
    """The example questions that ship with Comity, in `en` or `zh`."""
    file = files("comity.evaluation") / "seeds" / f"{language}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(Question.model_validate_json(line) for line in lines)


def _question(
    written: _Written, rules: Sequence[Rule], wanted: Wanted, number: int, origin: str
) -> Question:
    options = [written.wrong_1, written.wrong_2, written.wrong_3]
    place = random.Random(f"letter {wanted.seed} {number}").randrange(len(options) + 1)
    options.insert(place, written.right)
    return Question(
        id=f"{wanted.seed}-{number:04d}",
        stem=written.stem,
        options=tuple(options),
        answer=LETTERS[place],
        kind=kind_of(wanted, number),
        analysis=written.analysis,
        rules=refs_of(rules),
        scope=_scope(rules[0]),
        origin=origin,
    )


def _scope(rule: Rule) -> Scope | None:
    """What a caller would say for the rule to apply; None where it applies to everybody."""
    place = () if rule.place == WORLD else (rule.place,)
    if not place and not rule.audience and rule.tenant == DEFAULT_TENANT:
        return None
    return Scope(place=place, audience=rule.audience, tenant=rule.tenant)


def refs_of(rules: Iterable[Rule]) -> tuple[RuleRef, ...]:
    """The rule that a draft is to be about, and its neighbours, which are marked as such."""
    return tuple(
        RuleRef(id=rule.id, version=rule.version, reason=NEIGHBOUR if place else "")
        for place, rule in enumerate(rules)
    )


def kind_of(wanted: Wanted, number: int) -> Literal["scenario", "concept"]:
    """The kind that a draft is to have, by its number from 1."""
    return random.Random(f"kind {wanted.seed} {number}").choice(wanted.kinds)


def examples_for(seeds: Sequence[Question], wanted: Wanted, number: int) -> tuple[Question, ...]:
    """Seed questions for a draft, at most `wanted.examples`, of its kind where there are any.

    Drafts in a row share them, so that a model's prefix cache can keep them.
    """
    kind = kind_of(wanted, number)
    alike = [seed for seed in seeds if seed.kind == kind] or list(seeds)
    draw = random.Random(f"example {wanted.seed} {kind} {number // _SHARE}")
    return tuple(draw.sample(alike, min(wanted.examples, len(alike))))


def _messages(
    words: Mapping[str, Any],
    rules: Sequence[Rule],
    kind: str,
    examples: Sequence[Question],
    names: Sequence[str],
) -> tuple[Message, ...]:
    turns = [Message(role="system", content=words["instructions"].strip())]
    for example in examples:
        asked = _ask(words, example.principle.splitlines(), example.kind, ())
        turns.append(Message(role="user", content=asked))
        turns.append(Message(role="assistant", content=_as_written(example)))
    texts = [" ".join(f"{each.heading}{words['colon']}{each.text}".split()) for each in rules]
    told = "audience" if rules[0].audience else "place"
    named = [words["names"][told].format(name=name) for name in names[:1]]
    turns.append(Message(role="user", content=_ask(words, texts, kind, named)))
    return tuple(turns)


def _ask(words: Mapping[str, Any], rules: Sequence[str], kind: str, named: Sequence[str]) -> str:
    lines = [words["rule"].format(number=n, rule=rule) for n, rule in enumerate(rules, start=1)]
    lines = [words["rules"], *lines] if lines else []
    lines += named
    return "\n".join((*lines, words["task"].format(kind=words["kinds"].get(kind, "")).strip()))


def _as_written(question: Question) -> str:
    """A seed question in the form that the model is to answer in."""
    right = LETTERS.index(question.answer)
    wrong = [option for at, option in enumerate(question.options) if at != right]
    fields = {"stem": question.stem, "right": question.options[right]}
    fields |= {f"wrong_{n}": option for n, option in enumerate(wrong[:3], start=1)}
    return json.dumps(fields | {"analysis": question.analysis}, ensure_ascii=False)


def known_language(language: str) -> str:
    """`zh` or `en`, the languages that there are prompts and examples in."""
    return "zh" if language.lower().startswith("zh") else "en"


def _language(rules: Sequence[Rule], wanted: Wanted) -> str:
    return known_language(wanted.language or prompt_language(rules[0].text))
