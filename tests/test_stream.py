"""Files read in a stream: as when read whole, in order, and gone on with where they stopped."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from comity.documents.extract import extract, find_files
from comity.documents.fields import RuleDefaults
from comity.documents.stream import FileStream
from comity.errors import DocumentError, DuplicateRule, RuleError
from comity.memory.bulk import bulk_import
from comity.memory.embed import HashEmbedder
from comity.memory.marks import Mark, last_mark
from comity.memory.memory import Memory
from comity.memory.store import PlaceNames
from comity.records import Rule, Scope
from conftest import OpenMemory

SCOPE = Scope(place="CN")
CSV = (
    "id,text,title,must_match,enforcement\r\n"
    'dogs,"Dogs, on a\r\nlead",By-laws,,\r\n'
    "\r\n"
    "cats,Cats “too”,By-laws,never|no,block\r\n"
)


def lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


ROWS = lines(
    {"id": "a", "text": "Dogs on a lead", "place": "CN", "audience": "baker|nurse"},
    {"id": "a", "version": 2, "text": "Dogs at home", "valid_from": "2030-01-01"},
    {"id": "a", "version": 3, "status": "repealed"},
    {"text": "No id at all", "mandatory": True},
    {"source": "湖南省/养犬条例", "text": "第三条*****养犬人应当拴绳。", "location": "全国"},
)


def stream(*paths: Path, **given: object) -> FileStream:
    return FileStream(find_files(paths), RuleDefaults(domain="law"), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rules.jsonl", ROWS),
        ("rules.jsonl", "\ufeff" + ROWS.replace("\n", "\r\n\r\n")),
        ("rules.ndjson", ROWS.rstrip("\n")),
        ("rules.csv", CSV),
        ("rules.csv", "\ufeff" + CSV.rstrip("\r\n")),
        ("rules.csv", "text;title\nDogs;By-laws\n"),
    ],
)
def test_a_table_gives_the_rules_that_it_gives_when_read_whole(
    tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    whole = extract([path], RuleDefaults(domain="law")).rules
    read = list(stream(path))
    assert [rule.model_dump() for rule in read] == [rule.model_dump() for rule in whole]
    assert [rule.model_fields_set for rule in read] == [rule.model_fields_set for rule in whole]


def test_a_folder_gives_all_its_documents_with_what_its_manifest_says(tmp_path: Path) -> None:
    (tmp_path / "laws.jsonl").write_text(ROWS)
    (tmp_path / "by-laws.md").write_text("# By-laws\n\nArticle 1\nDogs.\n\nArticle 2\nCats.\n")
    (tmp_path / "documents.toml").write_text(
        '[[place]]\ncode = "XA"\nnames = ["Xanadu"]\n[[document]]\nfile = "by-laws.md"\n'
        'id = "x"\nplace = "Xanadu"\n[document.article."Article 2"]\nmandatory = true\n'
        '[[document]]\nfile = "laws.jsonl"\nauthority = "statute"\n'
    )
    assert tuple(stream(tmp_path)) == extract([tmp_path], RuleDefaults(domain="law")).rules
    with (tmp_path / "documents.toml").open("a") as manifest:
        manifest.write('[document.article."a"]\nmandatory = true\n')
    with pytest.raises(DocumentError, match="write them into the rows"):
        list(stream(tmp_path))


def test_where_mark_and_share_follow_the_rules_that_were_given(tmp_path: Path) -> None:
    path = tmp_path / "rules.jsonl"
    path.write_text(ROWS)
    read = stream(path)
    places, shares = zip(*((read.where(), read.share()) for _ in read), strict=True)
    assert list(places) == [f"{path}, line {n}" for n in range(1, 6)]
    assert list(shares) == sorted(shares)
    mark = read.mark()
    assert mark
    assert (shares[-1], mark.bytes) == (1.0, len(ROWS.encode()))


@pytest.mark.parametrize("name", ["rules.jsonl", "rules.csv", "."])
def test_from_every_mark_on_it_gives_the_rest(tmp_path: Path, name: str) -> None:
    (tmp_path / "rules.jsonl").write_text(ROWS)
    (tmp_path / "rules.csv").write_text(CSV)
    (tmp_path / "by-laws.md").write_text("# By-laws\n\nArticle 1\nDogs.\n\nArticle 2\nCats.\n")
    first = stream(tmp_path / name)
    marks = [(rule, first.mark()) for rule in first]
    for number, (_, mark) in enumerate(marks):
        again = stream(tmp_path / name)
        assert again.resume(mark)
        rest = [(rule, again.share()) for rule in again]
        assert [rule for rule, _ in rest] == [rule for rule, _ in marks[number + 1 :]]
        assert [share for _, share in rest] == sorted(share for _, share in rest)
        assert not rest or rest[-1][1] == 1


def test_it_begins_at_the_first_row_where_something_else_stood_before_the_mark(
    tmp_path: Path,
) -> None:
    path = tmp_path / "rules.jsonl"
    path.write_text(ROWS)
    read = iter(first := stream(path))
    next(read), next(read), next(read)
    mark = first.mark()
    assert mark
    path.write_text(ROWS + lines({"id": "z", "text": "more"}))
    longer = stream(path)
    assert longer.resume(mark)
    assert [rule.id for rule in longer][-1] == "z"
    path.write_text(ROWS.replace("Dogs at", "Cats at"))
    other = stream(path)
    assert not other.resume(mark)
    assert len(list(other)) == 5
    path.write_text(ROWS)
    assert not stream(path).resume(None)
    assert not stream(path, tenant="another").resume(mark)
    assert not stream(path).resume(mark._replace(sha256="0" * 64))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"text": "x"}\n\n{"text": 5}\n', "line 3: .*text: "),
        (b'{"text": "x"}\n{"text"\n', "line 2: malformed JSON at column 8"),
        (b'{"text": "x"}\n{"tekst": "y"}\n', "line 2: unknown field 'tekst'"),
        (b'{"text": "x"}\n{"text": "\xff"}\n', "line 2: byte 24 is not UTF-8"),
        (b'{"text": "x"}\n\x00\n', "line 2: byte 14 is zero"),
        (b'{"text": "x"}\n{"text": "' + b"y" * 200 + b'"}\n', "line 2: is longer than"),
        (b'{"text": "x", "tenant": "b"}\n', "line 1: .* is of tenant 'b'"),
        ('{"text": "x"}'.encode("utf-16"), "line 1: byte 0 is not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_refused_by_file_and_line(
    tmp_path: Path, data: bytes, said: str
) -> None:
    path = tmp_path / "rules.jsonl"
    path.write_bytes(data)
    with pytest.raises(DocumentError, match=said) as caught:
        list(stream(path, max_bytes=100))
    assert caught.value.path == str(path)


def test_rows_that_cannot_be_taken_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "rules.jsonl"
    path.write_text('{"id": "a", "text": "x"}\n{"text": 5}\nnonsense\n{"id": "b", "text": "y"}\n')
    told: list[RuleError | DocumentError] = []
    read = stream(path, left_out=told.append)
    assert [rule.id for rule in read] == ["a", "b"]
    assert [str(error).partition(":")[0] for error in told] == [
        f"{path}, line 2",
        f"{path}, line 3",
    ]
    assert read.mark() is None


@pytest.mark.parametrize("first_batch", [1, 9])
def test_rows_that_were_left_out_are_tried_again(
    memory: Memory, tmp_path: Path, first_batch: int
) -> None:
    path = tmp_path / "rules.jsonl"
    places = ("CN", "XA-1", "CN", "CN")
    path.write_text(
        lines(*({"id": f"r{n}", "text": "x", "place": place} for n, place in enumerate(places)))
    )
    told: list[RuleError | DocumentError] = []

    def add(batch: int) -> tuple[int, int, int]:
        read = stream(path)
        read.resume(last_mark(memory.store, "default", read.name))
        report = bulk_import(memory, read, batch=batch, left_out=told.append)
        return report.added, report.unchanged, report.left_out

    assert add(first_batch) == (3, 0, 1)
    assert add(9)[2] == 1
    assert ["line 2" in str(error) for error in told] == [True, True]
    memory.define_places([PlaceNames(code="XA"), PlaceNames(code="XA-1")])
    assert add(9)[::2] == (1, 0)
    assert memory.get("r1").place == "XA-1"


def test_a_rule_that_stands_twice_is_refused_by_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "rules.jsonl"
    path.write_text(lines({"id": "a", "text": "x"}, {"id": "a", "text": "y"}))
    with pytest.raises(DuplicateRule, match=r"twice: .*line 1, and .*line 2"):
        list(stream(path))
    path.write_text(lines(*({"id": name, "text": "x"} for name in "aba")))
    with pytest.raises(DuplicateRule, match=r"two places: .*line 1, and .*line 3"):
        list(stream(path))


def test_a_file_that_is_changed_meanwhile_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "rules.jsonl"
    path.write_text(ROWS)
    read = iter(stream(path))
    next(read)
    with path.open("a") as file:
        file.write("\n")
    with pytest.raises(DocumentError, match="was changed while it was read"):
        list(read)


def test_a_pipe_is_refused_since_it_cannot_be_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "rules.jsonl"
    os.mkfifo(path)
    with pytest.raises(DocumentError, match="no regular file"):
        list(stream(path))


def test_the_last_mark_holds_until_another_import_or_stream(memory: Memory, tmp_path: Path) -> None:
    for name in ("a", "b"):
        text = lines(*({"id": f"{name}{n}", "text": "x"} for n in range(4)))
        (tmp_path / f"{name}.jsonl").write_text(text)
    one, two = (stream(tmp_path / f"{name}.jsonl") for name in ("a", "b"))
    bulk_import(memory, one, batch=3, note="why [stream 0: 1]")
    memory.amend("a1", {"text": "by hand"})
    assert last_mark(memory.store, "default", one.name) == one.mark()
    bulk_import(memory, two)
    assert last_mark(memory.store, "default", one.name) is None
    assert last_mark(memory.store, "default", two.name) == two.mark()
    assert last_mark(memory.store, "other", one.name) is None
    bulk_import(memory, [Rule(id="c", text="x")])
    assert last_mark(memory.store, "default", two.name) is None


WRITER = """
import sys
from pathlib import Path
from test_stream import stream
from comity.memory.bulk import bulk_import
from comity.memory.embed import HashEmbedder
from comity.memory.marks import last_mark
from comity.memory.memory import Memory

