"""What a user would like of answers, stated and ended under the name that clients give the user.

Nothing is stored but what is stated here in so many words: what is inferred from a conversation
never comes this way by itself.
"""

from __future__ import annotations

from datetime import datetime
from typing import get_args

from pydantic import Field

from comity.alignment.erasure import person_hash
from comity.errors import RuleError
from comity.memory.memory import Memory
from comity.memory.preference_book import (
    HeldPreference,
    PreferenceExport,
    standing,
    stored_preference,
)
from comity.preferences.meta_prompt import as_wishes
from comity.preferences.orders import gives_orders
from comity.preferences.priority import Understands
from comity.records import (
    VERBATIM,
    OptionalTime,
    Preference,
    PreferenceKind,
    Record,
    Rule,
    Scope,
)


class Wish(Record):
    """A preference to be kept."""

    model_config = VERBATIM

    text: str = Field(description="The wish; `style: be brief` names its kind too.")
    kind: PreferenceKind | None = Field(None, description="What it is about; found if not given.")
    id: str = Field("", description="Of the preference that this replaces, or of a new one.")
    valid_from: OptionalTime = Field(None, description="First moment at which it holds.")
    valid_to: OptionalTime = Field(None, description="First moment at which it no longer does.")


def state(
    memory: Memory, tenant: str, user: str, wish: Wish, understands: Understands | None = None
) -> Rule:
    """Keep a user's preference, and return it as it is held.

    `understands` finds the kind where none is given; by default it works with the memory's
    embedder. Raises `NotFound` for a tenant without rules, and `RuleError` for a text that gives
    orders, whose kind cannot be told, or that cannot be kept for another reason.
    """
    memory.check_scope(Scope(tenant=tenant))
    preference = _read(wish)
    if why := gives_orders(preference.text):
        raise RuleError(
            f"preference {preference.text[:60]!r} is not kept: {why}; say what answers should be "
            "like"
        )
    rule = stored_preference(
        preference.text,
        _kind(preference, memory, understands),
        tenant=tenant,
        id=wish.id,
        valid_from=wish.valid_from,
        valid_to=wish.valid_to,
    )
    return memory.store.preferences.state(
        tenant, person_hash(memory, tenant, user), rule, memory.clock()
    )


def _read(wish: Wish) -> Preference:
    text = " ".join(wish.text.split())
    if not text:
        raise RuleError("the preference's text is empty: say what answers should be like")
    if wish.kind:
        return Preference(text=text, kind=wish.kind)
    return as_wishes(text)[0]


def _kind(
    preference: Preference, memory: Memory, understands: Understands | None
) -> PreferenceKind:
    if not preference.kind:
        if understands is None:
            from comity.preferences.kinds import Kinds

            understands = Kinds(memory.embedder)
        preference = understands.understood(preference)
    if preference.kind == "":
        known = ", ".join(get_args(PreferenceKind))
        raise RuleError(
            f"preference {preference.text[:60]!r}: it cannot be told what it is about: give its "
            f"kind, one of {known}"
        )
    return preference.kind


def withdraw(memory: Memory, tenant: str, user: str, id: str) -> Rule:
    """End a user's preference now. Raises `NotFound`, and `RuleError` for one that has ended."""
    person = person_hash(memory, tenant, user)
    return memory.store.preferences.withdraw(tenant, person, id, memory.clock())


def standing_of(memory: Memory, tenant: str, user: str, at: datetime | None = None) -> list[Rule]:
    """A user's preferences that hold or are due now, or those that hold at a moment."""
    person = person_hash(memory, tenant, user)
    if at is not None:
        return memory.store.preferences.in_force(tenant, person, at)
    held = memory.store.preferences.history(tenant, person)
    return standing([each.rule for each in held], memory.clock())


def history_of(
    memory: Memory, tenant: str, user: str, id: str | None = None
) -> list[HeldPreference]:
    """All versions of a user's preferences, or of one, oldest first. Raises `NotFound`."""
    return memory.store.preferences.history(tenant, person_hash(memory, tenant, user), id)


def export_of(memory: Memory, tenant: str, user: str) -> PreferenceExport:
    """All that is kept of a user's preferences, those withdrawn included."""
    return memory.store.preferences.export(tenant, person_hash(memory, tenant, user))


def erase_of(memory: Memory, tenant: str, user: str) -> int:
    """Erase all of a user's preferences for good; gives how many versions these were.

    Texts of the user's decisions, which may quote them, are erased by `alignment.erasure`.
    """
    erased = memory.store.preferences.erase(tenant, person_hash(memory, tenant, user))
    memory.recent.clear()
    return erased
