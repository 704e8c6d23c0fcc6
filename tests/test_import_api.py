"""Documents as bodies of `POST /rules/import`: one revision or none."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docx
import pytest
from fastapi.testclient import TestClient

from comity import Memory, Rule
from comity.documents.apart import read_apart
from comity.errors import DocumentError
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway

BYLAWS = """# Harbour By-laws

Article 1
Boats leave the quay by nine.

Article 2
Nets are mended on the pier.
"""
FIRST, SECOND = "Harbour By-laws/Article 1", "Harbour By-laws/Article 2"


class Api:
    """The import as an editor makes it, and the keys of others."""

    def __init__(self, memory: Memory, client: TestClient) -> None:
        self.memory, self.client = memory, client
        self.keys = {
            role: create_key(memory, "default", role).secret for role in ("editor", "approver")
        }

    def add(self, body: str | bytes, name: str = "by-laws.md", **params: Any) -> Any:
        content = body.encode() if isinstance(body, str) else body
        params["name"] = name
        return self.ask("editor", "POST", "/rules/import", params=params, content=content)

    def ask(self, role: str, method: str, path: str, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {self.keys[role]}"}
        return self.client.request(method, path, headers=headers, **more)

    def approve(self, rule_id: str) -> None:
        told = self.ask("approver", "POST", "/rules/approve", params={"id": rule_id}, json={})
        assert told.status_code == 200, told.text

    def newest(self, rule_id: str) -> Rule:
        return self.memory.get(rule_id)


@pytest.fixture
def api() -> Iterator[Api]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        config = Gateway(approval_above="statute", max_body_mb=0.1)
        app = create_app(memory, config, models={"bot": ScriptedModel(["Yes."])})
        with TestClient(app) as client:
            yield Api(memory, client)


def ids(versions: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in versions]


def test_a_document_is_one_revision_and_the_same_again_changes_nothing(api: Api) -> None:
    given: dict[str, Any] = {
        "place": "CN-SH",
        "audience": ["crew"],
        "domain": "harbour",
        "from": "2026-01-01",
    }
    made = api.add(BYLAWS, note="season", **given)
    assert made.status_code == 200, made.text
    told = made.json()
    assert (told["revision"], told["committed"], ids(told["added"])) == (1, True, [FIRST, SECOND])
    rule = api.newest(FIRST)
    assert (rule.place, rule.audience, rule.domain) == ("CN-SH", ("crew",), "harbour")
    assert rule.source is not None
    assert rule.source.document == told["document"] == "import/by-laws.md"
    assert api.memory.store.revisions("default")[0].note == "season"
    again = api.add(BYLAWS, **given).json()
    assert (again["committed"], again["unchanged"], api.memory.revision) == (False, 2, 1)


def test_a_dry_run_tells_what_the_import_then_does(api: Api) -> None:
    api.add(BYLAWS)
    changed = BYLAWS.replace("nine", "ten").partition("Article 2")[0]
    changed += "Article 3\nGulls are not fed.\n"
    dry = api.add(changed, dry_run=True).json()
    assert (dry["revision"], dry["committed"]) == (1, False)
    assert ids(dry["added"]) == ["Harbour By-laws/Article 3"]
    assert dry["changed"][0]["fields"]["text"]["new"].endswith("by ten.")
    assert ids(dry["gone"]) == [SECOND]
    assert api.memory.revision == 1
    done = api.add(changed, seen=1).json()
    assert done["revision"] == 2
    same = ("added", "changed", "gone", "unchanged", "drafts")
    assert {name: done[name] for name in same} == {name: dry[name] for name in same}
    assert api.newest(SECOND).status == "repealed"
    late = api.add(BYLAWS, seen=1)
    assert (late.status_code, api.memory.revision) == (409, 2)


def test_high_rules_come_as_drafts_once_and_hold_when_approved(api: Api) -> None:
    told = api.add(BYLAWS, authority="statute").json()
    assert told["drafts"] == [FIRST, SECOND]
    assert api.newest(FIRST).status == "draft"
    assert api.add(BYLAWS, authority="statute").json()["unchanged"] == 2
    api.approve(FIRST)
    assert api.newest(FIRST).status == "active"
    assert api.add(BYLAWS, authority="statute").json()["unchanged"] == 2
    changed = api.add(BYLAWS.replace("nine", "ten"), authority="policy").json()
    assert FIRST in changed["drafts"]
    api.approve(FIRST)
    assert (api.newest(FIRST).status, api.newest(FIRST).text) == (
        "active",
        "Boats leave the quay by ten.",
    )


def test_a_high_rule_that_its_document_no_longer_has_waits_for_its_end(api: Api) -> None:
    api.add(BYLAWS, authority="statute")
    api.approve(FIRST)
    api.approve(SECOND)
    shorter = BYLAWS.partition("Article 2")[0]
    told = api.add(shorter, authority="statute").json()
    assert (told["gone"], told["drafts"]) == ([], [SECOND])
    assert api.add(shorter, authority="statute").json()["committed"] is False
    (waiting,) = api.ask("approver", "GET", "/rules/drafts").json()
    assert (waiting["rule"]["id"], waiting["proposes"]) == (SECOND, "end")
    api.approve(SECOND)
    assert api.newest(SECOND).status == "repealed"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"id": "law", "version": 2, "status": "repealed"}', "POST /rules/repeal"),
        (
            '{"id": "law", "version": 2, "text": "b"}\n{"id": "law", "version": 3, "text": "c"}',
            "several new versions",
        ),
    ],
)
def test_a_table_opens_no_way_around_the_second_person(api: Api, row: str, said: str) -> None:
    api.memory.add(Rule(id="law", text="a", authority="statute"))
    told = api.add(row, "rows.jsonl")
    assert (told.status_code, said in told.json()["error"]["message"]) == (422, True)
    assert api.memory.revision == 1


def test_a_word_document_and_a_table_with_checks_are_read(api: Api) -> None:
    file = io.BytesIO()
    written = docx.Document()
    written.add_heading("Pier Order", 1)
    for words in ("Article 1", "No fires on the pier."):
        written.add_paragraph(words)
    written.save(file)
    told = api.add(file.getvalue(), "order.docx").json()
    assert ids(told["added"]) == ["Pier Order/Article 1"]
    table = "id,text,enforcement,must_not_match\ndose,Name no dose.,block,mg\n"
    assert api.add(table, "checks.csv").status_code == 200
    rule = api.newest("dose")
    assert (rule.enforcement, rule.check and rule.check.must_not_match) == ("block", "mg")


@pytest.mark.parametrize(
    "name",
    ["../by-laws.md", "/etc/by-laws.md", "a/b/c.md", ".hidden.md", "a\\b.md", "a\nb.md", "a/.md"],
)
def test_a_name_that_is_a_path_is_refused(api: Api, name: str) -> None:
    assert api.add(BYLAWS, name).status_code == 422
    assert api.memory.revision == 0


def test_no_file_of_the_servers_is_read(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "import").mkdir()
    (tmp_path / "import" / "by-laws.md").write_text("# Secret\n\nArticle 1\nHidden.\n")
    (tmp_path / "import" / "documents.toml").write_text(
        '[[document]]\nfile = "by-laws.md"\nauthority = "statute"\n'
    )
    told = api.add(BYLAWS).json()
    assert (ids(told["added"]), told["drafts"]) == ([FIRST, SECOND], [])
    assert api.add(b"", "by-laws.md").status_code == 422


@pytest.mark.parametrize(
    ("name", "body", "status", "said"),
    [
        ("rules.csv", "id,text\na,b\nc,d,e\n", 422, "rules.csv, line 3: has 3 cells"),
        ("rules.jsonl", '{"id": "a", "text": "b", "tenant": "acme"}', 422, "another tenant"),
        ("rules.jsonl", '{"id": "a", "text": "b", "place": "QQ-QQ"}', 422, "line 1: place: "),
        ("rules.xlsx", "x", 415, "no format that is read"),
        ("rules.docx", "no archive", 422, "no readable DOCX"),
        ("rules.pdf", "%PDF-1.7 broken", 422, "rules.pdf"),
        ("rules.md", "x" * 200_000, 413, "larger than 0.1 MB"),
    ],
)
def test_what_cannot_be_taken_changes_nothing_and_says_why(
    api: Api, name: str, body: str, status: int, said: str
) -> None:
    told = api.add(body, name)
    assert (told.status_code, said in told.json()["error"]["message"]) == (status, True), told.text
    assert api.memory.revision == 0


@pytest.mark.parametrize(
    "params",
    [{"authority": "king"}, {"place": "QQ-QQ"}, {"from": "2026-01-01", "to": "2025-01-01"}],
)
def test_fields_that_cannot_be_used_are_refused(api: Api, params: dict[str, str]) -> None:
    assert api.add(BYLAWS, **params).status_code in (400, 422)
    assert api.memory.revision == 0


def test_who_may_not_change_rules_may_not_import_them(api: Api) -> None:
    told = api.ask("approver", "POST", "/rules/import", params={"name": "a.md"}, content=b"x")
    assert told.status_code == 403


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("word/document.xml", bytes(210_000_000))
    with pytest.raises(DocumentError, match=r"bomb\.docx: unpacks to 210 MB"):
        read_apart(Path("bomb.docx"), file.getvalue())


def test_a_reader_that_takes_too_long_ends_alone() -> None:
    deep = b"<div>" * 3 + b"<p>a</p>" * 1_500_000
    with pytest.raises(DocumentError, match="could not be read within 1 seconds"):
        read_apart(Path("slow.html"), deep, seconds=1)
