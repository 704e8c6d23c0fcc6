"""What one key may ask in a minute, and at once; how large, and for how long."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import APIError, APIStatusError, OpenAI
from starlette.applications import Starlette
from starlette.routing import Route

from comity import Memory
from comity.memory.embed import HashEmbedder
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway, Tenant
from comity.serving.ledger import FolderLedger, Ledger, ProcessLedger
from comity.serving.limits import Limits
from comity.serving.shared_folder import shared_folder
from comity.serving.upstream import Upstream
from comity.serving.wire import Refused
from test_gateway import Scripted, served

NewLedger = Callable[[], Ledger]


class Seconds:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["process", "folder"])
def new_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> NewLedger:
    """Ledgers for limits that are kept in one process, or shared in a folder."""
    return ProcessLedger if request.param == "process" else lambda: FolderLedger(tmp_path)


def test_no_limit_is_no_limit(new_ledger: NewLedger) -> None:
    limits = Limits(Seconds(), new_ledger())
    for _ in range(1000):
        limits.ask("k", 0, 0)
        limits.spend("k", 0, 10**6)


def test_requests_beyond_a_minutes_wait_as_long_as_told(new_ledger: NewLedger) -> None:
    clock = Seconds()
    limits = Limits(clock, new_ledger())
    for _ in range(6):
        limits.ask("k", 6, 0)
    with pytest.raises(Refused) as raised:
        limits.ask("k", 6, 0)
    assert (raised.value.status, raised.value.headers) == (429, {"retry-after": "10"})
    limits.ask("another", 6, 0)
    clock.now += 10
    limits.ask("k", 6, 0)


def test_tokens_are_paid_off_before_the_next_request(new_ledger: NewLedger) -> None:
    clock = Seconds()
    limits = Limits(clock, new_ledger())
    limits.ask("k", 0, 600)
    limits.spend("k", 600, 900)
    with pytest.raises(Refused) as raised:
        limits.ask("k", 0, 600)
    assert raised.value.headers == {"retry-after": "30"}
    clock.now += 30
    limits.ask("k", 0, 600)


@given(st.lists(st.floats(0, 30), max_size=60), st.integers(1, 20))
def test_no_minute_sees_more_than_twice_the_limit(pauses: list[float], most: int) -> None:
    clock, taken = Seconds(), []
    limits = Limits(clock)
    for pause in pauses:
        clock.now += pause
        try:
            limits.ask("k", most, 0)
        except Refused:
            continue
        taken.append(clock.now)
    for start in taken:
        assert sum(start <= at < start + 60 for at in taken) <= 2 * most


def test_a_place_that_is_given_back_is_free_again(new_ledger: NewLedger) -> None:
    limits = Limits(Seconds(), new_ledger())
    for _ in range(2):
        limits.ask("k", 0, 0, concurrent=2)
    with pytest.raises(Refused) as raised:
        limits.ask("k", 0, 0, concurrent=2)
    assert (raised.value.status, raised.value.headers) == (429, {"retry-after": "1"})
    limits.ask("another", 0, 0, concurrent=2)
    limits.leave("k", concurrent=2)
    limits.ask("k", 0, 0, concurrent=2)


def test_a_refused_place_costs_no_request(new_ledger: NewLedger) -> None:
    limits = Limits(Seconds(), new_ledger())
    limits.ask("k", 2, 0, concurrent=1)
    with pytest.raises(Refused):
        limits.ask("k", 2, 0, concurrent=1)
    limits.leave("k", concurrent=1)
    limits.ask("k", 2, 0, concurrent=1)


def test_workers_that_share_a_folder_let_through_exactly_the_limit(tmp_path: Path) -> None:
    workers = [Limits(Seconds(), FolderLedger(tmp_path)) for _ in range(4)]

    def passes(worker: Limits) -> int:
        passed = 0
        for _ in range(60):
            try:
                worker.ask("k", 100, 0, concurrent=90)
            except Refused:
                continue
            passed += 1
        return passed

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(passes, workers)) == 90


ACTS = st.tuples(st.sampled_from(["ask", "spend", "leave"]), st.integers(0, 1), st.floats(0, 20))


@given(st.lists(ACTS, max_size=40))
def test_workers_that_share_a_folder_decide_as_one_process_would(
    acts: list[tuple[str, int, float]],
) -> None:
    clock = Seconds()
    with TemporaryDirectory() as folder:
        alone = Limits(clock)
        workers = [Limits(clock, FolderLedger(Path(folder))) for _ in range(2)]
        for act, worker, pause in acts:
            clock.now += pause
            assert _done(workers[worker], act) == _done(alone, act)


def _done(limits: Limits, act: str) -> Any:
    """What came of an act: nothing, or how long to wait."""
    try:
        match act:
            case "ask":
                limits.ask("k", 5, 100, concurrent=3)
            case "spend":
                limits.spend("k", 100, 30)
            case _:
                limits.leave("k", concurrent=3)
    except Refused as error:
        return error.headers
    return None


def test_places_of_a_worker_that_died_are_free_again(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living = FolderLedger(tmp_path), FolderLedger(tmp_path)
    dead.worker = str(ended.pid)
    for _ in range(2):
        Limits(Seconds(), dead).ask("k", 0, 0, concurrent=2)
    limits = Limits(Seconds(), living)
    for _ in range(2):
        limits.ask("k", 0, 0, concurrent=2)
    with pytest.raises(Refused):
        limits.ask("k", 0, 0, concurrent=2)


def test_a_folder_that_is_gone_refuses_rather_than_forgets(tmp_path: Path) -> None:
    limits = Limits(Seconds(), FolderLedger(tmp_path / "gone"))
    with pytest.raises(Refused, match="cannot be kept") as raised:
        limits.ask("k", 6, 0)
    assert raised.value.status == 503


def test_a_shared_folder_is_private_and_goes_and_takes_what_was_left_with_it(
    tmp_path: Path,
) -> None:
    with shared_folder("limits", place=tmp_path) as held:
        with shared_folder(place=tmp_path):
            assert (held / "limits").is_dir()
            assert held.stat().st_mode & 0o077 == 0
        left = tmp_path / "comity-of-a-killed-process"
        left.mkdir()
        (left / "lock").touch()
        with shared_folder(place=tmp_path):
            assert not left.exists()
    assert os.listdir(tmp_path) == []


class Running:
    """A gateway with some limits, before a scripted upstream."""

    def __init__(self, url: str, upstream: Scripted, memory: Memory) -> None:
        self.url, self.upstream, self.memory = url, upstream, memory
        self.key = create_key(memory, "default", "client").secret
        self.sdk = OpenAI(base_url=url, api_key=self.key, max_retries=0)

    def ask(self, **more: Any) -> Any:
        turns: Any = [{"role": "user", "content": "May dogs run free?"}]
        return self.sdk.chat.completions.create(model="bot", messages=turns, **more)

    def status(self, **more: Any) -> int:
        """Of the reply to a question."""
        try:
            self.ask(**more)
        except APIStatusError as error:
            return error.status_code
        return 200

    @contextmanager
    def slow_stream(self) -> Iterator[Any]:
        """A stream of which one piece has come, and the rest takes its time."""
        with self.ask(stream=True) as events:
            next(event for event in events if event.choices[0].delta.content)
            yield events


@contextmanager
def running(tenant: Tenant, **limits: Any) -> Iterator[Running]:
    upstream = Scripted()
    upstream.says = lambda body: {"content": "On a lead, please. " * 20}
    upstream.pause = 0.05
    app = Starlette(routes=[Route("/v1/chat/completions", upstream.respond, methods=["POST"])])
    with served(app) as behind, Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        config = Gateway(
            upstreams={"bot": Upstream(base_url=behind)},
            tenants={"default": tenant.model_copy(update={"release": "observe"})},
            **limits,
        )
        with served(create_app(memory, config)) as url:
            yield Running(url, upstream, memory)


def refused(gateway: Running, **more: Any) -> APIStatusError:
    with pytest.raises(APIStatusError) as raised:
        gateway.ask(**more)
    return raised.value


def eventually(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        threading.Event().wait(0.01)


def test_a_key_has_no_more_answers_at_once_than_its_tenants_may() -> None:
    with running(Tenant(concurrent=1)) as gateway:
        with gateway.slow_stream():
            error = refused(gateway, stream=True)
            assert (error.status_code, error.response.headers["retry-after"]) == (429, "1")
            assert error.code == "rate_limit_exceeded"
        gateway.upstream.pause = 0.0
        eventually(lambda: gateway.status() == 200)  # the client has gone, and its answer too
        assert len(list(gateway.ask(stream=True))) > 1
        eventually(lambda: gateway.status() == 200)
        assert gateway.status(metadata={"comity_at": "never"}) == 400
        assert gateway.status() == 200


def test_an_answer_that_takes_too_long_is_a_504() -> None:
    with running(Tenant(timeout=0.2)) as gateway:
        gateway.upstream.says = _late
        error = refused(gateway)
        assert (error.status_code, error.code) == (504, "timeout")
        assert list(gateway.memory.store.decisions("default")) == []


def _late(_: Any) -> dict[str, Any]:
    time.sleep(0.6)
    return {"content": "On a lead."}


def test_a_stream_that_takes_too_long_ends_with_an_error_and_what_left_is_recorded() -> None:
    with running(Tenant(timeout=0.7)) as gateway:
        events = gateway.ask(stream=True)
        pieces: list[str] = []
        with pytest.raises(APIError, match=re.escape("not whole after 0.7 seconds")):
            pieces.extend(event.choices[0].delta.content or "" for event in events)
        (decision,) = gateway.memory.store.decisions("default")
        told = "".join(pieces)
        assert told.startswith("On a lead")
        assert decision.answer == told
        assert decision.finish_reason == "broken_off"


def test_a_tenants_largest_request_may_be_smaller_than_the_gateways() -> None:
    with running(Tenant(max_body_mb=0.001)) as gateway:
        gateway.upstream.pause = 0.0
        assert gateway.ask().choices
        assert refused(gateway, metadata={"much": "x" * 1000}).status_code == 413

        def piecewise() -> Iterator[bytes]:
            yield from [b"x" * 100] * 20

        told = httpx.post(
            f"{gateway.url}/chat/completions",
            content=piecewise(),
            headers={"authorization": f"Bearer {gateway.key}"},
        )
        assert (told.status_code, told.json()["error"]["type"]) == (413, "invalid_request_error")


def test_what_is_too_much_for_a_worker_is_refused_and_it_stays_healthy() -> None:
    with running(Tenant(), max_in_progress=1) as gateway:
        with gateway.slow_stream():
            error = refused(gateway)
            assert (error.status_code, error.response.headers["retry-after"]) == (503, "1")
            assert error.code == "overloaded"
            assert error.response.headers["x-request-id"]
            root = gateway.url.removesuffix("/v1")
            for probe in ("healthz", "readyz", "metrics"):
                assert httpx.get(f"{root}/{probe}").status_code == 200
            assert "comity_overloads_total 1.0" in httpx.get(f"{root}/metrics").text
        gateway.upstream.pause = 0.0
        eventually(lambda: gateway.status() == 200)
