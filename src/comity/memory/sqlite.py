"""The book of record in one SQLite file."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from comity.errors import (
    MemoryDamaged,
    MemoryFull,
    MemoryTooNew,
    NotFound,
    StoreError,
)
from comity.memory import key_rows
from comity.memory.grouped import Grouped
from comity.memory.kept_rows import KeptRows
from comity.memory.key_rows import key_row, no_key, read_key
from comity.memory.migrations import APPLICATION_ID, MIGRATIONS
from comity.memory.pages import DecisionFilter, RuleFilter, decision_page, rule_page
from comity.memory.rule_rows import (
    REVISION_COLUMNS,
    read_revision,
    read_stored,
    revision_row,
    rule_rows,
)
from comity.memory.sealed import Sealer
from comity.memory.sqlite_begun import SqliteBegun
from comity.memory.sqlite_pairs import SqlitePairs
from comity.memory.sqlite_preferences import SqlitePreferences
from comity.memory.sqlite_texts import SqliteTexts, entries, insert, last_hash, one
from comity.memory.store import (
    AccessKey,
    Change,
    PlaceNames,
    Revision,
    StoredRule,
    to_micros,
)
from comity.memory.titles import TITLED, TitledRow
from comity.records import Decision, Erasure

if TYPE_CHECKING:
    import apsw

_BUSY_TIMEOUT_MS = 30_000
_PROBE_TIMEOUT_MS = 1_500
_CACHE_KB = 512  # of each thread's connection; the system caches the file for all of them
_CACHE_OF_MANY_KB = 65_536
_MANY = 1_000  # rules
_ROWS_AT_ONCE = 10_000
_Row = tuple[Any, ...]
_Values = _Row | dict[str, Any]


class SqliteStore:
    """Book of record in one SQLite file (or in memory), shared by threads and processes.

    Each thread has a connection of its own; writers of all processes take turns. Commits are
    synced to disk (`synchronous=FULL`) before they are acknowledged.
    """

    far = False

    def __init__(self, path: Path | None) -> None:
        """Open or create the file at `path`; `None` keeps everything in memory.

        Raises `MemoryTooNew` for a file of a newer Comity, `MemoryDamaged` for a file that is
        no SQLite database or another program's, and `StoreError` when it cannot be opened.
        """
        self.path = path
        self._local = threading.local()
        # not held here: a thread that ends takes its connection with it
        self._connections: WeakSet[apsw.Connection] = WeakSet()
        self._lock = threading.RLock()
        self._kept = KeptRows(self._stored_at, str(path))
        self._append = Grouped(self._append_all)
        self._shared = self._connect() if path is None else None
        self.begun = SqliteBegun(self._reading, self._writing)
        self.pairs = SqlitePairs(self._reading, self._writing)
        self.preferences = SqlitePreferences(self._reading, self._writing)
        self.texts = SqliteTexts(self._reading, self._writing)
        with translated(path):
            self._migrate()

    def _connect(self) -> apsw.Connection:
        import apsw

        _refuse_affected_sqlite(apsw.sqlite_lib_version())
        with translated(self.path):
            connection = apsw.Connection(str(self.path) if self.path else ":memory:")
            connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
            connection.execute("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
            # no copy of a text that may be erased is left in free pages or temporary files
            connection.execute("PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY")
        self._connections.add(connection)
        return connection

    @property
    def _connection(self) -> apsw.Connection:
        if self._shared is not None:
            return self._shared
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        connection: apsw.Connection = self._local.connection
        return connection

    def _migrate(self) -> None:
        connection = self._connection
        # tables first: another process may be making this memory between two of these reads
        tables = int(_value(connection, "SELECT count(*) FROM sqlite_schema"))
        application = int(_value(connection, "PRAGMA application_id"))
        version = int(_value(connection, "PRAGMA user_version"))
        if application not in (0, APPLICATION_ID) or (application == 0 and tables):
            raise MemoryDamaged(
                f"{self.path} is another program's database: choose another --memory"
            )
        if version > len(MIGRATIONS):
            raise MemoryTooNew(
                f"{self.path} was written by a newer Comity (format {version}, this one reads up "
                f"to {len(MIGRATIONS)}): upgrade with pip install -U comity"
            )
        if self.path:
            _use_wal(connection)
        if version < len(MIGRATIONS) or application == 0:
            self._apply_migrations()

    def _apply_migrations(self) -> None:
        with self._writing() as connection:
            for migration in MIGRATIONS[int(_value(connection, "PRAGMA user_version")) :]:
                connection.execute(migration)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        with translated(self.path):
            if self._shared is None:
                yield self._connection
            else:
                with self._lock:
                    yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        with self._reading() as connection, self._lock:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def identity(self) -> str:
        """As in `Store`."""
        with self._reading() as connection:
            return str(_value(connection, "SELECT value FROM identity"))

    def revision(self) -> int:
        """As in `Store`."""
        with self._reading() as connection:
            return int(_value(connection, "SELECT ifnull(max(number), 0) FROM revision"))

    def commit(self, change: Change) -> int:
        """As in `Store`."""
        with self._writing() as connection, _room(connection, len(change.rules)):
            number = int(_value(connection, "SELECT ifnull(max(number), 0) + 1 FROM revision"))
            connection.execute(
                "INSERT INTO revision VALUES (?, ?, ?, ?, ?, ?)", revision_row(change, number)
            )
            _insert_rules(connection, change, number)
            connection.executemany(
                "INSERT INTO place VALUES (?, ?, ?, ?) ON CONFLICT (tenant, code) "
                "DO UPDATE SET names = excluded.names, revision = excluded.revision",
                (
                    (change.tenant, place.code, json.dumps(place.names, ensure_ascii=False), number)
                    for place in change.places
                ),
            )
        return number

    def rows_after(self, row: int) -> Iterator[StoredRule]:
        """As in `Store`."""
        while True:
            batch = list(
                self._stored("WHERE rule.row > ? ORDER BY rule.row LIMIT ?", (row, _ROWS_AT_ONCE))
            )
            yield from batch
            if len(batch) < _ROWS_AT_ONCE:
                return
            row = batch[-1].row

    def rows_of(self, revision: int) -> list[int]:
        """As in `Store`."""
        with self._reading() as connection:
            found = _rows(
                connection, "SELECT row FROM rule WHERE revision = ? ORDER BY row", (revision,)
            )
        return [row for (row,) in found]

    def known(self, tenant: str, rule_ids: Sequence[str]) -> set[str]:
        """As in `Store`."""
        with self._reading() as connection:
            found = _rows(
                connection,
                "SELECT value FROM json_each(?2) WHERE EXISTS "
                "(SELECT 1 FROM rule WHERE tenant = ?1 AND id = value)",
                (tenant, json.dumps(rule_ids)),
            )
        return {rule_id for (rule_id,) in found}

    def fetch(self, rows: Sequence[int]) -> list[StoredRule]:
        """As in `Store`."""
        return self._kept.fetch(rows)

    def _stored_at(self, rows: Sequence[int]) -> Iterator[StoredRule]:
        clause = "WHERE rule.row IN (SELECT value FROM json_each(?))"
        return self._stored(clause, (json.dumps(rows),))

    def history(self, tenant: str, rule_id: str) -> list[StoredRule]:
        """As in `Store`."""
        return list(
            self._stored(
                "WHERE rule.tenant = ? AND rule.id = ? ORDER BY rule.version", (tenant, rule_id)
            )
        )

    def latest(self, tenant: str, as_of: int | None = None) -> Iterator[StoredRule]:
        """As in `Store`."""
        until = self.revision() if as_of is None else as_of
        return self._stored(
            "JOIN (SELECT id, max(version) AS newest FROM rule WHERE tenant = ?1 "
            "AND revision <= ?2 GROUP BY id) AS last ON last.id = rule.id "
            "AND last.newest = rule.version WHERE rule.tenant = ?1 ORDER BY rule.id",
            (tenant, until),
        )

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
        return list(self._stored(*query))

    def titled(self, tenant: str, titles: Sequence[str]) -> list[TitledRow]:
        """As in `Store`."""
        with self._reading() as connection:
            found = _rows(connection, TITLED, (tenant, json.dumps(titles)))
        return [TitledRow(*each) for each in found]

    def _stored(self, clause: str, values: _Values) -> Iterator[StoredRule]:
        query = (
            "SELECT rule.row, rule.revision, rule.record, revision.made_at FROM rule "
            f"JOIN revision ON revision.number = rule.revision {clause}"
        )
        with self._reading() as connection:
            found = _rows(connection, query, values)
        yield from map(read_stored, found)

    def versions_since(self, tenant: str, revision: int) -> list[StoredRule]:
        """As in `Store`."""
        return list(
            self._stored(
                "WHERE rule.tenant = ? AND rule.revision > ? ORDER BY rule.row", (tenant, revision)
            )
        )

    def revisions(self, tenant: str, after: int = 0) -> list[Revision]:
        """As in `Store`."""
        with self._reading() as connection:
            found = _rows(
                connection,
                f"SELECT {REVISION_COLUMNS} FROM revision "
                "WHERE tenant = ? AND number > ? ORDER BY number",
                (tenant, after),
            )
        return [read_revision(row) for row in found]

    def places(self, tenant: str | None = None) -> list[PlaceNames]:
        """As in `Store`."""
        with self._reading() as connection:
            found = _rows(
                connection,
                "SELECT code, names FROM place WHERE ?1 IS NULL OR tenant = ?1 "
                "ORDER BY revision, length(code), code",
                (tenant,),
            )
        return [PlaceNames(code=code, names=tuple(json.loads(names))) for code, names in found]

    def append_decision(self, tenant: str, seal: Sealer) -> Decision:
        """As in `Store`; those that come at the same time share a transaction."""
        return self._append((tenant, seal))

    def _append_all(self, group: Sequence[tuple[str, Sealer]]) -> list[Decision]:
        with self._writing() as connection:
            return [_append(connection, tenant, seal) for tenant, seal in group]

    def decisions(self, tenant: str) -> Iterator[Decision]:
        """As in `Store`."""
        return (each for each in self.chain(tenant) if isinstance(each, Decision))

    def chain(self, tenant: str) -> Iterator[Decision | Erasure]:
        """As in `Store`."""
        return entries(self._reading, tenant)

    def decision(self, tenant: str, decision_id: str) -> Decision:
        """As in `Store`."""
        return one(self._reading, tenant, decision_id)

    def decision_page(
        self, tenant: str, chosen: DecisionFilter, *, after: str = "", limit: int = 100
    ) -> list[Decision]:
        """As in `Store`."""
        with self._reading() as connection:
            behind = _rows(
                connection,
                "SELECT number FROM decision WHERE tenant = ? AND id = ?",
                (tenant, after),
            )
            if after and not behind:
                raise NotFound(f"no decision {after!r} to go on after")
            number = behind[0][0] if behind else 0
            found = _rows(connection, *decision_page(tenant, chosen, after=number, limit=limit))
        return [self.decision(tenant, name) for (name,) in found]

    def add_key(self, key: AccessKey) -> None:
        """As in `Store`."""
        with self._writing() as connection:
            connection.execute(
                f"INSERT INTO access_key ({key_rows.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                key_row(key),
            )

    def key(self, hash: str) -> AccessKey | None:
        """As in `Store`."""
        return next(iter(self._keys("hash = ?", (hash,))), None)

    def keys(self, tenant: str | None = None) -> list[AccessKey]:
        """As in `Store`."""
        return self._keys("?1 IS NULL OR tenant = ?1", (tenant,))

    def revoke_key(self, key_id: str, at: datetime) -> AccessKey:
        """As in `Store`."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE access_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                (to_micros(at), key_id),
            )
        found = self._keys("id = ?", (key_id,))
        if not found:
            raise no_key(key_id)
        return found[0]

    def _keys(self, condition: str, values: tuple[Any, ...]) -> list[AccessKey]:
        with self._reading() as connection:
            found = _rows(
                connection,
                f"SELECT {key_rows.COLUMNS} FROM access_key WHERE {condition} ORDER BY made_at, id",
                values,
            )
        return [read_key(row) for row in found]

    def follow(self, changed: Callable[[], object]) -> Callable[[], None]:
        """As in `Store`: calls nothing."""
        return lambda: None

    def probe(self) -> None:
        """As in `Store`, with a connection of its own, which finds the file as it is now."""
        import apsw

        if self.path is None:
            self.revision()
            return
        with translated(self.path):
            fresh = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                fresh.set_busy_timeout(_PROBE_TIMEOUT_MS)
                fresh.execute("BEGIN IMMEDIATE")
                found = _value(fresh, "SELECT value FROM identity")
                fresh.execute("ROLLBACK")
            finally:
                fresh.close()
        if found != self.identity():
            raise StoreError(f"{self.path} was replaced by another memory: start this again")

    def close(self) -> None:
        """As in `Store`."""
        for connection in tuple(self._connections):
            connection.close()
        self._connections.clear()


