"""Labels in the place of the judge's verdicts, where a judge decides nothing or is not trusted.

What code decides stays code's. The verdicts in the kept run are not touched: labels take a place
only in what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from comity.alignment.prefer import Followed
from comity.evaluation.preference_cases import PreferenceQuestion
from comity.evaluation.preference_labels import (
    Label,
    Labelled,
    answer_key,
    read_labels,
    unlabelled,
)
from comity.evaluation.preference_runs import PreferenceItem
from comity.records import Record


class Labels(Record):
    """The labels of a file that fit a run's answers, and whose they are."""

    who: str = Field(min_length=1, description="Who labelled: a person, a model's name.")
    labelled: tuple[Labelled, ...] = Field(description="Labelled answers that the run holds.")
    strange: int = Field(0, ge=0, description="Labels of answers that it does not; not used.")

    @property
    def whose(self) -> str:
        """As tables and notes name them."""
        return f"labels of {self.who}"


def labels_for(
    items: Iterable[PreferenceItem],
    questions: Sequence[PreferenceQuestion],
    file: Path,
    who: str,
) -> Labels:
    """The labels of a file that fit a run's answers. Raises `ExamError` as `read_labels`.

    A label fits where answer, question and the two statements are, to the letter, those that were
    labelled. Lines that nobody labelled yet are left out, and counted nowhere.
    """
    by_id = {question.id: question for question in questions}
    known = {
        answer_key(item): unlabelled(item, by_id[item.question])
        for item in items
        if item.part == "wish" and item.question in by_id
    }
    given = [one for one in read_labels(file) if one.label]
    fitting = tuple(
        one for one in given if known.get(one.key) == one.model_copy(update={"label": ""})
    )
    return Labels(who=who, labelled=fitting, strange=len(given) - len(fitting))


def with_labels(items: Iterable[PreferenceItem], labels: Labels) -> tuple[PreferenceItem, ...]:
    """The items with labels as the verdicts on what no code decides.

    `neither` counts as not followed, and so does an empty answer, which nobody needs to label. An
    answer without a label has no verdict, whatever a judge said of it.
    """
    given = {one.key: one.label for one in labels.labelled}
    return tuple(
        item.model_copy(
            update={"followed": _said(item, given.get(answer_key(item), ""), labels.whose)}
        )
        if item.part == "wish" and item.decided_by != "code"
        else item
        for item in items
    )


def _said(item: PreferenceItem, label: Label, whose: str) -> Followed:
    if not item.text.strip():
        return Followed(verdict="opposite", by="label", reasons=("the answer is empty",))
    if not label:
        return Followed(verdict="failed", by="label", reasons=(f"not among the {whose}",))
    verdict = "wish" if label == "wish" else "opposite"
    return Followed(verdict=verdict, by="label", reasons=(f"{whose}: {label}",))
