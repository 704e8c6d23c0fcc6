"""`comity search`, `ask` and `decisions`: from a question to the record of its answer."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import apsw
import pytest

from comity_command import Command

RULES = """\
{"id": "dogs", "text": "Dogs must be kept on a lead [bold].", "place": "XA-NO", \
"title": "Dogs Act", "article": "Article 1", "authority": "statute", "valid_from": "2024-01-01"}
{"id": "town-dogs", "text": "Dogs may run free in the park.", "place": "XA-NO/Elm", \
"authority": "local", "overrides": ["dogs"]}
{"id": "kindness", "text": "Answer kindly.", "mandatory": true, "enforcement": "revise"}
{"id": "bakers", "text": "Bakers keep dogs out of the bakery.", "audience": ["baker"]}
"""
QUESTION = "May dogs run free in Elm [R1]?"


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path)
    command.done("add", command.write("first.jsonl", '{"id": "bread", "text": "Bread is good."}'))
    for code, name in (("XA", "Arl"), ("XA-NO", "Norl"), ("XA-NO/Elm", "Elm")):
        command.done("places", "add", code, "--name", name)
    command.done("add", command.write("rules.jsonl", RULES))
    return command


def test_the_json_of_a_search_has_its_stable_fields(comity: Command) -> None:
    hits = comity.json("search", "dogs on a lead", "--place", "XA-NO", "-k", "1")
    assert [list(hit) for hit in hits] == [
        [
            "id",
            "version",
            "title",
            "article",
            "text",
            "place",
            "audience",
            "authority",
            "valid_from",
            "valid_to",
            "score",
        ]
    ]
    assert hits[0] | {"score": 0} == {
        "id": "dogs",
        "version": 1,
        "title": "Dogs Act",
        "article": "Article 1",
        "text": "Dogs must be kept on a lead [bold].",
        "place": "XA-NO",
        "audience": [],
        "authority": "statute",
        "valid_from": "2024-01-01T00:00:00Z",
        "valid_to": None,
        "score": 0,
    }
    assert isinstance(hits[0]["score"], float)


def test_a_search_prints_rules_whole_and_word_for_word(comity: Command) -> None:
    said = comity.done("search", "dogs", "--place", "XA-NO")
    assert "Dogs must be kept on a lead [bold]." in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("dogs", "--place", "XA-NO"), "scope: Norl (XA-NO), given; for everybody; now"),
        (("dogs in Norl", "--audience", "baker"), "from the question; for baker, given; now"),
        (("dogs in Norl", "--at", "2025-03-01"), "at 2025-03-01, given"),
        (("dogs", "--as-of", "1"), "memory as of revision 1"),
        (("dogs",), "give --place, or set a default in COMITY_PLACE"),
    ],
)
def test_a_search_says_which_scope_it_used(
    comity: Command, arguments: tuple[str, ...], line: str
) -> None:
    assert line in comity("search", *arguments).stderr


def test_the_place_given_wins_over_the_one_in_the_question(comity: Command) -> None:
    found = comity.json("search", "dogs in Elm", "--place", "CN")
    assert {hit["place"] for hit in found} == {"world"}


def test_the_setting_place_is_for_questions_that_name_none(comity: Command) -> None:
    comity.environ["COMITY_PLACE"] = "XA-NO/Elm"
    assert "Elm (XA-NO/Elm), default" in comity("search", "dogs").stderr
    assert "Norl (XA-NO), from the question" in comity("search", "dogs in Norl").stderr


def test_a_search_obeys_time_and_revision(comity: Command) -> None:
    def ids(*options: str) -> set[str]:
        return {hit["id"] for hit in comity.json("search", "dogs", *options)}

    assert "dogs" in ids("--place", "XA-NO")
    assert "dogs" not in ids("--place", "XA-NO", "--at", "2023-12-31")
    assert ids("--as-of", "1") == {"bread"}


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("search", "  "), "is empty", 2),
        (("search", "dogs", "--at", "someday"), "'someday' is no date", 2),
        (("search", "dogs", "--as-of", "99"), "no revision 99", 4),
        (("search", "dogs", "--tenant", "acme"), "no tenant 'acme'", 4),
        (("search", "dogs", "--place", "XA-QQ"), "XA-QQ", 3),
        (("search", "dogs", "-k", "0"), "0 is not in the range", 2),
        (("search", "dogs", "--hits", "some"), "option --hits", 2),
        (("search", "dogs", "--embedder", "hsah"), "did you mean hash?", 2),
        (("search", "dogs", "--memory", "sqlite:///none.db"), "there is no memory at", 4),
        (
            ("search", "dogs", "--memory", "mysql://x"),
            "only sqlite:///FILE and postgresql://USER@HOST/DATABASE are",
            2,
        ),
        (("ask", "dogs", "--model", "locla"), "did you mean 'local'", 2),
        (("ask", "dogs", "--model", "openai:x"), "OPENAI_API_KEY", 2),
        (("ask", "dogs", "--budget", "-5"), "option --budget", 2),
        (("ask", "dogs", "--place", "XA-QQ"), "XA-QQ", 3),
        (("search", "dogs", "--audience", " "), "is empty", 2),
        (("ask", "dogs", "--audience", ""), "is empty", 2),
        (("decisions", "list", "--tenant", "typo"), "no tenant 'typo'", 4),
        (("decisions", "verify", "--tenant", "typo"), "no tenant 'typo'", 4),
        (("places", "list", "--tenant", "typo"), "no tenant 'typo'", 4),
        (("decisions", "show", "d-0"), "no decision 'd-0'", 4),
        (("decisions", "replay", "d-0"), "no decision 'd-0'", 4),
    ],
)
def test_wrong_use_is_told_without_a_traceback(
    comity: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
    code: int,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    result = comity(*arguments)
    assert message in result.stderr
    assert (result.exit_code, result.stdout) == (code, "")


def test_a_local_model_that_was_never_pulled_is_told(comity: Command) -> None:
    comity.environ["COMITY_CACHE"] = str(comity.folder / "elsewhere")
    result = comity("ask", "dogs", "--model", "local")
    assert "run: comity models pull" in result.stderr
    assert (result.exit_code, result.stdout) == (7, "")


def test_an_answer_comes_with_its_citations_scope_and_decision(comity: Command) -> None:
    result = comity("ask", QUESTION)
    assert result.exit_code == 0
    assert result.stdout.startswith(QUESTION)
    row = next(line for line in result.stdout.splitlines() if line.startswith("[R1]"))
    assert row.split()[:3] == ["[R1]", "mark", "dogs@1"]
    assert "[R1] Dogs must be kept on a lead [bold]." in result.stdout.splitlines()
    assert ("from 2024-01-01" in row, "XA-NO" in row) == (True, True)
    assert "Elm (XA-NO/Elm), from the question" in result.stderr
    assert "not checked, though these rules ask for it: kindness" in result.stderr
    assert "comity decisions show d-" in result.stderr


def test_at_a_terminal_nothing_is_printed_between_the_pieces(comity: Command) -> None:
    question = "Do dogs bark at night, and for how long, in Elm?"
    terminal, shown = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", "from comity.cli import main; main()", "ask", question],
        env=os.environ | comity.environ | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=shown,
        stderr=shown,
    )
    os.close(shown)
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        said = b""
        while b"comity decisions show" not in said:
            said += screen.read(4096)
        assert process.wait(60) == 0
    assert f"{question}\r\n\r\n" in said.decode()


def test_the_json_of_an_answer_has_its_stable_fields(comity: Command) -> None:
    answer = comity.json("ask", QUESTION)
    assert list(answer) == ["text", "citations", "decision"]
    assert (answer["text"], answer["citations"][0]["id"]) == (QUESTION, "dogs")
    kept = [ref["id"] for ref in answer["decision"]["kept"]]
    assert kept[0] == "dogs"
    assert "kindness" in kept


def test_an_answer_without_rules_stands_beside_the_aligned_one(comity: Command) -> None:
    said = comity.done("ask", QUESTION, "--compare")
    assert said.index("Without rules") < said.index("With rules")
    assert said.count(QUESTION) == 2
    assert comity.json("ask", QUESTION, "--compare")["without_rules"] == QUESTION


def test_an_answer_that_cites_nothing_says_so(comity: Command) -> None:
    result = comity("ask", "May dogs run in Elm?")
    assert "cites none of the rules" in result.stderr


@pytest.mark.parametrize(
    ("question", "note"),
    [
        ("Says [R9] that bread is good in Elm?", "cites [R9], which is none of the rules it was"),
        ("Bread in Elm [R8, R9]?", "cites [R8], [R9], which are none of the rules it was given"),
    ],
)
def test_marks_of_no_rule_are_told_with_the_answer_and_in_its_record(
    comity: Command, question: str, note: str
) -> None:
    result = comity("ask", question)
    assert note in result.stderr
    decision = result.stderr.split()[-1]
    assert note in comity.done("decisions", "show", decision)
    assert comity.json("decisions", "show", decision)["unknown_marks"] == note[6:].split(", which")[
        0
    ].split(", ")


def test_a_rule_that_the_answer_repeats_is_cited_by_words(comity: Command) -> None:
    result = comity("ask", "In Norl, dogs must be kept on a lead")
    row = next(line for line in result.stdout.splitlines() if "dogs@1" in line)
    assert row.split()[:3] == ["[R1]", "words", "dogs@1"]
    assert "none of the rules" not in result.stderr
    shown = comity.done("decisions", "show", result.stderr.split()[-1])
    assert row.split()[:3] in [line.split()[:3] for line in shown.splitlines()]


def test_what_the_budget_left_out_is_said(comity: Command) -> None:
    left_out = "left out, for they did not fit --budget: "
    few = comity("ask", QUESTION, "--budget", "0").stderr
    assert {"dogs", "bread"} == set(few.split(left_out)[1].splitlines()[0].split(", "))
    more = "".join(f'{{"id": "r{n}", "text": "Cats may sleep, {n}."}}\n' for n in range(9))
    comity.done("add", comity.write("more.jsonl", more))
    many = comity("ask", QUESTION, "--budget", "0", "--relevance", "0").stderr
    assert many.split(left_out)[1].splitlines()[0].endswith(" and 8 less similar ones")


def test_a_decision_reads_as_an_explanation(comity: Command) -> None:
    decision = comity.json("ask", QUESTION)["decision"]
    said = comity.done("decisions", "show", decision["id"])
    for words in (
        QUESTION,
        "In force, in order of precedence",
        "gave way to dogs",
        "higher authority",
        "kindness@1: not checked",
        "revision 5, tenant default",
        decision["hash"],
        "compose",
    ):
        assert words in said
    assert comity.json("decisions", "show", decision["id"]) == decision
    assert decision["id"] in comity.done("decisions", "list")
    assert comity.json("decisions", "list") == [decision]


def test_a_decision_is_replayed_with_the_same_outcome_and_differs_under_new_rules(
    comity: Command,
) -> None:
    decision = comity.json("ask", QUESTION)["decision"]["id"]
    comity.done("rules", "repeal", "dogs", "--at", "2025-01-01")
    assert comity.json("decisions", "replay", decision)["same"] is True
    now = comity.json("decisions", "replay", decision, "--under", "now")
    assert now["same"] is False
    assert "town-dogs" in [ref["id"] for ref in now["kept"]]
    assert comity.json("decisions", "replay", decision, "--as-of", "5")["same"] is True
    assert comity("decisions", "replay", decision, "--as-of", "99").exit_code == 4
    assert comity("decisions", "replay", decision, "--as-of", "5", "--under", "now").exit_code == 2


def test_a_replay_under_new_rules_says_which_came_and_went(comity: Command) -> None:
    decision = comity.json("ask", "Is bread good?", "--hits", "1")["decision"]["id"]
    comity.done("rules", "repeal", "bread", "--at", "2020-01-01")
    comity.done("add", comity.write("new.jsonl", '{"id": "cats", "text": "Cats may sleep."}\n'))
    now = comity.json("decisions", "replay", decision, "--under", "now")
    assert [ref["id"] for ref in now["came"]] == ["cats"]
    assert [ref["id"] for ref in now["went"]] == ["bread"]
    said = comity("decisions", "replay", decision, "--under", "now").stderr
    assert "the ruling differs; came: cats@1; went: bread@1" in said


def test_as_many_rules_are_searched_in_a_replay_as_the_setting_says(comity: Command) -> None:
    decision = comity.json("ask", "Good bread?", "--hits", "1", "--place", "world")["decision"]
    extra = "".join(f'{{"id": "b{n}", "text": "Cats sleep {n}."}}\n' for n in range(9))
    comity.done("add", comity.write("extra.jsonl", extra))
    replay = ("decisions", "replay", decision["id"], "--under", "now")
    assert len(comity.json(*replay, "--relevance", "0")["came"]) == 9
    assert 0 < len(comity.json(*replay)["came"]) < 9
    assert comity.json(*replay, "--hits", "1")["same"] is True


def test_a_record_that_cannot_be_read_is_reported_as_the_break(comity: Command) -> None:
    first, second = (comity.json("ask", QUESTION)["decision"]["id"] for _ in range(2))
    edit(comity, "UPDATE decision SET record = '{}' WHERE id = ?", second)
    result = comity("decisions", "verify")
    assert result.exit_code == 1
    assert "the chain breaks at decision 2: " in result.stdout
    assert f"the last sound one is {first}" in result.stdout
    assert "cannot be read (id: Field required)" in result.stdout
    assert "pydantic" not in result.output + comity("decisions", "show", second).output
    report = json.loads(comity("decisions", "verify", "--json").stdout)
    assert (report["decisions"], report["last_sound"]) == (1, first)
    assert (report["broken"]["number"], report["broken"]["decision"]) == (2, "")
    edit(comity, "UPDATE decision SET record = '{' WHERE id = ?", first)
    result = comity("decisions", "verify")
    assert "breaks at decision 1: " in result.stdout
    assert "none before it is sound" in result.stdout


def edit(comity: Command, statement: str, *values: str) -> None:
    with apsw.Connection(str(comity.folder / "rules.db")) as book:
        triggers = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        for (name,) in book.execute(triggers).fetchall():
            book.execute(f"DROP TRIGGER {name}")
        book.execute(statement, values)
    book.close()


@pytest.mark.parametrize(
    ("finish_reason", "remark"),
    [
        ("length", "the answer was cut at --max-tokens"),
        ("content_filter", "withheld, whole or in part, by the provider's filter"),
        ("stop", ""),
    ],
)
def test_an_answer_that_is_not_whole_says_so_with_it_and_in_its_record(
    comity: Command, finish_reason: str, remark: str
) -> None:
    with provider(finish_reason) as url:
        comity.environ |= {"COMITY_BASE_URL": url, "OPENAI_API_KEY": "k"}
        result = comity("ask", QUESTION, "--model", "openai:m")
    assert result.exit_code == 0
    assert result.stdout.startswith("Dogs must")
    shown = comity.done("decisions", "show", result.stderr.split()[-1])
    for said in (result.stderr, shown):
        assert remark in said
        assert bool(remark) == ("the answer was" in said)


@contextmanager
def provider(finish_reason: str) -> Iterator[str]:
    """Address of an endpoint that answers "Dogs must" and ends it for this reason."""
    choices = [
        {"index": 0, "delta": {"content": "Dogs must"}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": finish_reason},
    ]
    chunks = [{"id": "1", "object": "chat.completion.chunk", "choices": [c]} for c in choices]
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    body = "".join([*lines, "data: [DONE]\n\n"]).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("command", ["search", "ask"])
def test_an_audience_that_no_rule_names_is_told_with_the_nearest(
    comity: Command, command: str
) -> None:
    missed = comity(command, "May dogs run?", "--audience", "bakr").stderr
    assert "no rule names the audience 'bakr': did you mean baker?" in missed
    assert (
        "no rule names" in comity(command, "May dogs run?", "--audience", "bakr", "--json").stderr
    )
    far = comity(command, "May dogs run?", "--audience", "zzz").stderr
    assert "no rule names the audience 'zzz'\n" in far
    assert "no rule names" not in comity(command, "May dogs run?", "--audience", "BAKER").stderr


def test_the_note_that_rules_may_be_missing_is_an_option(comity: Command) -> None:
    hashes = [
        comity.json("ask", QUESTION, "--at", "2026-01-01", *options)["decision"]["prompt_sha256"]
        for options in ((), ("--incomplete-note",), ("--no-incomplete-note",))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decision SET record = replace(record, 'scripted', 'another')",
        "UPDATE decision_text SET texts = replace(texts, 'run free', 'run wild')",
        "DELETE FROM decision_text",
    ],
)
def test_a_chain_that_holds_is_told_from_one_that_was_edited(
    comity: Command, statement: str
) -> None:
    first = comity.json("ask", QUESTION)["decision"]["id"]
    comity.done("ask", QUESTION)
    assert "2 decisions, and the chain holds" in comity.done("decisions", "verify")
    edit(comity, statement)
    result = comity("decisions", "verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["broken"]["decision"] == first
    assert first in comity("decisions", "verify").stdout
