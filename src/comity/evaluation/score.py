"""Scores of a run's items: accuracy with its uncertainty, modes compared, recall and cost.

Everything here is computed from `Item`s alone. Where nothing is there to be measured the answer
is None, never 0: an exam without a scored item has no accuracy. Shares lie between 0 and 1.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import NormalDist, fmean
from typing import Literal

from pydantic import Field

from comity.evaluation.exams import LETTERS, Kind
from comity.evaluation.runs import MODES, Item, Mode
from comity.records import Record

CONFIDENCE = 0.95
"""Of all intervals."""

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class Interval(Record):
    """A confidence interval."""

    low: float = Field(description="Lower end.")
    high: float = Field(description="Upper end.")


class Score(Record):
    """How often a model was right, in one exam and mode."""

    exam: str = Field(description="Name of the exam.")
    mode: Mode = Field(description="How the questions were put.")
    kind: Kind | Literal["all"] = Field("all", description="Which questions are counted.")
    asked: int = Field(ge=0, description="Questions put, whatever came back.")
    scored: int = Field(ge=0, description="Questions that got a letter.")
    right: int = Field(ge=0, description="Questions that got the right letter.")
    not_scored: dict[str, int] = Field({}, description="Reasons, most frequent first, counted.")
    accuracy: float | None = Field(None, description="Right among scored; None if none was.")
    interval: Interval | None = Field(None, description="Wilson's, of the accuracy.")


class Paired(Record):
    """The same questions answered twice; only those scored both times are counted."""

    both_right: int = Field(ge=0, description="Right both times.")
    gained: int = Field(ge=0, description="Wrong before, right after.")
    lost: int = Field(ge=0, description="Right before, wrong after.")
    both_wrong: int = Field(ge=0, description="Wrong both times.")

    @property
    def questions(self) -> int:
        """How many questions were compared."""
        return self.both_right + self.gained + self.lost + self.both_wrong

    @property
    def difference(self) -> float | None:
        """Accuracy after minus accuracy before; None where nothing was compared."""
        return (self.gained - self.lost) / self.questions if self.questions else None

    @property
    def interval(self) -> Interval | None:
        """Confidence interval of the difference."""
        return difference_interval(self.gained, self.lost, self.questions)

    @property
    def p(self) -> float:
        """Exact McNemar test, two-sided."""
        return mcnemar(self.gained, self.lost)


class Change(Record):
    """A question that was answered twice, and is right only once."""

    before: Item = Field(description="The first answer.")
    after: Item = Field(description="The second.")


class Recall(Record):
    """Mean share of the gold rules, over the questions that have some."""

    exam: str = Field(description="Name of the exam.")
    mode: Mode = Field(description="How the questions were put.")
    questions: int = Field(ge=1, description="Questions with gold rules.")
    found: float | None = Field(None, description="Share among what search found.")
    sent: float | None = Field(None, description="Share in the prompt.")
    at: dict[int, float] = Field({}, description="Share that fits into each token budget.")


class Spread(Record):
    """A quantity over several questions."""

    count: int = Field(ge=1, description="How many questions.")
    mean: float = Field(description="Arithmetic mean.")
    median: float = Field(description="Half lie below.")
    p90: float = Field(description="Nine tenths lie below.")


class Cost(Record):
    """What a question took, in one exam and mode."""

    exam: str = Field(description="Name of the exam.")
    mode: Mode = Field(description="How the questions were put.")
    read: Spread | None = Field(None, description="Tokens of the prompt, as the model counts.")
    written: Spread | None = Field(None, description="Tokens of the answer.")
    rules: Spread | None = Field(None, description="Tokens of the rules in the prompt.")
    seconds: Spread | None = Field(None, description="From end to end; reused answers apart.")
    model_seconds: Spread | None = Field(None, description="Of the model alone.")


class Letters(Record):
    """Which letters are right in an exam, and which were chosen."""

    exam: str = Field(description="Name of the exam.")
    right: dict[str, int] = Field(description="Questions by their right letter.")
    chosen: dict[Mode, dict[str, int]] = Field(description="Answers by the letter chosen.")

    @property
    def majority(self) -> str:
        """The letter that is right most often."""
        return max(self.right, key=lambda letter: self.right[letter])

    @property
    def majority_share(self) -> float:
        """Accuracy of always giving that letter."""
        return self.right[self.majority] / sum(self.right.values())


def wilson(right: int, scored: int) -> Interval | None:
    """Wilson's score interval of a proportion (J. Am. Stat. Assoc. 22, 1927); None of nothing."""
    if not scored:
        return None
    share, weight = right / scored, _Z * _Z / scored
    centre = share + weight / 2
    reach = _Z * math.sqrt(share * (1 - share) / scored + weight / (4 * scored))
    low, high = ((centre + side * reach) / (1 + weight) for side in (-1, 1))
    return Interval(
        low=0.0 if right == 0 else max(0.0, low), high=1.0 if right == scored else min(1.0, high)
    )


