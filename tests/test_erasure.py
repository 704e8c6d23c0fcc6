"""Personal texts go for good, their records stay, and the chain of records still holds."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

from comity import Aligner, Memory, Rule
from comity.alignment.aligner import Options
from comity.alignment.decisions import affected, append, follow, new_id, replay
from comity.alignment.erasure import Wanted, chosen, erase, person_hash
from comity.errors import MemoryDamaged, NotFound
from comity.memory.embed import HashEmbedder
from comity.memory.sealed import (
    PERSONAL,
    PERSONAL_OF_ATTEMPT,
    PERSONAL_OF_FINDING,
    UNCHAINED,
    joined,
    parted,
    record_hash,
    whole,
)
from comity.models.scripted import ScriptedModel
from comity.records import (
    Attempt,
    Check,
    Citation,
    Decision,
    Finding,
    Message,
    Rewritten,
    RuleRef,
    Scope,
    SuspectedPair,
)
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway
from comity_command import Command
from conftest import Clock
from test_gateway import served

DOSES = Rule(
    id="doses",
    text="No doses are named.",
    mandatory=True,
    enforcement="revise",
    check=Check(must_not_match=r"\d+ mg"),
)
LEASH = Rule(id="leash", text="Dogs on a leash in the park")


def made(memory: Memory, question: str = "?", **fields: object) -> Decision:
    given = {
        "id": new_id(),
        "made_at": memory.clock(),
        "revision": memory.revision,
        "scope": Scope(),
        "question": question,
    }
    return append(memory, Decision.model_validate(given | fields))


def bytes_of(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


async def test_after_an_erasure_no_file_of_the_memory_holds_what_was_said(
    open_memory: Callable[[], Memory], tmp_path: Path
) -> None:
    memory, other = open_memory(), open_memory()
    memory.add([DOSES, LEASH])
    said = [
        "canary-first",
        "canary-reply 金丝雀甲",
        "Is 金丝雀乙 or canary-question in the park?",
    ]
    turns = [
        Message(role=role, content=text)
        for role, text in zip(("user", "assistant", "user"), said, strict=True)
    ]
    model = ScriptedModel(["canary-draft 77 mg 金丝雀丙", "canary-answer 金丝雀丁 [R9]."])
    answer = await Aligner(memory, model, Options(rounds=1)).answer(turns)
    kept = made(memory, "a question that stays")
    assert len(answer.decision.attempts) == 2
    canaries = [*(f"金丝雀{n}".encode() for n in "甲乙丙丁"), b"77 mg"]
    canaries += [f"canary-{n}".encode() for n in ("first", "reply", "question", "draft", "answer")]
    canaries.append(answer.decision.prompt_sha256.encode())
    before = bytes_of(tmp_path)
    assert all(canary in before for canary in canaries)
    done = erase(memory, "default", [answer.decision.id], by="ann", reason="asked to")
    assert done.decisions == (answer.decision.id,)
    after = bytes_of(tmp_path)
    assert [canary for canary in canaries if canary in after] == []
    assert b"a question that stays" in after
    assert other.store.decision("default", kept.id) == kept
    assert follow(other.store.chain("default")).broken is None


def test_texts_of_any_length_leave_no_copy_however_often_pages_were_shared(
    open_memory: Callable[[], Memory], tmp_path: Path
) -> None:
    memory, chance = open_memory(), random.Random(7)
    memory.add(LEASH)
    held: dict[str, str] = {}
    for n in range(150):
        canary = f"canary{n:04}x"
        made_now = made(memory, canary * chance.choice((1, 3, 20, 120, 400)))
        held[made_now.id] = canary
        if n % 25 == 24:
            gone = chance.sample(sorted(held), len(held) // 2)
            erase(memory, "default", gone, by="ann")
            found = bytes_of(tmp_path)
            assert [held[name] for name in gone if held[name].encode() in found] == []
            for name in gone:
                del held[name]
    found = bytes_of(tmp_path)
    assert all(canary.encode() in found for canary in held.values())
    assert follow(memory.store.chain("default")).broken is None


async def test_an_erased_decision_says_so_and_keeps_what_the_rules_did(
    memory: Memory, clock: Clock
) -> None:
    memory.add([DOSES, LEASH])
    model = ScriptedModel(["Dogs on a leash [R2]. 5 mg", "On a leash [R2]. [R9]"])
    decision = (await Aligner(memory, model).answer("Dogs in the park?")).decision
    when = clock.advance(days=3)
    erase(memory, "default", [decision.id], by="ann", reason="asked to")
    left = memory.store.decision("default", decision.id)
    assert left.erased_at == when
    assert (left.question, left.answer, left.prompt_sha256, left.salt) == ("", "", "", "")
    assert {(f.reason, f.quotation, f.critique) for f in left.findings} == {("", "", "")}
    assert [attempt.text for attempt in left.attempts] == ["", ""]
    assert [(f.rule, f.outcome) for f in left.findings] == [("doses", "passed"), ("", "violated")]
    for field in ("kept", "hits", "citations", "scope", "model", "commitment", "hash"):
        assert getattr(left, field) == getattr(decision, field)
    assert [each.part for each in affected([left], "leash")] == [("cited", "kept")]
    (entry,) = [e for e in memory.store.chain("default") if not isinstance(e, Decision)]
    assert (entry.by, entry.reason, entry.decisions) == ("ann", "asked to", (decision.id,))
    assert list(memory.store.decisions("default")) == [left]


async def test_an_erased_decision_is_replayed_at_its_own_revision_only(memory: Memory) -> None:
    memory.add([DOSES, LEASH])
    model = ScriptedModel(["Yes."])
    decision = (await Aligner(memory, model).answer("Dogs in the park?")).decision
    erase(memory, "default", [decision.id], by="ann")
    memory.amend("leash", {"text": "Dogs run free", "valid_from": "2020-01-01"})
    left = memory.store.decision("default", decision.id)
    assert replay(memory, left).same
    with pytest.raises(NotFound, match=r"was erased on 2030-06-01 .* own revision"):
        replay(memory, left, as_of=memory.revision)


FIELDS_THAT_STAY = {
    "id", "tenant", "made_at", "revision", "scope", "at_given", "hits", "kept", "overruled",
    "suspected", "left_out", "model", "finish_reason", "citations", "withheld", "disclosed",
    "release", "timings", "usage", "opened", "commitment", "previous_hash",
}  # fmt: skip


def test_of_every_field_it_is_said_whether_it_is_personal() -> None:
    """A new field is put into `PERSONAL` or here, and into docs/privacy.md."""
    parts = {"findings", "attempts"}
    assert set(Decision.model_fields) == FIELDS_THAT_STAY | set(PERSONAL) | UNCHAINED | parts
    assert set(Attempt.model_fields) == {"findings", "liked"} | set(PERSONAL_OF_ATTEMPT)
    stays = {"rule", "version", "outcome", "by", "enforcement", "judge"}
    assert set(Finding.model_fields) == stays | set(PERSONAL_OF_FINDING)
    assert set(RuleRef.model_fields) == {"id", "version", "score", "reason", "winner"}
    of_rules = {"title", "article", "valid_from", "valid_to", "label", "start", "end", "by"}
    assert set(Citation.model_fields) == {"id", "version", *of_rules}
    assert not {"text", "quotation", "critique"} & set(SuspectedPair.model_fields)


words = st.text(max_size=8)
findings = st.builds(
    Finding,
    rule=words,
    version=st.integers(0, 2),
    outcome=st.sampled_from(["passed", "violated", "failed"]),
    reason=words,
    critique=words,
    quotation=words,
)
decisions = st.builds(
    Decision,
    id=words,
    made_at=st.just("2030-01-01"),
    revision=st.integers(0, 9),
    scope=st.just(Scope()),
    question=words,
    turns=st.lists(words, max_size=2),
    answer=words,
    findings=st.lists(findings, max_size=3),
    attempts=st.lists(
        st.builds(
            Attempt,
            text=words,
            findings=st.lists(findings, max_size=2),
            liked=st.none() | st.floats(0, 1),
            critique=words,
        ),
        max_size=2,
    ),
    rewritten=st.none() | st.builds(Rewritten, queries=st.lists(words, max_size=2)),
    model=words,
)


@given(decisions)
def test_what_was_parted_is_joined_as_it_was(decision: Decision) -> None:
    data = decision.model_dump(mode="json", exclude_defaults=True)
    record, texts = parted(data)
    assert Decision.model_validate(joined(record, texts)) == decision
    left = Decision.model_validate(joined(record, {}))
    assert (left.question, left.answer, left.turns, left.rewritten) == ("", "", (), None)
    assert not any(attempt.text or attempt.critique for attempt in left.attempts)
    assert parted(left.model_dump(mode="json", exclude_defaults=True))[0] == record


@given(decisions)
def test_any_decision_holds_in_its_chain_with_and_without_its_texts(decision: Decision) -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder(8)) as memory:
        decision = decision.model_copy(update={"id": "d", "tenant": "default"})
        stored = append(memory, decision)
        assert memory.store.decision("default", "d") == stored
        assert follow(memory.store.chain("default")).broken is None
        erase(memory, "default", ["d"], by="ann")
        assert follow(memory.store.chain("default"))[0::2] == (2, None)


def test_a_short_text_cannot_be_guessed_from_what_is_chained(memory: Memory) -> None:
    one, two = made(memory, "yes"), made(memory, "yes")
    assert one.commitment != two.commitment
    assert len(one.salt) == 32
    erase(memory, "default", [one.id, two.id], by="ann")
    with memory.store._reading() as connection:  # type: ignore[attr-defined]
        everything = json.dumps(
            [
                str(row)
                for (table,) in connection.execute(
                    "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%STRICT'"
                ).fetchall()
                for row in connection.execute(f"SELECT * FROM {table}").fetchall()
            ]
        )
    for secret in ("yes", one.salt, two.salt, hashlib.sha256(b"yes").hexdigest()):
        assert secret not in everything
    assert one.commitment in everything


def tampered(file: Path, *statements: str) -> None:
    with apsw.Connection(str(file)) as book:
        for (name,) in book.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall():
            book.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            book.execute(statement)
    book.close()


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        (["DELETE FROM decision_text WHERE number = 2"], "no erasure of them is on record"),
        (
            ["DELETE FROM decision_text WHERE number = 2", "INSERT INTO erased VALUES (2, 2)"],
            "no erasure of them is on record",
        ),
        (["UPDATE decision_text SET texts = '{}' WHERE number = 2"], "texts were edited|edited"),
        (["UPDATE decision_text SET salt = 'x' WHERE number = 2"], "edited"),
    ],
)
def test_texts_that_went_or_changed_without_an_erasure_are_found(
    open_memory: Callable[[], Memory], tmp_path: Path, statements: list[str], problem: str
) -> None:
    memory = open_memory()
    chain = [made(memory, f"question {n}") for n in range(4)]
    erase(memory, "default", [chain[2].id], by="ann")
    assert follow(memory.store.chain("default")).broken is None
    tampered(tmp_path / "rules.db", *statements)
    found = follow(memory.store.chain("default"))
    assert found.sound == 1
    assert found.broken is not None
    assert (found.broken.number, found.broken.decision) == (2, chain[1].id)
    assert found.broken.problem
    if statements[0].startswith("DELETE"):
        assert problem in found.broken.problem
        with (
            pytest.raises(MemoryDamaged, match="without an erasure")
            if len(statements) == 1
            else pytest.raises(NotFound)
        ):
            erase(memory, "default", [chain[1].id, *(["?"] * (len(statements) - 1))], by="ann")


def test_no_program_erases_without_an_entry_or_brings_texts_back(
    open_memory: Callable[[], Memory], tmp_path: Path
) -> None:
    memory = open_memory()
    memory.add(LEASH)
    first, _ = made(memory, "gone"), made(memory, "stays")
    erase(memory, "default", [first.id], by="ann")
    with apsw.Connection(str(tmp_path / "rules.db")) as book:
        for statement in (
            "DELETE FROM decision_text",
            "UPDATE decision_text SET texts = ''",
            "INSERT OR REPLACE INTO decision_text SELECT * FROM decision_text",
            "INSERT INTO decision_text VALUES (1, 'default', NULL, 's', '{}')",
            "DELETE FROM erased",
            "UPDATE erased SET entry = 2",
            "UPDATE decision SET record = '{}'",
            "DELETE FROM decision",
        ):
            with pytest.raises(apsw.ConstraintError):
                book.execute(statement)
    book.close()


def test_a_record_of_the_first_form_is_erased_and_what_is_left_is_guarded(
    open_memory: Callable[[], Memory], tmp_path: Path
) -> None:
    memory = open_memory()
    chain: list[Decision] = []
    for n in range(3):
        old = Decision(
            id=f"d{n}",
            made_at=memory.clock(),
            revision=0,
            scope=Scope(),
            question=f"canary-old-{n}" * 300,
            findings=(Finding(rule="a", version=1, outcome="violated", reason="canary-old"),),
            kept=(RuleRef(id="a", version=1),),
            previous_hash=chain[-1].hash if chain else "",
        )
        chain.append(old.model_copy(update={"hash": record_hash(old)}))
        memory.store.append_decision("default", lambda _: whole(chain[-1]))
    new = made(memory, "new")
    assert follow(memory.store.chain("default")).broken is None
    erase(memory, "default", ["d0", "d1", "d2", new.id], by="ann")
    assert b"canary-old" not in bytes_of(tmp_path)
    assert follow(memory.store.chain("default"))[0::2] == (5, None)
    left = memory.store.decision("default", "d1")
    assert (left.question, left.hash, left.kept) == ("", chain[1].hash, chain[1].kept)
    assert left.erased_at
    tampered(
        tmp_path / "rules.db",
        "UPDATE decision SET record = replace(record, '\"version\":1', '\"version\":2') "
        "WHERE id = 'd1'",
    )
    found = follow(memory.store.chain("default"))
    assert (found.sound, found.broken and found.broken.decision) == (1, "d1")


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from comity import Memory
from comity.alignment.decisions import follow
from comity.alignment.erasure import erase
from comity.memory.embed import HashEmbedder

def apart(work):
    child = os.fork()
    if not child:
        with Memory.open(sys.argv[1], embedder=HashEmbedder(64)) as memory:
            work(memory)
        os._exit(0)
    return child

def erase_each(memory):
    for decision in memory.store.decisions("default"):
        if decision.erased_at is None:
            erase(memory, "default", [decision.id], by="ann")
            os.write(told, decision.id.encode() + b"\\n")

def check(memory):
    assert follow(memory.store.chain("default")).broken is None
    acknowledged = Path(sys.argv[2]).read_text().split()
    assert all(memory.store.decision("default", name).erased_at for name in acknowledged)
    for decision in memory.store.decisions("default"):
        assert bool(decision.question) == (decision.erased_at is None)

chance, killed = random.Random(5), 0
told = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for _ in range(20):
    enough = os.fstat(told).st_size + 23 * chance.randrange(5)
    child = apart(erase_each)
    while os.fstat(told).st_size < enough:
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, 0.006))
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert os.waitpid(apart(check), 0)[1] == 0
print(killed)
"""


