"""Preference data, the whole way: questions, directions, answers, rankings, lessons, files, card.

    questions   without doubles, and without those of an exam
    directions  for each, two wishes that contradict one another, and meta-prompts with them
    answers     by any chat model, under each wish
    rankings    of the same answers under each wish, by code or by a judge in both orders
    lessons     under each meta-prompt, the answer that suits its wish best, and the worst

The way is MetaAlign's (arXiv 2410.14184): what is ranked first under one preference is ranked
last under another. Sizes, words, the matrix and all thresholds are our own choice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from comity.alignment.aligner import Aligner
from comity.alignment.aligner import Options as AlignerOptions
from comity.errors import ModelError, TrainingError
from comity.models.chat import ChatModel
from comity.preferences.meta_prompt import messages_of
from comity.records import FAMILIES, Message, Rule
from comity.training.built import Built, Dropped, Options, Outcome, Stage, places
from comity.training.candidates import Candidate, Written, write
from comity.training.card import card
from comity.training.contamination import Exams, alike
from comity.training.directions import Case, Unfit, View, cases
from comity.training.families import Material, Seed
from comity.training.from_rules import Rules, drawn, from_rule
from comity.training.journal import Journal
from comity.training.lessons import Lesson, without_doubles, write_files
from comity.training.ranking import Places, Ranking, check_judge, crossed, rank

JOURNAL = "build.jsonl"
CARD = "card.md"

_GIVE_UP = 3  # questions in a row for which a model gives nothing
_CROSSED = "the judge preferred an answer that was written for the opposite wish"

Progress = Callable[[int, int, tuple[Dropped, ...]], None]
"""Questions done, questions in all, and what was dropped of the last one."""

_Job = Callable[[], Awaitable[Outcome]]


class Models(NamedTuple):
    """Who writes and who judges; without a judge, answers are ranked as they were written."""

    model: ChatModel
    judge: ChatModel | None

    @property
    def judge_name(self) -> str:
        """Name of the judge; empty where there is none."""
        return self.judge.name if self.judge else ""


async def build(
    folder: Path,
    material: Material,
    models: Models,
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    exams: Exams,
    rules: Rules | None = None,
    resume: bool = False,
    progress: Progress = lambda done, of, dropped: None,
) -> Built:
    """Build the data in `folder`: files for SFT and DPO, the card, the journal.

    With `rules`, lessons from rules of a memory are added. Raises `TrainingError` for a folder
    that holds a build (unless `resume`), for a judge that nearly always prefers one place, and
    where no row came of it; `ModelMissing`, and `ModelError` where a model gives nothing for
    three questions in a row. What was asked until then is in the journal.
    """
    questions, unused = _fresh(material.questions, exams, options.limit)
    plan = cases(
        material.model_copy(update={"questions": questions}),
        per_question=options.per_question,
        seed=options.seed,
    )
    unused += [
        _dropped("question", one.question, one.reason) for one in plan if isinstance(one, Unfit)
    ]
    with Journal(folder / JOURNAL, resume=resume) as journal:
        jobs = [*_case_jobs(plan, models, options, journal)]
        if rules is not None:
            jobs += _rule_jobs(rules, models, options, journal)
        outcomes = await _run(jobs, models.judge_name, options, progress)
        lessons, doubled = _clean([each for one in outcomes for each in one.lessons], exams)
        built = Built(
            lessons=lessons,
            files=write_files(folder, lessons, options.eval_share, options.seed),
            dropped=(*unused, *(each for one in outcomes for each in one.dropped), *doubled),
            compared=tuple(said for one in outcomes for said in one.compared),
            flipped=sum(one.flipped is True for one in outcomes),
            flippable=sum(one.flipped is not None for one in outcomes),
            asked=journal.asked,
            kept=journal.kept,
        )
    _write_card(folder, card(built, material, models.model.name, models.judge_name, options, exams))
    if not lessons:
        raise TrainingError(f"no row came of {len(jobs)} questions and rules: see {folder / CARD}")
    return built


def _fresh(
    seeds: Sequence[Seed], exams: Exams, limit: int | None
) -> tuple[tuple[Seed, ...], list[Dropped]]:
    """The questions that are used, and the others: doubles, and those of an exam."""
    texts = [seed.question for seed in seeds]
    reasons = {at: f"it is like question {seeds[of].id}" for at, of in alike(texts).items()}
    reasons |= exams.near(texts)
    fresh = [seed for at, seed in enumerate(seeds) if at not in reasons]
    dropped = [_dropped("question", seeds[at].id, reasons[at]) for at in sorted(reasons)]
    return tuple(_by_turns(fresh)[:limit]), dropped


def _by_turns(seeds: Sequence[Seed]) -> list[Seed]:
    """The questions in an order in which the families take turns."""
    own = [[seed for seed in seeds if seed.family == family] for family in FAMILIES]
    return [seed for turn in zip_longest(*own) for seed in turn if seed is not None]


def _case_jobs(
    plan: Sequence[Case | Unfit], models: Models, options: Options, journal: Journal
) -> Iterator[_Job]:
    for case in plan:
        if isinstance(case, Case):
            yield partial(_of_case, case, models, options, journal)


def _rule_jobs(rules: Rules, models: Models, options: Options, journal: Journal) -> Iterator[_Job]:
    aligner = Aligner(rules.memory, models.model, AlignerOptions(infer="never"))

    for rule in drawn(rules, options.seed):
        yield partial(_of_rule, aligner, rule, models.judge, options, journal)


async def _run(
    jobs: Sequence[_Job], judge: str, options: Options, progress: Progress
) -> tuple[Outcome, ...]:
    """Do the jobs, so many at once, and give what came of each, in their order."""
    outcomes: dict[int, Outcome] = {}
    waiting = iter(range(len(jobs)))
    seen = Places()
    silent = 0

    async def work() -> None:
        nonlocal seen, silent
        for number in waiting:
            outcome = outcomes[number] = await jobs[number]()
            silent = silent + 1 if outcome.unanswered else 0
            if silent == _GIVE_UP:
                raise ModelError(
                    f"no answer for {_GIVE_UP} questions one after another "
                    f"({outcome.dropped[0].reason}): see to the model, and go on with --resume"
                )
            seen = places(outcome.compared, seen)
            check_judge(seen, judge, options.most_first)
            progress(len(outcomes), len(jobs), outcome.dropped)

    progress(0, len(jobs), ())
    workers = [asyncio.create_task(work()) for _ in range(options.parallel)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)  # they write to the journal
    return tuple(outcomes[number] for number in range(len(jobs)))


async def _of_case(case: Case, models: Models, options: Options, journal: Journal) -> Outcome:
    """Write the answers to a question, rank them under each wish, and make lessons of them."""
    written = await write(models.model, case, options.writing, journal)
    rankings = [
        await rank(models.judge, case, side, written.candidates, journal)
        for side in sorted({view.holds for view in case.views})
    ]
    dropped = [_dropped("answer", case.id, reason) for reason in written.dropped]
    dropped += [_dropped("ranking", case.id, one.reason) for one in rankings if not one.decided]
    lessons: list[Lesson] = []
    if crossed(rankings, written.candidates):
        dropped.append(_dropped("ranking", case.id, _CROSSED))
    else:
        lessons = list(_lessons(case, rankings, written.candidates))
    return Outcome(
        lessons=tuple(lessons),
        compared=tuple(said for one in rankings for said in one.compared),
        dropped=tuple(dropped),
        flipped=_flipped(rankings) if len(rankings) == 2 else None,
        unanswered=_silent(written, rankings),
    )


async def _of_rule(
    aligner: Aligner, rule: Rule, judge: ChatModel | None, options: Options, journal: Journal
) -> Outcome:
    made = await from_rule(aligner, judge, rule, journal, seed=options.seed)
    return Outcome(
        lessons=made.lessons,
        compared=made.compared,
        dropped=tuple(_dropped("rule", made.rule, reason) for reason in made.dropped),
        unanswered=made.unanswered,
    )


def _lessons(
    case: Case, rankings: Sequence[Ranking], candidates: Sequence[Candidate]
) -> Iterator[Lesson]:
    ranked = {one.side: one for one in rankings if one.decided}
    for view in case.views:
        if one := ranked.get(view.holds):
            yield Lesson.model_validate(
                {
                    "family": case.family,
                    "question": case.seed.id,
                    "wish": case.sides[view.holds].wish,
                    "by": one.by,
                    "prompt": _prompt(case, view),
                    "chosen": candidates[one.best].text,
                    "rejected": candidates[one.worst].text,
                }
            )


def _prompt(case: Case, view: View) -> tuple[Message, ...]:
    """The meta-prompt as it stands when questions are answered, and the question."""
    return messages_of(view.meta, case.seed.question, case.seed.language)


def _flipped(rankings: Sequence[Ranking]) -> bool:
    """Whether another answer is best under the other wish."""
    one, other = rankings
    return one.decided and other.decided and one.best != other.best


def _silent(written: Written, rankings: Sequence[Ranking]) -> bool:
    """Whether the writer, or the judge wherever it was asked, failed throughout."""
    said = [each for one in rankings for each in one.compared]
    judge_fails = bool(said) and all(each.winner == "failed" for each in said)
    return judge_fails or (written.unanswered > 0 and not written.candidates)


def _clean(lessons: Sequence[Lesson], exams: Exams) -> tuple[tuple[Lesson, ...], list[Dropped]]:
    """The lessons without doubles, and without answers that hold a question of an exam."""
    fresh = without_doubles(lessons)
    first = {id(lesson) for lesson in fresh}
    dropped = [
        _dropped("row", lesson.question, "its prompt and answer stood before")
        for lesson in lessons
        if id(lesson) not in first
    ]
    kept = []
    for lesson in fresh:
        said = (lesson.prompt[-1].content, lesson.chosen, lesson.rejected)
        reason = next(filter(None, map(exams.found, said)), "")
        if reason:
            dropped.append(_dropped("row", lesson.question, reason))
        else:
            kept.append(lesson)
    return tuple(kept), dropped


def _dropped(stage: Stage, what: str, reason: str) -> Dropped:
    return Dropped(stage=stage, what=what, reason=reason)


def _write_card(folder: Path, text: str) -> None:
    try:
        (folder / CARD).write_text(text, encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{folder / CARD} cannot be written: {error.strerror}") from error
