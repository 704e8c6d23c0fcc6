from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comity.documents.extract import Extraction, extract
from comity.documents.fields import RuleDefaults
from comity.errors import DocumentError, DuplicateRule, UnknownPlace
from comity.records import Check
from data_documents import write


def place_of(name: str) -> str:
    """A gazetteer of three places."""
    known = {"CN": "CN", "云岭": "CN-YL", "海港市": "CN-YL/海港市"}
    if name not in known.keys() | set(known.values()):
        raise UnknownPlace(f"no place is known as {name!r}: did you mean 云岭?")
    return known.get(name, name)


def from_jsonl(folder: Path, *rows: Any, **defaults: Any) -> Extraction:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = write(folder / "rules.jsonl", "\n".join(lines) + "\n")
    return extract([path], RuleDefaults(**defaults), place_of)


def from_csv(folder: Path, text: str, **defaults: Any) -> Extraction:
    return extract([write(folder / "rules.csv", text)], RuleDefaults(**defaults), place_of)


def test_rule_records_are_taken_with_the_fields_they_give_and_no_others(tmp_path: Path) -> None:
    row = {
        "id": "quay-1",
        "text": "Vessels moor at the quay.",
        "place": "云岭",
        "audience": "masters|crew",
    }
    (rule,) = from_jsonl(tmp_path, row).rules
    assert (rule.id, rule.place, rule.audience) == ("quay-1", "CN-YL", ("masters", "crew"))
    assert rule.model_fields_set == {"id", "text", "place", "audience", "language", "source"}


def test_the_source_is_the_line_in_the_file(tmp_path: Path) -> None:
    rows = [{"id": f"r-{n}", "text": f"Rule number {n}."} for n in range(3)]
    extraction = from_jsonl(tmp_path, *rows)
    text = (tmp_path / "rules.jsonl").read_text()
    spans = [rule.source for rule in extraction.rules]
    assert [json.loads(text[s.start : s.end])["id"] for s in spans if s] == ["r-0", "r-1", "r-2"]
    assert spans[0] is not None
    assert spans[0].sha256 == extraction.documents[0].sha256


def test_opo_rows_become_rules_of_their_place(tmp_path: Path) -> None:
    local = {"source": "云岭/养犬条例", "text": "第三条*****携犬应当牵绳。", "location": "云岭"}
    national = {"source": "全国/港口法", "text": "第一条*****船只应当登记。", "location": "全国"}
    first, second = from_jsonl(tmp_path, local, national).rules
    assert (first.id, first.title, first.article) == ("云岭/养犬条例/第三条", "养犬条例", "第三条")
    assert (first.text, first.place, first.authority) == ("携犬应当牵绳。", "CN-YL", "local")
    assert (second.place, second.authority, second.domain) == ("CN", "statute", "law")
    assert first.audience == ()


def test_an_opo_location_that_is_no_place_is_an_audience(tmp_path: Path) -> None:
    row = {
        "source": "海石公司/海石公司",
        "text": "第九条*****不得收受现金。",
        "location": "海石公司",
    }
    (rule,) = from_jsonl(tmp_path, row).rules
    assert rule.audience == ("海石公司",)
    assert (rule.authority, rule.domain, rule.language) == ("code", "professional", "zh")
    assert "place" not in rule.model_fields_set


def test_what_an_opo_row_only_implies_gives_way_to_the_defaults(tmp_path: Path) -> None:
    row = {"source": "云岭/养犬条例", "text": "第三条*****携犬应当牵绳。", "location": "云岭"}
    (rule,) = from_jsonl(tmp_path, row, authority="regulation", place="CN").rules
    assert (rule.authority, rule.place) == ("regulation", "CN-YL")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", "text": "b"', "line 2: malformed JSON at column 24"),
        ("[" * 100_000, "line 2: malformed JSON"),
        ('{"source": "a/b", "text": "c*****d", "location": " "}', "and a location"),
        ("[1]", "line 2: holds list, not a JSON object"),
        ('{"id": "a", "txt": "b"}', "line 2: unknown field 'txt' (did you mean 'text'?)"),
        ('{"source": "a/b", "text": "c*****d", "location": "e", "x": 1}', "unknown field 'x'"),
        ('{"source": "a/b", "text": "no mark", "location": "云岭"}', "text as 'article*****body'"),
        ('{"source": 1, "text": "c*****d", "location": "云岭"}', "as strings"),
        ('{"id": "a", "text": "b", "place": "Atlantis"}', "line 2: place: no place is known"),
        ('{"id": "a", "text": "b", "enforcement": "shout"}', "line 2: rule a: enforcement:"),
        ('{"id": "a"}', "line 2: rule a: text: Field required"),
        (
            '{"id": "a", "text": "b", "valid_from": "2031-01-01", "valid_to": "2030-01-01"}',
            "line 2: rule a: valid_to 2030-01-01 is not after valid_from 2031-01-01",
        ),
        ('{"id": "a", "text": "b", "valid_from": "soon"}', "line 2: rule a: valid_from:"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        from_jsonl(tmp_path, {"id": "good", "text": "Good."}, line)
    assert said in str(caught.value)
    assert caught.value.line == 2


def test_the_suggestion_for_an_unknown_place_is_kept(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="did you mean 云岭"):
        from_jsonl(tmp_path, {"id": "a", "text": "b", "place": "云领"})


def test_the_same_id_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "One."}, {"id": "b", "text": "Two."}, {"id": "a", "text": "Three."}]
    with pytest.raises(DuplicateRule, match=r"line 1, and .*line 3"):
        from_jsonl(tmp_path, *rows)


