"""Runs of the preference exam: every prompt, answer and verdict, kept in a folder that can grow.

The folder holds `preferences.json`, the `PreferencePlan`, and `answers.jsonl`, one
`PreferenceItem` on each line, written through to the disk as it comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from comity.alignment.prefer import Followed
from comity.evaluation.run_folder import RunFolder, read_plan, write_plan
from comity.records import VERBATIM, Family, Message, Record, RuleRef, Time, Usage, Weighed

PreferenceMode = Literal["none", "plain", "meta_prompt", "refined", "contrast", "adapter"]
"""How a question is put.

`none`: with the provider's text alone. `plain`: the same words of provider and user, one after
the other, as an ordinary system prompt. `meta_prompt`: by the aligner. `refined`: by the aligner,
of several samples. `contrast`: by the aligner, the user's part amplified at the logits.
`adapter`: by the aligner, with another (trained) model. Rule cases are always put by the aligner:
in `none` without the wish.
"""

PREFERENCE_MODES: tuple[PreferenceMode, ...] = get_args(PreferenceMode)

PLAN, ITEMS = "preferences.json", "answers.jsonl"

Key = tuple[str, str, int, PreferenceMode]
"""Part (`wish` or `rule`), question, number of the wish, and mode."""


class PreferenceItem(Record):
    """One question under one wish, put in one mode, and the verdict on the answer."""

    model_config = VERBATIM

    part: Literal["wish", "rule"] = Field(description="A wish to follow, or a rule to keep.")
    question: str = Field(description="Id of the question or rule case.")
    number: int = Field(0, ge=0, description="Which of the question's wishes, from 0.")
    mode: PreferenceMode = Field(description="How it was put.")
    family: Family | None = Field(None, description="Family of the wish.")
    explicit: bool | None = Field(None, description="Whether the wish was said.")
    against: bool | None = Field(None, description="Rule cases: whether the wish pulls against it.")
    asked: tuple[tuple[Message, ...], ...] = Field(
        description="Every prompt that the model was sent for this answer."
    )
    asked_sha256: str = Field(description="SHA-256 of all of it.")
    text: str = Field("", description="The answer.")
    finish_reason: str = Field("stop", description="As in the model's reply.")
    model: str = Field("", description="Who answered.")
    usage: Usage = Field(Usage(), description="Tokens of the answer, the judge's apart.")
    seconds: dict[str, float] = Field({}, description="Seconds: `answer`, and `judge`.")
    followed: Followed | None = Field(None, description="Wishes: the verdict.")
    broken: bool | None = Field(None, description="Rule cases: whether the rule is broken.")
    broken_why: str = Field("", description="What the check found.")
    rule_in_force: bool | None = Field(None, description="Rule cases: whether it was in force.")
    kept: tuple[RuleRef, ...] = Field((), description="Rules in force, where an aligner answered.")
    preferences: tuple[Weighed, ...] = Field((), description="What became of each wish.")
    withheld: bool = Field(False, description="Whether a rule kept the answer back.")
    reused: bool = Field(False, description="Same prompt as another wish's: asked once.")
    at: Time = Field(description="When it was answered.")

    @property
    def key(self) -> Key:
        """Part, question, wish and mode."""
        return (self.part, self.question, self.number, self.mode)

    @property
    def follows(self) -> bool | None:
        """Whether the wish is followed; None where that was not decided."""
        told = {"wish": True, "opposite": False}
        return told.get(self.followed.verdict) if self.followed else None

    @property
    def decided_by(self) -> Literal["code", "judge", "label"]:
        """Who decides wishes like this."""
        by = self.followed.by if self.followed else "nobody"
        return by if by in ("code", "label") else "judge"


class PreferencePlan(Record):
    """What a run asks, of whom, and how. A run is continued only with the same plan."""

    model: str = Field(description="Name of the model.")
    judge: str = Field(description="Name of the judge.")
    adapter: str = Field("", description="Name of the model of mode `adapter`.")
    modes: tuple[PreferenceMode, ...] = Field(description="In which modes.")
    cases: str = Field("", description="File of the questions; empty: the packaged ones.")
    rule_cases_file: str = Field("", description="File of the rule cases, likewise.")
    cases_sha256: str = Field(description="Hash of the questions, all of them, with their checks.")
    rule_cases_sha256: str = Field(description="Hash of the rule cases, likewise.")
    cases_asked: str = Field("", description="Hash of what model and judge are asked of them.")
    rule_cases_asked: str = Field("", description="Hash of what is asked in the rule cases.")
    questions: tuple[str, ...] = Field(description="Ids of the questions that are asked.")
    rule_cases: tuple[str, ...] = Field((), description="Ids of the rule cases that are asked.")
    dear: tuple[str, ...] = Field(
        (), description="Questions and rule cases that refined and contrast are asked, too."
    )
    memory: str = Field("", description="URL of the memory.")
    revision: int = Field(0, ge=0, description="Its revision at the start.")
    options: dict[str, str | int | float | bool] = Field(
        {}, description="What else decides prompts and answers."
    )
    prompts: tuple[str, ...] = Field((), description="Versions of the judge's prompts.")
    words: dict[PreferenceMode, str] = Field(
        {}, description="Version of the words around a question, by mode."
    )
    limit: int | None = Field(None, description="Questions asked; None is all.")
    share: float = Field(1.0, description="Share of them for refined and contrast.")
    seed: int = Field(0, description="Draws the sample.")
    version: str = Field("", description="Version of Comity.")
    started: Time = Field(description="When the run was begun.")

    def differences(self, begun: PreferencePlan) -> Iterator[str]:
        """In what this plan differs from the one that a run was begun with; modes may come on.

        Checks may be others, since code verdicts are told anew. What an older run did not keep
        (what was asked, words) is taken as it is.
        """
        free = {"started", "modes", "cases", "limit", "share", "dear", "words"}
        free |= {"rule_cases_file", "cases_sha256", "rule_cases_sha256"}
        free |= {name for name in _KEPT_LATER if not getattr(begun, name)}
        for name in sorted(set(type(self).model_fields) - free):
            was, now = getattr(begun, name), getattr(self, name)
            if name in ("questions", "rule_cases"):
                if missing := set(was) - set(now):
                    yield f"{name} held {sorted(missing)[0]}"
            elif was != now:
                yield f"{name} was {_short(was)}, not {_short(now)}"
        for mode, version in begun.words.items():
            if mode in begun.modes and version != self.words.get(mode):
                yield f"mode {mode} was answered under other words than today's"


_KEPT_LATER = ("adapter", "cases_asked", "rule_cases_asked")
"""What a run may have been begun without."""


class PreferenceRun(RunFolder[PreferencePlan, PreferenceItem]):
    """The folder of a run."""

    def __init__(self, folder: Path, plan: PreferencePlan) -> None:
        super().__init__(folder, plan, ITEMS, PreferenceItem)

    @classmethod
    def read(cls, folder: Path) -> PreferenceRun:
        """The run in a folder. Raises `ExamError` where there is none."""
        return cls(folder, read_plan(folder, PLAN, PreferencePlan, "run of a preference exam"))

    @classmethod
    def begin(cls, folder: Path, plan: PreferencePlan, *, resume: bool = False) -> PreferenceRun:
        """A new run in a folder, or with `resume` the one that lies there, if its plan fits.

        A run that is continued may have more modes and more questions than before, and nothing
        else may differ. Raises `ExamError` as `RunFolder.hold`.
        """
        run = cls(folder, plan)
        run.hold(resume=resume)
        return run

    def latest(self) -> Mapping[Key, PreferenceItem]:
        """The last item of each question, wish and mode."""
        return {item.key: item for item in self.items()}

    def _settle(self, resume: bool) -> None:
        if (self.folder / PLAN).exists():
            if not resume:
                raise self._taken()
            begun = PreferenceRun.read(self.folder).plan
            if told := "; ".join(self.plan.differences(begun)):
                raise self._otherwise(told)
            self.plan = _joined(begun, self.plan)
        write_plan(self.folder / PLAN, self.plan)


def is_preference_run(folder: Path) -> bool:
    """Whether a folder holds a run of the preference exam."""
    return (folder / PLAN).exists()


def prompts_sha256(asked: Sequence[Sequence[Message]]) -> str:
    """SHA-256 of prompts, in hex."""
    told = "\n".join(turn.model_dump_json() for messages in asked for turn in messages)
    return hashlib.sha256(told.encode()).hexdigest()


def _joined(begun: PreferencePlan, now: PreferencePlan) -> PreferencePlan:
    """The plan of a continued run: what it had, and what came on."""
    both = {*begun.modes, *now.modes}
    dear = (*begun.dear, *(name for name in now.dear if name not in begun.dear))
    fresh = {mode: now.words[mode] for mode in now.words if mode not in begun.modes}
    kept = {
        "started": begun.started,
        "adapter": now.adapter or begun.adapter,
        "dear": dear,
        "words": begun.words | fresh,
    }
    return now.model_copy(update=kept | {"modes": tuple(m for m in PREFERENCE_MODES if m in both)})


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
