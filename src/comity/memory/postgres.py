"""The book of record in a PostgreSQL database, for gateways on several hosts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice

from comity.errors import NotFound, StoreError
from comity.memory import key_rows, postgres_texts
from comity.memory.grouped import Grouped
from comity.memory.kept_rows import KeptRows
from comity.memory.key_rows import key_row, no_key, read_key
from comity.memory.pages import DecisionFilter, RuleFilter
from comity.memory.postgres_begun import PostgresBegun
from comity.memory.postgres_connections import LONG_SECONDS, Connections
from comity.memory.postgres_follow import Follower
from comity.memory.postgres_format import prepare
from comity.memory.postgres_pages import decision_page, rule_page
from comity.memory.postgres_pairs import PostgresPairs
from comity.memory.postgres_preferences import PostgresPreferences
from comity.memory.postgres_texts import PostgresTexts, chain_end, chain_lock
from comity.memory.postgres_transactions import (
    Statement,
    Transactions,
    Values,
    Writing,
)
from comity.memory.rule_rows import (
    COLUMNS,
    REVISION_COLUMNS,
    Row,
    read_revision,
    read_stored,
    revision_row,
    rule_record,
    rule_rows,
)
from comity.memory.sealed import Sealer
from comity.memory.store import (
    AccessKey,
    Change,
    PlaceNames,
    Revision,
    StoredRule,
    to_micros,
)
from comity.memory.titles import TitledRow
from comity.records import Decision, Erasure

_ROWS_AT_ONCE = 10_000
_PROBE_SECONDS = 2
_SECONDS_A_RULE = 0.01  # a large change may take so much longer before the server is given up
_CLOCK_OFF = timedelta(milliseconds=100)
_NAMED = 0x6E616D6564  # apart from other locks that are named by a hash

_RULE = (
    'SELECT rule."row", rule.revision, rule.record, revision.made_at FROM comity.rule '
    "JOIN comity.revision ON revision.number = rule.revision"
)
_TYPES = {"version": "bigint", "revision": "bigint", "valid_from": "bigint", "valid_to": "bigint"}
_TYPES |= {"mandatory": "bigint"}
_ARRAYS = ", ".join(f"%s::{_TYPES.get(name, 'text')}[]" for name in COLUMNS)
_INSERT_RULES = (
    f'INSERT INTO comity.rule ("row", {", ".join(COLUMNS)}) '
    f"SELECT * FROM unnest(%s::bigint[], {_ARRAYS})"
)
_INSERT_PLACE = (
    "INSERT INTO comity.place VALUES (%s, %s, %s, %s) "
    "ON CONFLICT (tenant, code) DO UPDATE SET names = excluded.names, revision = excluded.revision"
)
_FOUND = """
SELECT rule."row", rule.article FROM unnest(%(titles)s::text[]) AS wanted (title)
JOIN comity.rule ON rule.tenant = %(tenant)s AND
"""
_WHOLE_TITLE = "replace(rule.record, '\\u0000', '\\ufffd')::json ->> 'title'"
_TITLED = f"""
{_FOUND} rule.title = left(wanted.title, 200)
    AND (length(rule.title) < 200 OR {_WHOLE_TITLE} = wanted.title)
UNION
{_FOUND} rule.title > wanted.title || ' > ' AND rule.title < wanted.title || ' >!'
UNION
{_FOUND} rule.title = left(wanted.title || ' > ', 200) AND length(rule.title) = 200
    AND starts_with({_WHOLE_TITLE}, wanted.title || ' > ')
