"""`comity serve` as a process of its own."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from starlette.applications import Starlette
from starlette.routing import Route

from comity_command import Command
from gateway_process import serving
from test_gateway import Scripted, served


@pytest.fixture
def comity(tmp_path: Path) -> Command:
    command = Command(tmp_path)
    command.done("add", command.write("bylaws.md"))
    return command


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
        assert process.wait(20) == 0
    assert len(comity.json("decisions", "list")) == 2


def test_a_gateway_file_that_cannot_be_used_names_the_field(comity: Command) -> None:
    file = comity.write("gateway.toml", '[upstreams.bot]\nbase_url = ""\n')
    result = comity("serve", "--gateway", file)
    assert result.exit_code == 2
    assert "upstreams.bot.base_url" in result.stderr


@pytest.fixture
def slow() -> Iterator[str]:
    """The address of an upstream that needs minutes for a stream."""
    scripted = Scripted()
    scripted.says, scripted.pause = lambda body: {"content": "On a lead. " * 1000}, 0.05
    app = Starlette(routes=[Route("/v1/chat/completions", scripted.respond, methods=["POST"])])
    with served(app) as url:
        yield url


def test_after_the_grace_time_a_stream_is_broken_off_and_what_left_is_recorded(
    comity: Command, slow: str
) -> None:
    text = f"""
    grace = 1
    [upstreams.bot]
    base_url = "{slow}"
    [tenants.default]
    release = "observe"
    """
    file, key = comity.write("gateway.toml", text), comity.json("keys", "create")["secret"]
    turns = [{"role": "user", "content": "May dogs run free?"}]
    with serving(comity, "--gateway", file) as (url, process):
        asked = httpx.stream(
            "POST",
            f"{url}/v1/chat/completions",
            json={"model": "bot", "messages": turns, "stream": True},
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
        )
        with asked as answer:
            events = (
                json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line
            )
            next(event for event in events if event["choices"][0]["delta"].get("content"))
            process.send_signal(signal.SIGINT)
            *_, last = events
        assert process.wait(20) == 0
    (decision,) = comity.json("decisions", "list")
    assert last["error"]["code"] == "stopping"
    assert decision["finish_reason"] == "broken_off"
    assert decision["answer"].startswith("On a lead.")


def test_a_port_in_use_is_told_in_one_sentence(comity: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for workers in ("1", "2"):
            result = comity("serve", "--port", port, "--workers", workers)
            assert result.exit_code == 2
            assert f"127.0.0.1 port {port} cannot be used" in result.stderr
            assert len(result.stderr.splitlines()) == 1
