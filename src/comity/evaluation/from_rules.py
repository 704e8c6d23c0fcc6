"""Questions that follow from the rules, without a model, for an exam of several kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from comity.evaluation.cases import boundary_questions
from comity.evaluation.circumstances import asked_about
from comity.evaluation.conflicts import precedence_questions
from comity.evaluation.exams import Question, Rejected
from comity.evaluation.gather import Wanted
from comity.memory.memory import Memory

KINDS = ("scenario", "concept", "boundary", "precedence")
"""All kinds of question that are made."""

BY_MODEL = ("scenario", "concept")
"""Those of them that a model writes."""

_CHOOSES = ("seed", "domain", "place", "audience", "language", "tenant")


def shared(count: int, kinds: Sequence[str]) -> dict[str, int]:
    """A count spread evenly over kinds; a small one leaves some of them with nothing.

    Boundary questions come in pairs: an odd share gives one to the next kind. There is a pair at
    least, as soon as the count leaves one for each of the other kinds.
    """
    others = [kind for kind in kinds if kind != "boundary"]
    shares = dict.fromkeys(kinds, 0)
    if len(others) < len(kinds):
        even = count // len(kinds) // 2 * 2 if others else count + count % 2
        shares["boundary"] = max(even, 2 if count >= len(others) + 2 or not others else 0)
    left = count - shares.get("boundary", 0)
    for place, kind in enumerate(others):
        shares[kind] = left // len(others) + (place < left % len(others))
    return shares


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


def made(
    memory: Memory, wanted: Wanted, shares: Mapping[str, int]
) -> tuple[Question | Rejected, ...]:
    """The precedence questions that there are, and boundary questions in place of missing ones.

    `shares` says how many of each kind; of `wanted`, seed and what chooses the rules count.
    Raises `UnknownPlace` for a place that nobody knows.
    """
    conflicts = _asked_for(precedence_questions, memory, wanted, shares.get("precedence", 0))
    missing = shares.get("precedence", 0) - _questions(conflicts)
    pairs = 0
    if "boundary" in shares:
        pairs = shares["boundary"] + missing // 2 * 2 or 2 * missing  # one is filled up by a pair
    boundaries = _asked_for(boundary_questions, memory, wanted, pairs)
    return (*boundaries, *conflicts)


def _asked_for(
    make: Callable[..., Iterator[Question | Rejected]], memory: Memory, wanted: Wanted, share: int
) -> list[Question | Rejected]:
    if not share:
        return []
    chosen = {name: getattr(wanted, name) for name in _CHOOSES}
    return list(make(memory, count=share, **chosen))


def _questions(outcomes: Sequence[Question | Rejected]) -> int:
    return sum(isinstance(outcome, Question) for outcome in outcomes)
