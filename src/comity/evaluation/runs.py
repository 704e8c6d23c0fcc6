"""Runs: what was asked in which mode, and what came back, kept in a folder that can grow.

A run's folder holds `run.json`, the `Plan`, and `items.jsonl`, one `Item` on each line, written
through to the disk as it comes. A run that was stopped is continued from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from comity.evaluation.exams import Kind, LeftOut
from comity.evaluation.run_folder import RunFolder, read_plan, write_plan
from comity.records import VERBATIM, Message, Record, RuleRef, Scope, Time, Usage

_PLAN = "run.json"

Mode = Literal["base", "comity", "oracle"]
MODES: tuple[Mode, ...] = ("base", "comity", "oracle")
"""Without rules; with the rules that the whole pipeline finds; with the question's own rules."""

BUDGETS = (100, 200, 300, 400, 600, 800, 1000, 1500, 2000)
"""Token budgets at which the recall of gold rules is noted."""

ScoredBy = Literal["logprobs", "constrained", "text", ""]
"""How a letter was told; empty where there is none."""

Key = tuple[str, str, Mode]
"""Exam, question and mode."""


class Turn(Record):
    """One order of the options, and what came of it; letters are the question's own."""

    model_config = VERBATIM

    first: str = Field(description="The option that stood first.")
    letter: str = Field("", description="What the model chose; empty if it could not be read.")
    not_scored: str = Field("", description="Why there is no letter.")
    scored_by: ScoredBy = Field("", description="How the letter was told.")
    logprobs: dict[str, float] = Field({}, description="Natural log-probability of each option.")
    text: str = Field("", description="What the model wrote; its letters are those of this order.")


class Item(Record):
    """One question, put in one mode."""

    model_config = VERBATIM

    exam: str = Field(description="Name of the exam.")
    question: str = Field(description="Id of the question in it.")
    question_sha256: str = Field(description="Content hash of the question.")
    kind: Kind = Field("given", description="Where the question comes from.")
    mode: Mode = Field(description="How it was put.")
    asked: tuple[Message, ...] = Field(description="The whole prompt.")
    asked_sha256: str = Field(description="SHA-256 of the prompt.")
    answer: str = Field(description="Letter of the right option.")
    letter: str = Field("", description="Letter that the model chose; empty if not scored.")
    not_scored: str = Field("", description="Why there is no letter.")
    scored_by: ScoredBy = Field("", description="How the letter was told.")
    logprobs: dict[str, float] = Field(
        {}, description="Natural log-probability of each letter, the mean over the turns."
    )
    turns: tuple[Turn, ...] = Field((), description="The orders of the options that were asked.")
    text: str = Field("", description="What the model wrote in the first turn.")
    scope: Scope | None = Field(None, description="For whom, where and when (comity).")
    revision: int | None = Field(None, description="Revision of the memory (comity, oracle).")
    hits: tuple[RuleRef, ...] = Field((), description="What search found (comity).")
    kept: tuple[RuleRef, ...] = Field((), description="The ruling, in order of precedence.")
    overruled: tuple[RuleRef, ...] = Field((), description="What gave way, to which, and why.")
    left_out: tuple[RuleRef, ...] = Field((), description="Kept rules that the budget left out.")
    sent: tuple[RuleRef, ...] = Field((), description="Rules in the prompt.")
    rule_tokens: int = Field(0, ge=0, description="Tokens that the rules take in the prompt.")
    gold: tuple[RuleRef, ...] = Field(
        (), description="The rules that the question was made from, in the version with that text."
    )
    gold_found: float | None = Field(None, description="Share of the gold rules among the hits.")
    gold_sent: float | None = Field(None, description="Share of the gold rules in the prompt.")
    gold_at: dict[int, float] = Field(
        {}, description="Share of the gold rules that fit into each token budget."
    )
    usage: Usage = Field(Usage(), description="Tokens read and written.")
    seconds: dict[str, float] = Field(
        {}, description="Seconds of each step: `prepare`, `model`, and `total` from end to end."
    )
    reused: bool = Field(False, description="Taken from an earlier run, whose prompt was the same.")
    at: Time = Field(description="When it was answered.")

    @property
    def key(self) -> Key:
        """Exam, question and mode."""
        return (self.exam, self.question, self.mode)

    @property
    def right(self) -> bool | None:
        """Whether the answer is right; None where it was not scored."""
        return None if not self.letter else self.letter == self.answer

    @property
    def answered(self) -> bool:
        """Whether anything came back; an empty answer is asked for again."""
        return bool(self.letter or self.text.strip())


