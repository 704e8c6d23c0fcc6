"""Which ids have come in a stream."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from comity.errors import DuplicateRule
from comity.memory.seen import SeenIds

FILLING = """
from comity.errors import MemoryFull
from comity.memory.seen import SeenIds

seen = SeenIds()
try:
    for number in range(100_000):
        seen.note("x" * 1_000 + str(number), f"line {number}")
except MemoryFull as error:
    print(error)
"""


def test_a_rule_comes_once_with_all_its_versions() -> None:
    with closing(SeenIds()) as seen:
        ids = ("a", "a", "b", "\ud800")
        came = [seen.note(rule_id, f"line {n}") for n, rule_id in enumerate(ids)]
        assert came == [True, False, True, True]
        with pytest.raises(DuplicateRule, match="'a' stands in two places: line 0, and line 9"):
            seen.note("a", "line 9")


def small_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits to the size of files")
def test_no_room_for_the_ids_is_told_with_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLING],
        preexec_fn=small_files,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "temporary file" in done.stdout
    assert "SQLITE_TMPDIR" in done.stdout
