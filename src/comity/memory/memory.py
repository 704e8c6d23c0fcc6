"""The memory: the book of record, the index that follows it, and the places it knows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from comity.errors import (
    DuplicateRule,
    NotFound,
    RuleError,
    UnknownAuthority,
)
from comity.memory.embed import Embedder, open_embedder
from comity.memory.index import Index, Progress
from comity.memory.names import NameFinder
from comity.memory.open_index import LOCAL, drop_index, open_index
from comity.memory.open_store import index_folder, make_folder, open_store
from comity.memory.open_store import path_of as path_of
from comity.memory.pages import RuleFilter
from comity.memory.patterns import check_patterns
from comity.memory.places import Canonical, Gazetteer, OwnPlace
from comity.memory.recent import Recent
from comity.memory.store import Change, PlaceNames, Store, StoredRule
from comity.memory.vectors import VectorCache
from comity.memory.versions import due, in_force, newest_undrafted
from comity.records import AUTHORITIES, DEFAULT_TENANT, Rule, Scope

Clock = Callable[[], datetime]

_RECORDERS = 8
_SEARCHERS = 16
_SUGGESTED_FROM = 2000  # rules: comparing an unknown id with all of a large memory takes seconds


class FieldChange(NamedTuple):
    """One field in which two versions of a rule differ."""

    field: str
    old: Any
    new: Any


class Memory:
    """Rules with their versions, ready to be searched.

    Every change is one revision, durable when the call returns, and seen by the next search of
    every process that has the memory open. Methods that name a rule raise `NotFound` for an
    unknown one; methods that write raise `RuleError` for a rule that cannot be taken, and then
    nothing has changed.
    """

    def __init__(
        self,
        store: Store,
        index: Index[Any],
        embedder: Embedder,
        vectors: VectorCache,
        *,
        authorities: Sequence[str] = AUTHORITIES,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self.store = store
        self.index = index
        self.embedder = embedder
        self.vectors = vectors
        self.authorities = tuple(authorities)
        self.clock = clock
        self.recorders = ThreadPoolExecutor(_RECORDERS, thread_name_prefix="record")
        """Threads for records of decisions: while these wait for the disk, searches do not."""
        self.searchers = ThreadPoolExecutor(_SEARCHERS, thread_name_prefix="words")
        """Threads that search words while others search vectors."""
        self.recent = Recent()
        self._lock = threading.Lock()
        self._unfollow: list[Callable[[], None]] = []
        self._tenants = {DEFAULT_TENANT}  # known to be there; a tenant never goes away
        self._gazetteers: dict[str, tuple[int, Gazetteer]] = {}
        self._names: dict[str, tuple[frozenset[str], NameFinder]] = {}

    @classmethod
    def open(
        cls,
        url: str = "sqlite:///comity.db",
        *,
        embedder: Embedder | str = "e5",
        index: str = LOCAL,
        index_token: str = "",
        authorities: Sequence[str] = AUTHORITIES,
        clock: Clock = lambda: datetime.now(UTC),
    ) -> Self:
        """Open or create the memory at a URL, with an index of `open_index`.

        `sqlite:///rules.db` is a file beside you, `sqlite:////var/rules.db` an absolute one, and
        `sqlite://` lives in this process only; a local index lies beside the file, in
        `rules.db.index`. `postgresql://USER@HOST/DATABASE` is shared by several hosts, each of
        which has its local index in the folder of caches.
        """
        embedder = open_embedder(embedder) if isinstance(embedder, str) else embedder
        store = open_store(url)
        try:
            folder = index_folder(url, store)
            if folder:
                make_folder(folder)
            vectors = VectorCache(folder / "vectors.db" if folder else None)
            opened = open_index(store, embedder, vectors, folder, index=index, token=index_token)
        except BaseException:
            store.close()
            raise
        return cls(store, opened, embedder, vectors, authorities=authorities, clock=clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def follow(self) -> None:
        """Take in the changes of other hosts as they are made, in a thread, until it is closed.

        Nothing rests on it: the next question takes in all that is new. It may find it done.
        """
        self._unfollow.append(self.store.follow(self.index.catch_up))

    def close(self) -> None:
        """Release files and connections."""
        while self._unfollow:
            self._unfollow.pop()()
        self.recorders.shutdown()
        self.searchers.shutdown()
        self.index.close()
        self.store.close()
        self.vectors.close()

    # Reading

    @property
    def revision(self) -> int:
        """Number of the latest committed change; 0 for an empty memory."""
        return self.store.revision()

    def get(
        self,
        rule_id: str,
        *,
        version: int | None = None,
        as_of: int | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Rule:
        """A rule in a version, or in its newest one (as of a revision)."""
        versions = self.history(rule_id, tenant=tenant)
        known = [stored for stored in versions if as_of is None or stored.revision <= as_of]
        wanted = [s.rule for s in known if version is None or s.rule.version == version]
        if not wanted:
            which = "no version" if version is None else f"no version {version}"
            when = "" if as_of is None else f" as of revision {as_of}"
            raise NotFound(
                f"rule {rule_id!r} has {which}{when}: it has {len(versions)} in all, the first of "
                f"revision {versions[0].revision}"
            )
        return wanted[-1]

    def history(self, rule_id: str, *, tenant: str = DEFAULT_TENANT) -> list[StoredRule]:
        """All versions of a rule, oldest first."""
        versions = self.store.history(tenant, rule_id)
        if not versions:
            raise NotFound(self._no_such_rule(rule_id, tenant))
        return versions

    def _no_such_rule(self, rule_id: str, tenant: str) -> str:
        some = self.store.page(tenant, RuleFilter(), limit=_SUGGESTED_FROM)
        ids = [stored.rule.id for stored in some]
        near = get_close_matches(rule_id, ids, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "comity rules list shows them"
        return f"no rule {rule_id!r}: {hint}"

    def diff(
        self,
        rule_id: str,
        old: int | None = None,
        new: int | None = None,
        *,
        tenant: str = DEFAULT_TENANT,
    ) -> list[FieldChange]:
        """Fields in which two versions differ; by default the newest and the one before."""
        newest = self.get(rule_id, version=new, tenant=tenant)
        before = self.get(rule_id, version=old or max(1, newest.version - 1), tenant=tenant)
        return differences(before, newest)

    def rules(self, *, tenant: str = DEFAULT_TENANT, as_of: int | None = None) -> list[StoredRule]:
        """The newest version of every rule that the memory held as of a revision."""
        return list(self.store.latest(tenant, self._checked(as_of)))

    def changes_since(self, revision: int, *, tenant: str = DEFAULT_TENANT) -> list[StoredRule]:
        """The rule versions of later revisions, oldest first."""
        return [
            stored
            for stored in self.store.rows_after(0)
            if stored.revision > revision and stored.rule.tenant == tenant
        ]

    def _checked(self, as_of: int | None) -> int | None:
        if as_of is not None and as_of > (latest := self.revision):
            raise NotFound(f"no revision {as_of}: the latest is {latest}")
        return as_of

    def check_scope(self, scope: Scope) -> None:
        """Raise `NotFound` for a tenant without any rules or a revision that is not there."""
        self._checked(scope.as_of)
        if scope.tenant in self._tenants:
            return
        if not self.store.revisions(scope.tenant):
            raise NotFound(
                f"no tenant {scope.tenant!r} in this memory: a tenant begins with its first rule "
                "(comity add --tenant)"
            )
        self._tenants.add(scope.tenant)

    def query_vector(self, question: str) -> NDArray[np.float32]:
        """The vector of a question, of shape (dimension,); the last ones are kept."""
        return self.recent.vector(question, self.embedder.embed_query)

    # Places and names

    def gazetteer(self, tenant: str = DEFAULT_TENANT) -> Gazetteer:
        """The places that the tenant's rules and questions can name."""
        revision = self.revision
        with self._lock:
            known = self._gazetteers.get(tenant)
            if known is None or known[0] != revision:
                own = [OwnPlace(code=p.code, names=p.names) for p in self.store.places(tenant)]
                if known is None or own != list(known[1].own):
                    known = (revision, Gazetteer(own))
                self._gazetteers[tenant] = known = (revision, known[1])
            return known[1]

    def name_finder(self, tenant: str = DEFAULT_TENANT) -> NameFinder:
        """Finds the audiences that the tenant's rules name."""
        self.index.catch_up()
        labels = self.index.audiences(tenant)
        with self._lock:
            known = self._names.get(tenant)
            if known is None or known[0] != labels:
                known = self._names[tenant] = (labels, NameFinder(sorted(labels)))
            return known[1]

    def define_places(
        self, places: Iterable[PlaceNames], *, tenant: str = DEFAULT_TENANT, author: str = ""
    ) -> int:
        """Define places of the memory's own, or rename them, as one revision."""
        new = tuple(places)
        if all(place in self.store.places(tenant) for place in new):
            return self.revision
        return self.store.commit(
            Change(tenant=tenant, kind="places", places=new, author=author, made_at=self.clock())
        )

    # Writing

    def checked(self, rule: Rule, gazetteer: Canonical | None = None) -> Rule:
        """The rule with its place in canonical form.

        Raises `UnknownPlace` or `UnknownAuthority`, with a suggestion, and `RuleError` for a
        check whose pattern cannot be used.
        """
        check_patterns(rule)
        if rule.authority not in self.authorities:
            near = get_close_matches(rule.authority, self.authorities, n=1)
            known = f"known are {', '.join(self.authorities)}"
            hint = f"did you mean {near[0]!r}?" if near else known
            raise UnknownAuthority(
                f"rule {rule.id!r}: unknown authority {rule.authority!r}: {hint}"
            )
        place = (gazetteer or self.gazetteer(rule.tenant)).canonical(rule.place)
        return rule if place == rule.place else rule.model_copy(update={"place": place})

    def write(
        self,
        kind: str,
        rules: Sequence[Rule],
        *,
        tenant: str,
        places: Sequence[PlaceNames] = (),
        author: str = "",
        note: str = "",
        progress: Progress | None = None,
    ) -> int:
        """Commit new versions as one revision; their vectors are made before it.

        An interrupted call has changed nothing, and called again it goes on with the vectors
        that it had made.
        """
        foreign = [rule.id for rule in rules if rule.tenant != tenant]
        if foreign:
            raise RuleError(f"rule {foreign[0]!r} belongs to another tenant than {tenant!r}")
        self.vectors.get(self.embedder, [rule.indexed_text for rule in rules], progress=progress)
        return self.store.commit(
            Change(
                tenant=tenant,
                kind=kind,
                rules=tuple(rules),
                places=tuple(places),
                author=author,
                note=note,
                made_at=self.clock(),
            )
        )

    def add(self, rules: Rule | Iterable[Rule], *, author: str = "", note: str = "") -> int:
        """Add rules with new ids as one revision, and give its number."""
        new = [rules] if isinstance(rules, Rule) else list(rules)
        if not new:
            return self.revision
        tenant = new[0].tenant
        _refuse_doubles(new)
        taken = [rule.id for rule in new if self.store.history(tenant, rule.id)]
        if taken:
            raise DuplicateRule(
                f"rule {taken[0]!r} is there already: amend it (comity rules amend), or choose "
                "another id"
            )
        checked = [self.checked(rule.model_copy(update={"version": 1})) for rule in new]
        return self.write("add", checked, tenant=tenant, author=author, note=note)

    def amend(
        self,
        rule_id: str,
        changes: Mapping[str, Any],
        *,
        version: int | None = None,
        tenant: str = DEFAULT_TENANT,
        author: str = "",
        note: str = "",
    ) -> Rule:
        """Give a rule a new version that differs in some fields, and return it.

        `version` is the newest that is known: where there is a newer one, that is refused.

        Without a `valid_from` among the changes the new version is in force from now on, and the
        old one until then; a draft keeps its own. Where the newest version starts only later,
        `valid_from` must be given: later versions forestall earlier ones that start after them.
        """
        old = self.history(rule_id, tenant=tenant)[-1].rule
        _refuse_newer(old, version)
        if old.status == "repealed" and "status" not in changes:
            raise RuleError(
                f"rule {rule_id!r} is repealed: amend its status to active to put it in force again"
            )
        since = old.valid_from if old.status == "draft" else self.clock()
        if old.valid_from and since and old.valid_from > since and "valid_from" not in changes:
            raise RuleError(
                f"rule {rule_id!r}: version {old.version} is due from {_date(old.valid_from)}: "
                "give --from (from then on the new text replaces it for good)"
            )
        given = {"valid_from": since, "source": None} | dict(changes)
        return self._succeed("amend", old, given, author=author, note=note)

    def repeal(
        self,
        rule_id: str,
        *,
        at: datetime | None = None,
        version: int | None = None,
        tenant: str = DEFAULT_TENANT,
        author: str = "",
        note: str = "",
    ) -> Rule:
        """End a rule, now or at another moment; the repeal is a version of its own.

        `version` is the newest that is known: where there is a newer one, that is refused.

        A draft that no version in force or due stands behind is discarded so; for another one
        `RuleError` is raised, since its repeal would end more than the draft.
        """
        versions = [stored.rule for stored in self.history(rule_id, tenant=tenant)]
        old, now = versions[-1], self.clock()
        _refuse_newer(old, version)
        if old.status == "repealed":
            since = f", as of {_date(old.valid_from)}" if old.valid_from else ""
            raise RuleError(f"rule {rule_id!r} was repealed already{since}")
        if old.status == "draft" and (in_force(versions, now) or due(versions, now)):
            raise RuleError(
                f"rule {rule_id!r}: version {old.version} is a draft that would amend a rule in "
                f"force: discard it first (comity rules reject {rule_id}), then repeal the rule"
            )
        given = {"status": "repealed", "valid_from": at or now, "valid_to": None}
        return self._succeed("repeal", old, given, author=author, note=note)

    def propose_repeal(
        self,
        rule_id: str,
        *,
        at: datetime | None = None,
        tenant: str = DEFAULT_TENANT,
        author: str = "",
        note: str = "",
    ) -> Rule:
        """Draft the end of a rule, now or at another moment, for somebody else to approve.

        The draft is the version that holds until then, with that moment as its `valid_to`.
        Raises `RuleError` where there is nothing to end.
        """
        return self.write_one("repeal", self.ending(rule_id, at, tenant), author, note)

    def ending(self, rule_id: str, at: datetime | None, tenant: str = DEFAULT_TENANT) -> Rule:
        """The draft of `propose_repeal`, not yet written."""
        versions = [stored.rule for stored in self.history(rule_id, tenant=tenant)]
        now = self.clock()
        end = at or now
        held = in_force(versions, end - timedelta(microseconds=1))
        since = held.valid_from if held else None
        if held is None and not in_force(versions, now):
            held, end = next(reversed(due(versions, now)), None), now
        if held is None:
            raise RuleError(f"rule {rule_id!r} is not in force then: there is nothing to repeal")
        given = {name: getattr(held, name) for name in Rule.model_fields if name not in FIXED}
        ends = {"status": "draft", "valid_from": since, "valid_to": end}
        return succeed(versions[-1], given | ends)

    def approve(
        self,
        rule_ids: str | Iterable[str],
        *,
        version: int | None = None,
        tenant: str = DEFAULT_TENANT,
        author: str = "",
        note: str = "",
    ) -> list[Rule]:
        """Put one draft or several in force as one revision: all of them, or none.

        `version` is that of the draft which was looked at: a newer one is refused.

        A draft keeps the validity that it states, but one that amends a rule starts now at the
        earliest: until it was approved the earlier version held. One whose validity has ended by
        then repeals the rule.
        """
        names = [rule_ids] if isinstance(rule_ids, str) else list(dict.fromkeys(rule_ids))
        new = [self.checked(self._approved(name, tenant, version)) for name in names]
        if new:
            self.write("approve", new, tenant=tenant, author=author, note=note)
        return new

    def _approved(self, rule_id: str, tenant: str, version: int | None) -> Rule:
        versions = [stored.rule for stored in self.history(rule_id, tenant=tenant)]
        draft = _draft(versions)
        _refuse_newer(draft, version)
        since = draft.valid_from
        if newest_undrafted(versions) and (since is None or since < self.clock()):
            since = self.clock()
        if draft.valid_to and since and draft.valid_to <= since:
            return succeed(draft, {"status": "repealed", "valid_from": since, "valid_to": None})
        return succeed(draft, {"status": "active", "valid_from": since})

    def reject(
        self, rule_id: str, *, tenant: str = DEFAULT_TENANT, author: str = "", note: str = ""
    ) -> Rule:
        """Discard a draft: the version before it is stated again, or the draft is repealed."""
        versions = [stored.rule for stored in self.history(rule_id, tenant=tenant)]
        draft, before = _draft(versions), newest_undrafted(versions)
        given: dict[str, Any] = {"status": "repealed", "valid_from": self.clock(), "valid_to": None}
        if before:
            given = {name: getattr(before, name) for name in Rule.model_fields}
            given = {name: value for name, value in given.items() if name not in FIXED}
        return self._succeed("reject", draft, given, author=author, note=note)

    def _succeed(
        self, kind: str, old: Rule, changes: Mapping[str, Any], *, author: str, note: str
    ) -> Rule:
        return self.write_one(kind, succeed(old, changes), author, note)

    def write_one(self, kind: str, version: Rule, author: str = "", note: str = "") -> Rule:
        """Commit one new version as a revision, and return it as it is held."""
        new = self.checked(version)
        self.write(kind, [new], tenant=new.tenant, author=author, note=note)
        return new


