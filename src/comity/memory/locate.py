"""Scope from a question: the caller's word first, then what the question itself names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.records import WORLD, Scope


def locate(
    memory: Memory,
    question: str | Sequence[str],
    given: Scope,
    *,
    default_place: str = WORLD,
) -> Scope:
    """Complete a scope from the places and audiences that a question names.

    A conversation is given as the user's turns, oldest first: the newest turn that names a place
    decides the place, and the newest that names an audience decides the audience.

    A place that the caller gave holds; a place that the question names inside it narrows it, and
    one outside it is ignored, so that a user's words cannot leave the caller's jurisdiction.
    Where neither names a place, `default_place` holds. Audiences are read from the question
    only where the caller gave none. `at` becomes now where it is not given.

    Raises `UnknownPlace` for a given place that nobody knows, and `NotFound` for a tenant or
    revision that is not there.
    """
    memory.check_scope(given)
    gazetteer = memory.gazetteer(given.tenant)
    own = tuple(gazetteer.canonical(place) for place in given.place)
    turns = [question] if isinstance(question, str) else question
    named = _newest(turns, lambda turn: tuple(found.code for found in gazetteer.find(turn)))
    inside = tuple(place for place in named if any(contains(wide, place) for wide in own))
    places = own + inside if own else named or (gazetteer.canonical(default_place),)
    audience = given.audience or _newest(turns, memory.name_finder(given.tenant).find)
    return given.model_copy(
        update={
            "place": tuple(dict.fromkeys(places)),
            "audience": audience,
            "at": given.at or memory.clock(),
        }
    )


def _newest(turns: Sequence[str], find: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """What `find` gives for the newest turn in which it finds anything."""
    return next(filter(None, map(find, reversed(turns))), ())
