"""The Unigram tokenizer of multilingual-e5-small.

Written out here because building the same table in `tokenizers` or `sentencepiece` takes 0.7 s,
which every command line call would pay; this one is ready in about 0.1 s.
"""

from __future__ import annotations

import re

from comity.memory.e5_weights import Vocabulary

_SPACES = re.compile("  +")
_MARK = "\u2581"
_NEVER = float("-inf")
_UNKNOWN_PENALTY = 10.0


class UnigramTokenizer:
    """Splits a text into the pieces whose summed log-probability is highest."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._ids = dict(zip(vocabulary.pieces, range(len(vocabulary.pieces)), strict=True))
        del self._ids[vocabulary.pieces[vocabulary.unknown]]
        self._scores = vocabulary.scores
        self._characters = vocabulary.characters
        self._longest = max(map(len, vocabulary.pieces))
        self._unknown = vocabulary.unknown
        self._unknown_score = min(vocabulary.scores) - _UNKNOWN_PENALTY

    def normalise(self, text: str) -> str:
        """The text with its characters mapped, runs of spaces joined and spaces marked."""
        text = _SPACES.sub(" ", text.translate(self._characters))
        return (text if text.startswith(" ") else f" {text}").replace(" ", _MARK)

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """Ids of the pieces of the text, or of its first `most`, without marks for its ends."""
        text = self.normalise(text)
        if most is not None:  # a megabyte would take seconds, only to be thrown away
            text = text[: (most + 1) * self._longest]
        piece, begin = self._best_path(text)
        ids = []
        end = len(text)
        while end > 0:
            ids.append(piece[end])
            end = begin[end]
        ids.reverse()
        return ids[:most]

    def _best_path(self, text: str) -> tuple[list[int], list[int]]:
        """For each end of a prefix, the last piece of its best splitting and where it begins."""
        size = len(text)
        find, scores, longest = self._ids.get, self._scores, self._longest
        best = [0.0] + [_NEVER] * size
        piece = [self._unknown] * (size + 1)
        begin = [0] * (size + 1)
        for start in range(size):
            so_far = best[start]
            if so_far + self._unknown_score > best[start + 1]:
                best[start + 1] = so_far + self._unknown_score
                piece[start + 1], begin[start + 1] = self._unknown, start
            for end in range(start + 1, min(size, start + longest) + 1):
                found = find(text[start:end])
                if found is not None and so_far + scores[found] > best[end]:
                    best[end] = so_far + scores[found]
                    piece[end], begin[end] = found, start
        return piece, begin
