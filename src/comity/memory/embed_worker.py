"""What a worker of a bulk import does: it embeds texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from comity.memory.bulk import Embedded
from comity.memory.embed import Embedder, open_embedder
from comity.workers import Make


def embedding(
    name: str, *, base_url: str | None = None, api_key: str | None = None
) -> Make[Sequence[str], Embedded]:
    """For workers of a bulk import: each opens the embedder of that name, on one thread."""
    return partial(_open, name, base_url, api_key)


def _open(
    name: str, base_url: str | None, api_key: str | None
) -> Callable[[Sequence[str]], Embedded]:
    return partial(_embed, _embedder(name, base_url, api_key))


def _embedder(name: str, base_url: str | None, api_key: str | None) -> Embedder:
    if name == "e5":
        from comity.memory.e5 import E5Embedder

        return E5Embedder(threads=1)  # there are as many workers as processors
    return open_embedder(name, base_url=base_url, api_key=api_key)


def _embed(embedder: Embedder, texts: Sequence[str]) -> Embedded:
    return Embedded(embedder.id, embedder.embed_passages(texts).astype(np.float16))
