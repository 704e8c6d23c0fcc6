"""A chat model of 27 tokens that tells its next token: a fake for what steers at the logits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from comity.models.logits import NextTokens, TokenSession, ranked
from comity.models.strands import StrandSession
from comity.models.writing import the_first, written
from comity.records import Message, Reply, Request, Usage

LETTERS = "abcdefghijklmnopqrstuvwxyz"
END = len(LETTERS)


class LetterModel:
    """Writes small letters, each by chance that hangs on all that was read: without sense, but
    the same each time. `listed` is how many candidates it gives; `read` counts its steps."""

    name = "letters"
    context = 4096
    ends = frozenset({END})

    def __init__(self, *, listed: int = END + 1) -> None:
        self.read = 0
        self._listed = listed

    def ids(self, text: str) -> list[int]:
        """Every character is a token."""
        return [ord(letter) - ord("a") if letter in LETTERS else ord(letter) for letter in text]

    def text(self, ids: Sequence[int]) -> str:
        """Letters alone."""
        return "".join(LETTERS[token] for token in ids if token < END)

    def forward(self, ids: Sequence[int], cache: Any) -> tuple[NextTokens, Any]:
        """The cache is what was read."""
        self.read += 1
        seen = [*(cache or ()), *ids]
        scores = np.random.default_rng(seen).normal(scale=2, size=END + 1)
        scores[END] -= 3
        candidates = ranked(np.arange(END + 1), scores)
        n = self._listed
        return NextTokens(candidates.ids[:n], candidates.logprobs[:n]), seen

    def open_session(self, prompts: Sequence[tuple[Message, ...]]) -> TokenSession:
        """A prompt is its turns, one after another."""
        return self._session(prompts)

    def count_tokens(self, text: str) -> int:
        """Its characters."""
        return len(text)

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Choices are scored, all else is written."""
        if request.choices:
            session = self._session([request.messages])
            scores, count = session.scores(request.choices)
            best = max(scores, key=scores.__getitem__)
            usage = Usage(prompt_tokens=session.prompt_tokens[0], completion_tokens=count)
            yield best
            yield Reply(text=best, model=self.name, usage=usage, choice_logprobs=scores)
            return
        opened = lambda: self.open_session([request.messages])  # noqa: E731
        async for item in written(opened, the_first, request, self.name):
            yield item

    def _session(self, prompts: Sequence[tuple[Message, ...]]) -> StrandSession:
        return StrandSession(self, [self.ids(_prompt(messages)) for messages in prompts])


def _prompt(messages: Sequence[Message]) -> str:
    return "".join(f"<{message.role}>{message.content}" for message in messages)
