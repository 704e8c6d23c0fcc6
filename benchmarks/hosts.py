"""Processes that share one memory, as gateways on several hosts do, and can be stopped and resumed.

Each is `python -m benchmarks.hosts URL CACHE EMBEDDER`: it opens the memory, follows it, and does
what lines of JSON on its standard input say. Times are of CLOCK_MONOTONIC in ns, which the
processes of one machine share, and which no setting of the clock moves.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from comity.cache import cache_folder
from comity.errors import ComityError, DuplicateRule, StoreError
from comity.memory.memory import Memory
from comity.memory.open_store import open_store
from comity.memory.places import Gazetteer
from comity.memory.store import Change
from comity.records import WORLD, Rule, Scope
from comity.retrieval.search import search

RULES = tuple(f"r{number}" for number in range(6))
_QUESTION = "What is the limit on lane"


class Event(NamedTuple):
    """One call of a history."""

    host: int
    kind: str
    """`amend` or `read`."""
    start: int
    end: int
    revision: int
    """That the amendment made, or that was read."""
    versions: dict[str, int]
    """Of the rules that were amended or read."""
    refused: str = ""
    """Why there was no answer."""


def add_first_rules(url: str) -> None:
    """Add the rules that are amended, and make the tables if need be."""
    rules = [Rule(id=name, text=f"{_QUESTION} {name}: 10 km/h") for name in RULES]
    store = open_store(url)
    try:
        change = Change(tenant="default", kind="add", rules=rules, made_at=datetime.now(UTC))
        store.commit(change)
    finally:
        store.close()


class Host:
    """A process that has the memory open."""

    def __init__(self, url: str, cache: Path, embedder: str = "hash") -> None:
        """`cache` is the folder of what the host keeps beside the memory: its index."""
        furnish(cache)
        command = [sys.executable, "-m", "benchmarks.hosts", url, embedder]
        environment = os.environ | {"COMITY_CACHE": str(cache)}
        self._process = subprocess.Popen(
            command,
            env=environment,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, **what: Any) -> None:
        """Say what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """Its next line; waits for it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a host has ended")
        return json.loads(line)

    def stop(self) -> None:
        """Let it stand still, wherever it is."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def furnish(cache: Path) -> None:
    """Give a cache what does not depend on the memory: names of places, the embedder's graph."""
    cache.mkdir(parents=True, exist_ok=True)
    Gazetteer().canonical(WORLD)  # compiles the names, where they are not there yet
    for known in cache_folder().iterdir():
        if known.name != "memories" and not (cache / known.name).exists():
            (cache / known.name).symlink_to(known)


@contextmanager
def hosts(url: str, caches: Sequence[Path], embedder: str = "hash") -> Iterator[list[Host]]:
    """Hosts with these caches, all ready."""
    with ExitStack() as stack:
        started = [stack.enter_context(Host(url, cache, embedder)) for cache in caches]
        for host in started:
            host.hear()
        yield started


# In the process of a host


def main() -> None:
    """Be a host."""
    url, embedder = sys.argv[1:]
    with Memory.open(url, embedder=embedder) as memory:
        memory.index.catch_up()
        memory.follow()
        search(memory, _QUESTION, Scope())
        _say({"ready": os.getpid()})
        for line in sys.stdin:
            told = json.loads(line)
            if told["do"] == "amend":
                _say(_amended(memory, 0, told["rule"], told["text"])._asdict())
            elif told["do"] == "await":
                _say({"at": _seen_at(memory, told["rule"], told["version"])})
            else:
                _history(memory, told["host"], told["seed"], told["until"])


def _history(memory: Memory, number: int, seed: int, until: int) -> None:
    """Amend and read at random until a moment, and tell of each call."""
    chance = random.Random(seed)
    while time.monotonic_ns() < until:
        if chance.random() < 0.25:
            text = f"{_QUESTION} {chance.choice(RULES)}: {chance.randrange(1000)} km/h"
            _say(_amended(memory, number, chance.choice(RULES), text)._asdict())
        else:
            _say(_read(memory, number)._asdict())
        time.sleep(chance.random() * 0.01)
    _say({"done": number})


def _amended(memory: Memory, number: int, rule: str, text: str) -> Event:
    start, refused, revision, version = time.monotonic_ns(), "", 0, 0
    try:
        version = memory.amend(rule, {"text": text}).version
        [revision] = [s.revision for s in memory.history(rule) if s.rule.version == version]
    except (StoreError, DuplicateRule) as error:
        refused = str(error)
    return Event(number, "amend", start, time.monotonic_ns(), revision, {rule: version}, refused)


def _read(memory: Memory, number: int) -> Event:
    start = time.monotonic_ns()
    try:
        found = search(memory, _QUESTION, Scope(), k=len(RULES), relevance=0.0)
    except ComityError as error:
        return Event(number, "read", start, time.monotonic_ns(), 0, {}, str(error))
    versions = {hit.rule.id: hit.rule.version for hit in found.hits}
    return Event(number, "read", start, time.monotonic_ns(), found.revision, versions)


def _seen_at(memory: Memory, rule: str, version: int) -> int:
    """When an answer rests on a version of a rule, or a later one, for the first time."""
    while _read(memory, 0).versions.get(rule, 0) < version:
        pass
    return time.monotonic_ns()


def _say(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
