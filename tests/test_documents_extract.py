from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from comity.documents.extract import collect, extract, rules_from
from comity.documents.fields import RuleDefaults
from comity.errors import DocumentError, DuplicateRule, UnknownPlace
from comity.records import parse_time
from data_documents import write

PETS = """# Pets of Port Merrow

## Chapter 1: Dogs

### Article 1

Dogs wear a lead.

### Article 2

Dogs stay out of the fish market.

## Chapter 2: Parrots

Parrots may be taken anywhere.

They pay half fare.
"""

MANIFEST = """
[[place]]
code = "XA"
names = ["Merrowland", "梅罗"]

[[place]]
code = "XA/Port Merrow"
names = ["Port Merrow"]

[[document]]
file = "pets.md"
id = "pets"
place = "port merrow"
authority = "local"
valid_from = 2031-01-01

[document.article."Article 2"]
valid_from = 2032-06-01
mandatory = true
overrides = ["fish/Article 7"]
check = { must_not_match = "fish" }
"""


def nowhere(name: str) -> str:
    raise UnknownPlace(f"no place is known as {name!r}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "pets.md", PETS)
    write(tmp_path / "documents.toml", MANIFEST)
    return tmp_path


def test_a_document_becomes_rules_with_their_source(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.md", PETS)
    extraction = rules_from(path)
    rule = extraction.rules[0]
    assert rule.id == "Pets of Port Merrow/Article 1"
    assert (rule.title, rule.article) == ("Pets of Port Merrow > Chapter 1: Dogs", "Article 1")
    assert rule.source is not None
    assert PETS[rule.source.start : rule.source.end] == rule.text == "Dogs wear a lead."
    assert rule.model_fields_set == {"id", "text", "title", "article", "language", "source"}
    assert extraction.documents[0].rules == 4


def test_settings_go_from_defaults_over_the_document_to_the_article(folder: Path) -> None:
    defaults = RuleDefaults(authority="policy", place="XA", audience=("everyone",))
    rules = {rule.article: rule for rule in extract([folder], defaults, nowhere).rules}
    first, second = rules["Article 1"], rules["Article 2"]
    assert (first.authority, first.place, first.audience) == (
        "local",
        "XA/Port Merrow",
        ("everyone",),
    )
    assert first.valid_from == parse_time("2031-01-01")
    assert second.valid_from == parse_time("2032-06-01")
    assert second.mandatory
    assert not first.mandatory
    assert second.overrides == ("fish/Article 7",)
    assert second.check is not None


def test_the_manifest_beside_a_single_file_holds_too(folder: Path) -> None:
    extraction = extract([folder / "pets.md"], None, nowhere)
    assert extraction.rules[0].id == "pets/Article 1"
    assert [place.code for place in extraction.places] == ["XA", "XA/Port Merrow"]


def test_a_file_that_the_manifest_does_not_name_takes_the_defaults(folder: Path) -> None:
    write(folder / "noise.txt", "Noise of Port Merrow\n\nArticle 1. Quiet after ten.")
    extraction = extract([folder], RuleDefaults(domain="noise"), nowhere)
    noise = extraction.rules[-1]
    assert (noise.id, noise.domain) == ("Noise of Port Merrow/Article 1", "noise")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Article 2", "Artikel 2", "unknown article 'Artikel 2' (did you mean 'Article 2'?)"),
        ("pets.md", "pet.md", "line 10: names the file 'pet.md', which is not there"),
        ("authority", "autority", "line 10: unknown key 'autority' (did you mean 'authority'?)"),
        ("mandatory", "mandatry", "line 10: unknown key of article 'Article 2', 'mandatry'"),
        ("[[place]]", "[[places]]", "unknown table 'places' (did you mean 'place'?)"),
        ("valid_from = 2031-01-01", "valid_from =", "line 15: malformed TOML"),
        ("valid_from = 2031-01-01", "mandatory = 'perhaps'", "line 10: mandatory:"),
        ('"port merrow"', '"Prt Merrow"', "the manifest declares XA/Port Merrow"),
        ("mandatory = true", "valid_to = 2032-01-01", "is not after valid_from 2032-06-01"),
    ],
)
def test_a_mistake_in_the_manifest_is_named(folder: Path, old: str, new: str, said: str) -> None:
    write(folder / "documents.toml", MANIFEST.replace(old, new))
    with pytest.raises(DocumentError) as caught:
        extract([folder], None, nowhere)
    assert said in str(caught.value)


def test_a_file_named_twice_is_refused(folder: Path) -> None:
    write(folder / "documents.toml", MANIFEST + '\n[[document]]\nfile = "pets.md"\n')
    with pytest.raises(DocumentError, match="a second time"):
        extract([folder], None, nowhere)


