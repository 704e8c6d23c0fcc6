"""The process as others see it: start, exit codes, Ctrl-C, broken pipes, and the rest."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import apsw
import click
import pytest
from click.testing import CliRunner

from comity.cli.entry import ComityGroup
from comity.cli.output import plain, validity
from comity.cli.words import word_diff
from comity.records import parse_time
from comity_command import Command

COMITY = [sys.executable, "-c", "from comity.cli import main; main()"]
RULES = "".join(f'{{"id": "r{n}", "text": "Rule number {n} of many."}}\n' for n in range(150))


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path)


def start(comity: Command, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMITY, *arguments],
        env=os.environ | comity.environ | environ,
        cwd=comity.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Embeddings(ThreadingHTTPServer):
    """An embedding server that answers `willing` requests for rules, then keeps silent."""

    daemon_threads = True

    def __init__(self, willing: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.willing = willing
        self.texts = 0
        self.silent = threading.Event()
        self.over = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Embeddings

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        if len(asked) > 1:
            if self.server.willing == 0:
                self.server.silent.set()
                self.server.over.wait(60)
                return
            self.server.willing -= 1
            self.server.texts += len(asked)
        rows = [{"index": i, "object": "embedding", "embedding": [1, 2]} for i in range(len(asked))]
        body = json.dumps({"object": "list", "model": "m", "data": rows}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def embeddings() -> Iterator[Embeddings]:
    server = Embeddings(willing=1)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_import_stopped_by_ctrl_c_changes_nothing_and_goes_on_later(
    comity: Command, embeddings: Embeddings
) -> None:
    comity.environ |= {
        "COMITY_EMBEDDER": "openai:m",
        "COMITY_BASE_URL": f"http://127.0.0.1:{embeddings.server_port}/v1",
    }
    path = comity.write("rules.jsonl", RULES)
    process = start(comity, "add", path)
    assert embeddings.silent.wait(60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nothing was changed; the vectors made so far are kept" in errors
    assert "Traceback" not in errors
    assert "holds no rules yet: comity add FILE" in comity("rules", "list").stderr

    before, embeddings.willing = embeddings.texts, 9
    assert before > 0
    assert len(comity.json("add", path)["added"]) == 150
    assert embeddings.texts == 150


def test_a_closed_pipe_ends_the_command_quietly(comity: Command) -> None:
    comity.done("add", comity.write("rules.jsonl", RULES))
    process = start(comity, "rules", "list", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert errors == ""


def test_a_terminal_shows_rules_word_for_word_and_without_what_could_steer_it(
    comity: Command,
) -> None:
    row = {"id": "a", "text": "Mark it [red] and [/] [1] \x1b]0;title\x07."}
    comity.done("add", comity.write("rules.jsonl", json.dumps(row)))
    ours, theirs = pty.openpty()
    subprocess.run(
        [*COMITY, "search", "mark"],
        env=os.environ | comity.environ | {"COLUMNS": "200", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=60,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "Mark it [red] and [/] [1] " in shown
    assert "\x1b]0;" not in shown


def test_an_error_is_one_line_on_stderr_with_its_exit_code(comity: Command) -> None:
    process = start(comity, "search", "dogs", "--memory", "sqlite:///none.db")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (4, "")
    assert errors.startswith("error: there is no memory at sqlite:///none.db")
    assert errors.count("\n") == 1


def test_a_memory_that_is_no_database_is_refused(comity: Command) -> None:
    comity.write("rules.db", "This is a letter, not a database. " * 100)
    result = comity("rules", "list")
    assert (result.exit_code, "damaged or no Comity memory" in result.stderr) == (5, True)


def test_an_index_of_another_embedder_is_refused_until_it_is_rebuilt(
    comity: Command, embeddings: Embeddings
) -> None:
    embeddings.willing = 9
    address = f"http://127.0.0.1:{embeddings.server_port}/v1"
    path = comity.write("rules.jsonl", RULES)
    comity.environ["COMITY_BASE_URL"] = address
    comity.done("add", path, "--embedder", "openai:m")
    info = comity.json("index", "info")
    assert (info["memory_revision"], info["index_revision"]) == (1, 1)
    assert info["embedder"] == "openai:m@2"
    result = comity("search", "rule number 7")
    assert (result.exit_code, "comity index rebuild" in result.stderr) == (6, True)
    assert len(comity.json("rules", "list")) == 150
    comity.done("index", "rebuild")
    assert comity.json("search", "rule number 7", "-k", "1")[0]["id"] == "r7"


def test_a_memory_of_a_newer_comity_is_refused(comity: Command) -> None:
    comity.done("add", comity.write("rules.jsonl", RULES))
    book = apsw.Connection(str(comity.folder / "rules.db"))
    book.execute("PRAGMA user_version = 99")
    book.close()
    for arguments in (("rules", "list"), ("search", "rule"), ("add", "rules.jsonl")):
        result = comity(*arguments)
        assert (result.exit_code, "newer Comity" in result.stderr) == (5, True)


def test_a_memory_in_a_folder_that_is_not_there_is_refused(comity: Command) -> None:
    result = comity("init", "--memory", "sqlite:///no/such/folder/rules.db")
    assert (result.exit_code, "cannot be opened" in result.stderr) == (5, True)


@click.group(cls=ComityGroup)
def failing() -> None:
    """A command line with a bug."""


@failing.command()
def bug() -> None:
    """Fail as no command should."""
    raise ZeroDivisionError("by nought")


@failing.command()
def interrupted() -> None:
    """Be stopped by Ctrl-C."""
    raise KeyboardInterrupt


def test_an_unexpected_error_is_a_sentence_and_with_debug_a_traceback() -> None:
    result = CliRunner().invoke(failing, ["bug"], env={"COMITY_DEBUG": ""})
    assert result.exit_code == 70
    assert "unexpected error: ZeroDivisionError: by nought" in result.stderr
    assert "Traceback" not in result.stderr
    result = CliRunner().invoke(failing, ["bug"], env={"COMITY_DEBUG": "1"})
    assert (result.exit_code, "Traceback" in result.stderr) == (70, True)


def test_ctrl_c_ends_with_a_sentence() -> None:
    result = CliRunner().invoke(failing, ["interrupted"])
    assert (result.exit_code, "stopped: " in result.stderr) == (130, True)


def test_heavy_packages_are_not_loaded_to_parse_the_command_line() -> None:
    heavy = ("faiss", "onnxruntime", "openai", "markitdown", "numpy", "pydantic", "rich", "tantivy")
    code = f"import sys, comity.cli; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_reference_in_the_docs_is_what_the_commands_say() -> None:
    # In a process of its own: click keeps a command's help option, and another test may have
    # asked for the help of a command without the group that gives its names.
    made = subprocess.run(
        [sys.executable, "-m", "comity", "reference"], capture_output=True, text=True, check=True
    )
    page = Path(__file__).parents[1] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == made.stdout, "comity reference > docs/cli.md"


def test_help_tells_the_exit_codes(comity: Command) -> None:
    assert "130  stopped by Ctrl-C" in comity.done("--help")


def test_settings_are_shown_with_their_sources_and_without_secrets(comity: Command) -> None:
    comity.environ["COMITY_API_KEY"] = "sk-secret"
    shown = comity.json("settings", "--hits", "7")
    assert shown["hits"] == {"value": 7, "source": "option --hits"}
    assert shown["embedder"] == {"value": "hash", "source": "variable COMITY_EMBEDDER"}
    assert shown["budget"]["source"] == "default"
    assert "sk-secret" not in comity.done("settings") + json.dumps(shown)


def test_a_settings_file_is_named_by_an_option(comity: Command) -> None:
    path = comity.write("mine.toml", "hits = 3\n")
    shown = json.loads(comity.done("--config", path, "settings", "--json"))
    assert shown["hits"] == {"value": 3, "source": path}
    assert comity("--config", "none.toml", "settings").exit_code == 2


def test_options_stand_before_or_after_the_command(comity: Command) -> None:
    shown = json.loads(comity.done("--memory", "a.db", "settings", "--json"))
    assert shown["memory"]["value"] == "a.db"
    shown = json.loads(comity.done("--memory", "a.db", "settings", "--memory", "b.db", "--json"))
    assert shown["memory"]["value"] == "b.db"


def test_models_are_listed_with_whether_they_are_here(comity: Command) -> None:
    comity.environ["COMITY_CACHE"] = str(comity.folder / "elsewhere")
    model = comity.json("models", "list")[0]
    assert (model["default"], model["path"]) == (True, None)
    assert "not pulled" in comity.done("models", "list")
    assert comity("models", "pull", "qwen-nothing").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("XA QQ", "--name", "Q"), "'XA QQ' is no code of a place"),
        (("XB-NO", "--name", "Q"), "declare XB too"),
    ],
)
def test_a_place_that_cannot_be_is_refused(
    comity: Command, arguments: tuple[str, ...], message: str
) -> None:
    comity.done("add", comity.write("rules.jsonl", '{"id": "a", "text": "b"}'))
    result = comity("places", "add", *arguments)
    assert (result.exit_code, message in result.stderr) == (3, True)
    assert comity.json("places", "list") == []


def test_places_are_defined_and_listed(comity: Command) -> None:
    comity.done("add", comity.write("rules.jsonl", '{"id": "a", "text": "b"}'))
    comity.done("places", "add", "XA", "--name", "Arl", "--name", "阿尔")
    assert comity.json("places", "list") == [{"code": "XA", "names": ["Arl", "阿尔"]}]
    assert "阿尔" in comity.done("places", "list")


def test_a_word_diff_marks_words_and_chinese_characters() -> None:
    english = word_diff("shops close at 22:00", "shops open at 22:00")
    assert click.unstyle(english) == "shops [-close-]{+open+} at 22:00"
    times = word_diff("until 23:30.", "until 21:00.")
    assert click.unstyle(times) == "until [-23:30-]{+21:00+}."
    assert click.unstyle(word_diff("禁止吸烟", "允许吸烟")) == "[-禁止-]{+允许+}吸烟"


def test_a_word_diff_shortens_what_did_not_change() -> None:
    same = "word " * 200
    assert len(word_diff(same + "old", same + "new")) < 200


def test_text_cannot_steer_the_terminal() -> None:
    assert plain("red \x1b[31m, bell \x07,\n\tkept") == "red \ufffd[31m, bell \ufffd,\n\tkept"


def test_validity_is_told_in_words() -> None:
    start, end = parse_time("2026-01-01"), parse_time("2027-01-01T08:30")
    assert validity(None, None) == "always"
    assert validity(start, None) == "from 2026-01-01"
    assert (
        validity(start, end)
        == "from 2026-01-01".replace("from ", "") + " until 2027-01-01 08:30 UTC"
    )
