"""`comity serve` as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from comity_command import Command


@pytest.fixture
def comity(tmp_path: Path) -> Command:
    command = Command(tmp_path)
    command.done("add", command.write("bylaws.md"))
    return command


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def serving(comity: Command, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "comity", "serve", "--port", str(port), *arguments]
    process = subprocess.Popen(
        command, env=os.environ | comity.environ, cwd=comity.folder, stderr=subprocess.PIPE
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, process.stderr and process.stderr.read()
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.ConnectError:
                assert time.monotonic() < until, "it does not answer"
                time.sleep(0.05)
        yield url, process
    finally:
        process.kill()
        process.communicate()


def test_a_client_asks_a_served_model_and_a_rule_changes_the_next_answer(comity: Command) -> None:
    key = comity.json("keys", "create")["secret"]
    with serving(comity) as (url, process):
        sdk = OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
        assert [model.id for model in sdk.models.list()] == ["scripted"]

        def revision() -> int:
            told = sdk.chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "May dogs run free?"}]
            )
            assert told.choices[0].message.content == "May dogs run free?"
            assert told.model_extra is not None
            number: int = told.model_extra["comity"]["revision"]
            return number

        before = revision()
        (first, *_) = comity.json("rules", "list")
        comity.done("rules", "amend", first["id"], "--text", "Dogs may run free.")
        assert revision() == before + 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    assert len(comity.json("decisions", "list")) == 2


def test_a_gateway_file_that_cannot_be_used_names_the_field(comity: Command) -> None:
    file = comity.write("gateway.toml", '[upstreams.bot]\nbase_url = ""\n')
    result = comity("serve", "--gateway", file)
    assert result.exit_code == 2
    assert "upstreams.bot.base_url" in result.stderr
