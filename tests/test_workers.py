"""Several workers behind one port, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from comity.alignment.aligner import Options
from comity.errors import NotFound
from comity.serving.config import Gateway
from comity.serving.worker import Worker
from comity.settings import Settings
from comity_command import Command
from gateway_process import Workers, serving
from test_gateway import Scripted, served

WORKERS = 3
QUESTION = {"role": "user", "content": "May dogs run free?"}


@pytest.fixture(scope="module")
def comity(tmp_path_factory: pytest.TempPathFactory) -> Command:
    command = Command(tmp_path_factory.mktemp("workers"))
    command.done("add", command.write("bylaws.md"))
    command.done("add", command.write("bylaws.md"), "--tenant", "busy")
    return command


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[Scripted, str]]:
    scripted = Scripted()
    app = Starlette(routes=[Route("/v1/chat/completions", scripted.respond, methods=["POST"])])
    with served(app) as url:
        yield scripted, url


@pytest.fixture(scope="module")
def gateway_file(comity: Command, upstream: tuple[Scripted, str]) -> str:
    text = f"""
    grace = 20
    [upstreams.bot]
    base_url = "{upstream[1]}"
    [tenants.default]
    release = "observe"
    [tenants.busy]
    requests_per_minute = 6
    """
    return comity.write("gateway.toml", text)


@pytest.fixture
def workers(url: str) -> Iterator[Workers]:
    with Workers(url, WORKERS) as workers:
        yield workers


@pytest.fixture(scope="module")
def url(comity: Command, gateway_file: str) -> Iterator[str]:
    arguments = ("--workers", str(WORKERS), "--gateway", gateway_file)
    with serving(comity, *arguments) as (url, _):
        yield url


def ask(client: httpx.Client, key: str) -> httpx.Response:
    return client.post(
        "/v1/chat/completions",
        json={"model": "bot", "messages": [QUESTION]},
        headers={"authorization": f"Bearer {key}"},
    )


def new_key(comity: Command, *arguments: str) -> dict[str, str]:
    made: dict[str, str] = comity.json("keys", "create", *arguments)
    return made


def test_every_worker_uses_a_change_as_soon_as_it_is_acknowledged(
    comity: Command, workers: Workers
) -> None:
    key = new_key(comity)["secret"]
    editor = {"authorization": f"Bearer {new_key(comity, '--role', 'editor')['secret']}"}
    (rule, *_) = comity.json("rules", "list")
    ways: dict[str, int] = {"api": 0, "command": 0}
    for number in range(30):
        text = f"Dogs are kept on a lead of {number} m."
        if number % 3:
            *_, client = islice(workers.each(), number % WORKERS + 1)
            change: dict[str, Any] = {"changes": {"text": text}}
            told = client.post(
                "/rules/amend", params={"id": rule["id"]}, json=change, headers=editor
            )
            revision, way = told.json()["revision"], "api"
        else:
            comity.done("rules", "amend", rule["id"], "--text", text)
            revision, way = comity.json("rules", "history", rule["id"])[-1]["revision"], "command"
        ways[way] += 1
        for client in workers.each():
            assert ask(client, key).json()["comity"]["revision"] >= revision
    assert min(ways.values()) >= 10


def test_a_revoked_key_ends_at_once_in_every_worker(comity: Command, workers: Workers) -> None:
    key = new_key(comity)
    assert {ask(each, key["secret"]).status_code for each in workers.each()} == {200}
    comity.done("keys", "revoke", key["id"])
    assert {ask(each, key["secret"]).status_code for each in workers.each()} == {401}


def test_a_keys_limit_holds_for_all_workers_together(comity: Command, workers: Workers) -> None:
    key = new_key(comity, "--tenant", "busy")["secret"]
    told = [ask(client, key) for _ in range(5) for client in workers.each()]
    passed = [each for each in told if each.status_code == 200]
    assert 6 <= len(passed) <= 7  # one more where these took ten seconds
    refused = next(each for each in told if each.status_code == 429)
    assert int(refused.headers["retry-after"]) > 0


def test_each_worker_tells_the_metrics_of_all(workers: Workers) -> None:
    for client in workers.each():
        assert client.get("/v1/models").status_code == 401
    line = 'comity_requests_total{route="/v1/models",status="401"} 3.0'
    for client in workers.each():
        assert line in client.get("/metrics").text


def test_a_worker_that_dies_is_replaced(url: str) -> None:
    with Workers(url, WORKERS) as workers:
        before = workers.pids()
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    until = time.monotonic() + 30
    while not (now := answering(url)) - before:
        assert time.monotonic() < until, "no new worker"
    assert killed not in now


def answering(url: str) -> set[int]:
    """Workers that take some connections made at once; a killed one may break some off."""
    found = set()
    for _ in range(5):
        with suppress(httpx.TransportError):
            found.add(httpx.get(f"{url}/healthz").json()["pid"])
    return found


def test_a_running_stream_ends_well_before_the_workers_do(
    comity: Command, upstream: tuple[Scripted, str], gateway_file: str
) -> None:
    key = new_key(comity)["secret"]
    said = "On a lead. " * 20
    upstream[0].says = lambda body: {"content": said if body.get("stream") else "On a lead."}
    body = {"model": "bot", "messages": [QUESTION], "stream": True}
    with serving(comity, "--workers", "2", "--gateway", gateway_file) as (url, process):
        upstream[0].pause = 0.02
        asked = httpx.stream(
            "POST",
            f"{url}/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            timeout=30,
        )
        with asked as answer:
            lines = answer.iter_lines()
            next(line for line in lines if "On" in line)
            process.send_signal(signal.SIGTERM)
            rest = [line.removeprefix("data: ") for line in lines if line]
        upstream[0].pause = 0.0
        assert rest[-1] == "[DONE]"
        assert json.loads(rest[-2])["choices"][0]["comity"]["withheld"] is False
        assert process.wait(20) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")


def test_workers_end_where_the_process_above_them_was_killed(comity: Command) -> None:
    with serving(comity, "--workers", "2") as (url, process):
        with Workers(url, 2) as workers:
            pids = workers.pids()
        process.kill()
        process.wait(10)
        until = time.monotonic() + 20
        while any(map(is_running, pids)):
            assert time.monotonic() < until, "they go on"
            threading.Event().wait(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory", "sqlite://"), "lives in one process only"),
        (("--model", "local"), "each worker would load the model local"),
        (("--judge", "local:other"), "each worker would load the model local:other"),
    ],
)
def test_what_several_workers_cannot_do_is_refused(
    comity: Command, arguments: tuple[str, ...], said: str
) -> None:
    result = comity("serve", "--workers", "3", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_what_keeps_workers_from_serving_is_told_once(comity: Command) -> None:
    file = comity.write("wrong.toml", 'approval_above = "king"\n')
    result = comity("serve", "--workers", "3", "--port", "0", "--gateway", file)
    assert result.exit_code == 2
    assert result.stderr.count("no rank 'king'") == 1
    assert "Traceback" not in result.stderr


def test_a_memory_that_has_gone_is_no_empty_one_for_the_next_worker(tmp_path: Path) -> None:
    settings = Settings(memory=f"sqlite:///{tmp_path}/gone.db", embedder="hash")
    worker = Worker(settings=settings, gateway=Gateway(), options=Options(), model="scripted")
    with pytest.raises(NotFound, match="any more"), worker.app():
        pass
    assert os.listdir(tmp_path) == []