def test_an_eraser_that_is_killed_leaves_each_decision_whole_or_erased_on_record(
    open_memory: Callable[[], Memory], tmp_path: Path
) -> None:
    memory, url = open_memory(), f"sqlite:///{tmp_path}/rules.db"
    memory.add(LEASH)
    canaries = {made(memory, f"canary{n:03}" * 50).id: f"canary{n:03}" for n in range(250)}
    arguments = [sys.executable, "-c", KILLER, url, str(tmp_path / "told")]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) == 20  # killed in the middle, all of them
    erase(memory, "default", list(canaries), by="ann")
    found = bytes_of(tmp_path)
    assert [canary for canary in canaries.values() if canary.encode() in found] == []


def test_an_unknown_decision_is_named_and_erasing_twice_is_harmless(memory: Memory) -> None:
    decision = made(memory, "gone")
    with pytest.raises(NotFound, match="d-unknown"):
        erase(memory, "default", ["d-unknown"], by="ann")
    assert memory.store.decision("default", decision.id).question == "gone"
    assert erase(memory, "default", [decision.id], by="ann").entries
    assert erase(memory, "default", [decision.id], by="ann") == ((), ())
    with pytest.raises(NotFound):
        erase(memory, "other", [decision.id], by="ann")


def test_decisions_are_chosen_by_words_user_and_time(memory: Memory, clock: Clock) -> None:
    lee = person_hash(memory, "default", "lee@example.org")
    assert lee != person_hash(memory, "other", "lee@example.org")
    first = made(memory, "My name is 李雷", person=lee)
    later = clock.advance(days=10)
    second = made(memory, "My NAME is Ann")
    assert chosen(memory, "default", Wanted(user="lee@example.org")) == (first.id,)
    assert chosen(memory, "default", Wanted(user="ann@example.org")) == ()
    assert chosen(memory, "default", Wanted(before=later)) == (first.id,)
    assert chosen(memory, "default", Wanted(question_contains="my name")) == (first.id, second.id)
    assert chosen(memory, "default", Wanted(question_contains="李雷")) == (first.id,)
    erase(memory, "default", [first.id], by="ann")
    assert memory.store.decision("default", first.id).person == ""
    for wanted in (Wanted(user="lee@example.org"), Wanted(before=later), Wanted(ids=(first.id,))):
        assert chosen(memory, "default", wanted) == ()
    for wrong in ({}, {"user": "a", "question_contains": "b"}):
        with pytest.raises(ValidationError, match="give one of"):
            Wanted.model_validate(wrong)


