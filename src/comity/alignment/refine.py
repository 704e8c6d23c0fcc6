"""The best of several answers, mended by what the model itself finds wanting in them.

TPO (arXiv 2501.12895): answers are sampled and scored, the model says what sets the best apart
from the worst, and writes new ones from that, so many times. The scores here are the findings of
the checks first, so that no answer that breaks a rule goes before one that does not, and then how
a judge likes an answer against the first one, for what provider and user wish. Our own choices:
critique and instructions for the edit are one call, and the first answer is the one that would
be given without refinement, so that what is chosen never scores below that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from comity.alignment.checks import Judge
from comity.alignment.enforce import CheckText, Deny, Enforced, breaches, violated
from comity.alignment.prefer import Preferred, preferred
from comity.errors import ModelError, ModelMissing, ModelNonsense
from comity.material import as_material, harmless
from comity.models.chat import ChatModel, complete
from comity.preferences.meta_prompt import without_orders
from comity.records import Attempt, Finding, Message, MetaPrompt, Reply, Request, Usage, Weighed
from comity.wording import prompt_language, words_of

SAMPLED_AT = 0.7
"""Temperature of the samples where the answer itself is greedy: greedy ones would be the same."""

_EVEN = 0.5


class Draw(Protocol):
    """Asks the model for one version."""

    async def __call__(self, messages: tuple[Message, ...], number: int) -> Reply:
        """The reply to these messages: number 0 as ever, others as `drawn` says."""


class Scored(NamedTuple):
    """What a version is worth."""

    findings: tuple[Finding, ...] = ()
    liked: float | None = None
    """Share of the judge's votes against the first version, 0.5 for that itself; None where
    nothing is wished for, or the judge was not asked or failed."""
    usage: Usage = Usage()
    failed: str = ""
    """Why the judge's vote is missing."""


Score = Callable[[str, str], Awaitable[Scored]]
"""Scores a version; the second text is the first version."""


class Refined(NamedTuple):
    """The best version, and how it came about."""

    reply: Reply
    """The best version; its usage is that of all versions, critiques and votes."""
    attempts: tuple[Attempt, ...]
    """All versions in order, each with its findings, votes, and the critique it came from."""
    failed: str = ""
    """What failed on the way; empty where nothing did."""


def drawn(request: Request, number: int) -> Request:
    """The request for a version: 0 as it is, others sampled, each with a seed of its own.

    A greedy request is sampled at temperature 0.7.
    """
    if number == 0:
        return request
    return request.model_copy(
        update={
            "temperature": request.temperature or SAMPLED_AT,
            "seed": (request.seed or 0) + number,
        }
    )


def wish_of(weighed: Sequence[Weighed], meta: MetaPrompt) -> str:
    """What provider and user wish, one a line; what the user told of themselves if nothing else."""
    kept = [one.preference.text for one in weighed if one.outcome == "kept"]
    return "\n".join(kept) or without_orders(meta.user_info)[0]


def scorer(question: str, check: CheckText, wish: str, judge: Judge) -> Score:
    """Scores by the findings of `check`, then by a judge's votes for `wish`, if there is one.

    A version that breaks a rule is not put to the judge. A judge that fails gives no vote.
    """

    async def score(text: str, first: str) -> Scored:
        findings = await check(text)
        if not wish:
            return Scored(findings)
        if text == first:
            return Scored(findings, _EVEN)
        if violated(findings, "block", "revise"):
            return Scored(findings)
        vote = await preferred(judge.model, question, wish, text, first, timeout=judge.timeout)
        return Scored(findings, _liked(vote), vote.usage, _why_failed(vote))

    return score


def _liked(vote: Preferred) -> float | None:
    if vote.winner == "failed":
        return None
    if vote.share is not None:
        return round(vote.share, 4)
    return {"one": 1.0, "other": 0.0}.get(vote.winner, _EVEN)


def _why_failed(vote: Preferred) -> str:
    return f"judge: {'; '.join(vote.reasons) or 'no vote'}" if vote.winner == "failed" else ""


async def best_of(
    model: ChatModel,
    request: Request,
    question: str,
    *,
    check: CheckText,
    wish: str,
    judge: Judge,
    samples: int,
    rounds: int,
    deny: Deny = "failed",
) -> Refined:
    """`refine` with one model, whose versions `check` and a judge of wishes score.

    `request` is what would be asked without refinement. Raises what `refine` raises.
    """

    async def draw(messages: tuple[Message, ...], number: int) -> Reply:
        asked = request.model_copy(update={"messages": messages})
        return await complete(model, drawn(asked, number))

    score = scorer(question, check, wish, judge)
    return await refine(
        draw, request.messages, score, samples=samples, rounds=rounds, wish=wish, deny=deny
    )


