"""`comity exam generate` and `retire`: exams made from rules, and kept in step with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from comity.evaluation.exams import read_exam
from comity.evaluation.from_rules import KINDS, shared
from comity_command import Command

RULES: list[dict[str, Any]] = [
    {
        "id": "leash",
        "text": "Dogs in the park of Shanghai are kept on a leash of two metres at all hours.",
        "title": "Dogs in Parks",
        "place": "CN-SH",
        "domain": "animals",
        "authority": "local",
        "valid_from": "2024-01-01",
    },
    {
        "id": "free",
        "text": "Dogs may run in the park without a leash before seven in the morning.",
        "title": "Customs of the Park",
        "place": "CN-SH",
        "domain": "animals",
        "authority": "custom",
        "valid_from": "2024-01-01",
        "overrides": ["leash"],
    },
    {
        "id": "drums",
        "text": "Drums and trumpets are silent in the streets after nine in the evening.",
        "title": "Quiet Streets",
        "place": "CN-BJ",
        "domain": "noise",
        "authority": "local",
        "valid_from": "2025-01-01",
    },
    {
        "id": "gifts",
        "text": "Employees of Acme Corp accept no gift that is worth more than ten pounds.",
        "title": "Acme Code",
        "domain": "gifts",
        "audience": ["Acme Corp"],
        "authority": "code",
        "valid_from": "2025-03-01",
    },
]


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a memory of the rules, made once and copied."""
    command = Command(tmp_path_factory.mktemp("stock"))
    lines = "".join(json.dumps(rule) + "\n" for rule in RULES)
    command.done("add", command.write("rules.jsonl", lines))
    return command.folder


@pytest.fixture
def filled(comity: Command, stock: Path) -> Command:
    shutil.copytree(stock, comity.folder, dirs_exist_ok=True)
    return comity


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_boundary_and_precedence_questions_need_no_model(filled: Command) -> None:
    filled.environ["COMITY_MODEL"] = "no such model"
    out = filled.folder / "exam.jsonl"
    found = filled.json(
        "exam", "generate", "--kinds", "boundary,precedence", "--count", "6", "--out", str(out)
    )
    questions = read_exam(out).questions
    assert len(questions) == found["survived"]
    assert {question.kind for question in questions} == {"boundary", "precedence"}
    assert found["kinds"]["precedence"] == {"tried": 1, "survived": 1, "survived_share": 1.0}
    assert found["survived_share"] == found["survived"] / found["tried"]
    assert lines_of(filled.folder / "exam.rejected.jsonl") == [] or found["rejected"]


def test_coverage_names_the_rules_without_a_question(filled: Command) -> None:
    out = str(filled.folder / "exam.jsonl")
    arguments = ("exam", "generate", "--kinds", "precedence", "--count", "2", "--out", out)
    found = filled.json(*arguments)["coverage"]
    assert found["covered"] == 2
    assert found["uncovered"] == ["drums", "gifts"]
    told = filled.done(*arguments)
    assert "2 of 4 (50 %), such as drums, gifts" in told


def test_a_boundary_question_covers_only_the_rule_that_it_is_about(filled: Command) -> None:
    out = filled.folder / "exam.jsonl"
    found = filled.json(
        "exam", "generate", "--kinds", "boundary", "--count", "2", "--out", str(out)
    )
    assert all(len(question.rules) > 1 for question in read_exam(out).questions)
    assert found["coverage"]["covered"] == 1


def test_pairs_keep_their_options_in_one_order(filled: Command) -> None:
    out = filled.folder / "exam.jsonl"
    filled.done("exam", "generate", "--kinds", "boundary", "--count", "8", "--out", str(out))
    pairs: dict[str, set[tuple[str, ...]]] = {}
    for question in read_exam(out).questions:
        pairs.setdefault(question.pair, set()).add(question.options)
    assert pairs
    assert all(len(orders) == 1 for orders in pairs.values())


def test_the_questions_ask_about_the_rules_asked_for(filled: Command) -> None:
    out = filled.folder / "exam.jsonl"
    filled.done(
        *("exam", "generate", "--kinds", "boundary", "--count", "8", "--out", str(out)),
        *("--audience", "acme corp", "--place", "world", "--domain", "Gifts"),
    )
    assert {question.rules[0].id for question in read_exam(out).questions} == {"gifts"}


