"""The best of several answers: rules before wishes, mended by the model's own critique."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity import Aligner, Answer, Memory, Options, Rule
from comity.alignment.checks import Judge
from comity.alignment.decisions import verify
from comity.alignment.refine import Refined, Scored, drawn, refine, scorer, wish_of
from comity.cli.decisions import checks_told
from comity.errors import ModelError, ModelMissing, ModelNonsense
from comity.memory.embed import HashEmbedder
from comity.models.scripted import ScriptedModel
from comity.records import (
    Check,
    Finding,
    Message,
    MetaPrompt,
    Preference,
    Reply,
    Request,
    Usage,
    Weighed,
)
from comity_command import Command

ASKED = (Message(role="user", content="What do I do with a cold?"),)
BROKEN = Finding(rule="doses", version=1, outcome="violated", enforcement="revise", reason="20 mg")
BARRED = BROKEN.model_copy(update={"enforcement": "block"})
ONE = Usage(prompt_tokens=10, completion_tokens=2)


class Teller:
    """Gives the texts in their order, and keeps what it was asked."""

    def __init__(self, *texts: str | Exception) -> None:
        self._texts = list(texts)
        self.asked: list[tuple[tuple[Message, ...], int]] = []

    async def __call__(self, messages: tuple[Message, ...], number: int) -> Reply:
        self.asked.append((messages, number))
        text = self._texts.pop(0)
        if isinstance(text, Exception):
            raise text
        return Reply(text=text, model="teller", usage=ONE)


def scored(values: Mapping[str, Scored]) -> Callable[[str, str], asyncio.Future[Scored]]:
    async def score(text: str, first: str) -> Scored:
        return values[text]

    return score  # type: ignore[return-value]  # a coroutine function is as good


async def best(
    tell: Teller, values: Mapping[str, Scored], *, samples: int = 3, rounds: int = 0
) -> Refined:
    return await refine(
        tell, ASKED, scored(values), samples=samples, rounds=rounds, wish="Be brief."
    )


def liked(share: float) -> Scored:
    return Scored(liked=share)


async def test_the_best_liked_of_the_samples_is_taken_and_all_are_kept() -> None:
    tell = Teller("long", "brief", "so so")
    found = await best(tell, {"long": liked(0.5), "brief": liked(0.9), "so so": liked(0.6)})
    assert found.reply.text == "brief"
    assert [(one.text, one.liked) for one in found.attempts] == [
        ("long", 0.5),
        ("brief", 0.9),
        ("so so", 0.6),
    ]
    assert [number for _, number in tell.asked] == [0, 1, 2]
    assert found.failed == ""


async def test_an_answer_that_breaks_a_rule_loses_however_well_it_is_liked() -> None:
    values = {
        "kept": liked(0.5),
        "broken": Scored((BROKEN,), 0.99),
        "barred": Scored((BARRED,), 1.0),
    }
    assert (await best(Teller("broken", "kept", "barred"), values)).reply.text == "kept"
    assert (await best(Teller("barred", "broken", "barred"), values)).reply.text == "broken"


standings = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0, 1)), min_size=2, max_size=5
)


@given(standings)
def test_no_version_is_chosen_over_one_that_breaks_fewer_rules(
    drafts: list[tuple[int, int, float]],
) -> None:
    values = {
        f"v{number}": Scored((BARRED,) * bars + (BROKEN,) * breaks, share)
        for number, (bars, breaks, share) in enumerate(drafts)
    }
    found = asyncio.run(best(Teller(*values), values, samples=len(values)))
    ranked = {
        name: ([f.enforcement for f in told.findings].count("block"), len(told.findings))
        for name, told in values.items()
    }
    assert ranked[found.reply.text][0] == min(bars for bars, _ in ranked.values())
    chosen = drafts[int(found.reply.text[1:])]
    assert (chosen[0], chosen[1], -chosen[2]) == min((b, r, -share) for b, r, share in drafts)


async def test_of_equals_the_first_answer_stands() -> None:
    values = {"one": liked(0.5), "two": liked(0.5), "three": Scored()}
    assert (await best(Teller("one", "two", "three"), values)).reply.text == "one"


async def test_a_round_criticises_the_best_against_the_worst_and_writes_anew() -> None:
    tell = Teller("good", "bad", "Say it shorter.", "better", "other")
    values = {
        "good": liked(0.5),
        "bad": Scored((BROKEN,)),
        "better": liked(0.8),
        "other": liked(0.4),
    }
    found = await best(tell, values, samples=2, rounds=1)
    assert found.reply.text == "better"
    (compare, number), (mend, _), _ = tell.asked[2:]
    assert number == 0
    assert [turn.role for turn in compare] == ["user", "assistant", "user"]
    assert compare[1].content == "good"
    for part in ("| bad", "| Be brief.", "- 20 mg"):
        assert part in compare[2].content
    assert mend[1].content == "good"
    assert "| Say it shorter." in mend[2].content
    assert [one.critique for one in found.attempts] == ["", "", *["Say it shorter."] * 2]


async def test_the_usage_of_answers_critiques_and_votes_is_summed() -> None:
    tell = Teller("good", "bad", "Shorter.", "better", "better")
    voted = Scored(liked=0.2, usage=Usage(prompt_tokens=100, completion_tokens=1))
    values = {"good": liked(0.5), "bad": voted, "better": voted}
    found = await best(tell, values, samples=2, rounds=1)
    assert found.reply.usage == Usage(prompt_tokens=5 * 10 + 2 * 100, completion_tokens=5 * 2 + 2)


async def test_nothing_is_sampled_where_no_rule_is_broken_and_nothing_wished_for() -> None:
    tell = Teller("fine")
    found = await best(tell, {"fine": Scored()}, samples=5, rounds=2)
    assert (found.reply.text, len(tell.asked)) == ("fine", 1)


async def test_the_same_text_twice_is_scored_once_and_needs_no_critique() -> None:
    tell = Teller("same", "same", "same")
    found = await best(tell, {"same": liked(0.5)}, rounds=2)
    assert (len(found.attempts), len(tell.asked)) == (1, 3)
    assert found.reply.usage.completion_tokens == 6


async def test_a_model_that_fails_later_leaves_the_best_so_far_and_says_why() -> None:
    tell = Teller("one", ModelError("line lost"), "two", ModelError("gone"))
    found = await best(tell, {"one": liked(0.5), "two": liked(0.7)}, samples=3, rounds=2)
    assert found.reply.text == "two"
    assert found.failed == "line lost; gone"


@pytest.mark.parametrize("error", [ModelMissing("no model"), OSError("disk")])
async def test_what_is_no_passing_failure_of_the_model_is_raised(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        await best(Teller("one", error, "two"), {"one": liked(0.5), "two": liked(0.7)})


async def test_a_first_answer_that_fails_or_is_empty_is_an_error_as_ever() -> None:
    with pytest.raises(ModelError, match="line lost"):
        await best(Teller(ModelError("line lost")), {})
    with pytest.raises(ModelNonsense, match="empty answer"):
        await best(Teller(" "), {})


async def test_refinement_that_is_cancelled_stops_asking() -> None:
    started = asyncio.Event()
    open_calls = 0

    async def hang(messages: tuple[Message, ...], number: int) -> Reply:
        nonlocal open_calls
        if number == 0:
            return Reply(text="first")
        open_calls += 1
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            open_calls -= 1
        return Reply(text="late")

    values = {"first": liked(0.5)}
    task = asyncio.create_task(refine(hang, ASKED, scored(values), samples=4, rounds=1))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_calls == 0


def test_samples_are_drawn_with_seeds_of_their_own_and_never_greedily() -> None:
    request = Request(messages=ASKED)
    assert drawn(request, 0) == request
    draws = [drawn(request, number) for number in (1, 2, 3)]
    assert [draw.temperature for draw in draws] == [0.7] * 3
    assert len({draw.seed for draw in draws}) == 3
    warm = drawn(Request(messages=ASKED, temperature=1.2, seed=5), 2)
    assert (warm.temperature, warm.seed) == (1.2, 7)


def test_the_wish_is_what_was_kept_or_else_what_the_user_told_of_themselves() -> None:
    kept = Weighed(preference=Preference(text="Be brief."), outcome="kept")
    lost = Weighed(preference=Preference(text="Be rude."), outcome="gives_way")
    assert wish_of((kept, lost), MetaPrompt(user_info="I am a nurse.")) == "Be brief."
    assert wish_of((lost,), MetaPrompt(user_info="I am a nurse.")) == "I am a nurse."
    assert wish_of((), MetaPrompt()) == ""


async def never(text: str) -> tuple[Finding, ...]:
    return (BROKEN,) if "mg" in text else ()


def prefers(word: str) -> ScriptedModel:
    """A judge that prefers, in either place, the answer that has a word."""

    def choose(request: Request) -> str:
        said = request.messages[-1].content
        return "A" if word in said[: said.rindex("long tale")] else "B"

    return ScriptedModel(choose, name="judge")


async def test_a_judge_votes_for_each_version_against_the_first_in_both_orders() -> None:
    judge = prefers("rest")
    score = scorer("A cold?", never, "Be brief.", Judge(judge))
    voted = await score("rest", "a long tale")
    assert voted.liked is not None
    assert voted.liked > 0.8
    assert len(judge.requests) == 2
    assert voted.usage.prompt_tokens > 0
    assert (await score("a long tale", "a long tale")).liked == 0.5
    assert (await score("take 20 mg", "a long tale")) == Scored((BROKEN,))
    assert len(judge.requests) == 2


async def test_a_judge_that_always_takes_the_first_place_gives_an_even_vote() -> None:
    score = scorer("A cold?", never, "Be brief.", Judge(ScriptedModel(["A"])))
    assert (await score("rest", "a long tale")).liked == pytest.approx(0.5)


async def test_a_judge_that_fails_gives_no_vote_and_says_so() -> None:
    judge = ScriptedModel(["A"], error=ModelError("judge down"))
    score = scorer("A cold?", never, "Be brief.", Judge(judge))
    voted = await score("rest", "a long tale")
    assert voted.liked is None
    assert "judge" in voted.failed


DOSES = Rule(
    id="doses",
    text="No doses are named.",
    mandatory=True,
    enforcement="revise",
    check=Check(must_not_match=r"\d+ mg"),
)


async def ask(memory: Memory, model: ScriptedModel, **options: object) -> Answer:
    aligner = Aligner(memory, model, Options.model_validate({"infer": "never"} | options))
    return await aligner.answer("How much of it?")


async def test_of_an_aligners_samples_one_that_keeps_the_rules_is_released(memory: Memory) -> None:
    memory.add([DOSES])
    model = ScriptedModel(["Take 20 mg.", "Take 5 mg.", "Ask a doctor."])
    answer = await ask(memory, model, samples=3, refine_rounds=0)
    decision = answer.decision
    assert answer.text == decision.answer == "Ask a doctor."
    assert [one.text for one in decision.attempts] == [
        "Take 20 mg.",
        "Take 5 mg.",
        "Ask a doctor.",
    ]
    assert [finding.outcome for finding in decision.findings] == ["passed"]
    assert decision.release == "strict"
    assert [request.temperature for request in model.requests] == [0.0, 0.7, 0.7]
    spent = sum(model.count_tokens(one.text) for one in decision.attempts)
    assert decision.usage.completion_tokens == spent
    assert "version 3 of 3: the first broke a rule" in next(checks_told(decision))
    assert verify(memory.store.decisions("default")) is None


async def test_where_all_samples_break_a_rule_the_answer_is_rewritten_or_withheld(
    memory: Memory,
) -> None:
    memory.add([DOSES])
    model = ScriptedModel(["Take 20 mg.", "Take 5 mg.", "Ask a doctor."])
    answer = await ask(memory, model, samples=2, refine_rounds=0)
    assert answer.text == "Ask a doctor."
    assert len(answer.decision.attempts) == 3
    memory.add([DOSES.model_copy(update={"id": "barred", "enforcement": "block"})])
    withheld = await ask(memory, ScriptedModel(["20 mg", "5 mg"]), samples=2, refine_rounds=0)
    assert withheld.decision.withheld
    assert [one.text for one in withheld.decision.attempts] == ["20 mg", "5 mg"]
    assert "mg" not in withheld.text


async def test_a_refined_answer_leaves_in_one_piece_whatever_the_release(memory: Memory) -> None:
    memory.add([DOSES])
    options = Options(samples=2, refine_rounds=0, release="observe", infer="never")
    aligner = Aligner(memory, ScriptedModel(["Take 20 mg.", "Ask a doctor."]), options)
    pieces = [piece async for piece in aligner.stream("How much of it?")]
    assert pieces[0] == "Ask a doctor."
    assert isinstance(pieces[1], Answer)
    assert len(pieces) == 2
    assert memory.store.begun.left(memory.clock()) == []


async def test_what_failed_while_refining_is_on_record(memory: Memory) -> None:
    memory.add([DOSES])

    def answer(request: Request) -> str:
        if request.seed:
            raise ModelError("line lost")
        return "Take 20 mg."

    found = await ask(memory, ScriptedModel(answer), samples=2, refine_rounds=1, rounds=0)
    assert (found.text, found.decision.refining_failed) == ("Take 20 mg.", "line lost")
    assert verify(memory.store.decisions("default")) is None


async def test_one_sample_is_an_answer_without_refinement(memory: Memory) -> None:
    model = ScriptedModel(["Ask a doctor."])
    answer = await ask(memory, model, samples=1)
    assert (len(model.requests), answer.decision.attempts) == (1, ())


def test_the_command_takes_several_samples_and_refuses_none(tmp_path: Path) -> None:
    comity = Command(tmp_path)
    comity.done("add", comity.write("laws.md"))
    asked = comity("ask", "May dogs run?", "--samples", "3", "--refine-rounds", "0")
    assert asked.exit_code == 0
    assert "May dogs run?" in asked.stdout
    for option, value in (("--samples", "0"), ("--samples", "17"), ("--refine-rounds", "-1")):
        wrong = comity("ask", "May dogs run?", option, value)
        assert wrong.exit_code == 2
        assert option.removeprefix("--").replace("-", "_") in wrong.stderr


def test_votes_and_critiques_stand_in_the_record(tmp_path: Path) -> None:
    comity = Command(tmp_path)
    comity.done("add", comity.write("laws.md"))
    script = ["Take 20 mg.", "Do rest.", "Say who helps.", "Ask a doctor.", "Take 5 mg."]
    with Memory.open(f"sqlite:///{tmp_path}/rules.db", embedder=HashEmbedder(256)) as memory:
        memory.add([DOSES])
        model = ScriptedModel(lambda request: "A" if request.choices else script.pop(0))
        options = Options(samples=2, infer="never")
        meta = MetaPrompt(preferences=(Preference(text="Be brief."),))
        aligner = Aligner(memory, model, options)
        decision = asyncio.run(aligner.answer("How much?", meta=meta)).decision
    assert decision.answer == "Do rest."
    shown = comity.done("decisions", "show", decision.id)
    assert shown.count("after the critique: Say who helps.") == 2
    assert "for the wishes: 0.50" in shown


def test_the_gateway_says_that_it_does_not_refine(tmp_path: Path) -> None:
    comity = Command(tmp_path)
    comity.done("add", comity.write("laws.md"))
    comity.environ["COMITY_SAMPLES"] = "3"
    file = comity.write("gateway.toml", '[upstreams.bot]\nbase_url = ""\n')
    assert "the gateway does neither" in comity("serve", "--gateway", file).stderr
    comity.environ["COMITY_SAMPLES"] = "1"
    assert "the gateway does neither" not in comity("serve", "--gateway", file).stderr


PAGE = (Path(__file__).parents[1] / "docs" / "refinement.md").read_text(encoding="utf-8")


def test_the_example_of_the_page_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "refinement.md", "exec"), {})


def test_the_commands_of_the_page_take_their_options(tmp_path: Path) -> None:
    comity = Command(tmp_path)
    comity.done("add", comity.write("laws.md"))
    commands = [line for line in PAGE.splitlines() if line.startswith("comity ")]
    assert commands
    for line in commands:
        result = comity(*shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
