"""Rewriting, withholding, and what is recorded of it: the whole way with a scripted model."""

from __future__ import annotations

import pytest

from comity import Aligner, Answer, Memory, Options, Rule
from comity.alignment.decisions import verify
from comity.cli.decisions import remarks
from comity.errors import ModelError
from comity.models.scripted import ScriptedModel
from comity.records import Check, Enforcement, Request


def doses(enforcement: Enforcement) -> Rule:
    return Rule(
        id="doses",
        title="Chat Policy",
        article="Section 2",
        text="No doses are named.",
        mandatory=True,
        enforcement=enforcement,
        check=Check(must_not_match=r"\d+ mg"),
    )


CALL = Rule(
    id="call",
    text="The number of the line is named.",
    mandatory=True,
    enforcement="revise",
    check=Check(must_match="0800"),
)


async def ask(memory: Memory, model: ScriptedModel, **options: object) -> Answer:
    aligner = Aligner(memory, model, Options.model_validate(options))
    return await aligner.answer("How much of it?")


async def test_an_answer_that_keeps_the_rules_is_released_as_it_is(memory: Memory) -> None:
    memory.add([doses("block")])
    answer = await ask(memory, ScriptedModel(["Ask a doctor."]))
    assert answer.text == "Ask a doctor."
    assert [finding.outcome for finding in answer.decision.findings] == ["passed"]
    assert (answer.decision.attempts, answer.decision.withheld) == ((), False)
    assert answer.decision.release == "strict"


async def test_a_breach_of_a_blocking_rule_is_withheld_and_the_refusal_names_it(
    memory: Memory,
) -> None:
    memory.add([doses("block")])
    model = ScriptedModel(["Take 20 mg."])
    answer = await ask(memory, model)
    assert "20 mg" not in answer.text
    assert "Chat Policy Section 2" in answer.text
    assert len(model.requests) == 1
    decision = answer.decision
    assert (decision.withheld, decision.finish_reason) == (True, "content_filter")
    assert decision.answer == answer.text
    assert [attempt.text for attempt in decision.attempts] == ["Take 20 mg."]
    assert verify(memory.store.decisions("default")) is None


async def test_a_breach_of_a_revising_rule_goes_back_to_the_model_with_the_critique(
    memory: Memory,
) -> None:
    memory.add([doses("revise")])
    model = ScriptedModel(["Take 20 mg.", "Ask a doctor."])
    answer = await ask(memory, model)
    assert answer.text == "Ask a doctor."
    told = model.requests[1].messages
    assert told[-2].content == "Take 20 mg."
    assert "No doses are named. (it says '20 mg')" in told[-1].content
    assert [a.text for a in answer.decision.attempts] == ["Take 20 mg.", "Ask a doctor."]
    assert [f.outcome for f in answer.decision.findings] == ["passed"]
    once = model.requests[0]
    assert model.requests[1].messages[: len(once.messages)] == once.messages
    spent = answer.decision.usage.completion_tokens
    assert spent == sum(model.count_tokens(a.text) for a in answer.decision.attempts)


async def test_rewriting_ends_after_the_rounds_and_the_best_version_is_kept(
    memory: Memory,
) -> None:
    memory.add([doses("revise"), CALL])
    model = ScriptedModel(["Take 20 mg.", "Take 20 mg, or call 0800.", "Take 5 mg."])
    answer = await ask(memory, model, rounds=2)
    assert len(model.requests) == 3
    assert answer.text == "Take 20 mg, or call 0800."
    assert {f.rule: f.outcome for f in answer.decision.findings} == {
        "doses": "violated",
        "call": "passed",
    }
    assert not answer.decision.withheld


async def test_a_rewritten_answer_that_breaks_a_blocking_rule_is_not_the_best(
    memory: Memory,
) -> None:
    memory.add([doses("block"), CALL])
    answer = await ask(memory, ScriptedModel(["Ask a doctor.", "20 mg; call 0800."]))
    assert answer.text == "Ask a doctor."
    assert not answer.decision.withheld


async def test_a_model_that_fails_while_it_rewrites_leaves_no_answer(memory: Memory) -> None:
    memory.add([doses("revise")])

    def once(request: Request) -> str:
        if len(request.messages) > 2:
            raise ModelError("gone")
        return "Take 20 mg."

    with pytest.raises(ModelError, match="gone"):
        await ask(memory, ScriptedModel(once))
    assert list(memory.store.decisions("default")) == []


async def test_strict_streams_nothing_before_the_decision_is_recorded(memory: Memory) -> None:
    memory.add([doses("block")])
    recorded: list[int] = []
    pieces: list[str] = []
    async for piece in Aligner(memory, ScriptedModel(["Ask a doctor."])).stream("How much?"):
        recorded.append(len(list(memory.store.decisions("default"))))
        if isinstance(piece, str):
            pieces.append(piece)
    assert "".join(pieces) == "Ask a doctor."
    assert set(recorded) == {1}


