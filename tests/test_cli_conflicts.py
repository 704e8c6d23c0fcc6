"""`comity rules conflicts`: what a judge suspects, for the owner of the rules to decide."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from comity.alignment.checks import Judge
from comity.alignment.conflict_scan import plan, scan
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.models.scripted import ScriptedModel
from comity_command import Command

RULES = """\
{"id": "nine", "text": "Shops close at nine.", "place": "CN-HN", "authority": "local"}
{"id": "ten", "text": "Shops close at ten.", "place": "CN", "authority": "local"}
{"id": "six", "text": "Shops close at six.", "place": "CN", "authority": "local"}
{"id": "elsewhere", "text": "Shops close at one.", "place": "FR"}
"""
NEAR = ("--similarity", "-1", "-k", "9")


@pytest.fixture
def comity(tmp_path: Path) -> Command:
    command = Command(tmp_path)
    command.done("add", command.write("rules.jsonl", RULES))
    return command


def clerk(prompt: str) -> str:
    """Finds a contradiction between any two rules."""
    first, second = (line[2:] for line in prompt.splitlines() if line.startswith("| "))
    quoted = {"first_quotation": first, "second_quotation": second}
    return json.dumps({"reason": "They differ.", **quoted, "verdict": "contradict"})


@contextmanager
def endpoint(comity: Command) -> Iterator[None]:
    """The clerk behind an OpenAI-compatible address, as the judge of the settings."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            delta = {"content": clerk(asked["messages"][-1]["content"])}
            choices = [{"index": 0, "delta": delta, "finish_reason": "stop"}]
            chunk = {"id": "1", "object": "chat.completion.chunk", "choices": choices}
            body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        judge = {"COMITY_BASE_URL": url, "COMITY_API_KEY": "k", "COMITY_JUDGE": "openai:m"}
        comity.environ |= judge
        yield
        server.shutdown()
        thread.join()


@pytest.fixture
def suspicious(comity: Command) -> Command:
    """The rules, and three suspicions among them."""
    model = ScriptedModel(lambda request: clerk(request.messages[-1].content), name="openai:m")
    with Memory.open(comity.environ["COMITY_MEMORY"], embedder=HashEmbedder()) as memory:
        pairs = plan(memory, "default", neighbours=9, similarity=-1).pairs
        asyncio.run(scan(memory, "default", Judge(model), pairs))
    return comity


def pair(comity: Command, one: str, other: str) -> str:
    """Name of the finding on two rules."""
    listed = comity.json("rules", "conflicts", "--all")
    ids = {(c["finding"]["one"], c["finding"]["other"]): c["finding"]["id"] for c in listed}
    return str(ids[one, other])


def test_a_scan_judges_each_near_pair_once(comity: Command) -> None:
    dry = comity("rules", "conflicts", "scan", *NEAR, "--dry-run")
    assert "4 rules: 3 near pairs to judge, 0 judged before" in dry.stderr
    with endpoint(comity):
        first = comity.json("rules", "conflicts", "scan", *NEAR, "--limit", "1")
        assert first == {
            "rules": 4,
            "judged_before": 0,
            "left": 2,
            "verdicts": {"contradict": 1},
        }
        rest = comity("rules", "conflicts", "scan", *NEAR)
        assert "2 near pairs to judge, 1 judged before" in rest.stderr
        assert rest.stdout.split() == ["contradict", "2"]
        assert "comity rules conflicts shows what may contradict" in rest.stderr
        assert comity.json("rules", "conflicts", "scan", *NEAR)["verdicts"] == {}


def test_a_scan_without_a_judge_or_with_one_that_only_fails_says_so(comity: Command) -> None:
    none = comity("rules", "conflicts", "scan")
    assert (none.exit_code, "give --judge NAME" in none.stderr) == (2, True)
    failed = comity("rules", "conflicts", "scan", *NEAR, "--judge", "scripted")
    assert (failed.exit_code, "none of 3 pairs could be judged" in failed.stderr) == (7, True)
    shown = comity.done("rules", "conflicts", "--verdict", "failed")
    assert "the judge's reply does not follow the schema" in shown


def test_the_list_shows_both_texts_the_reason_the_judge_and_who_would_win(
    suspicious: Command,
) -> None:
    shown = suspicious.done("rules", "conflicts")
    for said in (
        "nine@1; local; CN-HN; always",
        "Shops close at nine.",
        "Shops close at ten.",
        "They differ.",
        "“Shops close at nine.” / “Shops close at six.”",
        "openai:m, en-",
        "nine goes first: narrower place",
        "put neither first",
    ):
        assert said in shown
    assert suspicious("rules", "conflicts").stderr == "3 pairs\n"
    listed = suspicious.json("rules", "conflicts")
    assert [each["state"] for each in listed] == ["open"] * 3
    assert set(listed[0]) == {"finding", "state", "one", "other", "prospect", "decisions"}
    assert "no pairs (unsure)" in suspicious("rules", "conflicts", "--verdict", "unsure").stderr


def test_a_confirmed_conflict_overrides_and_is_in_the_history(suspicious: Command) -> None:
    name = pair(suspicious, "nine", "ten")
    done = suspicious("rules", "conflicts", "confirm", name, "--note", "the by-law is newer")
    assert done.stdout == "nine@2 overrides ten: narrower place\n"
    newest = suspicious.json("rules", "history", "nine")[-1]
    assert newest["overrides"] == ["ten"]
    history = suspicious.done("rules", "history", "nine")
    assert f"{name} confirmed: it contradicts ten@1; the by-law is newer" in history
    again = suspicious("rules", "conflicts", "confirm", name)
    assert (again.exit_code, "declared already" in again.stderr) == (3, True)
    assert "by Ada" in suspicious.done("rules", "conflicts", "--all")


def test_a_tie_needs_the_owners_word(suspicious: Command) -> None:
    name = pair(suspicious, "six", "ten")
    tied = suspicious("rules", "conflicts", "confirm", name)
    assert (tied.exit_code, "say which one goes first (--first ID)" in tied.stderr) == (3, True)
    done = suspicious.json("rules", "conflicts", "confirm", name, "--first", "six")
    assert (done["rule"]["id"], done["loser"], done["reason"]) == ("six", "ten", "declared")


def test_a_dismissed_pair_is_listed_no_more_but_kept_with_the_reason(suspicious: Command) -> None:
    name = pair(suspicious, "six", "ten")
    assert suspicious("rules", "conflicts", "dismiss", name).exit_code == 2
    suspicious.done("rules", "conflicts", "dismiss", name, "--note", "other shops")
    assert name not in suspicious.done("rules", "conflicts")
    shown = suspicious.done("rules", "conflicts", "--all")
    assert "dismissed" in shown
    assert "by Ada" in shown
    assert "other shops" in shown


def test_a_finding_that_is_not_there_is_an_error(comity: Command) -> None:
    for act in ("confirm", "dismiss"):
        result = comity("rules", "conflicts", act, "c-0", "--note", "x")
        assert (result.exit_code, "no finding 'c-0'" in result.stderr) == (4, True)


def test_an_answers_record_shows_the_rules_that_may_contradict(suspicious: Command) -> None:
    asked = suspicious.json("ask", "When do shops close?", "--place", "CN-HN")["decision"]
    assert len(asked["suspected"]) == 3
    shown = suspicious.done("decisions", "show", asked["id"])
    assert "Suspected of contradicting one another" in shown
    assert pair(suspicious, "nine", "ten") in shown
