"""Chat models on this machine: a GGUF file run by llama.cpp inside this process."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from comity.errors import MissingExtra, ModelError, ModelMissing, ModelNonsense, ModelTimeout
from comity.models.chat import LOCAL_TIMEOUT
from comity.models.openai import Gathered, request_body
from comity.records import Reply, Request, Usage

Chunk = Mapping[str, Any]
Hand = Callable[[Chunk], bool]
"""Takes one chunk of an answer; returns True when nobody wants another."""

# Tokens of a prompt that are read between two looks at whether the answer is still wanted:
# some five seconds on two cores.
_BATCH = 256
# Tokens looked at for an answer of one token; letters are among the first dozen.
_LIKELIEST = 50
# Prompts of earlier conversations that are kept in memory, in MiB.
_KEPT_PROMPTS = 512


class LocalModel:
    """The GGUF file at `path`; needs the extra `local`.

    The file is loaded at first use (some seconds), or by `load`. `context` is the tokens that
    prompt and answer may have together, `parallel` how many requests are worked on at once;
    further ones wait. `threads` is the processor threads, by default all cores; where other
    programs keep the cores busy, one thread less than there are cores is often faster.
    `timeout` is the longest silence in seconds; a prompt being read is none.

    A prompt's beginning that was read before is not read again. That moves log-probabilities
    by some hundredths, so that a nearly tied answer can come out differently the second time;
    with `repeatable`, every prompt is read from its start and one request is worked on at a
    time, and the same request gives the same answer, to the last bit, at temperature 0 or
    with a seed.

    With `choices`, each is scored by the log-probability of its whole text as the answer, and
    the likeliest is the reply, whatever the temperature. Raises `ModelMissing` if there is no
    such file.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str = "",
        context: int = 8192,
        parallel: int = 2,
        threads: int | None = None,
        timeout: float = LOCAL_TIMEOUT,
        repeatable: bool = False,
    ) -> None:
        if not path.is_file():
            raise ModelMissing(f"no model file {path}; run: comity models pull")
        self.name = name or f"local:{path.stem}"
        self._path, self._context, self._timeout = path, context, timeout
        self._parallel = 1 if repeatable else parallel
        self._threads = threads or os.cpu_count() or 1
        self._repeatable = repeatable
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(self._parallel)
        self._server: Any = None
        self._key = secrets.token_hex(16)
        self._tokens = lru_cache(maxsize=4096)(self._ask_tokens)

    def load(self) -> None:
        """Load the file now rather than at first use. Blocks for some seconds."""
        self._loaded()

    def close(self) -> None:
        """Let go of the model's memory; the next use loads it again."""
        with self._lock:
            self._server = None

    def count_tokens(self, text: str) -> int:
        """Tokens of `text` by the model's own tokenizer; loads the model at first use."""
        return self._tokens(text) if text else 0

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Give the answer piece by piece, then the `Reply`; see `ChatModel.stream`."""
        if request.choices:
            reply = await self._choose(request)
            yield reply.text
            yield reply
            return
        gathered, body = Gathered(), self._body(request)
        async for chunk in self._chunks(lambda server, hand: _run(server, body, hand)):
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

    async def _chunks(self, work: Callable[[Any, Hand], None]) -> AsyncIterator[Chunk]:
        """The chunks that `work` hands over, from a thread that stops when nobody listens."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
        stopped = threading.Event()

        def put(item: Chunk | BaseException | None) -> bool:
            # The loop may be closed between the look and the call.
            with suppress(RuntimeError):
                if not stopped.is_set():
                    loop.call_soon_threadsafe(queue.put_nowait, item)
            return stopped.is_set()

        thread = threading.Thread(target=self._work, args=(work, put, stopped), name=self.name)
        thread.start()
        try:
            while (item := await self._next(queue)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield self._checked(item)
        finally:
            stopped.set()

    def _work(
        self,
        work: Callable[[Any, Hand], None],
        put: Callable[[Chunk | BaseException | None], bool],
        stopped: threading.Event,
    ) -> None:
        while not self._turns.acquire(timeout=0.2):
            if stopped.is_set():
                return
        try:
            if not stopped.is_set():
                work(self._loaded(), put)
            put(None)
        except BaseException as error:  # it belongs to whoever waits for the answer
            put(error)
        finally:
            self._turns.release()

    async def _next(
        self, queue: asyncio.Queue[Chunk | BaseException | None]
    ) -> Chunk | BaseException | None:
        try:
            async with asyncio.timeout(self._timeout):
                return await queue.get()
        except TimeoutError as error:
            raise ModelTimeout(
                f"{self.name} was silent for {self._timeout:g} s; raise the timeout, "
                "shorten the prompt, or take a smaller model"
            ) from error

    def _checked(self, chunk: Chunk) -> Chunk:
        error = chunk.get("error")
        if error is None:
            return chunk
        said = error.get("message", error) if isinstance(error, Mapping) else error
        raise ModelError(f"{self.name} (context of {self._context} tokens): {said}")

    def _loaded(self) -> Any:
        with self._lock:
            if self._server is None:
                self._server = self._start()
            return self._server

    def _start(self) -> Any:
        try:
            import xllamacpp
        except ImportError as error:
            raise MissingExtra("a model on this machine", "local") from error
        if not self._path.is_file():
            raise ModelMissing(f"no model file {self._path}; run: comity models pull")
        try:
            return xllamacpp.Server(self._parameters(xllamacpp.CommonParams()))
        except RuntimeError as error:
            raise ModelError(
                f"{self._path} cannot be loaded: it is no GGUF file, is damaged, or needs more "
                "memory than is free; run: comity models pull"
            ) from error

    def _parameters(self, params: Any) -> Any:
        params.model.path = str(self._path)
        params.verbosity = -1  # not a line of llama.cpp's log on the user's terminal
        params.n_ctx = self._context * self._parallel
        params.n_parallel = self._parallel
        params.n_batch = params.n_ubatch = _BATCH
        params.cache_ram_mib = _KEPT_PROMPTS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        # llama.cpp listens on a port of the loopback interface: shut to all without the key.
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = False
        return params

    def _ask_tokens(self, text: str) -> int:
        import httpx

        address = self._loaded().listening_address
        with httpx.Client(trust_env=False, timeout=self._timeout) as client:
            answer = client.post(
                f"{address}/tokenize",
                json={"content": text},
                headers={"Authorization": f"Bearer {self._key}"},
            )
        answer.raise_for_status()
        return len(answer.json()["tokens"])


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
