"""What the parts share: sizes and folder, memories filled with made rules, and exact results."""

from __future__ import annotations

import gc
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.made_rules import SEED, Maker
from benchmarks.made_vectors import QUESTIONS, MadeEmbedder, Vectors, make_seeds
from comity.memory.bulk import BATCH, bulk_import
from comity.memory.embed import open_embedder
from comity.memory.memory import Memory
from comity.records import DEFAULT_TENANT, Record, Rule, Scope

K = 20
DEPTH = 100
"""How deep a search ranks by meaning, whatever k is."""
WARM_UP = 20
_ROWS_AT_ONCE = 50_000
_TOLD_EACH = 20  # revisions


class Skipped(Exception):
    """Why a part is not measured here, and what to do about it."""


class Bench(Record):
    """One run of the benchmark."""

    folder: Path
    """Where memories and results are kept."""
    rules: int = 1_000_000
    few_rules: int = 10_000
    """From which growth is measured."""
    peer_rules: int = 100_000
    questions: int = 300
    """Measured; 20 more warm up."""
    changes: int = 20
    """Of rules, one after the other, while searches run."""
    starts: int = 3
    """Of fresh processes, files in the system's cache; one more without."""
    embedder: str = "e5"
    """Of the sentences from which the vectors are made."""
    seed: int = SEED

    @property
    def size(self) -> str:
        """Short name of the number of rules."""
        return short(self.rules)

    @property
    def maker(self) -> Maker:
        """Of rules and questions."""
        return Maker(self.seed)

    @property
    def seeds(self) -> Path:
        """The file of embedded sentences."""
        return self.folder / f"seeds-{self.embedder}.npz"

    def made_embedder(self) -> MadeEmbedder:
        """The embedder of made texts; embeds what it is made from, once."""
        if not self.seeds.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            make_seeds(open_embedder(self.embedder), self.maker, self.seeds)
        return MadeEmbedder(self.seeds, self.seed)

    def book(self, rules: int) -> Path:
        """The file of a memory of so many rules."""
        return self.folder / f"rules-{short(rules)}.db"

    def memory(self, rules: int) -> Memory:
        """A memory of so many rules, filled if it is not there yet."""
        file = self.book(rules)
        if not file.exists():
            filled(self, rules)
        return Memory.open(f"sqlite:///{file.absolute()}", embedder=self.made_embedder())

    def asked(self) -> list[tuple[str, Scope]]:
        """The questions: those that warm up, then those that are measured."""
        maker = self.maker
        return [maker.question(n) for n in range(min(QUESTIONS, WARM_UP + self.questions))]


def short(rules: int) -> str:
    """`1m`, `100k`, `2k`, `500`."""
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if rules and rules % size == 0:
            return f"{rules // size}{letter}"
    return str(rules)


class Filled(NamedTuple):
    """How the default tenant's rules got into a memory."""

    rules: int
    seconds: float
    """Without those that it took to make the rules and their vectors."""


def filled(bench: Bench, rules: int) -> Filled:
    """Fill a memory, with its index, in a file that is in place only when all is done.

    The default tenant's rules are made before the import begins, and the embedder's seconds are
    taken off. The rules of the other tenants come after that, without a watch.
    """
    bench.folder.mkdir(parents=True, exist_ok=True)
    file = bench.book(rules)
    new = file.with_name(f"{file.stem}-new.db")
    for left in bench.folder.glob(f"{new.name}*"):
        remove(left)
    embedder = bench.made_embedder()
    done = Filled(0, 0.0)
    with Memory.open(f"sqlite:///{new.absolute()}", embedder=embedder) as memory:
        for tenant, rows in groupby(bench.maker.rules(rules), key=lambda rule: rule.tenant):
            own = list(rows)
            if tenant != DEFAULT_TENANT:
                memory.write("import", own, tenant=tenant)
                continue
            gc.freeze()  # what is only the benchmark's is not looked through
            embedder.seconds, start = 0.0, time.perf_counter()
            bulk_import(memory, own, committed=_tell)
            done = Filled(len(own), time.perf_counter() - start - embedder.seconds)
        memory.index.catch_up()
        memory.index.save()
    for part in sorted(bench.folder.glob(f"{new.name}*"), reverse=True):
        part.rename(part.with_name(part.name.replace(new.name, file.name)))
    return done


