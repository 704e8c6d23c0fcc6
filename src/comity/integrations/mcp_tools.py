"""What the MCP server's tools do: find rules, say which are in force, check an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from comity.alignment.aligner import Options, Stopwatch
from comity.alignment.written import aligner_elsewhere, settle_written
from comity.integrations.mcp_resources import uri_of
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.models.chat import ChatModel
from comity.records import (
    Citation,
    Finding,
    Labels,
    OptionalTime,
    Record,
    Rule,
    RuleRef,
    Scope,
)
from comity.retrieval.search import search
from comity.serving.auth import Act


class Asked(Record):
    """A question, and for whom, where and when it is asked."""

    question: str = Field(min_length=1, max_length=20_000, description="The user's question.")
    place: Labels = Field(
        (), description="Places, by code or name: CN, US-CA. Left out, the question's own hold."
    )
    audience: Labels = Field((), description="What the person is: labels that the rules bind.")
    at: OptionalTime = Field(
        None, description="When the facts happened, in ISO 8601; now if left out."
    )

    def scope(self, tenant: str) -> Scope:
        """The scope that is given, before the question's words complete it."""
        return Scope(place=self.place, audience=self.audience, at=self.at, tenant=tenant)


class Searched(Asked):
    """A question whose rules are searched."""

    k: int = Field(8, ge=1, le=50, description="How many rules, at most.")


class Checked(Asked):
    """An answer to be checked."""

    answer: str = Field(min_length=1, max_length=200_000, description="The answer, whole.")
    model: str = Field("", max_length=200, description="Who wrote it, for the record.")


class FoundRule(Record):
    """A rule, as a tool gives it."""

    uri: str = Field(description="The resource that holds this version.")
    id: str
    version: int
    title: str
    article: str
    text: str
    place: str
    audience: tuple[str, ...]
    authority: str
    mandatory: bool
    enforcement: str
    valid_from: OptionalTime
    valid_to: OptionalTime
    score: float | None = Field(None, description="Comparable within one search only.")


class FoundRules(Record):
    """What a search gives, most similar first."""

    revision: int = Field(description="Revision of the memory that was searched.")
    rules: tuple[FoundRule, ...]


class InForce(Record):
    """The ruling on a question."""

    revision: int = Field(description="Revision of the memory that holds it.")
    place: tuple[str, ...]
    audience: tuple[str, ...]
    kept: tuple[FoundRule, ...] = Field(description="In order of precedence, highest first.")
    overruled: tuple[RuleRef, ...] = Field(description="What gave way, to which, and why.")
    prompt: str = Field(description="The rules as a system message, ready for a model.")


class Verdict(Record):
    """What the rules say of an answer."""

    decision: str = Field(description="The record of this check.")
    revision: int
    withheld: bool = Field(description="Whether a rule keeps the answer back.")
    text: str = Field(description="The answer, or what may be said in its place.")
    findings: tuple[Finding, ...] = Field(description="One for each rule that had to be checked.")
    citations: tuple[Citation, ...]


class Tools:
    """The tools, on one memory."""

    def __init__(self, memory: Memory, options: Options, judge: ChatModel | None) -> None:
        self._memory, self._judge = memory, judge
        self._options = options.model_copy(update={"release": "strict"})

    async def search_rules(self, tenant: str, asked: Searched) -> FoundRules:
        """The rules that apply to a question, most similar first."""

        def find() -> FoundRules:
            given = asked.scope(tenant)
            scope = locate(self._memory, asked.question, given, default_place=self._options.place)
            found = search(self._memory, asked.question, scope, k=asked.k)
            rules = tuple(_told(hit.rule, hit.score) for hit in found.hits)
            return FoundRules(revision=found.revision, rules=rules)

        return await asyncio.to_thread(find)

    async def rules_in_force(self, tenant: str, asked: Asked) -> InForce:
        """The rules that an answer to the question has to follow, conflicts decided."""
        aligner = aligner_elsewhere(self._memory, self._options, name="mcp", judge=self._judge)
        case = await asyncio.to_thread(
            aligner.prepare, asked.question, asked.scope(tenant), Stopwatch()
        )
        return InForce(
            revision=case.found.revision,
            place=case.scope.place,
            audience=case.scope.audience,
            kept=tuple(_told(rule) for rule in case.ruling.kept),
            overruled=tuple(
                RuleRef(
                    id=lost.rule.id,
                    version=lost.rule.version,
                    reason=lost.reason,
                    winner=lost.winner.id,
                )
                for lost in case.ruling.overruled
            ),
            prompt=case.prompt.messages[0].content,
        )

    async def check_answer(self, tenant: str, asked: Checked) -> Verdict:
        """Whether an answer keeps to the rules in force. The check leaves a decision record."""
        name = asked.model or "mcp"
        aligner = aligner_elsewhere(self._memory, self._options, name=name, judge=self._judge)
        case = await asyncio.to_thread(
            aligner.prepare, asked.question, asked.scope(tenant), Stopwatch()
        )
        answer = await settle_written(aligner, case, asked.answer)
        return Verdict(
            decision=answer.decision.id,
            revision=answer.decision.revision,
            withheld=answer.decision.withheld,
            text=answer.text,
            findings=answer.decision.findings,
            citations=answer.citations,
        )


class Described(NamedTuple):
    """A tool, as a client sees it."""

    takes: type[Record]
    gives: type[Record]
    act: Act
    """What the caller's key must allow."""
    reads_only: bool
    does: Callable[[Tools, str, Any], Awaitable[BaseModel]]
    """Called with the tools, the tenant, and what is taken."""


DESCRIBED: dict[str, Described] = {
    "search_rules": Described(Searched, FoundRules, "read rules", True, Tools.search_rules),
    "rules_in_force": Described(Asked, InForce, "read rules", True, Tools.rules_in_force),
    "check_answer": Described(Checked, Verdict, "ask", False, Tools.check_answer),
}


def _told(rule: Rule, score: float | None = None) -> FoundRule:
    said = rule.model_dump(include=set(FoundRule.model_fields))
    return FoundRule(uri=uri_of(rule.id, rule.version), score=score, **said)
