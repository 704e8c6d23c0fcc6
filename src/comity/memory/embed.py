"""Embedders: what turns texts into vectors whose inner product says how near they are.

`open_embedder` resolves names: `e5` (offline, the default), `hash` (a deterministic fake),
`openai:MODEL` (any server with `/v1/embeddings`), `fastembed:MODEL` (extra `fastembed`).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from comity.errors import EmbedderError, MissingExtra, SettingsError

if TYPE_CHECKING:
    import openai

KINDS = ("e5", "hash", "openai:MODEL", "fastembed:MODEL")


class Embedder(Protocol):
    """Turns texts into L2-normalised float32 vectors.

    The same text always has the same vector, whatever it is embedded with (within 1e-3), and no
    text is refused for its length: what is too long is cut. Failures raise `EmbedderError`.
    """

    @property
    def id(self) -> str:
        """Names model, weights and quantisation; vectors of two ids are never mixed."""
        ...

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        ...

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of rules: (n, dimension), one row a text; (0, dimension) for none."""
        ...

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Vector of a question: (dimension,)."""
        ...


class HashEmbedder:
    """A fake for tests and examples: words and character n-grams, hashed.

    Needs no model, is the same everywhere, and puts texts that share words or parts of words near
    one another; it knows nothing of meaning.
    """

    def __init__(self, dimension: int = 256) -> None:
        if dimension < 1:
            raise SettingsError(f"dimension {dimension}: an embedding needs at least 1")
        self.dimension = dimension
        self.id = f"hash@{dimension}"

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text: (n, dimension)."""
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self.embed_query(text)
        return rows

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """(dimension,): a question has the same vector as a rule of the same words."""
        vector = np.zeros(self.dimension, np.float32)
        for feature, count in Counter(_features(text)).items():
            code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
            sign = 1.0 if code & 0x80000000 else -1.0
            vector[code % self.dimension] += sign * math.sqrt(count)
        length = float(np.linalg.norm(vector))
        if length == 0.0:  # no words, or words whose signs cancelled out
            vector[0] = length = 1.0
        return vector / np.float32(length)


def _features(text: str) -> Iterator[str]:
    text = unicodedata.normalize("NFKC", text).casefold()
    for word in re.findall(r"\w+", text):
        yield f"w:{word}"
        for size in (2, 3):
            yield from (word[at : at + size] for at in range(len(word) - size + 1))


