"""How long an amendment takes until it is in force on every worker that shares a PostgreSQL."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.hosts import RULES, Event, Host, add_first_rules, hosts
from benchmarks.postgres_server import running

WORKERS = 4


def in_force_ms(
    amendments: int = 200, *, workers: int = WORKERS, embedder: str = "e5", one_host: bool = True
) -> list[float]:
    """For each of some amendments, made by the workers in turn, milliseconds until it is in force.

    The time runs from the acknowledgement to the moment at which all workers, the one that made
    the amendment among them, have given an answer that rests on it. On one host they share a cache
    of vectors, as the workers of a gateway do; otherwise each embeds what others have changed.
    The server syncs commits to disk. Raises `NoServer` where there is no PostgreSQL to start.
    """
    with running() as server, tempfile.TemporaryDirectory() as folder:
        shared = Path(folder) / "shared"
        add_first_rules(server.url())
        caches = [shared if one_host else Path(folder) / f"host{n}" for n in range(workers)]
        with hosts(server.url(), caches, embedder) as started:
            return [_one(started, number) for number in range(amendments)]


def _one(started: list[Host], number: int) -> float:
    rule = RULES[number % len(RULES)]
    amending = started[number % len(started)]
    amending.tell(do="amend", rule=rule, text=f"What is the limit on lane {rule}: {number} km/h")
    made = Event(**amending.hear())
    if made.refused:
        raise RuntimeError(f"an amendment was refused: {made.refused}")
    for host in started:
        host.tell(do="await", rule=rule, version=made.versions[rule])
    seen = [int(host.hear()["at"]) for host in started]
    return (max(seen) - made.end) / 1e6


def main() -> None:
    """Print the median, the 99th percentile and the longest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--amendments", type=int, default=200)
    parser.add_argument("--embedder", default="e5")
    parser.add_argument("--several-hosts", action="store_true")
    given = parser.parse_args()
    times = sorted(
        in_force_ms(given.amendments, embedder=given.embedder, one_host=not given.several_hosts)
    )
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    print(f"p50 {times[len(times) // 2]:.1f} ms, p99 {p99:.1f} ms, longest {times[-1]:.1f} ms")


if __name__ == "__main__":
    main()
