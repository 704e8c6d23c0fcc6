"""How an aligner answers: what a caller may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from comity.alignment.enforce import Deny
from comity.alignment.release import Release
from comity.records import WORLD, Record

Infer = Literal["never", "user_info", "conversation"]
"""Implicit preferences are inferred from nothing, from what is said of the user, or from their
turns as well: one more call to the model for each new text."""


class Options(Record):
    """How an aligner answers."""

    place: str = Field(WORLD, description="Place of a question that names none.")
    hits: int = Field(20, ge=1, description="How many rules search gives.")
    relevance: float = Field(
        0.75, ge=0, le=1, description="Hits after the fourth must score this share of the best."
    )
    budget: int = Field(1000, ge=0, description="Tokens that the rules may take in the prompt.")
    incomplete_note: bool = Field(True, description="Tell the model that rules may be missing.")
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(0.0, ge=0.0, description="0 is greedy.")
    seed: int | None = Field(None, description="For sampling that can be repeated.")
    release: Release = Field("strict", description="When text leaves (see `release`).")
    rounds: int = Field(2, ge=0, description="How often an answer is rewritten, at most.")
    judge_timeout: float = Field(30.0, gt=0, description="Seconds that the judge may take.")
    deny_unchecked: Deny = Field(
        "failed", description="Under `block` rules, what is withheld unchecked (see `enforce`)."
    )
    judge_conflicts: bool = Field(
        False, description="Gateway: have the judge compare rules that were in force together."
    )
    infer: Infer = Field(
        "never", description="From what wishes that nobody stated are inferred (see `infer`)."
    )
    rewrite: Literal["off", "on"] = Field(
        "off", description="Search also what the model makes of the question; not in the gateway."
    )
    samples: int = Field(
        1, ge=1, le=16, description="Answers of which the best is taken; not in the gateway."
    )
    refine_rounds: int = Field(
        1, ge=0, le=8, description="How often as many are written anew from a critique of these."
    )