def _use_wal(connection: apsw.Connection) -> None:
    """Switch to write-ahead logging, which SQLite itself does not wait for."""
    import apsw

    give_up = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            mode = _value(connection, "PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
            continue
        if mode != "wal":
            raise StoreError(
                f"{connection.filename}: this file system cannot share a memory between processes "
                f"(journal mode {mode}): put it on a local disk"
            )
        return


@contextmanager
def _room(connection: apsw.Connection, rules: int) -> Iterator[None]:
    """More cache for a large change: what finds no room is written twice."""
    if rules < _MANY:
        yield
        return
    connection.execute(f"PRAGMA cache_size = -{_CACHE_OF_MANY_KB}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KB}")


def _rows(connection: apsw.Connection, query: str, values: _Values) -> list[tuple[Any, ...]]:
    return connection.execute(query, values).fetchall()


def _value(connection: apsw.Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else 0


def _append(connection: apsw.Connection, tenant: str, seal: Sealer) -> Decision:
    sealed = seal(last_hash(connection, tenant))
    insert(connection, tenant, sealed)
    return sealed.decision


def _insert_rules(connection: apsw.Connection, change: Change, revision: int) -> None:
    last = dict(
        _rows(
            connection,
            "SELECT id, max(version) FROM rule WHERE tenant = ? AND id IN "
            "(SELECT value FROM json_each(?)) GROUP BY id",
            (change.tenant, json.dumps(list({rule.id for rule in change.rules}))),
        )
    )
    connection.executemany(
        "INSERT INTO rule (tenant, id, version, revision, place, audience, domain, authority, "
        "valid_from, valid_to, status, mandatory, overrides, record) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rule_rows(change, revision, last),
    )


def _refuse_affected_sqlite(version: str) -> None:
    numbers = tuple(int(part) for part in version.split("."))
    if (3, 7, 0) <= numbers <= (3, 51, 2):
        raise StoreError(
            f"SQLite {version} can corrupt a database in WAL mode: pip install -U apsw "
            "(3.51.3 or newer)"
        )


@contextmanager
def translated(path: Path | None) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    import apsw

    try:
        yield
    except (apsw.FullError, apsw.IOError) as error:
        raise MemoryFull(
            f"{path}: the disk is full or failed, and nothing was changed ({error}): "
            "free some space and repeat"
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise MemoryDamaged(
            f"{path} is damaged or no Comity memory ({error}): restore it from a backup, or choose "
            "another --memory"
        ) from error
    except apsw.BusyError as error:
        raise StoreError(
            f"{path} is locked by another process ({error}): wait for it, and repeat"
        ) from error
    except apsw.CantOpenError as error:
        raise StoreError(
            f"{path} cannot be opened ({error}): does its folder exist, and may you write there?"
        ) from error
    except apsw.ReadOnlyError as error:
        raise StoreError(f"{path} is read-only: nothing was changed") from error
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be used: {error}") from error
