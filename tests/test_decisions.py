"""Decision records: chained, found out when touched, and made again as they were."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity import Aligner, Memory, Rule, Scope
from comity.alignment.decisions import (
    Break,
    Link,
    append,
    follow,
    new_id,
    prompt_hash,
    replay,
    verify,
)
from comity.errors import MemoryDamaged, NotFound
from comity.memory.embed import HashEmbedder
from comity.memory.sealed import record_hash
from comity.models.scripted import ScriptedModel
from comity.records import Citation, Decision, Message, RuleRef
from conftest import Clock


def made(memory: Memory, question: str = "?", tenant: str = "default") -> Decision:
    return append(
        memory,
        Decision(
            id=new_id(),
            tenant=tenant,
            made_at=memory.clock(),
            revision=0,
            scope=Scope(tenant=tenant),
            question=question,
            timings={"search": 0.1234, "model": 1e-05},
            hits=(RuleRef(id="规则 1", version=1, score=0.1 + 0.2),),
        ),
    )


@pytest.fixture
def chain(memory: Memory) -> list[Decision]:
    for n in range(6):
        made(memory, f"question {n} “{{}}”\n ")
    return list(memory.store.decisions("default"))


def test_a_chain_that_nobody_touched_holds(chain: list[Decision]) -> None:
    assert verify(chain) is None
    assert verify([]) is None
    assert [decision.previous_hash for decision in chain[1:]] == [d.hash for d in chain[:-1]]


@given(at=st.integers(0, 5), data=st.data())
def test_an_edited_record_is_found(at: int, data: st.DataObject) -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder(8)) as memory:
        chain = [made(memory, f"question {n}") for n in range(6)]
    changes = {
        "question": "another",
        "revision": 9,
        "answer": "x",
        "model": "other",
        "tenant": "other",
        "previous_hash": "f" * 64,
        "kept": (RuleRef(id="a", version=1),),
        "citations": (Citation(id="a", version=1, label="[R1]", start=0, end=4, by="words"),),
        "unknown_marks": ("[R9]",),
        "timings": {},
        "hash": "0" * 64,
    }
    field = data.draw(st.sampled_from(sorted(changes)))
    chain[at] = chain[at].model_copy(update={field: changes[field]})
    found = verify(chain)
    assert found is not None
    assert found.decision == chain[at].id


def test_an_edited_record_with_a_new_hash_is_found_by_the_next(chain: list[Decision]) -> None:
    forged = chain[2].model_copy(update={"model": "forged"})
    chain[2] = forged.model_copy(update={"hash": record_hash(forged)})
    found = verify(chain)
    assert found is not None
    assert found.decision == chain[3].id


class LaterDecision(Decision):
    """A decision as a later version of Comity has it."""

    judged_by: str = "nobody"
    scores: tuple[float, ...] = ()


def test_records_still_verify_when_decisions_have_a_further_field(chain: list[Decision]) -> None:
    later = [LaterDecision.model_validate_json(each.model_dump_json()) for each in chain]
    assert verify(later) is None
    later[2] = later[2].model_copy(update={"judged_by": "somebody"})
    assert verify(later) is not None


def test_a_chain_verifies_after_it_was_written_as_json_and_read_back(
    chain: list[Decision],
) -> None:
    assert verify(Decision.model_validate_json(each.model_dump_json()) for each in chain) is None
    assert verify(Decision.model_validate(each.model_dump(mode="json")) for each in chain) is None


def test_a_record_that_cannot_be_read_is_where_the_chain_breaks(chain: list[Decision]) -> None:
    def read() -> Iterator[Decision]:
        yield from chain[:2]
        raise MemoryDamaged("row 3 cannot be read")

    sound = Link(chain[1].id, chain[1].hash)
    assert follow(read())[:3] == (2, sound, Break(3, "", "row 3 cannot be read"))
    assert verify(read()) == follow(read()).broken
    assert follow(chain)[:3] == (6, Link(chain[5].id, chain[5].hash), None)
    assert follow([])[:3] == (0, None, None)


def test_a_deleted_inserted_or_moved_record_is_found(chain: list[Decision]) -> None:
    for at in range(5):
        found = verify(chain[:at] + chain[at + 1 :])
        assert found is not None
        assert found.decision == chain[at + 1].id
    assert verify([*chain[:3], chain[1], *chain[3:]]) is not None
    chance = random.Random(3)
    for _ in range(20):
        shuffled = chance.sample(chain, len(chain))
        assert shuffled == chain or verify(shuffled) is not None


def test_each_tenant_has_a_chain_of_its_own(memory: Memory) -> None:
    for n in range(3):
        made(memory, f"mine {n}")
        made(memory, f"theirs {n}", "other")
    for tenant in ("default", "other"):
        decisions = list(memory.store.decisions(tenant))
        assert len(decisions) == 3
        assert verify(decisions) is None


def test_instances_that_record_at_once_do_not_fork_the_chain(
    open_memory: Callable[[], Memory],
) -> None:
    memories = [open_memory() for _ in range(3)]

    def record(memory: Memory) -> None:
        for n in range(20):
            made(memory, f"{n}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(record, memories * 2))
    decisions = list(memories[0].store.decisions("default"))
    assert len(decisions) == 120
    assert verify(decisions) is None


def test_a_chain_holds_when_the_memory_is_opened_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/rules.db"
    for _ in range(2):
        with Memory.open(url, embedder=HashEmbedder(8)) as memory:
            last = made(memory)
            assert memory.store.decision("default", last.id) == last
    with Memory.open(url, embedder=HashEmbedder(8)) as memory:
        assert verify(memory.store.decisions("default")) is None


def test_the_hash_of_a_prompt_depends_on_roles_and_order() -> None:
    one, two = Message(role="user", content="a"), Message(role="assistant", content="a")
    hashes = {prompt_hash(turns) for turns in ([one], [two], [one, two], [two, one], [])}
    assert len(hashes) == 5


RULES = [
    Rule(id="must", text="Say that you are a machine", mandatory=True),
    Rule(id="leash", text="Dogs on a leash in the park", overrides=("free",), authority="local"),
    Rule(id="free", text="Dogs may run free", authority="custom"),
    *(Rule(id=f"noise-{n}", text=f"Cats sleep {n}") for n in range(30)),
]


async def test_a_decision_made_again_is_the_same_after_many_changes(
    memory: Memory, clock: Clock
) -> None:
    memory.add(RULES)
    aligner = Aligner(memory, ScriptedModel(["Yes [R1]."]))
    decision = (await aligner.answer("May dogs run free in the park?")).decision
    assert [ref.id for ref in decision.overruled] == ["free"]
    for n in range(10):
        clock.advance(days=1)
        memory.amend("leash", {"text": f"Dogs on {n} leashes", "valid_from": "2020-01-01"})
        memory.add(Rule(id=f"new-{n}", text="Dogs in the park", mandatory=True))
    memory.add(Rule(id="law", text="x", authority="statute", overrides=("leash", "must")))
    memory.repeal("free", at=None)
    again = replay(memory, decision)
    assert again.same
    assert again.kept == decision.kept
    now = replay(memory, decision, as_of=memory.revision)
    assert not now.same
    assert "law" in {ref.id for ref in now.kept}
    stored = memory.store.decision("default", decision.id)
    assert replay(memory, stored).same


async def test_a_decision_asked_as_of_an_older_revision_is_made_again_as_of_it(
    memory: Memory, clock: Clock
) -> None:
    first = memory.add(RULES)
    memory.add(Rule(id="late", text="Dogs in the park", mandatory=True))
    aligner = Aligner(memory, ScriptedModel(["Yes."]))
    decision = (await aligner.answer("May dogs run?", Scope(as_of=first))).decision
    assert decision.revision == first
    assert "late" not in {ref.id for ref in decision.kept}
    assert replay(memory, decision).same


async def test_what_was_not_relevant_enough_does_not_come_in_when_nothing_has_changed(
    memory: Memory,
) -> None:
    near = [Rule(id=f"near{n}", text=f"Dogs bark at noon {n}.") for n in range(5)]
    memory.add([*near, *(Rule(id=f"far{n}", text=f"Bread and wine {n}.") for n in range(5))])
    aligner = Aligner(memory, ScriptedModel(["Yes."]))
    decision = (await aligner.answer("dogs bark at noon")).decision
    assert len(decision.hits) < 10
    relevance = aligner.options.relevance
    assert replay(memory, decision, as_of=memory.revision, relevance=relevance).same
    assert not replay(memory, decision, as_of=memory.revision).same


async def test_a_decision_with_a_forged_ruling_is_not_the_same(memory: Memory) -> None:
    memory.add(RULES)
    aligner = Aligner(memory, ScriptedModel(["Yes."]))
    decision = (await aligner.answer("May dogs run free in the park?")).decision
    for update in ({"kept": decision.kept[1:]}, {"overruled": ()}):
        assert not replay(memory, decision.model_copy(update=update)).same


async def test_rules_that_came_later_are_found_when_the_question_is_asked_again(
    memory: Memory, clock: Clock
) -> None:
    memory.add(Rule(id="old", text="Dogs on a leash in the park"))
    decision = (await Aligner(memory, ScriptedModel(["Yes."])).answer("Dogs in the park?")).decision
    memory.add([Rule(id=f"new-{n}", text="Cats sleep in the park") for n in range(3)])
    memory.amend("old", {"text": "Dogs on a leash", "valid_from": "2020-01-01"})
    again = replay(memory, decision, as_of=memory.revision)
    assert not again.same
    assert {ref.id for ref in again.came} == {"old", "new-0", "new-1", "new-2"}
    assert [(ref.id, ref.version) for ref in again.went] == [("old", 1)]
    assert len(replay(memory, decision, as_of=memory.revision, hits=2).kept) == 2
    own = replay(memory, decision)
    assert (own.same, own.came, own.went) == (True, (), ())


async def test_a_revision_that_is_not_there_cannot_be_replayed(memory: Memory) -> None:
    memory.add(RULES)
    decision = (await Aligner(memory, ScriptedModel(["Yes."])).answer("Dogs?")).decision
    with pytest.raises(NotFound, match="no revision 9"):
        replay(memory, decision, as_of=9)