async def refine(
    ask: Draw,
    messages: tuple[Message, ...],
    score: Score,
    *,
    samples: int,
    rounds: int,
    wish: str = "",
    deny: Deny = "failed",
) -> Refined:
    """The best of `samples` versions of an answer, and of as many more in each of `rounds`.

    It ends early where nothing can be gained: no rule is broken and nothing wished for, or no
    version is better than another. Where the model fails after the first version, the best so
    far is taken, and `failed` says why. Raises what the model raises for the first version,
    `ModelNonsense` for an empty one, and `ModelMissing`.
    """
    work = _Work(ask, score, deny)
    await work.first(messages)
    if not work.is_settled:
        await work.draw(messages, samples - 1)
    words = words_of("refine", prompt_language(messages[-1].content), package="comity.alignment")
    for _ in range(rounds):
        if work.is_settled or not work.differ:
            break
        critique = await work.critique((*messages, *_compared(work.best, work.worst, wish, words)))
        if not critique:
            break
        review = Message(role="user", content=_mended(critique, words))
        await work.draw((*messages, _said(work.best), review), samples, critique)
    return work.refined()


def with_versions(enforced: Enforced, refined: Refined) -> Enforced:
    """What became of the chosen version, with all the others on record."""
    later = enforced.attempts[1:]  # the first is the chosen one
    return enforced._replace(attempts=(*refined.attempts, *later), refining_failed=refined.failed)


class _Version(NamedTuple):
    reply: Reply
    attempt: Attempt


class _Work:
    """The versions so far, and what they took."""

    def __init__(self, ask: Draw, score: Score, deny: Deny) -> None:
        self._ask, self._score, self._deny = ask, score, deny
        self._versions: list[_Version] = []
        self._usages: list[Usage] = []
        self._failures: dict[str, None] = {}
        self._number = 0

    @property
    def best(self) -> Attempt:
        return self._best().attempt

    @property
    def worst(self) -> Attempt:
        return max((version.attempt for version in self._versions), key=self._standing)

    @property
    def differ(self) -> bool:
        """Whether the best and the worst version do."""
        return self._standing(self.best) != self._standing(self.worst)

    @property
    def is_settled(self) -> bool:
        """Whether the best version breaks no rule, and nothing is wished for."""
        wished = self._versions[0].attempt.liked is not None
        return not wished and not any(breaches(self.best.findings, self._deny))

    async def first(self, messages: tuple[Message, ...]) -> None:
        reply = await self._ask(messages, 0)
        if not reply.text.strip():
            raise ModelNonsense(f"model {reply.model!r} gave an empty answer: ask again")
        await self._add(reply, "")

    async def draw(self, messages: tuple[Message, ...], count: int, critique: str = "") -> None:
        """Ask for more versions, all at once; those that fail are left out."""
        numbers = range(self._number + 1, self._number + 1 + count)
        self._number += count
        asked = (self._ask(messages, number) for number in numbers)
        for reply in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(reply, BaseException):
                self._failed(reply)
            elif reply.text.strip():
                await self._add(reply, critique)

    async def critique(self, messages: tuple[Message, ...]) -> str:
        """What the model says of its best and worst version; empty where it fails."""
        try:
            reply = await self._ask(messages, 0)
        except ModelError as error:
            self._failed(error)
            return ""
        self._usages.append(reply.usage)
        return reply.text.strip()

    def refined(self) -> Refined:
        total = Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in self._usages),
            completion_tokens=sum(usage.completion_tokens for usage in self._usages),
        )
        return Refined(
            reply=self._best().reply.model_copy(update={"usage": total}),
            attempts=tuple(version.attempt for version in self._versions),
            failed="; ".join(self._failures),
        )

    def _best(self) -> _Version:
        return min(self._versions, key=lambda version: self._standing(version.attempt))

    def _standing(self, attempt: Attempt) -> tuple[int, int, int, float]:
        """The lower the better: rules before wishes; a version without votes counts as even."""
        liked = _EVEN if attempt.liked is None else attempt.liked
        return (*breaches(attempt.findings, self._deny), -liked)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, ModelError) or isinstance(error, ModelMissing):
            raise error
        self._failures[str(error)] = None

    async def _add(self, reply: Reply, critique: str) -> None:
        self._usages.append(reply.usage)
        if any(reply.text == version.reply.text for version in self._versions):
            return  # scored already
        first = self._versions[0].reply.text if self._versions else reply.text
        scored = await self._score(reply.text, first)
        self._usages.append(scored.usage)
        if scored.failed:
            self._failures[scored.failed] = None
        attempt = Attempt(
            text=reply.text, findings=scored.findings, liked=scored.liked, critique=critique
        )
        self._versions.append(_Version(reply, attempt))


def _said(attempt: Attempt) -> Message:
    return Message(role="assistant", content=attempt.text)


def _compared(
    best: Attempt, worst: Attempt, wish: str, words: Mapping[str, Any]
) -> tuple[Message, ...]:
    """The turns that have the model compare its best answer with its worst."""
    reasons = [words["wish"].format(wish=as_material(wish))] if wish else []
    for name, attempt in (("broken", best), ("other_broken", worst)):
        found = violated(attempt.findings, "block", "revise")
        if found:
            told = (words["finding"].format(reason=_why(finding)) for finding in found)
            reasons.append(words[name].format(findings="\n".join(told)))
    asked = words["compare"].format(other=as_material(worst.text), reasons="\n\n".join(reasons))
    return (_said(best), Message(role="user", content=asked.strip()))


def _why(finding: Finding) -> str:
    return " ".join(harmless(finding.critique or finding.reason or finding.rule).split())


def _mended(critique: str, words: Mapping[str, Any]) -> str:
    told: str = words["mend"].format(critique=as_material(critique))
    return told.strip()
