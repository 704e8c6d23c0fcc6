"""When the text of an answer leaves: after its checks, sentence by sentence, or at once.

- `strict`: nothing leaves before the whole answer was checked, where a rule has to be checked.
- `window`: whole sentences leave once code has found nothing broken up to their end; at the first
  breach the answer stops. What only the whole answer or a judge can tell is found at the end.
- `observe`: text leaves as it comes and is checked afterwards; a breach is recorded as disclosed.

The verdict is on whole sentences and the whole answer, never on the pieces in which a model
happens to send them, so that a stream and a plain answer get the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from comity.alignment.checks import by_code
from comity.records import Finding, Rule

Release = Literal["strict", "window", "observe"]

# A full stop ends a sentence where a blank follows: not in 3.5 or example.org.
_SENTENCE_END = re.compile(r"[。！？!?\n]+[”’\"')）】]*|\.[”’\"')]*(?=\s)")


class Gate:
    """Takes an answer piece by piece, and gives what may leave.

    `rules` are those that have a consequence and can be checked.
    """

    def __init__(self, rules: Sequence[Rule], release: Release) -> None:
        self._rules = tuple(rules)
        self.release: Release | Literal[""] = release if self._rules else ""
        """How text leaves; empty where no rule has to be checked, and it leaves as it comes."""
        self._text = ""
        self._left = 0
        self.stopped_by: tuple[Finding, ...] = ()
        """What stopped the answer; nothing more is taken after it."""
        self.decision_id = ""
        """Id of the decision that was noted before text left; empty where none was."""
        self.passed = False
        """Whether anything has left beside the text, such as a call of a tool."""
        self.settled = False
        """Whether what became of the answer is on record, or is on its way there."""

    @property
    def released(self) -> str:
        """The text that has left."""
        return self._text[: self._left]

    def take(self, piece: str) -> Iterator[str]:
        """What may leave after one more piece."""
        self._text += piece
        if self.release in ("", "observe"):
            yield from self._let_go(len(self._text))
        elif self.release == "window":
            yield from self._sentences()

    def finish(self) -> Iterator[str]:
        """What may leave of a window's last sentence, when the answer is whole."""
        if self.release == "window" and not self.stopped_by and self._left < len(self._text):
            yield from self._up_to(len(self._text))

    def _sentences(self) -> Iterator[str]:
        for end in _SENTENCE_END.finditer(self._text, self._left):
            if end.end() == len(self._text) or self.stopped_by:
                return  # what follows may belong to the mark
            yield from self._up_to(end.end())

    def _up_to(self, end: int) -> Iterator[str]:
        self.stopped_by = by_code(self._text[:end], self._rules)
        if not self.stopped_by:
            yield from self._let_go(end)

    def _let_go(self, end: int) -> Iterator[str]:
        if end > self._left:
            piece = self._text[self._left : end]
            self._left = end
            yield piece
