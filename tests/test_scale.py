"""The scale benchmark: its rules and vectors are made from a seed, and its parts run when small."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from benchmarks.made_rules import SEED, Maker, article_name, base_of
from benchmarks.made_vectors import MadeEmbedder, checked_rules, make_seeds, spread
from benchmarks.report import README, RESULTS, Measure, with_table
from benchmarks.scale import __main__ as scale
from benchmarks.scale.alternate import alternate
from benchmarks.scale.page import PAGE, with_figures
from benchmarks.scale.peer_stores import read_rows
from benchmarks.scale.setup import Bench, Skipped, exact, recall, short, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from comity.records import Rule

RULES = 2_000


class Drawn:
    """An embedder that costs nothing: a vector drawn for each pair of characters, summed up."""

    id = "drawn@32"
    dimension = 32
    _table = np.random.default_rng(1).normal(size=(997, 32)).astype(np.float32)

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([self.embed_query(text) for text in texts], np.float32)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        codes = [ord(one) * 31 + ord(other) for one, other in pairwise(text)]
        row: NDArray[np.float32] = self._table[np.array(codes) % 997].sum(axis=0)
        return row / np.linalg.norm(row)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A small benchmark whose sentences are embedded."""
    made = Bench(
        folder=tmp_path_factory.mktemp("scale"),
        rules=RULES,
        few_rules=400,
        peer_rules=800,
        questions=20,
        changes=1,
        starts=0,
        embedder="drawn",
    )
    make_seeds(Drawn(), made.maker, made.seeds)
    return made


def test_the_same_size_and_seed_give_the_same_rules() -> None:
    assert list(Maker(5).rules(500)) == list(Maker(5).rules(500))
    assert [rule.text for rule in Maker(5).rules(80)] != [rule.text for rule in Maker(6).rules(80)]


def test_made_rules_stay_as_they_are_from_release_to_release() -> None:
    said = "".join(f"{rule.id} {rule.place} {rule.indexed_text}" for rule in Maker().rules(400))
    assert zlib.crc32(said.encode()) == 1546021773


@pytest.mark.parametrize("size", [1, 39, 40, 41, 999, 2_000])
def test_there_are_as_many_rules_as_were_asked_for_each_once(size: int) -> None:
    rules = list(Maker().rules(size))
    assert len({(rule.tenant, rule.key) for rule in rules}) == len(rules) == max(size, 40)


def test_made_rules_are_rules_that_a_memory_takes_in_the_order_in_which_they_come() -> None:
    versions: Counter[tuple[str, str]] = Counter()
    for rule in Maker().rules(5_000):
        assert Rule.model_validate(rule.model_dump()) == rule
        versions[rule.tenant, rule.id] += 1
        assert rule.version == versions[rule.tenant, rule.id]
    assert sum(count == 2 for count in versions.values()) >= 50


def test_made_rules_differ_in_all_that_decides_a_scope() -> None:
    rules = list(Maker().rules(20_000))
    shares = {
        "nationwide": np.mean([rule.place == "CN" for rule in rules]),
        "of towns": np.mean(["/" in rule.place for rule in rules]),
        "of others": np.mean([rule.tenant != "default" for rule in rules]),
        "bound": np.mean([bool(rule.audience) for rule in rules]),
    }
    low = {"nationwide": 0.2, "of towns": 0.35, "of others": 0.06, "bound": 0.05}
    high = {"nationwide": 0.3, "of towns": 0.55, "of others": 0.1, "bound": 0.15}
    assert all(low[name] < share < high[name] for name, share in shares.items()), shares
    assert len({rule.text for rule in rules}) > 0.99 * len(rules)
    assert {rule.status for rule in rules} == {"active", "draft"}


@given(st.integers(1, 99))
def test_names_of_articles_are_numbers_in_chinese(number: int) -> None:
    digits = {name: value for value, name in enumerate("零一二三四五六七八九")}
    name = article_name(number).removeprefix("第").removesuffix("条")
    tens, ten, ones = name.rpartition("十")
    assert (digits.get(tens, 1) * 10 if ten else 0) + digits.get(ones, 0) == number