class ExamTaken(Record):
    """An exam as a run takes it."""

    name: str = Field(description="Name of the exam.")
    path: str = Field(description="Where it was read from.")
    sha256: str = Field(description="SHA-256 of the file's bytes.")
    questions: tuple[str, ...] = Field(description="Ids of the questions that are asked, in order.")
    left_out: tuple[LeftOut, ...] = Field((), description="Lines of the file that are not.")
    retired: dict[str, str] = Field({}, description="Questions not asked since a rule changed.")
    with_gold: tuple[str, ...] | None = Field(
        None, description="Questions that name gold rules; None where it was not noted."
    )


class Plan(Record):
    """What a run asks, of whom, and how. A run is continued only with the same plan."""

    model: str = Field(description="Name of the model.")
    endpoint: str = Field("", description="Where it is asked; empty on this machine.")
    modes: tuple[Mode, ...] = Field(description="In which modes.")
    exams: tuple[ExamTaken, ...] = Field(description="Which questions.")
    memory: str = Field("", description="URL of the memory; empty where none was needed.")
    revision: int | None = Field(None, description="Its revision at the start.")
    embedder: str = Field("", description="Id of the embedder that searched it.")
    place: str = Field("", description="Place of a question that names none.")
    options: dict[str, str | int | float | bool] = Field(
        {}, description="What else decides prompts and answers: budget, hits, turns, seed."
    )
    limit: int | None = Field(None, description="Questions asked of each exam; None is all.")
    seed: int = Field(0, description="Draws the sample.")
    version: str = Field("", description="Version of Comity.")
    started: Time = Field(description="When the run was begun.")

    @property
    def identity(self) -> str:
        """What must be equal for a run to be continued.

        Not the moment, nor where an exam lay and why some of it is not asked: the file's hash
        and the questions say what is.
        """
        words = {"path", "left_out", "retired", "with_gold"}
        return self.model_dump_json(exclude={"started": True, "exams": {"__all__": words}})


class Run(RunFolder[Plan, Item]):
    """The folder of a run."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        super().__init__(folder, plan, "items.jsonl", Item)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder. Raises `ExamError` where there is none."""
        return cls(folder, read_plan(folder, _PLAN, Plan, "run"))

    @classmethod
    def begin(cls, folder: Path, plan: Plan, *, resume: bool = False) -> Run:
        """A new run in a folder, or with `resume` the one that lies there, if its plan is equal.

        Raises `ExamError` as `RunFolder.hold`.
        """
        run = cls(folder, plan)
        run.hold(resume=resume)
        return run

    def latest(self) -> Mapping[Key, Item]:
        """The last item of each question and mode."""
        return {item.key: item for item in self.items()}

    def answered(self) -> Mapping[Key, Item]:
        """Those of the last items that need not be asked again."""
        return {key: item for key, item in self.latest().items() if item.answered}

    def _settle(self, resume: bool) -> None:
        if not (self.folder / _PLAN).exists():
            write_plan(self.folder / _PLAN, self.plan)
            return
        if not resume:
            raise self._taken()
        begun = Run.read(self.folder).plan
        now = _as_far_as_noted(self.plan, begun)
        if begun.identity != now.identity:
            raise self._otherwise("; ".join(_differences(begun, now)) or "exams in another order")
        self.plan = begun


def _as_far_as_noted(plan: Plan, begun: Plan) -> Plan:
    """The plan without what the one it is compared with, of an earlier version, did not note."""
    options = {name: value for name, value in plan.options.items() if name in begun.options}
    missing = [name for name in ("endpoint", "embedder") if not getattr(begun, name)]
    return plan.model_copy(update={"options": options} | dict.fromkeys(missing, ""))


def _differences(begun: Plan, plan: Plan) -> Iterator[str]:
    """In what two plans differ, in words."""
    old, new = (json.loads(one.identity) for one in (begun, plan))
    before, after = ({exam.name: exam for exam in one.exams} for one in (begun, plan))
    for name in sorted(before.keys() | after.keys()):
        yield from _exam_differences(name, before.get(name), after.get(name))
    was, now = old.pop("options"), new.pop("options")
    fields = {name: (old[name], new[name]) for name in new if name != "exams"}
    fields |= {name: (was.get(name), now.get(name)) for name in was.keys() | now.keys()}
    for name, (first, second) in sorted(fields.items()):
        if first != second:
            yield f"{name} was {_short(first)}, not {_short(second)}"


def _exam_differences(name: str, old: ExamTaken | None, new: ExamTaken | None) -> Iterator[str]:
    if old is None or new is None:
        yield f"exam {name} was {'not ' if old is None else ''}asked"
    elif old.sha256 != new.sha256:
        yield f"the file of exam {name} was another one"
    elif missing := [question for question in old.questions if question not in new.questions]:
        why = new.retired.get(missing[0])
        yield f"exam {name} asked {missing[0]}" + (f", now retired: {why}" if why else "")
    elif old.questions != new.questions:
        yield f"exam {name} asked {len(old.questions)} questions, not {len(new.questions)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
