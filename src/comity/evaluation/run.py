"""Running exams: every question in every mode, kept as it comes, stopped and continued at will."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice, zip_longest
from typing import NamedTuple

from comity.alignment.decisions import overruled_refs, refs
from comity.errors import ComityError, ExamError
from comity.evaluation.ask import ExamOptions, Put, put
from comity.evaluation.exams import Exam, Question
from comity.evaluation.gold import gold_entries, tie
from comity.evaluation.retire import review
from comity.evaluation.runs import Item, Key, Mode, Run
from comity.evaluation.turns import Choice, tell_in_turns
from comity.memory.memory import Memory
from comity.models.chat import ChatModel
from comity.records import RuleRef
from comity.workers import Workers


class Job(NamedTuple):
    """One question to be put in one mode."""

    exam: str
    question: Question
    mode: Mode

    @property
    def key(self) -> Key:
        """Exam, question and mode."""
        return (self.exam, self.question.id, self.mode)


class Examiner(NamedTuple):
    """What answers, and how it is asked."""

    model: ChatModel
    memory: Memory | None
    options: ExamOptions
    earlier: Mapping[Key, Item] = {}
    """Items of an earlier run of the same model: where the prompt is the same, they stand."""


def prepared(exam: Exam, memory: Memory | None, tenant: str) -> Exam:
    """The exam with its gold rules tied, and with questions retired that rules have outrun.

    Without a memory, as it is.
    """
    if memory is None:
        return exam
    versions = memory.changes_since(0, tenant=tenant)
    tied = tie(exam.questions, [stored.rule for stored in versions])
    return exam.model_copy(update={"questions": review(tied, memory, tenant=tenant)})


def sample(exam: Exam, limit: int | None, seed: int) -> tuple[Question, ...]:
    """The questions that are asked: all active ones, or `limit` of them drawn with `seed`.

    A larger limit with the same seed asks the same questions and more, and one that is retired
    is replaced by another, while the rest stay.
    """
    if limit is None or limit >= len(exam.active):
        return exam.active
    order = list(exam.questions)
    random.Random(seed).shuffle(order)
    asked = (question for question in order if question.status != "retired")
    return tuple(islice(asked, limit))


def names_gold(question: Question) -> bool:
    """Whether it says from which rules it was made, in a form that can be read."""
    return bool(question.rules or gold_entries(question.principle))


def jobs(drawn: Mapping[str, Sequence[Question]], modes: Sequence[Mode]) -> Iterator[Job]:
    """Every question of every exam in every mode.

    The exams take turns, so that a run that is stopped has asked something of each, and its
    questions in all modes. There is no `oracle` for a question that names no gold rules.
    """
    turns = zip_longest(*([(exam, q) for q in questions] for exam, questions in drawn.items()))
    for exam, question in (turn for round_ in turns for turn in round_ if turn is not None):
        for mode in modes:
            if mode != "oracle" or names_gold(question):
                yield Job(exam, question, mode)


async def execute(
    run: Run,
    todo: Sequence[Job],
    examiner: Examiner,
    *,
    parallel: int = 1,
    seen: Callable[[Item], None] = lambda item: None,
) -> int:
    """Put what the run has not yet, `parallel` questions at a time; returns how many were put.

    Each item is kept as it comes, then handed to `seen`. A model that fails ends the run: what
    was answered is kept, and the run can be continued, where empty answers are asked for again.
    Raises `ExamError` then.
    """
    done = run.answered()
    waiting = iter([job for job in todo if job.key not in done])
    count = 0

    async def work() -> None:
        nonlocal count
        for job in waiting:
            item = await examine(job, examiner)
            run.append(item)
            count += 1
            seen(item)

    workers = [asyncio.create_task(work()) for _ in range(parallel)]
    try:
        await asyncio.gather(*workers)
    except ComityError as error:
        raise _stopped(run, len(done) + count, len(todo), error) from error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return count


def _stopped(run: Run, answers: int, todo: int, error: ComityError) -> ExamError:
    return ExamError(
        f"stopped after {answers} of {todo} answers, which are kept in {run.folder}; continue "
        f"with --resume --out {run.folder}. The reason: {error}"
    )


def execute_elsewhere(
    run: Run,
    todo: Sequence[Job],
    workers: Workers[Job, Item],
    *,
    seen: Callable[[Item], None] = lambda item: None,
) -> int:
    """`execute` by workers: each question's item is kept once, whichever worker was lost."""
    done = run.answered()
    waiting = [workers.submit(job) for job in todo if job.key not in done]
    for count in range(len(waiting)):
        try:
            _, item = workers.done()
        except ComityError as error:
            raise _stopped(run, len(done) + count, len(todo), error) from error
        run.append(item)
        seen(item)
    return len(waiting)