async def test_a_window_stops_at_the_breach_and_says_why(memory: Memory) -> None:
    memory.add([doses("block"), CALL])
    model = ScriptedModel(["Call 0800. Take 20 mg. And so on."])
    pieces: list[str] = []
    async for piece in Aligner(memory, model, Options(release="window")).stream("How much?"):
        if isinstance(piece, Answer):
            answer = piece
        else:
            pieces.append(piece)
    assert "".join(pieces) == answer.text
    assert answer.text.startswith("Call 0800.\n\n")
    assert "Chat Policy Section 2" in answer.text
    assert answer.decision.finish_reason == "content_filter"
    outcomes = {f.rule: f.outcome for f in answer.decision.findings}
    assert outcomes == {"doses": "violated", "call": "not_checked"}
    assert not answer.decision.disclosed


async def test_observing_lets_a_breach_go_and_records_it_as_disclosed(memory: Memory) -> None:
    memory.add([doses("block")])
    answer = await ask(memory, ScriptedModel(["Take 20 mg."]), release="observe")
    assert answer.text == "Take 20 mg."
    assert (answer.decision.disclosed, answer.decision.withheld) == (True, False)
    assert answer.decision.release == "observe"


@pytest.mark.parametrize("release", ["strict", "window", "observe"])
@pytest.mark.parametrize("text", ["Fine. 0800", "Fine.", "Bad 1 mg. 0800", "Fine. Bad 1 mg 0800"])
async def test_a_plain_answer_and_a_stream_get_the_same_verdict(
    memory: Memory, release: str, text: str
) -> None:
    memory.add([doses("block"), CALL])
    seen = set()
    for piece in (1, 3, 100):
        model = ScriptedModel([text], piece=piece)
        options = Options.model_validate({"release": release, "rounds": 0})
        streamed = [item async for item in Aligner(memory, model, options).stream("How much?")]
        last = streamed[-1]
        assert isinstance(last, Answer)
        assert "".join(item for item in streamed if isinstance(item, str)) == last.text
        seen.add((last.text, last.decision.findings, last.decision.withheld))
    assert len(seen) == 1


async def test_the_judge_decides_what_code_cannot(memory: Memory) -> None:
    memory.add([Rule(id="kind", text="Be kind.", mandatory=True, enforcement="block")])
    said = '{"C1": {"critique": "It is rude.", "quotation": "Go away", "verdict": "violated"}}'
    judge = ScriptedModel([said], name="judge")
    answer = await Aligner(memory, ScriptedModel(["Go away."]), judge=judge).answer("Hello?")
    assert answer.decision.withheld
    (finding,) = answer.decision.findings
    assert (finding.by, finding.critique) == ("judge", "It is rude.")


@pytest.mark.parametrize("release", ["strict", "window", "observe"])
async def test_what_left_before_a_model_broke_off_is_recorded(memory: Memory, release: str) -> None:
    memory.add([doses("block")])
    model = ScriptedModel(["Ask a doctor. And then some more."], cut_after=3)
    options = Options.model_validate({"release": release})
    pieces: list[str] = []

    async def read() -> None:
        async for piece in Aligner(memory, model, options).stream("How much?"):
            assert isinstance(piece, str)
            pieces.append(piece)

    with pytest.raises(ModelError, match="cut"):
        await read()
    kept = list(memory.store.decisions("default"))
    assert [decision.answer for decision in kept] == (["".join(pieces)] if pieces else [])
    assert bool(pieces) == (release != "strict")
    for decision in kept:
        assert decision.finish_reason == "broken_off"
        assert [f.outcome for f in decision.findings] == ["not_checked"]


async def test_what_left_before_a_reader_went_is_recorded(memory: Memory) -> None:
    stream = Aligner(memory_with_rule(memory), ScriptedModel(["One. Two. Three."])).stream("So?")
    first = await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator
    (decision,) = memory.store.decisions("default")
    assert (decision.answer, decision.finish_reason) == (first, "broken_off")


def memory_with_rule(memory: Memory) -> Memory:
    memory.add([Rule(id="kind", text="Be kind.")])
    return memory


async def test_a_window_stopped_by_a_revising_rule_names_it_as_well(memory: Memory) -> None:
    memory.add([doses("revise")])
    answer = await ask(memory, ScriptedModel(["Fine. Take 20 mg."]), release="window")
    assert answer.decision.withheld
    assert "Chat Policy Section 2" in answer.text
    (remark,) = remarks(answer.decision)
    assert remark == "the answer was withheld, for it broke doses@1"
