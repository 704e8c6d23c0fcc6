"""The benchmarks' page shows the figures that were written."""

from __future__ import annotations

import json

import pytest
from benchmarks.report import README, RESULTS, Measure, with_table

RETRIEVAL = {
    *(
        f"{name}.{figure}"
        for name in ("law", "company")
        for figure in ("recall_at_5", "recall_at_20", "gold_in_1000_tokens")
    ),
    *("search_100k.p50_ms", "search_100k.p99_ms", "scope_100k.p99_ms", "change_visible.ms"),
    *("embed.rules_per_s", "embed.query_ms", "cli_search.s"),
}


_GOLD = ("a_law", "a_professional_morality")
_SETS = (*_GOLD, "h_law", "h_basic_morality", "h_social_morality")
EXAMS = {
    *(f"{name}.{figure}" for name in _SETS for figure in ("base", "comity", "gain_points")),
    *(f"{name}.{figure}" for name in _GOLD for figure in ("oracle", "oracle_gap_points")),
    *("generation.survived_share", "harness.overhead_share"),
}

GATEWAY = {
    *("added_latency.p50_ms", "added_latency.p99_ms", "added_ttft.p50_ms", "with_embedding.p50_ms"),
    *(f"litellm.{figure}_ratio" for figure in ("p50", "p99", "throughput")),
    *(f"portkey.{figure}_ratio" for figure in ("p50", "p99", "throughput")),
}

REWRITING = {
    *(
        f"{name}.{figure}"
        for name in ("law", "company")
        for figure in ("recall_at_5", "recall_of_hits", "gold_in_1000_tokens")
    ),
    *("rewriting.s", "rewriting.failed_share"),
}

PREFERENCES = {
    *("none.followed", "plain.followed", "meta_prompt.followed"),
    *("meta_prompt.gain_points", "meta_prompt.gain_to_none_points"),
    *("meta_prompt.flip_rate", "plain.flip_rate"),
    "rules_broken.change_points",
}


@pytest.mark.parametrize("name", ["retrieval", "rewriting", "exams", "gateway", "preferences"])
def test_the_page_shows_the_table_of_the_results(name: str) -> None:
    page = README.read_text(encoding="utf-8")
    assert with_table(page, name) == page


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        ("retrieval", RETRIEVAL),
        ("rewriting", REWRITING),
        ("exams", EXAMS),
        ("gateway", GATEWAY),
        ("preferences", PREFERENCES),
    ],
)
def test_the_results_hold_every_measure_with_its_machine(name: str, asked_for: set[str]) -> None:
    rows = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    measures = [Measure.model_validate(row) for row in rows]
    assert {measure.measure for measure in measures} >= asked_for
    assert all(measure.machine for measure in measures)