ORDER BY 1
"""


class PostgresStore:
    """Book of record in one PostgreSQL database, shared by threads, processes and hosts.

    A commit is durable on the server before it is acknowledged, and visible to every process that
    asks from then on. Writers of revisions take turns, so that revisions and rows become visible
    in the order of their numbers. A transaction sees one tenant (row-level security).
    """

    path = None
    far = True

    def __init__(
        self, url: str, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Open the database, and make or renew its tables where this role may.

        `now` is this host's clock, which `probe` compares with the server's.

        Raises `MemoryTooNew` for tables of a newer Comity, `MemoryDamaged` for another program's,
        `SettingsError` for a URL that cannot be read, and `StoreError` where the server cannot be
        reached or refuses.
        """
        self._now = now
        self._connections = Connections(url)
        self._transactions = Transactions(self._connections)
        self._lock = threading.Lock()
        self._kept = KeptRows(self._stored_at, self._connections.shown)
        self._identity = ""
        self._revision = 0  # the latest that was seen
        self._followers: list[Follower] = []
        self._append = Grouped(self._append_all)
        self.begun = PostgresBegun(self._transactions)
        self.pairs = PostgresPairs(self._transactions)
        self.preferences = PostgresPreferences(self._transactions)
        self.texts = PostgresTexts(self._transactions)
        try:
            prepare(self._connections)
        except BaseException:
            self._connections.close()
            raise

    def identity(self) -> str:
        """As in `Store`."""
        if not self._identity:
            ((self._identity,),) = self._transactions.plain("SELECT value FROM comity.identity")
        return self._identity

    def revision(self) -> int:
        """As in `Store`; asked of the server each time (docs/design/postgres.md says why)."""
        had = self._revision
        ((number,),) = self._transactions.plain("SELECT revision FROM comity.latest")
        self._refuse_lost(had, int(number))
        self._saw(int(number))
        return int(number)

    def _saw(self, revision: int) -> None:
        with self._lock:
            self._revision = max(self._revision, revision)

    def _refuse_lost(self, had: int, now: int) -> None:
        """Indexes of this process hold what the server no longer has."""
        if now < had:
            raise StoreError(
                f"{self._connections.shown} is at revision {now}, and had {had} before: it has "
                "lost changes (a standby took over that had not received them, or an older copy "
                "was put in place); make them anew, and start this again"
            )

    def commit(self, change: Change) -> int:
        """As in `Store`."""
        ids = list({rule.id for rule in change.rules})
        numbers = Statement('SELECT revision, "row" FROM comity.latest FOR UPDATE')
        versions = Statement(
            "SELECT id, max(version) FROM comity.rule WHERE tenant = %s AND id = ANY(%s) "
            "GROUP BY id",
            (change.tenant, ids),
        )
        within = LONG_SECONDS + len(change.rules) * _SECONDS_A_RULE
        with self._transactions.writing(change.tenant, numbers, versions, within=within) as writing:
            ((latest, row),), known = writing.first
            number = int(latest) + 1
            writing.run(_revision(change, number))
            for statement in _rules(rule_rows(change, number, dict(known)), row + 1):
                writing.run(statement)
            writing.run(*_places(change, number))
            writing.proof = _is_recorded(change, number, row)
        self._saw(number)
        return number

    def rows_after(self, row: int) -> Iterator[StoredRule]:
        """As in `Store`."""
        clause = 'WHERE rule."row" > %s ORDER BY rule."row" LIMIT %s'
        while True:
            batch = list(self._stored(None, clause, (row, _ROWS_AT_ONCE)))
            yield from batch
            if len(batch) < _ROWS_AT_ONCE:
                return
            row = batch[-1].row

    def rows_of(self, revision: int) -> list[int]:
        """As in `Store`."""
        found = self._transactions.read(
            None,
            'SELECT "row" FROM comity.rule WHERE revision = %s ORDER BY "row"',
            (revision,),
        )
        return [row for (row,) in found]

    def known(self, tenant: str, rule_ids: Sequence[str]) -> set[str]:
        """As in `Store`."""
        found = self._transactions.read(
            tenant,
            "SELECT DISTINCT id FROM comity.rule WHERE tenant = %s AND id = ANY(%s)",
            (tenant, list(rule_ids)),
        )
        return {rule_id for (rule_id,) in found}

    def fetch(self, rows: Sequence[int]) -> list[StoredRule]:
        """As in `Store`."""
        return self._kept.fetch(rows)

    def _stored_at(self, rows: Sequence[int]) -> Iterator[StoredRule]:
        return self._stored(None, 'WHERE rule."row" = ANY(%s)', (list(rows),))

    def history(self, tenant: str, rule_id: str) -> list[StoredRule]:
        """As in `Store`."""
        clause = "WHERE rule.tenant = %s AND rule.id = %s ORDER BY rule.version"
        return list(self._stored(tenant, clause, (tenant, rule_id)))

    def latest(self, tenant: str, as_of: int | None = None) -> Iterator[StoredRule]:
        """As in `Store`."""
        until, after = self.revision() if as_of is None else as_of, ""
        while True:
            batch = self.page(tenant, RuleFilter(), after=after, limit=_ROWS_AT_ONCE, as_of=until)
            yield from batch
            if len(batch) < _ROWS_AT_ONCE:
                return
            after = batch[-1].rule.id

    def page(
        self,
        tenant: str,
        chosen: RuleFilter,
        *,
        after: str = "",
        limit: int = 100,
        as_of: int | None = None,
    ) -> list[StoredRule]:
        """As in `Store`."""
        until = self.revision() if as_of is None else as_of
        query = rule_page(tenant, chosen, after=after, limit=limit, until=until)
        return list(self._stored(tenant, *query))

    def titled(self, tenant: str, titles: Sequence[str]) -> list[TitledRow]:
        """As in `Store`."""
        values = {"tenant": tenant, "titles": list(titles)}
        return [TitledRow(*each) for each in self._transactions.read(tenant, _TITLED, values)]

    def _stored(self, tenant: str | None, clause: str, values: Values) -> Iterator[StoredRule]:
        found = self._transactions.read(tenant, f"{_RULE} {clause}", values)
        yield from map(read_stored, found)

    def versions_since(self, tenant: str, revision: int) -> list[StoredRule]:
        """As in `Store`."""
        clause = 'WHERE rule.tenant = %s AND rule.revision > %s ORDER BY rule."row"'
        return list(self._stored(tenant, clause, (tenant, revision)))

    def revisions(self, tenant: str, after: int = 0) -> list[Revision]:
        """As in `Store`."""
        found = self._transactions.read(
            tenant,
            f"SELECT {REVISION_COLUMNS} FROM comity.revision "
            "WHERE tenant = %s AND number > %s ORDER BY number",
            (tenant, after),
        )
        return [read_revision(row) for row in found]

    def places(self, tenant: str | None = None) -> list[PlaceNames]:
        """As in `Store`."""
        found = self._transactions.read(
            tenant,
            "SELECT code, names FROM comity.place WHERE %(tenant)s::text IS NULL "
            "OR tenant = %(tenant)s ORDER BY revision, length(code), code",
            {"tenant": tenant},
        )
        return [PlaceNames(code=code, names=tuple(json.loads(names))) for code, names in found]

    def append_decision(self, tenant: str, seal: Sealer) -> Decision:
        """As in `Store`; those that come at the same time share a transaction."""
        return self._append((tenant, seal))

    def _append_all(self, group: Sequence[tuple[str, Sealer]]) -> list[Decision]:
        """Append decisions of several tenants, whose chains are locked in one order by all."""
        tenants = sorted({tenant for tenant, _ in group})
        locks = [chain_lock(tenant) for tenant in tenants]
        made: dict[int, Decision] = {}
        with self._transactions.writing(tenants[0], *locks) as writing:
            for tenant in tenants:
                writing.go_on_for(tenant)
                made |= _append_in_order(writing, tenant, group)
        return [made[number] for number in range(len(group))]

    def decisions(self, tenant: str) -> Iterator[Decision]:
        """As in `Store`."""
        return (each for each in self.chain(tenant) if isinstance(each, Decision))

    def chain(self, tenant: str) -> Iterator[Decision | Erasure]:
        """As in `Store`."""
        return postgres_texts.entries(self._transactions, tenant)

    def decision(self, tenant: str, decision_id: str) -> Decision:
        """As in `Store`."""
        (found,) = postgres_texts.some(self._transactions, tenant, [decision_id])
        return found

    def decision_page(
        self, tenant: str, chosen: DecisionFilter, *, after: str = "", limit: int = 100
    ) -> list[Decision]:
        """As in `Store`."""
        behind = self._transactions.read(
            tenant,
            "SELECT number FROM comity.decision WHERE tenant = %s AND id = %s",
            (tenant, after),
        )
        if after and not behind:
            raise NotFound(f"no decision {after!r} to go on after")
        number = behind[0][0] if behind else 0
        query = decision_page(tenant, chosen, after=number, limit=limit)
        found = self._transactions.read(tenant, *query)
        return postgres_texts.some(self._transactions, tenant, [name for (name,) in found])

    def add_key(self, key: AccessKey) -> None:
        """As in `Store`."""
        columns, marks = key_rows.COLUMNS, "%s, %s, %s, %s, %s, %s, %s"
        added = f"INSERT INTO comity.access_key ({columns}) VALUES ({marks})"
        with self._transactions.writing(key.tenant) as writing:
            writing.run(Statement(added, key_row(key)))

    def key(self, hash: str) -> AccessKey | None:
        """As in `Store`."""
        return next(iter(self._keys(None, "hash = %s", (hash,))), None)

    def keys(self, tenant: str | None = None) -> list[AccessKey]:
        """As in `Store`."""
        return self._keys(tenant, "%(it)s::text IS NULL OR tenant = %(it)s", {"it": tenant})

    def revoke_key(self, key_id: str, at: datetime) -> AccessKey:
        """As in `Store`."""
        found = self._keys(None, "id = %s", (key_id,))
        if not found:
            raise no_key(key_id)
        ended = "UPDATE comity.access_key SET revoked_at = %s WHERE id = %s AND revoked_at IS NULL"
        with self._transactions.writing(found[0].tenant) as writing:
            writing.run(Statement(ended, (to_micros(at), key_id)))
        return self._keys(None, "id = %s", (key_id,))[0]

    def _keys(self, tenant: str | None, condition: str, values: Values) -> list[AccessKey]:
        found = self._transactions.read(
            tenant,
            f"SELECT {key_rows.COLUMNS} FROM comity.access_key WHERE {condition} "
            "ORDER BY made_at, id",
            values,
            within=self._connections.short_seconds,
        )
        return [read_key(row) for row in found]

    def follow(self, changed: Callable[[], object]) -> Callable[[], None]:
        """As in `Store`."""
        self._followers.append(Follower(self._connections, changed))
        return self._followers[-1].close

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """The block is run by one process at a time of all that name it so, on whatever host.

        Raises `StoreError` where another one is at it for a minute.
        """
        held = self._connections.connect()
        try:
            with self._connections.translated():
                held.execute("SET lock_timeout = '60s'")
                held.execute("SELECT pg_advisory_lock(hashtextextended(%s, %s))", (name, _NAMED))
            yield
        finally:
            held.close()

    def probe(self) -> None:
        """As in `Store`, with a connection of its own; this host's clock must be the server's."""
        fresh = self._connections.connect(connect_timeout=_PROBE_SECONDS)
        try:
            with self._connections.translated():
                fresh.execute("SET statement_timeout = '1500ms'")
                had, before = self._revision, self._now()
                row = fresh.execute(
                    "SELECT value, clock_timestamp(), latest.revision "
                    "FROM comity.identity, comity.latest"
                ).fetchone()
                after = self._now()
        finally:
            fresh.close()
        if row is None or row[0] != self.identity():
            raise StoreError(
                f"{self._connections.shown} was replaced by another memory: start this again"
            )
        self._refuse_lost(had, row[2])
        self._compare(before, row[1], after)

    def _compare(self, before: datetime, server: datetime, after: datetime) -> None:
        """A version holds from the moment at which the host that made it says it was made."""
        off = max(before - server, server - after)
        if off > _CLOCK_OFF:
            way = "ahead of" if before > server else "behind"
            raise StoreError(
                f"this host's clock is {off.total_seconds():.1f} seconds {way} that of "
                f"{self._connections.shown}: a change would be in force here earlier or later than "
                "elsewhere; set the clocks by NTP"
            )

    def close(self) -> None:
        """As in `Store`."""
        while self._followers:
            self._followers.pop().close()
        self._connections.close()


