"""Backups and restores that are killed, or find no room: nothing is left that looks done."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from comity import Memory, Rule
from comity.alignment.backups import back_up, check, restore
from comity.errors import MemoryFull
from comity.memory.backup import Backup
from test_backup import book, elsewhere, filled, refusal, rows_of, url_of, wait_for

__all__ = ["book", "elsewhere", "filled"]

CHILD = """
import sys
from pathlib import Path
from comity.alignment.backups import back_up, restore
verb, one, other = sys.argv[1:]
back_up(one, Path(other)) if verb == "backup" else restore(Path(one), other)
"""


def killed(verb: str, one: str, other: str, part: Path, after: float) -> bool:
    """Kill a process that makes a backup or restores one, so long after it began its part."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, verb, one, other])
    wait_for(lambda: part.exists() or child.poll() is not None)
    time.sleep(after)
    child.kill()
    return child.wait(60) == -signal.SIGKILL


def test_a_kill_leaves_nothing_that_looks_done(filled: Memory, book: Path, elsewhere: Path) -> None:
    filled.add([Rule(id=f"r{n}", text=f"Rule number {n} of many.") for n in range(2_000)])
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, parts = random.Random(seed), []
    sound = back_up(url_of(book), elsewhere / "b.backup").file
    for n, verb in enumerate(("backup", "restore") * 2):
        target = elsewhere / f"{n}.{verb}"
        part = elsewhere / f".{target.name}.comity-part"
        backs_up = verb == "backup"
        given = (url_of(book), str(target)) if backs_up else (str(sound), url_of(target))
        was_killed = killed(verb, *given, part, chance.uniform(0.0, 0.2) if n > 1 else 0.0)
        assert was_killed or target.exists()
        parts += [part] if part.exists() else []
        if part.exists() and backs_up:  # refused, or whole and killed before it had its name
            assert refusal(part) or Backup(part).manifest.tables == Backup(sound).manifest.tables
        if target.exists() and backs_up:
            check(target)
        elif target.exists():
            assert rows_of(target) == rows_of(book)
    assert parts, "no kill came in the middle"
    back_up(url_of(book), elsewhere / "last.backup")
    assert not any(part.exists() for part in parts)


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Writing past `size` bytes of any file fails, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_leaves_nothing(
    filled: Memory, book: Path, elsewhere: Path
) -> None:
    filled.add([Rule(id=f"r{n}", text=f"Rule {random.random()} of many.") for n in range(2_000)])
    made_now = back_up(url_of(book), elsewhere / "b.backup")
    filled.close()
    with no_file_over(40_000), pytest.raises(MemoryFull, match="full"):
        back_up(url_of(book), elsewhere / "other.backup")
    with no_file_over(200_000), pytest.raises(MemoryFull, match="full"):
        restore(made_now.file, url_of(elsewhere / "new.db"))
    assert [file.name for file in elsewhere.iterdir()] == ["b.backup"]
