"""How near the made vectors lie to one another, beside real ones of the very same rules."""

from __future__ import annotations

from benchmarks.made_vectors import checked_rules, read_seeds, spread
from benchmarks.report import Measure
from benchmarks.scale.setup import Bench

_MEANINGS = {
    "nearest": ("inner product", "of a rule to the nearest other, median"),
    "tenth": ("inner product", "to the tenth nearest, median"),
    "anywhere": ("inner product", "to any other, mean"),
    "dimensions": ("dimensions", "local intrinsic dimension by the 20 nearest (Levina, Bickel)"),
    "asked": ("inner product", "of a question to its tenth nearest rule, median"),
}


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    embedder = bench.made_embedder()
    seeds, rules = read_seeds(bench.seeds), checked_rules(bench.maker)
    made = spread(embedder.embed_passages([rule.indexed_text for rule in rules]), seeds.questions)
    real = spread(seeds.checked, seeds.questions)
    return [
        Measure(
            measure=f"spread.{name}",
            value=round(getattr(made, name), 4),
            unit=unit,
            peer=round(getattr(real, name), 4),
            peer_name=f"the same {len(rules)} rules embedded by {bench.embedder}",
            note=note,
        )
        for name, (unit, note) in _MEANINGS.items()
    ]