def test_vectors_follow_from_the_texts_alone(bench: Bench) -> None:
    texts = [rule.indexed_text for rule in bench.maker.rules(200)]
    embedder, again = bench.made_embedder(), MadeEmbedder(bench.seeds)
    whole = embedder.embed_passages(texts)
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    assert np.array_equal(np.array([again.embed_passages([text])[0] for text in texts]), whole)
    assert embedder.id == again.id
    assert embedder.embed_passages([]).shape == (0, 32)


def test_variations_of_one_sentence_are_nearer_than_other_rules(bench: Bench) -> None:
    rules = [rule for number in range(50) for rule in bench.maker.document(number)]
    bases = np.array([base_of(int(rule.id[:6]), int(rule.id[7:]), SEED) for rule in rules])
    made = bench.made_embedder().embed_passages([rule.indexed_text for rule in rules])
    similar = made @ made.T
    same = bases[:, None] == bases[None, :]
    np.fill_diagonal(same, False)
    assert same.sum() > 100
    assert similar[same].mean() > similar[~same].mean() + 0.02


def test_made_vectors_lie_as_near_to_one_another_as_embedded_ones(bench: Bench) -> None:
    rules = checked_rules(bench.maker)
    texts, drawn = [rule.indexed_text for rule in rules], Drawn()
    asked = np.array([drawn.embed_query(bench.maker.question(n)[0]) for n in range(50)])
    made = spread(bench.made_embedder().embed_passages(texts), asked)
    real = spread(drawn.embed_passages(texts), asked)
    assert made.tenth == pytest.approx(real.tenth, abs=0.05)
    assert made.anywhere == pytest.approx(real.anywhere, abs=0.05)
    assert made.asked == pytest.approx(real.asked, abs=0.05)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_exact_results_are_those_of_sorting_all(seed: int, k: int) -> None:
    made = np.random.default_rng(seed)
    vectors, query = made.normal(size=(60, 4)).astype(np.float32), made.normal(size=(1, 4))
    mask = made.random(60) < 0.3
    wanted = sorted(np.flatnonzero(mask), key=lambda row: -float(vectors[row] @ query[0]))[:k]
    assert exact(vectors, query.astype(np.float32), [mask], k)[0].tolist() == wanted


def test_recall_is_the_mean_share_found_and_nothing_without_anything_wanted() -> None:
    assert recall([[1, 2], [3]], [[1, 9], [3]]) == 0.75
    assert recall([[1], [7]], [[1], []]) == 1
    with pytest.raises(ValueError, match="no recall"):
        recall([[1]], [[]])


def test_what_is_compared_takes_turns_and_the_warm_up_does_not_count() -> None:
    calls: list[tuple[str, int]] = []
    work = {name: lambda n, name=name: calls.append((name, n)) for name in ("one", "other")}
    taken = alternate(work, 50, warm_up=5)
    assert {name: len(values) for name, values in taken.items()} == {"one": 45, "other": 45}
    firsts = [name for name, number in calls if number % 20 == 0]
    assert firsts == ["one", "other", "other", "one", "one", "other"]


@pytest.mark.parametrize(
    ("size", "name"), [(1_000_000, "1m"), (100_000, "100k"), (2_500, "2500"), (7, "7")]
)
def test_sizes_have_short_names(size: int, name: str) -> None:
    assert short(size) == name


SMALL = {
    "spread": {"spread.nearest", "spread.dimensions"},
    "import": {"import.rules_per_s", "disk_2k.book_mb"},
    "search": {"search_2k.p50_ms", "search_2k.p99_ms", "search_2k.recall", "opo_way.speedup",
               "opo_way.starved", "growth_400_to_2k.factor", "small_scope_2k.recall",
               "opo_way.starved_in_small_scopes"},
    "ask": {"mask_fusion_packing_2k.ms", "ask_2k.p50_ms", "ask_2k.search_share"},
    "start": {"start_2k.s", "rss_2k.mb"},
    "change": {"change_visible.ms", "load_2k.searches_per_s", "change_visible.longest_search_ms"},
}  # fmt: skip


