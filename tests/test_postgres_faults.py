"""PostgreSQL when something goes wrong: lost connections, settings of others, a standby behind."""

# ruff: noqa: F811 - fixtures are imported

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count, repeat
from pathlib import Path

import pytest
from benchmarks.postgres_server import Server

from comity.errors import StoreError
from comity.memory.sealed import Sealed, whole
from comity.records import Rule
from contracts.store import change, decision
from postgres_databases import OWNER, database, new_database, postgres  # noqa: F401 - fixtures
from test_postgres import Open, Sql, book, open_store, sql  # noqa: F401 - fixtures

psycopg = pytest.importorskip("psycopg", reason="needs the extra postgres")

from comity.memory.postgres import PostgresStore, _rules  # noqa: E402
from comity.memory.postgres_patience import Patience  # noqa: E402
from comity.memory.postgres_transactions import Statement, Writing  # noqa: E402


def test_decisions_of_two_tenants_whose_commit_was_not_answered_are_known_as_made(
    book: PostgresStore, sql: Sql
) -> None:
    def sealed(tenant: str, last: str) -> Sealed:
        return whole(decision(f"of {tenant}", last, tenant))

    lost: list[object] = []
    commit = book._transactions._commit

    def committed_without_an_answer(writing: Writing, transaction: str) -> None:
        ((pid,),) = writing.rows("SELECT pg_backend_pid()")
        writing.run(Statement("COMMIT"))
        sql("SELECT pg_terminate_backend(%s, 5000)", pid)
        lost.append(pid)
        commit(writing, transaction)

    book._transactions._commit = committed_without_an_answer  # type: ignore[method-assign]
    made = book._append_all(
        [(name, partial(sealed, name)) for name in ("one", "two")],
    )
    assert lost
    assert [each.id for each in made] == ["of one", "of two"]
    assert [each.id for each in book.decisions("two")] == ["of two"]


def test_a_change_that_the_server_took_back_is_not_acknowledged(book: PostgresStore) -> None:
    with (  # noqa: PT012
        pytest.raises(StoreError, match="taken a change back"),
        book._transactions.writing("default") as writing,
    ):
        writing.run(Statement("INSERT INTO comity.begun VALUES ('default', 'd', 0, '{}')"))
        with suppress(psycopg.Error):
            writing.run(Statement("SELECT 1 / 0"))
    assert book._transactions.read(None, "SELECT 1 FROM comity.begun") == []


def test_a_large_change_is_sent_as_it_is_made(book: PostgresStore) -> None:
    """The server would end a transaction that stands still until a million rows are made."""
    statements = _rules(repeat(("of", "a", "version")), 1)
    numbers, *columns = next(statements).values
    assert numbers == list(range(1, len(columns[0]) + 1))
    following, *_ = next(statements).values
    assert following[0] == numbers[-1] + 1
    many = [Rule(id=f"{n}", text="x") for n in range(10_001)]
    assert book.commit(change(*many)) == 1
    assert book.rows_of(1) == list(range(1, 10_002))


def test_a_lost_change_is_not_taken_for_another_of_the_same_number_and_time(
    open_store: Open, sql: Sql
) -> None:
    book, other = open_store(), open_store()
    commit = book._transactions._commit

    def lost_and_overtaken(writing: Writing, transaction: str) -> None:
        ((pid,),) = writing.rows("SELECT pg_backend_pid()")
        sql("SELECT pg_terminate_backend(%s, 5000)", pid)
        assert other.commit(change(Rule(id="other", text="x"))) == 1
        commit(writing, transaction)

    book._transactions._commit = lost_and_overtaken  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="cannot be reached"):
        book.commit(change(Rule(id="mine", text="x")))
    assert [stored.rule.id for stored in other.rows_after(0)] == ["other"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_chain_does_not_fork_where_the_server_has_transactions_see_one_moment(
    open_store: Open, sql: Sql, database: str, level: str
) -> None:
    sql(f"ALTER DATABASE {database} SET default_transaction_isolation = '{level}'")
    one, two = open_store(), open_store()
    waits = threading.Event()

    def sealed(name: str, last: str) -> Sealed:
        waits.wait(0.5 if name == "first" else 0)
        return whole(decision(name, last))

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.append_decision, "default", partial(sealed, "first"))
        threading.Event().wait(0.2)
        second = pool.submit(two.append_decision, "default", partial(sealed, "second"))
        assert second.result().previous_hash == first.result().hash
    with ThreadPoolExecutor(4) as pool:
        rules = [Rule(id=f"r{n}", text="x") for n in range(8)]
        made = pool.map(lambda rule: one.commit(change(rule)), rules)
        assert sorted(made) == list(range(1, 9))