@pytest.fixture
def comity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    command = Command(tmp_path)
    (tmp_path / "rules.md").write_text("Article 1 Dogs on a leash.\n", encoding="utf-8")
    command.done("add", "rules.md", "--embedder", "hash")
    return command


def test_the_command_line_shows_what_it_would_erase_and_asks(
    comity: Command, tmp_path: Path
) -> None:
    ask = ("ask", "--embedder", "hash", "--model", "scripted")
    named = comity.json(*ask, "I am Quillimane: may dogs run?")["decision"]["id"]
    comity.done(*ask, "May cats run?")
    refused = comity("decisions", "erase", "--question-contains", "quillimane")
    assert refused.exit_code == 1
    assert "add --yes to do it" in refused.output
    assert "I am Quillimane" in refused.output
    assert b"Quillimane" in bytes_of(tmp_path)
    done = comity.json(
        "decisions", "erase", "--question-contains", "quillimane", "--yes", "--reason", "asked"
    )
    assert done["decisions"] == [named]
    assert b"Quillimane" not in bytes_of(tmp_path)
    assert "2 decisions and 1 erasure, and the chain holds" in comity.done("decisions", "verify")
    assert "(erased on " in comity.done("decisions", "show", named)
    assert "(erased on " in comity.done("decisions", "list")
    assert comity.json("decisions", "show", named)["erased_at"]
    assert comity("decisions", "erase").exit_code == 2
    assert comity("decisions", "erase", named, "--user", "x").exit_code == 2
    comity.done("decisions", "erase", "--before", "2999-01-01", "--yes")
    assert b"May cats run" not in bytes_of(tmp_path)


