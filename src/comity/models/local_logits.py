"""What a GGUF model would say next: several prompts, continued by the same tokens.

llama.cpp's server is asked for one token at a time. Each prompt has a place of its own there,
where all of it but the newest token is kept, so a step costs one token for every prompt. They
are asked one after the other: the figures are then those of plain generation to the last bit,
and two at once were no faster on two cores.
"""

from __future__ import annotations

import codecs
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from comity.errors import ModelError
from comity.models.local_server import LocalServer
from comity.models.logits import NextTokens
from comity.models.openai import request_body
from comity.records import Message, Request

# Candidates of a step: some 5 ms beside the 35 of a token, measured with 1.5 B parameters.
_CANDIDATES = 500
# llama.cpp's probabilities are float32: a logarithm below this comes from one that vanished.
_LEAST = -85.0
_CERTAIN = 1e6  # added to a logit, it makes the server choose the token


class LocalSession:
    """A `TokenSession` over a `LocalServer`, which it has for itself from `next` to `close`.

    `next` gives the 500 likeliest tokens. With `reread` nothing that the server kept of
    earlier prompts is used, so that the same session gives the same figures to the last bit.
    """

    def __init__(
        self, server: LocalServer, prompts: Sequence[tuple[Message, ...]], *, reread: bool
    ) -> None:
        self._server, self._reread = server, reread
        self._prompts = [_tokens(server, prompt) for prompt in prompts]
        self._room = _room(server, max(map(len, self._prompts)))
        self._letter = server.tokens("a")[-1]
        self._lengths = tuple(map(len, self._prompts))
        self._pushed = 0
        self._last: Sequence[NextTokens] | None = None
        self._text, self._decoder = "", codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._closed = threading.Event()
        self._busy, self._turns = threading.Lock(), threading.Lock()
        self._held = self._read = False

    @property
    def prompt_tokens(self) -> Sequence[int]:
        """Tokens of each prompt, with all that the chat template adds."""
        return self._lengths

    @property
    def room(self) -> int:
        """Tokens that may still be pushed before the longest prompt fills the context."""
        return self._room - self._pushed

    @property
    def text(self) -> str:
        """What has been pushed, decoded up to the last whole character."""
        return self._text

    def next(self) -> Sequence[NextTokens]:
        """The candidates after each prompt; see `TokenSession.next`."""
        with self._working():
            if self._last is None:
                asked = enumerate(self._prompts)
                self._last = [self._candidates(place, prompt) for place, prompt in asked]
                self._read = True
            return self._last

    def push(self, token_id: int) -> None:
        """Append a token that `next` gave to every prompt."""
        if self._closed.is_set():
            raise self._too_late()
        if token_id not in self._pieces:
            raise ModelError(f"{self._server.name}: {token_id} is no token that next() gave")
        for prompt in self._prompts:
            prompt.append(token_id)
        self._text += self._decoder.decode(self._pieces[token_id])
        self._pushed += 1
        self._last = None

    def is_end(self, token_id: int) -> bool:
        """Whether this token ends the answer. A token without text is tried out, once."""
        if self._pieces.get(token_id):
            return False
        if token_id not in self._ends:
            with self._working():
                tried = self._ask(0, self._prompts[0], chosen=token_id, candidates=0)
            self._ends[token_id] = tried["finish_reason"] == "stop"
        return self._ends[token_id]

    def close(self) -> None:
        """Give the server's turns back, and stop a `next` under way."""
        self._closed.set()
        if self._busy.acquire(blocking=False):
            self._busy.release()
            self._give_back()

    def _candidates(self, place: int, prompt: Sequence[int]) -> NextTokens:
        # The server tells candidates only beside a text, which half a character or an end is
        # not; what it chooses does not touch what it tells.
        choice = self._ask(place, prompt, chosen=self._letter, candidates=_CANDIDATES)
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        top = [token for token in top if token["logprob"] > _LEAST]
        self._pieces.update((token["id"], bytes(token["bytes"])) for token in top)
        return NextTokens(
            np.array([token["id"] for token in top], np.int64),
            np.array([token["logprob"] for token in top], np.float64),
        )

    def _ask(
        self, place: int, prompt: Sequence[int], *, chosen: int, candidates: int
    ) -> Mapping[str, Any]:
        """What the server says to `prompt`, read in `place`, when it has to answer `chosen`."""
        chunks: list[Mapping[str, Any]] = []

        def hand(chunk: Mapping[str, Any]) -> bool:
            chunks.append(chunk)
            return self._closed.is_set()

        body = {
            "prompt": prompt,
            "id_slot": place,
            "cache_prompt": self._read or not self._reread,
            "n_predict": 1,
            "n_probs": candidates,
            "logit_bias": [[chosen, _CERTAIN]],
            "temperature": 0,
            # In a stream, progress is told between the pieces of a long prompt.
            "stream": True,
            "return_progress": True,
        }
        self._server.loaded().handle_completions(body, hand)
        if self._closed.is_set():
            raise self._too_late()
        return self._joined(chunks)

    def _joined(self, chunks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        joined: dict[str, Any] = {}
        for chunk in chunks:
            if "error" in chunk:
                raise self._server.refusal(chunk["error"])
            for choice in chunk.get("choices") or ():
                joined |= {name: value for name, value in choice.items() if value}
        return joined

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            with self._busy:
                self._take()
                yield
        finally:
            # `close` found the session busy, and left it to give its turns back itself.
            if self._closed.is_set():
                self._give_back()

    def _take(self) -> None:
        if not self._closed.is_set() and not self._held:
            self._held = self._server.take_all(self._closed, len(self._prompts))
        if self._closed.is_set():
            raise self._too_late()

    def _give_back(self) -> None:
        with self._turns:
            held, self._held = self._held, False
        if held:
            self._server.give_all()

    def _too_late(self) -> ModelError:
        return ModelError(f"{self._server.name}: the session has been closed")


def _tokens(server: LocalServer, prompt: tuple[Message, ...]) -> list[int]:
    messages = request_body(Request(messages=prompt))["messages"]
    written = server.ask("/apply-template", {"messages": messages})["prompt"]
    return list(server.tokens(written, special=True))


def _room(server: LocalServer, longest: int) -> int:
    # The newest token has to fit as well, so the last place of the context stays free.
    room = server.place_tokens() - 1 - longest
    if room < 0:
        raise server.refusal(
            f"a prompt of {longest} tokens does not fit; shorten it, or give the model a larger "
            "context"
        )
    return room