async def examine(job: Job, examiner: Examiner) -> Item:
    """Put one question in one mode. Raises the `ModelError` of a model that fails."""
    start = time.perf_counter()
    prepared = await asyncio.to_thread(
        put,
        job.question,
        job.mode,
        examiner.memory,
        examiner.model.count_tokens,
        examiner.options,
    )
    ready = time.perf_counter()
    earlier = examiner.earlier.get(job.key)
    if earlier and _stands(earlier, job.question, prepared):
        return _taken_over(earlier, _item(job, prepared, _told_before(earlier)))
    told = await tell_in_turns(examiner.model, job.question, prepared, examiner.options)
    answered = time.perf_counter()
    item = _item(job, prepared, told)
    seconds = {"prepare": ready - start, "model": answered - ready}
    seconds["total"] = time.perf_counter() - start
    return item.model_copy(update={"seconds": {k: round(v, 4) for k, v in seconds.items()}})


def _stands(earlier: Item, question: Question, prepared: Put) -> bool:
    """Whether an earlier item is the answer to the very same prompt and question."""
    same = (earlier.asked_sha256, earlier.question_sha256)
    return earlier.answered and same == (prepared.sha256, question.content_hash)


def _told_before(earlier: Item) -> Choice:
    return Choice(
        letter=earlier.letter,
        by=earlier.scored_by,
        text=earlier.text,
        logprobs=earlier.logprobs,
        turns=earlier.turns,
        usage=earlier.usage,
        not_scored=earlier.not_scored,
    )


def _taken_over(earlier: Item, item: Item) -> Item:
    """The item with the earlier one's moment and seconds; its rules are those of now."""
    kept = {"at": earlier.at, "seconds": earlier.seconds, "reused": True}
    return item.model_copy(update=kept)


def _item(job: Job, prepared: Put, told: Choice) -> Item:
    question = job.question
    return Item(
        exam=job.exam,
        question=question.id,
        question_sha256=question.content_hash,
        kind=question.kind,
        mode=job.mode,
        asked=prepared.messages,
        asked_sha256=prepared.sha256,
        answer=question.answer,
        letter=told.letter,
        not_scored=told.not_scored,
        scored_by=told.by,
        logprobs=dict(told.logprobs),
        turns=told.turns,
        text=told.text,
        scope=prepared.scope,
        revision=prepared.revision,
        hits=tuple(
            RuleRef(id=hit.rule.id, version=hit.rule.version, score=hit.score)
            for hit in prepared.hits
        ),
        kept=tuple(refs(prepared.ruling.kept)),
        overruled=tuple(overruled_refs(prepared.ruling)),
        left_out=tuple(refs(prepared.left_out)),
        sent=tuple(refs(prepared.rules)),
        rule_tokens=prepared.rule_tokens,
        gold=prepared.gold,
        gold_found=prepared.gold_found,
        gold_sent=prepared.gold_sent,
        gold_at=prepared.gold_at,
        usage=told.usage,
        at=datetime.now(UTC),
    )
