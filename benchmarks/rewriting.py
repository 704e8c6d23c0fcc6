"""What rewriting a question before the search brings: recall with and without it, and its time.

`python -m benchmarks.rewriting --data FOLDER --keep FOLDER` asks the local model what to search
for besides each of a seeded sample of OPO's questions, searches each with and without that in the
same run, and publishes what came out. What the model wrote is kept in `rewritten.jsonl`, so that
a stopped run goes on where it was; `--at-most N` asks no more than N questions this time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

from benchmarks.opo import SETS, Question, questions, rule_files
from benchmarks.quality import BUDGET, memory_of
from benchmarks.report import Measure, publish
from comity.alignment.compose import pack
from comity.alignment.options import Options
from comity.alignment.precedence import rule_on
from comity.memory.e5 import E5Embedder
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.models.chat import ChatModel, open_model
from comity.records import Rewritten, Rule, Scope
from comity.retrieval.rewrite import rewrite
from comity.retrieval.search import search
from comity.retrieval.turns import Asked

_FIGURES = (("recall_at_5", 0), ("recall_of_hits", 1), ("gold_in_1000_tokens", 2))
_PATIENCE = 300.0  # seconds: how long it takes is measured, not cut off


class Told(NamedTuple):
    """What the model wrote for a question, and how long it took."""

    name: str
    """The set."""
    text: str
    rewritten: Rewritten
    seconds: float


def main() -> None:
    """Ask what has not been asked; once all has been, search, compare and publish."""
    asked = _arguments()
    memory = memory_of(rule_files(asked.data), asked.keep / "opo.db")
    rules = [stored.rule for stored in memory.rules()]
    samples = {
        name: random.Random(asked.seed).sample(questions(asked.data, name, rules), asked.sample)
        for name in SETS
    }
    model = open_model(asked.model)
    file = asked.keep / f"rewritten-{asked.seed}.jsonl"
    left = _left(samples, _read(file))
    asyncio.run(_ask(model, left[: asked.at_most], file))
    if len(left) > (asked.at_most or len(left)):
        print(f"{len(left) - asked.at_most} questions are left: run it again")
        return
    publish("rewriting", _measures(memory, samples, _read(file), asked.seed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with OPO's data")
    parser.add_argument("--keep", type=Path, required=True, help="folder that keeps the run")
    parser.add_argument("--model", default="local")
    parser.add_argument("--sample", type=int, default=40, help="questions of each set")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at-most", type=int, help="questions to put to the model this time")
    return parser.parse_args()


def _read(file: Path) -> dict[str, Told]:
    rows = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    told = (json.loads(row) for row in rows)
    return {
        row["text"]: Told(
            row["set"], row["text"], Rewritten.model_validate(row["rewritten"]), row["s"]
        )
        for row in told
    }


def _left(samples: dict[str, list[Question]], told: dict[str, Told]) -> list[tuple[str, str]]:
    return [
        (name, question.text)
        for name, sample in samples.items()
        for question in sample
        if question.text not in told
    ]


async def _ask(model: ChatModel, left: Sequence[tuple[str, str]], file: Path) -> None:
    with file.open("a", encoding="utf-8") as lines:
        for number, (name, text) in enumerate(left, start=1):
            start = time.perf_counter()
            rewritten = await rewrite(model, text, timeout=_PATIENCE)
            seconds = round(time.perf_counter() - start, 2)
            row = {"set": name, "text": text, "s": seconds, "rewritten": rewritten.model_dump()}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            lines.flush()
            print(f"{number}/{len(left)} {seconds} s {rewritten.kind} {rewritten.queries}")


def _measures(
    memory: Memory, samples: dict[str, list[Question]], told: dict[str, Told], seed: int
) -> list[Measure]:
    count = E5Embedder().count_tokens  # so that what was kept is compared without the model
    measures: list[Measure] = []
    for name, sample in samples.items():
        alone = [_found(memory, question, (), count) for question in sample]
        queries = [told[question.text].rewritten.queries for question in sample]
        widened = [
            _found(memory, question, also, count)
            for question, also in zip(sample, queries, strict=True)
        ]
        note = f"{len(sample)} questions, seed {seed}; e5 tokens"
        measures += _compared(name, alone, widened, note)
    asked = [told[question.text] for sample in samples.values() for question in sample]
    return [*measures, *_of_the_model(asked)]


def _found(
    memory: Memory, question: Question, also: tuple[str, ...], count: Callable[[str], int]
) -> tuple[float, ...]:
    """Shares of the gold rules among the first 5 hits, all hits, and those that fit the budget."""
    scope = locate(memory, question.text, Scope(), default_place="CN")
    options = Options()
    found = search(
        memory,
        Asked(question.text, also=also),
        scope,
        k=options.hits,
        relevance=options.relevance,
    )
    ruling = rule_on(found.candidates, memory.authorities)
    packed = pack(ruling, found.hits, BUDGET, lambda rule: count(rule.indexed_text))
    ranked = [hit.rule for hit in found.hits]
    return tuple(_share(question, rules) for rules in (ranked[:5], ranked, packed.rules))


def _share(question: Question, rules: Sequence[Rule]) -> float:
    return len(question.gold & {rule.id for rule in rules}) / len(question.gold)


def _compared(
    name: str,
    alone: Sequence[tuple[float, ...]],
    widened: Sequence[tuple[float, ...]],
    note: str,
) -> Iterator[Measure]:
    for figure, at in _FIGURES:
        pairs = [(one[at], other[at]) for one, other in zip(alone, widened, strict=True)]
        gained = sum(after > before for before, after in pairs)
        lost = sum(after < before for before, after in pairs)
        yield Measure(
            measure=f"{name}.{figure}",
            value=round(mean(after for _, after in pairs), 4),
            unit="share",
            goal="above the peer, to be on by default",
            peer=round(mean(before for before, _ in pairs), 4),
            peer_name="the question alone",
            note=f"{note}; {gained} gained, {lost} lost",
        )


def _of_the_model(told: Sequence[Told]) -> list[Measure]:
    kinds = Counter(one.rewritten.kind for one in told)
    failed = sum(bool(one.rewritten.failed) for one in told)
    shown = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    model = told[0].rewritten.model
    return [
        Measure(
            measure="rewriting.s",
            value=round(median(one.seconds for one in told), 2),
            unit="s",
            note=f"median of {len(told)} questions, {model}, {told[0].rewritten.prompt}",
        ),
        Measure(
            measure="rewriting.failed_share",
            value=round(failed / len(told), 4),
            unit="share",
            note=f"kinds: {shown}",
        ),
    ]


if __name__ == "__main__":
    main()
