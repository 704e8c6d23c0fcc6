"""Exam questions that a model writes from rules, and what becomes of each draft.

Rules are gathered (`gather`), the model writes one question about them (`write`), and the draft
passes the checks of form, the judge and the trial answers (`drafts`); the whole set is checked
and its letters are balanced at the end (`settle`). Nothing is lost: every draft ends as a
`Question` or as `Rejected`, with the stage and the reasons.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal

from comity.errors import ExamError, ModelError, ModelMissing
from comity.evaluation.draft_file import DraftFile, Settings
from comity.evaluation.exams import Question, Rejected, read_exam, write_exam
from comity.evaluation.gather import Wanted, gather, rules_version
from comity.evaluation.quality import judge_question, judge_version, trial, trial_version
from comity.evaluation.question_form import form_faults
from comity.evaluation.settle import Generated, Outcome, rejected, settle
from comity.evaluation.write import (
    examples_for,
    kind_of,
    known_language,
    own_seeds,
    refs_of,
    write,
    writer_version,
)
from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.models.chat import ChatModel
from comity.records import WORLD, Rule
from comity.wording import prompt_language, version_of, words_of

Progress = Callable[[int, int, Outcome | None], None]
"""Drafts done, drafts wanted, and what became of the last one (None at the start)."""

_LANGUAGES = ("en", "zh")
_GIVE_UP = 3


class Unanswered(Rejected):
    """Rejected since a model could not be asked at all, for which the draft is not to blame."""


async def drafts(
    memory: Memory,
    model: ChatModel,
    wanted: Wanted,
    *,
    judge: ChatModel | None = None,
    seeds: Sequence[Question] = (),
    done: Collection[int] = (),
) -> AsyncIterator[tuple[int, Outcome]]:
    """Number and outcome of each of `wanted.count` drafts but those `done`, as they come.

    The count is that of the drafts, not of the questions, so that the share that survived means
    something. The judge is by default the same model, asked separately at temperature 0. The
    same arguments give the same rules, examples and letters, whatever is done. Raises
    `ModelMissing`, `ModelError` where a model cannot be asked for three drafts one after another,
    and what `gather` raises.
    """
    failed = 0
    for number, rules in enumerate(gather(memory, wanted), start=1):
        if number in done:
            continue
        outcome = await _draft(memory, model, judge or model, rules, wanted, seeds, number)
        failed = failed + 1 if isinstance(outcome, Unanswered) else 0
        if isinstance(outcome, Unanswered) and failed == _GIVE_UP:
            raise ModelError(
                f"no answer for {_GIVE_UP} drafts one after another: {outcome.reasons[0]}; see to "
                "the model, then start again"
            )
        yield number, outcome


async def write_exam_files(
    path: Path,
    memory: Memory,
    model: ChatModel,
    wanted: Wanted,
    *,
    judge: ChatModel | None = None,
    seeds: Sequence[Question] = (),
    made: Sequence[Outcome] = (),
    progress: Progress | None = None,
) -> Generated:
    """Write the exam at `path`, and beside it the rejected drafts: `NAME.rejected.jsonl`.

    Every draft is kept at once in `NAME.drafts.jsonl`, so that a second call with the same
    settings and rules goes on with the drafts that are not done; a larger count then adds to
    them. The questions `made` without a model join the exam. What somebody changed or removed in
    the exam stays so (see `settle`). Raises `ExamError` where the drafts were begun with other
    settings or rules or `path` holds another exam, and what `drafts` raises.
    """
    settings = Settings(
        wanted=wanted,
        model=model.name,
        judge=(judge or model).name,
        prompts=tuple(_prompts()),
        seeds=_seeds_version(seeds),
        rules=rules_version(memory, wanted.tenant),
        embedder=memory.embedder.id,
    )
    with DraftFile(path=_drafts_of(path), settings=settings) as kept:
        outcomes = {n: each for n, each in kept.outcomes().items() if n <= wanted.count}
        tell = progress or (lambda done, of, last: None)
        tell(len(outcomes), wanted.count, None)
        done = frozenset(outcomes)
        fresh = drafts(memory, model, wanted, judge=judge, seeds=seeds, done=done)
        async for number, outcome in fresh:
            if not isinstance(outcome, Unanswered):
                kept.append(number, outcome)
            outcomes[number] = outcome
            tell(len(outcomes), wanted.count, outcome)
        every = (*(outcomes[number] for number in sorted(outcomes)), *made)
        return _written(path, kept, every, wanted.seed)


def write_made(path: Path, made: Sequence[Outcome], wanted: Wanted) -> Generated:
    """Write an exam of questions made without a model; called again, it is written anew.

    What somebody said of a question, or removed, stays so. Raises `ExamError` where `path` holds
    another exam, or one with drafts of a model.
    """
    settings = Settings(
        wanted=wanted, model="", judge="", prompts=(), seeds="", rules="", embedder=""
    )
    with DraftFile(path=_drafts_of(path), settings=settings) as kept:
        return _written(path, kept, made, wanted.seed)


def _prompts() -> Iterable[str]:
    for language in _LANGUAGES:
        words = words_of("quality", language)
        yield from (writer_version(language), judge_version(words), trial_version(words))


def _seeds_version(seeds: Sequence[Question]) -> str:
    shown = seeds or [seed for language in _LANGUAGES for seed in own_seeds(language)]
    return version_of([seed.model_dump_json() for seed in shown])


async def _draft(
    memory: Memory,
    model: ChatModel,
    judge: ChatModel,
    rules: Sequence[Rule],
    wanted: Wanted,
    seeds: Sequence[Question],
    number: int,
) -> Outcome:
    language = known_language(wanted.language or prompt_language(rules[0].text))
    names = _names(memory, rules[0], language)
    examples = examples_for(seeds or own_seeds(language), wanted, number)
    try:
        written = await write(model, rules, wanted, examples=examples, number=number, names=names)
    except ModelMissing:
        raise
    except ModelError as error:
        kind, reasons = kind_of(wanted, number), (str(error),)
        return Unanswered(rules=refs_of(rules), kind=kind, stage="model", reasons=reasons)
    if isinstance(written, Rejected):
        return written
    inside, elsewhere = _mentions(memory, rules[0], written.stem)
    others = [name for name in elsewhere if name not in names]  # Georgia may be either
    if faults := form_faults(written, rules, names=(*names, *inside), others=others):
        return rejected(written, "form", faults)
    return await _examined(judge, written, rules)


async def _examined(judge: ChatModel, question: Question, rules: Sequence[Rule]) -> Outcome:
    """The question itself, or at which stage it failed and why."""
    stage: Literal["judge", "answer"] = "judge"
    try:
        verdict = await judge_question(judge, question, rules)
        if not verdict.passed:
            said = (f"Its words: {verdict.critique}",) if verdict.critique else ()
            return rejected(question, stage, (*verdict.faults, *said))
        stage = "answer"
        faults = (await trial(judge, question, rules)).faults
    except ModelMissing:
        raise
    except ModelError as error:
        return Unanswered(**dict(rejected(question, stage, (f"The judge failed: {error}",))))
    return rejected(question, stage, faults) if faults else question


def _names(memory: Memory, rule: Rule, language: str) -> tuple[str, ...]:
    """Names of whom the rule binds, or else of its place, the one in the language first."""
    if rule.audience or rule.place == WORLD:
        return rule.audience
    gazetteer = memory.gazetteer(rule.tenant)
    shown = [gazetteer.name(rule.place, language), gazetteer.name(rule.place, "en")]
    own = [name for p in gazetteer.own if p.code == rule.place for name in p.names]
    return tuple(dict.fromkeys((*shown, gazetteer.name(rule.place, "zh"), *own)))


def _mentions(memory: Memory, rule: Rule, stem: str) -> tuple[list[str], list[str]]:
    """Names in the stem of the rule's place or one inside it, and of places elsewhere."""
    if rule.audience or rule.place == WORLD:
        return [], []
    inside: list[str] = []
    elsewhere: list[str] = []
    for mention in memory.gazetteer(rule.tenant).find(stem):
        (inside if contains(rule.place, mention.code) else elsewhere).append(mention.name)
    return inside, elsewhere


def rejected_file(path: Path) -> Path:
    """Where the rejected drafts of the exam at `path` are kept."""
    return path.with_name(f"{path.stem}.rejected.jsonl")


def _drafts_of(path: Path) -> Path:
    file = path.with_name(f"{path.stem}.drafts.jsonl")
    if path.exists() and not file.exists():
        raise ExamError(f"{path} is there already, without its drafts: name another exam")
    return file


def _written(path: Path, kept: DraftFile, outcomes: Iterable[Outcome], seed: int) -> Generated:
    every = list(outcomes)
    there: dict[str, Question] = {}
    given: set[str] = set()
    if path.exists():
        # an exam that no question survived, or was left in, is an empty file
        lines = read_exam(path).questions if path.read_bytes().strip() else ()
        there = {question.id: question for question in lines}
        given = set(kept.written())
    settled = settle(every, seed, there=there, given=given)
    write_exam(rejected_file(path), settled.rejected)
    write_exam(path, settled.questions)
    made = {each.id for each in every if isinstance(each, Question)}
    gone = sorted(given - there.keys())
    kept.write_down([*(each.id for each in settled.questions if each.id in made), *gone])
    return settled
