"""No tenant reads, changes or hears of another's rules and decisions (T1, T2).

`COMITY_TENANTS=all` tries every operation from each of the hundred tenants, `COMITY_CROSSING`
is the number of concurrent requests, and `COMITY_CROSSING_SEED` repeats their order.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.testclient import TestClient

from comity import Memory, Rule
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway, Tenant
from comity.serving.upstream import Upstream
from raw_upstream import STREAM, Body, RawUpstream, Step, plain, raw_upstream, says, served

TENANTS = 100
ALL = os.environ.get("COMITY_TENANTS") == "all"
REQUESTS = int(os.environ.get("COMITY_CROSSING", "200"))
SEED = int(os.environ.get("COMITY_CROSSING_SEED") or random.randrange(2**32))
CANARY = re.compile(r"canary[0-9a-f]{12}")


def canary(tenant: int) -> str:
    return f"canary{tenant * 7919:012x}"


class House(NamedTuple):
    """One tenant, with what others must not get."""

    name: str
    key: str
    key_id: str
    rule: str
    draft: str
    decision: str


class Street:
    """A hundred tenants in one memory, behind one application."""

    def __init__(self, memory: Memory, client: TestClient) -> None:
        self.memory, self.client = memory, client
        self.houses = [self._house(number) for number in range(TENANTS)]
        self.described = client.get("/openapi.json").json()

    def _house(self, number: int) -> House:
        name, word = f"tenant-{number}", canary(number)
        texts = {f"rule-{word}": word, f"draft-{word}": f"not yet {word}"}
        self.memory.add(
            [
                Rule(
                    id=id,
                    text=f"{text} holds.",
                    audience=(f"staff-{word}",),
                    tenant=name,
                    status="draft" if id.startswith("draft") else "active",
                )
                for id, text in texts.items()
            ]
        )
        made = create_key(self.memory, name, "admin")
        body = {"model": "bot", "messages": [{"role": "user", "content": f"What of {word}?"}]}
        told = self.client.post("/v1/chat/completions", json=body, headers=bearer(made.secret))
        decision = told.json()["comity"]["decision"]
        rule, draft = texts
        return House(name, made.secret, made.key.id, rule, draft, decision)

    def operations(self) -> Iterator[tuple[str, str, Any]]:
        for path, methods in self.described["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def body_of(self, operation: Any, foreign: str, house: House) -> Any:
        """Every field that the operation has and that may name another's things."""
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            return None
        schema = content["application/json"]["schema"]
        if reference := schema.get("$ref"):
            schema = self.described["components"]["schemas"][reference.rsplit("/")[-1]]
        turns = [{"role": "user", "content": f"Of whom is {foreign}?"}]
        known: Body = {
            "rules": [{"id": f"mine-{random.random()}", "text": "x", "overrides": [foreign]}],
            "changes": {"text": "Mine now."},
            "ids": [foreign],
            "one": {"id": foreign, "version": 1},
            "other": {"id": foreign, "version": 1},
            "model": "bot",
            "messages": turns,
            "input": f"Of whom is {foreign}?",
            "input_type": "request",
            "structured_messages": turns,
            "litellm_call_id": foreign,
            "previous_response_id": None,
            "note": "x",
        }
        return {name: known[name] for name in schema.get("properties", {}) if name in known}

    def call(self, house: House, method: str, path: str, operation: Any, foreign: str) -> Any:
        known = {
            "id": foreign,
            "after": foreign,
            "q": foreign,
            "since": "2020-01-01",
            "until": "2040-01-01",
            "rule": foreign,
            "audience": foreign.replace("rule-", "staff-"),
            "name": "x.txt",
        }
        names = [each["name"] for each in operation.get("parameters", ())]
        told = self.client.request(
            method,
            path,
            params={name: known[name] for name in names if name in known},
            json=self.body_of(operation, foreign, house),
            headers=bearer(house.key),
        )
        assert told.status_code < 500, (path, told.text)
        return told


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    with Memory.open("sqlite://", embedder=HashEmbedder(16)) as memory:
        model = ScriptedModel(lambda request: request.messages[-1].content)
        app = create_app(memory, Gateway(), models={"bot": model})
        with TestClient(app) as client:
            yield Street(memory, client)


