"""Checks in a table: a column for each part, and errors that name file, row and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.documents.extract import extract
from comity.documents.fields import RuleDefaults
from comity.errors import DocumentError
from comity.records import Check, Rule
from data_documents import write

HEAD = "id,text,enforcement,must_match,must_not_match,must_contain,longest,judge\n"


def rules(folder: Path, table: str, **defaults: str) -> tuple[Rule, ...]:
    path = write(folder / "rules.csv", table)
    return extract([path], RuleDefaults.model_validate(defaults)).rules


def test_each_part_of_a_check_has_a_column(tmp_path: Path) -> None:
    table = HEAD + (
        "dose,Name no dose.,block,,(?i)\\d+ ?mg\\b,,,\n"
        'sign,Sign.,revise,,,"Yours, the harbour.",400,\n'
        "kind,Be kind.,revise,^[A-Z],,,,Is the answer kind?\n"
        "plain,Nets are mended.,,,,,,\n"
    )
    dose, sign, kind, plain = rules(tmp_path, table)
    assert (dose.enforcement, dose.check) == ("block", Check(must_not_match=r"(?i)\d+ ?mg\b"))
    assert sign.check == Check(must_contain="Yours, the harbour.", longest=400)
    assert kind.check == Check(must_match="^[A-Z]", judge="Is the answer kind?")
    assert (plain.enforcement, plain.check) == ("advise", None)
    assert "check" not in plain.model_fields_set


def test_an_enforcement_of_the_import_holds_for_all_rows(tmp_path: Path) -> None:
    (rule,) = rules(tmp_path, "id,text,must_contain\na,Greet.,Hello\n", enforcement="revise")
    assert (rule.enforcement, rule.check) == ("revise", Check(must_contain="Hello"))


def test_an_amendment_may_change_the_check_alone(tmp_path: Path) -> None:
    table = "id,version,text,enforcement,longest\na,1,Be short.,revise,400\na,2,Be short.,,300\n"
    _, second = rules(tmp_path, table)
    assert second.check == Check(longest=300)
    assert "enforcement" not in second.model_fields_set


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a,b,block,(,,,,", "must_match is no RE2 pattern"),
        ("a,b,block,,(?=x),,,", "must_not_match is no RE2 pattern"),
        ("a,b,block,,,,ten,", "column 'longest' holds 'ten'"),
        ("a,b,stop,,,,,", "enforcement: Input should be 'advise', 'revise' or 'block'"),
        ("a,b,,x,,,,", "'must_match' without an enforcement"),
    ],
)
def test_a_check_that_cannot_be_used_is_named_with_file_row_and_column(
    tmp_path: Path, row: str, said: str
) -> None:
    with pytest.raises(DocumentError) as raised:
        rules(tmp_path, f"{HEAD}ok,c,,,,,,\n{row}\n")
    assert "rules.csv, line 3: " in str(raised.value)
    assert said in str(raised.value)


def test_a_check_is_given_in_one_way_only(tmp_path: Path) -> None:
    table = 'id,text,enforcement,check,longest\na,b,revise,"{""longest"": 3}",4\n'
    with pytest.raises(DocumentError, match="'check' and 'longest': keep one"):
        rules(tmp_path, table)
