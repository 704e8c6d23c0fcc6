"""Vectors of the made rules, made too: embedding a million texts would take hours.

What the real embedder gives is taken for the 3,000 sentences that all rules vary, for 1,500 of
the variations, and for the questions. A rule's vector is what a linear regression (one factor for
each principal direction) makes of its sentence's, plus residuals of real variations: one drawn for
its document, two for the article. They are weighted as residuals of one document are alike in the
real ones (0.29). `spread` measures how near such vectors lie to one another, beside those that the
embedder gives for the very same rules.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.made_rules import ARTICLES, BASES, SEED, Maker, article_name, base_of
from comity.memory.embed import Embedder
from comity.records import Rule

QUESTIONS = 400
_CHANGES = 1_500
_CHECKED = 1_500
_FIRST_CHECKED = 900_000  # documents that no memory of a million rules has
_FIRST_CHANGED = 950_000
_WEIGHTS = (0.54, 0.595, 0.595)  # of the document's residual and the article's two
_NEIGHBOURS = 20
_NUMBER = re.compile(r"（第(\d{6})号） (第[一二三四五六七八九十]+条) ")
_ARTICLE_NUMBERS = {article_name(number): number for number in range(1, ARTICLES + 1)}
_WIDE = np.uint64(0x9E3779B97F4A7C15)

Vectors = NDArray[np.float32]


class Seeds(NamedTuple):
    """What the real embedder gave: unit vectors, one a row."""

    bases: Vectors
    varied: Vectors
    """Variations of some of the bases."""
    questions: Vectors
    checked: Vectors
    """Of the rules of `checked_rules`."""


def make_seeds(embedder: Embedder, maker: Maker, file: Path) -> None:
    """Embed what is needed, and write it to a file: about two minutes with e5 on two cores."""

    def passages(texts: Sequence[str], what: str) -> Vectors:
        batches = [texts[first : first + 100] for first in range(0, len(texts), 100)]
        shown = track(batches, f"embedding {what}")
        return np.concatenate([embedder.embed_passages(batch) for batch in shown])

    seeds = Seeds(
        passages([maker.base(number) for number in range(BASES)], "sentences"),
        passages([rule.indexed_text for rule in _varied_rules(maker)], "variations"),
        np.array([embedder.embed_query(maker.question(n)[0]) for n in range(QUESTIONS)]),
        passages([rule.indexed_text for rule in checked_rules(maker)], "rules to compare"),
    )
    temporary = file.with_suffix(".new.npz")
    np.savez(temporary, allow_pickle=False, **seeds._asdict())
    temporary.replace(file)


def read_seeds(file: Path) -> Seeds:
    """What `make_seeds` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        return Seeds(*(arrays[name] for name in Seeds._fields))


class _Model(NamedTuple):
    """How a variation's vector follows from its sentence's."""

    expected: Vectors
    """Of each sentence, the mean of its variations."""
    residuals: Vectors
    """Of the real variations from what was expected of them."""

    @classmethod
    def of(cls, seeds: Seeds, maker: Maker) -> _Model:
        mean = seeds.bases.mean(axis=0)
        _, directions = np.linalg.eigh(np.cov((seeds.bases - mean).T))
        given = ((seeds.bases - mean) @ directions).astype(np.float32)
        articles = _articles(_FIRST_CHANGED, len(seeds.varied))
        known = given[[base_of(*each, maker.seed) for each in articles]]
        shift = seeds.varied.mean(axis=0)
        varied = (seeds.varied - shift) @ directions
        factors = (known * varied).sum(axis=0) / np.maximum((known**2).sum(axis=0), 1e-9)
        back = directions.T
        expected, residuals = shift + (given * factors) @ back, (varied - known * factors) @ back
        return cls(expected.astype(np.float32), residuals.astype(np.float32))


def _varied_rules(maker: Maker) -> list[Rule]:
    return _some_rules(maker, _FIRST_CHANGED, _CHANGES)


def checked_rules(maker: Maker) -> list[Rule]:
    """Rules that are embedded as well as made, to compare: five of each of some documents."""
    return _some_rules(maker, _FIRST_CHECKED, _CHECKED)


