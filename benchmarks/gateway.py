"""What the gateway adds to a call, beside two that only pass through: `make bench-gateway`.

An upstream that answers after 50 ms stands for the model. Every round measures the direct call,
our gateway with 10,000 rules in force, checks and durable decision records, LiteLLM's proxy and
Portkey's gateway, one after the other, with the same clients. Figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks import gateway_peers as peers
from benchmarks.gateway_server import fill
from benchmarks.report import RESULTS, Measure, publish
from benchmarks.speed import QUESTIONS

_RULES = 10_000
_OURS = ("comity", "embedding")


class Load(NamedTuple):
    """One kind of load."""

    clients: int
    stream: bool = False


PLAIN, STREAMED, ALONE = LOADS = (Load(16), Load(16, stream=True), Load(1))


class Seen(NamedTuple):
    """What a load saw."""

    p50: float
    """Milliseconds until the end of an answer."""
    p99: float
    first: float
    """Milliseconds until the first text, median."""
    rate: float
    """Answers a second."""


Medians = Mapping[tuple[str, Load], Seen]
"""Of the rounds, by what was measured."""


def main() -> None:
    """Measure and publish."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        seen = measure(folder, given.rounds, given.seconds, given.without)
    note = f"{given.rounds} rounds of {given.seconds:g} s each, mock of 50 ms, 1 core a server"
    publish("gateway", [*_ours(seen, note), *_peers(seen, note), *_soaked()])


def measure(folder: Path, rounds: int, seconds: float, without: Sequence[str] = ()) -> Medians:
    """All loads on all that is measured, round by round.

    Raises `SystemExit` where an answer of ours has no decision record.
    """
    secrets = {real: fill(folder, _RULES, real=real) for real in (False, True)}
    runs: dict[tuple[str, Load], list[Seen]] = {}
    for number in range(rounds):
        with peers.mock() as upstream:
            for name, start in _servers(folder, secrets, upstream).items():
                if name in without:
                    continue
                before = _records(folder)
                with start() as served:
                    loads = [
                        (load, *_seen(served, load, seconds)) for load in LOADS if _can(name, load)
                    ]
                for load, seen, _ in loads:
                    runs.setdefault((name, load), []).append(seen)
                    print(f"round {number + 1}, {name}, {load}: {seen}", flush=True)
                if name in _OURS and _records(folder) - before != sum(n for *_, n in loads):
                    raise SystemExit(f"{name}: answers without a decision record")
    return {key: Seen(*map(median, zip(*each, strict=True))) for key, each in runs.items()}


def _can(name: str, load: Load) -> bool:
    """Portkey 1.15 on Node 20 answers streams with 500: it changes headers that it may not."""
    return not (name == "portkey" and load.stream)


def _servers(
    folder: Path, secrets: Mapping[bool, str], upstream: peers.Served
) -> Mapping[str, Callable[[], AbstractContextManager[peers.Served]]]:
    return {
        "direct": lambda: nullcontext(upstream),
        "comity": lambda: peers.comity(folder, secrets[False], upstream),
        "embedding": lambda: peers.comity(folder, secrets[True], upstream, real=True),
        "litellm": lambda: peers.litellm(folder, upstream),
        "portkey": lambda: peers.portkey(folder, upstream),
    }


def _seen(served: peers.Served, load: Load, seconds: float) -> tuple[Seen, int]:
    first = LOADS.index(load) * QUESTIONS // len(LOADS)  # no vector is at hand from before
    found, sent = peers.loaded(
        served, clients=load.clients, seconds=seconds, stream=load.stream, first=first
    )
    samples = np.array(found)
    p50, p99 = (float(np.percentile(samples[:, 1], percent)) for percent in (50, 99))
    return Seen(p50, p99, float(np.median(samples[:, 0])), len(samples) / seconds), sent


def _records(folder: Path) -> int:
    """Decisions on record in both memories."""
    files = [file for file in folder.glob("*.db") if file.name != "vectors.db"]
    counts = []
    for file in files:
        with closing(sqlite3.connect(file)) as connection:
            counts.append(connection.execute("SELECT count(*) FROM decision").fetchone()[0])
    return sum(counts)


def _ours(seen: Medians, note: str) -> Iterator[Measure]:
    """What the gateway adds to the direct call."""
    direct, ours = seen["direct", PLAIN], seen["comity", PLAIN]
    streamed, first = seen["comity", STREAMED], seen["direct", STREAMED]
    alone, one = seen["comity", ALONE], seen["direct", ALONE]
    real, real_alone = seen["embedding", PLAIN], seen["embedding", ALONE]
    sixteen = f"16 clients at once, {_RULES} rules, checks and record on; {note}"
    for name, value, goal, said in (
        ("added_latency.p50_ms", ours.p50 - direct.p50, "<= 5", sixteen),
        ("added_latency.p99_ms", ours.p99 - direct.p99, "<= 15", sixteen),
        ("added_ttft.p50_ms", streamed.first - first.first, "<= 5", "until the first text"),
        ("alone.p50_ms", alone.p50 - one.p50, "", "one client, added to the direct call"),
        ("with_embedding.p50_ms", real.p50 - direct.p50, "", "16 clients, each question embedded"),
        ("with_embedding_alone.p50_ms", real_alone.p50 - one.p50, "", "one client"),
    ):
        yield Measure(measure=name, value=round(value, 2), unit="ms", goal=goal, note=said)
    for name, each in (("direct", direct), ("comity", ours), ("with_embedding", real)):
        yield Measure(
            measure=f"{name}.requests_per_s",
            value=round(each.rate, 1),
            unit="1/s",
            note="16 clients",
        )


def _peers(seen: Medians, note: str) -> Iterator[Measure]:
    """Our total over theirs: below 1 is faster, for the throughput above 1 is."""
    ours = seen["comity", PLAIN]
    for name, label in (("litellm", peers.LITELLM), ("portkey", peers.PORTKEY)):
        if (name, PLAIN) not in seen:
            continue
        theirs = seen[name, PLAIN]
        for what, mine, other, unit, goal in (
            ("p50", ours.p50, theirs.p50, "ms", "< 1"),
            ("p99", ours.p99, theirs.p99, "ms", "< 1"),
            ("throughput", ours.rate, theirs.rate, "1/s", "> 1"),
        ):
            yield Measure(
                measure=f"{name}.{what}_ratio",
                value=round(mine / other, 4),
                unit="ratio",
                goal=goal,
                peer=round(other, 1),
                peer_name=f"{label} ({unit})",
                note=f"ours {mine:.1f} {unit}, with checks and record; theirs passes through",
            )


def _soaked() -> list[Measure]:
    """What `make soak` found, if it has run."""
    file = RESULTS / "soak.json"
    if not file.exists():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Measure.model_validate(row) for row in rows if row["measure"].startswith("rss_growth")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="Of each load.")
    parser.add_argument("--keep", type=Path, help="Keep memories and peers here, to use again.")
    parser.add_argument("--without", nargs="*", default=[], choices=("litellm", "portkey"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
