"""Suspected conflicts over HTTP: who may read rules lists them, who may approve rules decides."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from comity.alignment.confirm import (
    Confirmed,
    Conflict,
    State,
    confirm,
    conflict,
    conflicts,
    dismiss,
)
from comity.memory.pairs import PairDecision, Verdict
from comity.records import Record
from comity.serving.approval import ever_waited
from comity.serving.asked import Approver, Limit, Reader
from comity.serving.strict_route import StrictRoute

_ALL: tuple[State, ...] = ("open", "waiting", "declared", "dismissed", "outdated")

Pair = Annotated[str, Query(min_length=1, max_length=40, description="Name of the finding.")]


class Confirmation(Record):
    """Two rules contradict one another."""

    first: str = Field("", max_length=400, description="Which goes first, where precedence ties.")
    note: str = Field("", max_length=4000, description="Why.")


class Dismissal(Record):
    """Two rules, as they are worded, do not contradict one another."""

    note: str = Field(min_length=1, max_length=4000, description="Why they do not.")


def list_conflicts(
    who: Reader,
    verdict: Annotated[Verdict, Query(description="What the judge found.")] = "contradict",
    settled: Annotated[bool, Query(description="Also what is settled or outdated.")] = False,
    after: Annotated[str, Query(max_length=40, description="Finding after which to go on.")] = "",
    limit: Limit = 100,
) -> list[Conflict]:
    """Pairs of rules that a judge found to contradict one another; both stay in force."""
    states: tuple[State, ...] = _ALL if settled else ("open", "waiting")
    found = conflicts(who.memory, who.tenant, verdicts=(verdict,), states=states)
    if after:
        last = _order(conflict(who.memory, who.tenant, after))
        found = (each for each in found if _order(each) > last)
    return list(islice(found, limit))


def _order(listed: Conflict) -> tuple[str, str, str]:
    return (listed.finding.one, listed.finding.other, listed.finding.id)


def confirm_conflict(who: Approver, id: Pair, given: Confirmation) -> Confirmed:
    """Declare the conflict in the rule that goes first; one that ranks high gets a draft of it,
    which another person has to approve."""
    return confirm(
        who.memory,
        who.tenant,
        id,
        author=who.key,
        note=given.note,
        first=given.first,
        needs_approval=lambda rule: ever_waited(who, rule),
    )


def dismiss_conflict(who: Approver, id: Pair, given: Dismissal) -> PairDecision:
    """Record that the two rules, as they are worded, do not contradict one another."""
    return dismiss(who.memory, who.tenant, id, author=who.key, note=given.note)


def conflicts_router() -> APIRouter:
    """The routes; the application's state is as `rules_router` says."""
    router = APIRouter(tags=["rules"], route_class=StrictRoute)
    router.add_api_route("/rules/conflicts", list_conflicts, methods=["GET"])
    router.add_api_route("/rules/conflicts/confirm", confirm_conflict, methods=["POST"])
    router.add_api_route("/rules/conflicts/dismiss", dismiss_conflict, methods=["POST"])
    return router
