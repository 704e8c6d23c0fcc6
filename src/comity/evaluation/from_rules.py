"""Questions that follow from the rules, without a model, for an exam of several kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from comity.evaluation.cases import boundary_questions, precedence_questions
from comity.evaluation.circumstances import asked_about
from comity.evaluation.exams import Question, Rejected
from comity.evaluation.gather import Wanted
from comity.memory.memory import Memory

KINDS = ("scenario", "concept", "boundary", "precedence")
"""All kinds of question that are made."""

BY_MODEL = ("scenario", "concept")
"""Those of them that a model writes."""

_CHOOSES = ("seed", "domain", "place", "audience", "language", "tenant")


class Made(NamedTuple):
    """Questions made without a model, and what could not be asked."""

    outcomes: tuple[Question | Rejected, ...]
    tried: dict[str, int]
    """How many outcomes there are of each kind."""


def shared(count: int, kinds: Sequence[str]) -> dict[str, int]:
    """A count spread evenly over kinds; those that come to nothing are left out.

    Boundary questions come in pairs: an odd share gives one to the next kind, but never less
    than a pair, so that the sum exceeds the count by one at most.
    """
    others = [kind for kind in kinds if kind != "boundary"]
    shares = dict.fromkeys(kinds, 0)
    if len(others) < len(kinds):
        even = count // len(kinds) // 2 * 2
        shares["boundary"] = max(2, even) if others else max(2, count + count % 2)
    left = max(0, count - sum(shares.values()))
    for place, kind in enumerate(others):
        shares[kind] = left // len(others) + (place < left % len(others))
    return {kind: share for kind, share in shares.items() if share}


def matching(memory: Memory, wanted: Wanted, *, spoken: bool = False) -> list[str]:
    """Ids of the rules that are asked for; with `spoken` only those in the language wanted.

    Raises `UnknownPlace` for a place that nobody knows.
    """
    return asked_about(
        memory,
        wanted.tenant,
        domain=wanted.domain,
        place=wanted.place,
        audience=wanted.audience,
        language=wanted.language if spoken else "",
    )


def made(memory: Memory, wanted: Wanted, shares: Mapping[str, int]) -> Made:
    """The precedence questions that there are, and boundary questions in place of missing ones.

    `shares` says how many of each kind; of `wanted`, seed and what chooses the rules count.
    Raises `UnknownPlace` for a place that nobody knows.
    """
    conflicts = _asked_for(precedence_questions, memory, wanted, shares.get("precedence", 0))
    missing = shares.get("precedence", 0) - _questions(conflicts)
    share = shares.get("boundary", 0)
    boundaries = _asked_for(
        boundary_questions, memory, wanted, share + missing // 2 * 2 if share else 0
    )
    tried = {"boundary": len(boundaries), "precedence": len(conflicts)}
    return Made((*boundaries, *conflicts), {kind: tried[kind] for kind in tried if kind in shares})


def _asked_for(
    make: Callable[..., Iterator[Question | Rejected]], memory: Memory, wanted: Wanted, share: int
) -> list[Question | Rejected]:
    if not share:
        return []
    chosen = {name: getattr(wanted, name) for name in _CHOOSES}
    return list(make(memory, count=share, **chosen))


def _questions(outcomes: Sequence[Question | Rejected]) -> int:
    return sum(isinstance(outcome, Question) for outcome in outcomes)
