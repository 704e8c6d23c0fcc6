"""Connections to a PostgreSQL server, kept for the next user only while they are clean.

`psycopg_pool` makes its connections in threads of its own and waits for them after an outage; here
the thread that needs a connection makes it, so that a server that is gone is told of at once, and
a command that ends has no threads to wait for. docs/design/postgres.md says more.
"""

from __future__ import annotations

import re
import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from comity.errors import (
    MemoryDamaged,
    MemoryFull,
    MissingExtra,
    RuleError,
    SettingsError,
    StoreError,
    StoreUnreachable,
)
from comity.memory.postgres_patience import Patience
from comity.memory.postgres_words import adapt

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMES = ("postgresql", "postgres")
_MOST = 12
"""Connections of one process, at most; who needs one more waits."""
_WAIT_SECONDS = 10.0
_OLDEST = 15
SHORT_SECONDS = 5.0
"""For what a server that is well answers at once: it stands still where it takes longer."""
LONG_SECONDS = 70.0
"""For any other reading, which the server itself ends after a minute (`statement_timeout`)."""

_PARAMETERS: dict[str, str | int] = {
    "application_name": "comity",
    "connect_timeout": 3,
    "target_session_attrs": "read-write",
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
    "client_encoding": "utf-8",
}
"""What a URL may state otherwise. A standby, which is behind, is not spoken to."""

_CONNINFO = re.compile(r"(?:^|\s)(?:host|hostaddr|port|dbname|user|password|service)\s*=")

# A writer that stands still (its process is stopped, its host is gone) loses its transaction and
# its locks, so that the others go on. Who has waited for a lock reads what was committed meanwhile,
# whatever isolation is the database's default.
_SESSION = """
SET search_path = pg_catalog, pg_temp;
SET statement_timeout = '60s';
SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '3s';
SET TimeZone = 'UTC';
SET default_transaction_isolation = 'read committed';
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') = 'off';
"""


def shown(url: str) -> str:
    """A memory's URL as it may be told: without a password."""
    scheme, separator, _ = url.partition("://")
    if not separator and is_conninfo(url):
        return "…"
    if scheme not in SCHEMES or not separator:
        return url
    try:
        given = _parsed(url)
    except SettingsError:
        return f"{scheme}://…"
    user = f"{given['user']}@" if "user" in given else ""
    host = given.get("host", "")
    place = host if not host.startswith("/") else ""
    port = f":{given['port']}" if "port" in given else ""
    return f"{scheme}://{user}{place}{port}/{given.get('dbname', '')}"


def _parsed(url: str) -> dict[str, Any]:
    """The parameters of a URL. Raises `SettingsError`, which shows nothing of it."""
    psycopg = driver()
    if not _takes_password_for_host(url):
        try:
            return dict(psycopg.conninfo.conninfo_to_dict(url))
        except psycopg.Error:
            pass
    # not chained: libpq quotes the part that it could not read, which may be a password
    raise SettingsError(
        "the URL of the memory cannot be read: write postgresql://USER@HOST:PORT/DATABASE, with "
        "every @ : / ? # % in a name or password percent-encoded (@ is %40)"
    )


def _takes_password_for_host(url: str) -> bool:
    """Whether libpq would read a part of the password as the host, and show it."""
    before, _, query = url.partition("://")[2].partition("?")
    authority, _, database = before.partition("/")
    return authority.count("@") > 1 or "@" in database or ("@" in query and "@" not in authority)


def is_conninfo(text: str) -> bool:
    """Whether it is a connection string of libpq, which may hold a password, and no URL."""
    return _CONNINFO.search(text) is not None


def driver() -> Any:
    """psycopg, of which this is the only place that imports it. Raises `MissingExtra`."""
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise MissingExtra("a memory in PostgreSQL", "postgres") from error
    return psycopg


