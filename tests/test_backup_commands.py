"""`comity backup` and `comity restore`, and what their page says of them."""

from __future__ import annotations

import hashlib
import re
from contextlib import closing
from pathlib import Path

import pytest

from comity.memory.embed import open_embedder
from comity.memory.sqlite import SqliteStore
from comity.memory.store import StoredRule
from comity.memory.vectors import VectorCache
from comity_command import Command
from test_backup import bytes_of, url_of


def test_the_commands_copy_check_restore_and_erase_again(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    comity.done("ask", "Who is Li Lei?")
    folder = comity.folder / "backups"
    folder.mkdir()
    taken = comity.json("backup", str(folder))
    file = taken["file"]
    assert Path(file).parent == folder
    assert Path(file).suffix == ".backup"
    assert taken["sha256"] == hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert "rule versions  3" in comity.done("backup", str(folder / "another.backup"))
    assert comity.json("restore", file, "--check")["revision"] == 1
    assert "the backup is sound" in comity.done("restore", file, "--check")
    comity.done("decisions", "erase", "--question-contains", "Li Lei", "--yes")
    erasures = comity.write("erasures.json", comity.done("decisions", "erasures", "--json"))

    new = url_of(comity.folder / "new.db")
    restored = comity("restore", file, "--to", new, "--erasures", erasures)
    assert restored.exit_code == 0
    assert "erased again: the texts of 1 decision\n" in restored.stderr
    assert b"Li Lei" not in bytes_of(comity.folder / "new.db")
    assert "the chain holds" in comity.done("decisions", "verify", "--memory", new)
    found = json_ids(comity.json("search", "dogs", "--memory", new))
    assert found == json_ids(comity.json("search", "dogs"))


def json_ids(hits: list[dict[str, str]]) -> list[str]:
    return [hit["id"] for hit in hits]


@pytest.fixture
def comity(tmp_path: Path) -> Command:
    return Command(tmp_path)


def test_vectors_that_were_copied_need_not_be_made_again(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    file, vectors = str(comity.folder / "b.backup"), str(comity.folder / "vectors")
    comity.done("backup", file, "--vectors", vectors)
    new = comity.folder / "new.db"
    comity.done("restore", file, "--to", url_of(new), "--vectors", vectors)
    with closing(VectorCache(comity.folder / "new.db.index" / "vectors.db")) as cache:
        texts = [stored.rule.indexed_text for stored in rules_in(new)]
        assert (len(texts), cache.want(open_embedder("hash"), texts).missing) == (3, [])
    second = str(comity.folder / "second.backup")
    result = comity("backup", second, "--vectors", vectors)
    assert (result.exit_code, "nothing is ever overwritten" in result.stderr) == (1, True)
    result = comity("backup", second, "--vectors", "v", "--memory", url_of(comity.folder / "no.db"))
    assert (result.exit_code, "there is no memory at" in result.stderr) == (4, True)
    assert not (Path(second).exists())
    assert not ((comity.folder / "no.db").exists())
    result = comity("restore", file, "--to", url_of(comity.folder / "x.db"), "--vectors", "none")
    assert (result.exit_code, "'none' does not exist" in result.stderr) == (2, True)
    assert not (comity.folder / "x.db").exists()


def rules_in(file: Path) -> list[StoredRule]:
    store = SqliteStore(file)
    try:
        return list(store.rows_after(0))
    finally:
        store.close()


def test_the_commands_refuse_with_a_sentence(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    file = str(comity.folder / "b.backup")
    comity.done("backup", file)
    for arguments, code, said in (
        (("backup", file), 1, "nothing is ever overwritten"),
        (("restore", file), 1, "nothing is ever overwritten"),
        (("backup", "/none/b.backup"), 5, "does its folder exist"),
        (("backup", f"{comity.folder}/none/"), 2, "/none/: make it first"),
        (("restore", file, "--to", f"{comity.folder}/x.db", "--vectors", file), 5, "no vectors"),
        (("restore", str(comity.folder / "bylaws.md"), "--check"), 5, "no sound backup"),
        (("restore", "none.backup", "--check"), 4, "no backup at none.backup"),
        (("restore", file, "--to", "sqlite://"), 2, "lives in one process"),
        (("restore", file, "--to", "x.db", "--erasures", file), 3, "no list of erasures"),
    ):
        result = comity(*arguments)
        assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
    assert not {"x.db", "none"} & {path.name for path in comity.folder.iterdir()}


def test_what_waits_for_the_record_is_told(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    comity.write("rules.db.spool.jsonl", "{}\n")
    result = comity("backup", str(comity.folder / "b.backup"))
    assert "not in the backup: 1 decision, which" in result.stderr


# The page


def test_the_page_names_options_that_there_are(comity: Command) -> None:
    page = (Path(__file__).parents[1] / "docs" / "backup.md").read_text(encoding="utf-8")
    for command in ("backup", "restore"):
        lines = re.findall(rf"comity {command} [^`\n#]*", page)
        told = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
        assert told
        assert told <= set(re.findall(r"--[a-z-]+", comity.done(command, "--help")))


def test_the_drill_of_the_page_as_commands(comity: Command) -> None:
    comity.done("add", comity.write("bylaws.md"))
    for question in ("dogs in the market?", "fireworks?"):
        comity.done("ask", question)
    taken = comity.json("backup", str(comity.folder / "b.backup"))
    comity.done("rules", "repeal", "By-laws of Elmtown/Article 1")
    drill = ("--memory", url_of(comity.folder / "drill.db"))
    comity.done("restore", taken["file"], "--to", drill[1])
    assert taken["chains"][0]["last_hash"] in comity.done("decisions", "verify", *drill)
    comity.done("decisions", "replay", "--since", "2026-01-01", "--limit", "100000", *drill)
    assert "Article 1" in comity.done("search", "dogs", *drill)
