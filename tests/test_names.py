"""Labels found in running text by their full and short names."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.memory.names import Fold, NameFinder


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("Vertiv公司", "在Vertiv公司工作"),
        ("Vertiv公司", "在Vertiv工作"),
        ("Vertiv公司", "在ＶＥＲＴＩＶ工作"),
        ("NIO Inc公司", "NIO Inc 的员工"),
        ("NIO Inc公司", "NIO的员工"),
        ("NIO Inc公司", "NIOInc公司的员工"),
        ("Owens-Illinois公司", "Owens-Illinois的供应商"),
        ("Owens-Illinois公司", "Owens Illinois suppliers"),
        ("Owens-Illinois公司", "Owens–Illinois suppliers"),
        ("Capgemini-CBE公司", "在Capgemini-CBE公司"),
        ("S&P Global公司", "S＆P Global的分析师"),
        ("S&P Global公司", "S & P  Global analysts"),
        ("Acme Widgets, Ltd.", "Acme Widgets sells anvils"),
        ("Acme Widgets Corp", "at ACME WIDGETS"),
        ("Müller Bau GmbH", "bei Muller Bau"),
        ("Brightwater Holdings LLC", "Brightwater's staff"),
        ("复星医药股份有限公司", "复星医药的员工"),
        ("某某机械集团有限公司", "某某机械的员工"),
        ("某某机械集团有限公司", "某某机械集团的员工"),
        ("ACM协会", "ACM的会员"),
        ("ICON公司", "在ICON工作"),
        ("pharmacist", "Two pharmacists met"),
        ("pharmacist", "A Pharmacist met"),
        ("notary", "Two notaries met"),
        ("药剂师", "一名药剂师说"),
        ("微创公司", "微创公司的员工"),
    ],
)
def test_a_label_is_found_under_this_name(label: str, text: str) -> None:
    assert NameFinder([label, "Other Label"]).find(text) == (label,)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("Vertiv公司", "Vertivian rules"),
        ("Vertiv公司", "a reVertiv"),
        ("NIO Inc公司", "JUNIOR"),
        ("ICON公司", "click the icon"),
        ("Target Corp", "meet the target"),
        ("微创公司", "微创手术"),
        ("pharmacist", "the pharmacy"),
        ("AB公司", "AB testing"),
        ("中国注册会计师协会", "一名注册会计师"),
    ],
)
def test_a_label_is_not_found_in_these_words(label: str, text: str) -> None:
    assert NameFinder([label]).find(text) == ()


def test_the_longer_of_two_overlapping_names_stands() -> None:
    finder = NameFinder(["Brightwater", "Brightwater Foods", "药师", "药师协会"])
    assert finder.find("Brightwater Foods的药师协会") == ("Brightwater Foods", "药师协会")
    assert finder.find("Brightwater and Brightwater Foods") == ("Brightwater", "Brightwater Foods")


def test_a_short_name_that_two_labels_share_finds_both() -> None:
    finder = NameFinder(["Acme Ltd", "Acme Inc"])
    assert finder.find("at Acme") == ("Acme Ltd", "Acme Inc")
    assert finder.find("at Acme Inc.") == ("Acme Inc",)


def test_labels_come_in_the_order_of_their_first_mention_and_once() -> None:
    assert NameFinder(["nurse", "doctor"]).find("Doctor, nurse, doctor") == ("doctor", "nurse")


def test_a_finder_without_labels_finds_nothing() -> None:
    assert NameFinder([]).find("anything") == ()
    assert NameFinder(["", "  "]).find("anything at all") == ()


@given(st.text())
def test_folding_keeps_every_position(text: str) -> None:
    assert len(text.translate(Fold())) == len(text)


LABELS = ("Acme", "Acme Foods", "Acme Foods East", "药师", "执业药师", "执业药师协会", "Foods East")


@given(
    st.lists(st.sampled_from((*LABELS, "Ac", "Foods", "协会", "East Acme F")), max_size=8),
    st.sampled_from(("，", "、某", ". ", "；\n")),
)
def test_a_label_is_never_found_where_only_a_part_of_a_longer_one_stands(
    parts: list[str], separator: str
) -> None:
    found = NameFinder(LABELS).find(separator.join(parts))
    named = {part for part in parts if part in LABELS}
    assert set(found) == named | ({"Acme"} if "East Acme F" in parts else set())


@given(
    st.sampled_from(LABELS),
    st.sampled_from(("", "某", "(", "to ")),
    st.sampled_from(("", "的", ".")),
)
def test_a_known_label_between_neutral_words_is_found(label: str, before: str, after: str) -> None:
    assert NameFinder(LABELS).find(before + label + after) == (label,)


def test_the_companies_of_generated_questions_are_found_in_their_words() -> None:
    data = os.environ.get("COMITY_OPO_DATA")
    if not data or not Path(data, "rules", "professional_morality.jsonl").exists():
        pytest.skip("COMITY_OPO_DATA does not name a folder with rules and questions")
    with Path(data, "rules", "professional_morality.jsonl").open(encoding="utf-8") as file:
        finder = NameFinder([json.loads(line)["location"] for line in file])
    name = "a_professional_morality.csv"
    with Path(data, "questions", name).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [finder.find(" ".join(row[key] for key in ("question", *"ABCD"))) for row in rows]
    right = sum(row["location"] in labels for row, labels in zip(rows, found, strict=True))
    assert right / len(rows) >= 0.97
    assert right / sum(len(labels) for labels in found) >= 0.97
