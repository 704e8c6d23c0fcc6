"""The terms of a text, which BM25 counts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from operator import add

import numpy as np
from numpy.typing import NDArray

_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_ASCII_RUN = re.compile(r"\w+", re.ASCII)
_RUN = re.compile(rf"(?P<unspaced>[{_UNSPACED}]+)|[^\W{_UNSPACED}]+")
# what folding leaves as it is, or makes of it nothing that stands in a term
_PLAIN = re.compile(r"[\x00-\x7f\u4e00-\u9fff“”‘’、。，；：？！（）《》〈〉【】…—·]*")
_FIRST, _LAST = 0x4E00, 0x9FFF  # the Chinese characters among them
_LETTERS = np.array([bool(_ASCII_RUN.fullmatch(chr(code))) for code in range(128)])
_BETWEEN, _BLANK = ord("\n"), ord(" ")


def words(text: str) -> list[str]:
    """The terms of a text: words in lower case, and pairs of neighbours in Chinese.

    Pairs of characters found more of the right articles than words from a dictionary did, and
    need none (see docs/design/retrieval.md). A lone Chinese character is a term too.
    """
    if text.isascii():
        return _ASCII_RUN.findall(text.lower())
    terms: list[str] = []
    for match in _RUN.finditer(folded(text)):
        run = match[0]
        if match.lastgroup and len(run) > 1:
            terms.extend(map(add, run, run[1:]))
        else:
            terms.append(run)
    return terms


def folded(text: str) -> str:
    """The text in which its terms stand: every term of `words` is a part of it."""
    return unicodedata.normalize("NFKC", text).lower()


def spaced(texts: Sequence[str]) -> list[str]:
    """The terms of each text with a blank between them.

    Ordinary texts in Chinese or ASCII are taken all at once, an eighth of the time.
    """
    plain = [number for number, text in enumerate(texts) if _PLAIN.fullmatch(text)]
    found = dict(zip(plain, _spaced([texts[number] for number in plain]), strict=True))
    return [
        found[number] if number in found else " ".join(words(text))
        for number, text in enumerate(texts)
    ]


def _spaced(texts: Sequence[str]) -> list[str]:
    """The same for texts that need no folding: each character is kept, doubled or left out."""
    lines = "".join(f"{text.replace(chr(_BETWEEN), ' ')}{chr(_BETWEEN)}" for text in texts)
    given = np.frombuffer(lines.lower().encode("utf-16-le"), np.uint16)
    paired = (given >= _FIRST) & (given <= _LAST)
    lettered = _LETTERS[np.minimum(given, 127)]  # 127 itself is none
    inner = paired & _before(paired) & _behind(paired)  # stands in two pairs: `x x`
    begins = (paired & ~_before(paired)) | (lettered & ~_before(lettered))
    kept = paired | lettered | (given == _BETWEEN)
    ends = np.cumsum(kept.astype(np.int8) + begins + 2 * inner)
    made = np.full(ends[-1] if len(ends) else 0, _BLANK, np.uint16)
    made[ends[kept] - 1] = given[kept]
    made[ends[inner] - 3] = given[inner]
    return [line[1:] for line in made.tobytes().decode("utf-16-le").split(chr(_BETWEEN))[:-1]]


def _before(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each one, the flag of the one before it."""
    return np.concatenate((np.zeros(1, np.bool_), flags[:-1])) if len(flags) else flags


def _behind(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each one, the flag of the one behind it."""
    return np.concatenate((flags[1:], np.zeros(1, np.bool_)))
