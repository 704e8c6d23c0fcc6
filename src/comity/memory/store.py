"""The book of record: every version of every rule, never changed once written.

A change is a new version of a rule in a new revision of the memory. From its `valid_from` on, a
version takes the place of all earlier ones of the same rule; a repeal is a version with status
`repealed`, and a draft takes no one's place. So nothing is ever updated or deleted, and what
the memory held at revision N is simply the rows of revisions 1 to N.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from comity.memory.pairs import PairBook
from comity.memory.titles import TitledRow
from comity.records import Decision, Erasure, OptionalTime, Record, Rule, Time

if TYPE_CHECKING:
    from comity.memory.pages import DecisionFilter, RuleFilter
    from comity.memory.preference_book import PreferenceBook
    from comity.memory.sealed import Sealer, TextBook

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_micros(time: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exact."""
    since = time - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_micros(micros: int) -> datetime:
    """The aware time of `to_micros`."""
    return _EPOCH + timedelta(microseconds=micros)


class Revision(Record):
    """One committed change of the memory."""

    number: int = Field(ge=1, description="One up for every committed change.")
    tenant: str = Field(description="Whose rules it changed.")
    made_at: Time = Field(description="When it was recorded.")
    kind: str = Field(
        description="`add`, `amend`, `repeal`, `approve`, `reject`, `import` or `places`."
    )
    author: str = Field("", description="Who made it.")
    note: str = Field("", description="Why, in the author's words.")


class StoredRule(Record):
    """A rule version as the book of record holds it."""

    row: int = Field(ge=1, description="Position in the book; grows with every version.")
    revision: int = Field(ge=1, description="Revision that brought it.")
    rule: Rule = Field(description="The rule in this version.")
    recorded_at: OptionalTime = Field(None, description="When that revision was recorded.")


class PlaceNames(Record):
    """A place that a memory itself defines."""

    code: str = Field(description="Path of the place, such as `XA-NO/Harwick`.")
    names: tuple[str, ...] = Field((), description="Names by which questions may call it.")


class Change(Record):
    """What one revision is to write."""

    tenant: str = Field(description="Whose rules are changed.")
    kind: str = Field(description="As in `Revision.kind`.")
    rules: tuple[Rule, ...] = Field((), description="New versions; each one above its last.")
    places: tuple[PlaceNames, ...] = Field((), description="Places to define or rename.")
    author: str = Field("", description="Who makes the change.")
    note: str = Field("", description="Why.")
    made_at: Time = Field(description="When it is recorded.")


class AccessKey(Record):
    """A key of the gateway, without the secret itself: only its hash is kept."""

    id: str = Field(description="Name of the key, to list and revoke it by.")
    hash: str = Field(description="SHA-256 of the secret, in hex.")
    tenant: str = Field(description="Whose rules and decisions it opens.")
    role: str = Field(description="What it may do: see `serving.auth`.")
    note: str = Field("", description="Whom it was given to.")
    made_at: Time = Field(description="When it was made.")
    revoked_at: OptionalTime = Field(None, description="When it ceased to hold.")


class BegunBook(Protocol):
    """Answers that have begun to leave before their decision is on record."""

    def note(self, decision: Decision) -> None:
        """Note that an answer begins to leave, durable when the call returns.

        Nothing personal is kept of it. The decision of this id takes the note away.
        """

    def drop(self, tenant: str, decision_id: str) -> None:
        """Take a note away: nothing has left."""

    def left(self, before: datetime) -> list[Decision]:
        """What began before a moment and has no record yet, without personal texts."""


