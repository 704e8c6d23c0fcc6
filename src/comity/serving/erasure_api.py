"""Erasing personal texts of decisions over HTTP: for an admin's key, in its tenant alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from comity.alignment.erasure import Wanted, chosen, erase
from comity.alignment.wishes import history_of
from comity.records import OptionalTime, Record
from comity.serving.asked import MOST, Asked, may
from comity.serving.strict_route import StrictRoute


def _brought_in(request: Request) -> None:
    """What waits for the record is brought in first: no text may be left in the spool."""
    request.app.state.failing.bring_in_now()


Eraser = Annotated[Asked, Depends(may("erase"))]
AllIsRecorded = Annotated[None, Depends(_brought_in)]


class Erasing(Wanted):
    """Which decisions are to lose their personal texts: exactly one of the first four is given."""

    ids: tuple[str, ...] = Field((), max_length=MOST, description="Ids of decisions.")
    question_contains: str = Field("", description="Words that stand in the question.")
    user: str = Field("", description="A user, as clients named it: `safety_identifier` or `user`.")
    before: OptionalTime = Field(None, description="First moment whose decisions are kept whole.")
    reason: str = Field("", max_length=1000, description="Why; stays in the record for ever.")
    preview: bool = Field(False, description="Only tell which decisions these are.")


class Done(Record):
    """What was erased, or would be."""

    decisions: tuple[str, ...] = Field(description="Ids, oldest first.")
    entries: tuple[str, ...] = Field((), description="Ids of the entries in the chain that say so.")
    preferences: int = Field(
        0, description="Versions of the user's preferences, which stay: see `/preferences/erase`."
    )


def erase_decisions(who: Eraser, _: AllIsRecorded, asked: Erasing) -> Done:
    """Erase the personal texts of decisions for good; their records stay, and the chain holds."""
    found = chosen(who.memory, who.tenant, asked)
    left = len(history_of(who.memory, who.tenant, asked.user)) if asked.user else 0
    if asked.preview:
        return Done(decisions=found, preferences=left)
    done = erase(who.memory, who.tenant, found, by=who.key, reason=asked.reason)
    return Done(decisions=done.decisions, entries=done.entries, preferences=left)


def erasure_router() -> APIRouter:
    """The route; the application's state is as `rules_router` says."""
    router = APIRouter(route_class=StrictRoute)
    router.add_api_route("/decisions/erase", erase_decisions, methods=["POST"], tags=["decisions"])
    return router