def test_nothing_of_another_tenant_is_read_changed_or_hinted_at(street: Street) -> None:
    tried = 0
    for number, (method, path, operation) in enumerate(street.operations()):
        for at, house in enumerate(street.houses):
            if not ALL and (at + number) % 20:
                continue
            other = street.houses[(at + 1 + number) % TENANTS]
            own = CANARY.findall(house.rule)[0]
            for foreign in (other.rule, other.draft, other.decision):
                tried += 1
                told = street.call(house, method, path, operation, foreign)
                seen = set(CANARY.findall(told.text)) - {own, *CANARY.findall(foreign)}
                assert not seen, f"{method} {path} told {house.name} of {seen}"
                hint = foreign[:-2] + "zz"
                near = street.call(house, method, path, operation, hint)
                assert foreign not in near.text, f"{method} {path} hints at {foreign}"
                assert near.status_code == told.status_code, f"{method} {path} tells what is there"
                lengths = {
                    len(each.text.replace(hint, "").replace(foreign, "")) for each in (told, near)
                }
                if told.status_code >= 400:
                    assert len(lengths) == 1, (told.text, near.text)
                if not ALL:
                    break
    assert tried >= 100
    print(f"{tried} tried")
    for house in street.houses:
        versions = street.memory.history(house.rule, tenant=house.name)
        assert [each.rule.version for each in versions] == [1]
        assert street.memory.history(house.draft, tenant=house.name)[-1].rule.status == "draft"
        authors = {each.author for each in street.memory.store.revisions(house.name)}
        assert authors <= {"", house.key_id}
        assert street.memory.store.decision(house.name, house.decision)


def test_a_request_cannot_choose_its_tenant(street: Street) -> None:
    house, other = street.houses[:2]
    given: dict[str, Any] = {
        "model": "bot",
        "messages": [{"role": "user", "content": "Whose?"}],
        "tenant": other.name,
        "metadata": {"comity_tenant": other.name, "tenant": other.name},
        "user": other.name,
    }
    headers = {
        **bearer(house.key),
        "x-comity-tenant": other.name,
        "openai-organization": other.name,
    }
    told = street.client.post("/v1/chat/completions", json=given, headers=headers)
    decision = told.json()["comity"]["decision"]
    assert street.memory.store.decision(house.name, decision).tenant == house.name
    rule = {"id": "smuggled", "text": "x", "tenant": other.name}
    street.client.post("/rules", json={"rules": [rule]}, headers=bearer(house.key))
    assert street.memory.history("smuggled", tenant=house.name)
    assert not street.memory.store.history(other.name, "smuggled")


# T2


class Crossing:
    """An upstream that repeats what it was sent, and looks for what does not belong together."""

    def __init__(self, upstream: RawUpstream) -> None:
        self.upstream = upstream
        self.found: list[set[str]] = []
        upstream.script = self.script

    def script(self, body: Body) -> list[Step]:
        self.upstream.asked.clear()
        words = set(CANARY.findall(json.dumps(body)))
        if len(words) != 1:
            self.found.append(words)
        question = body["messages"][-1]["content"]
        if not body["stream"]:
            return [plain({"content": f"So it is: {question}"})]
        return [STREAM, *says(f"So it is: {question}"), None]


async def test_no_byte_crosses_between_tenants_under_concurrent_requests_that_are_cancelled() -> (
    None
):
    print(f"seed {SEED}, {REQUESTS} requests")
    chance = random.Random(SEED)
    with (
        raw_upstream() as upstream,
        Memory.open("sqlite://", embedder=HashEmbedder(16)) as memory,
    ):
        crossing, keys = Crossing(upstream), []
        for number in range(20):
            memory.add(
                Rule(
                    id=f"rule-{number}",
                    text=f"The word is {canary(number)}.",
                    mandatory=True,
                    tenant=f"tenant-{number}",
                )
            )
            keys.append(create_key(memory, f"tenant-{number}", "client").secret)
        modes: Any = ("strict", "window", "observe")
        there = Upstream(base_url=f"http://127.0.0.1:{upstream.port}/v1", timeout=20)
        config = Gateway(
            upstreams={"bot": there},
            tenants={f"tenant-{n}": Tenant(release=modes[n % 3]) for n in range(20)},
        )
        with served(create_app(memory, config)) as port:
            whole = await _cross(f"http://127.0.0.1:{port}", keys, chance)
        assert crossing.found == []
        assert whole > REQUESTS / 3
        for number in range(20):
            for decision in memory.store.decisions(f"tenant-{number}"):
                assert set(CANARY.findall(decision.model_dump_json())) <= {canary(number)}


async def _cross(url: str, keys: list[str], chance: random.Random) -> int:
    """Ask as all tenants at once, and go away from a third; the number of whole answers."""
    whole = 0
    left = REQUESTS

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal left, whole
        while left > 0:
            left -= 1
            number = chance.randrange(len(keys))
            patience = chance.choice((None, None, chance.random() * 0.05))
            try:
                async with asyncio.timeout(patience):
                    text = await _ask(http, keys[number], canary(number), chance.random() < 0.5)
            except (TimeoutError, httpx.TransportError):
                continue
            assert set(CANARY.findall(text)) == {canary(number)}, text
            whole += 1

    limits = httpx.Limits(max_connections=12)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(24)))
    return whole


async def _ask(http: httpx.AsyncClient, key: str, word: str, stream: bool) -> str:
    turns = [{"role": "user", "content": f"Is it {word}?"}]
    told = await http.post(
        "/v1/chat/completions",
        json={"model": "bot", "messages": turns, "stream": stream},
        headers=bearer(key),
    )
    assert told.status_code == 200, told.text
    if not stream:
        return told.text
    assert told.text.endswith("data: [DONE]\n\n"), told.text
    chunks = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
