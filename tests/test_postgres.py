"""What PostgreSQL adds to the contract: connections, concurrent hosts, row-level security."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

import logging
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import apsw
import pytest
from benchmarks.postgres_server import Server

from comity.errors import (
    MemoryDamaged,
    MemoryTooNew,
    RuleError,
    SettingsError,
    StoreError,
)
from comity.memory.migrations import MIGRATIONS as OF_SQLITE
from comity.memory.sealed import Sealed, whole
from comity.records import Rule
from contracts.store import change, decision
from postgres_databases import APP, OWNER, database, new_database, postgres  # noqa: F401 - fixtures

psycopg = pytest.importorskip("psycopg", reason="needs the extra postgres")

from comity.memory.open_store import is_there, path_of  # noqa: E402
from comity.memory.postgres import PostgresStore  # noqa: E402
from comity.memory.postgres_connections import Connections, shown  # noqa: E402
from comity.memory.postgres_tables import MIGRATIONS  # noqa: E402
from comity.memory.postgres_transactions import Statement, Writing  # noqa: E402

Open = Callable[..., PostgresStore]


@pytest.fixture
def open_store(postgres: Server, database: str) -> Iterator[Open]:
    """Opens the same book, as often as wanted, as one of the two roles."""
    opened: list[PostgresStore] = []

    def open_it(role: str = APP) -> PostgresStore:
        opened.append(PostgresStore(postgres.url(database, role)))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


@pytest.fixture
def book(open_store: Open) -> PostgresStore:
    return open_store()


@pytest.fixture
def sql(postgres: Server, database: str) -> Iterator[Callable[..., list[tuple[object, ...]]]]:
    """Runs a statement as the superuser, whom no policy holds."""
    with psycopg.connect(postgres.url(database), autocommit=True) as connection:

        def run(statement: str, *values: object) -> list[tuple[object, ...]]:
            done = connection.execute(statement.encode(), values or None)
            return list(done.fetchall()) if done.description else []

        yield run


Sql = Callable[..., list[tuple[object, ...]]]


# Tables


def test_both_engines_have_the_same_tables_with_the_same_columns(sql: Sql) -> None:
    assert len(MIGRATIONS) == len(OF_SQLITE)
    ours: dict[str, set[str]] = {}
    for table, column in sql(
        "SELECT table_name::text, column_name::text FROM information_schema.columns "
        "WHERE table_schema = 'comity' AND is_generated = 'NEVER'"
    ):
        ours.setdefault(str(table), set()).add(str(column))
    with apsw.Connection(":memory:") as other:
        for migration in OF_SQLITE:
            other.execute(migration)
        names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        theirs = {
            table: {row[1] for row in other.execute(f"PRAGMA table_info({table})").fetchall()}
            for (table,) in other.execute(names).fetchall()
        }
    other.close()
    only_ours = ("latest", "format", "tenant")
    assert {name: ours[name] for name in ours if name not in only_ours} == theirs


@pytest.mark.parametrize(
    "table", ["revision", "rule", "decision", "pair_decision", "erased", "tenant"]
)
def test_rows_are_never_changed_by_any_role(book: PostgresStore, sql: Sql, table: str) -> None:
    book.commit(change(Rule(id="a", text="x")))
    book.append_decision("default", lambda last: whole(decision("d", last)))
    column = {"erased": "entry", "tenant": "name"}.get(table, "tenant")
    if table == "erased":
        sql("INSERT INTO comity.erased VALUES (1, 1)")
    if table == "pair_decision":
        sql("INSERT INTO comity.pair_decision VALUES (1, 'default', '', '', '', '', 0, '', 0)")
    for statement in (
        f"UPDATE comity.{table} SET {column} = {column}",
        f"DELETE FROM comity.{table}",
        f"TRUNCATE comity.{table} CASCADE",
    ):
        if table == "decision" and statement.startswith("UPDATE"):
            statement = "UPDATE comity.decision SET record = '{}'"
        with pytest.raises(psycopg.errors.RestrictViolation, match=r"append-only|are emptied"):
            sql(statement)


def test_a_memory_of_a_newer_format_is_refused_and_left_alone(open_store: Open, sql: Sql) -> None:
    sql("UPDATE comity.format SET version = 99")
    with pytest.raises(MemoryTooNew, match=r"99.*pip install -U comity"):
        open_store(OWNER)
    assert sql("SELECT version FROM comity.format") == [(99,)]


def test_another_programs_schema_is_refused_and_left_alone(postgres: Server) -> None:
    name = new_database(postgres)
    postgres.execute("CREATE TABLE comity.songs (name text)", database=name)
    with pytest.raises(MemoryDamaged, match="another program"):
        PostgresStore(postgres.url(name, OWNER))


def test_a_role_that_may_not_make_tables_says_who_can(postgres: Server) -> None:
    name = new_database(postgres)
    with pytest.raises(StoreError, match=r"open it once as the role that owns it"):
        PostgresStore(postgres.url(name, APP))


def test_many_may_make_the_same_memory_at_once(postgres: Server) -> None:
    url = postgres.url(new_database(postgres), OWNER)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: PostgresStore(url), range(4)))
    assert len({store.identity() for store in stores}) == 1
    for store in stores:
        store.close()


DOCS = Path(__file__).parents[1] / "docs" / "postgresql.md"


def test_roles_are_set_up_and_a_dump_is_restored_as_the_page_says(postgres: Server) -> None:
    owner, _ = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    name, backup = "set_up_as_told", "comity_backup"
    postgres.execute(
        f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE template0",
        f"CREATE DATABASE {name}_again OWNER {OWNER} TEMPLATE template0",
        f"CREATE ROLE {backup} LOGIN BYPASSRLS",
        f"GRANT pg_read_all_data TO {backup}",
    )
    postgres.execute(*filter(str.strip, owner.split(";")), database=name, user=OWNER)
    PostgresStore(postgres.url(name, OWNER)).close()
    store = PostgresStore(postgres.url(name, APP))
    store.commit(change(Rule(id="a", text="x\x00狗")))
    store.append_decision("default", lambda last: whole(decision("d", last)))
    postgres.dump(postgres.url(name, backup), postgres.url(f"{name}_again"))
    restored = PostgresStore(postgres.url(f"{name}_again", APP))
    assert list(restored.rows_after(0)) == list(store.rows_after(0))
    assert list(restored.chain("default")) == list(store.chain("default"))
    assert restored.identity() == store.identity()
    assert restored.commit(change(Rule(id="b", text="y"))) == 2
    assert restored.append_decision("default", lambda last: whole(decision("e", last)))
    store.close()
    restored.close()


def test_rights_given_after_the_tables_were_made_do_as_well(postgres: Server) -> None:
    owner, _ = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    name = "tables_first"
    postgres.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE template0")
    PostgresStore(postgres.url(name, OWNER)).close()
    for _ in range(2):
        postgres.execute(*filter(str.strip, owner.split(";")), database=name, user=OWNER)
    store = PostgresStore(postgres.url(name, APP))
    assert store.commit(change(Rule(id="a", text="x"))) == 1
    store.close()


def test_a_record_that_cannot_be_read_is_named(book: PostgresStore, sql: Sql) -> None:
    book.commit(change(Rule(id="a", text="x")))
    sql("ALTER TABLE comity.rule DISABLE TRIGGER ALL")
    sql("UPDATE comity.rule SET record = '{}'")
    with pytest.raises(MemoryDamaged, match="row 1"):
        list(book.rows_after(0))


def test_names_too_long_for_an_index_are_refused_and_change_nothing(book: PostgresStore) -> None:
    noise = random.Random(1)
    long = "".join(chr(noise.randrange(0x20000, 0x2A000)) for _ in range(400))
    with pytest.raises(RuleError, match="shorten its ids"):
        book.commit(change(Rule(id=long, text="x", tenant=long), tenant=long))
    assert book.revision() == 0
    assert book.commit(change(Rule(id=long, text="x", title=long * 9, article=long * 9))) == 1
    assert [each.article for each in book.titled("default", [long * 9])] == [long * 9]


# Several at once


def test_hosts_append_decisions_of_several_tenants_without_a_fork(open_store: Open) -> None:
    books = [open_store() for _ in range(3)]

    def sealed(name: str, tenant: str, last: str) -> Sealed:
        return whole(decision(name, last, tenant))

    def append(name: int) -> None:
        for n in range(8):
            tenant = "ab"[(n + name) % 2]
            books[name % 3].append_decision(tenant, partial(sealed, f"{name}-{n}", tenant))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(append, range(6)))
    for tenant in "ab":
        previous, made = "", list(books[0].decisions(tenant))
        for each in made:
            assert each.previous_hash == previous
            previous = each.hash
        assert len(made) == 24


def test_whoever_reads_on_misses_no_row_and_no_revision(open_store: Open) -> None:
    """Two hosts write, a third reads on from the last row that it knows."""
    books, reader = [open_store(), open_store()], open_store()
    done = threading.Event()

    def write(number: int) -> None:
        for n in range(25):
            rules = (Rule(id=f"{number}-{n}-{i}", text="x") for i in range(1 + n % 4))
            books[number].commit(change(*rules))

    seen: list[int] = []
    numbers: list[int] = []

    def read() -> None:
        while True:
            ended = done.is_set()
            numbers.append(reader.revision())
            seen.extend(stored.row for stored in reader.rows_after(seen[-1] if seen else 0))
            if ended:
                return

    with ThreadPoolExecutor(3) as pool:
        reading = pool.submit(read)
        list(pool.map(write, range(2)))
        done.set()
        reading.result()
    assert seen == list(range(1, len(seen) + 1))
    assert [row.row for row in reader.rows_after(0)] == seen
    assert numbers == sorted(numbers)
    assert reader.revision() == 50


WRITER = """
import sys
from datetime import UTC, datetime
from comity.memory.postgres import PostgresStore
from comity.memory.store import Change
from comity.records import Rule

