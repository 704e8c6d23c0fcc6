"""The described API under generated requests, good and bad (F2): `make fuzz` sends more of them.

`COMITY_FUZZ` is the number of requests for each operation and kind, `COMITY_FUZZ_SEED` repeats a
run of that.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from comity import Memory, Rule
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.records import Check
from comity.serving.app import create_app
from comity.serving.auth import MAY, create_key
from comity.serving.config import Gateway
from comity.serving.strict_route import StrictRoute

MANY = int(os.environ.get("COMITY_FUZZ", "0"))
EXAMPLES = MANY or 3
SEED = int(os.environ.get("COMITY_FUZZ_SEED") or (random.randrange(2**32) if MANY else 20261122))
OPEN = {"/metrics", "/healthz", "/readyz"}
UNDESCRIBED = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
RULES = [
    Rule(id="first", text="Somebody has to begin."),
    Rule(id="draft", text="This one waits.", status="draft"),
    Rule(
        id="doses",
        text="No doses are named.",
        mandatory=True,
        enforcement="block",
        check=Check(must_not_match=r"\d+ mg"),
    ),
]


class Api:
    """The application, a key of each role, and ids that it knows."""

    def __init__(self, memory: Memory, app: FastAPI) -> None:
        self.memory, self.app = memory, app
        self.keys: dict[str, str | None] = {
            role: create_key(memory, "default", role).secret for role in MAY
        }
        self.schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        self.operations: list[Any] = [
            cast(Any, found).ok() for found in self.schema.get_all_operations()
        ]
        self.sent = 0
        self.statuses: dict[str, set[int]] = {}

    def known(self, path: str, chance: random.Random) -> str:
        """Sometimes a request should get as far as it can."""
        decisions = [d.id for d in self.memory.store.decisions("default")][:3]
        rules = [rule.id for rule in RULES]
        return chance.choice(decisions if decisions and "decision" in path else rules)

    def led_on(self, case: Any, chance: random.Random) -> None:
        """Put names that exist into half of the requests."""
        if chance.random() < 0.5:
            return
        if isinstance(case.query, dict) and "id" in case.query:
            case.query["id"] = self.known(case.path, chance)
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "bot"
            case.body["n"] = 1
            if isinstance(case.body.get("messages"), list):
                case.body["messages"].append({"role": "user", "content": "Who has to begin?"})

    def call(self, case: Any, key: str | None) -> Any:
        told = case.call(headers={"authorization": f"Bearer {key}"} if key else {})
        self.sent += 1
        self.statuses.setdefault(case.path, set()).add(told.status_code)
        case.validate_response(told, checks=CHECKS)
        return told


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with Memory.open("sqlite://", embedder=HashEmbedder(16)) as memory:
        memory.add(RULES)
        model = ScriptedModel({"": "Nobody [R1]."})
        app = create_app(memory, Gateway(approval_above="statute"), models={"bot": model})
        yield Api(memory, app)


def under(api: Api, mode: GenerationMode, keys: Mapping[str, str | None]) -> Iterator[Any]:
    """Send generated requests to every operation with each of some keys; gives the replies."""
    replies: list[Any] = []

    def send(case: Any, holder: str, at: int) -> None:
        if mode is GenerationMode.POSITIVE:
            api.led_on(case, random.Random(at))
        replies.append((case.path, holder, api.call(case, keys[holder])))

    for operation in api.operations:
        if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
            continue  # nothing in it can be wrong
        requests = operation.as_strategy(generation_mode=mode)
        test = given(requests, st.sampled_from(sorted(keys)), st.integers(0, 2**32))(send)
        run = settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(seed(SEED)(test))
        run()
        yield from replies
        replies.clear()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_breaks_the_description_or_the_gateway(api: Api, mode: GenerationMode) -> None:
    print(f"seed {SEED}")
    for _ in under(api, mode, api.keys):
        pass
    print(f"{api.sent} requests: {api.statuses}")
    assert api.sent >= 20


def test_nothing_is_done_without_a_key_that_holds(api: Api) -> None:
    revoked = create_key(api.memory, "default", "admin")
    api.memory.store.revoke_key(revoked.key.id, api.memory.clock())
    keys = {"none": None, "wrong": "comity-wrong", "revoked": revoked.secret, "empty": ""}
    before = api.memory.revision
    for path, holder, told in under(api, GenerationMode.POSITIVE, keys):
        assert path in OPEN or told.status_code in (400, 401, 415, 422), (path, holder)
    assert api.memory.revision == before


def routes_of(app: FastAPI) -> Iterator[Any]:
    """All routes; FastAPI keeps those of an included router in it."""
    for route in app.routes:
        inner = getattr(route, "original_router", None)
        yield from inner.routes if inner else [route]


def test_every_route_is_described(api: Api) -> None:
    described = api.schema.raw_schema["paths"]
    routes = [route for route in routes_of(api.app) if route.path not in UNDESCRIBED]
    assert len(routes) > 20
    for route in routes:
        for method in route.methods - {"HEAD"}:
            assert method.lower() in described.get(route.path, {}), f"{method} {route.path}"


def test_every_route_of_fastapi_reads_its_body_strictly(api: Api) -> None:
    routes = [route for route in routes_of(api.app) if isinstance(route, APIRoute)]
    assert len(routes) > 10
    assert [route.path for route in routes if not isinstance(route, StrictRoute)] == []


def test_errors_are_described_in_openais_form(api: Api) -> None:
    text = str(api.schema.raw_schema)
    assert "HTTPValidationError" not in text
    for path, operations in api.schema.raw_schema["paths"].items():
        for operation in operations.values():
            assert {"401", "403", "413", "422", "503"} <= set(operation["responses"]), path