def test_an_unknown_place_in_the_defaults_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pets.md", PETS)
    with pytest.raises(DocumentError, match="no place is known as 'Atlantis'"):
        extract([path], RuleDefaults(place="Atlantis"), nowhere)


def test_two_documents_of_one_title_are_refused_with_both_places(tmp_path: Path) -> None:
    for name in ("a.md", "b.md"):
        write(tmp_path / name, PETS)
    with pytest.raises(DuplicateRule, match=r"a\.md, line 7, and .*b\.md, line 7.*documents\.toml"):
        extract([tmp_path])


def test_paragraphs_keep_their_ids_when_others_come_and_go(tmp_path: Path) -> None:
    before = rules_from(write(tmp_path / "pets.md", PETS)).rules
    changed = PETS.replace("They pay", "Cages are covered.\n\nThey pay").replace(
        "wear a lead", "run"
    )
    after = rules_from(write(tmp_path / "pets.md", changed)).rules
    assert {rule.id for rule in before} < {rule.id for rule in after}
    assert [rule.id for rule in before][2] == "Pets of Port Merrow/Chapter 2: Parrots"


def test_an_article_name_used_again_in_an_annex_carries_the_annex(tmp_path: Path) -> None:
    text = "Rules\n\nArticle 1. One.\n\nAnnex I: Fees\n\nArticle 1. Another.\n"
    first, second = rules_from(write(tmp_path / "rules.txt", text)).rules
    assert (first.id, second.id) == ("Rules/Article 1", "Rules/Annex I: Fees/Article 1")


def test_an_article_name_twice_in_one_chapter_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "rules.txt", "Rules\n\nArticle 1. One.\n\nArticle 1. Another.\n")
    with pytest.raises(DocumentError, match="line 3 and line 5"):
        rules_from(path)


def test_equal_paragraphs_get_different_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "rules.md", "# Rules\n\nOne.\n\nSame words.\n\nSame words.\n")
    extraction = rules_from(path)
    assert len({rule.id for rule in extraction.rules}) == 3
    assert [one.kind for one in extraction.duplicates] == ["exact"]


def test_a_manifest_reaches_every_part_of_a_long_article(folder: Path) -> None:
    long = " ".join(f"Dog number {n} stays out of the fish market." for n in range(60))
    write(folder / "pets.md", PETS.replace("Dogs stay out of the fish market.", long))
    parts = [rule for rule in extract([folder], None, nowhere).rules if "Article 2" in rule.id]
    assert parts[0].article == f"Article 2 (1/{len(parts)})"
    assert all(rule.mandatory for rule in parts)


def test_collect_is_sorted_and_leaves_hidden_and_lock_files_out(folder: Path) -> None:
    for name in ("b.txt", "a.csv", ".hidden.md", "~$pets.docx", "sub/c.jsonl", ".git/d.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        write(folder / name, "x")
    found = [path.relative_to(folder).as_posix() for path in collect([folder, folder / "b.txt"])]
    assert found == ["a.csv", "b.txt", "pets.md", "sub/c.jsonl"]


def test_files_of_other_formats_in_a_folder_are_reported(folder: Path) -> None:
    write(folder / "map.png", "x")
    assert extract([folder], None, nowhere).skipped == (folder / "map.png",)
    with pytest.raises(DocumentError, match="unknown format"):
        extract([folder / "map.png"])


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="holds no readable file"):
        collect([tmp_path])


def test_the_same_files_give_the_same_rules(folder: Path) -> None:
    assert extract([folder], None, nowhere) == extract([folder], None, nowhere)


@given(st.lists(st.text("ab第条 .\n-#1", min_size=1, max_size=30), min_size=1, max_size=10))
@settings(deadline=None, max_examples=60)
def test_ids_are_different_whatever_the_text(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "any.md", "# Any\n\nx\n\n" + "\n\n".join(pieces))
    try:
        rules = rules_from(path).rules
    except DocumentError as error:
        assume("stands twice" not in error.problem)
        raise
    assert len({rule.id for rule in rules}) == len(rules)


@pytest.mark.skipif(
    "COMITY_OPO_DATA" not in os.environ, reason="COMITY_OPO_DATA names no folder of OPO's data"
)
def test_the_opo_rules_load_whole() -> None:
    by_name: Callable[[str], str] = lambda name: "CN" if name == "CN" else nowhere(name)  # noqa: E731
    extraction = extract([Path(os.environ["COMITY_OPO_DATA"]) / "rules"], None, by_name)
    assert len(extraction.rules) == 4876
    assert len({rule.id for rule in extraction.rules}) == 4876
    assert sum(rule.place == "CN" for rule in extraction.rules) == 965