FIXED = frozenset({"id", "version", "tenant"})
"""What names a rule: the fields that its versions have in common, and their number."""


def succeed(old: Rule, changes: Mapping[str, Any]) -> Rule:
    """The next version of a rule, with some fields changed.

    Raises `RuleError` for a field that a rule does not have, that names the rule itself, or
    whose value cannot be used.
    """
    fixed = sorted(FIXED & changes.keys())
    if fixed:
        raise RuleError(f"rule {old.id!r}: {', '.join(fixed)} cannot be amended: add a new rule")
    fields = {name: getattr(old, name) for name in Rule.model_fields}
    try:
        return Rule.model_validate(fields | dict(changes) | {"version": old.version + 1})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "validity"
        message = problem["msg"].removeprefix("Value error, ")
        raise RuleError(f"rule {old.id!r}: {where}: {message}") from error


def _refuse_newer(newest: Rule, known: int | None) -> None:
    if known not in (None, newest.version):
        raise DuplicateRule(
            f"rule {newest.id!r}: version {newest.version} is the newest by now, not {known}: "
            "look at it, and repeat the change"
        )


def _draft(versions: Sequence[Rule]) -> Rule:
    newest = versions[-1]
    if newest.status != "draft":
        raise RuleError(
            f"rule {newest.id!r} is {newest.status}, not a draft: nothing to approve or reject"
        )
    return newest


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def differences(old: Rule, new: Rule) -> list[FieldChange]:
    """Fields in which two versions of a rule differ, their numbers apart."""
    return [
        FieldChange(name, getattr(old, name), getattr(new, name))
        for name in Rule.model_fields
        if name != "version" and getattr(old, name) != getattr(new, name)
    ]


def rebuild_index(url: str, store: Store, *, index: str = LOCAL, token: str = "") -> None:
    """Delete the index of a memory, so that the next opening makes it anew from the book."""
    drop_index(store, index_folder(url, store), index=index, token=token)


def _refuse_doubles(rules: Sequence[Rule]) -> None:
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise DuplicateRule(f"rule {rule.id!r} stands twice in this change")
        seen.add(rule.id)
