"""How far a judge can be trusted: its verdicts on answers whose right verdicts are known."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from comity.alignment.judge import TIMEOUT, Criterion, Decided, Judgement, Verdict, judge
from comity.errors import ExamError
from comity.models.chat import ChatModel
from comity.records import VERBATIM, Record
from comity.wording import schema_fault

CaseKind = Literal["plain", "partly", "wrong_conclusion", "omission", "not_applicable", "injection"]
"""What is hard about a case: part of the answer is right; the rule is cited rightly and the
conclusion is contrary; something is left out; a criterion does not apply; the answer speaks to
its judge."""

Result = Literal["agreed", "missed_violation", "false_alarm", "misapplied", "failed"]
"""`missed_violation`: known as violated, judged otherwise. `false_alarm`: judged violated, known
otherwise. `misapplied`: passed taken for not applicable, or the other way round."""


class Case(Record):
    """An answer, and the right verdict for each criterion."""

    model_config = VERBATIM

    id: str = Field(min_length=1, description="Name of the case.")
    language: str = Field("", description="BCP 47 tag of its texts.")
    kind: CaseKind = Field("plain", description="What is hard about it.")
    question: str = Field(description="What was asked.")
    answer: str = Field(description="The answer to be judged.")
    criteria: tuple[Criterion, ...] = Field(min_length=1, description="What it is judged by.")
    known: tuple[Decided, ...] = Field(description="The right verdicts, in the criteria's order.")

    @model_validator(mode="after")
    def _one_verdict_for_each_criterion(self) -> Self:
        if len(self.known) != len(self.criteria):
            raise ValueError(f"{len(self.known)} verdicts for {len(self.criteria)} criteria")
        return self


class JudgedCase(Record):
    """A case and what the judge made of it."""

    case: Case = Field(description="The case.")
    judgement: Judgement = Field(description="What the judge said.")

    @property
    def results(self) -> tuple[Result, ...]:
        """How each verdict compares with the known one."""
        outcomes = self.judgement.outcomes
        pairs = zip(self.case.known, outcomes, strict=True)
        return tuple(_compared(known, outcome.verdict) for known, outcome in pairs)


class JudgeReport(Record):
    """How a judge did on cases with known verdicts."""

    judge: str = Field(description="Name of the model that judged.")
    versions: tuple[str, ...] = Field(description="Versions of the judge's prompt, by language.")
    cases: tuple[JudgedCase, ...] = Field(description="All cases, in their order.")

    @property
    def counts(self) -> dict[Result, int]:
        """Number of verdicts by result; their sum is the number of criteria judged."""
        found = Counter(result for case in self.cases for result in case.results)
        return {result: found[result] for result in _RESULTS}

    @property
    def agreement(self) -> float | None:
        """Share of verdicts that are the known ones, failed ones counted as wrong; None for no
        cases."""
        counts = self.counts
        total = sum(counts.values())
        return counts["agreed"] / total if total else None

    @property
    def by_kind(self) -> dict[CaseKind, tuple[int, int]]:
        """For each kind of case: verdicts that agree, and all."""
        told: dict[CaseKind, tuple[int, int]] = {}
        for one in self.cases:
            agreed, total = told.get(one.case.kind, (0, 0))
            results = one.results
            told[one.case.kind] = (agreed + results.count("agreed"), total + len(results))
        return told


_RESULTS: tuple[Result, ...] = (
    "agreed",
    "missed_violation",
    "false_alarm",
    "misapplied",
    "failed",
)


def read_cases(path: Path | None = None) -> tuple[Case, ...]:
    """The cases in a file of JSON Lines; without a path, those that come with Comity.

    Raises `ExamError`, which names the line.
    """
    name = str(path or "the packaged cases")
    try:
        text = (path or files("comity.evaluation") / "judge_cases.jsonl").read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExamError(f"{name} cannot be read: {error}") from error
    cases = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            cases.append(Case.model_validate_json(line))
        except ValidationError as error:
            raise ExamError(f"{name}, line {number}: {schema_fault(error)}") from error
    return tuple(cases)


async def check_judge(
    model: ChatModel,
    cases: Sequence[Case],
    *,
    timeout: float = TIMEOUT,
    at_once: int = 2,
    on_case: Callable[[JudgedCase], None] | None = None,
) -> JudgeReport:
    """Have a model judge the cases, `at_once` of them at a time, and compare.

    `on_case` is told of each as it comes. Raises `ModelMissing` if the model is not there.
    """
    slots = asyncio.Semaphore(at_once)

    async def one(case: Case) -> JudgedCase:
        async with slots:
            said = await judge(model, case.question, case.answer, case.criteria, timeout=timeout)
        judged = JudgedCase(case=case, judgement=said)
        if on_case:
            on_case(judged)
        return judged

    judged = tuple(await asyncio.gather(*(one(case) for case in cases)))
    versions = tuple(sorted({one.judgement.version for one in judged}))
    return JudgeReport(judge=model.name, versions=versions, cases=judged)


def _compared(known: Decided, verdict: Verdict) -> Result:
    if verdict == "failed":
        return "failed"
    if verdict == known:
        return "agreed"
    if known == "violated":
        return "missed_violation"
    return "false_alarm" if verdict == "violated" else "misapplied"
