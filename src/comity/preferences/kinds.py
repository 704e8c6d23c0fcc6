"""Kind and stance of a preference: by word lists, then by the nearest known wishes.

The kinds are those of the priority matrix; which words and wishes tell of them is our own choice
and data (`data/aspects.toml`, `data/prototypes.toml`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import cache, lru_cache
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from comity.memory.embed import Embedder
from comity.preferences.aspects import Found, cues_in
from comity.preferences.words import data_of
from comity.records import Preference, PreferenceKind, Stance

MARGIN = 0.02
"""What a wish without known words must be nearer to one kind than to the others, in cosine."""

_NEAREST = 2  # prototypes of a kind that count
_LETTER = 0.004  # cosine that a letter of the longest known words weighs
_NEUTRAL: Stance = "other"


class _Prototype(NamedTuple):
    kind: PreferenceKind
    stance: Stance
    text: str


class Kinds:
    """Understands preferences; without an embedder by word lists alone."""

    def __init__(self, embedder: Embedder | None) -> None:
        """Prototypes are embedded when a wish first needs them, once for an embedder."""
        self._embedder = embedder

    def understood(self, preference: Preference) -> Preference:
        """The preference with kind and stance; a kind that is given stays as it is.

        The kind is empty where neither words nor prototypes tell it, the stance then `other`.
        Raises `EmbedderError` where the embedder fails.
        """
        cues = cues_in(preference.text)
        kind = preference.kind or self._kind(preference.text, cues)
        if not kind or preference.stance != _NEUTRAL:
            return preference.model_copy(update={"kind": kind})
        stance = self._stance(preference.text, kind, cues)
        return preference.model_copy(update={"kind": kind, "stance": stance})

    def _kind(self, text: str, cues: tuple[Found, ...]) -> PreferenceKind | Literal[""]:
        told = list(dict.fromkeys(cue.kind for cue in cues))
        if len(told) == 1 or (told and self._embedder is None):
            return told[0]
        if self._embedder is None:
            return ""
        near = self._near(text)
        if told:
            longest = {kind: max(c.length for c in cues if c.kind == kind) for kind in told}
            return max(told, key=lambda kind: near[kind] + _LETTER * longest[kind])
        first, second = sorted(near.values(), reverse=True)[:2]
        return (
            next(kind for kind in near if near[kind] == first) if first - second >= MARGIN else ""
        )

    def _near(self, text: str) -> dict[PreferenceKind, float]:
        """How near a text is to each kind: mean cosine of its nearest prototypes."""
        scores = self._cosines(text)
        kinds = [one.kind for one in prototypes()]
        return {
            kind: float(np.sort(scores[[other == kind for other in kinds]])[-_NEAREST:].mean())
            for kind in dict.fromkeys(kinds)
        }

    def _stance(self, text: str, kind: PreferenceKind, cues: tuple[Found, ...]) -> Stance:
        told = [cue.stance for cue in cues if cue.kind == kind]
        if told or self._embedder is None:
            return told[0] if told else _NEUTRAL
        near = zip(self._cosines(text), prototypes(), strict=True)
        return max((score, one.stance) for score, one in near if one.kind == kind)[1]

    def _cosines(self, text: str) -> NDArray[np.float32]:
        """(number of prototypes,): how near each is to a text."""
        embedder = cast(Hashable, self._embedder)
        cosines: NDArray[np.float32] = np.dot(_vectors(embedder), _vector(embedder, text))
        return cosines


@lru_cache(maxsize=2)
def _vectors(embedder: Hashable) -> NDArray[np.float32]:
    """Vectors of the prototypes, (n, dimension); as wishes are embedded, so that they compare."""
    return np.stack([cast(Embedder, embedder).embed_query(one.text) for one in prototypes()])


@lru_cache(maxsize=256)
def _vector(embedder: Hashable, text: str) -> NDArray[np.float32]:
    return cast(Embedder, embedder).embed_query(text)


@cache
def prototypes() -> tuple[_Prototype, ...]:
    """Wishes of known kind and stance, as the data file has them."""
    return tuple(_read(data_of("prototypes").items()))


def _read(kinds: Iterable[tuple[str, dict[str, list[str]]]]) -> Iterator[_Prototype]:
    for kind, stances in kinds:
        for stance, texts in stances.items():
            yield from (
                _Prototype(cast(PreferenceKind, kind), cast(Stance, stance), text) for text in texts
            )
