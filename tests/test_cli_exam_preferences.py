"""`comity exam preferences`: from the packaged questions to a folder, tables and a page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from comity_command import Command

RULE = '{"id": "leash", "text": "Dogs are kept on a leash.", "place": "world"}'
QUESTION = {
    "id": "bread",
    "question": "Why does bread rise?",
    "wishes": [
        {
            "meta": {"preferences": [{"text": text, "kind": "style"}]},
            "explicit": True,
            "family": "helpful",
            "wish": text,
            "check": check,
        }
        for text, check in (
            ("Be brief.", {"longest_words": 2}),
            ("Explain at length.", {"shortest_words": 3}),
        )
    ],
}
CASE = {
    "id": "dog",
    "rule": "leash",
    "question": "Do dogs need a leash?",
    "scope": {"at": "2026-07-01"},
    "meta": {"preferences": [{"text": "Just say no."}]},
    "check": {"must_not_match": "(?i)^no"},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the memory and the cases, made once."""
    command = Command(tmp_path_factory.mktemp("made"))
    command.done("add", command.write("rules.jsonl", RULE))
    command.write("cases.jsonl", json.dumps(QUESTION))
    command.write("ruled.jsonl", json.dumps(CASE))
    return command.folder


@pytest.fixture
def comity(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path)


EXAM = ("exam", "preferences", "--out", "run", "--cases", "cases.jsonl")
RULED = (*EXAM, "--rule-cases", "ruled.jsonl")


def test_a_run_is_kept_told_and_reported_on(comity: Command, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra exams")
    told = comity.done(*RULED)  # the fake repeats the question: four words
    for mode in ("none", "plain", "meta\\_prompt"):
        assert f"| {mode} | 50.0 % (" in told
    assert "| meta\\_prompt | 0.0 % (" in told.partition("Rules broken")[2]
    lines = (tmp_path / "run" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 * 3 + 2
    page = comity("exam", "report", "run", "--out", "page.html")
    assert page.exit_code == 0
    assert "Wishes followed" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_continued_run_asks_nothing_again(comity: Command, tmp_path: Path) -> None:
    comity.done(*RULED, "--modes", "none")
    before = (tmp_path / "run" / "answers.jsonl").read_bytes()
    comity.done(*RULED, "--modes", "plain,none", "--resume")
    after = (tmp_path / "run" / "answers.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b'"mode":"none"') == before.count(b'"mode":"none"') == 3
    assert comity(*RULED).exit_code == 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--modes", "best"), "known are none, plain, meta_prompt"),
        (("--modes", "adapter"), "--adapter-model"),
        (("--adapter-model", "scripted"), "go together"),
        (("--modes", "contrast", "--no-rules"), "does not tell its next token"),
        (("--share", "0"), "--share"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is(
    comity: Command, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    result = comity(*RULED, *arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert not (tmp_path / "run").exists()


def test_rule_cases_need_their_rules(comity: Command) -> None:
    result = comity(*EXAM)
    assert result.exit_code == 8
    assert "does not have rule tidewick/Article 6" in result.stderr
    assert "comity init" in result.stderr
    comity.done(*EXAM, "--no-rules")


def test_a_folder_of_another_kind_is_told(comity: Command) -> None:
    assert "is no run" in comity("exam", "report", "elsewhere").stderr
    comity.done(*RULED, "--modes", "none")
    result = comity("exam", "report", "run", "--published")
    assert result.exit_code == 2
    assert "reported on alone" in result.stderr
