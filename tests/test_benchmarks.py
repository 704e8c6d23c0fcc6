"""The benchmarks' page shows the figures that were written."""

from __future__ import annotations

import json

from benchmarks.report import README, RESULTS, Measure, with_table

ASKED_FOR = {
    *(
        f"{name}.{figure}"
        for name in ("law", "company")
        for figure in ("recall_at_5", "recall_at_20", "gold_in_1000_tokens")
    ),
    *("search_100k.p50_ms", "search_100k.p99_ms", "scope_100k.p99_ms", "change_visible.ms"),
    *("embed.rules_per_s", "embed.query_ms", "cli_search.s"),
}


def test_the_page_shows_the_table_of_the_results() -> None:
    page = README.read_text(encoding="utf-8")
    assert with_table(page, "retrieval") == page


def test_the_results_hold_every_measure_with_its_machine() -> None:
    rows = json.loads((RESULTS / "retrieval.json").read_text(encoding="utf-8"))
    measures = [Measure.model_validate(row) for row in rows]
    assert {measure.measure for measure in measures} >= ASKED_FOR
    assert all(measure.machine for measure in measures)