def test_drafts_of_a_model_that_writes_no_json_are_told_and_kept(filled: Command) -> None:
    out = filled.folder / "exam.jsonl"
    result = filled("exam", "generate", "--count", "6", "--out", str(out), "--seed", "3")
    assert result.exit_code == 0, result.output
    assert "draft 1, model: the answer does not follow the schema" in result.stderr
    assert "model: the answer does not follow the schema" in result.stdout
    assert {question.kind for question in read_exam(out).questions} == {"boundary", "precedence"}
    stages = [each["stage"] for each in lines_of(filled.folder / "exam.rejected.jsonl")]
    assert stages.count("model") == 3
    assert "0 of 3 drafts of the model survived (0 %); 3 questions follow from the" in result.stdout


def test_the_share_of_the_models_drafts_is_told_apart(filled: Command) -> None:
    out = str(filled.folder / "exam.jsonl")
    found = filled.json("exam", "generate", "--count", "6", "--out", out, "--seed", "3")
    assert found["by_model"] == {"tried": 3, "survived": 0, "survived_share": 0.0}
    assert found["survived"] == 3
    rejected = lines_of(filled.folder / "exam.rejected.jsonl")
    tried = sum(each["kind"] in ("scenario", "concept") for each in rejected)
    assert tried == 3
    assert sum(one["tried"] for one in found["kinds"].values()) == found["tried"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "With its rules local:qwen2.5-coder-1.5b answers 'Until 6.'.",
            "With its rules local:qwen2.5-coder-1.5b answers ….",
        ),
        ("Option B says the same as option D.", "Option … says the same as option …."),
        ("It resembles question 7-0002 (similarity 0.83).", "It resembles question another"),
        ("says too little: 3 words, 8 are needed", "says too little: … words, … are needed"),
    ],
)
def test_reasons_are_counted_without_letters_and_numbers_but_with_the_models_name(
    filled: Command, reason: str, told: str
) -> None:
    from comity.cli.exam_summary import summary
    from comity.evaluation.exams import Rejected
    from comity.evaluation.gather import Wanted
    from comity.evaluation.settle import Generated
    from comity.memory.memory import Memory

    settled = Generated(rejected=(Rejected(kind="concept", stage="answer", reasons=(reason,)),))
    with Memory.open(filled.environ["COMITY_MEMORY"], embedder="hash") as memory:
        found = summary(memory, Wanted(count=1), ["concept"], settled, filled.folder / "e.jsonl")
    assert found["reasons"] == {f"answer: {told}": 1}


def test_without_conflicts_the_share_of_precedence_goes_to_boundaries(filled: Command) -> None:
    out = str(filled.folder / "exam.jsonl")
    arguments = ("--kinds", "boundary,precedence", "--domain", "noise", "--out", out)
    found = filled.json("exam", "generate", "--count", "1", *arguments)
    assert {kind: one["survived"] for kind, one in found["kinds"].items()} == {
        "boundary": 2,
        "precedence": 0,
    }


def test_coverage_is_of_the_rules_that_were_asked_for(filled: Command) -> None:
    out = str(filled.folder / "exam.jsonl")
    arguments = ("--kinds", "boundary", "--domain", "gifts", "--count", "2", "--out", out)
    told = filled.done("exam", "generate", *arguments)
    assert "rules in force without a question: 0 of 1 (0 %)" in told


def test_a_file_that_cannot_be_written_is_said(filled: Command) -> None:
    (filled.folder / "exam.rejected.jsonl.part").mkdir()
    out = str(filled.folder / "exam.jsonl")
    result = filled("exam", "generate", "--kinds", "boundary", "--count", "2", "--out", out)
    assert result.exit_code == 8
    assert "exam.rejected.jsonl cannot be written" in result.stderr


def test_an_example_that_cannot_be_used_gives_no_advice_that_the_command_lacks(
    filled: Command,
) -> None:
    seeds = filled.write("seeds.jsonl", '{"id":"1"}\n')
    out = str(filled.folder / "exam.jsonl")
    result = filled("exam", "generate", "--count", "2", "--out", out, "--seeds", seeds)
    assert result.exit_code == 8
    assert "Mend them (comity exam run can leave them out with --skip-bad)" in result.stderr


def test_a_second_call_goes_on_after_the_drafts_that_are_there(filled: Command) -> None:
    out = str(filled.folder / "exam.jsonl")
    arguments = ("exam", "generate", "--kinds", "concept,precedence", "--out", out)
    filled.done(*arguments, "--count", "4")
    again = filled(*arguments, "--count", "6")
    assert "draft 3, model" in again.stderr
    assert "draft 2, model" not in again.stderr