url, path = sys.argv[1:]
with Memory.open(url, embedder=HashEmbedder(64)) as memory:
    read = stream(Path(path))
    read.resume(last_mark(memory.store, "default", read.name))
    bulk_import(memory, read, batch=40, committed=lambda revision: print(revision, flush=True))
print("done", flush=True)
"""


def killed_or_done(url: str, path: Path, revisions: int, chance: random.Random) -> bool:
    """Run the import and kill it some time after so many revisions; whether it came to its end."""
    command = [sys.executable, "-c", WRITER, url, str(path)]
    folder = Path(__file__).parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout
        said = [process.stdout.readline() for _ in range(revisions)]
        if "done\n" in said:
            assert process.wait() == 0
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(chance.random() * 0.03)
        process.kill()
    return False


def everything(memory: Memory) -> Sequence[object]:
    rules = [(s.revision, s.rule) for s in memory.store.rows_after(0)]
    notes = [(r.number, r.kind, r.note) for r in memory.store.revisions("default")]
    texts = [rule.indexed_text for _, rule in rules]
    found = memory.vectors.want(memory.embedder, texts).missing
    admitted = [int(row) for row in memory.index.mandatory(memory.index.admit(SCOPE))]
    return [rules, notes, found, admitted]


def test_an_import_that_is_killed_and_gone_on_with_gives_what_an_unbroken_one_gives(
    open_memory: OpenMemory, tmp_path: Path
) -> None:
    path = tmp_path / "rules.jsonl"
    path.write_text(
        lines(
            *(
                {"id": f"r{n // 3}", "version": n % 3 + 1, "text": f"rule {n}", "mandatory": True}
                for n in range(999)
            )
        )
    )
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    url, tries = f"sqlite:///{tmp_path}/rules.db", 0
    while not killed_or_done(url, path, 30 if tries > 2 else chance.randint(2, 9), chance):
        tries += 1
        assert tries < 60, f"seed {seed}"
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as unbroken:
        bulk_import(unbroken, stream(path), batch=40)
        assert everything(open_memory()) == everything(unbroken), f"seed {seed}"
    assert tries >= 1, f"seed {seed}"


def test_a_mark_reads_as_it_was_written() -> None:
    mark = Mark("0123456789abcdef", 5, 600, "ab" * 32)
    assert str(mark) == (f"[stream 0123456789abcdef: 5 rows, 600 bytes, sha256 {'ab' * 32}]")
