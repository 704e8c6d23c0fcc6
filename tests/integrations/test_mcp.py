"""The MCP server with the SDK's own client: in memory, over stdio, and over HTTP with keys."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import mcp.client.stdio  # noqa: F401 - keeps the stderr it finds, which is another in some tests
import pytest

from comity import Memory, Rule
from comity.integrations.mcp_resources import list_rules, uri_of
from comity.memory.embed import HashEmbedder
from comity.records import Check
from comity.serving.auth import create_key
from comity_command import Command
from test_gateway import served

RULES = [
    Rule(id="park/dogs", title="Park Order", text="Dogs are kept on a leash", place="CN-SH"),
    Rule(id="free", text="Dogs run free", place="CN-SH", overrides="park/dogs", authority="custom"),
    Rule(
        id="doses",
        title="Chat Policy",
        text="No doses are named.",
        mandatory=True,
        enforcement="block",
        check=Check(must_not_match=r"\d+ mg"),
    ),
    Rule(id="draft", text="Dogs wear hats", status="draft"),
]
POLL = 0.01
ASKED: dict[str, Any] = {"question": "May dogs run free?", "place": ["CN-SH"]}


@pytest.fixture
def rules() -> Iterator[Memory]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES)
        memory.add(Rule(id="theirs", text="Dogs of others run free", tenant="other"))
        yield memory


def in_memory(memory: Memory, tenant: str = "default", **more: Any) -> Any:
    from mcp import Client

    from comity.integrations.mcp import local_owner, rules_server

    server = rules_server(memory, who=local_owner(tenant), poll_seconds=POLL)
    return Client(server, **more)


def ids(rules: list[Any]) -> list[str]:
    return [rule["id"] for rule in rules]


async def test_rules_are_resources_and_drafts_are_not(rules: Memory) -> None:
    from mcp import MCPError

    async with in_memory(rules) as client:
        listed = (await client.list_resources()).resources
        assert [each.uri for each in listed] == [
            "comity://rules/doses",
            "comity://rules/free",
            "comity://rules/park%2Fdogs",
        ]
        assert (listed[2].title, listed[2].name) == ("Park Order", "park/dogs@1")
        templates = (await client.list_resource_templates()).resource_templates
        assert [each.uri_template for each in templates] == [
            "comity://rules/{id}",
            "comity://rules/{id}/versions/{version}",
        ]
        with pytest.raises(MCPError, match="waits for approval"):
            await client.read_resource("comity://rules/draft")


async def test_a_resource_is_what_holds_now_and_a_version_stays(rules: Memory) -> None:
    async def text(uri: str) -> str:
        (content,) = (await client.read_resource(uri)).contents
        told = json.loads(getattr(content, "text", ""))
        assert "tenant" not in told
        return str(told["text"])

    async with in_memory(rules) as client:
        uri = uri_of("park/dogs")
        assert await text(uri) == "Dogs are kept on a leash"
        rules.amend("park/dogs", {"text": "Dogs stay out"})
        rules.amend("park/dogs", {"text": "Later", "valid_from": datetime(2990, 1, 1, tzinfo=UTC)})
        assert await text(uri) == "Dogs stay out"
        assert await text(uri_of("park/dogs", 1)) == "Dogs are kept on a leash"
        rules.repeal("free")
        assert "comity://rules/free" not in [
            each.uri for each in (await client.list_resources()).resources
        ]


@pytest.mark.parametrize(
    "uri", ["comity://rules/none", "comity://rules/theirs", "comity://rules/free/versions/7", "x:y"]
)
async def test_what_is_not_there_or_anothers_is_not_found(rules: Memory, uri: str) -> None:
    from mcp import MCPError

    async with in_memory(rules) as client:
        with pytest.raises(MCPError, match=r"no rule|no version|no resource"):
            await client.read_resource(uri)


def test_many_rules_are_listed_page_by_page(memory: Memory) -> None:
    memory.add([Rule(id=f"r{n:03}", text=f"Rule {n}") for n in range(401)])
    first = list_rules(memory, "default")
    second = list_rules(memory, "default", first.after or "")
    last = list_rules(memory, "default", second.after or "")
    assert [len(page.rules) for page in (first, second, last)] == [200, 200, 1]
    assert last.after is None
    found = [rule.id for page in (first, second, last) for rule in page.rules]
    assert found == [f"r{n:03}" for n in range(401)]


async def test_tools_give_what_their_schema_says(rules: Memory) -> None:
    import jsonschema

    async with in_memory(rules) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search_rules", "rules_in_force", "check_answer"}
        for name, more in (("search_rules", {}), ("rules_in_force", {}), ("check_answer", ANSWER)):
            given = await client.call_tool(name, {**ASKED, **more})
            assert not given.is_error, given.content
            schema = tools[name].output_schema
            assert schema is not None
            jsonschema.validate(given.structured_content, schema)
            assert json.loads(getattr(given.content[0], "text", "")) == given.structured_content


ANSWER = {"answer": "On a leash [R1]."}


async def test_search_finds_and_the_ruling_decides(rules: Memory) -> None:
    async with in_memory(rules) as client:
        found = (await client.call_tool("search_rules", ASKED)).structured_content or {}
        assert {"park/dogs", "free"} <= set(ids(found["rules"]))
        assert "theirs" not in ids(found["rules"])
        assert all(rule["score"] > 0 for rule in found["rules"])
        ruling = (await client.call_tool("rules_in_force", ASKED)).structured_content or {}
        assert ids(ruling["kept"]) == ["park/dogs", "doses"]
        (lost,) = ruling["overruled"]
        assert (lost["id"], lost["winner"], lost["reason"]) == (
            "free",
            "park/dogs",
            "higher authority",
        )
        assert "Dogs are kept on a leash" in ruling["prompt"]
        # what the call leaves open is read from the question
        named = {"question": "May dogs run free in Shanghai?"}
        ruling = (await client.call_tool("rules_in_force", named)).structured_content or {}
        assert ruling["place"] == ["CN-SH"]


async def test_a_checked_answer_leaves_a_record(rules: Memory) -> None:
    async with in_memory(rules) as client:
        asked = {**ASKED, "answer": "Take 20 mg.", "model": "bot"}
        verdict = (await client.call_tool("check_answer", asked)).structured_content or {}
        assert verdict["withheld"]
        assert "Chat Policy" in verdict["text"]
        assert [f["outcome"] for f in verdict["findings"]] == ["violated"]
        fine = await client.call_tool("check_answer", {**ASKED, "answer": "Keep it leashed [R1]."})
        told = fine.structured_content or {}
        assert (told["withheld"], told["text"]) == (False, "Keep it leashed [R1].")
        assert told["citations"][0]["id"] == "park/dogs"
    refused, released = rules.store.decisions("default")
    assert (refused.id, refused.model, refused.withheld) == (verdict["decision"], "bot", True)
    assert (released.id, released.withheld) == (told["decision"], False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "question"),
        ({"question": "x", "k": 0}, "k:"),
        ({"question": "x", "place": ["XX-Nowhere"]}, "XX-Nowhere"),
        ({"question": "x", "tenant": "other"}, "tenant"),
    ],
)
async def test_a_wrong_call_is_told_so_that_a_model_can_mend_it(
    rules: Memory, arguments: dict[str, Any], said: str
) -> None:
    async with in_memory(rules) as client:
        given = await client.call_tool("search_rules", arguments)
        assert given.is_error
        assert said in getattr(given.content[0], "text", "")


async def test_a_change_is_told_to_who_listens_and_to_no_other_tenant(rules: Memory) -> None:
    from mcp.client.subscriptions import ResourcesListChanged, ResourceUpdated

    uri = uri_of("park/dogs")
    async with (
        in_memory(rules) as client,
        client.listen(resources_list_changed=True, resource_subscriptions=[uri]) as changes,
        asyncio.timeout(20),
    ):
        rules.amend("theirs", {"text": "Dogs of others stay"}, tenant="other")
        rules.add(Rule(id="new", text="Cats may stay"))
        assert await anext(aiter(changes)) == ResourcesListChanged()
        rules.amend("park/dogs", {"text": "Dogs stay out"})
        seen = [await anext(aiter(changes)), await anext(aiter(changes))]
        assert ResourceUpdated(uri=uri) in seen
    async with (
        in_memory(rules, "other") as client,
        client.listen(resources_list_changed=True) as changes,
    ):
        rules.amend("new", {"text": "Cats must stay"})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(20 * POLL):
                await anext(aiter(changes))


async def test_an_older_client_is_told_of_the_rules_it_follows(rules: Memory) -> None:
    from mcp.shared.exceptions import MCPDeprecationWarning

    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        await heard.put(f"{message.method} {getattr(message.params, 'uri', '')}".strip())

    uri = uri_of("park/dogs")
    async with (
        in_memory(rules, mode="legacy", message_handler=hear) as client,
        asyncio.timeout(20),
    ):
        with pytest.warns(MCPDeprecationWarning):
            await client.subscribe_resource(uri)
        rules.amend("park/dogs", {"text": "Dogs stay out"})
        assert await heard.get() == f"notifications/resources/updated {uri}"
        assert await heard.get() == "notifications/resources/list_changed"
        with pytest.warns(MCPDeprecationWarning):
            await client.unsubscribe_resource(uri)
        rules.amend("park/dogs", {"text": "Dogs may come in"})
        await asyncio.sleep(10 * POLL)
        assert heard.empty()


async def test_the_process_serves_its_tenant_on_stdin_and_stdout(tmp_path: Path) -> None:
    from mcp import Client, StdioServerParameters
    from mcp.client.subscriptions import ResourceUpdated

    comity = Command(tmp_path)
    comity.done("add", comity.write("bylaws.md"), "--place", "CN-SH")
    arguments = ["-m", "comity", "mcp"]
    process = StdioServerParameters(
        command=sys.executable, args=arguments, env=comity.environ, cwd=tmp_path
    )
    async with Client(process) as client:
        found = await client.call_tool(
            "search_rules", {"question": "Are fireworks forbidden?", "place": ["CN-SH"], "k": 1}
        )
        (rule,) = (found.structured_content or {})["rules"]
        assert "Fireworks are forbidden" in rule["text"]
        async with (
            client.listen(resource_subscriptions=[uri_of(rule["id"])]) as changes,
            asyncio.timeout(30),
        ):
            await asyncio.to_thread(
                comity.done, "rules", "amend", rule["id"], "--text", "Fireworks are welcome"
            )
            assert await anext(aiter(changes)) == ResourceUpdated(uri=uri_of(rule["id"]))
        held = await client.read_resource(rule["uri"].partition("/versions/")[0])
        assert "Fireworks are welcome" in getattr(held.contents[0], "text", "")


@asynccontextmanager
async def over_http(url: str, key: str) -> Any:
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


async def test_over_http_a_key_says_whose_rules_are_seen_and_what_may_be_done(
    rules: Memory,
) -> None:
    from mcp import MCPError
    from mcp.client.subscriptions import ResourcesListChanged

    from comity.integrations.mcp import http_app

    keys = {
        name: create_key(rules, tenant, role)  # type: ignore[arg-type]  # roles, below
        for name, tenant, role in (
            ("mine", "default", "auditor"),
            ("theirs", "other", "auditor"),
            ("client", "default", "client"),
        )
    }
    with served(http_app(rules, poll_seconds=POLL)) as base:
        url = base.removesuffix("/v1") + "/mcp"
        async with over_http(url, keys["mine"].secret) as client:
            listed = [each.uri for each in (await client.list_resources()).resources]
            assert "comity://rules/park%2Fdogs" in listed
            tools = [tool.name for tool in (await client.list_tools()).tools]
            assert tools == ["search_rules", "rules_in_force"]
            given = await client.call_tool("check_answer", {**ASKED, **ANSWER})
            assert given.is_error
            assert "may not ask" in given.content[0].text
            async with client.listen(resources_list_changed=True) as changes, asyncio.timeout(20):
                rules.add(Rule(id="new", text="Cats may stay"))
                assert await anext(aiter(changes)) == ResourcesListChanged()
        async with over_http(url, keys["theirs"].secret) as client:
            listed = [each.uri for each in (await client.list_resources()).resources]
            assert listed == ["comity://rules/theirs"]
        async with over_http(url, keys["client"].secret) as client:
            given = await client.call_tool("check_answer", {**ASKED, **ANSWER})
            assert not given.is_error
            with pytest.raises(MCPError, match="may not read rules"):
                await client.list_resources()
            rules.store.revoke_key(keys["client"].key.id, datetime.now(UTC))
            with pytest.raises(MCPError, match="error response"):
                await client.call_tool("check_answer", {**ASKED, **ANSWER})
        revoked = {"authorization": f"Bearer {keys['client'].secret}"}
        assert [httpx.post(url, json={}, headers=h).status_code for h in (revoked, {})] == [401] * 2
