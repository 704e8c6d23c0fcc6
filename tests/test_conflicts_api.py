"""Suspected conflicts over HTTP: readers list them, approvers decide, and high ranks need two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from comity import Memory, Rule
from comity.alignment.aligner import Options
from comity.alignment.checks import Judge
from comity.alignment.conflict_scan import plan, scan
from comity.errors import SettingsError
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.records import Request
from comity.serving.app import create_app
from comity.serving.auth import Role, create_key
from comity.serving.config import Gateway

RULES = (
    Rule(id="acts/nine", text="Shops close at nine.", authority="statute"),
    Rule(id="ten", text="Shops close at ten.", authority="local"),
    Rule(id="six", text="Shops close at six.", authority="local"),
)


def clerk(request: Request) -> str:
    """Finds a contradiction between any two rules."""
    quoted = [line[2:] for line in request.messages[-1].content.splitlines() if line[:2] == "| "]
    names = ("first_quotation", "second_quotation")
    found = dict(zip(names, quoted, strict=True))
    return json.dumps({"reason": "They differ.", **found, "verdict": "contradict"})


class Api:
    """The API, asked with keys by name; a name's role is what stands before its number."""

    def __init__(self, memory: Memory, client: TestClient) -> None:
        self.memory, self.client = memory, client
        self.keys: dict[tuple[str, str], str] = {}

    def __call__(
        self, who: str, method: str, path: str, tenant: str = "default", **more: Any
    ) -> Any:
        if (tenant, who) not in self.keys:
            role: Role = who.rstrip("12")  # type: ignore[assignment]
            self.keys[(tenant, who)] = create_key(self.memory, tenant, role).secret
        headers = {"authorization": f"Bearer {self.keys[(tenant, who)]}"}
        return self.client.request(method, path, headers=headers, **more)

    def pair(self, *rules: str) -> str:
        """Name of the finding on two rules."""
        listed = self("auditor", "GET", "/rules/conflicts", params={"settled": True}).json()
        name: str = next(
            each["finding"]["id"]
            for each in listed
            if {each["finding"]["one"], each["finding"]["other"]} == set(rules)
        )
        return name


@pytest.fixture
def api() -> Iterator[Api]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES)
        pairs = plan(memory, "default", similarity=-1).pairs
        asyncio.run(scan(memory, "default", Judge(ScriptedModel(clerk)), pairs))
        app = create_app(memory, Gateway(approval_above="statute"))
        with TestClient(app) as client:
            yield Api(memory, client)


def test_readers_see_both_texts_the_reason_and_what_precedence_says(api: Api) -> None:
    listed = api("editor", "GET", "/rules/conflicts").json()
    assert [(each["one"]["id"], each["other"]["id"]) for each in listed] == [
        ("acts/nine", "six"),
        ("acts/nine", "ten"),
        ("six", "ten"),
    ]
    assert listed[0]["one"]["text"] == "Shops close at nine."
    assert listed[0]["finding"]["reason"] == "They differ."
    assert listed[0]["prospect"]["reason"] == "higher authority"
    assert (listed[2]["state"], listed[2]["prospect"]["outcome"]) == ("open", "tie")
    assert api("client", "GET", "/rules/conflicts").status_code == 403


def test_a_long_list_is_read_in_pages_also_while_it_shrinks(api: Api) -> None:
    (first,) = api("editor", "GET", "/rules/conflicts", params={"limit": 1}).json()
    name = first["finding"]["id"]
    why = {"note": "not the same shops"}
    done = api("approver", "POST", "/rules/conflicts/dismiss", params={"id": name}, json=why)
    assert done.json()["decided"] == "dismissed"
    rest = api("editor", "GET", "/rules/conflicts", params={"after": name}).json()
    assert len(rest) == 2
    everything = api("editor", "GET", "/rules/conflicts", params={"settled": True}).json()
    assert [each["state"] for each in everything] == ["dismissed", "open", "open"]
    assert everything[0]["decisions"][0]["note"] == "not the same shops"
    unknown = api("editor", "GET", "/rules/conflicts", params={"after": "c-0"})
    assert unknown.status_code == 404


