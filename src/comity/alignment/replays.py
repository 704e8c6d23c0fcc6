"""The same questions under other rules: what would differ, one by one and in sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

from pydantic import Field

from comity.alignment.decisions import Replay, replay
from comity.memory.memory import Memory
from comity.records import Decision, OptionalTime, Record, RuleRef, Time

Facts = Literal["asked", "then", "now"]
"""The time of the facts in a replay under other rules.

`asked` is the time that the question stated, and now where it stated none: what the same
question would get if it were put again. `then` and `now` are the same time for all.
"""


class Amended(Record):
    """A rule that is in force then and now, in different versions."""

    id: str = Field(description="Id of the rule.")
    then: int = Field(ge=1, description="Version when the answer was given.")
    now: int = Field(ge=1, description="Version in the replay.")


class Replayed(Record):
    """One decision's ruling, made again."""

    decision: str = Field(description="Id of the decision.")
    made_at: Time = Field(description="When it was recorded.")
    question: str = Field(description="The user's words.")
    as_of: int = Field(ge=0, description="Revision whose rules the replay had.")
    facts_at: OptionalTime = Field(None, description="Time of the facts in the replay.")
    same: bool = Field(description="Whether the rules, their order and what gave way are the same.")
    amended: tuple[Amended, ...] = Field(
        (), description="In force then and in the replay, in different versions."
    )
    came: tuple[RuleRef, ...] = Field((), description="Versions in force in the replay alone.")
    went: tuple[RuleRef, ...] = Field((), description="Versions in force then alone.")
    then: tuple[RuleRef, ...] = Field((), description="The ruling that is recorded.")
    kept: tuple[RuleRef, ...] = Field((), description="The ruling of the replay.")
    overruled: tuple[RuleRef, ...] = Field((), description="What gave way in the replay.")


class RuleChange(Record):
    """What became of a rule, and in how many of the replays."""

    id: str = Field(description="Id of the rule.")
    then: int | None = Field(None, description="Version then; None where it was not in force.")
    now: int | None = Field(None, description="Version now; None where it is not in force.")
    decisions: int = Field(ge=1, description="How many rulings it changes.")


class Summary(Record):
    """What many replays came to."""

    replayed: int = Field(ge=0, description="How many decisions.")
    erased: int = Field(0, ge=0, description="How many more whose questions were erased.")
    same: int = Field(ge=0, description="How many have the same ruling.")
    changed: int = Field(ge=0, description="How many have another one.")
    rules: tuple[RuleChange, ...] = Field((), description="What changed, the most frequent first.")


def time_of_facts(decision: Decision, facts: Facts, now: datetime) -> datetime | None:
    """When the facts are, in a replay under other rules."""
    stated = facts == "then" or (facts == "asked" and decision.at_given)
    return decision.scope.at if stated else now


def replayed(
    memory: Memory,
    decision: Decision,
    *,
    as_of: int | None = None,
    facts: Facts = "then",
    hits: int = 20,
    relevance: float = 0.0,
) -> Replayed:
    """Make a decision's ruling again, and say what differs (see `replay`).

    `facts` holds as of another revision; at its own the recorded time does. Raises `NotFound` for
    a revision that is not there, and for a question that was erased and cannot be put again.
    """
    at = decision.scope.at
    if as_of is not None:
        at = time_of_facts(decision, facts, memory.clock())
    again = replay(memory, decision, as_of=as_of, at=at, hits=hits, relevance=relevance)
    return _told(decision, again, as_of, at)


def replay_all(
    memory: Memory,
    decisions: Iterable[Decision],
    *,
    as_of: int | None = None,
    facts: Facts = "then",
    hits: int = 20,
    relevance: float = 0.0,
) -> Iterator[Replayed]:
    """`replayed` for each decision that can be replayed so: not for erased questions."""
    for decision in decisions:
        if as_of is not None and decision.erased_at:
            continue
        yield replayed(memory, decision, as_of=as_of, facts=facts, hits=hits, relevance=relevance)


def _told(decision: Decision, again: Replay, as_of: int | None, at: datetime | None) -> Replayed:
    before = {ref.id: ref.version for ref in again.went}
    return Replayed(
        decision=decision.id,
        made_at=decision.made_at,
        question=decision.question,
        as_of=decision.revision if as_of is None else as_of,
        facts_at=at,
        same=again.same,
        amended=tuple(
            Amended(id=ref.id, then=before[ref.id], now=ref.version)
            for ref in again.came
            if ref.id in before
        ),
        came=again.came,
        went=again.went,
        then=decision.kept,
        kept=again.kept,
        overruled=again.overruled,
    )


def summary(found: Iterable[Replayed], asked: int = 0) -> Summary:
    """What replays came to: how many differ, and by which rules; `asked` counts the erased too."""
    replays, same, changes = 0, 0, Counter[tuple[str, int | None, int | None]]()
    for each in found:
        replays, same = replays + 1, same + each.same
        then = {ref.id: ref.version for ref in each.went}
        now = {ref.id: ref.version for ref in each.came}
        changes.update((name, then.get(name), now.get(name)) for name in {**then, **now})
    ordered = sorted(changes.items(), key=lambda item: (-item[1], item[0][0]))
    return Summary(
        replayed=replays,
        erased=max(0, asked - replays),
        same=same,
        changed=replays - same,
        rules=tuple(
            RuleChange(id=name, then=then, now=now, decisions=count)
            for (name, then, now), count in ordered
        ),
    )
