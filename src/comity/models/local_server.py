"""llama.cpp's server inside this process: one GGUF file, perhaps an adapter, and its places."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from comity.errors import MissingExtra, ModelError, ModelMissing, ModelTimeout

# Tokens of a prompt that are read between two looks at whether the answer is still wanted:
# some five seconds on two cores.
_BATCH = 256
# Prompts of earlier conversations that are kept in memory, in MiB.
_KEPT_PROMPTS = 512
_LOOK = 0.2  # seconds between two looks at whether somebody who waits still wants a turn


class Unwanted(Protocol):
    """Tells whoever waits that nobody wants the turn any more: an `Event`, or a `Stop`."""

    def is_set(self) -> bool:
        """Whether that is so."""


class LocalServer:
    """The GGUF file `path`, with the LoRA `adapter` if there is one; loaded at first use.

    It keeps `parallel` prompts in places of `context` tokens each, and gives as many turns:
    who works holds a turn, and who needs the places for itself holds them all. `timeout` is
    the longest silence in seconds. Raises `ModelMissing` for a file that is not there.
    """

    def __init__(
        self,
        path: Path,
        *,
        adapter: Path | None,
        name: str,
        context: int,
        parallel: int,
        threads: int,
        timeout: float,
    ) -> None:
        self.name, self.timeout, self.context = name, timeout, context
        self._path, self._adapter, self._threads = path, adapter, threads
        self._check_files()
        self._lock = threading.Lock()
        self._server: Any = None
        self._key = secrets.token_hex(16)
        self._parallel = self._places = parallel
        self._turns = threading.Semaphore(parallel)
        self._collecting = threading.Lock()

    def loaded(self) -> Any:
        """The running `xllamacpp.Server`. Blocks for some seconds where it has to be loaded."""
        with self._lock:
            if self._server is None:
                self._server = self._start()
            return self._server

    def close(self) -> None:
        """Let go of the model's memory; the next use loads it again."""
        with self._lock:
            self._server = None

    def take_turn(self, unwanted: Unwanted) -> bool:
        """Wait for a turn; False, and no turn, once nobody wants it any more."""
        return self._wait(self._turns, unwanted, math.inf)

    def give_turn(self) -> None:
        """Give a turn back."""
        self._turns.release()

    def take_all(self, unwanted: Unwanted, places: int) -> bool:
        """Wait for all turns, and have at least `places` places; False as in `take_turn`.

        Where there are fewer places the model is loaded anew with as many. Raises
        `ModelTimeout` if the others do not end in time.
        """
        until = time.monotonic() + self.timeout
        # One at a time collects turns, or two would wait for each other for ever.
        if not self._wait(self._collecting, unwanted, until):
            return False
        taken = 0
        try:
            while taken < self._parallel and self._wait(self._turns, unwanted, until):
                taken += 1
        finally:
            if taken < self._parallel:
                for _ in range(taken):
                    self._turns.release()
            self._collecting.release()
        if taken == self._parallel and places > self._places:
            self.close()
            self._places = places
        return taken == self._parallel

    def give_all(self) -> None:
        """Give all turns back."""
        self._turns.release(self._parallel)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What the server says at `path`, to `body` if there is one.

        Raises `ModelError` if it refuses.
        """
        import httpx

        url = f"{self.loaded().listening_address}{path}"
        with httpx.Client(trust_env=False, timeout=self.timeout) as client:
            answer = client.request(
                "GET" if body is None else "POST",
                url,
                json=body,
                headers={"Authorization": f"Bearer {self._key}"},
            )
        if answer.is_error:
            raise self.refusal(answer.json()["error"])
        return answer.json()

    def tokens(self, text: str, *, special: bool = False) -> Sequence[int]:
        """The ids of the tokens of `text`; with `special`, as a whole prompt is read."""
        whole = {"add_special": True, "parse_special": True} if special else {}
        ids: Sequence[int] = self.ask("/tokenize", {"content": text, **whole})["tokens"]
        return ids

    def place_tokens(self) -> int:
        """Tokens of one place: `context`, or less where the model was made for less."""
        tokens: int = self.ask("/props")["default_generation_settings"]["n_ctx"]
        return tokens

    def refusal(self, error: object) -> ModelError:
        """What llama.cpp said was wrong, as an error of ours."""
        said = error.get("message", error) if isinstance(error, Mapping) else error
        return ModelError(f"{self.name} (context of {self.context} tokens): {said}")

    def _wait(
        self,
        lock: threading.Lock | threading.Semaphore,
        unwanted: Unwanted,
        until: float,
    ) -> bool:
        while not lock.acquire(timeout=_LOOK):
            if unwanted.is_set():
                return False
            if time.monotonic() > until:
                raise ModelTimeout(
                    f"{self.name} was busy with other answers for {self.timeout:g} s; raise "
                    "the timeout, or ask for fewer at once"
                )
        return True

    def _check_files(self) -> None:
        if not self._path.is_file():
            raise ModelMissing(f"no model file {self._path}; run: comity models pull")
        if self._adapter is not None and not self._adapter.is_file():
            raise ModelMissing(
                f"no adapter file {self._adapter}; comity train export makes one of an adapter "
                "that was trained"
            )

    def _start(self) -> Any:
        try:
            import xllamacpp
        except ImportError as error:
            raise MissingExtra("a model on this machine", "local") from error
        self._check_files()
        params = self._parameters(xllamacpp.CommonParams())
        if self._adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(self._adapter), 1.0)]
        try:
            return xllamacpp.Server(params)
        except RuntimeError as error:
            raise ModelError(self._unloadable()) from error

    def _unloadable(self) -> str:
        if self._adapter is not None:
            return (
                f"{self._path} cannot be loaded with the adapter {self._adapter}: the adapter "
                "was trained on another model or is no LoRA adapter in GGUF form, or the model "
                "cannot be loaded alone either; comity train export makes adapters of this form"
            )
        return (
            f"{self._path} cannot be loaded: it is no GGUF file, is damaged, or needs more "
            "memory than is free; run: comity models pull"
        )

    def _parameters(self, params: Any) -> Any:
        params.model.path = str(self._path)
        params.verbosity = -1  # not a line of llama.cpp's log on the user's terminal
        params.n_ctx = self.context * self._places
        params.n_parallel = self._places
        params.n_batch = params.n_ubatch = _BATCH
        params.cache_ram_mib = _KEPT_PROMPTS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
        # llama.cpp listens on a port of the loopback interface: shut to all without the key.
        params.api_keys = [self._key]
        params.ui = params.endpoint_slots = False
        return params