def test_a_server_that_has_lost_revisions_is_refused(book: PostgresStore, sql: Sql) -> None:
    """As after a switch to a standby that had not received all."""
    book.commit(change(Rule(id="a", text="x")))
    book.commit(change(Rule(id="b", text="y")))
    sql("UPDATE comity.latest SET revision = 1")
    for ask in (book.revision, book.probe):
        with pytest.raises(StoreError, match=r"revision 1.*had 2.*start this again"):
            ask()


def test_every_loss_of_a_follower_is_told_once(
    book: PostgresStore, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    woken = threading.Semaphore(0)
    book.follow(woken.release)
    for lost in range(3):
        assert woken.acquire(timeout=30)
        told = [each for each in caplog.messages if "not followed for now" in each]
        assert len(told) == lost
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")


def test_crashes_of_the_server_lose_nothing_acknowledged_and_fork_no_chain(
    open_store: Open, postgres: Server
) -> None:
    """Two hosts write decisions of three tenants, and rules, while the server dies twice."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, over = random.Random(seed), threading.Event()
    books, reader = [open_store(), open_store()], open_store()
    decided, revisions, refused = set[str](), dict[str, int](), set[str]()

    def sealed(name: str, last: str) -> Sealed:
        return whole(decision(name, last, name[0]))

    def write(number: int) -> None:
        for n in count():
            if over.wait(0.005):
                return
            name = f"{'abc'[n % 3]}-{number}-{n}"
            try:
                books[number % 2].append_decision(name[0], partial(sealed, name))
                decided.add(name)
                revisions[name] = books[number % 2].commit(change(Rule(id=name, text="x")))
            except StoreError as error:
                refused.update(() if "not known" in str(error) else {name})

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, number) for number in range(4)]
        for _ in range(2):
            over.wait(chance.uniform(0.2, 0.5))
            postgres.stop(at_once=True)
            postgres.start()
        over.wait(0.2)
        over.set()
        for each in writing:
            each.result()
    chains = {tenant: list(reader.decisions(tenant)) for tenant in "abc"}
    for chain in chains.values():
        hashes = ["", *(each.hash for each in chain)]
        assert [each.previous_hash for each in chain] == hashes[:-1]
    found = {each.id for chain in chains.values() for each in chain}
    rules = {stored.rule.id: stored.revision for stored in reader.rows_after(0)}
    assert decided <= found
    assert refused.isdisjoint(rules)
    assert refused & found <= decided  # its rule was refused, not the decision
    assert revisions.items() <= rules.items()
    assert refused


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    """The server stands still, as that of a paused machine: it takes packets and never answers."""
    main = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    numbers = [(int(stat.split()[0]), int(stat.rpartition(")")[2].split()[1])) for stat in stats]
    stopped = [main, *(pid for pid, parent in numbers if parent == main)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_server_that_stands_still_is_given_up_and_used_again_once_it_goes_on(
    postgres: Server, open_store: Open
) -> None:
    book = open_store()
    book._connections.short_seconds = 1.0
    book.commit(change(Rule(id="a", text="x")))
    end = book.follow(lambda: None)
    with frozen(postgres):
        with pytest.raises(StoreError, match="cannot be reached: it has not answered for 1 second"):
            book.revision()
        with pytest.raises(StoreError, match="cannot be reached"):
            book.revision()
        end()
    assert book.revision() == 1


def test_a_connection_that_is_closed_already_is_given_up_like_any_other(
    postgres: Server, open_store: Open
) -> None:
    patience, connections = Patience("here"), open_store()._connections
    for closed_first in (True, False):
        connection = connections.connect()
        with (  # noqa: PT012
            pytest.raises(StoreError, match=r"here cannot be reached: .* for 0\.1 seconds"),
            patience.within(connection, 0.1),
        ):
            if closed_first:
                connection.close()
                time.sleep(1.2)
            connection.execute("SELECT pg_sleep(20)")
        connection.close()
    patience.close()
