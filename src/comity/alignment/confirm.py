"""What owners of rules decide on suspected conflicts: confirmed or dismissed.

Who goes first is said by precedence, in code. To confirm is to declare the conflict in the rule
that goes first (`overrides`), as a new version in which nothing else changes, its validity
least of all: from then on history, replay and the closure of conflicts treat it as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any, Literal

from pydantic import Field

from comity.alignment.conflicts import can_meet, declared
from comity.alignment.precedence import precedence, rule_on
from comity.errors import NotFound, RuleError
from comity.memory.memory import Memory, succeed
from comity.memory.pairs import JudgedPair, PairDecision, Verdict, words_hash
from comity.memory.versions import live
from comity.records import AUTHORITIES, Record, Rule, Scope

State = Literal["open", "waiting", "declared", "dismissed", "outdated"]
"""`waiting`: a draft that declares it waits for approval. `outdated`: one of the rules has ended
or says something else now."""


class Prospect(Record):
    """What precedence says of two rules, should their conflict be declared."""

    outcome: Literal["wins", "tie", "never_meet"] = Field(description="Whether one goes first.")
    winner: str = Field("", description="Id of the rule that goes first.")
    loser: str = Field("", description="Id of the rule that gives way.")
    reason: str = Field(description="Why: `higher authority`, …; else what to do.")


class Conflict(Record):
    """Two rules that a judge compared, as an owner sees them."""

    finding: JudgedPair = Field(description="What the judge found.")
    state: State = Field(description="What has become of it.")
    one: Rule = Field(description="The first rule, as it is now; if outdated, as it was judged.")
    other: Rule = Field(description="The second rule, likewise.")
    prospect: Prospect = Field(description="What precedence says of them.")
    decisions: tuple[PairDecision, ...] = Field((), description="What owners said, oldest first.")


class Confirmed(Record):
    """A conflict that an owner has declared."""

    rule: Rule = Field(description="The rule that goes first, in the version that declares it.")
    loser: str = Field(description="Id of the rule that gives way where both apply.")
    reason: str = Field(description="Why it does.")
    revision: int = Field(description="Revision of the memory that holds the new version.")
    decision: PairDecision = Field(description="What was recorded.")


def prospect(one: Rule, other: Rule, authorities: Sequence[str] = AUTHORITIES) -> Prospect:
    """Which of two rules would go first."""
    if not can_meet(one, other):
        return Prospect(
            outcome="never_meet",
            reason="they are never in force in one place at one time: dismiss it",
        )
    first, second = sorted((one, other), key=lambda rule: precedence(rule, authorities))
    if precedence(first, authorities) == precedence(second, authorities):
        return Prospect(
            outcome="tie",
            reason="authority, place, audience and date put neither first: say which one goes "
            "first (--first ID), or amend one of them",
        )
    lost = rule_on((_declaring(first, second), second), authorities).overruled[0]
    return Prospect(outcome="wins", winner=lost.winner.id, loser=lost.rule.id, reason=lost.reason)


def _declaring(winner: Rule, loser: Rule) -> Rule:
    return winner.model_copy(update={"overrides": (*winner.overrides, loser.id)})


def conflicts(
    memory: Memory,
    tenant: str,
    *,
    verdicts: Iterable[Verdict] = ("contradict",),
    states: Iterable[State] = ("open", "waiting"),
) -> Iterator[Conflict]:
    """A tenant's findings of some verdicts and states, in order of the rules' ids.

    Raises `NotFound` for a tenant that is not there.
    """
    memory.check_scope(Scope(tenant=tenant))
    wanted = frozenset(states)
    for verdict in verdicts:
        for finding in memory.store.pairs.found(tenant, verdict):
            conflict = _seen(memory, tenant, finding)
            if conflict.state in wanted:
                yield conflict


def conflict(memory: Memory, tenant: str, pair: str) -> Conflict:
    """One finding. Raises `NotFound`."""
    found = memory.store.pairs.judged(tenant, [pair])
    if not found:
        raise NotFound(f"no finding {pair!r}: comity rules conflicts shows them")
    return _seen(memory, tenant, found[0])


def _seen(memory: Memory, tenant: str, finding: JudgedPair) -> Conflict:
    histories = [_versions(memory, tenant, rule) for rule in (finding.one, finding.other)]
    judged = [
        versions[number - 1]
        for versions, number in zip(
            histories, (finding.one_version, finding.other_version), strict=True
        )
    ]
    now = memory.clock()
    same = [
        [rule for rule in reversed(live(versions, now)) if words_hash(rule) == words_hash(old)]
        for versions, old in zip(histories, judged, strict=True)
    ]
    current = _that_meet(*(found or [old] for found, old in zip(same, judged, strict=True)))
    newest = [versions[-1] for versions in histories]
    return Conflict(
        finding=finding,
        state=_state(finding, current, newest, outdated=not all(same)),
        one=current[0],
        other=current[1],
        prospect=prospect(current[0], current[1], memory.authorities),
        decisions=tuple(memory.store.pairs.decisions(tenant, finding.id)),
    )


def _that_meet(ones: Sequence[Rule], others: Sequence[Rule]) -> tuple[Rule, Rule]:
    """The first two that can be in force together; else the first of each."""
    pairs = product(ones, others)
    return next((pair for pair in pairs if can_meet(*pair)), (ones[0], others[0]))


def _versions(memory: Memory, tenant: str, rule_id: str) -> list[Rule]:
    return [stored.rule for stored in memory.history(rule_id, tenant=tenant)]


def _state(
    finding: JudgedPair, current: Sequence[Rule], newest: Sequence[Rule], *, outdated: bool
) -> State:
    if outdated:
        return "outdated"
    if declared(*current):
        return "declared"
    drafted = [
        new if new.status == "draft" else now for new, now in zip(newest, current, strict=True)
    ]
    if declared(*drafted):
        return "waiting"
    return "dismissed" if finding.decided == "dismissed" else "open"


def confirm(
    memory: Memory,
    tenant: str,
    pair: str,
    *,
    author: str,
    note: str = "",
    first: str = "",
    needs_approval: Callable[[str], bool] = lambda _: False,
) -> Confirmed:
    """Declare a conflict in the rule that goes first, as a new version of it.

    `first` names that rule where precedence gives a tie; elsewhere it must agree with precedence.
    Where `needs_approval` holds for its id, the new version is a draft that somebody else has to
    approve. Raises `NotFound` for a finding that is not there, and `RuleError` where there is
    nothing to declare, neither rule goes first, or a version waits that this one would forestall.
    """
    seen = conflict(memory, tenant, pair)
    _refuse_settled(seen)
    winner, loser, reason = _in_order(seen, first)
    _refuse_waiting_version(memory, winner)
    told = f"{pair} confirmed: it contradicts {loser.id}@{loser.version}"
    # its validity stays: a rule that began only now would go before others by its later date
    changes: dict[str, Any] = {"overrides": (*winner.overrides, loser.id)}
    if needs_approval(winner.id):
        changes["status"] = "draft"
    new = memory.checked(succeed(winner, changes))
    why = f"{told}; {note}" if note else told
    revision = memory.write("amend", [new], tenant=tenant, author=author, note=why)
    decision = PairDecision(
        pair=pair,
        decided="confirmed",
        author=author,
        note=note,
        made_at=memory.clock(),
        winner=new.id,
        winner_version=new.version,
    )
    memory.store.pairs.decide(tenant, decision)
    return Confirmed(rule=new, loser=loser.id, reason=reason, revision=revision, decision=decision)


def _refuse_settled(seen: Conflict) -> None:
    one, other = seen.one.id, seen.other.id
    settled = {
        "outdated": f"rule {one!r} or {other!r} has ended, or says something else than what was "
        "judged: comity rules conflicts scan looks at what holds now",
        "declared": f"rules {one!r} and {other!r}: their conflict is declared already",
        "waiting": f"rules {one!r} and {other!r}: a draft that declares their conflict waits for "
        "approval (comity rules approve, reject)",
    }
    if seen.state in settled:
        raise RuleError(f"{seen.finding.id}: {settled[seen.state]}")


def _in_order(seen: Conflict, first: str) -> tuple[Rule, Rule, str]:
    """Winner, loser and reason. Raises `RuleError` where neither goes first."""
    told, rules = seen.prospect, {rule.id: rule for rule in (seen.one, seen.other)}
    between = f"{seen.finding.id}: rules {seen.one.id!r} and {seen.other.id!r}"
    if first and first not in rules:
        raise RuleError(f"{between}: {first!r} is neither of them")
    if told.outcome == "never_meet" or (told.outcome == "tie" and not first):
        raise RuleError(f"{between}: {told.reason}")
    if told.outcome == "wins" and first not in ("", told.winner):
        raise RuleError(
            f"{between}: {told.winner!r} goes first ({told.reason}): to change that, amend "
            "authority, place, audience or date of one of them"
        )
    name = told.winner or first
    (loser,) = (rule for rule in rules.values() if rule.id != name)
    reason = told.reason if told.outcome == "wins" else "declared"
    return rules[name], loser, reason


def _refuse_waiting_version(memory: Memory, winner: Rule) -> None:
    newest = memory.history(winner.id, tenant=winner.tenant)[-1].rule
    if newest.version == winner.version:
        return
    if newest.status == "draft":
        raise RuleError(
            f"rule {winner.id!r}: version {newest.version} is a draft: approve or reject it first"
        )
    raise RuleError(
        f"rule {winner.id!r}: version {newest.version} comes after the one that was judged and "
        "would never begin: scan again once it is in force, or declare it there by hand "
        f"(comity rules amend {winner.id} --set overrides=…)"
    )


def dismiss(memory: Memory, tenant: str, pair: str, *, author: str, note: str) -> PairDecision:
    """Record that two rules, as they are worded, do not contradict one another, and why.

    Raises `NotFound` for a finding that is not there, `RuleError` without a reason.
    """
    if not note.strip():
        raise RuleError(f"{pair}: say why the two rules do not contradict one another")
    decision = PairDecision(
        pair=pair, decided="dismissed", author=author, note=note, made_at=memory.clock()
    )
    memory.store.pairs.decide(tenant, decision)
    return decision
