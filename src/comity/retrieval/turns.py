"""What is searched for a conversation: its last turns as the question, and all that came before.

At each turn the user's last three turns are searched as one question. What was so searched at
the earlier turns is searched again, each by itself: a rule that an earlier turn brought into
force stays there, as long as it applies in the scope of now. What the assistant and tools have
said is searched by its words alone. The scope is read from neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from comity.memory.index import Admitted
from comity.memory.memory import Memory
from comity.memory.recent import RankingKey, Row, digest
from comity.records import FoundBy

_TOGETHER = 3  # user turns that are searched as one question
_MOST_EARLIER = 32  # questions before the last
_KEPT_OF_EARLIER = 8  # rows, of which `relevance` leaves about four
_KEPT_OF_HEARD = 2
_ANSWERS = 4
_RESULTS = 8
_END = 600  # characters

Rank = Callable[[str], Sequence[Row]]
"""Ranks the rows of a mask by a question, best first."""


class Asked(NamedTuple):
    """What a search is for."""

    question: str
    """The user's last three turns."""
    earlier: tuple[str, ...] = ()
    """What was the question at earlier turns, oldest first."""
    heard: tuple[str, ...] = ()
    """What else was said: searched by its words alone."""
    also: tuple[str, ...] = ()
    """The question as a model rewrote it, or parts of it (see `rewrite`)."""


class Late(NamedTuple):
    """A row that the question itself did not bring."""

    row: int
    score: float
    by: FoundBy


def asked(turns: Sequence[str], heard: Sequence[str] = ()) -> Asked:
    """The questions of a conversation, from the user's turns, oldest first.

    Up to 32 turns each earlier one is searched as it was then. Of a longer conversation every
    second question is, then every fourth, with as many turns in it, and so on, with shorter
    steps at its end: every turn stands in a question, there are hardly more than 32, and
    most of them were searched at the turn before as well.
    """
    before = len(turns) - 1
    step = 1
    while before // step > _MOST_EARLIER:
        step *= 2
    earlier, done = [], 0
    while step:
        for end in range(done + step, before + 1, step):
            earlier.append(_joined(turns[max(0, end - max(_TOGETHER, step)) : end]))
            done = end
        step //= 4
    found = tuple(text for text in dict.fromkeys(earlier) if text.strip())
    return Asked(_joined(turns[-_TOGETHER:]), found, tuple(heard))


def _joined(turns: Sequence[str]) -> str:
    return "\n".join(turns)


def overheard(answers: Sequence[str], results: Sequence[str]) -> tuple[str, ...]:
    """What matters of the assistant's turns and of tools' results: both ends of the last ones."""
    said = (*answers[-_ANSWERS:], *results[-_RESULTS:])
    return tuple(dict.fromkeys(_ends(text) for text in said if text.strip()))


def _ends(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 2 * _END else f"{text[:_END]} … {text[-_END:]}"


class Before:
    """Searches what came before the question, or goes with it, and keeps what it finds."""

    def __init__(self, memory: Memory, mask: Admitted) -> None:
        self._memory, self._mask = memory, mask
        self._rows = mask.digest()

    def keep(self, question: str, ranked: Sequence[Row]) -> None:
        """Keep the ranking of the question, for the turns after it."""
        self._memory.recent.keep(self._key(question, "fused"), tuple(ranked[:_KEPT_OF_EARLIER]))

    def rows(self, asked: Asked, rank: Rank, sure: int, relevance: float) -> Iterator[Late]:
        """The rows of rewritten questions, then of earlier ones, then of what was heard.

        The best row of the newest question comes first, then the best of the one before it, and
        so on, then the second best of each. `sure` and `relevance` are those of `search`.
        """

        def rankings(texts: Iterable[str]) -> list[Sequence[Row]]:
            ranked = (self._ranked(text, "fused", rank) for text in texts)
            return [self._relevant(rows, sure, relevance) for rows in ranked]

        yield from _in_turn(rankings(asked.also), "rewritten")
        yield from _in_turn(rankings(reversed(asked.earlier)), "earlier")
        heard = [self._ranked(text, "words", self._by_words) for text in reversed(asked.heard)]
        yield from _in_turn(heard, "heard")

    def _ranked(self, text: str, way: str, rank: Rank) -> Sequence[Row]:
        key = self._key(text, way)
        known = self._memory.recent.ranking(key)
        if known is None:
            known = tuple(rank(text)[:_KEPT_OF_EARLIER])
            self._memory.recent.keep(key, known)
        return known

    def _by_words(self, text: str) -> list[Row]:
        found = self._memory.index.matching(text, self._mask, _KEPT_OF_HEARD)
        return list(zip(found.positions.tolist(), found.scores.tolist(), strict=True))

    def _relevant(self, ranked: Sequence[Row], sure: int, relevance: float) -> Sequence[Row]:
        return [
            (row, score)
            for place, (row, score) in enumerate(ranked)
            if place < sure or score >= relevance * ranked[0][1]
        ]

    def _key(self, text: str, way: str) -> RankingKey:
        return RankingKey(self._rows, self._mask.revision, digest(text), way)


def _in_turn(rankings: Sequence[Sequence[Row]], by: FoundBy) -> Iterator[Late]:
    for place in zip_longest(*rankings):
        for found in place:
            if found is not None:
                yield Late(found[0], found[1], by)
