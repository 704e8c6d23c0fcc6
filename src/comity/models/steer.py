"""Steering at the logits: the next token is chosen by several prompts of one model.

For each prompt i the model gives log-probabilities l_i of the next token. They are added up
with weights w_i that sum to one:

    score = w_1 l_1 + w_2 l_2 + …

`steered` contrasts a request with its copy without the preference, with the weights strength
and 1 - strength: without + strength * (with - without), the direction of Linear Alignment
(arXiv 2401.11458), in one step. `mixed` weighs several preferences by positive weights, MOD's
mean of log-probabilities (arXiv 2406.18853) with one model under several prompts instead of
several models.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from comity.errors import ModelError, ModelNonsense, SettingsError
from comity.models.chat import ChatModel, complete
from comity.models.logits import LogitModel, NextTokens, TokenSession, ranked
from comity.models.writing import written
from comity.records import Message, Reply, Request, Usage

__all__ = [
    "LogitModel",
    "NextTokens",
    "Part",
    "Prompt",
    "Steered",
    "TokenSession",
    "as_it_is",
    "mixed",
    "steered",
    "weighted",
    "with_system",
    "without_after",
    "without_system",
]

Prompt = Callable[[Request], Request]
"""Makes a prompt of a request: the same request with other messages."""

# A candidate is plausible where its prompt gives it at least this share of the likeliest one's
# probability: the cut of contrastive decoding (arXiv 2210.15097).
PLAUSIBLE = 0.1
# Log-probabilities below this count as this, so that what a prompt rules out does not come
# out infinitely likely where that prompt is weighed against.
_LEAST = -100.0
# What is left of weights that add up to nothing.
_NOTHING = 1e-9

_Asked = Sequence[tuple[Request, float]]
"""Different prompts, and what each weighs."""


@dataclass(frozen=True)
class Part:
    """One of the prompts that choose the next token, and what it weighs."""

    weight: float
    prompt: Prompt


def as_it_is(request: Request) -> Request:
    """The request, with all its messages."""
    return request


def without_system(request: Request) -> Request:
    """The request without its system messages: without rules, provider and preferences."""
    return _with_messages(request, [turn for turn in request.messages if turn.role != "system"])


def without_after(*headings: str) -> Prompt:
    """Cuts system messages before their first paragraph that begins with one of `headings`.

    So a request loses what stands under them: the user's part of a meta-prompt, which comes
    last, while the rules and the provider's part stay.
    """
    if not all(heading.strip() for heading in headings) or not headings:
        raise SettingsError("without_after needs the beginnings of paragraphs, none of them empty")

    def cut(request: Request) -> Request:
        turns = (_cut(turn, headings) for turn in request.messages)
        return _with_messages(request, [turn for turn in turns if turn.content])

    return cut


def with_system(text: str) -> Prompt:
    """Adds `text` as the last paragraph of the system message, which is made if need be."""

    def add(request: Request) -> Request:
        first = request.messages[0]
        if first.role != "system":
            return _with_messages(request, [_system(text), *request.messages])
        return _with_messages(
            request, [_system(f"{first.content}\n\n{text}"), *request.messages[1:]]
        )

    return add


def steered(
    model: ChatModel,
    *,
    strength: float,
    without: Prompt = without_system,
    plausible: float = PLAUSIBLE,
) -> Steered:
    """`model`, with what `without` takes away from a request made stronger or weaker.

    Strength 0 is exactly the model without it, 1 exactly the model as it is, above 1 stronger.
    Raises `SettingsError` for a model that does not tell its next token, and for a strength
    below 0.
    """
    if not (math.isfinite(strength) and strength >= 0):
        raise SettingsError(f"the strength is {strength:g}, must be 0 or more; 1 changes nothing")
    parts = (Part(strength, as_it_is), Part(1 - strength, without))
    return Steered(
        logits_of(model), parts, name=f"{model.name}+contrast {strength:g}", plausible=plausible
    )


def mixed(model: ChatModel, parts: Sequence[Part], *, plausible: float = PLAUSIBLE) -> Steered:
    """`model` under several prompts at once, each with a positive weight; they sum to 1.

    A single prompt of weight 1 is exactly the model under that prompt. Raises `SettingsError`
    for a model that does not tell its next token, and for other weights.
    """
    if not all(part.weight > 0 for part in parts):
        raise SettingsError("the weights of a mix must be above 0; leave out what weighs nothing")
    shares = "/".join(f"{part.weight:g}" for part in parts)
    return Steered(logits_of(model), parts, name=f"{model.name}+mix {shares}", plausible=plausible)


def logits_of(model: ChatModel) -> LogitModel:
    """`model`, if it tells its next token; else `SettingsError`."""
    if isinstance(model, LogitModel):
        return model
    raise SettingsError(
        f"{model.name} does not tell its next token, so it cannot be steered at the logits: take "
        "a model on this machine (local, local:NAME or hf:FOLDER), or the meta-prompt alone"
    )


class Steered:
    """A chat model whose next token is chosen by several prompts of `model`.

    Prompts that are equal for a request are put together, and those that weigh nothing are not
    read; where one is left, `model` itself answers it. Else the candidates are the tokens
    that are plausible under some prompt of positive weight: at least `plausible` times as
    likely there as the likeliest one. Of these, greedy takes the highest score, and sampling
    draws by their scores.

    With `choices`, the weights apply to the log-probabilities of whole choices, scaled to sum
    to one. `json_schema` is refused unless one prompt is left. Every prompt is read and
    continued, so that an answer costs as much as its prompts together.
    """

    def __init__(
        self,
        model: LogitModel,
        parts: Sequence[Part],
        *,
        name: str,
        plausible: float = PLAUSIBLE,
    ) -> None:
        total = math.fsum(part.weight for part in parts)
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise SettingsError(f"the weights of the prompts sum to {total:g}, must sum to 1")
        if not 0 < plausible <= 1:
            raise SettingsError(f"plausible is {plausible:g}, must be above 0 and at most 1")
        self.name = name
        self._model, self._parts, self._plausible = model, tuple(parts), plausible

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, as the model counts them."""
        return self._model.count_tokens(text)

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Give the answer piece by piece, then the `Reply`; see `ChatModel.stream`."""
        asked = _put_together((part.prompt(request), part.weight) for part in self._parts)
        answer = cast("AsyncGenerator[str | Reply]", self._answer(request, asked))
        async with aclosing(answer) as items:
            async for item in items:
                yield item if isinstance(item, str) else _renamed(item, self.name)

    def _answer(self, request: Request, asked: _Asked) -> AsyncIterator[str | Reply]:
        if len(asked) == 1:
            return self._model.stream(asked[0][0])
        if request.json_schema is not None:
            raise ModelError(
                f"{self.name} cannot keep to a JSON schema; ask {self._model.name} without steering"
            )
        if request.choices:
            return self._choose(request, asked)
        weights = [weight for _, weight in asked]
        return written(
            partial(self._model.open_session, [prompt.messages for prompt, _ in asked]),
            lambda candidates: weighted(candidates, weights, plausible=self._plausible),
            request,
            self.name,
        )

    async def _choose(self, request: Request, asked: _Asked) -> AsyncIterator[str | Reply]:
        replies = [await complete(self._model, prompt) for prompt, _ in asked]
        scores = np.zeros(len(request.choices))
        for reply, (_, weight) in zip(replies, asked, strict=True):
            scores += weight * _choice_scores(reply, request.choices)
        best, *others = _shares(request.choices, scores)
        usage = Usage(
            prompt_tokens=sum(reply.usage.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.usage.completion_tokens for reply in replies),
        )
        yield best[0]
        yield Reply(text=best[0], usage=usage, choice_logprobs=dict([best, *others]))


def weighted(
    candidates: Sequence[NextTokens], weights: Sequence[float], *, plausible: float = PLAUSIBLE
) -> NextTokens:
    """The weighted sum of log-probabilities, for the tokens that are plausible.

    `candidates` and `weights`, which sum to one, stand in the same order. What weighs nothing
    does not count; where one is left, the result is its candidates, unchanged. Else plausible
    are the tokens at least `plausible` times as likely as the likeliest one, by any of the
    candidates of positive weight.
    """
    parts = [part for part in zip(candidates, weights, strict=True) if part[1] != 0]
    if len(parts) == 1:
        return parts[0][0]
    ids = np.unique(np.concatenate([_likely(one, plausible) for one, w in parts if w > 0]))
    scores = np.zeros(len(ids))
    for one, weight in parts:
        scores += weight * np.maximum(one.of(ids), _LEAST)
    return ranked(ids, scores)


def _likely(candidates: NextTokens, plausible: float) -> NDArray[np.int64]:
    least = candidates.logprobs[0] + math.log(plausible)
    ids: NDArray[np.int64] = candidates.ids[candidates.logprobs >= least]
    return ids


def _put_together(asked: Iterable[tuple[Request, float]]) -> _Asked:
    """Each prompt once, with all that it weighs; none that weighs nothing."""
    together: list[tuple[Request, float]] = []
    for prompt, weight in asked:
        at = next((n for n, (known, _) in enumerate(together) if known == prompt), None)
        if at is None:
            together.append((prompt, weight))
        else:
            together[at] = (prompt, together[at][1] + weight)
    return [(prompt, weight) for prompt, weight in together if abs(weight) > _NOTHING]


def _choice_scores(reply: Reply, choices: Sequence[str]) -> NDArray[np.float64]:
    known = reply.choice_logprobs or {}
    if missing := [choice for choice in choices if choice not in known]:
        raise ModelNonsense(f"{reply.model} did not score all choices: {', '.join(missing)}")
    return np.array([max(known[choice], _LEAST) for choice in choices])


def _renamed(reply: Reply, name: str) -> Reply:
    return reply.model_copy(update={"model": name})


def _shares(choices: Sequence[str], scores: NDArray[np.float64]) -> list[tuple[str, float]]:
    """Choices with their scaled scores, best first."""
    order = ranked(np.arange(len(choices)), scores)
    return [
        (choices[at], float(score)) for at, score in zip(order.ids, order.logprobs, strict=True)
    ]


def _with_messages(request: Request, messages: Sequence[Message]) -> Request:
    if not messages:
        raise ModelError("nothing is left of the request without its system messages; add a turn")
    return request.model_copy(update={"messages": tuple(messages)})


def _cut(turn: Message, headings: tuple[str, ...]) -> Message:
    paragraphs = turn.content.split("\n\n")
    found = (at for at, text in enumerate(paragraphs) if text.startswith(headings))
    at = next(found, None) if turn.role == "system" else None
    return turn if at is None else _system("\n\n".join(paragraphs[:at]))


def _system(text: str) -> Message:
    return Message(role="system", content=text)