def _some_rules(maker: Maker, first: int, count: int) -> list[Rule]:
    """The rules of `_articles`."""
    document = cache(maker.document)
    return [document(number)[article - 1] for number, article in _articles(first, count)]


def _articles(first: int, count: int) -> list[tuple[int, int]]:
    """Every eighth article of the documents from a number on, so many of them."""
    each = range(1, ARTICLES + 1, 8)
    return [(first + number // len(each), each[number % len(each)]) for number in range(count)]


class MadeEmbedder:
    """Gives the vectors of made rules and questions, from nothing but their texts."""

    def __init__(self, file: Path, seed: int = SEED) -> None:
        """`file` is what `make_seeds` wrote."""
        self.seconds = 0.0
        """Spent on vectors of rules."""
        self._seeds = read_seeds(file)
        self._seed = seed
        self.dimension = int(self._seeds.bases.shape[1])
        digest = sha256(self._seeds.bases.tobytes() + self._seeds.varied.tobytes()).hexdigest()
        self.id = f"made-{digest[:12]}@{self.dimension}"
        maker = Maker(seed)
        self._model = _Model.of(self._seeds, maker)
        self._questions = {maker.question(n)[0]: row for n, row in enumerate(self._seeds.questions)}

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """One unit vector a text: (n, dimension). A text that is no made rule gets any."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        start = time.perf_counter()
        numbers = np.array([_numbers(text, self._seed) for text in texts], np.uint64)
        expected, residuals = self._model
        rows = expected[numbers[:, 0].astype(np.int64)]
        for at, (column, weight) in enumerate(zip((1, 2, 2), _WEIGHTS, strict=True)):
            drawn = (numbers[:, column] + np.uint64(at)) * _WIDE >> np.uint64(17)
            sign = np.where(drawn & np.uint64(1), np.float32(weight), np.float32(-weight))
            chosen = (drawn >> np.uint64(1)) % np.uint64(len(residuals))
            rows += sign[:, np.newaxis] * residuals[chosen.astype(np.int64)]
        unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.seconds += time.perf_counter() - start
        return unit

    def embed_query(self, text: str) -> Vectors:
        """(dimension,): a made question's own, for another text that of any question."""
        known = self._questions.get(text)
        if known is None:
            known = self._seeds.questions[zlib.crc32(text.encode()) % len(self._seeds.questions)]
        vector: Vectors = known
        return vector


def _numbers(text: str, seed: int) -> tuple[int, int, int]:
    """Of a text: its sentence, its document, and what depends on the whole."""
    code = zlib.crc32(text.encode())
    found = _NUMBER.search(text)
    if found is None:
        return code % BASES, code, code
    document = int(found[1])
    return base_of(document, _ARTICLE_NUMBERS[found[2]], seed), document, code


class Spread(NamedTuple):
    """How near vectors lie to one another, by inner product; medians over the rows."""

    nearest: float
    """To the nearest other one."""
    tenth: float
    """To the tenth nearest."""
    anywhere: float
    """To any other one: the mean of all pairs."""
    dimensions: float
    """Local intrinsic dimension by the 20 nearest (Levina and Bickel, 2004; Euclidean)."""
    asked: float
    """Of a question to its tenth nearest."""


def spread(vectors: Vectors, questions: Vectors) -> Spread:
    """Of unit vectors of rules, (n, d), and of questions, (m, d)."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    near = -np.sort(-similar, axis=1)[:, :_NEIGHBOURS]
    distances = np.sqrt(np.maximum(2 - 2 * near, 1e-9))
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    local = (_NEIGHBOURS - 2) / np.maximum(logs.sum(axis=1), 1e-9)
    asked = -np.sort(-(questions @ vectors.T), axis=1)
    whole = similar[~np.eye(len(vectors), dtype=bool)]
    return Spread(
        float(np.median(near[:, 0])),
        float(np.median(near[:, 9])),
        float(whole.mean()),
        float(np.median(local)),
        float(np.median(asked[:, 9])),
    )
