"""The figures of `docs/scaling.md`, written from `results/scale.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report import Measure

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
_BEGIN, _END = "<!-- figures: begin -->\n", "<!-- figures: end -->"
_FIGURES = {
    "search_1m.p50_ms": "search, median",
    "search_1m.p99_ms": "search, 99th percentile",
    "search_1m.recall": "of the exact 20 nearest, found",
    "small_scope_1m.recall": "the same in small scopes",
    "growth_10k_to_1m.factor": "median at a million over that at 10,000",
    "load_1m.searches_per_s": "searches of one process, 16 at once",
    "mask_fusion_packing_1m.ms": "scope, fusion and packing together",
    "ask_1m.p50_ms": "a whole answer without the model",
    "change_visible.ms": "a change, from commit until every search of the process sees it",
    "change_visible.longest_search_ms": "longest search while rules change",
    "import.rules_per_s": "import, vectors at hand",
    "start_1m.s": "start from the snapshot",
    "rss_1m.mb": "memory of a process",
    "disk_1m.book_mb": "book of record on disk",
    "disk_1m.index_mb": "snapshot of the index on disk",
    "disk_1m.vector_cache_mb": "cache of vectors on disk",
    "postgres_in_force.p99_ms": "PostgreSQL: acknowledged by one worker, in force on four, p99",
    "postgres_in_force_apart.p99_ms": "the same as on four hosts, which embed for themselves",
}


def publish_page(measures: Sequence[Measure]) -> None:
    """Put the figures into the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_figures(page, measures), encoding="utf-8")
    print(f"written: {PAGE}")


def with_figures(page: str, measures: Sequence[Measure]) -> str:
    """The page with these figures between its marks."""
    before, _, rest = page.partition(_BEGIN)
    after = rest.partition(_END)[2]
    return f"{before}{_BEGIN}{_table({each.measure: each for each in measures})}{_END}{after}"


def _table(measures: Mapping[str, Measure]) -> str:
    known = [(measures[name], said) for name, said in _FIGURES.items() if name in measures]
    if not known:
        return ""
    lines = [f"Machine: {known[0][0].machine}." if known[0][0].machine else ""]
    lines += ["", "| at a million rules | measured | goal | `scale.json` |"]
    lines += ["| --- | --- | --- | --- |"]
    for each, said in known:
        goal = each.goal.replace("<=", "≤").replace(">=", "≥")
        lines.append(f"| {said} | {_number(each.value)} {each.unit} | {goal} | `{each.measure}` |")
    return "\n".join(lines).lstrip("\n") + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
