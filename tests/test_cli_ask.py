"""`comity search`, `ask` and `decisions`: from a question to the record of its answer."""

from __future__ import annotations

import json
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
        (("search", "dogs", "--memory", "mysql://x"), "only sqlite:///FILE is supported", 2),
        (("ask", "dogs", "--model", "locla"), "did you mean 'local'", 2),
        (("ask", "dogs", "--model", "local"), "run: comity models pull", 7),
        (("ask", "dogs", "--model", "openai:x"), "OPENAI_API_KEY", 2),
        (("ask", "dogs", "--budget", "-5"), "option --budget", 2),
        (("ask", "dogs", "--place", "XA-QQ"), "XA-QQ", 3),
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


def test_an_answer_comes_with_its_citations_scope_and_decision(comity: Command) -> None:
    result = comity("ask", QUESTION)
    assert result.exit_code == 0
    assert result.stdout.startswith(QUESTION)
    row = next(line for line in result.stdout.splitlines() if line.startswith("[R1]"))
    assert row.split()[:3] == ["[R1]", "mark", "dogs@1"]
    assert ("from 2024-01-01" in row, "XA-NO" in row) == (True, True)
    assert "Elm (XA-NO/Elm), from the question" in result.stderr
    assert "not checked, though these rules ask for it: kindness" in result.stderr
    assert "comity decisions show d-" in result.stderr


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
    many = comity("ask", QUESTION, "--budget", "0").stderr
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


def test_a_chain_that_holds_is_told_from_one_that_was_edited(comity: Command) -> None:
    first = comity.json("ask", QUESTION)["decision"]["id"]
    comity.done("ask", QUESTION)
    assert "2 decisions, and the chain holds" in comity.done("decisions", "verify")
    with apsw.Connection(str(comity.folder / "rules.db")) as book:
        triggers = "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        for (name,) in book.execute(triggers).fetchall():
            book.execute(f"DROP TRIGGER {name}")
        book.execute("UPDATE decision SET record = replace(record, 'run free', 'run wild')")
    book.close()
    result = comity("decisions", "verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["broken"]["decision"] == first
    assert first in comity("decisions", "verify").stdout