class Store(Protocol):
    """Book of record: appends whole revisions, and reads what any revision held.

    Every method raises `StoreError` (or `MemoryDamaged`, `MemoryFull`) when the storage fails;
    a failed `commit` or `append_decision` has changed nothing.
    """

    @property
    def far(self) -> bool:
        """Whether it is on a server, whose answers may take a while."""

    @property
    def texts(self) -> TextBook:
        """The personal texts of decisions, which can be erased."""

    @property
    def begun(self) -> BegunBook:
        """Answers that have begun to leave and have no record yet."""

    @property
    def pairs(self) -> PairBook:
        """What judges and owners said of pairs of rules."""

    @property
    def preferences(self) -> PreferenceBook:
        """What persons would like of their answers."""

    def identity(self) -> str:
        """A name that no other memory has, given when this one was made."""

    def revision(self) -> int:
        """Number of the latest revision; 0 for an empty memory."""

    def commit(self, change: Change) -> int:
        """Append one revision, durable when the call returns, and give its number.

        Raises `DuplicateRule` when a version is taken or skips one: somebody else changed the
        rule meanwhile.
        """

    def rows_after(self, row: int) -> Iterator[StoredRule]:
        """All rule versions of all tenants after a row, in order of row."""

    def rows_of(self, revision: int) -> list[int]:
        """The rows that a revision brought, in order; empty for one that is not there."""

    def known(self, tenant: str, rule_ids: Sequence[str]) -> set[str]:
        """Those of the ids that are taken by a rule of the tenant, in whatever version."""

    def fetch(self, rows: Sequence[int]) -> list[StoredRule]:
        """The rule versions of these rows, in the order asked for. Raises `NotFound`."""

    def history(self, tenant: str, rule_id: str) -> list[StoredRule]:
        """All versions of a rule, oldest first; empty for an unknown rule."""

    def latest(self, tenant: str, as_of: int | None = None) -> Iterator[StoredRule]:
        """The newest version of each rule of a tenant, in order of id, drafts included."""

    def page(
        self,
        tenant: str,
        chosen: RuleFilter,
        *,
        after: str = "",
        limit: int = 100,
        as_of: int | None = None,
    ) -> list[StoredRule]:
        """Of what `latest` gives, the first rules of a filter whose ids come after one."""

    def titled(self, tenant: str, titles: Sequence[str]) -> list[TitledRow]:
        """The rule versions of documents with one of these titles, of a tenant, by row.

        A title without chapters finds those of all its chapters.
        """

    def versions_since(self, tenant: str, revision: int) -> list[StoredRule]:
        """A tenant's rule versions of later revisions, oldest first."""

    def revisions(self, tenant: str, after: int = 0) -> list[Revision]:
        """The tenant's revisions after a number, oldest first."""

    def places(self, tenant: str | None = None) -> list[PlaceNames]:
        """The places that a tenant's rules define; of all tenants for None."""

    def append_decision(self, tenant: str, seal: Sealer) -> Decision:
        """Append a decision, durable when the call returns.

        `seal` is called with the hash of the tenant's last decision ("" for none) inside the
        transaction, so that chained records cannot fork.
        """

    def decisions(self, tenant: str) -> Iterator[Decision]:
        """A tenant's decisions, oldest first."""

    def chain(self, tenant: str) -> Iterator[Decision | Erasure]:
        """A tenant's decisions and the erasures of their texts, in the order of their chain."""

    def decision(self, tenant: str, decision_id: str) -> Decision:
        """One decision. Raises `NotFound`."""

    def decision_page(
        self, tenant: str, chosen: DecisionFilter, *, after: str = "", limit: int = 100
    ) -> list[Decision]:
        """The first decisions of a filter, oldest first, behind the one with the id `after`.

        Raises `NotFound` for an unknown one.
        """

    def add_key(self, key: AccessKey) -> None:
        """Keep a key of the gateway."""

    def key(self, hash: str) -> AccessKey | None:
        """The key with this hash, revoked or not; None for no such key."""

    def keys(self, tenant: str | None = None) -> list[AccessKey]:
        """The keys of a tenant, oldest first; of all tenants for None."""

    def revoke_key(self, key_id: str, at: datetime) -> AccessKey:
        """End a key; one that has ended stays as it is. Raises `NotFound`."""

    def follow(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call a function soon after each revision of any process, from a thread.

        Gives what ends that. Nothing may rest on it; a book that is as quick to ask calls nothing.
        """

    def probe(self) -> None:
        """Raises `StoreError` where it cannot be read and written now, or not within seconds."""

    def close(self) -> None:
        """Release files and connections."""