def test_a_first_draft_alone_can_be_added_to(filled: Command) -> None:
    out = str(filled.folder / "exam.jsonl")
    filled.done("exam", "generate", "--count", "1", "--out", out)
    again = filled("exam", "generate", "--count", "8", "--out", out)
    assert again.exit_code == 0, again.output
    assert "draft 1, model" not in again.stderr
    assert "draft 2, model" in again.stderr


def test_drafts_on_other_rules_are_not_mixed_in(filled: Command) -> None:
    arguments = ("exam", "generate", "--kinds", "concept", "--out", str(filled.folder / "e.jsonl"))
    filled.done(*arguments, "--count", "1")
    filled.done("rules", "amend", "leash", "--text", "Dogs stay out of the park.")
    result = filled(*arguments, "--count", "2")
    assert result.exit_code == 8
    assert "other settings (the rules in force were others)" in result.stderr


def test_a_judge_that_does_not_answer_stops_it_before_the_first_draft(filled: Command) -> None:
    out = filled.folder / "exam.jsonl"
    result = filled(
        *("exam", "generate", "--count", "4", "--out", str(out)),
        *("--judge", "openai:judge", "--base-url", "http://127.0.0.1:9/v1", "--timeout", "1"),
    )
    assert result.exit_code == 7
    assert "the judge openai:judge does not answer" in result.stderr
    assert not out.exists()
    assert not (filled.folder / "exam.drafts.jsonl").exists()


def test_a_judge_of_its_own_is_kept_in_the_settings_of_the_drafts(filled: Command) -> None:
    out = filled.folder / "exam.jsonl"
    filled.done(
        *("exam", "generate", "--kinds", "concept", "--count", "1", "--out", str(out)),
        *("--judge", "scripted"),
    )
    assert lines_of(filled.folder / "exam.drafts.jsonl")[0]["judge"] == "scripted"


def test_no_matching_rule_is_an_error_that_says_what_there_is(filled: Command) -> None:
    out = str(filled.folder / "exam.jsonl")
    result = filled("exam", "generate", "--count", "2", "--out", out, "--domain", "tax")
    assert result.exit_code == 8
    assert "domains: animals, gifts, noise" in result.stderr
    assert "CN-BJ, CN-SH" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--out", "."), 2, "is a directory"),
        (("--out", "exam.csv"), 8, "name it exam.jsonl"),
        (("--out", "exam.jsonl", "--kinds", "essay"), 2, "known are scenario, concept"),
        (("--out", "exam.jsonl", "--place", "Atlantis"), 3, "Atlantis"),
        (("--out", "exam.jsonl", "--seeds", "none.jsonl"), 8, "there is no exam none.jsonl"),
        (("--out", "exam.jsonl", "--tenant", "nobody"), 4, "nobody"),
    ],
)
def test_what_cannot_be_used_is_said(
    filled: Command, arguments: tuple[str, ...], code: int, told: str
) -> None:
    result = filled("exam", "generate", "--count", "2", *arguments)
    assert result.exit_code == code, result.output
    assert told in result.stderr


def test_without_a_memory_it_says_how_to_make_one(comity: Command) -> None:
    result = comity("exam", "generate", "--count", "2", "--out", str(comity.folder / "e.jsonl"))
    assert result.exit_code == 4
    assert "there is no memory" in result.stderr


def test_an_exam_that_was_not_generated_is_not_overwritten(filled: Command) -> None:
    mine = filled.write("mine.jsonl", '{"id":"1"}\n')
    result = filled("exam", "generate", "--kinds", "boundary", "--count", "2", "--out", mine)
    assert result.exit_code == 8
    assert Path(mine).read_text(encoding="utf-8") == '{"id":"1"}\n'


@pytest.mark.parametrize(
    ("count", "kinds", "shares"),
    [
        (50, ("scenario", "concept"), {"scenario": 25, "concept": 25}),
        (20, ("boundary", "precedence"), {"boundary": 10, "precedence": 10}),
        (50, ("scenario", "concept", "boundary", "precedence"), (13, 13, 12, 12)),
        (1, ("boundary",), {"boundary": 2}),
        (5, ("boundary",), {"boundary": 6}),
        (1, ("scenario", "concept"), {"scenario": 1, "concept": 0}),
        (1, KINDS, (1, 0, 0, 0)),
        (3, KINDS, (1, 1, 0, 1)),
        (5, KINDS, (1, 1, 2, 1)),
    ],
)
def test_the_count_is_shared_evenly_and_boundaries_come_in_pairs(
    count: int, kinds: tuple[str, ...], shares: dict[str, int] | tuple[int, ...]
) -> None:
    expected = shares if isinstance(shares, dict) else dict(zip(kinds, shares, strict=True))
    assert shared(count, kinds) == expected


