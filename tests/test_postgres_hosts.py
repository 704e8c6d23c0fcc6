"""Several hosts share a memory in PostgreSQL: what one acknowledges holds on all of them."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from benchmarks.histories import HOSTS, history, stale, told
from benchmarks.hosts import Event, add_first_rules
from benchmarks.postgres_server import Server
from starlette.applications import Starlette
from starlette.routing import Route

from comity.alignment.decisions import append, follow, new_id
from comity.alignment.erasure import erase, person_hash
from comity.cache import cache_folder
from comity.errors import NotFound, StoreError
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.memory.sealed import record_hash, whole
from comity.records import Decision, Finding, Rule, RuleRef, Scope
from comity_command import Command
from conftest import Clock
from gateway_process import serving
from postgres_databases import APP, OWNER, database, postgres  # noqa: F401 - fixtures
from test_gateway import Scripted, served

psycopg = pytest.importorskip("psycopg", reason="needs the extra postgres")

from comity.memory.postgres import PostgresStore  # noqa: E402

LEASH = Rule(id="leash", text="Dogs on a leash in the park")
Open = Callable[[], Memory]


@pytest.fixture
def url(postgres: Server, database: str) -> str:
    return postgres.url(database, APP)


@pytest.fixture
def open_memory(url: str, clock: Clock) -> Iterator[Open]:
    with ExitStack() as opened:
        yield lambda: opened.enter_context(Memory.open(url, embedder=HashEmbedder(64), clock=clock))


# Histories


def read(start: int, revision: int, **versions: int) -> Event:
    return Event(1, "read", start, start + 5, revision, versions)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (read(21, 2, a=2), ""),
        (read(21, 3, a=3), ""),
        (read(19, 1, a=1), ""),  # began before the acknowledgement
        (read(21, 1, a=2), "read revision 1 after 2"),
        (read(21, 2, a=1), "used old versions of ['a']"),
        (read(21, 2), "used old versions of ['a']"),
        (read(21, 0)._replace(refused="the server is gone"), ""),
    ],
)
def test_a_read_behind_what_was_acknowledged_is_found(after: Event, said: str) -> None:
    made = Event(0, "amend", 10, 20, 2, {"a": 2})
    failed = Event(0, "amend", 1, 2, 0, {"a": 0}, "busy")
    wrong = stale([after, failed, made, read(0, 1, a=1)])
    assert [said in each for each in wrong] == ([True] if said else [])


def test_no_host_answers_behind_what_another_has_acknowledged(url: str, tmp_path: Path) -> None:
    """Four processes; one at a time is stopped at any point, and goes on."""
    seed = random.randrange(2**32)
    print(f"seed {seed}: python -m benchmarks.histories --seed {seed}")
    add_first_rules(url)
    events = history(url, tmp_path, 4.0, seed)
    assert stale(events) == [], told(events)
    answered = {event.host for event in events if event.kind == "read" and not event.refused}
    assert answered == set(range(HOSTS)), told(events)
    assert [event.kind for event in events if not event.refused].count("amend") > 1


# Gateways and commands


@pytest.fixture
def upstream() -> Iterator[str]:
    scripted = Scripted()
    app = Starlette(routes=[Route("/v1/chat/completions", scripted.respond, methods=["POST"])])
    with served(app) as address:
        yield address


def ask(url: str, key: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/chat/completions",
        json={"model": "bot", "messages": [{"role": "user", "content": "May dogs run free?"}]},
        headers={"authorization": f"Bearer {key}"},
        timeout=30,
    )


def test_gateways_on_two_hosts_answer_alike_and_refuse_without_the_server(
    url: str,
    postgres: Server,
    tmp_path: Path,
    upstream: str,
) -> None:
    comity = Command(tmp_path)
    comity.environ["COMITY_MEMORY"] = url
    comity.done("add", comity.write("bylaws.md"))
    key = comity.json("keys", "create", "--role", "editor")["secret"]
    gateway = f'[upstreams.bot]\nbase_url = "{upstream}"\n[tenants.default]\nrelease = "observe"\n'
    file = comity.write("gateway.toml", gateway)
    (rule, *_) = comity.json("rules", "list")
    with ExitStack() as stack:
        addresses = []
        for host in ("one", "two"):
            comity.environ["COMITY_CACHE"] = str(tmp_path / host)
            shutil.copytree(cache_folder(), tmp_path / host, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(tmp_path / host / "memories", ignore_errors=True)
            addresses.append(stack.enter_context(serving(comity, "--gateway", file))[0])
        for number in range(6):
            told = httpx.post(
                f"{addresses[number % 2]}/rules/amend",
                params={"id": rule["id"]},
                json={"changes": {"text": f"Dogs are kept on a lead of {number} m."}},
                headers={"authorization": f"Bearer {key}"},
                timeout=30,
            ).json()
            for address in addresses:
                assert ask(address, key).json()["comity"]["revision"] >= told["revision"]
        postgres.stop()
        refused = [ask(address, key) for address in addresses]
        assert [each.status_code for each in refused] == [503, 503]
        ready = httpx.get(f"{addresses[0]}/readyz", timeout=30)
        assert ready.status_code == 503
        for told in (refused[0].text, ready.text):  # not where the server stands, nor as whom
            assert "the server of the memory cannot be reached" in told
            assert not [part for part in (OWNER, APP, str(postgres.folder), "://") if part in told]
        postgres.start()
        assert [ask(address, key).status_code for address in addresses] == [200, 200]


def test_commands_take_a_memory_in_postgresql(url: str, tmp_path: Path) -> None:
    comity = Command(tmp_path)
    comity.environ["COMITY_MEMORY"] = url
    empty = comity("search", "dogs")
    assert (empty.exit_code, "holds no rules yet" in empty.stderr) == (4, True)
    comity.done("add", comity.write("bylaws.md"))
    assert "lead" in comity.json("search", "dogs in the market")[0]["text"]
    assert comity.json("index", "info")["memory_revision"] == 1
    comity.done("index", "rebuild")
    info = comity.json("index", "info")
    assert info["index_revision"] == 1
    assert Path(info["folder"]).is_relative_to(cache_folder() / "memories")
    assert json.loads(comity.done("decisions", "verify", "--json"))
    comity.done("ask", "May dogs run free in the market?")
    erased = comity("decisions", "erase", "--question-contains", "dogs", "--yes")
    assert (erased.exit_code, "files and journal of the server" in erased.stderr) == (0, True)
    assert os.listdir(tmp_path) == ["bylaws.md"]


def test_a_database_without_a_memory_is_told_and_not_filled(
    postgres: Server,
    tmp_path: Path,
) -> None:
    comity = Command(tmp_path)
    comity.environ["COMITY_MEMORY"] = postgres.url("postgres", "postgres")
    result = comity("search", "dogs")
    assert (result.exit_code, "there is no memory at" in result.stderr) == (4, True)
    comity.environ["COMITY_MEMORY"] = "postgresql://ann:s3cr3t@127.0.0.1:1/rules"
    gone = comity("search", "dogs")
    assert gone.exit_code == 5
    assert "postgresql://ann@127.0.0.1:1/rules cannot be reached" in gone.stderr
    assert "s3cr3t" not in gone.output


# Erasure


def made(memory: Memory, question: str, **fields: object) -> Decision:
    given = {
        "id": new_id(),
        "made_at": memory.clock(),
        "revision": memory.revision,
        "scope": Scope(),
        "question": question,
    }
    return append(memory, Decision.model_validate(given | fields))


def everything(postgres: Server, database: str) -> str:
    """All that any query can give of the memory, as the superuser."""
    with psycopg.connect(postgres.url(database)) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'comity'::regnamespace "
            "AND relkind = 'r'"
        ).fetchall()
        rows = [
            connection.execute(f"SELECT t::text FROM comity.{name} AS t".encode()).fetchall()
            for (name,) in tables
        ]
    return str(rows)


def files_hold(postgres: Server, what: bytes) -> bool:
    """Whether any data file of the server holds something; its journal (pg_wal) apart."""
    files = (file for file in (postgres.data / "base").rglob("*") if file.is_file())
    return any(what in file.read_bytes() for file in files)


def test_erased_texts_are_in_no_row_and_the_chain_still_holds(
    open_memory: Open,
    postgres: Server,
    database: str,
) -> None:
    memory, other = open_memory(), open_memory()
    memory.add(LEASH)
    person = person_hash(memory, "default", "lee")
    gone = made(memory, "canary 金丝雀 \x00 of a user", answer="canary answer", person=person)
    kept = made(memory, "a question that stays")
    assert memory.store.texts.held_of("default", person) == [gone.id]
    assert other.store.decision("default", gone.id) == gone
    assert "canary" in everything(postgres, database)
    assert erase(memory, "default", [gone.id], by="ann", reason="asked to").decisions == (gone.id,)
    assert "canary" not in everything(postgres, database)
    assert "金丝雀" not in everything(postgres, database)
    assert other.store.texts.held_of("default", person) == []
    assert other.store.decision("default", kept.id) == kept
    assert other.store.decision("default", gone.id).erased_at == memory.clock()
    assert follow(other.store.chain("default"))[0::2] == (3, None)
    assert memory.store.texts.erase("default", [gone.id], lambda *_: pytest.fail("again")) is None
    with pytest.raises(NotFound, match="d-none"):
        erase(memory, "default", ["d-none"], by="ann")


def test_after_the_tables_are_written_anew_no_data_file_holds_erased_texts(
    open_memory: Open,
    postgres: Server,
    database: str,
) -> None:
    """What docs/privacy.md tells an operator to do, and what it says before and after."""
    memory = open_memory()
    gone = made(memory, "canary-in-a-file")
    memory.store.preferences.state(
        "default",
        "p",
        Rule(id="w", text="canary-wish", domain="style", authority="preference"),
        memory.clock(),
    )
    postgres.execute("CHECKPOINT")
    assert files_hold(postgres, b"canary-in-a-file")
    erase(memory, "default", [gone.id], by="ann")
    memory.store.preferences.erase("default", "p")
    postgres.execute(
        "VACUUM FULL comity.decision, comity.decision_text, comity.preference",
        "CHECKPOINT",
        database=database,
    )
    assert not files_hold(postgres, b"canary-in-a-file")
    assert not files_hold(postgres, b"canary-wish")


def test_a_record_of_the_first_form_is_erased_and_what_is_left_is_guarded(
    open_memory: Open,
    postgres: Server,
    database: str,
) -> None:
    memory = open_memory()
    old = Decision(
        id="d0",
        made_at=memory.clock(),
        revision=0,
        scope=Scope(),
        question="canary-old",
        findings=(Finding(rule="a", version=1, outcome="violated", reason="canary-old"),),
        kept=(RuleRef(id="a", version=1),),
    )
    old = old.model_copy(update={"hash": record_hash(old)})
    memory.store.append_decision("default", lambda _: whole(old))
    new = made(memory, "new")
    erase(memory, "default", ["d0", new.id], by="ann")
    assert "canary" not in everything(postgres, database)
    assert follow(memory.store.chain("default"))[0::2] == (3, None)
    left = memory.store.decision("default", "d0")
    assert (left.question, left.hash, left.kept) == ("", old.hash, old.kept)
    with psycopg.connect(postgres.url(database), autocommit=True) as tampering:
        tampering.execute(
            "UPDATE comity.decision SET record = replace(record, '\"version\":1', '\"version\":2') "
            "WHERE id = 'd0'"
        )
    assert follow(memory.store.chain("default")).sound == 0


@pytest.mark.parametrize("role", [APP, OWNER, "postgres"])
def test_no_role_erases_without_an_entry_or_brings_texts_back(
    open_memory: Open,
    postgres: Server,
    database: str,
    role: str,
) -> None:
    memory = open_memory()
    first, _ = made(memory, "gone"), made(memory, "stays")
    erase(memory, "default", [first.id], by="ann")
    with psycopg.connect(postgres.url(database, role), autocommit=True) as program:
        program.execute("SET comity.tenant = 'default'")
        for statement in (
            "DELETE FROM comity.decision_text",
            "UPDATE comity.decision_text SET texts = ''",
            "UPDATE comity.decision_text SET person = '', salt = '', texts = '' WHERE number = 2",
            "UPDATE comity.decision_text SET texts = 'x' WHERE number = 1",
            "DELETE FROM comity.erased",
            "UPDATE comity.erased SET entry = 2",
            "UPDATE comity.decision SET record = '{}' WHERE number = 2",
            "UPDATE comity.decision SET hash = '' WHERE number = 1",
            "DELETE FROM comity.decision",
        ):
            with pytest.raises(psycopg.errors.RestrictViolation):
                program.execute(statement.encode())


def test_a_host_whose_clock_is_off_says_so_to_who_asks_whether_it_is_ready(
    url: str,
) -> None:
    store = PostgresStore(url, now=lambda: datetime.now(UTC) - timedelta(seconds=2))
    with pytest.raises(StoreError, match=r"clock is 2\.\d seconds behind"):
        store.probe()
    store.close()
