"""Exam questions that a model writes from rules, and what becomes of each draft.

Rules are gathered (`gather`), the model writes one question about them (`write`), and the draft
passes the checks of form, the judge and the trial answers (`drafts`); the whole set is checked
and its letters are balanced at the end (`settle`). Nothing is lost: every draft ends as a
`Question` or as `Rejected`, with the stage and the reasons.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from pydantic import Field

from comity.alignment.compose import prompt_language
from comity.errors import ExamError, ModelError
from comity.evaluation.draft_file import DraftFile, Settings
from comity.evaluation.exams import Question, Rejected, write_exam
from comity.evaluation.gather import Coverage, DocumentCoverage, Wanted, coverage, gather
from comity.evaluation.quality import balanced, form_faults, judge_question, set_faults, trial
from comity.evaluation.write import (
    Unanswered,
    examples_for,
    kind_of,
    known_language,
    own_seeds,
    wording,
    write,
)
from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.models.chat import ChatModel
from comity.records import WORLD, Record, Rule

__all__ = [
    "Coverage",
    "DocumentCoverage",
    "Generated",
    "Wanted",
    "coverage",
    "drafts",
    "gather",
    "generate",
    "kind_of",
    "own_seeds",
    "rejected_file",
    "settle",
    "write",
    "write_exam_files",
    "write_made",
]

Outcome = Question | Rejected
Progress = Callable[[int, int, Outcome | None], None]
"""Drafts done, drafts wanted, and what became of the last one (None at the start)."""

_GIVE_UP = 3


class Generated(Record):
    """What became of all drafts."""

    questions: tuple[Question, ...] = Field((), description="Those that passed everything.")
    rejected: tuple[Rejected, ...] = Field((), description="The others, with the reasons.")

    @property
    def survived_share(self) -> float | None:
        """Questions that passed of all drafts that were tried; None where none was."""
        tried = len(self.questions) + len(self.rejected)
        return len(self.questions) / tried if tried else None


async def drafts(
    memory: Memory,
    model: ChatModel,
    wanted: Wanted,
    *,
    judge: ChatModel | None = None,
    seeds: Sequence[Question] = (),
    skip: int = 0,
) -> AsyncIterator[Outcome]:
    """What became of each of `wanted.count` drafts but the first `skip`, as they come.

    The same arguments give the same rules, examples and letters, whatever was skipped. Raises
    `ModelError` where a model fails for three drafts one after another: then it is not the
    drafts that are at fault. Raises what `gather` raises.
    """
    failed = 0
    groups = enumerate(gather(memory, wanted), start=1)
    for number, rules in islice(groups, skip, None):
        outcome = await _draft(memory, model, judge or model, rules, wanted, seeds, number)
        failed = failed + 1 if isinstance(outcome, Unanswered) else 0
        if isinstance(outcome, Unanswered) and failed == _GIVE_UP:
            raise ModelError(
                f"no answer for {_GIVE_UP} drafts one after another: {outcome.reasons[0]}; see to "
                "the model, then start again"
            )
        yield outcome


async def generate(
    memory: Memory,
    model: ChatModel,
    wanted: Wanted,
    *,
    judge: ChatModel | None = None,
    seeds: Sequence[Question] = (),
) -> AsyncIterator[Outcome]:
    """Try `wanted.count` drafts: rejected ones as they come, the questions at the end.

    The count is that of the drafts, not of the questions, so that the share that survived means
    something. The judge is by default the same model, asked separately at temperature 0. Raises
    what `drafts` raises.
    """
    passed: list[Question] = []
    async for outcome in drafts(memory, model, wanted, judge=judge, seeds=seeds):
        if isinstance(outcome, Question):
            passed.append(outcome)
        else:
            yield outcome
    settled = settle(passed, wanted.seed)
    for rejected in settled.rejected:
        yield rejected
    for question in settled.questions:
        yield question


def settle(outcomes: Iterable[Outcome], seed: int) -> Generated:
    """Check the questions as a set, and balance the letters of those that pass."""
    every = list(outcomes)
    passed = [each for each in every if isinstance(each, Question)]
    faults = set_faults(passed)
    late = [_rejected(each, "set", (faults[each.id],)) for each in passed if each.id in faults]
    return Generated(
        questions=balanced([each for each in passed if each.id not in faults], seed),
        rejected=(*(each for each in every if isinstance(each, Rejected)), *late),
    )


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
    settings goes on after the drafts that are done; a larger count then adds to them. The
    questions `made` without a model join the exam. Raises `ExamError` where the drafts were
    begun with other settings or `path` holds another exam, and what `drafts` raises.
    """
    file = _drafts_of(path)
    settings = Settings(
        wanted=wanted,
        model=model.name,
        judge=(judge or model).name,
        prompts=tuple(str(wording(language)["version"]) for language in ("en", "zh")),
    )
    with DraftFile(path=file, settings=settings) as kept:
        outcomes = kept.outcomes()[: wanted.count]
        tell = progress or (lambda done, of, last: None)
        tell(len(outcomes), wanted.count, None)
        fresh = drafts(memory, model, wanted, judge=judge, seeds=seeds, skip=len(outcomes))
        async for outcome in fresh:
            kept.append(len(outcomes) + 1, outcome)
            outcomes.append(outcome)
            tell(len(outcomes), wanted.count, outcome)
        return _write_settled(path, settle((*outcomes, *made), wanted.seed))


