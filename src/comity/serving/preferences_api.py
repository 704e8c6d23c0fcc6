"""Users' preferences over HTTP: a client's key keeps them, an admin's exports and erases them.

A client names its users to the gateway in each question, and is believed; so the same key may
say what they prefer, see it and end it. All that was ever kept of a person is handed out and
erased by an admin alone, as with the texts of decisions. A user is named in the body, never in
the address: addresses end up in logs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from comity.alignment.wishes import (
    Wish,
    erase_of,
    export_of,
    history_of,
    standing_of,
    state,
    withdraw,
)
from comity.memory.preference_book import HeldPreference, PreferenceExport
from comity.records import VERBATIM, OptionalTime, Record, Rule
from comity.serving.asked import Asked, may
from comity.serving.strict_route import StrictRoute

Client = Annotated[Asked, Depends(may("ask"))]
Eraser = Annotated[Asked, Depends(may("erase"))]
User = Annotated[
    str,
    Field(
        min_length=1,
        max_length=400,
        description="As the client names its user: `safety_identifier` or `user`.",
    ),
]


class OfUser(Record):
    """Whose preferences are meant."""

    model_config = VERBATIM  # a name is hashed as it is

    user: User


class Stating(Wish, OfUser):
    """A preference to keep for a user."""


class OneOfUser(OfUser):
    """One of a user's preferences."""

    id: str = Field(min_length=1, max_length=100, description="Of the preference.")


class Listing(OfUser):
    """Which of a user's preferences to list."""

    at: OptionalTime = Field(None, description="Those that hold then; by default now or later.")


class PastOfUser(OfUser):
    """Whose history is asked for."""

    id: str = Field("", max_length=100, description="Of one preference; all by default.")


class Gone(Record):
    """What was erased."""

    erased: int = Field(description="Versions of preferences.")


def state_preference(who: Client, stating: Stating) -> Rule:
    """Keep a preference for a user; with the id of another one it takes its place from now on."""
    return state(who.memory, who.tenant, stating.user, stating)


def list_preferences(who: Client, of: Listing) -> list[Rule]:
    """A user's preferences that hold or are due, first stated first."""
    return standing_of(who.memory, who.tenant, of.user, of.at)


def withdraw_preference(who: Client, of: OneOfUser) -> Rule:
    """End a user's preference now; its history stays until it is erased."""
    return withdraw(who.memory, who.tenant, of.user, of.id)


def preference_history(who: Client, of: PastOfUser) -> list[HeldPreference]:
    """All versions of a user's preferences, or of one, oldest first."""
    return history_of(who.memory, who.tenant, of.user, of.id or None)


def export_preferences(who: Eraser, of: OfUser) -> PreferenceExport:
    """All that is kept of a user's preferences, withdrawn ones included."""
    return export_of(who.memory, who.tenant, of.user)


def erase_preferences(who: Eraser, of: OfUser) -> Gone:
    """Erase all of a user's preferences, with their history, for good."""
    return Gone(erased=erase_of(who.memory, who.tenant, of.user))


_ROUTES: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("/preferences", state_preference),
    ("/preferences/list", list_preferences),
    ("/preferences/withdraw", withdraw_preference),
    ("/preferences/history", preference_history),
    ("/preferences/export", export_preferences),
    ("/preferences/erase", erase_preferences),
)


def preferences_router() -> APIRouter:
    """The routes; the application's state is as `rules_router` says."""
    router = APIRouter(route_class=StrictRoute)
    for path, call in _ROUTES:
        router.add_api_route(
            path,
            call,
            methods=["POST"],
            tags=["preferences"],
            status_code=201 if call is state_preference else 200,
        )
    return router