class OpenAIEmbedder:
    """Any server with OpenAI's `/v1/embeddings`.

    Key and address come from the arguments, else from `OPENAI_API_KEY` and `OPENAI_BASE_URL`.
    A given `dimension` is asked of the server and checked; without it, the first use of `id` or
    `dimension` embeds one word to see. Raises `EmbedderError` where the server cannot be reached,
    refuses, or sends something else than one vector a text.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        dimension: int | None = None,
        batch_size: int = 128,
        timeout: float = 60.0,
        max_retries: int = 2,
    ) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size {batch_size}: at least one text goes in a request")
        self.model = model
        self._base_url = base_url
        # a server of one's own seldom asks for a key, but the SDK always does
        self._api_key = api_key or ("none" if base_url else None)
        self._asked = dimension
        self._batch_size = batch_size
        self._timeout = timeout
        self._max_retries = max_retries

    @property
    def id(self) -> str:
        """`openai:MODEL@DIMENSION`."""
        return f"openai:{self.model}@{self.dimension}"

    @cached_property
    def dimension(self) -> int:
        """Length of a vector, as asked for or as the server's first vector has it."""
        return self._asked or int(self._request(["dimension"]).shape[1])

    @cached_property
    def _client(self) -> openai.OpenAI:
        import openai

        try:
            return openai.OpenAI(
                base_url=self._base_url,
                api_key=self._api_key,
                timeout=self._timeout,
                max_retries=self._max_retries,
            )
        except openai.OpenAIError as error:
            raise EmbedderError(f"embedding model {self.model}: {error}") from error

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text: (n, dimension), asked for in batches."""
        batches = [
            self._request(texts[start : start + self._batch_size])
            for start in range(0, len(texts), self._batch_size)
        ]
        rows = np.concatenate(batches) if batches else np.zeros((0, self.dimension), np.float32)
        if rows.shape[1] != self.dimension:
            raise self._problem(f"{rows.shape[1]} dimensions instead of {self.dimension}")
        return rows

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """(dimension,): OpenAI's models make no difference between rules and questions."""
        vector: NDArray[np.float32] = self.embed_passages([text])[0]
        return vector

    def _request(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import openai

        try:
            answer = self._client.embeddings.create(
                model=self.model,
                input=[text or " " for text in texts],  # an empty text is refused by OpenAI
                encoding_format="float",
                dimensions=self._asked or openai.omit,
            )
        except (openai.OpenAIError, ValueError) as error:
            raise self._problem(str(error)) from error
        return self._rows(answer, len(texts))

    def _rows(self, answer: openai.types.CreateEmbeddingResponse, count: int) -> NDArray[Any]:
        try:
            ordered = sorted(answer.data, key=lambda item: item.index)
            rows = np.array([item.embedding for item in ordered], np.float32)
        except (AttributeError, TypeError, ValueError) as error:
            raise self._problem(f"an answer that holds no vectors ({error})") from error
        if rows.ndim != 2 or len(rows) != count:
            raise self._problem(f"{len(rows)} vectors for {count} texts")
        return _unit_rows(rows, f"embedding model {self.model}")

    def _problem(self, problem: str) -> EmbedderError:
        return EmbedderError(
            f"embedding model {self.model} at {self._client.base_url}: {problem}; "
            "check the address, the key and the model's name"
        )


class FastembedEmbedder:
    """A model that the package `fastembed` knows. Raises `MissingExtra` without that package."""

    def __init__(self, model: str) -> None:
        if importlib.util.find_spec("fastembed") is None:
            raise MissingExtra(f"the embedder fastembed:{model}", "fastembed")
        fastembed: Any = importlib.import_module("fastembed")
        try:
            self._model = fastembed.TextEmbedding(model_name=model)
        except (ValueError, OSError) as error:
            raise EmbedderError(f"fastembed:{model} cannot be opened: {error}") from error
        self._name = f"fastembed:{model}"
        self.dimension = len(self.embed_query("dimension"))
        self.id = f"{self._name}@{self.dimension}"

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row a text: (n, dimension)."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        rows = np.array(list(self._model.passage_embed(list(texts))), np.float32)
        return _unit_rows(rows, self._name)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """(dimension,)."""
        rows = np.array(list(self._model.query_embed(text)), np.float32)
        vector: NDArray[np.float32] = _unit_rows(rows, self._name)[0]
        return vector


def _unit_rows(rows: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise EmbedderError(f"{name}: a vector is zero or not finite; try another model")
    unit: NDArray[np.float32] = rows / lengths
    return unit


def open_embedder(
    name: str = "e5", *, base_url: str | None = None, api_key: str | None = None
) -> Embedder:
    """The embedder of that name; `base_url` and `api_key` are for `openai:MODEL`.

    Raises `SettingsError` for an unknown name, `MissingExtra` for a package that is not there.
    """
    kind, _, model = name.partition(":")
    if name == "e5":
        from comity.memory.e5 import E5Embedder

        return E5Embedder()
    if name == "hash":
        return HashEmbedder()
    if kind == "openai" and model:
        return OpenAIEmbedder(model, base_url=base_url, api_key=api_key)
    if kind == "fastembed" and model:
        return FastembedEmbedder(model)
    raise SettingsError(_unknown(name, kind))


def _unknown(name: str, kind: str) -> str:
    known = {form.partition(":")[0]: form for form in KINDS}
    near = difflib.get_close_matches(kind.lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {known[near[0]]}?" if near else f"known are {', '.join(KINDS)}"
    return f"no embedder is called {name!r}: {hint}"
