"""What is written to Milvus and asked of it, without a server: entries, filters, addresses."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import MissingExtra, SettingsError, StoreError
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.memory.milvus_collection import CollectionGone, CollectionReleased, told
from comity.memory.milvus_entries import (
    MOST_BYTES,
    Held,
    Mark,
    asked,
    held,
    label_entry,
    mark_entry,
    mark_of,
    row_of,
    rule_entry,
    token,
    tokens,
    undone,
)
from comity.memory.milvus_scope import (
    MilvusScope,
    admitted,
    among,
    declaring,
    digest_of,
    labels_of,
)
from comity.memory.milvus_server import Address, address_of
from comity.memory.scope import ScopeTable
from comity.memory.store import StoredRule
from comity.memory.words import words
from comity.records import Rule, Scope

NOON = datetime(2030, 6, 1, 12, tzinfo=UTC)
VECTOR = np.array([1.0, 0.0], np.float32)
DAYS = st.none() | st.integers(0, 9)


def day(number: int | None) -> datetime | None:
    return None if number is None else NOON + timedelta(days=number)


@st.composite
def histories(draw: st.DrawFn) -> list[StoredRule]:
    """Versions of some rules, in the order of their rows, several to a revision."""
    stored: list[StoredRule] = []
    versions: dict[str, int] = {}
    revision = 1
    for row in range(1, draw(st.integers(1, 12)) + 1):
        name = draw(st.sampled_from("abc"))
        versions[name] = versions.get(name, 0) + 1
        begins, ends = draw(DAYS), draw(DAYS)
        if begins is not None and ends is not None and ends <= begins:
            ends = None
        rule = Rule(
            id=name,
            text="x",
            version=versions[name],
            status=draw(st.sampled_from(("active", "active", "active", "draft", "repealed"))),
            valid_from=day(begins),
            valid_to=day(ends),
            place=draw(st.sampled_from(("world", "CN", "CN-HN"))),
            audience=draw(st.sampled_from(((), ("Doctors",), ("nurses", "doctors")))),
        )
        stored.append(StoredRule(row=row, revision=revision, rule=rule))
        revision += draw(st.integers(0, 1))
    return stored


def applies(entry: dict[str, object], scope: MilvusScope) -> bool:
    """What the filter says, worked out here."""
    where = bytes.fromhex(str(entry["place"])) in scope.places
    labels = entry["labels"]
    assert isinstance(labels, list)
    whom = entry["everybody"] or {label.hex() for label in scope.labels} & set(labels)
    known = int(str(entry["known_from"])) <= scope.known < int(str(entry["known_to"]))
    in_force = int(str(entry["starts"])) <= scope.at < int(str(entry["ended"]))
    ours = entry["tenant"] == scope.tenant.hex()
    return bool(ours and where and whom and known and in_force)


@settings(max_examples=60)
@given(
    histories(),
    st.integers(-1, 10),
    st.none() | st.integers(0, 12),
    st.sampled_from(((), ("CN",), ("CN-HN",), ("XA",))),
    st.sampled_from(((), ("DOCTORS",), ("nobody",))),
)
def test_entries_admit_the_rows_that_the_table_of_the_local_index_admits(
    history: list[StoredRule],
    on: int,
    as_of: int | None,
    place: tuple[str, ...],
    audience: tuple[str, ...],
) -> None:
    table, entries = ScopeTable(), []
    by_rule: dict[str, list[StoredRule]] = {}
    for stored in history:
        earlier = by_rule.setdefault(stored.rule.id, [])
        table.append(stored, [old.row for old in earlier])
        earlier.append(stored)
    for versions in by_rule.values():
        entries += [rule_entry(version, VECTOR) for version in held(versions)]
    assert len({entry["id"] for entry in entries}) == len(entries)
    moment = NOON + timedelta(days=on)
    scope = Scope(at=moment, as_of=as_of, place=place, audience=audience)
    wanted = table.mask(scope).rows.nonzero()[0] + 1
    ours = admitted(scope, history[-1].revision)
    found = sorted(row_of(entry["id"]) for entry in entries if applies(entry, ours))
    assert found == wanted.tolist()


@settings(max_examples=40)
@given(histories(), st.data())
def test_what_was_written_before_a_change_stays_right_for_the_revisions_before_it(
    history: list[StoredRule], data: st.DataObject
) -> None:
    """Entries are only ever ended by a later revision, never changed otherwise."""
    name = data.draw(st.sampled_from(sorted({stored.rule.id for stored in history})))
    versions = [stored for stored in history if stored.rule.id == name]
    done = data.draw(st.integers(0, history[-1].revision))
    before = {v.id: v for v in held([s for s in versions if s.revision <= done])}
    after = {v.id: v for v in held(versions)}
    for number, version in before.items():
        if number in after:
            assert after[number]._replace(known_to=version.known_to) == version
            assert after[number].known_to > done or after[number] == version
    added = {number: v for number, v in after.items() if number not in before}
    assert all(version.known_from > done for version in added.values())


@settings(max_examples=60)
@given(histories(), st.sets(st.integers(1, 11)))
def test_in_whatever_batches_rows_are_written_the_same_stands_there(
    history: list[StoredRule], cuts: set[int]
) -> None:
    versions = [stored for stored in history if stored.rule.id == history[0].rule.id]
    borders = [1, *sorted(cut + 1 for cut in cuts if cut < len(history)), len(history) + 1]
    written: dict[int, Held] = {}
    for first, end in pairwise(borders):
        known = [stored for stored in versions if stored.row < end]
        written |= {version.id: version for version in (*held(known), *undone(known, first))}
    found = {number: v for number, v in written.items() if v.known_from < v.known_to}
    assert found == {version.id: version for version in held(versions)}


HOSTILE = st.text() | st.sampled_from(
    (
        '" or tenant != "',
        "') or 1 == 1 or ('",
        "\\",
        "a\x00b",
        "{tenant}",
        'x"] or id > 0 or place in ["y',
        "true or true",
        "𝒳 你好",
    )
)
DIGEST = '"[0-9a-f]{32}"'
LIST = rf"\[{DIGEST}(, {DIGEST})*\]"
EXPRESSION = re.compile(
    rf"tenant == {DIGEST} and place in {LIST} and "
    rf"(everybody == true|\(everybody == true or array_contains_any\(labels, {LIST}\)\))"
    r" and known_from <= \d+ and known_to > \d+ and starts <= -?\d+ and ended > -?\d+"
)


@given(HOSTILE, st.lists(HOSTILE), st.lists(HOSTILE))
def test_no_word_of_a_caller_gets_into_a_filter(
    tenant: str, places: Sequence[str], audiences: Sequence[str]
) -> None:
    scope = Scope.model_construct(
        tenant=tenant, place=tuple(places), audience=tuple(audiences), at=NOON, as_of=None
    )
    ours = admitted(scope, 7)
    assert EXPRESSION.fullmatch(ours.expression)
    assert re.fullmatch(rf"tenant == {DIGEST} and known_from == -2", labels_of(tenant))
    if audiences:
        assert re.fullmatch(rf"array_contains_any\(overrides, {LIST}\)", declaring(audiences))
    other = admitted(scope.model_copy(update={"tenant": f"{tenant}."}), 7)
    assert other.tenant != ours.tenant
    assert other.digest() != ours.digest()


def test_rows_in_a_filter_are_numbers() -> None:
    assert among([1, 2**40]) == "row in [1, 1099511627776]"
    with pytest.raises(ValueError, match="format code"):
        among(["1] or id > 0 or row in [1"])  # type: ignore[list-item]


@given(st.text())
def test_words_become_tokens_that_any_analyzer_keeps_whole(text: str) -> None:
    terms = words(text)
    assert all(re.fullmatch("[a-zA-Z0-9]+", token(term)) for term in terms)
    assert len({token(term) for term in terms}) == len(set(terms))
    assert sorted(asked(text).split()) == sorted({token(term) for term in terms})
    assert tokens(text).split() == ([token(term) for term in terms] or ["e"])


def test_a_text_that_is_too_long_for_milvus_is_cut_between_words() -> None:
    cut = tokens("养犬人应当登记" * 4_000)
    assert MOST_BYTES - 20 < len(cut) <= MOST_BYTES
    assert set(cut.split()) == set(tokens("养犬人应当登记" * 2).split())


def test_what_is_no_rule_is_admitted_by_no_scope() -> None:
    mark = Mark(7, 3, 'hash "3" 2030')
    aside = [mark_entry(mark, 2), label_entry("default", 'a "label"', 2)]
    assert mark_of(aside) == mark
    assert mark_of([]) == Mark()
    assert aside[1]["note"] == 'a "label"'
    assert all(entry["id"] < 0 for entry in aside)
    for scope in (Scope(), Scope(as_of=0), Scope(tenant="x", place=("",))):
        assert not any(applies(entry, admitted(scope, 9)) for entry in aside)


def test_labels_of_two_tenants_do_not_share_an_entry() -> None:
    numbers = {label_entry(tenant, "x", 2)["id"] for tenant in ("a", "b", "a x")}
    assert len(numbers) == 3


def test_more_than_milvus_holds_is_told_with_the_rule() -> None:
    rule = Rule(id="crowd", text="x", audience=tuple(f"label {n}" for n in range(4_097)))
    [version] = held([StoredRule(row=1, revision=1, rule=rule)])
    with pytest.raises(StoreError, match=r"'crowd': audience has 4097"):
        rule_entry(version, VECTOR)
    [late] = held([StoredRule(row=2**32, revision=1, rule=Rule(id="a", text="x"))])
    with pytest.raises(StoreError, match="4 billion"):
        rule_entry(late, VECTOR)


def test_an_address_names_server_database_collection_and_index() -> None:
    assert address_of("milvus:http://host:19530") == Address("http://host:19530")
    full = "milvus:https://host/laws?collection=rules&vectors=HNSW&M=16&ef=128"
    assert address_of(full) == Address(
        "https://host", "laws", "rules", "HNSW", (("M", 16),), (("ef", 128),)
    )


@pytest.mark.parametrize(
    "index",
    [
        "milvus:",
        "milvus:host:19530",
        "milvus:ftp://h",
        "milvus:http://h:port",
        "milvus:http://h:99999",
        "milvus:http://[::1",
        "milvus:http://user:token@host:19530",
        "milvus:http://h?collection=a-b",
        "milvus:http://h/a/b",
        "milvus:http://h?M=1;drop",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(index: str) -> None:
    with pytest.raises(SettingsError, match="milvus") as refused:
        address_of(index)
    assert "token@" not in str(refused.value)


def test_names_that_differ_in_case_are_one_audience_and_two_tenants() -> None:
    small, large = (admitted(Scope(tenant="a", audience=(x,)), 0) for x in ("doctors", "DOCTORS"))
    assert small.labels == large.labels
    assert digest_of("a") != digest_of("A")


def test_the_pages_calculation_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "milvus.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(example, "milvus.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^# (.*)$", example, re.M) != []


@pytest.mark.parametrize(
    ("code", "message", "kind", "said"),
    [
        (100, "can't find collection", CollectionGone, "was dropped"),
        (101, "collection not loaded", CollectionReleased, "is not loaded"),
        (4, "too many concurrent requests", StoreError, "too many concurrent requests"),
        (65535, "auth check failure, please check api key", StoreError, "COMITY_INDEX_TOKEN"),
        (2, "fail connecting to auth.example:19530", StoreError, "see that the server runs"),
    ],
)
def test_an_error_of_the_server_says_what_to_do(
    code: int, message: str, kind: type[StoreError], said: str
) -> None:
    exceptions = pytest.importorskip("pymilvus.exceptions", reason="needs the extra milvus")
    with pytest.raises(StoreError, match=said) as caught, told("the index x"):
        raise exceptions.MilvusException(code, message)
    assert type(caught.value) is kind


def test_a_missing_package_is_told_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    url, index = f"sqlite:///{tmp_path}/rules.db", "milvus:http://127.0.0.1:1"
    with pytest.raises(MissingExtra, match=r"pip install 'comity\[milvus\]'"):
        Memory.open(url, embedder=HashEmbedder(8), index=index)


def test_the_page_lets_a_server_without_users_listen_on_this_machine_alone() -> None:
    page = (Path(__file__).parents[1] / "docs" / "milvus.md").read_text(encoding="utf-8")
    started = [line for line in page.splitlines() if line.startswith("milvus-lite server")]
    assert started
    assert all("--host 127.0.0.1" in line for line in started)
