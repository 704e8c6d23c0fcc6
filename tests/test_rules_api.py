"""Rules and decisions over HTTP, with keys that may and may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from comity import Memory, Rule
from comity.errors import RuleError, SettingsError
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.serving.app import create_app
from comity.serving.auth import Role, create_key
from comity.serving.config import Gateway

QUAY = {"id": "quay/Article 1", "text": "Boats leave the quay by nine.", "place": "CN-SH"}


class Api:
    """The API with a key of each role."""

    def __init__(self, memory: Memory, client: TestClient) -> None:
        self.memory, self.client = memory, client
        self._keys: dict[tuple[str, str], str] = {}

    def __call__(
        self, role: Role, method: str, path: str, *, tenant: str = "default", **more: Any
    ) -> Any:
        if (tenant, role) not in self._keys:
            self._keys[(tenant, role)] = create_key(self.memory, tenant, role).secret
        headers = {"authorization": f"Bearer {self._keys[(tenant, role)]}"}
        return self.client.request(method, path, headers=headers, **more)


@pytest.fixture
def api() -> Iterator[Api]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add([Rule(id="first", text="Somebody has to begin.")])
        config = Gateway(approval_above="statute")
        app = create_app(memory, config, models={"bot": ScriptedModel(["By nine [R1]."])})
        with TestClient(app) as client:
            yield Api(memory, client)


def test_a_rule_is_added_found_amended_and_repealed(api: Api) -> None:
    made = api("editor", "POST", "/rules", json={"rules": [QUAY], "note": "new quay"})
    assert (made.status_code, made.json()["revision"]) == (201, 2)
    found = api("editor", "GET", "/rules/search", params={"q": "boats", "place": "CN-SH"}).json()
    assert found[0]["id"] == QUAY["id"]
    amended = api(
        "editor",
        "POST",
        "/rules/amend",
        params={"id": QUAY["id"]},
        json={"changes": {"text": "Boats leave the quay by ten."}},
    ).json()
    assert amended["rules"][0]["version"] == 2
    diff = api("editor", "GET", "/rules/diff", params={"id": QUAY["id"]}).json()
    assert diff["text"]["new"] == "Boats leave the quay by ten."
    ended = api("editor", "POST", "/rules/repeal", params={"id": QUAY["id"]}, json={})
    assert ended.json()["rules"][0]["status"] == "repealed"
    versions = api("editor", "GET", "/rules/history", params={"id": QUAY["id"]}).json()
    assert [each["rule"]["version"] for each in versions] == [1, 2, 3]
    listed = api("editor", "GET", "/rules", params={"after": "first"}).json()
    assert [each["rule"]["id"] for each in listed] == [QUAY["id"]]


def test_a_high_rule_waits_for_a_second_person(api: Api) -> None:
    law = {**QUAY, "authority": "statute"}
    api("editor", "POST", "/rules", json={"rules": [law]})
    hidden = api("editor", "GET", "/rules/search", params={"q": "boats", "place": "CN-SH"})
    assert QUAY["id"] not in [each["id"] for each in hidden.json()]
    refused = api("editor", "POST", "/rules/approve", params={"id": QUAY["id"]}, json={})
    assert refused.status_code == 403
    done = api("approver", "POST", "/rules/approve", params={"id": QUAY["id"]}, json={})
    assert done.json()["rules"][0]["status"] == "active"


def test_an_admin_cannot_approve_what_it_wrote_itself(api: Api) -> None:
    api("admin", "POST", "/rules", json={"rules": [{**QUAY, "authority": "statute"}]})
    refused = api("admin", "POST", "/rules/approve", params={"id": QUAY["id"]}, json={})
    assert refused.status_code == 403
    assert "another person" in refused.json()["error"]["message"]


def test_an_approved_rule_cannot_be_changed_behind_the_approver(api: Api) -> None:
    api("editor", "POST", "/rules", json={"rules": [{**QUAY, "authority": "statute"}]})
    api("approver", "POST", "/rules/approve", params={"id": QUAY["id"]}, json={})
    amended = api(
        "editor",
        "POST",
        "/rules/amend",
        params={"id": QUAY["id"]},
        json={"changes": {"authority": "policy", "text": "Boats may stay."}},
    ).json()
    assert amended["rules"][0]["status"] == "draft"
    again = api(
        "editor",
        "POST",
        "/rules/amend",
        params={"id": QUAY["id"]},
        json={"changes": {"status": "active"}},
    ).json()
    assert again["rules"][0]["status"] == "draft"
    hidden = {"changes": {"status": "repealed"}}
    ended = api("editor", "POST", "/rules/amend", params={"id": QUAY["id"]}, json=hidden)
    assert (ended.status_code, ended.json()["error"]["param"]) == (400, "changes.status")


def quays(api: Api) -> list[str]:
    """Ids of what is in force at the quay."""
    found = api("editor", "GET", "/rules/search", params={"q": "boats", "place": "CN-SH"})
    return [each["id"] for each in found.json() if each["id"] == QUAY["id"]]


def test_the_end_of_a_high_rule_waits_for_a_second_person(api: Api) -> None:
    named = {"id": QUAY["id"]}
    api("editor", "POST", "/rules", json={"rules": [{**QUAY, "authority": "statute"}]})
    api("approver", "POST", "/rules/approve", params=named, json={})
    ending = {"note": "no boats any more"}
    proposed = api("editor", "POST", "/rules/repeal", params=named, json=ending).json()
    assert proposed["rules"][0]["status"] == "draft"
    assert quays(api) == [QUAY["id"]]
    (waiting,) = api("approver", "GET", "/rules/drafts").json()
    assert (waiting["proposes"], waiting["note"]) == ("end", "no boats any more")
    assert list(waiting["changes"]) == ["valid_to"]
    done = api("approver", "POST", "/rules/approve", params=named, json={}).json()
    assert done["rules"][0]["status"] == "repealed"
    assert quays(api) == []
    assert api("approver", "GET", "/rules/drafts").json() == []


def test_who_proposes_the_end_of_a_rule_cannot_approve_it(api: Api) -> None:
    named = {"id": QUAY["id"]}
    api("editor", "POST", "/rules", json={"rules": [{**QUAY, "authority": "statute"}]})
    api("approver", "POST", "/rules/approve", params=named, json={})
    api("admin", "POST", "/rules/repeal", params=named, json={})
    assert api("admin", "POST", "/rules/approve", params=named, json={}).status_code == 403
    assert quays(api) == [QUAY["id"]]
    assert api("approver", "POST", "/rules/reject", params=named, json={}).status_code == 200
    assert quays(api) == [QUAY["id"]]


def test_an_approver_approves_the_draft_that_was_looked_at_and_no_other(api: Api) -> None:
    named = {"id": QUAY["id"]}
    api("editor", "POST", "/rules", json={"rules": [{**QUAY, "authority": "statute"}]})
    worse = {"changes": {"text": "Boats may stay for ever."}}
    api("editor", "POST", "/rules/amend", params=named, json=worse)
    late = api("approver", "POST", "/rules/approve", params=named, json={"version": 1})
    assert (late.status_code, late.json()["error"]["param"]) == (409, "version")
    assert quays(api) == []
    with pytest.raises(RuleError, match="version 2 is the newest by now, not 1"):
        api.memory.approve(QUAY["id"], version=1)
    done = api("approver", "POST", "/rules/approve", params=named, json={"version": 2})
    assert done.json()["rules"][0]["text"] == "Boats may stay for ever."


def test_a_high_rule_that_has_run_out_is_not_undone_for_its_time_without_a_second_person(
    api: Api,
) -> None:
    named, then = {"id": QUAY["id"]}, {"q": "boats", "place": "CN-SH", "at": "2020-06-01"}
    old = {**QUAY, "authority": "statute", "valid_from": "2020-01-01", "valid_to": "2021-01-01"}
    api("editor", "POST", "/rules", json={"rules": [old]})
    api("approver", "POST", "/rules/approve", params=named, json={})
    undone = api("editor", "POST", "/rules/repeal", params=named, json={"at": "2019-01-01"})
    assert undone.status_code == 400
    undone = api("editor", "POST", "/rules/repeal", params=named, json={"at": "2020-03-01"})
    assert undone.json()["rules"][0]["status"] == "draft"
    found = api("editor", "GET", "/rules/search", params=then).json()
    assert QUAY["id"] in [each["id"] for each in found]


def test_a_draft_that_never_held_is_withdrawn_without_a_second_person(api: Api) -> None:
    api("editor", "POST", "/rules", json={"rules": [{**QUAY, "authority": "statute"}]})
    ended = api("editor", "POST", "/rules/repeal", params={"id": QUAY["id"]}, json={})
    assert ended.json()["rules"][0]["status"] == "repealed"


def test_drafts_say_what_they_would_change_and_who_made_them(api: Api) -> None:
    api(
        "editor", "POST", "/rules", json={"rules": [QUAY, {**QUAY, "id": "new", "status": "draft"}]}
    )
    draft = {"changes": {"text": "Boats may stay.", "status": "draft"}}
    api("editor", "POST", "/rules/amend", params={"id": QUAY["id"]}, json=draft)
    added, amended = api("approver", "GET", "/rules/drafts").json()
    assert (added["rule"]["id"], added["proposes"], added["changes"]) == ("new", "add", {})
    assert amended["proposes"] == "amend"
    assert amended["changes"]["text"] == {"old": QUAY["text"], "new": "Boats may stay."}
    assert amended["author"].startswith("k-")
    listed = api("approver", "GET", "/rules", params={"status": "draft"}).json()
    assert [each["rule"]["id"] for each in listed] == ["new", QUAY["id"]]


def test_rules_are_listed_by_place_words_and_page(api: Api) -> None:
    more = [{"id": f"r{n}", "text": f"Nets are mended {n}.", "place": "CN"} for n in range(3)]
    api("editor", "POST", "/rules", json={"rules": [QUAY, *more]})

    def ids(**params: str | int) -> list[str]:
        told = api("editor", "GET", "/rules", params=params)
        return [each["rule"]["id"] for each in told.json()]

    assert ids(place="CN", limit=2) == [QUAY["id"], "r0"]
    assert ids(place="CN", after="r0") == ["r1", "r2"]
    assert ids(place="Shanghai") == [QUAY["id"]]
    assert ids(text="mended 1") == ["r1"]
    assert ids(as_of=1) == ["first"]
    assert api("editor", "GET", "/rules", params={"as_of": 99}).status_code == 404
    assert api("editor", "GET", "/rules", params={"place": "QQ"}).status_code == 400


def test_decisions_are_listed_verified_replayed_and_traced_to_rules(api: Api) -> None:
    api("editor", "POST", "/rules", json={"rules": [QUAY]})
    body = {
        "model": "bot",
        "messages": [{"role": "user", "content": "When do boats leave?"}],
        "metadata": {"comity_place": "CN-SH"},
    }
    told = api("client", "POST", "/v1/chat/completions", json=body).json()["comity"]
    (decision,) = api("auditor", "GET", "/decisions").json()
    assert decision["id"] == told["decision"]
    assert api("auditor", "GET", "/decisions", params={"after": decision["id"]}).json() == []
    assert api("auditor", "GET", "/decisions/verify").json()["decisions"] == 1
    (one,) = api("auditor", "GET", "/decisions/affected", params={"id": QUAY["id"]}).json()
    assert one["decision"] == decision["id"]
    assert one["part"] == ["cited", "kept"]
    api("editor", "POST", "/rules/repeal", params={"id": QUAY["id"]}, json={})
    where = {"id": decision["id"]}
    assert api("auditor", "GET", "/decisions/replay", params=where).json()["same"] is True
    now = api("auditor", "GET", "/decisions/replay", params={**where, "under": "now"}).json()
    assert (now["same"], [ref["id"] for ref in now["went"]]) == (False, [QUAY["id"]])
    assert api("auditor", "GET", "/decisions/show", params=where).json() == decision


def test_all_answers_that_rest_on_a_rule_are_replayed_page_by_page(api: Api) -> None:
    api("editor", "POST", "/rules", json={"rules": [QUAY]})
    for day in ("", "", "2020-01-01"):
        body = {
            "model": "bot",
            "messages": [{"role": "user", "content": "When do boats leave?"}],
            "metadata": {"comity_place": "CN-SH"} | ({"comity_at": day} if day else {}),
        }
        assert api("client", "POST", "/v1/chat/completions", json=body).status_code == 200
    change = {"changes": {"text": "Boats leave the quay by ten."}}
    api("editor", "POST", "/rules/amend", params={"id": QUAY["id"]}, json=change)

    def replays(**params: str | int | list[str]) -> Any:
        return api("auditor", "GET", "/decisions/replays", params=params).json()

    told = replays(rule=QUAY["id"], under="now")
    assert told["summary"] == {
        "replayed": 3,
        "erased": 0,
        "same": 1,
        "changed": 2,
        "rules": [{"id": QUAY["id"], "then": 1, "now": 2, "decisions": 2}],
    }
    assert [each["same"] for each in told["decisions"]] == [False, False]
    first = replays(rule=QUAY["id"], under="now", limit=2)
    rest = replays(rule=QUAY["id"], under="now", limit=2, after=first["next"])
    assert (first["summary"]["changed"], rest["summary"]["same"], rest["next"]) == (2, 1, "")
    assert replays(since="2999-01-01")["summary"]["replayed"] == 0
    named = [each["decision"] for each in told["decisions"]]
    assert replays(id=named, under="now", facts="then", changed=False)["summary"]["same"] == 2
    assert replays(under="now", as_of=1)["error"]["param"] == "under"
    assert replays(facts="now")["error"]["param"] == "facts"


def test_decisions_are_filtered_by_what_became_of_them(api: Api) -> None:
    body = {"model": "bot", "messages": [{"role": "user", "content": "When do boats leave?"}]}
    api("client", "POST", "/v1/chat/completions", json=body)

    def count(**params: str) -> int:
        return len(api("auditor", "GET", "/decisions", params=params).json())

    assert (count(withheld="true"), count(withheld="false")) == (0, 1)
    assert (count(until="2020-01-01"), count(since="2020-01-01")) == (0, 1)
    assert (count(model="none"), count(rule="first"), count(rule="first", version="2")) == (0, 1, 0)


def test_what_is_coming_is_told(api: Api) -> None:
    api("editor", "POST", "/rules", json={"rules": [{**QUAY, "valid_from": "2999-01-01"}]})
    span = {"since": "2998-12-31", "until": "2999-02-01"}
    (change,) = api("editor", "GET", "/rules/upcoming", params=span).json()
    assert (change["kind"], change["after"]["id"]) == ("begins", QUAY["id"])


@pytest.mark.parametrize(
    "path",
    [
        "/rules/search?q=x&at=0001-01-01T00:00:00%2B14:00",
        "/rules/upcoming?since=0001-01-01T00:00:00%2B14:00&until=2026-01-01",
    ],
)
def test_a_time_that_utc_has_no_year_for_is_refused(api: Api, path: str) -> None:
    told = api("editor", "GET", path)
    assert (told.status_code, "years 1 to 9999" in told.json()["error"]["message"]) == (422, True)


@pytest.mark.parametrize(
    ("role", "method", "path"),
    [
        ("client", "GET", "/rules"),
        ("client", "GET", "/decisions"),
        ("editor", "GET", "/decisions"),
        ("auditor", "POST", "/rules/repeal?id=first"),
        ("auditor", "POST", "/v1/chat/completions"),
        ("approver", "POST", "/rules/amend?id=first"),
    ],
)
def test_a_role_may_do_its_own_things_alone(api: Api, role: Role, method: str, path: str) -> None:
    bodies = {"/rules/amend?id=first": {"changes": {"text": "x"}}}
    told = api(role, method, path, json=bodies.get(path, {}))
    assert told.status_code == 403
    assert told.json()["error"]["code"] == "forbidden"


def test_another_tenants_rules_and_decisions_are_not_there(api: Api) -> None:
    api.memory.add([Rule(id="theirs", text="Of another house.", tenant="acme")])
    shown = api("admin", "GET", "/rules").json()
    assert "theirs" not in [each["rule"]["id"] for each in shown]
    missing = api("admin", "GET", "/rules/history", params={"id": "theirs"})
    assert missing.status_code == 404
    smuggled = api("admin", "POST", "/rules", json={"rules": [{**QUAY, "tenant": "acme"}]})
    assert smuggled.json()["rules"][0]["tenant"] == "default"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"rules": []}, 422),
        ({"rules": [{"id": "x"}]}, 422),
        ({"rules": [{"id": "x", "text": "y", "place": "QQ-QQ"}]}, 400),
        ({"rules": [{"id": "first", "text": "again"}]}, 400),
        ({"rules": [{"id": "x", "text": "y", "check": {"must_match": "("}}]}, 400),
    ],
)
def test_a_bad_rule_changes_nothing_and_says_why(api: Api, body: Any, status: int) -> None:
    told = api("editor", "POST", "/rules", json=body)
    assert told.status_code == status
    assert api.memory.revision == 1


def test_the_api_describes_itself(api: Api) -> None:
    paths = api.client.get("/openapi.json").json()["paths"]
    assert {"/rules", "/rules/upcoming", "/decisions/affected"} <= set(paths)


def test_a_rank_that_the_memory_does_not_know_stops_the_start() -> None:
    with (
        Memory.open("sqlite://", embedder=HashEmbedder(8)) as memory,
        pytest.raises(SettingsError, match="no rank 'king'"),
    ):
        create_app(memory, Gateway(approval_above="king"))
