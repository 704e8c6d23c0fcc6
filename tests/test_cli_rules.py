"""`comity rules`."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity_command import Command

RULES = """\
{"id": "dogs", "text": "Dogs on a lead [red].", "place": "CN-HN", "audience": ["baker"], \
"authority": "local"}
{"id": "noise", "text": "No noise after ten.", "place": "CN", "domain": "peace", \
"title": "Peace Act", "article": "Article 1"}
{"id": "smoke", "text": "No smoking indoors.", "status": "draft"}
{"id": "litter", "text": "Litter goes into bins.", "status": "draft"}
"""


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path)
    command.done("add", command.write("rules.jsonl", RULES))
    return command


def ids(comity: Command, *options: str) -> list[str]:
    return [rule["id"] for rule in comity.json("rules", "list", *options)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["dogs", "litter", "noise", "smoke"]),
        (("--place", "CN"), ["dogs", "noise"]),
        (("--place", "湖南"), ["dogs"]),
        (("--audience", "baker"), ["dogs"]),
        (("--domain", "peace"), ["noise"]),
        (("--authority", "local"), ["dogs"]),
        (("--status", "draft"), ["litter", "smoke"]),
    ],
)
def test_the_list_is_filtered(
    comity: Command, options: tuple[str, ...], expected: list[str]
) -> None:
    assert ids(comity, *options) == expected


def test_repealed_rules_are_listed_only_where_asked_for(comity: Command) -> None:
    comity.done("rules", "repeal", "dogs")
    assert "dogs" not in ids(comity)
    assert ids(comity, "--status", "repealed") == ["dogs"]
    assert "dogs" in ids(comity, "--status", "all")
    assert "and 1 repealed" in comity("rules", "list").stderr
    assert "dogs" in ids(comity, "--as-of", "1")


def test_a_rule_to_be_repealed_later_is_still_listed(comity: Command) -> None:
    said = comity.done("rules", "repeal", "dogs", "--at", "2999-01-01")
    assert "repealed from 2999-01-01" in said
    assert "dogs" in ids(comity)


def test_a_rule_is_shown_word_for_word(comity: Command) -> None:
    said = comity.done("rules", "show", "dogs")
    assert "Dogs on a lead [red]." in said
    assert "CN-HN" in said
    shown = comity.json("rules", "show", "dogs@1")
    assert (shown["id"], shown["version"], shown["revision"]) == ("dogs", 1, 1)


def test_an_amendment_is_a_version_with_a_diff_an_author_and_a_reason(comity: Command) -> None:
    said = comity.done(
        "rules", "amend", "noise", "--text", "No noise after nine.", "--note", "neighbours"
    )
    assert "No noise after [-ten-]{+nine+}." in said
    assert "[-ten-]{+nine+}" in comity.done("rules", "diff", "noise")
    versions = comity.json("rules", "history", "noise")
    assert [version["version"] for version in versions] == [1, 2]
    assert (versions[1]["author"], versions[1]["note"]) == ("Ada", "neighbours")
    assert comity.json("rules", "show", "noise@1")["text"] == "No noise after ten."


def test_an_amendment_takes_its_text_from_a_file_and_sets_other_fields(comity: Command) -> None:
    file = comity.write("new.txt", "Silence after ten.\n")
    changed = comity.json(
        "rules", "amend", "noise", "--file", file, "--from", "2031-01-01",
        "--set", "mandatory=true", "--set", "audience=a|b", "--set", "valid_to=2032-01-01",
        "--set", 'check={"must_not_match": "party"}',
    )  # fmt: skip
    assert changed["text"] == "Silence after ten."
    assert (changed["mandatory"], changed["audience"]) == (True, ["a", "b"])
    assert changed["valid_from"] == "2031-01-01T00:00:00Z"
    assert changed["check"]["must_not_match"] == "party"
    differences = comity.json("rules", "diff", "noise", "1", "2")["fields"]
    assert differences["mandatory"] == {"old": False, "new": True}


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("show", "dog"), "no rule 'dog': did you mean dogs?", 4),
        (("show", "dogs@7"), "rule 'dogs' has no version 7", 4),
        (("history", "zzz"), "no rule 'zzz'", 4),
        (("diff", "dogs", "1", "9"), "no version 9", 4),
        (("list", "--as-of", "9"), "no revision 9: the latest is 1", 4),
        (("list", "--tenant", "acme"), "no tenant 'acme'", 4),
        (("list", "--place", "CN-QQ"), "CN-QQ", 3),
        (("changes", "--since", "9"), "no revision 9", 4),
        (("amend", "dogs"), "nothing to amend", 2),
        (("amend", "dogs", "--set", "colour=red"), "no field 'colour' to amend", 2),
        (("amend", "dogs", "--set", "plac=CN"), "did you mean place?", 2),
        (("amend", "dogs", "--set", "place"), "'place' is not FIELD=VALUE", 2),
        (("amend", "dogs", "--set", "place=Nowhereland"), "Nowhereland", 3),
        (("amend", "dogs", "--set", "authority=kin"), "unknown authority 'kin'", 3),
        (("amend", "dogs", "--set", "mandatory=perhaps"), "mandatory", 3),
        (("amend", "dogs", "--set", "check={"), "check is no JSON", 2),
        (("amend", "dogs", "--text", "x", "--file", "rules.jsonl"), "not both", 2),
        (("amend", "dogs", "--set", "valid_to=2000-01-01"), "is not after valid_from", 3),
        (("repeal", "zzz"), "no rule 'zzz'", 4),
        (("approve", "smoke", "dogs"), "rule 'dogs' is active, not a draft", 3),
    ],
)
def test_wrong_use_is_told_and_changes_nothing(
    comity: Command, arguments: tuple[str, ...], message: str, code: int
) -> None:
    result = comity("rules", *arguments)
    assert message in " ".join(result.stderr.split())
    assert result.exit_code == code
    assert comity.json("rules", "changes", "--since", "1") == []


def test_drafts_are_approved_together(comity: Command) -> None:
    comity.done("rules", "approve", "smoke", "litter", "--note", "read")
    assert ids(comity, "--status", "draft") == []
    assert comity.json("rules", "show", "smoke")["status"] == "active"


def test_a_version_that_is_due_is_shown_with_the_one_in_force(comity: Command) -> None:
    comity.done("rules", "amend", "dogs", "--text", "Dogs free.", "--from", "2999-01-01")
    waits = "active; not yet in force: version 1 is now"
    assert waits in comity.done("rules", "show", "dogs")
    assert waits in comity.done("rules", "list")
    assert "not yet" not in comity.done("rules", "show", "dogs@1")
    assert "not yet" not in comity.done("rules", "list", "--as-of", "1")


def test_an_amendment_before_one_that_is_due_says_that_it_forestalls_it(comity: Command) -> None:
    amend = ("rules", "amend", "dogs", "--text", "Cats.")
    comity.done(*amend, "--from", "2999-01-01")
    refused = comity(*amend)
    assert (refused.exit_code, "version 2 is due from 2999-01-01" in refused.stderr) == (3, True)
    later = comity(*amend, "--from", "2999-02-01")
    assert "will not come into force" not in later.stderr
    told = comity(*amend, "--from", "2026-01-01").stderr
    assert "version 2, due from 2999-01-01, will not come into force" in told
    assert "version 3, due from 2999-02-01, will not come into force" in told


def test_a_draft_amendment_is_rejected_and_the_rule_stays(comity: Command) -> None:
    comity.done("rules", "amend", "dogs", "--text", "Cats.", "--set", "status=draft")
    assert "draft; not yet in force: version 1 is now" in comity.done("rules", "list")
    result = comity("rules", "repeal", "dogs")
    assert (result.exit_code, "comity rules reject dogs" in result.stderr) == (3, True)
    assert "dogs@3: active" in comity.done("rules", "reject", "dogs", "--note", "no")
    assert comity.json("rules", "show", "dogs")["text"] == "Dogs on a lead [red]."
    assert comity.json("rules", "history", "dogs")[-1]["kind"] == "reject"


def test_a_repealed_rule_cannot_be_repealed_again(comity: Command) -> None:
    comity.done("rules", "repeal", "dogs")
    result = comity("rules", "repeal", "dogs")
    assert (result.exit_code, "was repealed already" in result.stderr) == (3, True)


def test_changes_are_listed_since_a_revision(comity: Command) -> None:
    comity.done("rules", "amend", "dogs", "--text", "Cats too.")
    changes = comity.json("rules", "changes", "--since", "1")
    assert [(c["id"], c["version"], c["kind"]) for c in changes] == [("dogs", 2, "amend")]
    assert "dogs@2" in comity.done("rules", "changes", "--since", "1")
