"""Who asks the rules' API, of which memory: what each route is given."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, NamedTuple

from fastapi import Depends, Query, Request

from comity.alignment.aligner import Options
from comity.memory.memory import Memory
from comity.records import parse_time
from comity.serving.auth import Act, allow, principal
from comity.serving.wire import Refused

MOST = 1000
"""Rules or decisions of one page or change, at most."""


class Asked(NamedTuple):
    """Who asks, and of which memory."""

    key: str
    tenant: str
    memory: Memory
    approval_above: str
    """Rules of this rank and higher wait for a second person."""
    options: Options
    """How the gateway searches."""


def may(act: Act) -> Callable[[Request], Asked]:
    """A dependency: the holder of the request's key, who may do so. It raises `Refused`."""

    def who(request: Request) -> Asked:
        state = request.app.state
        found = principal(state.memory, request.headers.get("authorization"))
        allow(found, act)
        return Asked(found.key, found.tenant, state.memory, state.approval_above, state.options)

    return who


Reader = Annotated[Asked, Depends(may("read rules"))]
Editor = Annotated[Asked, Depends(may("change rules"))]
Approver = Annotated[Asked, Depends(may("approve rules"))]
Auditor = Annotated[Asked, Depends(may("read decisions"))]
Id = Annotated[str, Query(min_length=1, max_length=400, description="Id of a rule.")]
Limit = Annotated[int, Query(ge=1, le=MOST)]
Number = Annotated[int | None, Query(ge=1, le=2**31, description="Of a rule's version.")]
AsOf = Annotated[int | None, Query(ge=0, le=2**53, description="Revision of the memory.")]


def aware(time: datetime | None) -> datetime | None:
    """The time in UTC; one without a zone is taken as UTC. Raises `Refused` (422)."""
    try:
        moment: datetime | None = parse_time(time)
    except ValueError as error:
        raise Refused(422, str(error)) from error
    return moment
