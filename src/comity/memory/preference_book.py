"""What users would like of their answers, kept for each person by itself.

A stored preference is a `Rule` of authority `preference` whose `domain` is the kind of
preference. It has versions like any rule, each with the moment at which it was recorded, so that
what was in force at one moment, as known at another, can be asked. A person is a keyed hash, and
nobody else's question ever reads it. Nothing of it is embedded or indexed, and a change is no
revision of the memory: docs/design/preferences-book.md says why.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, get_args

from pydantic import Field, ValidationError

from comity.errors import NotFound, RuleError
from comity.memory.versions import in_force, live
from comity.records import PreferenceKind, Record, Rule, Time

AUTHORITY = "preference"
MOST = 100
"""Preferences of one person that hold or are to hold, at most."""
MOST_VERSIONS = 1000
"""Versions of all preferences of one person, those withdrawn included, at most."""
LONGEST = 500
"""Characters of a preference's text, at most."""

_LONGEST_ID = 100
_USED = frozenset(
    {"id", "text", "version", "domain", "authority", "valid_from", "valid_to", "tenant"}
    | {"language", "status"}
)


class HeldPreference(Record):
    """A version of a person's preference as the book holds it."""

    rule: Rule = Field(description="The preference in this version.")
    recorded_at: Time = Field(description="When it was recorded.")


class PreferenceExport(Record):
    """All that is kept of one person's preferences."""

    tenant: str = Field(description="Whose user it is.")
    person: str = Field(description="Keyed hash of the user's name.")
    preferences: tuple[HeldPreference, ...] = Field(
        (), description="Every version of every preference, oldest first."
    )


class PreferenceBook(Protocol):
    """Preferences of persons. Its errors are those of the book of record.

    Each method sees one person of one tenant, and no other. A call that fails has changed
    nothing; a change is durable, and seen by every process, when the call returns.
    """

    def state(self, tenant: str, person: str, rule: Rule, now: datetime) -> Rule:
        """Keep a preference, and return it as it is held.

        With the id of another one it is that one's next version, from now on unless it says
        when. What is held already in these words is returned as it is. Raises `RuleError` for
        one that cannot be kept.
        """

    def withdraw(self, tenant: str, person: str, id: str, now: datetime) -> Rule:
        """End a preference now; what was in force before stays known.

        Raises `NotFound` for an unknown one, and `RuleError` for one that has ended.
        """

    def in_force(
        self, tenant: str, person: str, at: datetime, known_at: datetime | None = None
    ) -> list[Rule]:
        """The preferences that hold at a moment, first stated first; none for an unknown person.

        `known_at` leaves out what was recorded after it; None is all that is known.
        """

    def history(self, tenant: str, person: str, id: str | None = None) -> list[HeldPreference]:
        """All versions of all preferences, or of one, oldest first. Raises `NotFound` for an id."""

    def export(self, tenant: str, person: str) -> PreferenceExport:
        """All that is kept of a person's preferences, its history included."""

    def erase(self, tenant: str, person: str) -> int:
        """Erase all of it for good, in every file of the memory; gives the number of versions.

        Called again it goes on where it was interrupted. Raises `StoreError` where another
        program reads for so long that files still hold it.
        """


