"""A million rules on one machine, beside others: `make bench-scale`.

The rules and their vectors are made from a seed (`made_rules`, `made_vectors`). Each part is
measured in a process of its own, and what it found is kept in the folder of `--runs`, so that a
run that was stopped goes on. The table holds all parts that the folder has results of.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.report import RESULTS, Measure, publish
from benchmarks.scale import (
    asking,
    changing,
    importing,
    in_force,
    peering,
    searching,
    spreading,
    starting,
)
from benchmarks.scale.page import publish_page
from benchmarks.scale.setup import Bench, Skipped

PARTS: dict[str, Callable[[Bench], list[Measure]]] = {
    "spread": spreading.run,
    "import": importing.run,
    "start": starting.run,
    "search": searching.run,
    "ask": asking.run,
    "change": changing.run,
    "lancedb": peering.run_lancedb,
    "milvus_lite": peering.run_milvus_lite,
    "postgres": in_force.run,
}


def main() -> None:
    """Run what is to be run, and publish what there is."""
    given = _arguments()
    if given.one:
        _measure(Bench.model_validate_json(given.bench), given.one)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.runs or Path(scratch)
        bench = Bench(
            folder=folder,
            rules=given.rules,
            peer_rules=given.peer_rules,
            few_rules=given.few_rules,
            questions=given.questions,
            embedder=given.embedder,
        )
        failed = [part for part in given.parts if not run_part(bench, part, again=given.again)]
        measures = kept(bench)
    if given.publish:
        publish("scale", measures)
        publish_page(published())
    else:
        print(json.dumps([m.model_dump() for m in measures], ensure_ascii=False, indent=1))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; what they said stands above")


def run_part(bench: Bench, part: str, *, again: bool = False) -> bool:
    """Measure a part in a process of its own, unless its results are there; whether it went."""
    file = _file(bench, part)
    if file.exists() and not again:
        print(f"{part}: measured before, in {file} (--again measures anew)", flush=True)
        return True
    start = time.perf_counter()
    print(f"{part} …", flush=True)
    command = [sys.executable, "-m", "benchmarks.scale", "--one", part]
    done = subprocess.run([*command, "--bench", bench.model_dump_json()], check=False)
    print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
    return done.returncode == 0


def _measure(bench: Bench, part: str) -> None:
    try:
        measures = PARTS[part](bench)
    except Skipped as reason:
        print(reason, flush=True)
        return
    file = _file(bench, part)
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps([m.model_dump() for m in measures], ensure_ascii=False, indent=1))
    new.replace(file)


def kept(bench: Bench) -> list[Measure]:
    """What the folder holds of this size, in the order of the parts."""
    files = [file for part in PARTS if (file := _file(bench, part)).exists()]
    return [
        Measure.model_validate(row)
        for file in files
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]


def published() -> list[Measure]:
    """What `publish` wrote."""
    rows = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))
    return [Measure.model_validate(row) for row in rows]


def _file(bench: Bench, part: str) -> Path:
    return bench.folder / f"results-{bench.size}" / f"{part}.json"


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rules", type=int, default=1_000_000)
    parser.add_argument("--few-rules", type=int, default=10_000, help="To measure growth from.")
    parser.add_argument("--peer-rules", type=int, default=100_000, help="Beside other stores.")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--embedder", default="e5", help="Of the sentences that all rules vary.")
    parser.add_argument("--runs", type=Path, help="Keep memories and results here: 5 GB.")
    parser.add_argument("--again", action="store_true", help="Measure what was measured before.")
    parser.add_argument("--no-publish", dest="publish", action="store_false", help="Print only.")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--bench", help=argparse.SUPPRESS)
    return parser.parse_args(given)


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part is called {unknown[0]!r}: {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    main()