class Connections:
    """Connections to one database; threads share them, and each has one at a time for itself."""

    def __init__(self, url: str, *, most: int = _MOST) -> None:
        """Nothing is connected yet. Raises `SettingsError` for a URL that cannot be read."""
        self._parameters = _PARAMETERS | _parsed(url)
        self.shown = shown(url)
        self.patience = Patience(self.shown)
        self.short_seconds = SHORT_SECONDS
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(most)
        self._closed = False

    def connect(self, **parameters: str | int) -> Connection:
        """A new connection, for its caller alone. Raises `StoreError`."""
        psycopg = driver()
        with self.translated():
            connection: Connection = psycopg.connect(
                autocommit=True, **(self._parameters | parameters)
            )
        try:
            with self.translated(), self.patience.within(connection, self.short_seconds):
                self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        if connection.info.server_version < _OLDEST * 10_000:
            raise StoreError(
                f"{self.shown} is PostgreSQL {connection.info.server_version // 10_000}: Comity "
                f"needs {_OLDEST} or newer"
            )
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            raise StoreError(
                f"{self.shown} keeps texts as {encoding}: make the database with ENCODING 'UTF8'"
            )
        connection.execute(_SESSION)
        adapt(connection)

    @contextmanager
    def one(self, within: float | None = None) -> Iterator[Connection]:
        """A connection for the block; in it psycopg's errors become ours.

        With `within`, a server that stands still is given up after so many seconds. Afterwards
        the connection is kept only if no transaction is open on it, whatever ended the block.
        """
        connection = self._take()
        try:
            with self.translated(), ExitStack() as limit:
                if within is not None:
                    limit.enter_context(self.patience.within(connection, within))
                yield connection
        finally:
            self._give_back(connection)

    def _take(self) -> Connection:
        if not self._free.acquire(timeout=_WAIT_SECONDS):
            raise StoreError(
                f"{self.shown} is busy: no connection became free within {_WAIT_SECONDS:g} seconds"
            )
        try:
            while True:
                with self._lock:
                    if self._closed:
                        raise StoreError(f"{self.shown} is closed")
                    connection = self._idle.pop() if self._idle else None
                if connection is None:
                    return self.connect()
                if _is_quiet(connection):
                    return connection
                connection.close()
        except BaseException:
            self._free.release()
            raise

    def _give_back(self, connection: Connection) -> None:
        status = driver().pq.TransactionStatus
        try:
            with self._lock:
                clean = connection.info.transaction_status == status.IDLE
                if clean and not self._closed:
                    self._idle.append(connection)
                    return
            connection.close()
        finally:
            self._free.release()

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn psycopg's errors into ours."""
        psycopg = driver()
        try:
            yield
        except psycopg.Error as error:
            self._raise(error)

    def _raise(self, error: psycopg.Error) -> NoReturn:
        psycopg, errors = driver(), driver().errors
        given = error.diag.message_primary or str(error) or "no reason given"
        said = " ".join(given.split())[:500]
        if isinstance(error, (errors.DiskFull, errors.IoError, errors.OutOfMemory)):
            raise MemoryFull(
                f"{self.shown}: the server's disk is full or failed, and nothing was changed "
                f"({said}): free some space there and repeat"
            ) from error
        if isinstance(error, (errors.DataCorrupted, errors.IndexCorrupted)):
            raise MemoryDamaged(
                f"{self.shown} is damaged ({said}): restore it from a backup"
            ) from error
        if isinstance(error, errors.ProgramLimitExceeded):
            raise RuleError(f"PostgreSQL cannot keep this ({said}): shorten its ids") from error
        if isinstance(error, errors.InsufficientPrivilege):
            raise StoreError(
                f"{self.shown}: this role may not do that ({said}): docs/postgresql.md says which "
                "rights it needs"
            ) from error
        busy = (errors.QueryCanceled, errors.LockNotAvailable, errors.DeadlockDetected)
        if isinstance(error, (*busy, errors.IdleInTransactionSessionTimeout)):
            raise StoreError(
                f"{self.shown} is busy ({said}): nothing was changed; repeat it"
            ) from error
        if isinstance(error, psycopg.OperationalError):
            raise StoreUnreachable(
                f"{self.shown} cannot be reached ({said}): does the server run, is the "
                "database there, and may this user enter?"
            ) from error
        raise StoreError(f"{self.shown} cannot be used: {said}") from error

    def close(self) -> None:
        """Close all that are idle; those in use are closed when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self.patience.close()


def _is_quiet(connection: Connection) -> bool:
    """Whether an idle connection still stands: what the server said meanwhile is mostly its end."""
    if connection.closed:
        return False
    poll = select.poll() if hasattr(select, "poll") else None
    if poll is None:
        return not select.select([connection.fileno()], [], [], 0)[0]
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
