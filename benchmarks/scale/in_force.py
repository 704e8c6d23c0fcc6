"""A change through PostgreSQL, acknowledged by one worker and in force on four."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.report import Measure
from benchmarks.scale.setup import Bench, Skipped, milliseconds

_AMENDMENTS = 200


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    if find_spec("psycopg") is None:
        raise Skipped("PostgreSQL is not measured: pip install 'comity[postgres]'")
    from benchmarks.in_force import in_force_ms
    from benchmarks.postgres_server import NoServer

    try:
        together = in_force_ms(_AMENDMENTS, embedder=bench.embedder)
        apart = in_force_ms(_AMENDMENTS, embedder=bench.embedder, one_host=False)
    except NoServer as missing:
        raise Skipped(f"PostgreSQL is not measured: {missing}") from missing
    note = f"{_AMENDMENTS} amendments, acknowledged by one of 4 workers until all answer by them"
    return [
        Measure(
            measure=f"postgres_in_force{name}.p{percent}_ms",
            value=milliseconds(taken, percent),
            unit="ms",
            goal="<= 100" if percent == 99 else "",
            note=f"{note}; {where}",
        )
        for name, where, taken in (
            ("", "on one host, which share vectors", together),
            ("_apart", "as on four hosts, each of which embeds the amended rule", apart),
        )
        for percent in (50, 99)
    ]
