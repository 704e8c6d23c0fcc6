"""Which known wishes a text is nearest to, in the memory's embedding.

The vectors of the known wishes (`data/prototypes.toml`) are fitted to their kinds, and within each
kind to their stances, by regularised least squares: with some dozens of wishes a kind in five
languages this tells kinds apart better than the nearest single one does.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np
from numpy.typing import NDArray

from comity.cache import cache_folder
from comity.memory.embed import Embedder
from comity.preferences.words import data_of
from comity.records import PreferenceKind, Stance

KINDS: tuple[PreferenceKind, ...] = get_args(PreferenceKind)
STANCES: tuple[Stance, ...] = get_args(Stance)

_RIDGE = 1.0  # how strongly the fit is held back, for a vector of unit variance

Vectors = NDArray[np.float32]
Scores = Callable[[Vectors], Vectors]


class Prototype(NamedTuple):
    """A wish of known kind and stance."""

    kind: PreferenceKind
    stance: Stance
    text: str


class Fit(NamedTuple):
    """What scores a vector (dimension,): each kind; each stance of one kind."""

    kinds: Scores
    stances: dict[PreferenceKind, Scores]


def near_kinds(embedder: Embedder, text: str) -> dict[PreferenceKind, float]:
    """How well a text fits each kind: about 1 for a known wish of the kind, about 0 for others.

    The first use embeds all known wishes, and keeps their vectors in the cache folder. Raises
    `EmbedderError` where the embedder fails.
    """
    one = cast(Hashable, embedder)
    return dict(zip(KINDS, map(float, _fit(one).kinds(_vector(one, text))), strict=True))


def near_stances(embedder: Embedder, text: str, kind: PreferenceKind) -> dict[Stance, float]:
    """How well a text fits each stance of a kind. Raises `EmbedderError` as `near_kinds` does."""
    one = cast(Hashable, embedder)
    scores = _fit(one).stances[kind](_vector(one, text))
    return dict(zip(STANCES, map(float, scores), strict=True))


@cache
def prototypes() -> tuple[Prototype, ...]:
    """Wishes of known kind and stance, as the data file has them."""
    return tuple(_read())


def _read() -> Iterator[Prototype]:
    data = data_of("prototypes")
    for kind in KINDS:
        for stance in STANCES:
            yield from (Prototype(kind, stance, text) for text in data[kind].get(stance, ()))


@lru_cache(maxsize=2)
def _fit(embedder: Hashable) -> Fit:
    known = prototypes()
    vectors = _known_vectors(cast(Embedder, embedder), [one.text for one in known])
    kinds = np.array([KINDS.index(one.kind) for one in known])
    stances = np.array([STANCES.index(one.stance) for one in known])
    return Fit(
        _fitted(vectors, np.eye(len(KINDS))[kinds]),
        {
            kind: _fitted(vectors[kinds == at], np.eye(len(STANCES))[stances[kinds == at]])
            for at, kind in enumerate(KINDS)
        },
    )


def _fitted(vectors: Vectors, wanted: NDArray[np.float64]) -> Scores:
    """Least squares from vectors (n, dimension) to what is wanted of them (n, classes)."""
    middle, mean = vectors.mean(axis=0), wanted.mean(axis=0)
    spread = float((vectors - middle).std()) or 1.0
    scaled = (vectors - middle) / spread
    held = scaled @ scaled.T + _RIDGE * len(scaled) * np.eye(len(scaled))
    weights = scaled.T @ np.linalg.solve(held, wanted - mean)
    return lambda vector: ((vector - middle) / spread @ weights + mean).astype(np.float32)


@lru_cache(maxsize=256)
def _vector(embedder: Hashable, text: str) -> Vectors:
    vector: Vectors = cast(Embedder, embedder).embed_passages([text])[0]
    return vector


def _known_vectors(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """(n, dimension): from the cache folder, where these texts were embedded before."""
    told = "\0".join((embedder.id, *texts)).encode()
    file = cache_folder() / "preferences" / f"{hashlib.sha256(told).hexdigest()[:24]}.npy"
    # a file that is not there or was damaged is made again
    with suppress(OSError, ValueError, EOFError):
        kept: Vectors = np.load(file, allow_pickle=False)
        if kept.shape == (len(texts), embedder.dimension):
            return kept
    vectors = embedder.embed_passages(texts)
    with suppress(OSError):  # without a folder to keep them in they are embedded each time
        _keep(file, vectors)
    return vectors


def _keep(file: Path, vectors: Vectors) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".npy")
    try:
        with os.fdopen(handle, "wb") as opened:
            np.save(opened, vectors)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