# Retiring

SINCE = ("--from", "2024-01-01")  # questions about an earlier day would outlive the change


@pytest.fixture
def exam(filled: Command) -> Path:
    """An exam with a line of its own making."""
    out = filled.folder / "exam.jsonl"
    arguments = ("--kinds", "boundary,precedence", "--count", "6", "--out", str(out))
    filled.done("exam", "generate", *arguments)
    with out.open("a", encoding="utf-8") as stream:
        stream.write('{"answer": "A",  "id":"mine", "stem":"Why?", "options":["So.","No."]}\n')
    return out


def test_nothing_is_written_while_the_rules_stand(filled: Command, exam: Path) -> None:
    before = exam.read_bytes()
    result = filled("exam", "retire", "--check", str(exam))
    assert result.exit_code == 0
    assert "0 changed" in result.stderr
    filled.done("exam", "retire", str(exam))
    assert exam.read_bytes() == before


def test_questions_on_an_amended_rule_are_retired_and_nothing_else_is_touched(
    filled: Command, exam: Path
) -> None:
    before = exam.read_bytes().splitlines()
    filled.done("rules", "amend", "leash", "--text", "Dogs stay out of the park.", *SINCE)
    told = filled.done("exam", "retire", str(exam))
    assert "retired: precedence/leash@1/free@1 (rule leash: version 1 was replaced" in told
    after = exam.read_bytes().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed
    for old, new in changed:
        fields = json.loads(new)
        assert fields.pop("status") == "retired"
        assert "leash" in fields.pop("reason")
        assert fields == json.loads(old)
    assert after[-1] == before[-1]


def test_check_writes_nothing_and_fails_where_something_would_change(
    filled: Command, exam: Path
) -> None:
    before = exam.read_bytes()
    filled.done("rules", "amend", "leash", "--text", "Dogs stay out of the park.", *SINCE)
    result = filled("exam", "retire", str(exam), "--check")
    assert result.exit_code == 1
    assert "retired: " in result.stdout
    assert exam.read_bytes() == before


def test_what_is_in_no_folder_that_can_be_written_is_said_before_anything_is_made(
    filled: Command,
) -> None:
    out = Path(filled.write("file", "no folder")) / "exam.jsonl"
    result = filled("exam", "generate", "--count", "2", "--out", str(out))
    assert result.exit_code == 8
    assert "cannot be written" in result.stderr


def test_a_csv_cannot_be_retired(filled: Command) -> None:
    path = filled.write("exam.csv", "id,question,A,B,answer\n1,Why?,So.,No.,A\n")
    result = filled("exam", "retire", path)
    assert result.exit_code == 8
    assert "names no rules" in result.stderr


def test_what_somebody_retired_stays_so_and_a_rule_of_another_tenant_is_not_looked_at(
    filled: Command, exam: Path
) -> None:
    first, *rest = exam.read_text(encoding="utf-8").splitlines(keepends=True)
    by_hand = json.loads(first) | {"status": "retired", "reason": "ambiguous: read by hand"}
    exam.write_text(json.dumps(by_hand) + "\n" + "".join(rest), encoding="utf-8")
    before = exam.read_bytes()
    filled.done("exam", "retire", str(exam))
    assert exam.read_bytes() == before
    result = filled("exam", "retire", str(exam), "--tenant", "guild")
    assert result.exit_code == 8
    assert f"{exam}: the memory knows none of the" in result.stderr
    assert exam.read_bytes() == before


def test_the_tenant_of_the_questions_is_meant_where_none_is_named(filled: Command) -> None:
    lines = "".join(json.dumps({**rule, "tenant": "guild"}) + "\n" for rule in RULES[:2])
    filled.done("add", filled.write("guild.jsonl", lines), "--tenant", "guild")
    out = str(filled.folder / "guild-exam.jsonl")
    arguments = ("--kinds", "boundary", "--count", "2", "--tenant", "guild", "--out", out)
    filled.done("exam", "generate", *arguments)
    assert filled("exam", "retire", out, "--check").exit_code == 0
    for rule in ("leash", "free"):
        filled.done("rules", "repeal", rule)
    assert filled("exam", "retire", out, "--check").exit_code == 0
