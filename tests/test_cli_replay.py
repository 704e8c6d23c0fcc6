"""`comity decisions replay` for several decisions: what today's rules would change."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity_command import Command

RULES = """\
{"id": "dogs", "text": "Dogs must be kept on a lead."}
{"id": "bread", "text": "Bread is good."}
"""


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path)
    command.done("add", command.write("rules.jsonl", RULES))
    return command


def ask(comity: Command, question: str, *options: str) -> str:
    return str(comity.json("ask", question, *options)["decision"]["id"])


REPLAY = ("decisions", "replay", "--under", "now")


def test_all_answers_that_a_rule_had_a_part_in_are_replayed_and_summed_up(comity: Command) -> None:
    first = ask(comity, "May dogs run?")
    ask(comity, "Is bread good?", "--hits", "1")
    dated = ask(comity, "May dogs run there?", "--at", "2020-01-01")
    comity.done("rules", "amend", "dogs", "--text", "Dogs may run.")
    told = comity.json(*REPLAY, "--rule", "dogs")
    assert (told["replayed"], told["same"], told["changed"]) == (2, 1, 1)
    assert told["rules"] == [{"id": "dogs", "then": 1, "now": 2, "decisions": 1}]
    assert [(each["decision"], each["same"]) for each in told["decisions"]] == [
        (first, False),
        (dated, True),
    ]
    said = comity(*REPLAY, "--rule", "dogs@1")
    assert "amended: dogs@1 -> @2" in said.stdout
    assert dated not in said.stdout
    assert "dogs: version 1 -> version 2, in 1" in said.stderr
    assert "2 decisions: 1 the same, 1 changed" in said.stderr


def test_the_decisions_of_a_period_are_replayed_up_to_a_limit(comity: Command) -> None:
    for _ in range(3):
        ask(comity, "May dogs run?")
    assert comity.json(*REPLAY, "--since", "2999-01-01")["replayed"] == 0
    assert comity.json(*REPLAY, "--until", "2999-01-01")["replayed"] == 3
    cut = comity(*REPLAY, "--since", "2000-01-01", "--limit", "2")
    assert "only the first 2" in cut.stderr
    assert "2 decisions: 2 the same, 0 changed" in cut.stderr


def test_decisions_named_one_by_one_keep_their_facts_if_that_is_asked(comity: Command) -> None:
    named = [ask(comity, "May dogs run?"), ask(comity, "Do dogs run?")]
    comity.done("rules", "repeal", "dogs")
    assert comity.json(*REPLAY, *named)["changed"] == 2
    assert comity.json(*REPLAY, *named, "--facts", "then")["changed"] == 0
    own = comity("decisions", "replay", *named)
    assert (own.exit_code, "2 the same" in own.stderr) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name decisions"),
        (("d-1", "--since", "2020-01-01"), "not both"),
        (("d-1", "--facts", "now"), "--facts needs"),
    ],
)
def test_a_replay_of_nothing_or_of_two_choices_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = Command(tmp_path)("decisions", "replay", *arguments)
    assert (result.exit_code, said in result.stderr) == (2, True)


def test_the_answers_that_relied_on_a_version_are_listed(comity: Command) -> None:
    ask(comity, "Is bread good?", "--hits", "1")
    first = ask(comity, "May dogs run?")
    comity.done("rules", "amend", "dogs", "--text", "Dogs may run.")
    second = ask(comity, "May dogs run?")
    parts = {
        each["decision"]: each["part"] for each in comity.json("decisions", "affected", "dogs")
    }
    assert list(parts) == [first, second]
    assert parts[first] == ["kept"]
    (only,) = comity.json("decisions", "affected", "dogs@2")
    assert only["decision"] == second
