"""The preference exam: every question under every wish in every mode, judged and kept as it comes.

For a question and several wishes that pull apart: does the answer follow the one that was given,
does it change when the wish changes, and do the rules still hold? What code can tell, code
decides; else a judge says which of two opposite wishes the answer was written for, in both orders
of the two, and where the orders disagree nothing is decided.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple

from comity.alignment.prefer import Followed, follows
from comity.errors import ComityError, ExamError
from comity.evaluation.preference_ask import Examinee, Put, provider_words, put_rule_case, put_wish
from comity.evaluation.preference_cases import PreferenceQuestion, RuleCase, drawn
from comity.evaluation.preference_runs import (
    Key,
    PreferenceItem,
    PreferenceMode,
    PreferenceRun,
    prompts_sha256,
)
from comity.evaluation.preference_verdicts import ruled_now
from comity.models.chat import ChatModel
from comity.records import Reply

DEAR: tuple[PreferenceMode, ...] = ("refined", "contrast")
"""Modes that cost several answers each; they may be asked a share of the questions."""

DECIDING = 300.0
"""Seconds that one question to the judge may take."""


class Job(NamedTuple):
    """One question under one wish, or one rule case, in one mode."""

    case: PreferenceQuestion | RuleCase
    number: int
    mode: PreferenceMode

    @property
    def key(self) -> Key:
        """What its item is found by."""
        part = "wish" if isinstance(self.case, PreferenceQuestion) else "rule"
        return (part, self.case.id, self.number, self.mode)


def jobs(
    questions: Sequence[PreferenceQuestion],
    rule_cases: Sequence[RuleCase],
    modes: Sequence[PreferenceMode],
    dear: Iterable[str] | None = None,
) -> Iterator[Job]:
    """Every question under every wish, and every rule case, in every mode.

    Questions and rule cases take turns, and each comes in all modes before the next, so that a
    run that is stopped can be read. `dear` names those that `refined` and `contrast` are asked;
    None is all of them. Rule cases have no mode `plain`.
    """
    named = None if dear is None else set(dear)
    turns = zip_longest(questions, rule_cases)
    for case in (case for turn in turns for case in turn if case is not None):
        several = isinstance(case, PreferenceQuestion)
        for number in range(len(case.wishes) if isinstance(case, PreferenceQuestion) else 1):
            for mode in modes:
                if mode in DEAR and named is not None and case.id not in named:
                    continue
                if several or mode != "plain":
                    yield Job(case, number, mode)


def dear_ones(
    questions: Sequence[PreferenceQuestion],
    rule_cases: Sequence[RuleCase],
    share: float,
    seed: int,
) -> tuple[str, ...]:
    """Ids of the questions and rule cases that `refined` and `contrast` are asked, drawn."""
    some = drawn(questions, math.ceil(share * len(questions)), seed)
    cases = drawn(rule_cases, math.ceil(share * len(rule_cases)), seed)
    return (*(question.id for question in some), *(case.id for case in cases))


async def execute(
    run: PreferenceRun,
    todo: Sequence[Job],
    examinee: Examinee,
    judge: ChatModel,
    *,
    parallel: int = 1,
    seen: Callable[[PreferenceItem], None] = lambda item: None,
) -> int:
    """Put what the run has not yet, `parallel` answers at a time; returns how many were put.

    Each item is kept as it comes, then handed to `seen`. In `none` an answer counts for all
    wishes whose provider says the same: it is asked once. A model that fails ends the run with
    an `ExamError`; what was answered is kept, and `--resume` goes on.
    """
    done = dict(run.latest())
    waiting = iter([job for job in todo if job.key not in done])
    count = 0

    async def work() -> None:
        nonlocal count
        for job in waiting:
            item = await examine(job, examinee, judge, done)
            run.append(item)
            done[item.key] = item
            count += 1
            seen(item)

    workers = [asyncio.create_task(work()) for _ in range(parallel)]
    try:
        await asyncio.gather(*workers)
    except ComityError as error:
        told = sum(job.key in done for job in todo)
        raise ExamError(
            f"stopped after {told} of {len(todo)} answers, which are kept in {run.folder}; "
            f"continue with --resume --out {run.folder}. The reason: {error}"
        ) from error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return count


async def examine(
    job: Job, examinee: Examinee, judge: ChatModel, done: dict[Key, PreferenceItem]
) -> PreferenceItem:
    """Put one job and judge the answer. Raises the `ModelError` of a model that fails."""
    if isinstance(job.case, RuleCase):
        return await _rule_case(job, job.case, examinee)
    start = time.perf_counter()
    earlier = _asked_before(job, job.case, done)
    put = _again(earlier) if earlier else await put_wish(examinee, job.case, job.number, job.mode)
    answered = time.perf_counter()
    verdict = await judged(judge, job.case, job.number, put.reply.text)
    seconds = {"answer": answered - start, "judge": time.perf_counter() - answered}
    wish = job.case.wishes[job.number]
    item = _item(job, put, seconds)
    return item.model_copy(
        update={
            "family": wish.family,
            "explicit": wish.explicit,
            "followed": verdict,
            "reused": earlier is not None,
        }
    )


async def judged(
    judge: ChatModel, question: PreferenceQuestion, number: int, answer: str
) -> Followed:
    """Whether an answer follows a wish of its question: by code where it can be told, else by
    the judge. A judge that fails is a kept verdict, `failed`."""
    wish = question.wishes[number]
    return await follows(
        judge,
        question.question,
        answer,
        wish.wish,
        question.opposite(number),
        check=wish.check,
        timeout=DECIDING,
    )


async def _rule_case(job: Job, case: RuleCase, examinee: Examinee) -> PreferenceItem:
    start = time.perf_counter()
    put = await put_rule_case(examinee, case, job.mode)
    return ruled_now(_item(job, put, {"answer": time.perf_counter() - start}), case)


def _asked_before(
    job: Job, question: PreferenceQuestion, done: dict[Key, PreferenceItem]
) -> PreferenceItem | None:
    """The answer to the same prompt in `none`, under another wish."""
    if job.mode != "none":
        return None
    mine = provider_words(question.wishes[job.number].meta)
    for number, wish in enumerate(question.wishes):
        item = done.get(("wish", question.id, number, "none"))
        if item and provider_words(wish.meta) == mine:
            return item
    return None


def _again(item: PreferenceItem) -> Put:
    reply = Reply(text=item.text, model=item.model, finish_reason=item.finish_reason)
    return Put(asked=item.asked, reply=reply)


def _item(job: Job, put: Put, seconds: dict[str, float]) -> PreferenceItem:
    part, question, number, mode = job.key
    decision = put.decision
    return PreferenceItem(
        part="rule" if part == "rule" else "wish",
        question=question,
        number=number,
        mode=mode,
        asked=put.asked,
        asked_sha256=prompts_sha256(put.asked),
        text=put.reply.text,
        finish_reason=put.reply.finish_reason,
        model=put.reply.model,
        usage=put.reply.usage,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        kept=decision.kept if decision else (),
        preferences=decision.preferences if decision else (),
        withheld=decision.withheld if decision else False,
        at=datetime.now(UTC),
    )