def difference_interval(gained: int, lost: int, questions: int) -> Interval | None:
    """Interval of a difference of two accuracies over the same questions; None of nothing.

    Agresti and Min's (Stat. Med. 24, 2005): Wald's interval after one half was added to each of
    the four cells. It holds its level with few questions too, where Wald's own is too short.
    """
    if not questions:
        return None
    more, less, total = gained + 0.5, lost + 0.5, questions + 2
    centre = (more - less) / total
    reach = _Z * math.sqrt(more + less - (more - less) ** 2 / total) / total
    return Interval(low=max(-1.0, centre - reach), high=min(1.0, centre + reach))


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's test, exact: changes one way are a fair coin's heads.

    1 where no answer changed.
    """
    changed = gained + lost
    ways = tail = 1
    for k in range(1, min(gained, lost) + 1):
        ways = ways * (changed - k + 1) // k  # `math.comb(changed, k)`, from the one before
        tail += ways
    return min(1.0, 2 * tail / (1 << changed))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, interpolated between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def scores(items: Iterable[Item]) -> tuple[Score, ...]:
    """One score for each exam and mode that was asked: exams as they come, then modes."""
    return tuple(_score(group) for group in _groups(items))


def scores_by_kind(items: Iterable[Item]) -> tuple[Score, ...]:
    """One score for each exam, mode and kind of question that was asked."""
    by_kind: dict[Kind, list[Item]] = defaultdict(list)
    for item in items:
        by_kind[item.kind].append(item)
    return tuple(
        _score(group).model_copy(update={"kind": kind})
        for kind, some in by_kind.items()
        for group in _groups(some)
    )


def compare(before: Iterable[Item], after: Iterable[Item]) -> Paired:
    """Two answers to each question, such as in two modes; items of one mode each.

    A question is the same where exam, id and content are; those not scored twice do not count.
    """
    cells = Counter((one.right, two.right) for one, two in _pairs(before, after))
    return Paired(
        both_right=cells[True, True],
        gained=cells[False, True],
        lost=cells[True, False],
        both_wrong=cells[False, False],
    )


def got_worse(before: Iterable[Item], after: Iterable[Item]) -> tuple[Change, ...]:
    """The questions right before and wrong after."""
    pairs = _pairs(before, after)
    return tuple(Change(before=b, after=a) for b, a in pairs if b.right and not a.right)


def got_better(before: Iterable[Item], after: Iterable[Item]) -> tuple[Change, ...]:
    """The questions wrong before and right after."""
    return tuple(
        Change(before=one.after, after=one.before) for one in got_worse(list(after), list(before))
    )


def recalls(items: Iterable[Item]) -> tuple[Recall, ...]:
    """Recall of the gold rules for each exam and mode in which it was noted."""
    return tuple(_recall(noted) for group in _groups(items) if (noted := _with_gold(group)))


def costs(items: Iterable[Item]) -> tuple[Cost, ...]:
    """Tokens and seconds per question for each exam and mode."""
    return tuple(_cost(group) for group in _groups(items))


def overhead_share(items: Iterable[Item]) -> float | None:
    """Seconds spent around the model, per second spent in it; None where no time was noted.

    Answers taken from an earlier run do not count, nor does writing down what came.
    """
    timed = [item.seconds for item in items if not item.reused and item.seconds.get("model")]
    timed = [seconds for seconds in timed if "total" in seconds]
    model = math.fsum(seconds["model"] for seconds in timed)
    return (math.fsum(seconds["total"] for seconds in timed) - model) / model if model else None


def letters(items: Iterable[Item]) -> tuple[Letters, ...]:
    """Right and chosen letters of each exam; a question asked in several modes counts once."""
    exams: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        exams[item.exam].append(item)
    return tuple(_letters(name, some) for name, some in exams.items())


def of(items: Iterable[Item], exam: str, mode: Mode) -> list[Item]:
    """The items of one exam and mode."""
    return [item for item in items if item.exam == exam and item.mode == mode]


def _groups(items: Iterable[Item]) -> list[list[Item]]:
    groups: dict[tuple[str, Mode], list[Item]] = defaultdict(list)
    for item in items:
        groups[item.exam, item.mode].append(item)
    exams = list(dict.fromkeys(exam for exam, _ in groups))
    order = sorted(groups, key=lambda key: (exams.index(key[0]), MODES.index(key[1])))
    return [groups[key] for key in order]


def _score(items: Sequence[Item]) -> Score:
    scored = [item for item in items if item.right is not None]
    right = sum(1 for item in scored if item.right)
    reasons = Counter(item.not_scored or "no reason was kept" for item in items if not item.letter)
    return Score(
        exam=items[0].exam,
        mode=items[0].mode,
        asked=len(items),
        scored=len(scored),
        right=right,
        not_scored=dict(reasons.most_common()),
        accuracy=right / len(scored) if scored else None,
        interval=wilson(right, len(scored)),
    )


def _pairs(before: Iterable[Item], after: Iterable[Item]) -> list[tuple[Item, Item]]:
    def scored(items: Iterable[Item]) -> dict[tuple[str, str, str], Item]:
        return {
            (item.exam, item.question, item.question_sha256): item for item in items if item.letter
        }

    first, second = scored(before), scored(after)
    return [(item, second[key]) for key, item in first.items() if key in second]


def _with_gold(items: Sequence[Item]) -> list[Item]:
    return [
        item
        for item in items
        if item.gold_at or item.gold_found is not None or item.gold_sent is not None
    ]


def _recall(items: Sequence[Item]) -> Recall:
    budgets = sorted({budget for item in items for budget in item.gold_at})
    return Recall(
        exam=items[0].exam,
        mode=items[0].mode,
        questions=len(items),
        found=_mean([item.gold_found for item in items]),
        sent=_mean([item.gold_sent for item in items]),
        at={
            budget: fmean(item.gold_at[budget] for item in items if budget in item.gold_at)
            for budget in budgets
        },
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _cost(items: Sequence[Item]) -> Cost:
    counted = [item for item in items if item.usage.prompt_tokens]
    timed = [item.seconds for item in items if not item.reused]
    return Cost(
        exam=items[0].exam,
        mode=items[0].mode,
        read=_spread([item.usage.prompt_tokens for item in counted]),
        written=_spread([item.usage.completion_tokens for item in counted]),
        rules=_spread([item.rule_tokens for item in items if item.sent]),
        seconds=_spread([seconds["total"] for seconds in timed if "total" in seconds]),
        model_seconds=_spread([seconds["model"] for seconds in timed if "model" in seconds]),
    )


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(
        count=len(values),
        mean=fmean(values),
        median=quantile(values, 0.5),
        p90=quantile(values, 0.9),
    )


def _letters(exam: str, items: Sequence[Item]) -> Letters:
    answers = {item.question: item.answer for item in items}
    chosen: dict[Mode, Counter[str]] = defaultdict(Counter)
    for item in items:
        if item.letter:
            chosen[item.mode][item.letter] += 1
    return Letters(
        exam=exam,
        right=_counted(Counter(answers.values())),
        chosen={mode: _counted(chosen[mode]) for mode in MODES if mode in chosen},
    )


def _counted(counts: Counter[str]) -> dict[str, int]:
    return {letter: counts[letter] for letter in LETTERS if counts[letter]}
