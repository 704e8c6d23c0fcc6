"""Random histories of hosts that share a memory in PostgreSQL, one of them stopped now and then.

    python -m benchmarks.histories --seconds 60 [--seed N]

No read that begins after an amendment was acknowledged may rest on an older revision; it may be
refused. A history that breaks this is told with its seed.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.hosts import Event, Host, add_first_rules, hosts
from benchmarks.postgres_server import running

HOSTS = 4


def stale(history: Sequence[Event]) -> list[str]:
    """What is wrong with a history: a sentence for each read that was behind.

    A read is behind that began after an amendment was acknowledged, and that rests on an earlier
    revision, or on an earlier version of the amended rule.
    """
    made = sorted((e for e in history if e.kind == "amend" and not e.refused), key=lambda e: e.end)
    reads = sorted((e for e in history if e.kind == "read"), key=lambda e: e.start)
    wrong, known, revision, position = [], dict[str, int](), 0, 0
    for read in reads:
        while position < len(made) and made[position].end < read.start:
            revision = max(revision, made[position].revision)
            for rule, version in made[position].versions.items():
                known[rule] = max(known.get(rule, 0), version)
            position += 1
        if read.refused:
            continue
        if read.revision < revision:
            wrong.append(f"host {read.host} read revision {read.revision} after {revision}: {read}")
        old = {rule for rule, version in known.items() if read.versions.get(rule, 0) < version}
        if old:
            wrong.append(f"host {read.host} used old versions of {sorted(old)}: {read}")
    return wrong


def history(url: str, folder: Path, seconds: float, seed: int) -> list[Event]:
    """A random history of `HOSTS` hosts, each with a cache of its own, one stopped at a time."""
    chance, events = random.Random(seed), list[Event]()
    caches = [folder / f"host{number}" for number in range(HOSTS)]
    with hosts(url, caches) as started:
        until = time.monotonic_ns() + int(seconds * 1e9)
        for number, host in enumerate(started):
            host.tell(do="history", host=number, seed=chance.random(), until=until)
        listening = [threading.Thread(target=_hear_all, args=(host, events)) for host in started]
        for thread in listening:
            thread.start()
        while time.monotonic_ns() < until - 1e9:
            host = chance.choice(started)
            host.stop()
            time.sleep(chance.uniform(0.1, 0.6))
            host.resume()
            time.sleep(chance.uniform(0.0, 0.3))
        for thread in listening:
            thread.join()
    return events


def _hear_all(host: Host, events: list[Event]) -> None:
    while "done" not in (told := host.hear()):
        events.append(Event(**told))


def main() -> None:
    """Run a history, print what came of it, and end with 1 where a read was behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    given = parser.parse_args()
    with running() as server, tempfile.TemporaryDirectory() as folder:
        add_first_rules(server.url())
        events = history(server.url(), Path(folder), given.seconds, given.seed)
    wrong = stale(events)
    print(f"seed {given.seed}: {told(events)}")
    print("\n".join(wrong) or "no read was behind what had been acknowledged")
    raise SystemExit(bool(wrong))


def told(events: Sequence[Event]) -> str:
    """How much a history has of each kind."""
    reads = [event for event in events if event.kind == "read"]
    made = [event for event in events if event.kind == "amend" and not event.refused]
    refused = sum(bool(event.refused) for event in reads)
    return f"{len(made)} amendments acknowledged, {len(reads)} reads, {refused} of them refused"


if __name__ == "__main__":
    main()
