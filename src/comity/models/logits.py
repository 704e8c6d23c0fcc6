"""The protocol of models that tell their next token, and the arithmetic of what they tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from comity.models.chat import ChatModel
from comity.records import Message


@dataclass(frozen=True)
class NextTokens:
    """What may come next: candidates, most likely first.

    `ids` are int64 of shape (n,), each one once; `logprobs` float64 of shape (n,), natural
    log-probabilities at temperature 1, before any sampler. n is the whole vocabulary where
    that is at hand, else the likeliest ones, of which a model gives at least a hundred: an id
    that is not listed is no likelier than the last one listed.
    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]

    def of(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log-probabilities of `ids`, shape of `ids`; one not listed counts as the last one."""
        table = np.full(max(self.ids.max(), ids.max()) + 1, self.logprobs[-1])
        table[self.ids] = self.logprobs
        return table[ids]


def ranked(ids: NDArray[np.int64], scores: NDArray[np.float64]) -> NextTokens:
    """Candidates from their unscaled log-likelihoods: scaled to sum to one, and put in order.

    Of two that are equally likely, the one given first comes first.
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order] - scores.max()
    return NextTokens(ids[order], scores - np.log(np.exp(scores).sum()))


class TokenSession(Protocol):
    """Several prompts that are continued by the same tokens.

    Used by one thread at a time, with blocking calls; `close` alone may be called from another
    thread while `next` works. Calls after `close` raise `ModelError`, and so does a `next`
    that `close` cut short. `next` raises `ModelTimeout` when the model falls silent.
    """

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """Tokens of each prompt, with all that the chat template adds."""

    @property
    def room(self) -> int:
        """Tokens that may still be pushed before the longest prompt fills the context."""

    @property
    def text(self) -> str:
        """What has been pushed, decoded without marks of the template. A character whose last
        bytes have not come yet is left out, so that the text only ever grows."""

    def next(self) -> Sequence[NextTokens]:
        """The candidates after each prompt and what was pushed, in the order of the prompts.

        The first call reads the prompts; it stops between pieces of them when `close` is
        called. Asked twice without a `push`, the answer is the same.
        """

    def push(self, token_id: int) -> None:
        """Append the token to every prompt. It may be any id that `next` gave, no end."""

    def is_end(self, token_id: int) -> bool:
        """Whether this token ends the answer."""

    def close(self) -> None:
        """Free what the session holds, and stop a `next` under way. Never raises; may be
        called twice."""


@runtime_checkable
class LogitModel(ChatModel, Protocol):
    """A chat model that tells its next token, so that several prompts can be weighed."""

    def open_session(self, prompts: Sequence[tuple[Message, ...]]) -> TokenSession:
        """A session over these conversations, each through the model's chat template, ready
        for the assistant's turn.

        May block while the model is loaded. Several sessions may be open at once; one that
        finds no free place waits in its first `next`. Raises `ModelError` for a prompt that
        does not fit into the context or that the template refuses.
        """
