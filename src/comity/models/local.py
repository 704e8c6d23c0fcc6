"""Chat models on this machine: a GGUF file run by llama.cpp inside this process."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from comity.errors import ModelNonsense, ModelTimeout
from comity.models.chat import LOCAL_TIMEOUT
from comity.models.local_logits import LocalSession
from comity.models.local_server import LocalServer
from comity.models.openai import Gathered, request_body
from comity.models.threads import Stop, from_thread
from comity.records import Message, Reply, Request, Usage

Chunk = Mapping[str, Any]
Hand = Callable[[Chunk], bool]
"""Takes one chunk of an answer; returns True when nobody wants another."""

# Tokens looked at for an answer of one token; letters are among the first dozen.
_LIKELIEST = 50


class LocalModel:
    """The GGUF file at `path`; needs the extra `local`. A `LogitModel`.

    `adapter` is a LoRA adapter in GGUF form, as `export_adapter` writes one of a trained
    adapter; the file at `path` stays as it is. They are loaded at first use (some seconds), or
    by `load`. `context` is the tokens that prompt and answer may have together, `parallel` how
    many requests are worked on at once; further ones wait. `threads` is the processor threads,
    by default all cores; where other programs keep the cores busy, one thread less than there
    are cores is often faster.
    `timeout` is the longest silence in seconds; a prompt being read is none.

    A prompt's beginning that was read before is not read again. That moves log-probabilities
    by some hundredths, so that a nearly tied answer can come out differently the second time;
    with `repeatable`, every prompt is read from its start and one request is worked on at a
    time, and the same request gives the same answer, to the last bit, at temperature 0 or
    with a seed.

    With `choices`, each is scored by the log-probability of its whole text as the answer, and
    the likeliest is the reply, whatever the temperature. Raises `ModelMissing` if a file is not
    there.
    """

    def __init__(
        self,
        path: Path,
        *,
        adapter: Path | None = None,
        name: str = "",
        context: int = 8192,
        parallel: int = 2,
        threads: int | None = None,
        timeout: float = LOCAL_TIMEOUT,
        repeatable: bool = False,
    ) -> None:
        self.name = (name or f"local:{path.stem}") + (f"+{adapter.stem}" if adapter else "")
        self._repeatable = repeatable
        self._server = LocalServer(
            path,
            adapter=adapter,
            name=self.name,
            context=context,
            parallel=1 if repeatable else parallel,
            threads=threads or os.cpu_count() or 1,
            timeout=timeout,
        )
        self._counted = lru_cache(maxsize=4096)(self._count)

    def load(self) -> None:
        """Load the file now rather than at first use. Blocks for some seconds."""
        self._server.loaded()

    def close(self) -> None:
        """Let go of the model's memory; the next use loads it again."""
        self._server.close()

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by the model's own tokenizer; loads the model at first use."""
        return self._counted(text) if text else 0

    def open_session(self, prompts: Sequence[tuple[Message, ...]]) -> LocalSession:
        """The next tokens after several prompts; see `LogitModel.open_session`.

        A session has the model for itself from its first `next` to `close`; other answers
        wait. One with more prompts than `parallel` loads the model anew with as many places.
        """
        return LocalSession(self._server, prompts, reread=self._repeatable)

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Give the answer piece by piece, then the `Reply`; see `ChatModel.stream`."""
        if request.choices:
            reply = await self._choose(request)
            yield reply.text
            yield reply
            return
        gathered, body = Gathered(), self._body(request)
        chunks = self._chunks(lambda server, hand: _run(server, body, hand))
        async with aclosing(chunks):
            async for chunk in chunks:
                if piece := gathered.add(chunk):
                    yield piece
        yield gathered.reply(request, self.name, self.name)

    async def _choose(self, request: Request) -> Reply:
        body, scores, usage = self._body(request), {}, Usage()
        chunks = self._chunks(lambda server, hand: _score(server, body, request.choices, hand))
        async for chunk in chunks:
            if "scores" in chunk:
                scores, usage = chunk["scores"], Usage(**chunk["tokens"])
        if len(scores) != len(request.choices):
            raise ModelNonsense(f"{self.name} did not score all of {', '.join(request.choices)}")
        best = max(scores, key=scores.__getitem__)
        return Reply(text=best, model=self.name, usage=usage, choice_logprobs=scores)

    def _body(self, request: Request) -> dict[str, Any]:
        # Progress is asked for so that an abandoned prompt is noticed while it is read.
        return request_body(request) | {
            "cache_prompt": not self._repeatable,
            "return_progress": True,
        }

    async def _chunks(self, work: Callable[[Any, Hand], None]) -> AsyncGenerator[Chunk, None]:
        """The chunks that `work` hands over, from a thread that stops when nobody listens."""
        handed: AsyncGenerator[Chunk, None] = from_thread(partial(self._work, work), self.name)
        async with aclosing(handed):
            while (chunk := await self._next(handed)) is not None:
                yield self._checked(chunk)

    def _work(
        self, work: Callable[[Any, Hand], None], put: Callable[[Chunk], None], stop: Stop
    ) -> None:
        def hand(chunk: Chunk) -> bool:
            put(chunk)
            return stop.is_set()

        if not self._server.take_turn(stop):
            return
        try:
            if not stop.is_set():
                work(self._server.loaded(), hand)
        finally:
            self._server.give_turn()

    async def _next(self, handed: AsyncGenerator[Chunk, None]) -> Chunk | None:
        try:
            async with asyncio.timeout(self._server.timeout):
                return await anext(handed, None)
        except TimeoutError as error:
            raise ModelTimeout(
                f"{self.name} was silent for {self._server.timeout:g} s; raise the timeout, "
                "shorten the prompt, or take a smaller model"
            ) from error

    def _checked(self, chunk: Chunk) -> Chunk:
        error = chunk.get("error")
        if error is None:
            return chunk
        raise self._server.refusal(error)

    def _count(self, text: str) -> int:
        return len(self._server.tokens(text))


def _run(server: Any, body: dict[str, Any], hand: Hand) -> None:
    server.handle_chat_completions(body, hand)


def _score(server: Any, body: dict[str, Any], choices: Iterable[str], hand: Hand) -> None:
    """Hand over the log-probability of every choice as the whole answer to `body`.

    The prompt is read once. Where each choice is one token among the likeliest, as letters are,
    that tells all. Else each choice is forced upon the model by a grammar, and the
    log-probabilities that its tokens had before forcing are added up. The end of the answer
    counts only where one choice begins another.
    """
    choices = list(choices)
    prompt = _read_prompt(server, body, hand)
    if prompt is None:
        return
    closed = any(a != b and b.startswith(a) for a in choices for b in choices)
    if not closed and (likely := _whole_tokens(prompt, choices)):
        usage = prompt.get("usage") or {}
        counts = {name: usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}
        hand({"scores": likely, "tokens": counts})
        return
    scores: dict[str, float] = {}
    tokens = {"prompt_tokens": 0, "completion_tokens": 0}
    for choice in choices:
        answer = server.handle_chat_completions(_forced(body, choice))
        if hand({k: v for k, v in answer.items() if k == "error"}) or "error" in answer:
            return
        scores[choice] = sum(_token_logprobs(answer, closed=closed))
        tokens["prompt_tokens"] = answer["usage"]["prompt_tokens"]
        tokens["completion_tokens"] += answer["usage"]["completion_tokens"]
    hand({"scores": scores, "tokens": tokens})


def _read_prompt(server: Any, body: dict[str, Any], hand: Hand) -> Chunk | None:
    """Read the prompt into the cache, and give what the model would begin with: the usage and
    the likeliest tokens. None if nobody wants the answer, or there is an error."""
    gathered: dict[str, Any] = {}
    unwanted = True

    def look(chunk: Chunk) -> bool:
        nonlocal unwanted
        for name in ("error", "usage"):
            if chunk.get(name):
                gathered[name] = chunk[name]
        for choice in chunk.get("choices") or ():
            if choice.get("logprobs"):
                gathered.setdefault("logprobs", choice["logprobs"])
        unwanted = hand({k: v for k, v in chunk.items() if k == "error"})
        return unwanted

    asked = {"max_tokens": 1, "logprobs": True, "top_logprobs": _LIKELIEST}
    server.handle_chat_completions(body | asked, look)
    return None if unwanted or "error" in gathered else gathered


def _whole_tokens(prompt: Chunk, choices: Iterable[str]) -> dict[str, float]:
    """Log-probabilities of the choices, if each is a token among the likeliest; else nothing."""
    content = (prompt.get("logprobs") or {}).get("content") or ()
    if not content:
        return {}
    top = {token["token"]: token["logprob"] for token in content[0]["top_logprobs"]}
    return {choice: top[choice] for choice in choices} if top.keys() >= set(choices) else {}


def _forced(body: dict[str, Any], choice: str) -> dict[str, Any]:
    return body | {
        "stream": False,
        "grammar": f"root ::= {json.dumps(choice, ensure_ascii=False)}",
        "logprobs": True,
        "top_logprobs": 1,
        "cache_prompt": True,
        "temperature": 0,
        "max_tokens": len(choice.encode()) + 1,  # no token is shorter than a byte; one ends it
    }


def _token_logprobs(answer: Chunk, *, closed: bool) -> Iterable[float]:
    for token in answer["choices"][0]["logprobs"]["content"]:
        if token["bytes"] or closed:  # the end of the answer has no bytes
            yield token["logprob"]
