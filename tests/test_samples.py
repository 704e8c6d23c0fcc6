"""The sample rules that ship with the package, read as a user would read them."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from comity.documents.extract import Extraction, extract
from comity.records import AUTHORITIES, Check, Rule
from comity.samples import sample_folder

QUESTIONS = Path(__file__).parent.parent / "benchmarks" / "sample_questions.jsonl"


@cache
def read_samples() -> Extraction:
    """The whole folder, read once by the reader that `comity add` uses."""
    return extract([sample_folder()])


def rules() -> tuple[Rule, ...]:
    return read_samples().rules


def first_versions() -> dict[str, Rule]:
    return {rule.id: rule for rule in rules() if rule.version == 1}


def manifest_places() -> set[str]:
    return {place.code for place in read_samples().places}


def test_every_file_of_the_folder_is_named_by_the_manifest_and_read() -> None:
    manifest = tomllib.loads((sample_folder() / "documents.toml").read_text(encoding="utf-8"))
    named = {document["file"] for document in manifest["document"]}
    present = {file.name for file in sample_folder().iterdir()} - {"documents.toml"}
    assert named == present
    assert {document.path.name for document in read_samples().documents} == present
    assert read_samples().skipped == ()


def test_every_document_gives_rules() -> None:
    assert [document.id for document in read_samples().documents if document.rules < 3] == []


def test_every_readable_format_occurs() -> None:
    suffixes = {document.path.suffix for document in read_samples().documents}
    assert suffixes == {".md", ".txt", ".html", ".docx", ".pdf", ".csv", ".jsonl"}


def test_there_are_at_least_a_hundred_rules() -> None:
    assert len(first_versions()) >= 100


def test_both_languages_are_well_represented() -> None:
    languages = [rule.language for rule in first_versions().values()]
    assert set(languages) == {"en", "zh"}
    assert min(languages.count("en"), languages.count("zh")) >= 30


def test_dates_matter_in_at_least_a_dozen_rules() -> None:
    def turns_within_the_years(rule: Rule) -> bool:
        moments = [moment for moment in (rule.valid_from, rule.valid_to) if moment]
        return any(2024 < moment.year <= 2027 for moment in moments)

    assert sum(turns_within_the_years(rule) for rule in rules()) >= 12
    assert sum(rule.valid_to is not None for rule in rules()) >= 5


def test_at_least_five_rules_declare_a_conflict_and_every_conflict_names_a_rule() -> None:
    known = set(first_versions())
    overriding = [rule for rule in rules() if rule.overrides]
    assert len(overriding) >= 5
    assert [name for rule in overriding for name in rule.overrides if name not in known] == []
    assert [rule.id for rule in overriding if rule.id in rule.overrides] == []


def winning_reason(rule: Rule, other: Rule) -> str:
    """Which step of precedence tells the two rules apart."""
    if rule.authority != other.authority:
        higher = AUTHORITIES.index(rule.authority) < AUTHORITIES.index(other.authority)
        return "declared by the higher" if higher else "declared by the lower"
    if rule.place != other.place:
        return "narrower place"
    return "later" if rule.valid_from != other.valid_from else "undecided"


def test_conflicts_show_every_step_of_precedence() -> None:
    known = first_versions()
    reasons = {
        winning_reason(rule, known[name]) for rule in known.values() for name in rule.overrides
    }
    assert {"declared by the lower", "narrower place", "later"} <= reasons
    assert "undecided" not in reasons


def test_at_least_three_rules_are_mandatory_and_short() -> None:
    mandatory = [rule for rule in rules() if rule.mandatory]
    assert len(mandatory) >= 3
    assert [rule.id for rule in mandatory if len(rule.text) > 240] == []


@pytest.mark.parametrize(
    ("enforcement", "kind"), [("block", "must_not_match"), ("revise", "must_match")]
)
def test_a_mandatory_rule_is_enforced_by_a_pattern(enforcement: str, kind: str) -> None:
    checks = [rule.check for rule in rules() if rule.mandatory and rule.enforcement == enforcement]
    assert any(check is not None and getattr(check, kind) for check in checks)


def check_of(rule_id: str) -> Check:
    check = first_versions()[rule_id].check
    assert check is not None
    return check


@pytest.mark.parametrize(
    ("answer", "breach"),
    [
        ("Take 400 mg twice a day.", True),
        ("每次服用 0.5毫克。", True),
        ("The usual dose is 2,5 milligrams.", True),
        ("Ask your doctor or a pharmacist.", False),
        ("The pharmacy is open until 23:30 and lies 400 metres away.", False),
    ],
)
def test_the_pattern_against_doses_finds_doses_only(answer: str, breach: bool) -> None:
    pattern = check_of("medicines-regulation/Article 10").must_not_match
    assert bool(re.search(pattern, answer)) is breach


@pytest.mark.parametrize("answer", ["… ethics line: 0800 552 110.", "Call 0800-552-110."])
def test_the_pattern_for_the_ethics_line_accepts_usual_spellings(answer: str) -> None:
    assert re.search(check_of("brightwater/Section 11").must_match, answer)


def test_later_versions_follow_a_version_that_is_there() -> None:
    keys = {rule.key for rule in rules()}
    later = [rule for rule in rules() if rule.version > 1]
    assert [rule.key for rule in later if (rule.id, rule.version - 1) not in keys] == []
    assert sum(rule.status == "active" for rule in later) >= 3
    assert sum(rule.status == "repealed" for rule in later) >= 2


def test_later_versions_start_after_the_version_before() -> None:
    by_key = {rule.key: rule for rule in rules()}
    for rule in by_key.values():
        before = by_key.get((rule.id, rule.version - 1))
        if before is not None:
            assert rule.valid_from is not None
            assert before.valid_from is None or before.valid_from < rule.valid_from, rule.key


def test_amendments_give_only_what_changes() -> None:
    lines = (sample_folder() / "amendments.jsonl").read_text(encoding="utf-8").splitlines()
    allowed = {"id", "version", "valid_from", "valid_to", "text", "status"}
    assert [line for line in lines if set(json.loads(line)) - allowed] == []


def test_every_place_is_declared_with_an_english_and_a_chinese_name() -> None:
    assert {rule.place for rule in first_versions().values()} <= manifest_places()
    for place in read_samples().places:
        assert any(name.isascii() for name in place.names), place.code
        assert any(re.search("[一-鿿]", name) for name in place.names), place.code


def test_places_are_declared_wide_to_narrow() -> None:
    codes = [place.code for place in read_samples().places]
    for n, code in enumerate(codes):
        parent = code.rpartition("/" if "/" in code else "-")[0]
        assert not parent or parent in codes[:n], code


def test_two_companies_and_a_profession_have_rules_of_their_own() -> None:
    audiences = {label for rule in rules() for label in rule.audience}
    assert {"Brightwater Foods", "星岭科技公司", "pharmacist"} <= audiences


def test_every_text_of_the_norms_table_has_its_own_name() -> None:
    with (sample_folder() / "norms.csv").open(encoding="utf-8", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert len(ids) == len(set(ids)) >= 10


def test_no_two_rules_say_the_same() -> None:
    assert read_samples().duplicates == ()


@pytest.mark.skipif(not QUESTIONS.is_file(), reason="benchmarks/ does not ship with the package")
def test_the_sample_questions_name_rules_and_places_that_exist() -> None:
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    assert len(questions) >= 40
    for question in questions:
        assert set(question) <= {"question", "place", "at", "audience", "rules", "not"}
        assert question["rules"], question
        assert {*question["rules"], *question["not"]} <= set(first_versions()), question
        assert set(question.get("place", [])) <= manifest_places(), question


@pytest.mark.skipif(not QUESTIONS.is_file(), reason="benchmarks/ does not ship with the package")
def test_the_rules_that_a_sample_question_expects_are_in_force_at_its_date() -> None:
    for line in QUESTIONS.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        for name in question["rules"]:
            rule = first_versions()[name]
            start = rule.valid_from.date().isoformat() if rule.valid_from else ""
            end = rule.valid_to.date().isoformat() if rule.valid_to else "9999"
            assert start <= question["at"] < end, (question["question"], name)
