"""`comity train data`: from seed questions to files that can be trained on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from comity_command import Command

QUESTIONS = """\
{"id": "fence", "question": "Is it worth mending a fence?", "family": "helpful"}
{"id": "soup", "question": "What belongs into a soup?", "family": "helpful"}
"""
WISHES = """\
{"id": "a", "text": "Be brief.", "against": "b", "family": "helpful", "kind": "style", \
"check": {"longest_words": 3}}
{"id": "b", "text": "Be thorough.", "against": "a", "family": "helpful", "kind": "style", \
"check": {"shortest_words": 8}}
"""
RULES = '{"id": "phones", "text": "Name the service desk.", "check": {"must_match": "desk"}}\n'


def answer(asked: str) -> str:
    if "Write the question" in asked:
        return "What shall I do with my phone?"
    if "service desk" in asked:
        return "Take it to the service desk."
    return "Yes." if "brief" in asked else "Yes, it is well worth the time and the money."


@pytest.fixture
def comity(tmp_path: Path) -> Iterator[Command]:
    """`comity` with a model behind an OpenAI-compatible address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = "\n".join(turn["content"] for turn in asked["messages"])
            choice = {"index": 0, "delta": {"content": answer(said)}, "finish_reason": "stop"}
            chunk = {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}
            body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    command = Command(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        command.environ |= {
            "COMITY_BASE_URL": url,
            "COMITY_API_KEY": "k",
            "COMITY_MODEL": "openai:m",
        }
        yield command
        server.shutdown()
        thread.join()


def arguments(comity: Command, *more: str) -> tuple[str, ...]:
    questions = comity.write("questions.jsonl", QUESTIONS)
    wishes = comity.write("wishes.jsonl", WISHES)
    out = str(comity.folder / "data")
    given = ("--questions", questions, "--preferences", wishes, "--out", out)
    return ("train", "data", *given, *more)


def test_data_is_built_and_told(comity: Command) -> None:
    done = comity.json(*arguments(comity))
    assert done["families"] == {"helpful": 4}
    assert done["missing"] == ["priority", "consensus", "diverse"]
    assert (done["flipped"], done["flippable"], done["asked"]) == (2, 2, 4)
    assert {file["name"]: file["rows"] for file in done["files"]} == {
        "sft.train.jsonl": 2,
        "dpo.train.jsonl": 2,
        "sft.eval.jsonl": 2,
        "dpo.eval.jsonl": 2,
    }
    card = (comity.folder / "data" / "card.md").read_text("utf-8")
    for file in done["files"]:
        assert file["sha256"] in card
    assert "openai:m" in card


def test_what_lacks_is_noted_and_a_second_build_needs_resume(comity: Command) -> None:
    first = comity(*arguments(comity))
    assert first.exit_code == 0, first.output
    assert "the family diverse is missing: no seed question is of it" in first.stderr
    assert "there is no row of the family consensus" in first.stderr
    again = comity(*arguments(comity))
    assert (again.exit_code, "go on with --resume" in again.stderr) == (9, True)
    assert comity.json(*arguments(comity, "--resume"))["asked"] == 0


def test_questions_of_a_named_exam_are_left_out(comity: Command) -> None:
    exam = comity.write("exam.jsonl", '{"stem": "is it worth mending a fence"}\n')
    done = comity.json(*arguments(comity, "--against", exam))
    assert [one["what"] for one in done["dropped"]] == ["fence"]


def test_rules_of_the_memory_make_rows_alone(comity: Command) -> None:
    comity.done("add", comity.write("rules.jsonl", RULES))
    done = comity.json(*arguments(comity, "--rules", "3", "--limit", "0"))
    assert done["families"] == {"rules": 2}


def test_rules_without_a_memory_are_an_error(comity: Command) -> None:
    failed = comity(*arguments(comity, "--rules"))
    assert (failed.exit_code, "there is no memory" in failed.stderr) == (4, True)


def test_a_model_that_says_the_same_to_all_gives_no_rows(comity: Command) -> None:
    failed = comity(*arguments(comity, "--model", "scripted"))
    assert failed.exit_code == 9
    assert "no row came of 2 questions and rules: see" in failed.stderr
    assert "fence a/b, ranking: by its check, all answers" in failed.stderr


def test_no_judge_is_needed_where_it_is_said_to_be_none(comity: Command) -> None:
    done = comity.json(*arguments(comity, "--judge", "none"))
    assert (done["rows"], done["judge"]["comparisons"]) == (4, 0)


def test_a_faulty_file_is_told_before_anything_is_asked(comity: Command) -> None:
    broken = comity.write("broken.jsonl", '{"id": "x"}\n')
    failed = comity(*arguments(comity, "--personas", broken))
    assert (failed.exit_code, "line 1: info: Field required" in failed.stderr) == (9, True)
    assert not (comity.folder / "data").exists()
