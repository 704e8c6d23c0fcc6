"""The processes that are measured: the mock, our gateway, and two peers that only pass through.

The mock and the client have one core, whichever gateway is measured has the other.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

LITELLM = "litellm[proxy]==1.106.2"
PORTKEY = "@portkey-ai/gateway@1.15.2"
DELAY = 0.05
_CLIENT_CORE, _SERVER_CORE = 0, 1
_START_SECONDS = 120


class Served(NamedTuple):
    """Something that answers chat requests."""

    port: int
    headers: Mapping[str, str]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def mock() -> Iterator[Served]:
    """The upstream itself."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.mock_upstream"]
    with _running([*command, "--port", str(port), "--delay", str(DELAY)], _CLIENT_CORE):
        _await_port(port)
        yield Served(port, {})


@contextmanager
def comity(folder: Path, secret: str, upstream: Served, *, real: bool = False) -> Iterator[Served]:
    """Our gateway, with checks and record on."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.gateway_server", "--folder", str(folder)]
    command += ["--port", str(port), "--upstream", f"http://127.0.0.1:{upstream.port}/v1"]
    with _running([*command, *(["--real-embedder"] if real else [])], _SERVER_CORE):
        _await(f"http://127.0.0.1:{port}/readyz")
        yield Served(port, {"authorization": f"Bearer {secret}"})


@contextmanager
def litellm(folder: Path, upstream: Served) -> Iterator[Served]:
    """LiteLLM's proxy, installed into an environment of its own; no key, no database, no logs."""
    home = folder / "litellm"
    if not (home / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", LITELLM], check=True)
    goes_to = {
        "model": "openai/mock",
        "api_base": f"http://127.0.0.1:{upstream.port}/v1",
        "api_key": "none",
    }
    config = home / "config.yaml"  # JSON is YAML
    config.write_text(
        json.dumps({"model_list": [{"model_name": "mock", "litellm_params": goes_to}]})
    )
    port = free_port()
    command = [str(home / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    quiet |= {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    with _running(command, _SERVER_CORE, quiet | {"LITELLM_MODE": "PRODUCTION"}):
        _await(f"http://127.0.0.1:{port}/health/liveliness")
        yield Served(port, {"authorization": "Bearer none"})


@contextmanager
def portkey(folder: Path, upstream: Served) -> Iterator[Served]:
    """Portkey's gateway on Node."""
    home = folder / "portkey"
    script = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not script.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("Portkey needs Node: install it, or leave it out (--without portkey)")
        command = [npm, "install", "--silent", "--prefix", str(home), PORTKEY]
        subprocess.run(command, check=True)
    port = free_port()
    node = ["node", str(script), f"--port={port}", "--headless"]
    with _running(
        node, _SERVER_CORE, {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    ):
        _await_port(port)
        headers = {
            "authorization": "Bearer none",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{upstream.port}/v1",
        }
        yield Served(port, headers)


def loaded(
    served: Served, *, clients: int, seconds: float, stream: bool = False, first: int = 0
) -> tuple[list[tuple[float, float]], int]:
    """Milliseconds to the first text and to the end of each request; how many there were in all.

    Requests that warm up count, and have no sample. `first` is the number of the first question.
    """
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(served.port)]
    command += ["--headers", json.dumps(served.headers), "--clients", str(clients)]
    command += ["--seconds", str(seconds), *(["--stream"] if stream else [])]
    command += ["--first", str(first)]
    run = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, preexec_fn=lambda: _pin(_CLIENT_CORE)
    )
    told = json.loads(run.stdout)
    return [(first, total) for first, total in told["samples"]], told["sent"]


@contextmanager
def _running(
    command: Sequence[str], core: int, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        env=os.environ | (environment or {}),
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: _pin(core),
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {core})


def _await(url: str) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urlopen(url, timeout=2):
                return
        except (URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > give_up:
                raise SystemExit(f"{url} does not answer: {error}") from error
            time.sleep(0.2)


def _await_port(port: int) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if time.monotonic() > give_up:
                raise SystemExit(f"nothing listens on port {port}: {error}") from error
            time.sleep(0.2)
