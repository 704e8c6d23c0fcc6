"""From a fresh process to the first result, and the memory that it then holds.

`python -m benchmarks.scale.starting BENCH` is that process; it prints what it saw as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.report import Measure
from benchmarks.scale.setup import Bench, K


class Started(NamedTuple):
    """What a fresh process saw."""

    ready: float
    """Seconds until the first result, loading Comity's modules included."""
    resident: float
    """MB in memory after all searches; files mapped to memory included."""
    own: float
    """MB of these that no file backs."""
    peak: float
    """Most MB that it held."""


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    with bench.memory(bench.rules) as memory:  # fills it where it is not there yet
        memory.index.catch_up()
    _forget(bench.book(bench.rules))
    cold, *warm = [_start(bench) for _ in range(1 + bench.starts)]
    usual = median(each.ready for each in warm or [cold])
    last = _start(bench, bench.questions)
    name = bench.size
    return [
        Measure(
            measure=f"start_{name}.s",
            value=round(max(cold.ready, usual), 2),
            unit="s",
            goal="<= 10",
            note="from a fresh process to the first result, snapshot read and its hashes checked; "
            f"files not in the system's cache; with them {usual:.2f} s",
        ),
        Measure(
            measure=f"rss_{name}.mb",
            value=round(last.resident),
            unit="MB",
            note=f"after {bench.questions} searches; {last.own:.0f} MB without mapped files, "
            f"{last.peak:.0f} MB at most",
        ),
    ]


def _forget(book: Path) -> None:
    """Ask the system to drop the files of a memory from its cache."""
    index = book.with_name(book.name + ".index")
    for file in (book, *index.rglob("*")):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _start(bench: Bench, searches: int = 0) -> Started:
    """A fresh process that makes so many searches after the first one."""
    command = [sys.executable, "-m", "benchmarks.scale.starting", bench.model_dump_json()]
    command.append(str(searches))
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Started(**json.loads(done.stdout.splitlines()[-1]))


def _as_fresh_process(bench: Bench, searches: int) -> Started:
    embedder = bench.made_embedder()  # what is only the benchmark's is made before the watch runs
    asked = bench.asked()
    start = time.perf_counter()
    from comity.memory.memory import Memory
    from comity.retrieval.search import search

    memory = Memory.open(f"sqlite:///{bench.book(bench.rules).absolute()}", embedder=embedder)
    search(memory, *asked[0], k=K)
    ready = time.perf_counter() - start
    for question, scope in asked[:searches]:
        search(memory, question, scope, k=K)
    held = _status()
    memory.close()
    own = held["VmRSS"] - held.get("RssFile", 0.0)
    return Started(ready, held["VmRSS"], own, held["VmHWM"])


def _status() -> dict[str, float]:
    """Memory of this process in MB, by the kernel's names."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    parts = [line.split() for line in lines]
    return {each[0].rstrip(":"): float(each[1]) / 1024 for each in parts if each[-1] == "kB"}


if __name__ == "__main__":
    _, given, count = sys.argv
    print(json.dumps(_as_fresh_process(Bench.model_validate_json(given), int(count))._asdict()))
