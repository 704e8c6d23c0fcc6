"""The end of all drafts: the questions checked as a set, their letters balanced, and a share.

An exam may be written again, with more drafts; what somebody has made of its lines is kept then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from pydantic import Field

from comity.evaluation.exams import Question, Rejected
from comity.evaluation.from_rules import BY_MODEL
from comity.evaluation.question_set import balanced, set_faults
from comity.evaluation.retire import said_by_code
from comity.records import Record

Outcome = Question | Rejected


class Generated(Record):
    """What became of all drafts."""

    questions: tuple[Question, ...] = Field((), description="Those that passed everything.")
    rejected: tuple[Rejected, ...] = Field((), description="The others, with the reasons.")

    @property
    def drafts(self) -> int:
        """How many drafts a model wrote, or was to write."""
        return sum(map(by_model, self.questions)) + sum(map(by_model, self.rejected))

    @property
    def survived_share(self) -> float | None:
        """Of the drafts that a model wrote, the share that passed; None where there are none."""
        return sum(map(by_model, self.questions)) / self.drafts if self.drafts else None


def by_model(outcome: Outcome) -> bool:
    """Whether a model wrote it, or was to; what follows from the ruling is counted apart."""
    if isinstance(outcome, Question) or outcome.kind:
        return outcome.kind in BY_MODEL
    # files of earlier versions do not name the kind of what was rejected
    return outcome.stage == "model" if outcome.question is None else by_model(outcome.question)


def settle(
    outcomes: Iterable[Outcome],
    seed: int,
    *,
    there: Mapping[str, Question] | None = None,
    given: Collection[str] = (),
) -> Generated:
    """Check the questions as a set, and balance the letters of those that pass.

    `there` are the lines of the exam that is written again, by id, and `given` the ids of those
    that it was given before. What a model wrote stays as it stands there; of the others what
    somebody said is kept; what was not given is somebody's own and stays; what was given and is
    not there has been removed and does not come back.
    """
    every, there = list(outcomes), there or {}
    made = [each for each in every if isinstance(each, Question)]
    passed = {each.id: each for each in made}
    removed = set(given) - there.keys()
    faults = dict.fromkeys(removed, "Its line was removed from the exam.")
    # a draft that comes late takes no place in the exam from one that resembles it
    faults |= set_faults(sorted(made, key=lambda each: each.id not in there))
    late = [rejected(passed[name], "set", (faults[name],)) for name in passed if name in faults]
    stay = [_as_it_stands(each, there) for name, each in passed.items() if name not in faults]
    fixed = {each.id for each in stay if each.id in there and by_model(each)}
    own = [line for name, line in there.items() if name not in passed and name not in given]
    return Generated(
        questions=(*balanced(stay, seed, fixed=fixed), *own),
        rejected=(*(each for each in every if isinstance(each, Rejected)), *late),
    )


def rejected(
    question: Question,
    stage: Literal["form", "judge", "answer", "set"],
    reasons: Iterable[str],
) -> Rejected:
    """A question that did not pass a stage."""
    return Rejected(
        rules=question.rules,
        kind=question.kind,
        stage=stage,
        reasons=tuple(reasons),
        question=question,
    )


def _as_it_stands(question: Question, there: Mapping[str, Question]) -> Question:
    line = there.get(question.id, question)
    if by_model(line):
        return line
    if said_by_code(line):
        return question
    return question.model_copy(update={"status": line.status, "reason": line.reason})
