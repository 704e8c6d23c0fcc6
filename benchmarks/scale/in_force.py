"""A change through PostgreSQL, acknowledged by one worker and in force on all."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks.report import Measure
from benchmarks.scale.setup import Bench, Skipped


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    if find_spec("benchmarks.in_force") is None or find_spec("psycopg") is None:
        raise Skipped("PostgreSQL is not measured: pip install 'comity[postgres]'")
    raise Skipped("PostgreSQL is not measured yet")
