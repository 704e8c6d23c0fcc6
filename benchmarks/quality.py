"""How many of the right rules are found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
from rich.progress import track

from benchmarks.opo import OpoRetriever, Question, questions, rule_files
from benchmarks.report import Measure
from comity.alignment.compose import compose, pack
from comity.alignment.precedence import rule_on
from comity.documents.extract import extract
from comity.errors import ModelMissing
from comity.memory.imports import commit_import, plan_import
from comity.memory.locate import locate
from comity.memory.memory import Memory
from comity.memory.store import PlaceNames
from comity.models.chat import open_model
from comity.models.pull import model_path
from comity.records import Message, Rule, Scope
from comity.retrieval.search import search
from comity.samples import sample_folder

BUDGET = 1000
_GOALS = {
    "law.recall_at_5": ">= 0.975",
    "company.recall_at_5": ">= 0.74",
    "company.recall_at_20": ">= 0.97",
    "company.gold_in_1000_tokens": ">= 0.82",
}
_FIGURES = (
    ("recall_at_5", "at_5"),
    ("recall_at_20", "at_20"),
    ("gold_in_1000_tokens", "in_budget"),
)


class Result(NamedTuple):
    """Shares of one question's gold rules that were found."""

    at_5: float
    at_20: float
    in_budget: float
    as_sent: float = 0.0  # with the labels that the prompt puts to each rule


def memory_of(paths: Sequence[Path], file: Path) -> Memory:
    """A memory with the rules of some documents; what is there already is not made again."""
    memory = Memory.open(f"sqlite:///{file}")
    found = extract(paths, place_of=memory.gazetteer().canonical)
    places = [PlaceNames(code=place.code, names=place.names) for place in found.places]
    commit_import(memory, plan_import(memory, found.rules, tenant="default", places=places))
    return memory


def token_counter() -> tuple[Callable[[str], int], str]:
    """The local model's tokenizer; without the model, the embedder's."""
    try:
        model_path()
    except ModelMissing:
        from comity.memory.e5 import E5Embedder

        return E5Embedder().count_tokens, "e5 tokens"
    return open_model("local").count_tokens, "Qwen2.5 tokens"


def on_opo(data: Path, folder: Path) -> list[Measure]:
    """Both domains in one memory, against OPO's way on the same vectors."""
    memory = memory_of(rule_files(data), folder / "opo.db")
    rules = [stored.rule for stored in memory.rules()]
    vectors = memory.vectors.get(memory.embedder, [rule.indexed_text for rule in rules])
    count, unit = token_counter()

    def cost(rule: Rule) -> int:
        return count(rule.indexed_text)

    opo = OpoRetriever(rules, _locations(data, rules), vectors)
    measures = []
    for name in ("law", "company"):
        asked = questions(data, name, rules)
        ours = [_ask(memory, q, cost, count) for q in track(asked, f"{name}: Comity")]
        theirs = [_ask_opo(memory, opo, q, cost) for q in track(asked, f"{name}: OPO")]
        measures += _measures(name, ours, theirs, f"all {len(asked)} questions; {unit}")
    return measures


def _locations(data: Path, rules: Sequence[Rule]) -> list[str]:
    """OPO's own location of each rule."""
    rows = [json.loads(line) for file in rule_files(data) for line in file.open(encoding="utf-8")]
    by_id = {f"{row['source']}/{row['text'].split('*****')[0]}": row["location"] for row in rows}
    return [by_id[rule.id] for rule in rules]


def _ask(
    memory: Memory, question: Question, cost: Callable[[Rule], int], count: Callable[[str], int]
) -> Result:
    scope = locate(memory, question.text, Scope(), default_place="CN")
    found = search(memory, question.text, scope, k=20)
    ruling = rule_on(found.candidates, memory.authorities)
    packed = pack(ruling, found.hits, BUDGET, cost)
    prompt = compose(
        ruling,
        (Message(role="user", content=question.text),),
        scope,
        hits=found.hits,
        budget=BUDGET,
        count_tokens=count,
        name_place=memory.gazetteer().name,
        language="zh",
    )
    result = _result(question, [hit.rule for hit in found.hits], packed.rules)
    return result._replace(as_sent=_share(question, prompt.rules))


def _ask_opo(
    memory: Memory, opo: OpoRetriever, question: Question, cost: Callable[[Rule], int]
) -> Result:
    ranked = opo.ranked(question.text, memory.embedder.embed_query(question.text))
    return _result(question, ranked, opo.pack(ranked, BUDGET, cost))


def _result(question: Question, ranked: Sequence[Rule], packed: Sequence[Rule]) -> Result:
    return Result(
        _share(question, ranked[:5]), _share(question, ranked[:20]), _share(question, packed)
    )


def _share(question: Question, rules: Sequence[Rule]) -> float:
    return len(question.gold & {rule.id for rule in rules}) / len(question.gold)


def _measures(
    name: str, ours: Sequence[Result], theirs: Sequence[Result], note: str
) -> list[Measure]:
    measures = [
        Measure(
            measure=f"{name}.{figure}",
            value=round(mean(getattr(result, field) for result in ours), 4),
            unit="share",
            goal=_GOALS.get(f"{name}.{figure}", "at least the peer"),
            peer=round(mean(getattr(result, field) for result in theirs), 4),
            peer_name="OPO's way",
            note=note,
        )
        for figure, field in _FIGURES
    ]
    as_sent = Measure(
        measure=f"{name}.gold_in_1000_tokens_as_sent",
        value=round(mean(result.as_sent for result in ours), 4),
        unit="share",
        note="the same with the labels that the prompt puts to each rule",
    )
    return [*measures, as_sent]


def on_samples(folder: Path) -> list[Measure]:
    """The expected rules of everyday questions about the sample rules."""
    memory = memory_of([sample_folder()], folder / "samples.db")
    file = Path(__file__).parent / "sample_questions.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = []
    for row in rows:
        given = Scope(place=row.get("place"), audience=row.get("audience"), at=row.get("at"))
        scope = locate(memory, row["question"], given, default_place="XA")
        hits = search(memory, row["question"], scope, k=5).hits
        expected = set(row["rules"])
        found.append(len(expected & {hit.rule.id for hit in hits}) / max(1, len(expected)))
    return [
        Measure(
            measure="samples.recall_at_5",
            value=round(float(np.mean(found)), 4),
            unit="share",
            note=f"{len(rows)} questions about the sample rules",
        )
    ]