def test_versions_of_one_id_are_no_doubles_and_a_repeal_needs_no_text(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "version": 3, "status": "repealed", "valid_from": "2032-01-01"},
        {"id": "a", "text": "Until ten."},
        {"id": "a", "version": 2, "text": "Until nine.", "valid_from": "2031-01-01"},
    ]
    extraction = from_jsonl(tmp_path, *rows)
    assert [(rule.version, rule.text) for rule in extraction.rules] == [
        (3, "Until nine."),
        (1, "Until ten."),
        (2, "Until nine."),
    ]
    assert extraction.duplicates == ()


def test_the_text_of_a_repealed_rule_can_come_from_the_memory(tmp_path: Path) -> None:
    row = {"id": "a", "version": 2, "status": "repealed"}
    path = write(tmp_path / "repeals.jsonl", json.dumps(row))
    (rule,) = extract([path], text_of={"a": "Until ten."}.__getitem__).rules
    assert (rule.text, rule.status) == ("Until ten.", "repealed")
    with pytest.raises(DocumentError, match="comity rules repeal 'a'"):
        extract([path])


def test_csv_columns_are_the_fields_of_a_rule(tmp_path: Path) -> None:
    text = (
        "id,text,audience,overrides,mandatory,valid_from,check\n"
        'quay-1,"Vessels moor\nat the quay.",masters|crew,a|b,true,2031-02-01,'
        '"{""must_not_match"": ""beach""}"\n'
        "quay-2,Nets dry on the slip.,,,,,\n"
    )
    first, second = from_csv(tmp_path, text, place="海港市").rules
    assert first.text == "Vessels moor\nat the quay."
    assert (first.audience, first.overrides, first.mandatory) == (
        ("masters", "crew"),
        ("a", "b"),
        True,
    )
    assert first.check == Check(must_not_match="beach")
    assert second.model_fields_set == {"id", "text", "place", "language", "source"}
    assert second.source is not None
    assert text[second.source.start : second.source.end] == "quay-2,Nets dry on the slip.,,,,,"


def test_csv_rows_without_an_id_are_named_after_article_or_words(tmp_path: Path) -> None:
    first, second = from_csv(
        tmp_path, "article,text\nQueueing,Stand at the end.\n,Be quiet.\n"
    ).rules
    assert first.id == "rules/Queueing"
    again = from_csv(tmp_path, "text\nBe  quiet.\n").rules[0]
    assert second.id == again.id
    assert second.id.startswith("rules/p-")


def test_csv_with_semicolons_is_read(tmp_path: Path) -> None:
    (rule,) = from_csv(tmp_path, "id;text\nquay;Moor, then register.\n").rules
    assert rule.text == "Moor, then register."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,texte\na,b\n", "line 1: unknown column 'texte' (did you mean 'text'?)"),
        ("id,title\na,b\n", "line 1: has no column 'text'"),
        ("id,text,text\na,b,c\n", "line 1: has the column 'text' twice"),
        ('id,text\na,"b\nc"\nd,e,f\n', "line 4: has 3 cells for 2 columns"),
        ('id,text\na,"b" c\n', "line 2: malformed CSV"),
        ("id,text,check\na,b,{\n", "line 2: malformed JSON"),
        ("id,text,mandatory\na,b,perhaps\n", "line 2: rule a: mandatory:"),
        ("id,text,valid_from,valid_to\na,b,2031-01-02,2031-01-02\n", "line 2: rule a: valid_to"),
    ],
)
def test_bad_csv_is_refused_by_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        from_csv(tmp_path, text)
    assert said in str(caught.value)
