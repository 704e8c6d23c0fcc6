"""Writing an answer token by token, from what a session says may come next."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

import numpy as np

from comity.models.logits import NextTokens, TokenSession
from comity.models.openai import Gathered
from comity.models.threads import Stop, from_thread
from comity.records import Reply, Request

Weigh = Callable[[Sequence[NextTokens]], NextTokens]
"""Makes one list of candidates of those after several prompts, most likely first."""

_Chunk = Mapping[str, Any]


def the_first(candidates: Sequence[NextTokens]) -> NextTokens:
    """For a session of one prompt: its candidates as they are."""
    return candidates[0]


async def written(
    open_session: Callable[[], TokenSession], weigh: Weigh, request: Request, name: str
) -> AsyncGenerator[str | Reply, None]:
    """Write an answer to `request` and give it piece by piece, then the `Reply`.

    The work is done in a thread, which opens the session and closes it. Greedy at temperature
    0; above, the token is drawn from all that `weigh` gives, by `request.seed`. Tokens of all
    prompts count as read; those of the answer, its end among them, are counted once, however
    many prompts they were weighed by. Raises `ModelNonsense` for an empty answer, and what the
    session raises; a reader that leaves stops the work before the next token.
    """

    def work(hand: Callable[[_Chunk], None], stop: Stop) -> None:
        with closing(open_session()) as session:
            stop.then(session.close)
            _write(session, weigh, request, hand, stop)

    gathered = Gathered()
    async with aclosing(from_thread(work, name)) as chunks:
        async for chunk in chunks:
            if piece := gathered.add(chunk):
                yield piece
    yield gathered.reply(request, name, name)


def _write(
    session: TokenSession,
    weigh: Weigh,
    request: Request,
    hand: Callable[[_Chunk], None],
    stop: Stop,
) -> None:
    random = np.random.default_rng(request.seed)
    said, count, reason = "", 0, "length"
    while count < request.max_tokens and session.room > 0 and not stop.is_set():
        token = drawn(weigh(session.next()), request.temperature, random)
        count += 1
        if session.is_end(token):
            reason = "stop"
            break
        session.push(token)
        if piece := session.text[len(said) :]:
            said += piece
            hand(_chunk(piece))
    usage = {"prompt_tokens": sum(session.prompt_tokens), "completion_tokens": count}
    hand(_chunk("", reason) | {"usage": usage})


def _chunk(piece: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": piece}, "finish_reason": reason}]}


def drawn(candidates: NextTokens, temperature: float, random: np.random.Generator) -> int:
    """One of the candidates: the first at temperature 0, else drawn by their likelihood."""
    if temperature == 0:
        return int(candidates.ids[0])
    with np.errstate(over="ignore"):  # a temperature near 0 leaves the first alone
        powers = (candidates.logprobs - candidates.logprobs[0]) / temperature
    reach = np.cumsum(np.exp(powers))
    at = int(np.searchsorted(reach, random.random() * reach[-1], side="right"))
    return int(candidates.ids[at])
