"""Backups of a memory in use, and memories made from them.

A backup is taken while others write: it is the book of record at one moment. It is read again and
its chains of decisions are followed before it has its name, and again before anything is restored
from it. What a memory is made from it is compared with it row by row.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from comity.alignment.decisions import Chain, follow
from comity.alignment.erasure import erase
from comity.errors import DocumentError, MemoryDamaged, NotFound, SettingsError
from comity.memory.backup import (
    Backup,
    BackupDamaged,
    Head,
    Manifest,
    fill,
    seal,
    sha256_of,
    write_tables,
)
from comity.memory.backup_sqlite import filling_sqlite, name, reading_sqlite
from comity.memory.backup_tables import Source
from comity.memory.embed import HashEmbedder
from comity.memory.index import LocalIndex
from comity.memory.memory import Clock, Memory
from comity.memory.migrations import MIGRATIONS
from comity.memory.new_file import new_file, refuse_taken, scratch_file
from comity.memory.open_store import in_postgres, path_of
from comity.memory.sqlite import SqliteStore
from comity.memory.vectors import VectorCache
from comity.records import Erasure

_ERASURES = TypeAdapter(list[Erasure])


class ChainBroken(MemoryDamaged):
    """A chain of decisions that does not hold, in what is backed up or restored."""


class Made(NamedTuple):
    """A backup that was made."""

    file: Path
    manifest: Manifest
    sha256: str
    """Of the file, in hex."""


class Restored(NamedTuple):
    """A memory that was made from a backup."""

    manifest: Manifest
    identity: str
    erased: tuple[str, ...]
    """Ids of the decisions whose texts were erased again."""


def back_up(
    url: str,
    target: Path,
    *,
    although_broken: bool = False,
    clock: Clock = lambda: datetime.now(UTC),
) -> Made:
    """Write a backup of the memory at `url` to a new file, or to one named by the time in a folder.

    Durable and verified when it returns; interrupted, it leaves nothing that looks like a backup.
    `although_broken` takes a memory whose chain of decisions does not hold: the manifest says so.
    Raises `NotFound`, `TargetTaken`, `StoreError` and its kin, and `ChainBroken`.
    """
    now = clock()
    if target.is_dir():
        target = target / f"comity-{now.astimezone(UTC):%Y%m%dT%H%M%SZ}.backup"
    with new_file(target) as part:
        with _reading(url) as source:
            manifest = write_tables(source, part, now)
        heads = _verified(Backup(part, manifest))
        if not although_broken:
            _refuse_broken(heads, url)
        seal(part, manifest.model_copy(update={"chains": heads}))
        manifest = Backup(part).manifest
        digest = sha256_of(part)
    return Made(target, manifest, digest)


def check(file: Path, *, although_broken: bool = False) -> Backup:
    """Read all of a backup, and follow its chains.

    Raises `NotFound`, `BackupDamaged` where anything is not as it was written, `ChainBroken`
    where a chain did not hold when the backup was made, and `MemoryTooNew`.
    """
    backup = Backup(file)
    heads = _verified(backup)
    if heads != backup.manifest.chains:
        raise BackupDamaged(
            f"{file} is no sound backup (its chains are not those of its manifest): use another one"
        )
    if not although_broken:
        _refuse_broken(heads, str(file))
    return backup


def restore(
    file: Path,
    url: str,
    *,
    as_original: bool = False,
    although_broken: bool = False,
    erasures: Sequence[Erasure] = (),
    clock: Clock = lambda: datetime.now(UTC),
) -> Restored:
    """Make a new memory at `url` from a backup that is checked first.

    It is there whole or not at all, and nothing is ever overwritten. It gets an identity of its
    own, unless it takes the place of the original (`as_original`). `erasures` made since the
    backup are made again before anybody can see it; decisions that it does not have are passed
    over. Raises what `check` raises, `TargetTaken`, and `StoreError` and its kin.
    """
    path = None if in_postgres(url) else _file_of(url)
    if path:
        refuse_taken(path)
    backup = check(file, although_broken=although_broken)
    identity = backup.manifest.memory if as_original else secrets.token_hex(16)
    if path:
        with new_file(path) as part:
            erased = _fill_file(part, backup, erasures, clock)
            name(part, identity)
    else:
        erased = _fill_database(url, backup, erasures, clock, identity)
    return Restored(backup.manifest, identity, erased)


def _fill_file(
    part: Path, backup: Backup, erasures: Sequence[Erasure], clock: Clock
) -> tuple[str, ...]:
    with filling_sqlite(part, backup.format, backup.tables) as book:
        fill(book, backup)
    return _erased_again(part, erasures, clock) if erasures else ()


def _fill_database(
    url: str, backup: Backup, erasures: Sequence[Erasure], clock: Clock, identity: str
) -> tuple[str, ...]:
    """What is older than today's tables, or is to be erased again, goes through a file first."""
    from comity.memory.backup_postgres import filling_postgres

    erased: tuple[str, ...] = ()
    with ExitStack() as stack:
        source: Source = backup
        if erasures or backup.format < len(MIGRATIONS):
            part = stack.enter_context(scratch_file(backup.file))
            erased = _fill_file(part, backup, erasures, clock)
            source = stack.enter_context(reading_sqlite(part))
        with filling_postgres(url, identity=identity) as book:
            fill(book, source)
    return erased