store = PostgresStore(sys.argv[1])
print("ready", flush=True)
for n in range(100_000):
    rules = [Rule(id=f"{sys.argv[2]}-{n}-{i}", text="x" * 300) for i in range(20)]
    change = Change(tenant="default", kind="add", rules=rules, made_at=datetime.now(UTC))
    print(store.commit(change), flush=True)
"""


def test_a_writer_that_is_killed_loses_nothing_acknowledged_and_leaves_no_half(
    book: PostgresStore,
    postgres: Server,
    database: str,
) -> None:
    acknowledged: list[int] = []
    for seed in range(2):
        arguments = [sys.executable, "-c", WRITER, postgres.url(database, APP), str(seed)]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        delay = random.Random(seed).uniform(0.01, 0.2)
        killer = threading.Timer(delay, writer.send_signal, [signal.SIGKILL])
        killer.start()
        acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        writer.wait()
        killer.join()
        writer.stdout.close()
    revisions = [revision.number for revision in book.revisions("default")]
    assert revisions == list(range(1, len(revisions) + 1))
    assert set(acknowledged) <= set(revisions)
    assert len(revisions) <= len(acknowledged) + 2
    found = [stored.revision for stored in book.rows_after(0)]
    assert {number: found.count(number) for number in revisions} == dict.fromkeys(revisions, 20)


def test_a_writer_that_stands_still_holds_up_others_for_seconds_only(open_store: Open) -> None:
    still, other = open_store(), open_store()
    lock = Statement("SELECT revision FROM comity.latest FOR UPDATE")

    def stand_still() -> int:
        with still._transactions.writing("default", lock) as writing:
            writing.run(Statement("UPDATE comity.latest SET revision = 9"))
            return other.commit(change(Rule(id="a", text="x")))

    with pytest.raises(StoreError, match=r"idle-in-transaction.*nothing was changed"):
        stand_still()
    assert still.revision() == other.revision() == 1


def test_what_is_done_alone_is_done_by_one_host_at_a_time(open_store: Open) -> None:
    one, two, order = open_store(), open_store(), []

    def wait() -> None:
        with two.alone("it"):
            order.append("two")

    with ThreadPoolExecutor(1) as pool:
        with one.alone("it"), two.alone("another"):
            waiting = pool.submit(wait)
            time.sleep(0.1)
            order.append("one")
        waiting.result()
    assert order == ["one", "two"]


# Connections


def test_a_call_that_is_broken_off_leaves_a_clean_connection(book: PostgresStore) -> None:
    class Cancelled(BaseException):
        """As when a request is given up."""

    book.commit(change(Rule(id="a", text="x")))
    idle = book._connections._idle
    (before,) = idle
    with pytest.raises(Cancelled), book._transactions.writing("default") as writing:  # noqa: PT012
        writing.run(Statement("DELETE FROM comity.place"))
        raise Cancelled
    with pytest.raises(Cancelled), book._connections.one() as connection:  # noqa: PT012
        connection.execute("BEGIN")
        connection.execute("SELECT set_config('comity.tenant', 'default', true)")
        raise Cancelled
    assert idle == []  # the second left its transaction open, and nobody gets that connection
    assert before.closed
    assert book._transactions.plain("SELECT current_setting('comity.tenant', true)") in (
        [(None,)],
        [("",)],
    )
    assert book.commit(change(Rule(id="b", text="x"))) == 2


def test_no_tenant_stays_named_on_a_connection(book: PostgresStore) -> None:
    book.commit(change(Rule(id="a", text="x")))
    assert book.history("default", "a")
    assert book._transactions.plain("SELECT count(*) FROM comity.rule") == [(0,)]


def test_threads_wait_for_one_another_where_connections_are_few(postgres: Server) -> None:
    connections = Connections(postgres.url(), most=2)

    def ask(number: int) -> int:
        with connections.one() as connection:
            row = connection.execute("SELECT pg_sleep(0.01), %s::int", (number,)).fetchone()
        assert row
        return int(row[1])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == list(range(40))
    assert len(connections._idle) == 2
    connections.close()


def test_a_server_that_restarts_is_a_clear_error_once_and_then_nothing(
    book: PostgresStore,
    postgres: Server,
) -> None:
    book.commit(change(Rule(id="a", text="x")))
    postgres.stop()
    for call in (book.revision, book.probe, lambda: book.commit(change(Rule(id="b", text="y")))):
        with pytest.raises(StoreError, match="cannot be reached"):
            call()
    postgres.start()
    assert book.revision() == 1
    postgres.restart()
    assert book.commit(change(Rule(id="b", text="y"))) == 2  # the old connections are known as dead
    book.probe()


def broken_at_the_end(book: PostgresStore, sql: Sql, *, commits: bool) -> Writing:
    """A transaction whose connection is lost as it ends, before or after the server has done it."""
    with book._transactions.writing("default") as writing:
        ((pid,),) = writing.rows("SELECT pg_backend_pid()")
        add = "INSERT INTO comity.begun VALUES ('default', 'd', 0, '{}')"
        writing.run(Statement(add))
        writing.proof = Statement("SELECT 1 FROM comity.begun WHERE id = 'd'")
        if commits:
            writing.run(Statement("COMMIT"))
        sql("SELECT pg_terminate_backend(%s, 5000)", pid)
    return writing


def test_a_commit_whose_answer_is_lost_is_known_all_the_same(book: PostgresStore, sql: Sql) -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        broken_at_the_end(book, sql, commits=False)
    assert sql("SELECT id FROM comity.begun") == []
    broken_at_the_end(book, sql, commits=True)
    assert sql("SELECT id FROM comity.begun") == [("d",)]


def test_a_closed_memory_says_so_in_our_own_words(book: PostgresStore) -> None:
    book.close()
    with pytest.raises(StoreError, match="is closed"):
        book.revision()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3cr3t@127.0.0.1:1/rules",
        "postgresql://ann:s3cr3t@127.0.0.1:99999/rules",
        "postgresql://ann:p@s3cr3t/x@127.0.0.1/rules",
        "postgresql://ann:s3cr3t/1:2@127.0.0.1:1/rules",
        "postgresql://ann:p/s3cr3t:2@127.0.0.1:1/rules",
        "postgresql://ann:p?user=s3cr3t@127.0.0.1:1/rules",
        "postgresql://ann@127.0.0.1:1/rules?password=s3cr3t",
        "postgresql://ann:s3cr3t%zz@127.0.0.1:1/rules",
        "postgresql://ann:s3cr3t@127.0.0.1:1/rules?no_such_word=s3cr3t",
    ],
)
def test_a_password_is_never_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises((StoreError, SettingsError)) as raised,
    ):
        PostgresStore(url)
    error: BaseException | None = raised.value
    while error is not None:
        assert "s3cr3t" not in f"{error!s} {error!r} {error.args}"
        error = error.__cause__ or error.__context__
    assert "s3cr3t" not in caplog.text + shown(url)


@pytest.mark.parametrize(
    "text",
    ["host=h user=ann password=s3cr3t", "password = 's3cr3t' dbname=rules", "service=s3cr3t"],
)
def test_a_connection_string_of_libpq_is_refused_and_not_told(text: str) -> None:
    with pytest.raises(SettingsError, match="write postgresql://") as raised:
        is_there(text)
    assert "s3cr3t" not in f"{raised.value}{shown(text)}"


@pytest.mark.parametrize("path", ["rules.db", "a=b.db", "my host.db", "folder/user-rules.db"])
def test_a_path_is_no_connection_string(path: str) -> None:
    assert (path_of(path), shown(path)) == (Path(path), path)


def test_a_name_in_sql_is_a_name_and_no_sql(book: PostgresStore) -> None:
    odd = "a'; DROP SCHEMA comity CASCADE; --%s %(tenant)s {}"
    book.commit(change(Rule(id=odd, text="x", title=odd, tenant=odd), tenant=odd, author=odd))
    assert [stored.rule.id for stored in book.history(odd, odd)] == [odd]
    assert [each.article for each in book.titled(odd, [odd])] == [""]
    assert book.known(odd, [odd]) == {odd}


# Row-level security

OF_A_TENANT = (
    "revision",
    "rule",
    "place",
    "decision",
    "decision_text",
    "judged_pair",
    "pair_decision",
    "access_key",
    "begun",
    "preference",
)


def filled(book: PostgresStore, sql: Sql) -> None:
    book.commit(change(Rule(id="a", text="x")))
    book.append_decision("default", lambda last: whole(decision("d", last)))
    for table, values in {
        "place": "'default', 'XA', '[]', 1",
        "decision_text": "1, 'default', '', '', ''",
        "judged_pair": "'default', 'c', 'a', 'b', 'unsure', '', ''",
        "pair_decision": "1, 'default', 'c', '', '', '', 0, '', 0",
        "access_key": "'h', 'k', 'default', 'user', '', 0",
        "begun": "'default', 'e', 0, '{}'",
        "preference": "1, 'default', 256, 'p', '{}'",
    }.items():
        sql(f"INSERT INTO comity.{table} VALUES ({values})")


@pytest.mark.parametrize("role", [APP, OWNER])
def test_a_query_that_forgets_its_tenant_sees_nothing(
    book: PostgresStore, sql: Sql, open_store: Open, role: str
) -> None:
    filled(book, sql)
    asking = open_store(role)._transactions
    for table in OF_A_TENANT:
        everything = f"SELECT count(*) FROM comity.{table}"
        assert asking.plain(everything) == [(0,)], table
        assert asking.read("other", everything) == [(0,)], table
        assert asking.read("", everything) == [(0,)], table
        assert asking.read("default", everything) == [(1,)], table


def test_only_what_the_index_follows_and_what_has_no_tenant_yet_is_read_for_all(
    book: PostgresStore, sql: Sql
) -> None:
    filled(book, sql)
    asking = book._transactions
    seen = {t for t in OF_A_TENANT if asking.read(None, f"SELECT 1 FROM comity.{t}")}
    assert seen == {"revision", "rule", "place", "access_key", "begun"}


@pytest.mark.parametrize("table", ["revision", "rule", "decision", "begun", "preference"])
def test_nothing_is_written_in_the_name_of_another_tenant(
    book: PostgresStore, sql: Sql, table: str
) -> None:
    filled(book, sql)
    columns = {
        "revision": "number, tenant, made_at, kind, author, note",
        "rule": '"row", tenant, id, version, revision, place, audience, domain, authority, status, '
        "mandatory, overrides, record",
        "decision": "number, tenant, id, made_at, revision, record, hash",
        "begun": "tenant, id, made_at, record",
        "preference": "number, tenant, drawer, person, record",
    }[table]
    renamed = columns.replace("number", "number + 1").replace('"row"', '"row" + 1')
    add = f"INSERT INTO comity.{table} ({columns}) SELECT {renamed} FROM comity.{table}"
    with (
        pytest.raises(StoreError, match="row-level security"),
        book._transactions.writing("default") as writing,
    ):
        writing.run(Statement(re.sub("SELECT (.*)tenant", r"SELECT \1'other'", add)))


def test_every_table_of_a_tenant_has_its_policy(sql: Sql) -> None:
    """A new table is put here, and gets a policy in its migration."""
    tables = sql(
        "SELECT relname::text, relrowsecurity AND relforcerowsecurity FROM pg_class "
        "WHERE relnamespace = 'comity'::regnamespace AND relkind = 'r' AND EXISTS "
        "(SELECT 1 FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'tenant')"
    )
    assert {str(name): held for name, held in tables} == dict.fromkeys(OF_A_TENANT, True)


# Following


def test_a_change_of_another_host_wakes_who_follows_also_after_a_lost_connection(
    open_store: Open, sql: Sql
) -> None:
    writer, follower = open_store(), open_store()
    told: list[int] = []
    woken = threading.Condition()

    def changed() -> None:
        with woken:
            told.append(follower.revision())
            woken.notify()

    def is_told(revision: int) -> bool:
        with woken:
            return woken.wait_for(lambda: revision in told, timeout=30)

    follower.follow(changed)
    assert is_told(0)
    writer.commit(change(Rule(id="a", text="x")))
    assert is_told(1)
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    writer.commit(change(Rule(id="b", text="x")))
    assert is_told(2)


def test_a_follower_that_fails_goes_on(open_store: Open) -> None:
    writer, follower = open_store(), open_store()
    called = threading.Semaphore(0)

    def fail() -> None:
        called.release()
        raise StoreError("the index cannot be read")

    follower.follow(fail)
    assert called.acquire(timeout=30)
    writer.commit(change(Rule(id="a", text="x")))
    assert called.acquire(timeout=30)
    assert follower.revision() == 1
