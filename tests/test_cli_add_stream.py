"""`comity add --stream`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comity_command import Command


def lines(*ids: str, text: str = "Dogs are kept on a lead") -> str:
    return "".join(json.dumps({"id": name, "text": f"{text} in {name}."}) + "\n" for name in ids)


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path)


def test_a_file_is_added_in_batches_and_again_changes_nothing(comity: Command) -> None:
    path = comity.write("rules.jsonl", lines(*"abcdefg"))
    said = comity.done("add", "--stream", path, "--batch", "3", "--place", "CN-HN", "--note", "why")
    assert said == "7 rules added, in 3 revisions\n"
    shown = comity.json("rules", "show", "g")
    assert (shown["place"], shown["domain"]) == ("CN-HN", "")
    assert comity.json("search", "dogs in f", "--place", "CN-HN")[0]["id"] == "f"
    again = comity("add", "--stream", path, "--place", "CN-HN")
    assert "goes on behind row 7:" in again.stderr
    assert again.stdout == "0 rules added\n"
    other = comity.json("add", "--stream", path, "--place", "CN-HN", "--domain", "law", "--yes")
    assert (other["changed"], other["revision"], other["committed"]) == (7, 4, True)
    assert comity.json("add", path, "--place", "CN-HN", "--domain", "law")["unchanged"] == 7


def test_changed_rules_need_a_yes(comity: Command) -> None:
    comity.done("add", "--stream", comity.write("rules.jsonl", lines(*"abcd")))
    path = comity.write("rules.jsonl", lines(*"ab") + lines("c", text="Cats") + lines("d", "e"))
    refused = comity("add", "--stream", path, "--batch", "2")
    assert refused.exit_code == 1
    assert "would change 1 rule of the memory's (c): add --yes" in refused.stderr
    assert "nothing was added\n" in refused.stderr
    assert "the same command again" not in refused.stderr
    tried = comity("add", "--stream", path, "--dry-run")
    assert tried.exit_code == 0
    assert "1 rule would be changed, which has to be said: add --yes" in tried.stderr
    found = "1 rule new, 1 changed, 3 there already, in 1 revision"
    assert tried.stdout == f"a dry run, which changes nothing: {found}\n"
    assert "--yes" not in comity("add", "--stream", path, "--dry-run", "--yes").stderr
    said = comity.done("add", "--stream", path, "--yes")
    assert said == "1 rule added, 1 changed, 3 there already, in 1 revision\n"


def test_a_command_given_again_behind_another_one_undoes_what_that_one_changed(
    comity: Command,
) -> None:
    path = comity.write("rules.jsonl", lines(*"abc"))
    for place in ("CN-HN", "CN-GD", "CN-HN"):
        comity.done("add", "--stream", path, "--place", place, "--yes")
        assert {rule["place"] for rule in comity.json("rules", "list")} == {place}


def test_a_bad_row_is_named_by_its_line_and_what_is_in_is_said(comity: Command) -> None:
    path = comity.write("rules.jsonl", lines(*"abcd") + "nonsense\n" + lines("e"))
    failed = comity("add", "--stream", path, "--batch", "2")
    assert failed.exit_code == 3
    assert "line 5: malformed JSON" in failed.stderr
    assert "the batches before are in, as revision 1, and whole" in failed.stderr
    assert len(comity.json("rules", "list")) == 2
    comity.write("rules.jsonl", lines(*"abcd") + lines("e"))
    gone_on = comity("add", "--stream", path, "--batch", "2")
    assert "goes on behind row 2:" in gone_on.stderr
    assert gone_on.stdout == "3 rules added, in 2 revisions\n"


def test_bad_rows_are_left_out_where_that_is_asked_for(comity: Command) -> None:
    text = lines("a") + "nonsense\n" + '{"id": "p", "text": "x", "place": "Nowhereland"}\n'
    path = comity.write("rules.jsonl", text + lines("b"))
    result = comity("add", "--stream", path, "--keep-going")
    assert result.exit_code == 3
    assert result.stdout == "2 rules added, 2 rows left out, in 1 revision\n"
    assert "left out: " in result.stderr
    assert "line 2: malformed JSON" in result.stderr
    assert "line 3: place: " in result.stderr
    assert "2 rows could not be taken and were left out, the first of them: " in result.stderr


def test_of_many_bad_rows_the_first_are_named_and_all_are_counted(comity: Command) -> None:
    path = comity.write("rules.jsonl", "nonsense\n" * 30 + lines("a"))
    result = comity("add", "--stream", path, "--keep-going")
    assert result.stderr.count("left out: ") == 21
    assert "30 rows could not be taken" in result.stderr
    assert result.stdout == "1 rule added, 30 rows left out, in 1 revision\n"


def test_a_dry_run_checks_every_row_and_makes_no_memory(comity: Command) -> None:
    path = comity.write("rules.jsonl", lines(*"abc"))
    said = comity.done("add", "--stream", path, "--dry-run")
    assert said == "a dry run, which changes nothing: 3 rules new, in 1 revision\n"
    assert not (comity.folder / "rules.db").exists()
    comity.write("rules.jsonl", lines("a") + '{"text": "x", "authority": "whim"}\n')
    bad = comity("add", "--stream", path, "--dry-run")
    assert (bad.exit_code, "line 2: " in bad.stderr) == (3, True)
    left = comity("add", "--stream", path, "--dry-run", "--keep-going", "--json")
    said_of_it = json.loads(left.stdout)
    assert (said_of_it["added"], said_of_it["left_out"], said_of_it["committed"]) == (1, 1, False)


def test_a_dry_run_names_the_lines_of_all_rows_that_it_would_leave_out(comity: Command) -> None:
    rows = lines("a") + '{"id": "b", "text": "x", "authority": "emperor"}\n' + "nonsense\n"
    path = comity.write("rules.jsonl", rows)
    told = comity("add", "--stream", path, "--dry-run", "--keep-going").stderr
    assert "left out: " in told
    assert "rules.jsonl, line 2: rule 'b': unknown authority" in told
    assert "line 3: malformed JSON" in told
    assert told.count("left out: ") == 2


def test_a_dry_run_for_a_place_where_no_memory_can_be_is_refused(comity: Command) -> None:
    path = comity.write("rules.jsonl", lines("a"))
    for options in ((), ("--stream",)):
        result = comity("add", path, "--dry-run", *options, "--memory", "nowhere/k.db")
        assert result.exit_code == 5
        assert "nowhere: there is no such folder" in result.stderr


def test_what_was_left_out_is_named_again_when_the_command_is_given_again(comity: Command) -> None:
    path = comity.write("rules.jsonl", lines("a") + "nonsense\n")
    for said in ("1 rule added, 1 row left out", "0 rules added, 1 there already, 1 row left out"):
        result = comity("add", "--stream", path, "--keep-going")
        assert (result.exit_code, said in result.stdout) == (3, True)


def test_a_folder_with_a_manifest_is_added_too(comity: Command) -> None:
    comity.write("by-laws.md")
    comity.write("rules.jsonl", '{"id": "a", "text": "x", "place": "Xanadu"}\n')
    comity.write("documents.toml", '[[place]]\ncode = "XA"\nnames = ["Xanadu"]\n')
    said = comity.done("add", "--stream", str(comity.folder), "--workers", "2")
    assert said == "4 rules added, in 1 revision\n"
    assert comity.json("rules", "show", "a")["place"] == "XA"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stream", "--draft"), "--draft reads whole documents"),
        (("--keep-going",), "are for --stream"),
        (("--workers", "2"), "are for --stream"),
        (("--stream", "--workers", "0"), "--workers"),
        (("--stream", "--authority", "whim"), "'whim' is none of"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    comity: Command, options: tuple[str, ...], said: str
) -> None:
    result = comity("add", comity.write("rules.jsonl", lines("a")), *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_cluster_that_is_not_there_is_not_waited_for_by_giving_the_command_again(
    comity: Command,
) -> None:
    failed = comity("add", comity.write("rules.jsonl", lines("a")), "--ray=127.0.0.1:1")
    assert failed.exit_code != 0
    assert "nothing was added\n" in failed.stderr
    assert "the same command again" not in failed.stderr
