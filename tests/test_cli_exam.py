"""`comity exam run` and `report`: from questions on disk to a table, a page and an exit code."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from comity.cli.output import _lines
from comity.evaluation.exams import Question, write_exam
from comity.evaluation.runs import Item, Run
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.records import RuleRef
from comity_command import Command

RULES = """\
{"id": "leash", "text": "Dogs are kept on a leash.", "place": "XA-NO", "authority": "statute"}
{"id": "free", "text": "Dogs run free.", "place": "XA-NO/Elm", "overrides": ["leash"]}
{"id": "bells", "text": "Cats wear bells.", "place": "XA-NO/Oak"}
"""
FAR = '{"id": "far", "text": "Bread is long.", "place": "FR"}'
PLACES = {"XA": "Arl", "XA-NO": "Norl", "XA-NO/Elm": "Elm", "XA-NO/Oak": "Oak"}
CSV = """\
id,question,A,B,C,answer,principle
1,May dogs run free in Elm?,Yes,No,At noon,B,犬法规定：<第一条：犬只须系绳。>
2,Do cats wear bells in Oak?,Yes,No,At noon,Ａ,
3,Do cats wear bells in Elm?,Yes,No,At noon,B,
"""
COMITY = (sys.executable, "-c", "from comity.cli import main; main()")
OPENAI = ("--model", "openai:m")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the memory, made once."""
    command = Command(tmp_path_factory.mktemp("town"))
    command.done("add", command.write("first.jsonl", FAR))
    for code, name in PLACES.items():
        command.done("places", "add", code, "--name", name)
    command.done("add", command.write("rules.jsonl", RULES))
    return command.folder


