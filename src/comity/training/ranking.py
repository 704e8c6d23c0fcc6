"""The answers to a question, ranked under each of its wishes, and a watch over the judge.

Every two answers are compared (by code where the wish has a check, else by the judge in both
orders); a pair for training is the best and the worst of two that were told apart. Where the
judge prefers the answer that was written for the opposite wish, either was wrong, and the case is
dropped: what it would teach is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

from pydantic import Field

from comity.alignment.prefer import Preferred
from comity.errors import TrainingError
from comity.models.chat import ChatModel
from comity.records import Record
from comity.training.candidates import Candidate
from comity.training.directions import Case
from comity.training.journal import Journal

MOST_FIRST = 0.9
"""Share of the judge's choices that may fall on one place; from there on a build stops."""

UNEVEN = 0.7
"""Share from which the data card and the command line warn."""

_ENOUGH = 10  # comparisons before which no judge is sent away


class Ranking(Record):
    """What came of comparing a case's answers under one wish."""

    side: Literal[0, 1] = Field(description="The wish.")
    best: int = Field(-1, description="The better of the two answers that are furthest apart.")
    worst: int = Field(-1, description="The other; -1 where no two were told apart.")
    by: Literal["code", "judge", "writing", "nobody"] = Field(
        "nobody", description="Who told them apart; `writing` is the wish they were written for."
    )
    compared: tuple[Preferred, ...] = Field((), description="Every comparison.")
    reason: str = Field("", description="Why there is no pair.")

    @property
    def decided(self) -> bool:
        """Whether there is a pair."""
        return not self.reason


class Places(Record):
    """How often a judge chose the answer that stood first."""

    comparisons: int = Field(0, ge=0, description="Comparisons by the judge, two orders each.")
    first: int = Field(0, ge=0, description="Choices of what stood first, of two a comparison.")
    turned: int = Field(0, ge=0, description="Comparisons whose verdict changed with the order.")

    @property
    def share_first(self) -> float | None:
        """Share of the choices that fell on the first; a half is even. None without any."""
        return self.first / (2 * self.comparisons) if self.comparisons else None

    @property
    def uneven(self) -> bool:
        """Whether the judge looks at places far more than it should."""
        share = self.share_first
        return share is not None and not 1 - UNEVEN < share < UNEVEN

    def plus(self, said: Preferred) -> Places:
        """With one more verdict; those of code, and failed ones, do not count."""
        if said.by != "judge" or len(said.asked) != 2:
            return self
        return Places(
            comparisons=self.comparisons + 1,
            first=self.first + sum(one.chose_first for one in said.asked),
            turned=self.turned + said.turned,
        )


def check_judge(places: Places, judge: str, limit: float = MOST_FIRST) -> None:
    """Raises `TrainingError` for a judge that nearly always prefers one place.

    After ten comparisons; `limit` is the share of its choices on the first place, or on the
    second, from which it is no judge.
    """
    share = places.share_first
    if share is None or places.comparisons < _ENOUGH or 1 - limit < share < limit:
        return
    place, most = ("first", share) if share > 0.5 else ("second", 1 - share)
    raise TrainingError(
        f"the judge {judge} preferred the answer that stood {place} in {most:.0%} of its choices, "
        f"over {places.comparisons} comparisons: it looks at the place and not at the answers. "
        "Name another with --judge, and go on with --resume"
    )


async def rank(
    judge: ChatModel | None,
    case: Case,
    side: Literal[0, 1],
    candidates: Sequence[Candidate],
    journal: Journal,
) -> Ranking:
    """Compare every two of a case's answers under one of its wishes.

    Without a judge, what code cannot tell apart is ranked by the wish that it was written for, as
    RLCD does (arXiv 2307.12950). Raises `ModelMissing`; a judge that fails makes a ranking with
    the reason.
    """
    wish, check = case.sides[side].wish, case.sides[side].check
    if judge is None and check is None:
        return _by_writing(side, candidates)
    points = [0.0] * len(candidates)
    compared: list[Preferred] = []
    told: list[tuple[int, int, Preferred]] = []
    for one, other in combinations(range(len(candidates)), 2):
        said = await journal.compare(
            judge,
            case.seed.question,
            wish,
            candidates[one].text,
            candidates[other].text,
            check,
        )
        compared.append(said)
        if said.winner in ("one", "other"):
            better, worse = (one, other) if said.winner == "one" else (other, one)
            points[better] += 1
            points[worse] -= 1
            told.append((better, worse, said))
    if not told:
        return Ranking(side=side, compared=tuple(compared), reason=_undecided(compared))
    best, worst, said = max(told, key=lambda pair: points[pair[0]] - points[pair[1]])
    return Ranking(side=side, best=best, worst=worst, by=said.by, compared=tuple(compared))


def crossed(rankings: Sequence[Ranking], candidates: Sequence[Candidate]) -> bool:
    """Whether the judge preferred, for some wish, what was written for the opposite one."""
    return any(
        one.decided and one.by == "judge" and candidates[one.best].side == 1 - one.side
        for one in rankings
    )


def _by_writing(side: Literal[0, 1], candidates: Sequence[Candidate]) -> Ranking:
    """The first answer written for the wish, and the first written for its opposite."""
    sides = [candidate.side for candidate in candidates]
    other: Literal[0, 1] = 1 if side == 0 else 0
    if side not in sides or other not in sides:
        return Ranking(side=side, reason="there is no answer written for each of the wishes")
    return Ranking(side=side, best=sides.index(side), worst=sides.index(other), by="writing")


def _undecided(compared: Sequence[Preferred]) -> str:
    if not compared:
        return "there is only one answer"
    if all(said.winner == "failed" for said in compared):
        return f"the judge failed: {compared[0].reasons[0]}"
    if all(said.by == "code" for said in compared):
        return "by its check, all answers follow the wish or none does"
    return "the judge's verdict changed with the order of the answers"