def stored_preference(
    text: str,
    kind: PreferenceKind,
    *,
    tenant: str,
    id: str = "",
    valid_from: datetime | None = None,
    valid_to: datetime | None = None,
) -> Rule:
    """A preference as a rule to be stated; without an id it gets one from its kind.

    Raises `RuleError` for one that no person's preference can be.
    """
    try:
        rule = Rule(
            id=id or f"{kind}-{secrets.token_hex(4)}",
            text=" ".join(text.split()),
            domain=kind,
            authority=AUTHORITY,
            valid_from=valid_from,
            valid_to=valid_to,
            tenant=tenant,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "validity"
        message = problem["msg"].removeprefix("Value error, ")
        raise RuleError(f"preference {id or text[:40]!r}: {where}: {message}") from error
    check_preference(rule)
    return rule


def check_preference(rule: Rule) -> None:
    """Raises `RuleError` for a rule that cannot be kept as a person's preference."""
    if rule.authority != AUTHORITY:
        raise _refused(rule, f"authority is {rule.authority!r}, and must be {AUTHORITY!r}")
    if rule.domain not in get_args(PreferenceKind):
        known = ", ".join(get_args(PreferenceKind))
        raise _refused(rule, f"domain {rule.domain!r} is no kind of preference: choose {known}")
    if len(rule.text) > LONGEST:
        raise _refused(
            rule,
            f"text has {len(rule.text)} characters, {LONGEST} at most: shorten it, or split it",
        )
    if len(rule.id) > _LONGEST_ID:
        raise _refused(rule, f"id has {len(rule.id)} characters, {_LONGEST_ID} at most")
    if rule.status != "active":
        raise _refused(rule, f"status is {rule.status!r}: state it as active, or withdraw it")
    unused = sorted(rule.model_fields_set - _USED)
    changed = [n for n in unused if getattr(rule, n) != Rule.model_fields[n].default]
    if changed:
        raise _refused(
            rule, f"{', '.join(changed)}: a preference has none, it holds for its person everywhere"
        )


def next_version(versions: Sequence[Rule], rule: Rule, now: datetime) -> Rule:
    """The version to write where a preference is stated.

    `versions` are all of the person's, oldest first. Raises `RuleError`.
    """
    if rule.valid_to and rule.valid_to <= now:
        raise _refused(rule, f"it ended on {rule.valid_to:%Y-%m-%d}: give a later end, or none")
    known = by_id(versions)
    _refuse_too_many(known, rule, now)
    if rule.id not in known:
        return rule.model_copy(update={"version": 1})
    following = {
        "version": known[rule.id][-1].version + 1,
        "valid_from": rule.valid_from or now,
    }
    return rule.model_copy(update=following)


def held_in_these_words(versions: Sequence[Rule], rule: Rule, now: datetime) -> Rule | None:
    """The person's preference that says the same for the same time, if there is one.

    Of a preference with the same id the newest version alone can be it.
    """
    known = by_id(versions)
    others = known.values() if rule.id not in known else (known[rule.id],)
    newest = (each[-1] for each in others if live(each, now))
    return next((held for held in newest if _says(held, rule)), None)


def _says(held: Rule, rule: Rule) -> bool:
    same = (held.text, held.domain, held.valid_to) == (rule.text, rule.domain, rule.valid_to)
    return same and held.status == "active" and rule.valid_from in (None, held.valid_from)


def withdrawn(versions: Sequence[Rule], id: str, now: datetime) -> Rule:
    """The version that ends a preference now. Raises `NotFound` and `RuleError`."""
    known = by_id(versions)
    if id not in known:
        raise no_preference(id)
    if not live(known[id], now):
        raise RuleError(f"preference {id!r} has ended already: there is nothing to withdraw")
    last = known[id][-1]
    return last.model_copy(
        update={
            "version": last.version + 1,
            "status": "repealed",
            "valid_from": now,
            "valid_to": None,
        }
    )


def holding(versions: Sequence[Rule], at: datetime) -> list[Rule]:
    """Of all versions of a person's preferences, oldest first, those that hold at a moment."""
    found = (in_force(each, at) for each in by_id(versions).values())
    return [rule for rule in found if rule is not None]


def standing(versions: Sequence[Rule], now: datetime) -> list[Rule]:
    """Those that hold at a moment or will hold later, each with the versions that are due."""
    return [rule for each in by_id(versions).values() for rule in live(each, now)]


def by_id(versions: Sequence[Rule]) -> dict[str, list[Rule]]:
    """The versions of each preference, in the order in which these were first stated."""
    known: dict[str, list[Rule]] = {}
    for rule in versions:
        known.setdefault(rule.id, []).append(rule)
    return known


def no_preference(id: str) -> NotFound:
    """The error for an id that this person has no preference of."""
    return NotFound(f"this user has no preference {id!r}: comity preferences list shows them")


def _refuse_too_many(known: Mapping[str, Sequence[Rule]], rule: Rule, now: datetime) -> None:
    if sum(map(len, known.values())) >= MOST_VERSIONS:
        raise _refused(
            rule,
            f"this user has {MOST_VERSIONS} versions of preferences, which is the most: "
            "export and erase them, and state anew what still counts",
        )
    others = [id for id, versions in known.items() if id != rule.id and live(versions, now)]
    if len(others) >= MOST:
        raise _refused(
            rule, f"this user has {MOST} preferences, which is the most: withdraw one first"
        )


def _refused(rule: Rule, problem: str) -> RuleError:
    return RuleError(f"preference {rule.id!r}: {problem}")
