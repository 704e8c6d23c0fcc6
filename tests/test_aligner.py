"""The whole way, from a question to a recorded answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from comity import Aligner, Answer, Memory, Message, Options, Rule, Scope
from comity.alignment.aligner import as_conversation
from comity.alignment.decisions import prompt_hash, verify
from comity.errors import (
    ModelError,
    ModelNonsense,
    ModelTimeout,
    NotFound,
    StoreError,
    UnknownPlace,
)
from comity.models.scripted import ScriptedModel
from comity.records import Decision, Reply, Request
from conftest import Clock

SHANGHAI = Scope(place="CN-SH")
RULES = [
    Rule(id="leash", text="Dogs on a leash in the park", place="CN-SH", authority="local"),
    Rule(id="free", text="Dogs may run free", overrides=("leash",), authority="custom"),
    Rule(id="must", text="Be polite", mandatory=True, authority="statute"),
    Rule(id="check", text="Never name a price", enforcement="block"),
    Rule(id="far", text="Dogs on a leash in the park", place="US"),
]


def decisions(memory: Memory) -> list[Decision]:
    return list(memory.store.decisions("default"))


async def test_an_answer_cites_its_rules_and_leaves_a_whole_record(
    memory: Memory, clock: Clock
) -> None:
    memory.add(RULES)
    model = ScriptedModel(["  On a leash [R2]. "], name="fake-1")
    answer = await Aligner(memory, model).answer("May dogs run free in the park?", SHANGHAI)
    assert answer.text == "  On a leash [R2]. "
    assert [citation.id for citation in answer.citations] == ["leash"]
    citation = answer.citations[0]
    assert answer.text[citation.start : citation.end] == "[R2]"
    decision = answer.decision
    assert decision == decisions(memory)[0]
    assert (decision.revision, decision.made_at, decision.model) == (1, clock.now, "fake-1")
    assert (decision.scope.place, decision.scope.at) == (("CN-SH",), clock.now)
    assert decision.question == "May dogs run free in the park?"
    assert {ref.id for ref in decision.hits} == {"leash", "free", "must", "check"}
    assert all(ref.score is not None for ref in decision.hits)
    assert [ref.id for ref in decision.kept] == ["must", "leash", "check"]
    [lost] = decision.overruled
    assert (lost.id, lost.winner, lost.reason) == ("free", "leash", "higher authority")
    assert decision.left_out == ()
    assert decision.prompt_sha256 == prompt_hash(model.requests[0].messages)
    assert decision.answer == answer.text
    assert decision.citations == answer.citations
    assert (citation.by, decision.unknown_marks) == ("mark", ())
    [finding] = decision.findings
    assert (finding.rule, finding.outcome) == ("check", "not_checked")
    assert set(decision.timings) == {"search", "compose", "model", "checks"}
    assert decision.usage.prompt_tokens > 0
    assert verify(decisions(memory)) is None


@pytest.mark.parametrize(
    ("text", "cited", "unknown"),
    [
        ("In the park, dogs go on a leash.", [("leash", "words")], ()),
        ("Dogs go on a leash in the park [R9].", [("leash", "words")], ("[R9]",)),
        ("Be polite [R1], as [R9] says.", [("must", "mark")], ("[R9]",)),
        ("I cannot tell, says [R9].", [], ("[R9]",)),
        ("Nobody knows what the weather brings.", [], ()),
    ],
)
async def test_citations_by_words_and_unknown_marks_are_on_record(
    memory: Memory, text: str, cited: list[tuple[str, str]], unknown: tuple[str, ...]
) -> None:
    memory.add(RULES)
    answer = await Aligner(memory, ScriptedModel([text])).answer("Dogs in the park?", SHANGHAI)
    assert [(each.id, each.by) for each in answer.citations] == cited
    assert answer.decision.unknown_marks == unknown
    assert decisions(memory) == [answer.decision]
    assert answer.decision.citations == answer.citations
    assert verify(decisions(memory)) is None


async def test_the_note_that_rules_may_be_missing_can_be_left_out(memory: Memory) -> None:
    memory.add(RULES)
    model = ScriptedModel(["Yes."])
    for options in (Options(), Options(incomplete_note=False)):
        await Aligner(memory, model, options).answer("Dogs?", SHANGHAI)
    told = ["may be incomplete" in request.messages[0].content for request in model.requests]
    assert told == [True, False]


async def test_a_stream_gives_the_text_and_then_the_answer(memory: Memory) -> None:
    memory.add(RULES)
    aligner = Aligner(memory, ScriptedModel(["On a leash [R2]."], piece=3))
    items = [item async for item in aligner.stream("Dogs in the park?", SHANGHAI)]
    last = items.pop()
    assert isinstance(last, Answer)
    assert len(items) == 6
    assert "".join(str(item) for item in items) == last.text == last.decision.answer
    assert len(decisions(memory)) == 1


async def test_an_amended_rule_is_in_the_very_next_prompt(memory: Memory, clock: Clock) -> None:
    memory.add(RULES)
    model = ScriptedModel(["Yes."])
    aligner = Aligner(memory, model)
    await aligner.answer("Dogs in the park?", SHANGHAI)
    clock.advance(seconds=1)
    memory.amend("leash", {"text": "Dogs on two leashes"})
    second = await aligner.answer("Dogs in the park?", SHANGHAI)
    prompts = [request.messages[0].content for request in model.requests]
    assert "Dogs on a leash in the park" in prompts[0]
    assert "Dogs on two leashes" not in prompts[0]
    assert "Dogs on two leashes" in prompts[1]
    assert "Dogs on a leash in the park" not in prompts[1]
    assert second.decision.revision == 2


async def test_two_places_and_two_dates_have_rules_of_their_own(memory: Memory) -> None:
    memory.add(RULES)
    memory.amend("leash", {"text": "Dogs stay at home", "valid_from": "2035-01-01"})
    model = ScriptedModel(["Yes."])
    aligner = Aligner(memory, model)
    for place, at in (("CN-SH", "2031-01-01"), ("CN-SH", "2036-01-01"), ("US", "2031-01-01")):
        await aligner.answer("Dogs?", Scope.model_validate({"place": place, "at": at}))
    kept = [{(ref.id, ref.version) for ref in decision.kept} for decision in decisions(memory)]
    assert ("leash", 1) in kept[0]
    assert ("leash", 2) in kept[1]
    assert ("far", 1) in kept[2]
    assert not {name for name, _ in kept[2]} & {"leash"}
    assert "2036-01-01" in model.requests[1].messages[0].content


async def test_a_place_in_the_question_is_enough(memory: Memory) -> None:
    memory.add(RULES)
    model = ScriptedModel(["可以 [R1]。"])
    answer = await Aligner(memory, model).answer("在上海可以遛狗吗？")
    assert answer.decision.scope.place == ("CN-SH",)
    assert "规则" in model.requests[0].messages[0].content


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_an_empty_answer_is_an_error_and_not_recorded(memory: Memory, text: str) -> None:
    memory.add(RULES)
    with pytest.raises(ModelNonsense, match="empty answer"):
        await Aligner(memory, ScriptedModel([text])).answer("Dogs?")
    assert decisions(memory) == []


async def test_a_model_that_fails_leaves_no_answer_and_no_record(memory: Memory) -> None:
    memory.add(RULES)
    late = ScriptedModel(["x"], error=ModelTimeout("too late"))
    with pytest.raises(ModelTimeout, match="too late"):
        await Aligner(memory, late).answer("Dogs?")
    cut = Aligner(memory, ScriptedModel(["On a leash [R2]."], piece=3, cut_after=2))
    with pytest.raises(ModelError, match="cut before its end"):
        await cut.answer("Dogs?")
    assert decisions(memory) == []


async def test_a_record_that_cannot_be_written_withholds_the_answer(memory: Memory) -> None:
    memory.add(RULES)

    def close(request: Request) -> str:
        memory.store.close()
        return "Yes."

    with pytest.raises(StoreError, match="cannot be used"):
        await Aligner(memory, ScriptedModel(close)).answer("Dogs?")


async def test_a_conversation_is_searched_by_its_last_questions(memory: Memory) -> None:
    memory.add([*RULES, Rule(id="zebra", text="Zebras graze at night")])
    model = ScriptedModel(["Yes."])
    turns = [
        Message(role="system", content="You are a shop assistant."),
        Message(role="user", content="Do zebras graze at night?"),
        Message(role="assistant", content="They do."),
        Message(role="user", content="在上海也是吗？"),
    ]
    answer = await Aligner(memory, model, Options(hits=1)).answer(turns)
    assert answer.decision.hits[0].id == "zebra"
    assert answer.decision.scope.place == ("CN-SH",)
    sent = model.requests[0].messages
    assert [turn.role for turn in sent] == ["system", "user", "assistant", "user"]
    assert "You are a shop assistant." in sent[0].content
    assert sent[1:] == tuple(turns[1:])


async def test_a_memory_without_rules_still_answers_on_record(memory: Memory) -> None:
    model = ScriptedModel(["I do not know [R1]."])
    answer = await Aligner(memory, model).answer("Dogs?")
    assert answer.citations == ()
    assert answer.decision.kept == ()
    assert answer.decision.revision == 0
    assert "No rule in force" in model.requests[0].messages[0].content


async def test_what_the_budget_leaves_out_is_recorded(memory: Memory) -> None:
    memory.add([*RULES, Rule(id="long", text="Dogs in the park " * 200)])
    aligner = Aligner(memory, ScriptedModel(["Yes."]), Options(budget=150))
    decision = (await aligner.answer("Dogs in the park", SHANGHAI)).decision
    assert "long" in {ref.id for ref in decision.left_out}
    assert "long" in {ref.id for ref in decision.kept}


async def test_bad_scopes_are_refused_before_the_model_is_asked(memory: Memory) -> None:
    memory.add(RULES)
    model = ScriptedModel(["Yes."])
    aligner = Aligner(memory, model)
    with pytest.raises(UnknownPlace):
        await aligner.answer("Dogs?", Scope(place="Atlantis"))
    with pytest.raises(NotFound):
        await aligner.answer("Dogs?", Scope(tenant="nobody"))
    assert model.requests == []


async def test_many_answers_at_once_are_all_recorded(memory: Memory) -> None:
    memory.add(RULES)
    aligner = Aligner(memory, ScriptedModel(lambda request: request.messages[-1].content))
    asked = [f"Dogs {n}?" for n in range(30)]
    answers = await asyncio.gather(*(aligner.answer(question) for question in asked))
    assert [answer.text for answer in answers] == asked
    assert {decision.answer for decision in decisions(memory)} == set(asked)
    assert verify(decisions(memory)) is None


class Silent:
    """A model that breaks the protocol: no reply at the end."""

    name = "silent"

    async def stream(self, request: Request):  # type: ignore[no-untyped-def]
        yield "Yes."

    def count_tokens(self, text: str) -> int:
        return len(text)


async def test_a_model_that_ends_without_a_reply_is_an_error(memory: Memory) -> None:
    with pytest.raises(ModelNonsense):
        await Aligner(memory, Silent()).answer("Dogs?")
    assert decisions(memory) == []


def test_a_conversation_needs_a_user() -> None:
    with pytest.raises(ValueError, match="user turn"):
        as_conversation([Message(role="system", content="x")])
    with pytest.raises(ValueError, match="user turn"):
        as_conversation([])
    assert as_conversation("x") == (Message(role="user", content="x"),)


async def test_the_pieces_joined_are_the_answer_with_its_blanks(memory: Memory) -> None:
    question = " Dogs?\n"
    aligner = Aligner(memory, ScriptedModel(["\n\n On a leash. \n"], piece=2))
    *pieces, last = [item async for item in aligner.stream(question)]
    assert isinstance(last, Answer)
    assert "".join(map(str, pieces)) == last.text == "\n\n On a leash. \n"
    [stored] = decisions(memory)
    assert (stored.answer, stored.question) == (last.text, question)
    assert verify([stored]) is None


class Cut(ScriptedModel):
    """Ends each answer for a reason of its own."""

    def __init__(self, finish_reason: str) -> None:
        super().__init__(["Dogs must"])
        self.finish_reason = finish_reason

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        async for item in super().stream(request):
            cut = {"finish_reason": self.finish_reason}
            yield item if isinstance(item, str) else item.model_copy(update=cut)


@pytest.mark.parametrize("finish_reason", ["stop", "length", "content_filter"])
async def test_why_an_answer_ended_is_on_record(memory: Memory, finish_reason: str) -> None:
    answer = await Aligner(memory, Cut(finish_reason)).answer("Dogs?")
    assert answer.decision.finish_reason == finish_reason
    assert decisions(memory) == [answer.decision]
    assert verify(decisions(memory)) is None


def turns(*asked: str) -> list[Message]:
    return [
        Message.model_validate({"role": role, "content": text})
        for question in asked
        for role, text in (("user", question), ("assistant", "They close at 22:00 in Rome."))
    ][:-1]


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        (("When do bars close in Shanghai?", "And in Beijing?"), ("CN-BJ",)),
        (("When do bars close in Shanghai?", "Why?", "Who says so?", "Since?"), ("CN-SH",)),
        (("When do bars close?", "In Shanghai or in Beijing?"), ("CN-SH", "CN-BJ")),
        (("When do bars close?", "Why?"), ("world",)),
    ],
)
async def test_the_newest_turn_that_names_a_place_decides_the_place(
    memory: Memory, asked: tuple[str, ...], places: tuple[str, ...]
) -> None:
    answer = await Aligner(memory, ScriptedModel(["At 22:00."])).answer(turns(*asked))
    assert answer.decision.scope.place == places


async def test_the_newest_turn_that_names_an_audience_decides_the_audience(memory: Memory) -> None:
    memory.add([Rule(id="a", text="x", audience=("nurse",)), *RULES])
    memory.add(Rule(id="b", text="x", audience=("driver",)))
    aligner = Aligner(memory, ScriptedModel(["Yes."]))
    asked = turns("As a nurse in Shanghai, may I?", "And a driver?", "In Beijing?")
    scope = (await aligner.answer(asked)).decision.scope
    assert (scope.place, scope.audience) == (("CN-BJ",), ("driver",))
    given = Scope(place="CN", audience=("nurse",))
    scope = (await aligner.answer(asked, given)).decision.scope
    assert (scope.place, scope.audience) == (("CN", "CN-BJ"), ("nurse",))


class SlowRecord(Aligner):
    """Its record waits until it is let go."""

    begun = threading.Event()
    go = threading.Event()

    def record(self, decision: Decision) -> Decision:
        self.begun.set()
        assert self.go.wait(10)
        return super().record(decision)


async def test_a_stream_that_ends_while_its_record_is_written_is_recorded_once(
    memory: Memory,
) -> None:
    memory.add(RULES[0])
    aligner = SlowRecord(memory, ScriptedModel(["On a leash."]))

    async def read() -> None:
        async for _ in aligner.stream("May dogs run free?", SHANGHAI):
            pass

    reading = asyncio.ensure_future(read())
    await asyncio.to_thread(aligner.begun.wait, 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    aligner.go.set()
    memory.recorders.shutdown()
    assert [decision.finish_reason for decision in decisions(memory)] == ["stop"]
