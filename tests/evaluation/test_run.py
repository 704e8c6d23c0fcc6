"""Running exams: nothing lost or asked twice, whatever stops the run or changes the rules."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.errors import ExamError, ModelError, ModelGarbled, ModelNonsense
from comity.evaluation.ask import ExamOptions
from comity.evaluation.exams import Exam, Question
from comity.evaluation.retire import review
from comity.evaluation.run import Examiner, Job, execute, jobs, prepared
from comity.evaluation.runs import MODES, ExamTaken, Item, Key, Mode, Plan, Run
from comity.evaluation.score import scores
from comity.memory.memory import Memory
from comity.models.chat import estimate_tokens
from comity.records import Reply, Request, Rule, RuleRef, Usage
from conftest import Clock

DOGS = Rule(id="dogs", text="Dogs are kept on a leash in parks.")
CATS = Rule(id="cats", text="Cats sleep indoors, always.")
BREAD = Rule(id="bread", text="Bread is weighed before noon.")


def question(name: str, stem: str, **fields: Any) -> Question:
    given: dict[str, Any] = {"options": ("Yes", "No"), "answer": "B"}
    return Question(id=name, stem=stem, **given | fields)


def many(count: int) -> tuple[Question, ...]:
    return tuple(question(f"q{n}", f"May dog {n} run?") for n in range(count))


class Model:
    """Answers B after a moment; counts what it works on at once, and fails when told to."""

    name = "model"

    def __init__(self, *, fails_at: int | None = None, pause: float = 0.0) -> None:
        self.fails_at, self.pause = fails_at, pause
        self.asked: list[Request] = []
        self.at_once = self.most_at_once = 0

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        self.asked.append(request)
        if self.fails_at is not None and len(self.asked) >= self.fails_at:
            raise ModelError("model: the connection was lost")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.pause)
        finally:
            self.at_once -= 1
        yield "B"
        usage = Usage(prompt_tokens=9, completion_tokens=1)
        yield Reply(text="B", usage=usage, choice_logprobs={"A": -2.0, "B": -0.1})

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)


class Mute(Model):
    """Never chooses, and never says anything that can be read."""

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        if request.choices:
            raise ModelNonsense("mute: no choice")
        yield "Dogs bark."
        yield Reply(text="Dogs bark.")


class Fickle(Mute):
    """Says nothing at first, and B once it is well."""

    well = False

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        self.asked.append(request)
        if not self.well:
            raise ModelNonsense("fickle: an empty answer")
        yield "B"
        yield Reply(text="B", choice_logprobs={"A": -2.0, "B": -0.1})


def begun(folder: Path, asked: Sequence[Job], *, resume: bool = False) -> Run:
    taken = ExamTaken(
        name="pets", path="pets.csv", sha256="", questions=tuple(job.question.id for job in asked)
    )
    plan = Plan(
        model="model", modes=MODES, exams=(taken,), started=datetime(2030, 1, 1, tzinfo=UTC)
    )
    return Run.begin(folder, plan, resume=resume)


def examiner(
    model: Model, memory: Memory | None = None, earlier: dict[Key, Item] | None = None
) -> Examiner:
    return Examiner(model, memory, ExamOptions(turns=False), earlier or {})


def todo(questions: Sequence[Question], *modes: Mode) -> list[Job]:
    return list(jobs({"pets": questions}, modes or ("base",)))


@pytest.fixture
def shop(memory: Memory) -> Memory:
    memory.add([DOGS, CATS, BREAD])
    return memory


# Which jobs there are


def test_exams_take_turns_and_the_modes_of_a_question_follow_one_another() -> None:
    one, two = many(3), (question("x", "Cats?"),)
    found = [job.key for job in jobs({"a": one, "b": two}, ("base", "comity"))]
    assert found == [
        (exam, name, mode)
        for exam, name in (("a", "q0"), ("b", "x"), ("a", "q1"), ("a", "q2"))
        for mode in ("base", "comity")
    ]


@pytest.mark.parametrize(
    ("fields", "oracle"),
    [
        ({}, False),
        ({"rules": (RuleRef(id="dogs", version=1),)}, True),
        ({"principle": "犬法规定：<第一条：系绳。>"}, True),
        ({"principle": "Dogs are dogs."}, False),
    ],
)
def test_there_is_no_oracle_for_a_question_without_gold_rules(
    fields: dict[str, Any], oracle: bool
) -> None:
    asked = todo([question("q", "Dogs?", **fields)], "base", "oracle")
    assert ("oracle" in [job.mode for job in asked]) is oracle


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 4)), st.integers(1, 3))
def test_every_question_is_put_once_in_every_mode(counts: dict[str, int], modes: int) -> None:
    chosen = MODES[:modes]
    gold = "犬法规定：<第一条：系绳。>"
    drawn = {
        exam: [question(f"{n}", f"Dog {n}?", principle=gold) for n in range(count)]
        for exam, count in counts.items()
    }
    found = [job.key for job in jobs(drawn, chosen)]
    assert len(found) == len(set(found)) == modes * sum(counts.values())


# What is kept


async def test_an_item_keeps_prompt_ruling_answer_and_cost(tmp_path: Path, shop: Memory) -> None:
    tied = (RuleRef(id="dogs", version=1), RuleRef(id="cats", version=1, reason="other place"))
    asked = todo([question("q", "May dogs run in parks?", rules=tied)], *MODES)
    with begun(tmp_path / "r", asked) as run:
        assert await execute(run, asked, examiner(Model(), shop)) == 3
        base, comity, oracle = run.items()
    assert (base.kept, base.sent, base.hits, base.revision) == ((), (), (), None)
    assert (base.letter, base.scored_by, base.right, base.text) == ("B", "logprobs", True, "B")
    assert base.logprobs == {"A": -2.0, "B": -0.1}
    assert base.usage == Usage(prompt_tokens=9, completion_tokens=1)
    assert {ref.id for ref in comity.sent} == {ref.id for ref in comity.kept}
    assert comity.hits[0].id == "dogs"
    assert (comity.gold, comity.gold_found, comity.gold_sent) == (tied[:1], 1.0, 1.0)
    assert (comity.revision, comity.gold_at[100]) == (shop.revision, 1.0)
    assert [ref.id for ref in oracle.sent] == ["dogs"]
    assert (oracle.gold_found, oracle.gold_at) == (None, {})
    assert "Dogs are kept on a leash in parks." in comity.asked[-1].content
    assert "Dogs are kept on a leash in parks." not in base.asked[-1].content


async def test_the_seconds_of_an_item_have_its_steps_and_the_whole(
    tmp_path: Path, shop: Memory
) -> None:
    asked = todo(many(3), "base", "comity")
    with begun(tmp_path / "r", asked) as run:
        await execute(run, asked, examiner(Model(pause=0.05), shop))
        for item in run.items():
            assert set(item.seconds) == {"prepare", "model", "total"}
            assert item.seconds["model"] >= 0.045
            assert item.seconds["total"] + 0.001 >= item.seconds["prepare"] + item.seconds["model"]


async def test_unreadable_answers_are_kept_unscored_and_such_a_set_has_no_accuracy(
    tmp_path: Path,
) -> None:
    asked = todo(many(3))
    with begun(tmp_path / "r", asked) as run:
        await execute(run, asked, examiner(Mute()))
        items = list(run.items())
    assert {(item.letter, item.right, item.text) for item in items} == {("", None, "Dogs bark.")}
    assert all(item.not_scored for item in items)
    (score,) = scores(items)
    assert (score.asked, score.scored, score.accuracy, score.interval) == (3, 0, None, None)


async def test_each_item_is_handed_on_once_it_is_kept(tmp_path: Path) -> None:
    asked = todo(many(4))
    seen: list[tuple[str, int]] = []
    with begun(tmp_path / "r", asked) as run:
        await execute(
            run,
            asked,
            examiner(Model()),
            seen=lambda item: seen.append((item.question, len(run.latest()))),
        )
    assert seen == [("q0", 1), ("q1", 2), ("q2", 3), ("q3", 4)]


# At once


@pytest.mark.parametrize("parallel", [1, 3, 8])
async def test_as_many_requests_overlap_as_allowed_and_none_is_lost_or_doubled(
    tmp_path: Path, shop: Memory, parallel: int
) -> None:
    asked, model = todo(many(12), "base", "comity"), Model(pause=0.1)
    with begun(tmp_path / "r", asked) as run:
        assert await execute(run, asked, examiner(model, shop), parallel=parallel) == 24
        counted = Counter(item.key for item in run.items())
    assert counted == {job.key: 1 for job in asked}
    assert len(model.asked) == 24
    assert 1 < model.most_at_once <= parallel or model.most_at_once == parallel == 1


async def test_a_run_that_is_cancelled_keeps_what_came_and_stops_the_model(tmp_path: Path) -> None:
    asked, model = todo(many(6)), Model()
    with begun(tmp_path / "r", asked) as run:

        def stop(item: Item) -> None:
            if item.question == "q2":
                model.pause = 60
                asyncio.get_running_loop().call_later(0.05, working.cancel)

        working = asyncio.create_task(execute(run, asked, examiner(model), seen=stop))
        with pytest.raises(asyncio.CancelledError):
            await working
        assert [item.question for item in run.items()] == ["q0", "q1", "q2"]
    assert model.at_once == 0


# Stopped and continued


@pytest.mark.parametrize("parallel", [1, 4])
async def test_a_model_that_fails_half_way_loses_no_answer_and_only_the_rest_is_asked_later(
    tmp_path: Path, parallel: int
) -> None:
    asked, first = todo(many(9)), Model(fails_at=6)
    with begun(tmp_path / "r", asked) as run:
        with pytest.raises(ExamError) as caught:
            await execute(run, asked, examiner(first), parallel=parallel)
        kept = [item.question for item in run.items()]
    assert 6 - parallel <= len(kept) <= 5
    told = str(caught.value)
    assert told.startswith(
        f"stopped after {len(kept)} of 9 answers, which are kept in {run.folder}"
    )
    assert "continue with --resume" in told
    assert told.endswith("model: the connection was lost")

    second = Model()
    with begun(tmp_path / "r", asked, resume=True) as run:
        assert await execute(run, asked, examiner(second), parallel=parallel) == 9 - len(kept)
        counted = Counter(item.question for item in run.items())
    assert counted == {f"q{n}": 1 for n in range(9)}
    again = {request.messages[-1].content.split("\n")[0] for request in second.asked}
    assert again == {f"May dog {n} run?" for n in range(9) if f"q{n}" not in kept}


async def test_a_run_that_is_done_asks_nothing_when_continued(tmp_path: Path) -> None:
    asked = todo(many(3))
    with begun(tmp_path / "r", asked) as run:
        await execute(run, asked, examiner(Model()))
    model = Model()
    with begun(tmp_path / "r", asked, resume=True) as run:
        assert await execute(run, asked, examiner(model)) == 0
    assert model.asked == []


async def test_a_line_that_a_crash_tore_is_asked_again(tmp_path: Path) -> None:
    asked = todo(many(3))
    with begun(tmp_path / "r", asked) as run:
        await execute(run, asked, examiner(Model()))
    file = tmp_path / "r" / "items.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    model = Model()
    with begun(tmp_path / "r", asked, resume=True) as run:
        assert await execute(run, asked, examiner(model)) == 1
        assert [item.question for item in run.items()] == ["q0", "q1", "q2"]
    assert "May dog 2 run?" in model.asked[0].messages[-1].content


async def test_an_empty_answer_is_kept_and_asked_for_again(tmp_path: Path) -> None:
    asked, model = todo(many(2)), Fickle()
    with begun(tmp_path / "r", asked) as run:
        await execute(run, asked, examiner(model))
        empty = dict(run.latest())
    assert {item.not_scored for item in empty.values()} == {"fickle: an empty answer"}
    model.well = True
    later = await answered(tmp_path / "s", asked, examiner(model, earlier=empty))
    with begun(tmp_path / "r", asked, resume=True) as run:
        assert await execute(run, asked, examiner(model)) == 2
        again = dict(run.latest())
    for items in (later, again):
        assert [(item.letter, item.reused) for item in items.values()] == [("B", False)] * 2


async def test_an_endpoint_that_is_no_chat_model_ends_the_run(tmp_path: Path) -> None:
    class Page(Model):
        async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
            raise ModelGarbled("page: answered with text/html")
            yield

    asked = todo(many(2))
    told = "stopped after 0 of 2 answers.*text/html"
    with begun(tmp_path / "r", asked) as run:
        with pytest.raises(ExamError, match=told):
            await execute(run, asked, examiner(Page()))
        assert list(run.items()) == []


async def test_a_rule_that_is_not_there_ends_the_run_and_is_named(
    tmp_path: Path, shop: Memory
) -> None:
    gone = question("q9", "Birds?", rules=(RuleRef(id="birds", version=1),))
    asked = todo([*many(1), gone], "base", "oracle")
    told = r"stopped after 2 of 3 answers.*'birds'"
    with begun(tmp_path / "r", asked) as run, pytest.raises(ExamError, match=told):
        await execute(run, asked, examiner(Model(), shop))


# What a change of the rules touches


def test_a_repeal_or_another_text_retires_a_question_that_names_its_rules_in_words(
    memory: Memory,
) -> None:
    for name, article in (("leash", "第一条"), ("bell", "第二条"), ("chip", "第三条")):
        memory.add(Rule(id=name, title="犬法", article=article, text=f"犬只须{name}。"))
    asked = tuple(
        question(name, "犬？", principle=f"犬法规定：<{article}：犬只须{name}。>")
        for name, article in (("leash", "第一条"), ("bell", "第二条"), ("chip", "第三条"))
    )
    memory.repeal("leash")
    memory.amend("bell", {"text": "犬只不须bell。"})
    now = prepared(Exam(name="dogs", questions=asked), memory, "default").questions
    assert [(each.id, each.status) for each in now] == [
        ("leash", "retired"),
        ("bell", "retired"),
        ("chip", "active"),
    ]
    assert [each.rules[0].version for each in now] == [1, 1, 1]


ON_DOGS = question("dogs", "dogs leash parks", rules=(RuleRef(id="dogs", version=1),))
ON_CATS = question("cats", "cats sleep indoors", rules=(RuleRef(id="cats", version=1),))
FREE = question("free", "dogs kept on a leash, or not")


def narrow(model: Model, memory: Memory, earlier: dict[Key, Item] | None = None) -> Examiner:
    """One rule in each prompt: the nearest."""
    return Examiner(model, memory, ExamOptions(hits=1, turns=False), earlier or {})


async def answered(folder: Path, asked: Sequence[Job], by: Examiner) -> dict[Key, Item]:
    with begun(folder, asked) as run:
        await execute(run, asked, by)
        return dict(run.latest())


async def test_equal_prompts_are_taken_over_and_nothing_is_asked(
    tmp_path: Path, shop: Memory, clock: Clock
) -> None:
    asked = todo([ON_DOGS, ON_CATS, FREE], *MODES)
    first = await answered(tmp_path / "1", asked, narrow(Model(), shop))
    clock.advance(days=1)
    shop.add(Rule(id="far", text="Cats sleep.", place="FR"))
    model = Model()
    second = await answered(tmp_path / "2", asked, narrow(model, shop, first))
    assert model.asked == []
    assert second.keys() == first.keys()
    assert all(item.reused for item in second.values())
    for key, item in second.items():
        assert (item.letter, item.at, item.seconds) == (
            first[key].letter,
            first[key].at,
            first[key].seconds,
        )
    assert {item.revision for item in second.values()} == {None, shop.revision}


async def test_an_amendment_has_only_the_questions_asked_again_whose_prompt_has_the_rule(
    tmp_path: Path, shop: Memory
) -> None:
    asked = todo([ON_DOGS, ON_CATS, FREE], "base", "comity")
    first = await answered(tmp_path / "1", asked, narrow(Model(), shop))
    assert [first["pets", name, "comity"].sent[0].id for name in ("dogs", "cats", "free")] == [
        "dogs",
        "cats",
        "dogs",
    ]
    shop.amend("dogs", {"text": "Dogs are kept on a short leash in parks."})
    kept = [each for each in review([ON_DOGS, ON_CATS, FREE], shop) if each.status == "active"]
    assert [each.id for each in kept] == ["cats", "free"]
    model = Model()
    later = await answered(tmp_path / "2", todo(kept, "base", "comity"), narrow(model, shop, first))
    assert {key for key, item in later.items() if not item.reused} == {("pets", "free", "comity")}
    assert ["short leash" in request.messages[-1].content for request in model.asked] == [True]


async def test_an_answer_stands_only_for_the_same_question(tmp_path: Path) -> None:
    first = await answered(tmp_path / "1", todo(many(2)), examiner(Model()))
    other = many(1)[0].model_copy(update={"answer": "A"})
    model = Model()
    later = await answered(
        tmp_path / "2", todo([other, many(2)[1]]), examiner(model, earlier=first)
    )
    assert [(item.question, item.reused, item.right) for item in later.values()] == [
        ("q0", False, False),
        ("q1", True, True),
    ]
    assert len(model.asked) == 1