def write_made(path: Path, made: Sequence[Outcome], wanted: Wanted) -> Generated:
    """Write an exam of questions made without a model; called again, it is written anew.

    Raises `ExamError` where `path` holds another exam, or one with drafts of a model.
    """
    settings = Settings(wanted=wanted, model="", judge="", prompts=())
    with DraftFile(path=_drafts_of(path), settings=settings):
        return _write_settled(path, settle(made, wanted.seed))


async def _draft(
    memory: Memory,
    model: ChatModel,
    judge: ChatModel,
    rules: Sequence[Rule],
    wanted: Wanted,
    seeds: Sequence[Question],
    number: int,
) -> Outcome:
    language = wanted.language or prompt_language(rules[0].text)
    names = _names(memory, rules[0], language)
    examples = examples_for(seeds or own_seeds(known_language(language)), wanted, number)
    written = await write(model, rules, wanted, examples=examples, number=number, names=names)
    if isinstance(written, Rejected):
        return written
    names += _mentions(memory, rules[0], written.stem) if names else ()
    return await _examine(judge, written, rules, names)


async def _examine(
    judge: ChatModel, question: Question, rules: Sequence[Rule], names: Sequence[str]
) -> Outcome:
    """The draft itself, or at which stage it failed and why."""
    if faults := form_faults(question, rules, names=names):
        return _rejected(question, "form", faults)
    verdict = await judge_question(judge, question, rules)
    if not verdict.passed:
        said = (f"Its words: {verdict.critique}",) if verdict.critique else ()
        return _rejected(question, "judge", (*verdict.faults, *said))
    if faults := (await trial(judge, question, rules)).faults:
        return _rejected(question, "answer", faults)
    return question


def _rejected(
    question: Question, stage: Literal["form", "judge", "answer", "set"], reasons: Sequence[str]
) -> Rejected:
    return Rejected(rules=question.rules, stage=stage, reasons=tuple(reasons), question=question)


def _names(memory: Memory, rule: Rule, language: str) -> tuple[str, ...]:
    """Names of whom the rule binds, or else of its place, the one in the language first."""
    if rule.audience or rule.place == WORLD:
        return rule.audience
    gazetteer = memory.gazetteer(rule.tenant)
    shown = [gazetteer.name(rule.place, language), gazetteer.name(rule.place, "en")]
    own = [name for p in gazetteer.own if p.code == rule.place for name in p.names]
    return tuple(dict.fromkeys((*shown, gazetteer.name(rule.place, "zh"), *own)))


def _mentions(memory: Memory, rule: Rule, stem: str) -> tuple[str, ...]:
    """Words of the stem that name the rule's place, or one inside it, in some other way."""
    found = memory.gazetteer(rule.tenant).find(stem)
    inside = (mention.name for mention in found if contains(rule.place, mention.code))
    return tuple(inside) if rule.place != WORLD and not rule.audience else ()


def rejected_file(path: Path) -> Path:
    """Where the rejected drafts of the exam at `path` are kept."""
    return path.with_name(f"{path.stem}.rejected.jsonl")


def _drafts_of(path: Path) -> Path:
    file = path.with_name(f"{path.stem}.drafts.jsonl")
    if path.exists() and not file.exists():
        raise ExamError(f"{path} is there already, without its drafts: name another exam")
    return file


def _write_settled(path: Path, settled: Generated) -> Generated:
    _write_rejected(rejected_file(path), settled.rejected)
    write_exam(path, settled.questions)
    return settled


def _write_rejected(path: Path, rejected: Iterable[Rejected]) -> None:
    lines = [each.model_dump_json(exclude_defaults=True) + "\n" for each in rejected]
    part = path.with_name(path.name + ".part")
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(path)
