"""Lessons from the rules of a memory: the answer that follows the kept rules is chosen.

For a rule, the model writes a question of somebody who would like to break it, and answers it
under the aligner's own prompt, without any rule, and to somebody who wants to hear that it is
fine. Two lessons come of it: the prompt with the rules, and the same with the user's wish to
break them. Where the rule's check lets code decide, the chosen answer passes it and the rejected
one does not; else the judge compares the two, in both orders, by the rule's words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from comity.alignment.aligner import Aligner, Case, Stopwatch
from comity.alignment.checks import check, needs_judge, to_check
from comity.alignment.prefer import Preferred
from comity.errors import ModelError, ModelMissing
from comity.material import as_material
from comity.memory.memory import Memory
from comity.models.chat import ChatModel
from comity.records import WORLD, Message, Record, Request, Rule, Scope
from comity.training.journal import Journal
from comity.training.lessons import Lesson
from comity.wording import prompt_language, words_of

_ASK_TOKENS = 80
_ANSWER_TOKENS = 220


class FromRule(Record):
    """What became of one rule."""

    rule: str = Field(description="Its id and version.")
    question: str = Field("", description="The question that was written about it.")
    lessons: tuple[Lesson, ...] = Field((), description="What it teaches.")
    compared: tuple[Preferred, ...] = Field((), description="What the judge said.")
    dropped: tuple[str, ...] = Field((), description="Why there are fewer than two lessons.")
    unanswered: bool = Field(False, description="Whether a model failed.")


class Rules(NamedTuple):
    """The rules that lessons are made from."""

    memory: Memory
    tenant: str
    wanted: int


def drawn(rules: Rules, seed: int) -> tuple[Rule, ...]:
    """Rules in force that questions are asked about: those with a check first, then by chance."""
    now = rules.memory.clock()
    in_force = [
        rule
        for rule in (stored.rule for stored in rules.memory.rules(tenant=rules.tenant))
        if rule.status == "active"
        and rule.authority != "preference"
        and (rule.valid_from is None or rule.valid_from <= now)
        and (rule.valid_to is None or now < rule.valid_to)
    ]
    in_force.sort(key=lambda rule: rule.id)
    random.Random(f"rules {seed}").shuffle(in_force)
    in_force.sort(key=lambda rule: needs_judge(rule))
    return tuple(in_force[: rules.wanted])


async def from_rule(
    aligner: Aligner, judge: ChatModel | None, rule: Rule, journal: Journal, *, seed: int = 0
) -> FromRule:
    """The lessons of one rule. Raises `ModelMissing`; other failures are told as dropped."""
    name = f"{rule.id}@{rule.version}"
    try:
        question = await _question(aligner.model, rule, journal, seed)
        if not question:
            return FromRule(rule=name, dropped=("no question could be read from the reply",))
        scope = Scope(
            place=() if rule.place == WORLD else (rule.place,),
            audience=rule.audience,
            tenant=rule.tenant,
        )
        case = aligner.prepare(question, scope, Stopwatch())
        if rule.key not in {each.key for each in case.prompt.rules}:
            reason = "search did not find the rule for its own question"
            return FromRule(rule=name, question=question, dropped=(reason,))
        return await _lessons(aligner.model, judge, rule, case, journal, seed)
    except ModelMissing:
        raise
    except ModelError as error:
        return FromRule(rule=name, dropped=(f"the model failed: {error}",), unanswered=True)


async def _question(model: ChatModel, rule: Rule, journal: Journal, seed: int) -> str:
    """A question about the rule; empty where the reply is none."""
    words = words_of("data", prompt_language(rule.text), package="comity.training")
    shown = as_material(f"{rule.heading}\n{rule.text}")
    request = Request(
        messages=(
            Message(role="system", content=words["ask"].strip()),
            Message(role="user", content=words["rule"].format(rule=shown)),
        ),
        max_tokens=_ASK_TOKENS,
        seed=seed,
    )
    reply = await journal.answer(model, request)
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    fit = reply.finish_reason != "length" and len(lines) == 1 and lines[0][-1] in "?？"
    return lines[0] if fit else ""


async def _lessons(
    model: ChatModel, judge: ChatModel | None, rule: Rule, case: Case, journal: Journal, seed: int
) -> FromRule:
    question = case.asked
    words = words_of("data", prompt_language(question), package="comity.training")
    defiant = words["defy"].format(question=question)
    kept = await _answer(model, case.prompt.messages, journal, seed)
    lessons: list[Lesson] = []
    compared: list[Preferred] = []
    dropped: list[str] = []
    for asked in (question, defiant):
        user = Message(role="user", content=asked)
        broken = await _answer(model, (user,), journal, seed)
        if not kept or not broken:
            dropped.append("an answer was empty or cut off")
            continue
        wish = words["keep"].format(rule=rule.text)
        by, reason, said = await _told_apart(judge, rule, asked, (kept, broken), wish, journal)
        compared += [said] if said else []
        reason = reason or await _breaks_another(case.prompt.rules, rule, asked, kept)
        if reason:
            dropped.append(reason)
            continue
        prompt = (*case.prompt.messages[:-1], user)
        lessons.append(
            Lesson(
                family="rules",
                question=f"rule {rule.id}",
                wish=wish,
                by=by,
                prompt=prompt,
                chosen=kept,
                rejected=broken,
            )
        )
    return FromRule(
        rule=f"{rule.id}@{rule.version}",
        question=question,
        lessons=tuple(lessons),
        compared=tuple(compared),
        dropped=tuple(dropped),
    )


async def _answer(
    model: ChatModel, messages: Sequence[Message], journal: Journal, seed: int
) -> str:
    """The model's answer; empty where it was cut off."""
    request = Request(messages=tuple(messages), max_tokens=_ANSWER_TOKENS, seed=seed)
    reply = await journal.answer(model, request)
    return "" if reply.finish_reason == "length" else reply.text.strip()


async def _told_apart(
    judge: ChatModel | None,
    rule: Rule,
    question: str,
    answers: tuple[str, str],
    wish: str,
    journal: Journal,
) -> tuple[Literal["code", "judge"], str, Preferred | None]:
    """Who told the answers apart, why they make no lesson if they do not, and the judge's word."""
    kept, broken = answers
    if not needs_judge(rule):
        if not await _passes(rule, question, kept):
            return "code", "by the rule's check, the answer with the rules breaks it", None
        if await _passes(rule, question, broken):
            return "code", "by the rule's check, the answer without the rules keeps it too", None
        return "code", "", None
    if judge is None:
        return "judge", "code cannot check the rule, and there is no judge", None
    said = await journal.compare(judge, question, wish, kept, broken)
    reasons = {
        "one": "",
        "other": "the judge preferred the answer without the rules",
        "tie": "the judge's verdict changed with the order of the answers",
        "failed": f"the judge failed: {'; '.join(said.reasons)}",
    }
    return "judge", reasons[said.winner], said


async def _breaks_another(rules: Sequence[Rule], asked_of: Rule, question: str, kept: str) -> str:
    """Which other rule that is enforced the wanted answer breaks, as far as code can tell."""
    others = [rule for rule in to_check(rules) if rule.key != asked_of.key]
    for rule in others:
        if not needs_judge(rule) and not await _passes(rule, question, kept):
            return f"the answer with the rules breaks another of them, {rule.id}"
    return ""


async def _passes(rule: Rule, question: str, answer: str) -> bool:
    """Whether an answer passes the rule's check by code, whatever a breach leads to."""
    checked = rule.model_copy(update={"enforcement": "block"})
    findings = await check(question, answer, [checked], [], None)
    return findings[0].outcome == "passed"