@pytest.fixture
def comity(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    shutil.copytree(town, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path)
    command.write("pets.csv", CSV)
    return command


class Endpoint(ThreadingHTTPServer):
    """Chooses C, but by the rules where it is given some: A with bells, else B with a leash.

    After `willing` answers it refuses the key, or keeps silent if `waits`, or shows a page if
    `html`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.willing = 1000
        self.waits = self.html = False
        self.prompts: list[str] = []
        self.silent, self.over = threading.Event(), threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if len(self.server.prompts) >= self.server.willing:
            self.server.silent.set()
            if self.server.waits:
                self.server.over.wait(60)
            if self.server.html:
                self.send(200, {}, "text/html")
                return
            self.send(401, {"error": {"message": "no"}})
            return
        prompt = body["messages"][-1]["content"]
        self.server.prompts.append(prompt)
        letter = "A" if "Cats wear bells." in prompt else "B" if "on a leash" in prompt else "C"
        self.send(200, self.whole(letter))

    def whole(self, letter: str) -> dict[str, Any]:
        top = [{"token": letter, "logprob": math.log(0.9), "bytes": None}]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": letter},
            "finish_reason": "stop",
            "logprobs": {"content": [{**top[0], "top_logprobs": top}], "refusal": None},
        }
        usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        kind = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return {**kind, "choices": [choice], "usage": usage}

    def send(self, status: int, content: dict[str, Any], kind: str = "application/json") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def endpoint(comity: Command) -> Iterator[Endpoint]:
    server = Endpoint()
    comity.environ |= {
        "COMITY_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
        "OPENAI_API_KEY": "k",
    }
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def run(*more: str, out: str = "r", modes: str = "base,comity") -> tuple[str, ...]:
    return (
        "exam",
        "run",
        "--questions",
        "pets.csv",
        "--modes",
        modes,
        "--out",
        out,
        "--no-turns",
        *more,
    )


def items(folder: str) -> dict[tuple[str, str], Item]:
    return {(item.question, item.mode): item for item in Run.read(Path(folder)).items()}


def cells(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


def test_the_scripted_model_has_no_letter_and_such_a_set_has_no_accuracy(comity: Command) -> None:
    result = comity(*run())
    assert result.exit_code == 0, result.output
    assert [row[:5] + row[5:] for row in cells(result.stdout)[1:]] == [
        ["pets", "base", "3", "0", "0", "nothing", "scored"],
        ["pets", "comity", "3", "0", "0", "nothing", "scored"],
    ]
    assert "6 answers of scripted, kept in r" in result.stderr
    assert "pets: 3 of 3 questions\n" in result.stderr
    assert all(item.not_scored for item in items("r").values())
    plan = Run.read(Path("r")).plan
    assert plan.embedder.startswith("hash")
    assert (plan.endpoint, plan.options["max_tokens"]) == ("", 256)
    page = comity("exam", "report", "r", "--out", "page.html")
    assert page.exit_code == 0, page.output
    assert "pets" in page.stdout
    assert "<html" in Path("page.html").read_text()


def test_a_run_scores_every_mode_and_its_report_says_the_same(
    comity: Command, endpoint: Endpoint
) -> None:
    result = comity(*run(*OPENAI, modes="oracle,comity,base"))
    assert result.exit_code == 0, result.output
    rows = {row[1]: row[2:7] for row in cells(result.stdout)[1:]}
    assert rows == {
        "base": ["3", "3", "0", "0.0", "%"],
        "comity": ["3", "3", "3", "100.0", "%"],
        "oracle": ["1", "1", "0", "0.0", "%"],
    }
    assert "2 name no gold rules and are not asked in mode oracle" in result.stderr
    assert "comity exam report r makes a page of it" in result.stderr
    kept = items("r")
    assert [ref.id for ref in kept["1", "comity"].sent] == ["leash"]
    assert [(ref.id, ref.winner) for ref in kept["1", "comity"].overruled] == [("free", "leash")]
    assert {item.scored_by for item in kept.values()} == {"logprobs"}
    assert "犬只须系绳。" in kept["1", "oracle"].asked[-1].content
    table = comity("exam", "report", "r", "--out", "page.html").stdout
    assert "100.0" in table


def test_base_and_oracle_need_no_memory(comity: Command, endpoint: Endpoint) -> None:
    result = comity(*run(*OPENAI, "--memory", "sqlite:///none.db", modes="base,oracle"))
    assert result.exit_code == 0, result.output
    assert len(items("r")) == 4
    assert Run.read(Path("r")).plan.revision is None
    assert comity(*run("--memory", "sqlite:///none.db", out="s")).exit_code == 4
    assert not Path("s").exists()
    Memory.open("sqlite:///empty.db", embedder=HashEmbedder(8)).close()
    comity.done(*run(*OPENAI, "--memory", "sqlite:///empty.db", out="t", modes="base"))


@pytest.mark.parametrize(
    ("floors", "code"),
    [
        (("pets.comity=100",), 0),
        (("pets.base=0", "pets.comity=67.5"), 0),
        (("pets.base=0.1",), 1),
        (("pets.comity=50", "pets.base=50"), 1),
    ],
)
def test_fail_under_is_an_exit_code(
    comity: Command, endpoint: Endpoint, floors: tuple[str, ...], code: int
) -> None:
    given = [part for floor in floors for part in ("--fail-under", floor)]
    result = comity(*run(*OPENAI, *given))
    assert result.exit_code == code, result.output
    assert ("pets.base: 0.00 % is less than" in result.stderr) is (code == 1)


def test_nothing_scored_is_below_every_floor(comity: Command) -> None:
    result = comity(*run("--fail-under", "pets.comity=0"))
    assert result.exit_code == 1
    assert "pets.comity: nothing was scored, and 0 % is asked for" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("--fail-under", "pet.comity=50"), "pet.comity: this run has pets.base, pets.comity", 2),
        (("--fail-under", "pets.oracle=50"), "pets.oracle: this run has pets.base", 2),
        (("--fail-under", "50"), "'50' is no SET.MODE=PERCENT", 2),
        (("--modes", "bass"), "'bass': known are base, comity, oracle", 2),
        (("--modes", ","), "known are base, comity, oracle", 2),
        (("--limit", "0"), "0 is not in the range x>=1", 2),
        (("--questions", "none.csv"), "there is no exam none.csv", 8),
        (("--questions", "pets.csv"), "two exams are called pets: rename one of the files", 8),
        (("--questions", "other/pets.csv"), "two exams are called pets", 8),
        (("--changed", "none"), "none is no run: it has no run.json", 8),
        (("--place", "XA-QQ"), "XA-QQ", 3),
        (("--tenant", "acme"), "no tenant 'acme'", 4),
    ],
)
def test_wrong_use_is_told_before_anything_is_asked(
    comity: Command, arguments: tuple[str, ...], message: str, code: int
) -> None:
    (comity.folder / "other").mkdir()
    comity.write("other/pets.csv", CSV.replace("dogs", "hounds"))
    result = comity(*run(*arguments))
    assert message in result.stderr
    assert (result.exit_code, result.stdout) == (code, "")
    assert not Path("r/items.jsonl").exists()


def test_a_bad_line_is_named_and_left_out_on_demand(comity: Command) -> None:
    comity.write("pets.csv", CSV + "4,May birds sing?,Yes,No,At noon,E,\n")
    result = comity(*run())
    assert result.exit_code == 8
    assert "error: pets.csv: line 5: answer 'E' is none of the options A, B, C" in result.stderr
    assert "leave them out with --skip-bad" in result.stderr
    result = comity(*run("--skip-bad"))
    assert result.exit_code == 0
    assert "1 left out, such as line 5: answer 'E' is none" in result.stderr
    assert Run.read(Path("r")).plan.exams[0].left_out[0].question == "4"


def test_a_sample_is_drawn_by_seed_and_grows_with_the_limit(comity: Command) -> None:
    few = comity(*run("--limit", "1", "--seed", "3", out="few", modes="base"))
    assert "pets: 1 of 3 questions, drawn with seed 3" in few.stderr
    comity.done(*run("--limit", "2", "--seed", "3", out="more", modes="base"))
    assert items("few").keys() < items("more").keys()
    assert len(items("more")) == 2


def test_a_run_that_failed_half_way_is_continued_with_the_rest(
    comity: Command, endpoint: Endpoint
) -> None:
    endpoint.willing = 3
    result = comity(*run(*OPENAI, "--parallel", "1"))
    assert result.exit_code == 8
    assert (
        "error: stopped after 3 of 6 answers, which are kept in r; continue with" in result.stderr
    )
    assert "refuses the key" in result.stderr
    assert "holds a run already: continue it with --resume" in comity(*run(*OPENAI)).stderr
    endpoint.willing = 1000
    result = comity(*run(*OPENAI, "--resume"))
    assert result.exit_code == 0, result.output
    assert "3 of them are there already" in result.stderr
    assert len(endpoint.prompts) == len(set(endpoint.prompts)) == 6
    assert len(list(Run.read(Path("r")).items())) == 6


def test_a_page_instead_of_an_answer_stops_the_run(comity: Command, endpoint: Endpoint) -> None:
    endpoint.willing, endpoint.html = 2, True
    result = comity(*run(*OPENAI, "--parallel", "1"))
    assert result.exit_code == 8
    assert "stopped after 2 of 6 answers" in result.stderr
    assert "answered with text/html instead of json; check the base URL" in result.stderr
    assert len(items("r")) == 2


def test_the_plan_says_where_the_model_is_asked_and_how_long_an_answer_may_be(
    comity: Command, endpoint: Endpoint
) -> None:
    comity.environ["COMITY_BASE_URL"] = f"http://u:p@127.0.0.1:{endpoint.server_port}/v1"
    comity.done(*run(*OPENAI, "--max-tokens", "9", modes="base"))
    plan = Run.read(Path("r")).plan
    assert plan.endpoint == f"http://127.0.0.1:{endpoint.server_port}/v1"
    assert plan.options["max_tokens"] == 9
    other = comity(*run(*OPENAI, "--resume", modes="base"))
    assert "max_tokens was 9, not 256" in other.stderr


def test_there_is_a_word_where_nothing_is_there_to_be_continued(comity: Command) -> None:
    result = comity(*run("--resume", out="mistyped"))
    assert result.exit_code == 0, result.output
    assert "there is no run in mistyped to be continued: a new one begins" in result.stderr
    assert "a new one begins" not in comity(*run("--resume", out="mistyped")).stderr


def test_a_run_is_not_continued_with_other_settings_or_without_its_folder(comity: Command) -> None:
    comity.done(*run())
    other = comity(*run("--resume", "--budget", "10", "--limit", "2"))
    assert other.exit_code == 8
    assert "r was begun otherwise (exam pets asked " in other.stderr
    assert "budget was 1000, not 10; limit was null, not 2" in other.stderr
    nowhere = comity("exam", "run", "--questions", "pets.csv", "--resume")
    assert nowhere.exit_code == 2
    assert "--resume needs --out" in nowhere.stderr


def test_a_run_stopped_by_ctrl_c_keeps_what_came_and_says_how_to_go_on(
    comity: Command, endpoint: Endpoint
) -> None:
    endpoint.willing, endpoint.waits = 2, True
    process = subprocess.Popen(
        [*COMITY, *run(*OPENAI, "--parallel", "1")],
        env=os.environ | comity.environ,
        cwd=comity.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert endpoint.silent.wait(120)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "2 of 6 answers are kept in r; continue with --resume --out r" in errors
    assert "Traceback" not in errors
    endpoint.willing = 1000
    comity.done(*run(*OPENAI, "--resume"))
    assert len(list(Run.read(Path("r")).items())) == 6


def test_only_what_a_rule_change_touched_is_asked_again(
    comity: Command, endpoint: Endpoint
) -> None:
    comity.done(*run(*OPENAI))
    endpoint.prompts.clear()
    same = comity(*run(*OPENAI, "--changed", "r", out="same"))
    assert "0 asked, 6 taken over from r\n" in same.stderr
    assert endpoint.prompts == []
    assert {item.reused for item in items("same").values()} == {True}
    comity.done("rules", "amend", "bells", "--text", "Cats wear small bells.")
    comity.done(*run(*OPENAI, "--changed", "same", out="later"))
    assert len(endpoint.prompts) == 1
    assert "Do cats wear bells in Oak?" in endpoint.prompts[0]
    assert "Cats wear small bells." in endpoint.prompts[0]
    asked = {key for key, item in items("later").items() if not item.reused}
    assert asked == {("2", "comity")}


def test_answers_of_another_model_are_not_taken_over(comity: Command, endpoint: Endpoint) -> None:
    comity.done(*run())
    result = comity(*run(*OPENAI, "--changed", "r", out="other"))
    assert result.exit_code == 8
    assert "--changed r: its answers are those of scripted, not of openai:m" in result.stderr
    assert endpoint.prompts == []


def test_answers_asked_in_one_order_are_not_taken_over_by_a_run_of_several(
    comity: Command, endpoint: Endpoint
) -> None:
    comity.done(*run(*OPENAI))
    result = comity(*run(*OPENAI, "--changed", "r", "--turns", out="other"))
    assert result.exit_code == 8
    assert "--changed r: it was asked with --no-turns" in result.stderr


def test_answers_read_from_texts_of_another_length_are_not_taken_over(
    comity: Command, endpoint: Endpoint
) -> None:
    comity.done(*run())
    longer = ("--changed", "r", "--max-tokens", "999")
    assert "6 asked, 0 taken over from r\n" in comity(*run(*longer, out="longer")).stderr
    assert "0 asked, 6 taken over from r\n" in comity(*run("--changed", "r", out="s")).stderr
    comity.done(*run(*OPENAI, out="told"))
    told = comity(*run(*OPENAI, "--changed", "told", *longer[2:], out="kept"))
    assert "0 asked, 6 taken over from told\n" in told.stderr


def test_questions_that_a_rule_change_retired_are_not_asked_and_are_named(comity: Command) -> None:
    asked = [
        Question(
            id=f"on-{rule}",
            stem=f"{rule.title()} in Norl?",
            options=("Yes", "No"),
            answer="A",
            rules=(RuleRef(id=rule, version=1),),
        )
        for rule in ("leash", "bells")
    ]
    write_exam(comity.folder / "own.jsonl", asked)
    comity.done("rules", "amend", "leash", "--text", "Dogs run free.")
    result = comity("exam", "run", "--questions", "own.jsonl", "--out", "r")
    assert result.exit_code == 0, result.output
    assert "own: 1 of 1 questions" in result.stderr
    assert "1 retired, such as on-leash: rule leash: version 1 was replaced by" in result.stderr
    assert items("r").keys() == {("on-bells", "base"), ("on-bells", "comity")}
    assert list(Run.read(Path("r")).plan.exams[0].retired) == ["on-leash"]
    comity.done("exam", "run", "--questions", "own.jsonl", "--modes", "base", "--out", "base")
    alone = Run.read(Path("base")).plan
    assert (list(alone.exams[0].retired), alone.memory) == (["on-leash"], "")

    comity.write("other.jsonl", FAR)
    comity.done("add", "other.jsonl", "--memory", "sqlite:///other.db")
    strange = ("exam", "run", "--questions", "own.jsonl", "--memory", "sqlite:///other.db")
    alone_there = comity(*strange, "--modes", "base", "--out", "strange")
    assert alone_there.exit_code == 0, alone_there.output
    assert "own is asked as it is: the memory knows none of the 2 rules" in alone_there.stderr
    refused = comity(*strange, "--out", "refused")
    assert refused.exit_code == 8
    assert "own: the memory knows none of the 2 rules" in refused.stderr

    comity.done("rules", "repeal", "bells")
    gone = ("exam", "run", "--questions", "own.jsonl", "--out", "none", "--fail-under")
    result = comity(*gone, "own.base=0")
    assert result.exit_code == 1
    assert "own.base: nothing was asked, and 0 % is asked for" in result.stderr


def test_questions_whose_rule_changed_in_its_circumstances_are_asked_and_named(
    comity: Command,
) -> None:
    on_leash = Question(
        id="on-leash",
        stem="Dogs in Norl?",
        options=("Yes", "No"),
        answer="A",
        rules=(RuleRef(id="leash", version=1),),
    )
    write_exam(comity.folder / "own.jsonl", [on_leash])
    comity.done("rules", "amend", "leash", "--set", "authority=policy")
    result = comity("exam", "run", "--questions", "own.jsonl", "--out", "r")
    assert "1 flagged, such as on-leash: rule leash: version 1 was replaced" in result.stderr
    assert items("r").keys() == {("on-leash", "base"), ("on-leash", "comity")}


def test_slow_work_says_how_long_it_will_take(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    advance = _lines("answers", "answers", lambda: now)
    for done in range(401):
        advance(done, 400)
        now += 30.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "answers: 1 of 400, 30 s each, about 3 h 20 min left"
    assert "answers: 398 of 400, 30 s each, about 1 min left" in lines
    assert all("left" not in line for line in lines if line.startswith("answers: 400 "))
    assert len(lines) < 300  # ever fewer of them


def test_swift_work_says_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    advance = _lines("embedding", "rules", lambda: now)
    for done in range(0, 200, 20):
        advance(done, 200)
        now += 1.0
    assert capsys.readouterr().err.splitlines() == ["embedding: 100 of 200, 20 rules a second"]