def _tell(revision: int) -> None:
    """A line now and then; each revision is a batch."""
    if revision % _TOLD_EACH == 0:
        print(f"  {revision * BATCH} rules", flush=True)


def remove(path: Path) -> None:
    """Delete a file or folder."""
    if path.is_dir():
        for inside in path.iterdir():
            remove(inside)
        path.rmdir()
    else:
        path.unlink()


def vectors_of(bench: Bench, rules: int, embedder: MadeEmbedder) -> Vectors:
    """Vectors in the order of the book's rows: (rules, dimension), in a file mapped to memory.

    Row r of the book is row r - 1 here. They are the embedder's own, not rounded.
    """
    file = bench.folder / f"vectors-{bench.embedder}-{short(rules)}.npy"
    if not file.exists():
        texts = map(_indexed_text, _records(bench.book(rules), rules))
        shape = (rules, embedder.dimension)
        new = file.with_suffix(".new.npy")
        rows = np.lib.format.open_memmap(new, mode="w+", dtype=np.float32, shape=shape)
        at = 0
        while batch := list(islice(texts, _ROWS_AT_ONCE)):
            rows[at : at + len(batch)] = embedder.embed_passages(batch)
            at += len(batch)
        if at != rules:
            raise SystemExit(f"{bench.book(rules)} holds {at} rules, not {rules}: delete it")
        rows.flush()
        new.replace(file)
    mapped: Vectors = np.load(file, mmap_mode="r")
    return mapped


def stored(book: Path, rules: int) -> Iterator[Rule]:
    """The first rule versions of a memory, in the order of their rows, which have no gaps."""
    return map(Rule.model_validate_json, _records(book, rules))


def _indexed_text(record: str) -> str:
    """As `Rule.indexed_text`, without a check of each field, which takes most of the time."""
    rule = json.loads(record)
    return f"{rule['title']} {rule['article']} {rule['text']}"


def _records(book: Path, rules: int) -> Iterator[str]:
    with closing(sqlite3.connect(f"file:{book}?mode=ro", uri=True)) as connection:
        found = connection.execute(
            "SELECT row, record FROM rule WHERE row <= ? ORDER BY row", (rules,)
        )
        for number, (row, record) in enumerate(found, start=1):
            if row != number:
                raise SystemExit(f"{book}: row {row} where {number} was to be expected")
            yield record


def exact(
    vectors: Vectors, queries: Vectors, masks: Sequence[NDArray[np.bool_]], k: int
) -> list[NDArray[np.int64]]:
    """Positions of the k nearest flagged rows for each query, by inner product, all compared."""
    best = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        scores = queries @ np.ascontiguousarray(vectors[first : first + _ROWS_AT_ONCE]).T
        for number, mask in enumerate(masks):
            inside = np.flatnonzero(mask[first : first + _ROWS_AT_ONCE])
            known, where = best[number]
            known = np.concatenate((known, scores[number, inside]))
            where = np.concatenate((where, inside + first))
            order = np.argsort(-known, kind="stable")[:k]
            best[number] = known[order], where[order]
    return [where for _, where in best]


def recall(found: Iterable[Iterable[int]], wanted: Iterable[Iterable[int]]) -> float:
    """Mean share of the wanted rows that were found; queries that want none are left out."""
    pairs = [(set(has), set(wants)) for has, wants in zip(found, wanted, strict=True)]
    shares = [len(has & wants) / len(wants) for has, wants in pairs if wants]
    if not shares:
        raise ValueError("no query wants anything: there is no recall")
    return round(float(np.mean(shares)), 4)


def milliseconds(values: Sequence[float], percent: float) -> float:
    """A percentile, rounded to hundredths."""
    return round(float(np.percentile(values, percent)), 2)
