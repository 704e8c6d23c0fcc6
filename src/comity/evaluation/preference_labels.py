"""Answers to be labelled, and how far the exam's verdicts agree with the labels.

The file is JSON Lines, one answer on each line, without mode and verdict, so that who labels does
not know them. Who labels, a person or a model, fills in `label`: `wish`, `opposite`, or `neither`
where it is neither or cannot be told.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from comity.errors import ExamError
from comity.evaluation.preference_cases import PreferenceQuestion
from comity.evaluation.preference_runs import PreferenceItem
from comity.evaluation.score import Interval, wilson
from comity.records import VERBATIM, Record
from comity.wording import schema_fault

Label = Literal["", "wish", "opposite", "neither"]


class Labelled(Record):
    """One answer, and what somebody says of it."""

    model_config = VERBATIM

    key: str = Field(description="Finds the answer in the run; says nothing of its mode.")
    question: str = Field(description="What was asked.")
    wish: str = Field(description="What an answer that follows looks like.")
    opposite: str = Field(description="What one that does not looks like.")
    answer: str = Field(description="The answer.")
    label: Label = Field("", description="What they say; empty: not labelled yet.")


class Agreement(Record):
    """How far verdicts agree with labels."""

    labelled: int = Field(ge=0, description="Answers labelled wish or opposite.")
    decided: int = Field(ge=0, description="Those of them that have a verdict.")
    agreed: int = Field(ge=0, description="Those with the same verdict.")
    neither: int = Field(ge=0, description="Answers labelled neither; apart.")

    @property
    def share(self) -> float | None:
        """Same among those decided by both; None for none."""
        return self.agreed / self.decided if self.decided else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's, of the share."""
        return wilson(self.agreed, self.decided)


def to_label(
    items: Iterable[PreferenceItem],
    questions: Sequence[PreferenceQuestion],
    *,
    count: int = 40,
    seed: int = 0,
    judged_only: bool = False,
) -> tuple[Labelled, ...]:
    """Answers drawn for labelling, half of them of wishes that the judge decides, or all of them.

    `judged_only` leaves out what code decides; answers on which the judge's orders disagree stay
    in. The same answer to the same wish is drawn once. Fewer than `count` where there are no more.
    """
    by_id = {question.id: question for question in questions}
    kinds: dict[str, dict[str, Labelled]] = {"judge": {}, "code": {}}
    for item in items:
        question = by_id.get(item.question)
        if judged_only and item.decided_by == "code":
            continue
        if item.part == "wish" and question is not None and item.text.strip():
            kind = "code" if item.decided_by == "code" else "judge"
            kinds[kind].setdefault(answer_key(item), unlabelled(item, question))
    dice = random.Random(seed)
    pools = {
        name: dice.sample(sorted(each.values(), key=lambda one: one.key), k=len(each))
        for name, each in kinds.items()
    }
    half = count // 2
    judged = pools["judge"][: max(half, count - len(pools["code"]))]
    drawn = [*judged, *pools["code"][: count - len(judged)]]
    dice.shuffle(drawn)
    return tuple(drawn)


def write_labels(path: Path, labelled: Sequence[Labelled]) -> None:
    """Write answers to be labelled. Raises `ExamError` for a file that is there already."""
    if path.exists():
        raise ExamError(f"{path} is there already: its labels would be lost; name another file")
    path.write_text("".join(one.model_dump_json() + "\n" for one in labelled), encoding="utf-8")


def read_labels(path: Path) -> tuple[Labelled, ...]:
    """The labelled answers of a file, each once. Raises `ExamError`, naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExamError(f"{path} cannot be read: {error}") from error
    found: dict[str, Labelled] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                one = Labelled.model_validate_json(line)
            except ValidationError as error:
                raise ExamError(f"{path}, line {number}: {schema_fault(error)}") from error
            before = found.setdefault(one.key, one)
            if before.label != one.label:
                raise ExamError(
                    f"{path}, line {number}: the answer {one.key} is labelled {one.label!r} here "
                    f"and {before.label!r} before; keep one of the two lines"
                )
    return tuple(found.values())


def agreement(
    items: Iterable[PreferenceItem], labels: Iterable[Labelled]
) -> Mapping[Literal["judge", "code"], Agreement]:
    """How far verdicts agree with labels, for the judge and for code.

    Unlabelled ones are left out, and so is what labels have decided.
    """
    verdicts = {answer_key(item): item for item in items if item.part == "wish"}
    counts: dict[Literal["judge", "code"], Counter[str]] = {"judge": Counter(), "code": Counter()}
    for one in labels:
        item = verdicts.get(one.key)
        who = item.decided_by if item else "label"
        if item is None or who == "label" or not one.label:
            continue
        counted = counts[who]
        if one.label == "neither":
            counted["neither"] += 1
            continue
        counted["labelled"] += 1
        if item.follows is not None:
            counted["decided"] += 1
            counted["agreed"] += item.follows == (one.label == "wish")
    names = ("labelled", "decided", "agreed", "neither")
    return {
        who: Agreement(**{name: found[name] for name in names}) for who, found in counts.items()
    }


def unlabelled(item: PreferenceItem, question: PreferenceQuestion) -> Labelled:
    """An answer as it is shown to who labels."""
    return Labelled(
        key=answer_key(item),
        question=question.question,
        wish=question.wishes[item.number].wish,
        opposite=question.opposite(item.number),
        answer=item.text,
    )


def answer_key(item: PreferenceItem) -> str:
    """Names an answer to a wish; equal answers of two modes have one name."""
    told = f"{item.question}\n{item.number}\n{item.text}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]