@pytest.fixture
def gateway() -> Iterator[tuple[str, Memory]]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(LEASH)
        memory.add(LEASH.model_copy(update={"tenant": "other"}))
        app = create_app(memory, Gateway(), models={"bot": ScriptedModel(["On a leash."] * 9)})
        with served(app) as url:
            yield url.removesuffix("/v1"), memory


def test_traces_and_metrics_hold_nothing_of_what_was_said() -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add([DOSES.model_copy(update={"enforcement": "block"}), LEASH])
        app = create_app(memory, Gateway(), models={"bot": ScriptedModel(["Canary 88 mg [R9]"])})
        app.state.telemetry.trace_with(provider)
        headers = {"authorization": f"Bearer {create_key(memory, 'default', 'client').secret}"}
        body = {"model": "bot", "messages": [{"role": "user", "content": "Canary?"}], "user": "Lee"}
        with served(app) as url:
            chat = f"{url}/chat/completions"
            assert httpx.post(chat, headers=headers, json=body).status_code == 400
            metrics = httpx.get(f"{url.removesuffix('/v1')}/metrics").text
    told = metrics + "".join(span.to_json() for span in spans.get_finished_spans())
    assert "doses@1" in told
    assert [word for word in ("Canary", "88 mg", "R9", "Lee") if word in told] == []