def test_who_changes_rules_does_not_decide_on_conflicts(api: Api) -> None:
    for act in ("confirm", "dismiss"):
        for who in ("editor", "auditor", "client"):
            path, name = f"/rules/conflicts/{act}", {"id": api.pair("six", "ten")}
            assert api(who, "POST", path, params=name, json={"note": "x"}).status_code == 403


def test_an_approver_confirms_and_says_which_goes_first_in_a_tie(api: Api) -> None:
    path, name = "/rules/conflicts/confirm", {"id": api.pair("six", "ten")}
    tied = api("approver", "POST", path, params=name, json={})
    assert (tied.status_code, "put neither first" in tied.json()["error"]["message"]) == (400, True)
    done = api("approver", "POST", path, params=name, json={"first": "ten", "note": "newer"}).json()
    assert (done["rule"]["overrides"], done["rule"]["status"]) == (["six"], "active")
    assert (done["loser"], done["revision"]) == ("six", api.memory.revision)
    assert api("approver", "POST", path, params=name, json={}).status_code == 400


def test_a_confirmation_that_amends_a_high_rule_waits_for_another_person(api: Api) -> None:
    path, name = "/rules/conflicts/confirm", {"id": api.pair("acts/nine", "ten")}
    done = api("approver1", "POST", path, params=name, json={"note": "plain"}).json()
    assert (done["rule"]["status"], done["rule"]["version"]) == ("draft", 2)
    listed = api("editor", "GET", "/rules/conflicts").json()
    assert "waiting" in {each["state"] for each in listed}
    rule = {"id": "acts/nine"}
    own = api("approver1", "POST", "/rules/approve", params=rule, json={})
    assert own.status_code == 403
    approved = api("approver2", "POST", "/rules/approve", params=rule, json={})
    assert approved.json()["rules"][0]["overrides"] == ["ten"]
    assert api.pair("acts/nine", "ten") not in {
        each["finding"]["id"] for each in api("editor", "GET", "/rules/conflicts").json()
    }


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/rules/conflicts/dismiss", {}, 422),
        ("/rules/conflicts/dismiss", {"note": ""}, 422),
        ("/rules/conflicts/confirm", {"winner": "ten"}, 422),
    ],
)
def test_a_body_that_says_too_little_or_too_much_is_refused(
    api: Api, path: str, body: dict[str, str], status: int
) -> None:
    params = {"id": api.pair("six", "ten")}
    assert api("approver", "POST", path, params=params, json=body).status_code == status


def test_another_tenants_findings_are_not_there(api: Api) -> None:
    api.memory.add([rule.model_copy(update={"tenant": "acme"}) for rule in RULES])
    assert api("admin", "GET", "/rules/conflicts", tenant="acme").json() == []
    for act in ("confirm", "dismiss"):
        told = api(
            "admin",
            "POST",
            f"/rules/conflicts/{act}",
            tenant="acme",
            params={"id": api.pair("six", "ten")},
            json={"note": "mine"},
        )
        assert told.status_code == 404


def test_the_gateway_has_rules_compared_beside_its_answers() -> None:
    judge = ScriptedModel(clerk)
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES)
        app = create_app(
            memory,
            Gateway(),
            Options(judge_conflicts=True),
            judge=judge,
            models={"bot": ScriptedModel(["At nine [R1]."])},
        )
        with TestClient(app) as client:
            api = Api(memory, client)
            body = {"model": "bot", "messages": [{"role": "user", "content": "When?"}]}
            api("client", "POST", "/v1/chat/completions", json=body)
            assert client.portal is not None
            client.portal.call(app.state.conflicts.idle)
            api("client", "POST", "/v1/chat/completions", json=body)
            first, second = api("auditor", "GET", "/decisions").json()
    assert (len(first["suspected"]), len(second["suspected"])) == (0, 3)


def test_conflicts_are_not_judged_without_a_judge() -> None:
    with (
        Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory,
        pytest.raises(SettingsError, match="judge_conflicts: there is no judge"),
    ):
        create_app(memory, Gateway(), Options(judge_conflicts=True))
