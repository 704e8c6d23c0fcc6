"""Kind and stance of a preference: by word lists, and by the known wishes it is nearest to.

The kinds are those of the priority matrix; which words and wishes tell of them is our own choice
and data (`data/aspects.toml`, `data/prototypes.toml`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeVar

from comity.memory.embed import Embedder
from comity.preferences.aspects import Found, cues_in
from comity.preferences.nearest import near_kinds, near_stances
from comity.records import Preference, PreferenceKind, Stance

MARGIN = 0.05
"""By how much the best kind must fit better than the second; else the kind is unknown."""

_WORDS = 0.3  # what known words add to how well a kind or stance fits
_LETTER = 0.01  # and what each letter of the longest adds
_NEUTRAL: Stance = "other"

_Of = TypeVar("_Of", bound=str)


class Kinds:
    """Understands preferences; without an embedder by word lists alone."""

    def __init__(self, embedder: Embedder | None) -> None:
        """The known wishes are embedded when a wish first needs them, once for an embedder."""
        self._embedder = embedder

    def understood(self, preference: Preference) -> Preference:
        """The preference with kind and stance; a kind that is given stays as it is.

        The kind is empty where neither words nor known wishes tell it, the stance then `other`.
        Raises `EmbedderError` where the embedder fails.
        """
        cues = cues_in(preference.text)
        kind = preference.kind or self._kind(preference.text, cues)
        if not kind or preference.stance != _NEUTRAL:
            return preference.model_copy(update={"kind": kind})
        stance = self._stance(preference.text, kind, cues)
        return preference.model_copy(update={"kind": kind, "stance": stance})

    def _kind(self, text: str, cues: tuple[Found, ...]) -> PreferenceKind | Literal[""]:
        told = _weights([(cue.kind, cue.length) for cue in cues])
        if self._embedder is None:
            return _best_two(told)[0][1] if told else ""
        fit = near_kinds(self._embedder, text)
        first, second = _best_two({kind: fit[kind] + told.get(kind, 0.0) for kind in fit})
        return first[1] if first[0] - second[0] >= MARGIN else ""

    def _stance(self, text: str, kind: PreferenceKind, cues: tuple[Found, ...]) -> Stance:
        told = _weights([(cue.stance, cue.length) for cue in cues if cue.kind == kind])
        if self._embedder is None:
            return _best_two(told)[0][1] if told else _NEUTRAL
        fit = near_stances(self._embedder, text, kind)
        return _best_two({stance: fit[stance] + told.get(stance, 0.0) for stance in fit})[0][1]


def _weights(told: list[tuple[_Of, int]]) -> dict[_Of, float]:
    """What the known words of a wish weigh for each kind or stance, from their lengths."""
    longest: dict[_Of, int] = {}
    for name, length in told:
        longest[name] = max(length, longest.get(name, 0))
    return {name: _WORDS + _LETTER * length for name, length in longest.items()}


def _best_two(scores: Mapping[_Of, float]) -> list[tuple[float, _Of]]:
    return sorted(((score, name) for name, score in scores.items()), reverse=True)[:2]