def post(
    url: str, memory: Memory, role: str, body: object, tenant: str = "default"
) -> httpx.Response:
    key = create_key(memory, tenant, role).secret  # type: ignore[arg-type]  # as given
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/decisions/erase", headers=headers, json=body)


def test_an_admin_erases_what_a_user_said_over_http(gateway: tuple[str, Memory]) -> None:
    url, memory = gateway
    headers = {"authorization": f"Bearer {create_key(memory, 'default', 'client').secret}"}
    for user in ("lee", "ann"):
        body = {
            "model": "bot",
            "messages": [{"role": "user", "content": f"I am {user}."}],
            "safety_identifier": user,
        }
        answered = httpx.post(f"{url}/v1/chat/completions", headers=headers, json=body)
        assert answered.status_code == 200
    lee, ann = memory.store.decisions("default")
    assert "lee" not in lee.person
    assert lee.person != ann.person
    for role in ("client", "editor", "approver", "auditor"):
        assert post(url, memory, role, {"user": "lee"}).status_code == 403
    assert post(url, memory, "admin", {"ids": [lee.id]}, tenant="other").status_code == 404
    assert post(url, memory, "admin", {"user": "lee"}, tenant="other").json()["decisions"] == []
    assert post(url, memory, "admin", {}).status_code == 422
    seen = post(url, memory, "admin", {"user": "lee", "preview": True}).json()
    assert seen == {"decisions": [lee.id], "entries": [], "preferences": 0}
    assert memory.store.decision("default", lee.id).question == "I am lee."
    done = post(url, memory, "admin", {"user": "lee", "reason": "asked to"}).json()
    assert done["decisions"] == [lee.id]
    assert memory.store.decision("default", lee.id).question == ""
    assert memory.store.decision("default", ann.id).question == "I am ann."
    assert follow(memory.store.chain("default")).broken is None
