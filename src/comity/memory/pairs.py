"""Pairs of rules that a judge compared, and what the owners of the rules decided on them.

A finding is known by the words of both rules: a version that changes neither text, heading,
place nor audience of a rule keeps its findings, and one that changes any of these is another
pair, to be judged anew. Findings are a cache and are made by models; decisions are an
append-only list and are made by people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, Self

from pydantic import Field

from comity.records import VERBATIM, Record, Rule, Time

Verdict = Literal["contradict", "compatible", "unsure", "failed"]
Decided = Literal["confirmed", "dismissed"]


class Pair(NamedTuple):
    """Two versions of different rules, in the order of their ids."""

    one: Rule
    other: Rule

    @classmethod
    def of(cls, first: Rule, second: Rule) -> Self:
        """The pair of two rules, whichever is given first."""
        return cls(*sorted((first, second), key=lambda rule: rule.key))

    @property
    def id(self) -> str:
        """Name of the pair: `c-` and 16 hex digits over both ids and what the rules say."""
        said = json.dumps([(rule.id, words_hash(rule)) for rule in self], ensure_ascii=False)
        return f"c-{hashlib.sha256(said.encode()).hexdigest()[:16]}"


def words_hash(rule: Rule) -> str:
    """SHA-256 over what a rule says, where and to whom: the same for versions that agree in it."""
    said = [rule.title, rule.article, rule.text, rule.place, rule.audience]
    return hashlib.sha256(json.dumps(said, ensure_ascii=False).encode()).hexdigest()


class JudgedPair(Record):
    """What a judge found of two rules."""

    model_config = VERBATIM

    id: str = Field(description="Name of the pair.")
    one: str = Field(description="Id of the first rule.")
    one_version: int = Field(ge=1, description="Its version when it was judged.")
    other: str = Field(description="Id of the second rule.")
    other_version: int = Field(ge=1, description="Its version when it was judged.")
    verdict: Verdict = Field(description="The judge's verdict, or `failed` if there is none.")
    reason: str = Field("", description="What the judge wrote before its verdict; why it failed.")
    one_quotation: str = Field("", description="Words of the first rule on which it rests.")
    other_quotation: str = Field("", description="Words of the second rule on which it rests.")
    judge: str = Field(description="Name of the model that judged.")
    wording: str = Field(description="Language and hash of the judge's prompt and schema.")
    made_at: Time = Field(description="When it was judged.")
    decided: Decided | None = Field(None, description="What an owner decided last, if anything.")


class PairDecision(Record):
    """What an owner of rules decided on a pair."""

    pair: str = Field(description="Name of the pair.")
    decided: Decided = Field(description="Whether the rules contradict one another.")
    author: str = Field(description="Who decided.")
    note: str = Field("", description="Why, in the author's words.")
    made_at: Time = Field(description="When.")
    winner: str = Field("", description="Rule that was given an `overrides`, if confirmed.")
    winner_version: int = Field(0, ge=0, description="The version that declares it.")


class PairBook(Protocol):
    """The findings and decisions of a book of record; its errors are the book's."""

    def keep(self, tenant: str, judged: JudgedPair, *, again: bool = False) -> None:
        """Keep a finding. Of a pair that has one, `again` replaces it; a failed one always is.

        A finding on which an owner has decided stays.
        """

    def judged(self, tenant: str, ids: Sequence[str]) -> list[JudgedPair]:
        """The findings on these pairs, in order of the rules' ids."""

    def found(self, tenant: str, verdict: Verdict) -> list[JudgedPair]:
        """A tenant's findings of one verdict, in order of the rules' ids."""

    def suspicions(self, tenant: str, rules: Sequence[str]) -> list[JudgedPair]:
        """Findings of a contradiction between any two of these rules, dismissed ones apart."""

    def decide(self, tenant: str, decision: PairDecision) -> None:
        """Append a decision. Raises `NotFound` for a pair that has no finding."""

    def decisions(self, tenant: str, pair: str) -> list[PairDecision]:
        """The decisions on a pair, oldest first."""