def _revision(change: Change, number: int) -> Statement:
    added = "INSERT INTO comity.revision VALUES (%s, %s, %s, %s, %s, %s)"
    return Statement(added, revision_row(change, number))


def _is_recorded(change: Change, number: int, row: int) -> Statement:
    """Gives a row where the revision is this change: another's may have its number and its time."""
    query = (
        "SELECT 1 FROM comity.revision WHERE number = %s AND tenant = %s AND made_at = %s "
        "AND kind = %s AND author = %s AND note = %s"
    )
    values = revision_row(change, number)
    if change.rules:
        last, record = row + len(change.rules), rule_record(change.rules[-1])
        query += ' AND EXISTS (SELECT 1 FROM comity.rule WHERE "row" = %s AND record = %s)'
        values = (*values, last, record)
    return Statement(query, values)


def _rules(rows: Iterator[Row], first: int) -> Iterator[Statement]:
    """Inserts of rule versions, so many at once, as columns.

    They are made one by one as they are sent: the server ends a transaction that stands still.
    """
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        numbers = list(range(first, first + len(some)))
        columns = [list(column) for column in zip(*some, strict=True)]
        yield Statement(_INSERT_RULES, (numbers, *columns))
        first += len(some)


def _places(change: Change, revision: int) -> Iterator[Statement]:
    for place in change.places:
        names = json.dumps(place.names, ensure_ascii=False)
        yield Statement(_INSERT_PLACE, (change.tenant, place.code, names, revision))


def _append_in_order(
    writing: Writing, tenant: str, group: Sequence[tuple[str, Sealer]]
) -> dict[int, Decision]:
    """Append a tenant's decisions of a group behind its chain; each by its place in the group."""
    found = writing.rows(*chain_end(tenant))
    last, made = str(found[0][0]) if found else "", {}
    for number, (whose, seal) in enumerate(group):
        if whose == tenant:
            sealed = seal(last)
            postgres_texts.insert(writing, tenant, sealed)
            made[number], last = sealed.decision, sealed.decision.hash
    return made
