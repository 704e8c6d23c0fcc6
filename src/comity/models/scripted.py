"""A chat model that answers by a script: the fake for tests and examples."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from comity.errors import ModelError, ModelNonsense
from comity.models.chat import estimate_tokens
from comity.records import Reply, Request, Usage

Script = Sequence[str] | Mapping[str, str] | Callable[[Request], str]
"""Answers in order (the last one is repeated); answers by a substring of the conversation (first
match wins, `""` matches everything); or a function of the request."""


class ScriptedModel:
    """Answers by `script`, keeps every request in `requests`, and streams in small pieces.

    `delay` is the pause in seconds before each piece, `piece` their length in characters.
    `error` is raised instead of answering; `cut_after` pieces, the stream fails as a lost
    connection would. A request with `choices` must be scripted to one of them; its
    log-probabilities are `confidence` for the pick and equal shares of the rest. A request
    that the script does not answer raises `ModelNonsense`.
    """

    def __init__(
        self,
        script: Script,
        *,
        name: str = "scripted",
        piece: int = 8,
        delay: float = 0.0,
        error: Exception | None = None,
        cut_after: int | None = None,
        confidence: float = 0.9,
    ) -> None:
        if piece < 1:
            raise ValueError(f"piece is {piece}, must be at least 1")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence is {confidence}, must lie between 0 and 1")
        self.name = name
        self.requests: list[Request] = []
        self._answer = _as_function((script,) if isinstance(script, str) else script)
        self._piece, self._delay = piece, delay
        self._error, self._cut_after, self._confidence = error, cut_after, confidence

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Give the scripted answer piece by piece, then the `Reply`."""
        self.requests.append(request)
        if self._error is not None:
            raise self._error
        text = self._answer(request)
        pieces = [text[at : at + self._piece] for at in range(0, len(text), self._piece)]
        for piece in pieces[: self._cut_after]:
            await asyncio.sleep(self._delay)
            yield piece
        if self._cut_after is not None:
            raise ModelError(f"{self.name}: the answer was cut before its end; ask again")
        yield self._reply(request, text)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, estimated."""
        return estimate_tokens(text)

    def _reply(self, request: Request, text: str) -> Reply:
        read = sum(estimate_tokens(message.content) for message in request.messages)
        return Reply(
            text=text,
            model=self.name,
            usage=Usage(prompt_tokens=read, completion_tokens=estimate_tokens(text)),
            choice_logprobs=self._logprobs(request.choices, text) if request.choices else None,
        )

    def _logprobs(self, choices: Sequence[str], pick: str) -> dict[str, float]:
        if pick not in choices:
            raise ModelNonsense(f"{self.name} is scripted to {pick!r}, which is none of {choices}")
        if len(choices) == 1:
            return {pick: 0.0}
        rest = math.log((1 - self._confidence) / (len(choices) - 1))
        return {c: math.log(self._confidence) if c == pick else rest for c in choices}


def _as_function(script: Script) -> Callable[[Request], str]:
    if callable(script):
        return script
    if isinstance(script, Mapping):
        return lambda request: _by_substring(script, request)
    if not script:
        raise ValueError("the script is empty: give at least one answer")
    lock, left = threading.Lock(), list(script)

    def take(_: Request) -> str:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return take


def _by_substring(answers: Mapping[str, str], request: Request) -> str:
    said = "\n".join(message.content for message in request.messages)
    for part, answer in answers.items():
        if part in said:
            return answer
    raise ModelNonsense(
        f"no scripted answer matches {request.messages[-1].content[:80]!r}; "
        "add a substring of it, or '' as the last entry"
    )
