"""Where the time of `ask` goes at full size, the model left out."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from benchmarks.report import Measure
from benchmarks.scale.setup import DEPTH, WARM_UP, Bench, K, milliseconds
from comity.alignment.aligner import Aligner
from comity.alignment.compose import compose
from comity.alignment.precedence import rule_on
from comity.memory.memory import Memory
from comity.models.scripted import ScriptedModel
from comity.records import Hit, Message, Scope
from comity.retrieval.fuse import fuse
from comity.retrieval.search import applying

_BUDGET = 1000
_TOGETHER = ("mask", "fusion", "packing")
_STEPS = {
    "mask": "which rules the scope admits",
    "meaning": "nearest vectors, 100 deep",
    "words": "BM25, 100 deep; a search runs it beside the nearest vectors",
    "fusion": "both rankings into one",
    "reading": "20 rules from the book of record",
    "conflicts": "mandatory and opposed rules, precedence",
    "packing": "rules into the prompt's 1,000 tokens, the prompt written; tokens estimated",
}


class _Watch:
    """Milliseconds of named steps, question by question."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.taken[step].append(1000 * (time.perf_counter() - start))


def run(bench: Bench) -> list[Measure]:
    """All measures of this part."""
    asked = bench.asked()
    with bench.memory(bench.rules) as memory:
        memory.index.catch_up()
        whole, timings = asyncio.run(_answers(memory, asked))
        watch = _Watch()
        for number, (question, scope) in enumerate(asked):
            _step_by_step(memory, question, scope, watch)
            if number < WARM_UP:
                watch.taken.clear()
    name = bench.size
    together = np.sum([watch.taken[step] for step in _TOGETHER], axis=0)
    without_model = np.array(whole) - np.array(timings["model"])
    median = float(np.median(without_model))
    return [
        Measure(measure=f"mask_fusion_packing_{name}.ms", value=milliseconds(together, 50),
                unit="ms", goal="< 3", note=f"p99 {milliseconds(together, 99)}"),
        *(
            Measure(measure=f"step_{name}.{step}_ms", value=milliseconds(watch.taken[step], 50),
                    unit="ms", note=f"{note}; p99 {milliseconds(watch.taken[step], 99)}")
            for step, note in _STEPS.items()
        ),
        Measure(measure=f"ask_{name}.p50_ms", value=round(median, 2), unit="ms",
                note=f"a whole answer without the model, {len(whole)} questions; "
                     f"p99 {milliseconds(without_model, 99)}; the place read from the words"),
        *(
            Measure(measure=f"ask_{name}.{step}_share",
                    value=round(float(np.median(taken)) / median, 3), unit="share",
                    note=f"median {float(np.median(taken)):.2f} ms")
            for step, taken in timings.items() if step != "model"
        ),
    ]  # fmt: skip


async def _answers(
    memory: Memory, asked: Sequence[tuple[str, Scope]]
) -> tuple[list[float], dict[str, list[float]]]:
    """Milliseconds of whole answers, and of the steps that the decisions name."""
    aligner = Aligner(memory, ScriptedModel("可以，但应当依法办理。"))
    whole: list[float] = []
    timings: dict[str, list[float]] = defaultdict(list)
    for number, (question, scope) in enumerate(asked):
        start = time.perf_counter()
        answer = await aligner.answer(question, scope.model_copy(update={"place": ()}))
        taken = 1000 * (time.perf_counter() - start)
        if number >= WARM_UP:
            whole.append(taken)
            for step, seconds in answer.decision.timings.items():
                timings[step].append(1000 * seconds)
            timings["rest"].append(taken - 1000 * sum(answer.decision.timings.values()))
    return whole, timings


def _step_by_step(memory: Memory, question: str, scope: Scope, watch: _Watch) -> None:
    """What a search and the prompt behind it do, one step after the other."""
    index = memory.index
    vector = memory.query_vector(question)
    with watch("mask"):
        mask = index.admit(scope)
    with watch("meaning"):
        near = index.nearest(vector, mask, DEPTH)
    with watch("words"):
        matching = index.matching(question, mask, DEPTH)
    with watch("fusion"):
        ranked = fuse([(1.0, near.positions.tolist()), (1.5, matching.positions.tolist())])
    with watch("reading"):
        stored = memory.store.fetch([row for row, _ in ranked[:K]])
    hits = [Hit(rule=s.rule, score=r[1]) for s, r in zip(stored, ranked, strict=False)]
    with watch("conflicts"):
        ruling = rule_on(
            applying(memory, [hit.rule for hit in hits], mask, scope.tenant), memory.authorities
        )
    name_place = memory.gazetteer(scope.tenant).name
    with watch("packing"):
        compose(
            ruling,
            [Message(role="user", content=question)],
            scope,
            hits=hits,
            budget=_BUDGET,
            count_tokens=ScriptedModel("").count_tokens,
            name_place=name_place,
            language="zh",
        )