@pytest.mark.parametrize("part", SMALL)
def test_a_part_gives_its_measures(bench: Bench, part: str) -> None:
    found = {measure.measure: measure for measure in scale.PARTS[part](bench)}
    assert found.keys() >= SMALL[part]
    assert all(np.isfinite(measure.value) for measure in found.values())
    assert all(m.value > 0.98 for name, m in found.items() if name.endswith("recall"))


def test_vectors_stand_in_the_order_of_the_book(bench: Bench) -> None:
    embedder = bench.made_embedder()
    with bench.memory(400) as memory:
        texts = [row.rule.indexed_text for row in memory.store.rows_after(0)]
    assert np.array_equal(vectors_of(bench, 400, embedder), embedder.embed_passages(texts))


def test_what_other_stores_filter_by_is_the_scope_of_a_search(bench: Bench) -> None:
    with bench.memory(RULES) as memory:
        memory.index.catch_up()
        rows = read_rows(bench.book(RULES), RULES)
        for number in range(10):
            scope = bench.maker.question(number)[1]
            ours = memory.index.admit(scope).rows[:RULES]
            assert np.array_equal(rows.admitted(scope), ours)


@pytest.mark.parametrize("peer", ["lancedb", "milvus_lite"])
def test_another_store_is_measured_beside_ours(bench: Bench, peer: str) -> None:
    try:
        found = {measure.measure: measure for measure in scale.PARTS[peer](bench)}
    except Skipped as reason:
        pytest.skip(str(reason))
    assert found.keys() >= {f"{peer}.speedup", f"{peer}.recall"}


def test_a_part_whose_package_is_missing_is_left_out(
    bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    small = bench.model_copy(update={"folder": tmp_path})
    (tmp_path / "results-2k").mkdir()
    one = Measure(measure="spread.nearest", value=1, unit="share")
    (tmp_path / "results-2k" / "spread.json").write_text(f"[{one.model_dump_json()}]")
    assert scale.run_part(small, "spread")
    assert "measured before" in capfd.readouterr().out
    assert scale.kept(small) == [one]


ASKED_FOR = {
    *(f"search_1m.{figure}" for figure in ("p50_ms", "p99_ms", "recall")),
    *("small_scope_1m.recall", "opo_way.speedup", "lancedb.speedup", "milvus_lite.speedup"),
    *("growth_10k_to_1m.factor", "import.rules_per_s", "change_visible.ms"),
    *("postgres_in_force.p99_ms", "start_1m.s", "rss_1m.mb"),
}


@pytest.mark.skipif(not (RESULTS / "scale.json").exists(), reason="not measured yet")
def test_the_results_at_a_million_hold_all_that_was_asked_for() -> None:
    measures = scale.published()
    assert {measure.measure for measure in measures} >= ASKED_FOR
    assert all(measure.machine for measure in measures)
    page = README.read_text(encoding="utf-8")
    assert with_table(page, "scale") == page


def test_the_scaling_page_shows_the_figures_of_the_results() -> None:
    measures = scale.published() if (RESULTS / "scale.json").exists() else []
    page = PAGE.read_text(encoding="utf-8")
    assert with_figures(page, measures) == page


def test_figures_of_the_scaling_page_are_replaced_by_the_new_ones() -> None:
    page = "before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n"
    one = Measure(measure="rss_1m.mb", value=2345.6, unit="MB", machine="M")
    shown = with_figures(page, [one])
    assert "| memory of a process | 2,346 MB |  | `rss_1m.mb` |" in shown
    assert "old" not in shown
    assert (shown[:7], shown[-7:]) == ("before\n", "\nafter\n")
