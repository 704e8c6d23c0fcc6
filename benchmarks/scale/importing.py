"""The import of all rules in a stream, and what they take on disk."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import Measure
from benchmarks.scale.setup import Bench, filled, remove, vectors_of


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    file = bench.book(bench.rules)
    for left in bench.folder.glob(f"{file.name}*"):
        remove(left)  # of a run that was stopped, or of another version of Comity
    done = filled(bench, bench.rules)
    vectors_of(bench, bench.rules, bench.made_embedder())
    index = file.with_name(file.name + ".index")
    book, cache = _bytes(file), _bytes(index / "vectors.db")
    snapshot = _bytes(index / (index / "CURRENT").read_text(encoding="ascii").split()[0])
    megabytes = {"book": book, "index": snapshot, "vector_cache": cache}
    return [
        Measure(
            measure="import.rules_per_s",
            value=round(done.rules / done.seconds),
            unit="rules/s",
            goal=">= 20000",
            note=f"{done.rules} rules by bulk_import into the book of record and the index, "
            f"snapshot saved, {done.seconds:.0f} s; making the rules and their vectors does not "
            "count, writing both does",
        ),
        *(
            Measure(
                measure=f"disk_{bench.size}.{name}_mb",
                value=round(size / 1e6, 1),
                unit="MB",
                note=f"{size / bench.rules:.0f} bytes a rule",
            )
            for name, size in megabytes.items()
        ),
    ]


def _bytes(path: Path) -> int:
    """Size of a file with its write-ahead log, or of all files in a folder."""
    if path.is_dir():
        return sum(inside.stat().st_size for inside in path.rglob("*") if inside.is_file())
    beside = (path, path.with_name(path.name + "-wal"))
    return sum(each.stat().st_size for each in beside if each.exists())
