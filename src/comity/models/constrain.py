"""Answers held to a JSON schema: only tokens that the schema allows are candidates.

The schema becomes a grammar, walked token by token by llguidance (extra `train`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from comity.errors import MissingExtra, ModelError
from comity.models.logits import NextTokens, TokenSession, ranked


def constrainer(tokenizer: Any, vocabulary: int, end: int) -> Any:
    """What `JsonSession` needs to know of a fast tokenizer; takes about a second to make.

    `vocabulary` is the number of ids that the model scores, `end` the one that ends an answer.
    """
    try:
        from llguidance.hf import from_tokenizer
    except ImportError as error:
        raise MissingExtra("an answer held to a JSON schema", "train") from error
    try:
        return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=end)
    except ValueError as error:
        raise ModelError(f"this tokenizer cannot be held to a JSON schema: {error}") from error


class JsonSession:
    """A session over the whole vocabulary whose candidates are those that a schema allows.

    The text is JSON without blanks between its parts. Raises `ModelError` for a schema that
    cannot be kept.
    """

    def __init__(
        self, session: TokenSession, tokenizer: Any, schema: dict[str, Any], end: int
    ) -> None:
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides={"whitespace_flexible": False}
        )
        self._session, self._end = session, end
        self._matcher = LLMatcher(tokenizer, grammar)
        self._check()

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """See `TokenSession`."""
        return self._session.prompt_tokens

    @property
    def room(self) -> int:
        """See `TokenSession`."""
        return self._session.room

    @property
    def text(self) -> str:
        """See `TokenSession`."""
        return self._session.text

    def next(self) -> Sequence[NextTokens]:
        """The allowed candidates; the end alone when the JSON is whole."""
        if self._matcher.is_stopped():
            return [NextTokens(np.array([self._end]), np.zeros(1)) for _ in self.prompt_tokens]
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little"))
        return [ranked(allowed, one.of(allowed)) for one in self._session.next()]

    def push(self, token_id: int) -> None:
        """See `TokenSession`."""
        self._matcher.consume_token(token_id)
        self._check()
        self._session.push(token_id)

    def is_end(self, token_id: int) -> bool:
        """See `TokenSession`."""
        return self._session.is_end(token_id)

    def close(self) -> None:
        """See `TokenSession`."""
        self._session.close()

    def _check(self) -> None:
        if problem := self._matcher.get_error():
            raise ModelError(f"the JSON schema cannot be kept: {problem}")
