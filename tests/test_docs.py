"""The pages say what the code does: links, fields of the gateway's file, routes and roles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from comity import Memory
from comity.memory.embed import HashEmbedder
from comity.records import Record
from comity.serving.app import create_app
from comity.serving.auth import MAY
from comity.serving.config import Gateway, Tenant
from comity.serving.upstream import Upstream

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GATEWAY = (DOCS / "gateway.md").read_text(encoding="utf-8")
ACTS = ("ask", "read rules", "change rules", "approve rules", "read decisions")


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page end with."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_the_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def rows(begin: str, end: str) -> list[list[str]]:
    """The cells of the table's rows between two cells of the gateway's page."""
    table = GATEWAY.partition(begin)[2].partition(end)[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line[:3] == "| `"]


@pytest.mark.parametrize(
    ("record", "begin", "end"),
    [
        (Upstream, "| `[upstreams.NAME]` |", "| `[tenants.NAME]` |"),
        (Tenant, "| `[tenants.NAME]` |", "| at the top of the file |"),
        (Gateway, "| at the top of the file |", "\n\n"),
    ],
)
def test_the_table_of_the_gateways_file_has_each_field_once_with_its_default(
    record: type[Record], begin: str, end: str
) -> None:
    told = [(row[0].strip("`"), row[1]) for row in rows(begin, end)]
    tables = {"upstreams", "tenants"}
    assert sorted(name for name, _ in told) == sorted(set(record.model_fields) - tables)
    for name, said in told:
        default = record.model_fields[name].default
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert said.split(",")[0] == f"{default:g}", name


def test_the_list_of_routes_has_them_all() -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder(8)) as memory:
        paths = create_app(memory, Gateway()).openapi()["paths"]
    listed = GATEWAY.partition("| | needs |")[2].partition("\n\n")[0]
    assert set(paths) <= set(re.findall(r"/[\w/.]+", listed))


def test_the_table_of_roles_says_what_each_may_do() -> None:
    told = {row[0].strip("`"): row[1] for row in rows("| role | may |", "\n\n")}
    assert told.pop("admin") == "all of these, and erase"
    assert told == {
        role: ", ".join(act for act in ACTS if act in acts)
        for role, acts in MAY.items()
        if role != "admin"
    }
