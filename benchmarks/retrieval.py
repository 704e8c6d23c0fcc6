"""Retrieval, speed and embedding, side by side with OPO's way: `make bench`.

With OPO's data (`--data`, or COMITY_OPO_DATA) recall is measured on it, both domains in one
memory, all questions with gold rules, the scope found from the question's words alone (a question
that names no place has the default place CN). Without the data, recall is measured on the
questions about the sample rules, and speed on generated rules in either case.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks import quality, speed
from benchmarks.report import Measure, publish


def main() -> None:
    """Run all measurements and publish them."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        measures: list[Measure] = []
        if arguments.data:
            measures += quality.on_opo(arguments.data, folder)
        else:
            measures += quality.on_samples(folder)
        measures += speed.of_search(arguments.rules, Path(scratch))
        measures += speed.of_embedding(arguments.data)
        measures += speed.of_the_command(folder)
    publish("retrieval", measures)


def _arguments() -> argparse.Namespace:
    named = os.environ.get("COMITY_OPO_DATA")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(named) if named else None)
    parser.add_argument("--rules", type=int, default=100_000, help="Size of the speed test.")
    parser.add_argument("--keep", type=Path, help="Keep the memory here and use it again.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