def _reading(url: str) -> AbstractContextManager[Source]:
    if in_postgres(url):
        from comity.memory.backup_postgres import reading_postgres

        return reading_postgres(url)
    return reading_sqlite(_file_of(url))


def _file_of(url: str) -> Path:
    path = path_of(url)
    if path is None:
        raise SettingsError(f"memory {url!r} lives in one process only: name a file, or a database")
    return path


def _verified(backup: Backup) -> tuple[Head, ...]:
    """Read everything; what its chains amount to. Raises `BackupDamaged`."""
    backup.check_rows()
    return tuple(_head(tenant, follow(entries)) for tenant, entries in backup.chains())


def _head(tenant: str, chain: Chain) -> Head:
    broken = f"entry {chain.broken.number}: {chain.broken.problem}" if chain.broken else ""
    last = chain.last.hash if chain.last else ""
    return Head(tenant=tenant, entries=chain.sound, last_hash=last, broken=broken)


def _refuse_broken(heads: Iterable[Head], where: str) -> None:
    for head in heads:
        if head.broken:
            raise ChainBroken(
                f"{where}: the chain of decisions of tenant {head.tenant!r} breaks at "
                f"{head.broken} (comity decisions verify says more); to go on all the same, add "
                "--although-broken"
            )


# Erasures


def read_erasures(file: Path) -> list[Erasure]:
    """The erasures in a file, as `comity decisions erasures --json` prints them.

    Raises `DocumentError`, which names the first that is none.
    """
    try:
        return _ERASURES.validate_json(file.read_bytes())
    except OSError as error:
        raise DocumentError(file, f"cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        told = f"{where + ': ' if where else ''}{first['msg']}"
        raise DocumentError(file, f"is no list of erasures on record ({told})") from error


def _erased_again(part: Path, erasures: Sequence[Erasure], clock: Clock) -> tuple[str, ...]:
    with _book(part, clock) as memory:
        done: list[str] = []
        for entry in erasures:
            held = [name for name in entry.decisions if _holds(memory, entry.tenant, name)]
            why = f"{entry.reason} ({entry.id}, again after a restore)".strip()
            if held:
                made = erase(memory, entry.tenant, held, by=entry.by, reason=why)
                done.extend(made.decisions)
    return tuple(done)


def _holds(memory: Memory, tenant: str, name: str) -> bool:
    try:
        return memory.store.decision(tenant, name).erased_at is None
    except NotFound:
        return False


@contextmanager
def _book(path: Path, clock: Clock) -> Iterator[Memory]:
    """A memory's book of record, without index and embedder."""
    store, embedder, vectors = SqliteStore(path), HashEmbedder(1), VectorCache()
    index = LocalIndex(store, embedder, vectors, None)
    with Memory(store, index, embedder, vectors, clock=clock) as memory:
        yield memory
