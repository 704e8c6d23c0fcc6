"""Chat models behind an OpenAI-compatible endpoint: vLLM, Ollama, llama.cpp, the vendors."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from comity.errors import (
    ModelError,
    ModelGarbled,
    ModelMissing,
    ModelNonsense,
    ModelTimeout,
    SettingsError,
)
from comity.models.chat import REMOTE_TIMEOUT, estimate_tokens
from comity.records import Reply, Request, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openai import AsyncOpenAI

OPENAI_URL = "https://api.openai.com/v1"

# What an endpoint may refuse by name, and what is sent instead: another field, or none.
# Reasoning models take no temperature and rename the limit; older servers know no usage.
_REFUSABLE: Mapping[str, str | None] = {
    "max_tokens": "max_completion_tokens",
    "stream_options": None,
    "temperature": None,
    "seed": None,
}
_REFUSED = (400, 422)
_LEAST_SHARE = 0.05  # of the first token; below it the model was about to say something else


class OpenAIModel:
    """The model `model` at `base_url`, spoken to through OpenAI's SDK.

    `timeout` is the longest silence in seconds, before the first piece and between pieces.
    `retries` repeats a request that got no answer at all (no connection, 429, 5xx); once a
    piece has come, nothing is asked again. Fields that the endpoint refuses by name
    (temperature, seed, usage in streams) are left out. Raises `SettingsError` when OpenAI
    itself is meant and there is no key.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = REMOTE_TIMEOUT,
        retries: int = 2,
    ) -> None:
        if base_url is None and api_key is None:
            raise SettingsError(
                f"openai:{model} needs a key in OPENAI_API_KEY, or the address of another "
                "endpoint in OPENAI_BASE_URL (such as http://localhost:8000/v1)"
            )
        self.name = f"openai:{model}"
        self.base_url = base_url or OPENAI_URL
        self._model, self._timeout, self._retries = model, timeout, retries
        # Servers on one's own machine ask for no key, but the SDK does.
        self._api_key = api_key or "none"

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, estimated on the safe side: endpoints have no common tokenizer."""
        return estimate_tokens(text)

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Give the answer piece by piece, then the `Reply`; see `ChatModel.stream`."""
        with self._explained():
            # A client of its own for each request, since a client belongs to one event loop.
            async with self._client() as client:
                if request.choices:
                    reply = await self._choose(client, request)
                    yield reply.text
                    yield reply
                    return
                gathered = Gathered()
                chunks = await self._within(self._open(client, request_body(request)))
                async with chunks:
                    while (chunk := await self._within(anext(chunks, None))) is not None:
                        if piece := gathered.add(chunk.model_dump()):
                            yield piece
                yield gathered.reply(request, self.name, self._where)

    async def _choose(self, client: AsyncOpenAI, request: Request) -> Reply:
        scored = await self._score(client, request)
        if scored is not None:
            return scored
        schema = {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(request.choices)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
        constrained = request.model_copy(update={"json_schema": schema, "choices": ()})
        answer = await self._try(client, request_body(constrained))
        if answer is None:
            answer = await self._ask(client, request_body(request))
        text = _pick(_content(answer), request.choices)
        if text is None:
            raise ModelNonsense(
                f"{self._where} answered {_content(answer)[:80]!r}, which is none of "
                f"{', '.join(request.choices)}; use a model with structured output"
            )
        return Reply(text=text, model=self.name, usage=_usage(answer.get("usage")))

    async def _score(self, client: AsyncOpenAI, request: Request) -> Reply | None:
        """The choice by the first token's log-probabilities; None where they do not tell."""
        body = request_body(request) | {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
        answer = await self._try(client, body)
        if answer is None or not answer.get("choices"):
            return None
        tokens = ((answer["choices"][0].get("logprobs") or {}).get("content") or [{}])[0]
        top = {t["token"]: t["logprob"] for t in tokens.get("top_logprobs") or ()}
        scores = first_token_scores(top, request.choices)
        if not scores:
            return None
        return Reply(
            text=max(scores, key=scores.__getitem__),
            model=self.name,
            usage=_usage(answer.get("usage")),
            choice_logprobs=scores,
        )

    async def _try(self, client: AsyncOpenAI, body: dict[str, Any]) -> dict[str, Any] | None:
        """The whole answer to `body`, or None where the endpoint refuses what it asks for."""
        from openai import APIStatusError

        try:
            return await self._ask(client, body)
        except APIStatusError as error:
            if error.status_code in _REFUSED:
                return None
            raise

    async def _ask(self, client: AsyncOpenAI, body: dict[str, Any]) -> dict[str, Any]:
        """The whole answer to `body`, not streamed."""
        whole = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
        answer = await self._within(self._open(client, whole))
        dumped: dict[str, Any] = answer.model_dump()
        return dumped

    async def _open(self, client: AsyncOpenAI, body: dict[str, Any]) -> Any:
        """Send `body`, leaving out or renaming what the endpoint refuses by name."""
        from openai import APIStatusError

        body = {"model": self._model, **body}
        while True:
            try:
                raw = await client.chat.completions.with_raw_response.create(**body)
            except APIStatusError as error:
                refused = (
                    _refused_field(error.message, body) if error.status_code in _REFUSED else ""
                )
                if not refused:
                    raise
                value, instead = body.pop(refused), _REFUSABLE[refused]
                if instead:
                    body[instead] = value
                continue
            self._check_type(raw.headers.get("content-type", ""), streamed=bool(body.get("stream")))
            return raw.parse()

    def _check_type(self, content_type: str, *, streamed: bool) -> None:
        wanted = "text/event-stream" if streamed else "json"
        if content_type and wanted not in content_type:
            raise ModelGarbled(
                f"{self._where} answered with {content_type.split(';')[0]} instead of {wanted}; "
                "check the base URL (it usually ends in /v1)"
            )

    async def _within(self, waiting: Any) -> Any:
        async with asyncio.timeout(self._timeout):
            return await waiting

    def _client(self) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            api_key=self._api_key,
            base_url=self.base_url,
            timeout=self._timeout,
            max_retries=self._retries,
        )

    @property
    def _where(self) -> str:
        return f"model {self._model} at {without_credentials(self.base_url)}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the SDK's and the connection's errors into ours."""
        import openai

        broken: tuple[type[Exception], ...] = (openai.OpenAIError, *_transport_errors())
        try:
            yield
        except (TimeoutError, openai.APITimeoutError) as error:
            raise ModelTimeout(
                f"{self._where} was silent for {self._timeout:g} s; "
                "raise the timeout, or take a faster model"
            ) from error
        except openai.APIConnectionError as error:
            raise ModelError(
                f"{self._where} cannot be reached ({error.__cause__ or error}); "
                "check that it runs and that the base URL is right"
            ) from error
        except openai.APIStatusError as error:
            raise self._status_error(error) from error
        except broken as error:
            raise ModelError(f"{self._where} broke off its answer ({error}); ask again") from error
        except json.JSONDecodeError as error:
            raise ModelGarbled(
                f"{self._where} sent something that is no JSON; check the base URL"
            ) from error

    def _status_error(self, error: Any) -> ModelError:
        status = int(error.status_code)
        if status in (401, 403):  # the body may quote the key
            return ModelError(f"{self._where} refuses the key ({status}); check OPENAI_API_KEY")
        said = " ".join(str(error.message).split())[:300]
        if status == 404:
            return ModelMissing(
                f"{self._where} is not there (404: {said}); check the model's name and the base "
                "URL (it usually ends in /v1)"
            )
        if status == 429:
            return ModelError(f"{self._where} is at its limit (429: {said}); wait, then ask again")
        return ModelError(f"{self._where} failed ({status}: {said})")


class Gathered:
    """The answer so far, gathered from chunks in OpenAI's form."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._finish_reason: str | None = None
        self._usage = Usage()

    def add(self, chunk: Mapping[str, Any]) -> str:
        """Take one chunk; returns its piece of text, empty if it has none."""
        if chunk.get("usage"):
            self._usage = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            piece = str((choice.get("delta") or {}).get("content") or "")
            self._pieces.append(piece)
            return piece
        return ""

    def reply(self, request: Request, model: str, where: str) -> Reply:
        """The whole reply; `ModelError` if it was cut, `ModelNonsense` if it is of no use."""
        text = "".join(self._pieces)
        if self._finish_reason is None:
            raise ModelError(f"{where}: the answer was cut before its end; ask again")
        if not text.strip():
            raise ModelNonsense(f"{where} gave an empty answer ({self._finish_reason})")
        if request.json_schema is not None:
            _check_json(text, self._finish_reason, request, where)
        return Reply(text=text, model=model, finish_reason=self._finish_reason, usage=self._usage)


def _check_json(text: str, finish_reason: str, request: Request, where: str) -> None:
    if finish_reason == "length":
        raise ModelNonsense(
            f"{where}: the JSON was cut after {request.max_tokens} tokens; raise max_tokens"
        )
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelNonsense(f"{where} answered no JSON: {text[:80]!r}") from error


def request_body(request: Request) -> dict[str, Any]:
    """`request` as the body of a streamed `/chat/completions`."""
    body: dict[str, Any] = {
        "messages": [message.model_dump() for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.seed is not None:
        body["seed"] = request.seed
    if request.json_schema is not None:
        form = {"name": "answer", "schema": request.json_schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


def first_token_scores(top: Mapping[str, float], choices: Sequence[str]) -> dict[str, float]:
    """Log-probabilities of `choices` from those of the first token's candidates, `top`.

    A candidate counts for the one choice that it begins, or that it spells out up to a
    punctuation mark. Choices that no candidate belongs to are left out. Nothing is returned
    where a candidate begins several, which the first token does not tell apart, and where all
    together are less than a twentieth likely: a thought or a sentence was to come.
    """
    scores: dict[str, float] = {}
    for token, logprob in top.items():
        fits = [choice for choice in choices if _begins(token.strip(), choice)]
        if len(fits) > 1:
            return {}
        for choice in fits:
            scores[choice] = _logaddexp(scores.get(choice, -math.inf), logprob)
    share = math.fsum(math.exp(score) for score in scores.values())
    return scores if share >= _LEAST_SHARE else {}


def _begins(token: str, choice: str) -> bool:
    if not token:
        return False
    return choice.startswith(token) or (
        token.startswith(choice) and not token[len(choice)].isalnum()
    )


def _logaddexp(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high)) if high > -math.inf else high


def _pick(text: str, choices: Sequence[str]) -> str | None:
    """The choice that `text` is: as JSON, or bare but for quotes and a full stop."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(value, dict):
        value = value.get("choice")
    bare = str(value).strip().strip("\"'`.。 ")
    return bare if bare in choices else None


def _refused_field(message: str, body: Mapping[str, Any]) -> str:
    named = (field for field in _REFUSABLE if field in body and field in message)
    return next(named, "")


def _content(answer: Mapping[str, Any]) -> str:
    choices = answer.get("choices") or [{}]
    return str((choices[0].get("message") or {}).get("content") or "")


def _usage(usage: Mapping[str, Any] | None) -> Usage:
    counts = usage or {}
    return Usage(
        prompt_tokens=counts.get("prompt_tokens") or 0,
        completion_tokens=counts.get("completion_tokens") or 0,
    )


def without_credentials(url: str) -> str:
    """`url` without user name, password, query and fragment, fit for messages."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _transport_errors() -> tuple[type[Exception], ...]:
    """Errors of the HTTP library beneath the SDK: httpx, and httpx2 in its newer versions."""
    names = [name for name in ("httpx", "httpx2") if find_spec(name)]
    errors: list[type[Exception]] = [importlib.import_module(name).HTTPError for name in names]
    return tuple(errors)
