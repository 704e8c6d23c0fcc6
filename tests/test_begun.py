"""An answer that leaves before its record can be made is noted first."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from comity import Aligner, Answer, Memory, Options, Rule, Scope
from comity.alignment.decisions import recover, verify
from comity.errors import MemoryDamaged, ModelError, StoreError
from comity.memory.entries import read_begun
from comity.models.scripted import ScriptedModel
from comity.records import Check, Decision, Reply, Request
from comity.serving.completions import Completions
from comity.serving.upstream import BackendModel
from comity.serving.wire import read_chat
from conftest import Clock

RULE = Rule(id="leash", text="Dogs on a leash in the park")
CHECKED = Rule(
    id="word", text="Never say dog", enforcement="block", check=Check(must_not_match="dog")
)


class Broken(ScriptedModel):
    """Fails before it has written anything."""

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        raise ModelError("no")
        yield ""


class Unwritable(Aligner):
    """Its book takes no note."""

    def note(self, decision: Decision) -> None:
        raise StoreError("the disk is full")


def waiting(memory: Memory, clock: Clock) -> list[Decision]:
    return memory.store.begun.left(clock.now + timedelta(seconds=1))


async def test_text_leaves_only_once_it_is_noted_and_the_record_takes_the_note_away(
    memory: Memory, clock: Clock
) -> None:
    memory.add(RULE)
    stream = Aligner(memory, ScriptedModel(["On a leash."])).stream("May dogs run?", Scope())
    assert isinstance(await anext(stream), str)
    [noted] = waiting(memory, clock)
    assert [ref.id for ref in noted.kept] == ["leash"]
    assert (noted.question, noted.answer, noted.prompt_sha256) == ("", "", "")
    rest = [piece async for piece in stream]
    assert isinstance(rest[-1], Answer)
    assert rest[-1].decision.id == noted.id
    assert waiting(memory, clock) == []


async def test_nothing_leaves_where_the_note_cannot_be_made(memory: Memory) -> None:
    memory.add(RULE)
    stream = Unwritable(memory, ScriptedModel(["On a leash."])).stream("May dogs run?", Scope())
    with pytest.raises(StoreError, match="disk is full"):
        await anext(stream)


async def test_an_answer_that_waits_for_its_checks_needs_no_note(
    memory: Memory, clock: Clock
) -> None:
    memory.add(CHECKED)
    stream = Unwritable(memory, ScriptedModel(["On a leash."])).stream("May I?", Scope())
    assert [piece async for piece in stream if isinstance(piece, str)] == ["On a leash."]
    observed = Unwritable(memory, ScriptedModel(["On."]), Options(release="observe"))
    with pytest.raises(StoreError):
        await anext(observed.stream("May I?", Scope()))


async def test_where_nothing_has_left_no_note_stays(memory: Memory, clock: Clock) -> None:
    memory.add(RULE)
    with pytest.raises(ModelError):
        await anext(Aligner(memory, Broken(["-"])).stream("May dogs run?", Scope()))
    assert waiting(memory, clock) == []
    assert list(memory.store.decisions("default")) == []


class CutCall:
    """Calls a tool, and is cut off."""

    name = "cut"

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        raise ModelError("asked for a stream")

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        call = {"index": 0, "id": "c", "function": {"name": "send", "arguments": "{}"}}
        yield {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
        raise ModelError("cut")


async def test_a_call_of_a_tool_that_left_alone_is_on_record(memory: Memory, clock: Clock) -> None:
    memory.add(RULE)
    backend = CutCall()
    aligner = Aligner(memory, BackendModel(backend, "any"))
    asked = {"model": "m", "messages": [{"role": "user", "content": "May dogs run?"}]}
    chat = read_chat(json.dumps(asked | {"stream": True}).encode(), {}, "default")
    chunks = Completions(aligner, backend, lambda _: None).chunks(chat)
    with pytest.raises(ModelError, match="cut"):
        [chunk async for chunk in chunks]
    [recorded] = memory.store.decisions("default")
    assert (recorded.finish_reason, recorded.answer) == ("broken_off", "")
    assert waiting(memory, clock) == []


class Unrecordable(Aligner):
    """Its book takes notes, and no record."""

    def record(self, decision: Decision) -> Decision:
        raise StoreError("the disk is full")


async def test_text_that_left_before_its_record_failed_stays_noted(
    memory: Memory, clock: Clock
) -> None:
    memory.add(RULE)
    stream = Unrecordable(memory, ScriptedModel(["On a leash."])).stream("May I?", Scope())
    with pytest.raises(StoreError):
        [piece async for piece in stream]
    assert len(waiting(memory, clock)) == 1


async def test_an_answer_of_a_killed_process_is_recorded_later_and_once(
    memory: Memory, clock: Clock
) -> None:
    memory.add(RULE)
    aligner = Aligner(memory, ScriptedModel(["On a leash."]))
    stream = aligner.stream("May dogs run?", Scope())
    await anext(stream)
    [recorded] = recover(memory, clock.now + timedelta(hours=1))
    assert (recorded.finish_reason, recorded.answer) == ("broken_off", "")
    assert [ref.id for ref in recorded.kept] == ["leash"]
    assert recover(memory, clock.now + timedelta(hours=1)) == []
    assert verify(memory.store.chain("default")) is None
    with pytest.raises(StoreError):  # a process that was thought dead: one record is enough
        [piece async for piece in stream]


def test_a_note_that_cannot_be_read_says_so() -> None:
    for record in ("{", "[]", '{"id": 1}'):
        with pytest.raises(MemoryDamaged, match="has begun cannot be read"):
            read_begun(record)
