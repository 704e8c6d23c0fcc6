"""`comity add` and `comity init`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from comity.cli.add import Stopped, _interruptible
from comity.memory.memory import Memory
from comity_command import BYLAWS, Command

CHANGED = BYLAWS.replace("22:00", "21:00").partition("Article 3")[0]


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path)


def test_a_document_becomes_rules_with_what_the_options_say(comity: Command) -> None:
    path = comity.write("bylaws.md")
    said = comity.done(
        "add", path, "--place", "CN-HN", "--audience", "baker", "--audience", "butcher",
        "--domain", "market", "--authority", "local", "--from", "2026-01-01", "--to", "2027-01-01",
    )  # fmt: skip
    assert "new: 3 rules" in said
    rule = comity.json("rules", "list")[0]
    assert rule["place"] == "CN-HN"
    assert rule["audience"] == ["baker", "butcher"]
    assert (rule["domain"], rule["authority"]) == ("market", "local")
    assert rule["valid_from"] == "2026-01-01T00:00:00Z"
    assert rule["valid_to"] == "2027-01-01T00:00:00Z"


def test_pure_additions_are_not_asked_about(comity: Command) -> None:
    result = comity("add", comity.write("bylaws.md"))
    assert (result.exit_code, "Do it?" in result.output) == (0, False)


def test_the_same_file_again_changes_nothing(comity: Command) -> None:
    path = comity.write("bylaws.md")
    comity.done("add", path)
    assert "nothing to change: all 3 rules are there" in comity.done("add", path)
    again = comity.json("add", path)
    assert (again["revision"], again["committed"], again["unchanged"]) == (1, False, 3)


def test_a_changed_file_is_refused_without_a_terminal_and_without_yes(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    result = comity("add", comity.write("bylaws.md", CHANGED))
    assert result.exit_code == 1
    assert "1 rule would be changed and 1 repealed" in result.stderr
    assert "add --yes" in result.stderr
    assert "[-22:00-]{+21:00+}" in result.stdout
    assert "gone from their document" in result.stdout
    assert len(comity.json("rules", "changes", "--since", "1")) == 0


def test_a_changed_file_is_taken_with_yes_as_one_revision(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    done = comity.json("add", comity.write("bylaws.md", CHANGED), "--yes")
    assert (done["revision"], done["committed"], done["unchanged"]) == (2, True, 1)
    assert [change["version"] for change in done["changed"]] == [2]
    assert "21:00" in done["changed"][0]["fields"]["text"]["new"]
    assert [len(done["gone"]), len(done["added"])] == [1, 0]
    assert len(comity.json("rules", "list")) == 2


def test_later_versions_of_new_rules_are_not_asked_about(comity: Command) -> None:
    rows = '{"id": "a", "text": "Old."}\n{"id": "a", "version": 2, "text": "New."}\n'
    said = comity.done("add", comity.write("rules.jsonl", rows))
    assert "new: 1 rules, and 1 later versions of them: a" in said
    assert comity.json("rules", "show", "a")["text"] == "New."


@pytest.mark.parametrize(("answer", "code", "revision"), [("y\n", 0, 2), ("n\n", 1, 1)])
def test_at_a_terminal_changes_are_asked_about(
    comity: Command, answer: str, code: int, revision: int
) -> None:
    comity.done("add", comity.write("bylaws.md"))
    path = comity.write("bylaws.md", CHANGED)
    terminal, keyboard = pty.openpty()
    with os.fdopen(terminal, "wb", buffering=0) as typed:
        typed.write(answer.encode())
        run = subprocess.run(
            [sys.executable, "-c", "from comity.cli import main; main()", "add", path],
            env=os.environ | comity.environ,
            stdin=keyboard,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    os.close(keyboard)
    assert "1 rule would be changed and 1 repealed. Do it?" in run.stderr
    assert run.returncode == code
    assert comity.json("index", "info")["memory_revision"] == revision


def test_a_dry_run_shows_the_plan_and_does_nothing(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    planned = comity.json("add", comity.write("bylaws.md", CHANGED), "--dry-run")
    assert (planned["committed"], len(planned["changed"])) == (False, 1)
    assert len(comity.json("rules", "changes", "--since", "1")) == 0


def test_a_dry_run_makes_no_memory(comity: Command) -> None:
    assert len(comity.json("add", comity.write("bylaws.md"), "--dry-run")["added"]) == 3
    assert not (comity.folder / "rules.db").exists()


def test_duplicates_are_reported_and_kept(comity: Command) -> None:
    first, second = comity.write("one.md"), comity.write("two.md", BYLAWS.replace("Elm", "Oak"))
    result = comity("add", first, second)
    assert result.exit_code == 0
    assert result.stderr.count("says the same as") == 3
    assert len(comity.json("rules", "list")) == 6


@pytest.mark.parametrize(
    ("name", "text", "options", "message", "code"),
    [
        ("rules.jsonl", '{"id": "a", "text": "x"}\n{"id": \n', (), "rules.jsonl, line 2", 3),
        ("rules.csv", "id,text,colour\na,x,red\n", (), "colour", 3),
        (
            "rules.jsonl",
            '{"id": "a", "text": "x", "valid_from": "2026-02-01", "valid_to": "2026-01-01"}\n',
            (),
            "line 1",
            3,
        ),
        ("rules.jsonl", '{"id":"a","text":"x"}\n{"id":"a","text":"y"}\n', (), "stands twice", 3),
        ("empty.md", "", (), "is empty", 3),
        ("bylaws.md", BYLAWS, ("--place", "XQ-NOWHERE"), "no place is known", 3),
        ("bylaws.md", BYLAWS, ("--authority", "statut"), "is none of constitution, statute", 2),
        ("bylaws.md", BYLAWS, ("--from", "soon"), "'soon' is no date", 2),
        ("bylaws.md", BYLAWS, ("--from", "0001-01-01T00:00+08:00"), "outside the years 1 to", 2),
        ("rules.jsonl", '{"id":"a","text":"x","valid_from":20260101}\n', (), "a date as text", 3),
        ("title.md", "# By-laws\n\n## Dogs\n", (), "has headings but no text", 3),
        (
            "bylaws.md",
            BYLAWS,
            ("--from", "2027-01-01", "--to", "2026-01-01"),
            "2026-01-01 is not after 2027-01-01",
            2,
        ),
        ("big.md", BYLAWS * 100, ("--max-file-mb", "0.001"), "over the limit of 0.0 MB", 3),
        ("rules.jsonl", '{"id":"a","text":"x","authority":"king"}\n', (), "'king'", 3),
        ("rules.jsonl", '{"id":"a","text":"x","tenant":"acme"}\n', (), "--tenant acme", 3),
        ("bylaws.md", BYLAWS, ("--draft", "--model", "locla"), "did you mean 'local'", 2),
        ("rules.csv", "id,text\na,x\n", ("--draft",), "without --draft", 3),
    ],
)
def test_bad_input_is_named_and_nothing_is_changed(
    comity: Command, name: str, text: str, options: tuple[str, ...], message: str, code: int
) -> None:
    comity.done("add", comity.write("first.jsonl", '{"id": "first", "text": "Be kind."}'))
    result = comity("add", comity.write(name, text), *options)
    assert message in result.stderr
    assert (result.exit_code, "Traceback" in result.output) == (code, False)
    assert [rule["id"] for rule in comity.json("rules", "list")] == ["first"]


def test_a_file_that_is_not_there_is_named(comity: Command) -> None:
    result = comity("add", "nowhere.md")
    assert (result.exit_code, "nowhere.md: does not exist" in result.stderr) == (3, True)


def test_a_first_import_that_fails_makes_no_memory(comity: Command) -> None:
    comity("add", "nowhere.md")
    assert list(comity.folder.glob("rules.db*")) == []
    result = comity("search", "dogs")
    assert (result.exit_code, "there is no memory" in result.stderr) == (4, True)


@pytest.mark.parametrize("arguments", [("search", "dogs"), ("rules", "list"), ("index", "info")])
def test_a_memory_without_a_revision_holds_no_rules_yet(
    comity: Command, arguments: tuple[str, ...]
) -> None:
    with Memory.open(comity.environ["COMITY_MEMORY"], embedder="hash"):
        """The file is made, and nothing is in it."""
    result = comity(*arguments)
    assert (result.exit_code, "holds no rules yet: comity add FILE" in result.stderr) == (4, True)
    comity.done("add", comity.write("bylaws.md"))
    comity.done(*arguments)


def test_a_namesake_of_a_document_does_not_repeal_its_rules(comity: Command) -> None:
    for folder, rule in (("1", "dogs"), ("2", "cats")):
        (comity.folder / folder / "x").mkdir(parents=True)
        comity.write(f"{folder}/x/rules.jsonl", f'{{"id": "{rule}", "text": "No {rule}."}}')
    comity.done("add", "1/x/rules.jsonl")
    result = comity("add", "2/x/rules.jsonl", "--yes")
    assert (result.exit_code, "rename the file or its folder" in result.stderr) == (3, True)
    assert [rule["id"] for rule in comity.json("rules", "list")] == ["dogs"]


def test_a_conflict_with_a_rule_that_is_not_there_is_noted(comity: Command) -> None:
    rows = '{"id": "dogs", "text": "x"}\n{"id": "cats", "text": "y", "overrides": ["dogz"]}\n'
    result = comity("add", comity.write("rules.jsonl", rows))
    assert "cats overrides 'dogz', which neither the memory nor" in result.stderr
    assert "did you mean dogs?" in result.stderr


def test_ctrl_c_tells_of_a_commit_of_its_own_only() -> None:
    def stopped(revisions: list[int]) -> None:
        with _interruptible() as committed:
            committed.extend(revisions)
            raise KeyboardInterrupt

    with pytest.raises(Stopped, match="nothing was changed"):
        stopped([])
    with pytest.raises(Stopped, match="after revision 7"):
        stopped([7])


def test_files_in_a_folder_that_cannot_be_read_are_named(comity: Command) -> None:
    comity.write("bylaws.md")
    comity.write("photo.xyz", "?")
    result = comity("add", str(comity.folder))
    assert "not read, for their format is not known" in result.stderr
    assert "photo.xyz" in result.stderr


def test_drafts_wait_for_approval_and_a_useless_answer_is_told(comity: Command) -> None:
    result = comity("add", comity.write("bylaws.md"), "--draft")
    assert result.exit_code == 0
    assert result.stderr.count("does not follow the schema") == 3
    assert "nothing to change" in result.stdout


def test_init_makes_a_memory_that_answers(comity: Command) -> None:
    made = comity.json("init")
    assert made["revision"] == 1
    assert len(made["added"]) >= 80
    assert comity.json("search", "May I fly a drone over the market in Pellhaven?")


def test_init_leaves_a_memory_with_rules_as_it_is(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    result = comity("init")
    assert result.exit_code == 1
    assert "has 3 rules already, and was not touched" in result.stderr
    assert len(comity.json("rules", "list")) == 3


def test_json_is_all_that_stands_on_stdout(comity: Command) -> None:
    result = comity("add", comity.write("bylaws.md"), "--json")
    assert json.loads(result.stdout)["revision"] == 1
    assert "revision 1: done" in result.stderr
