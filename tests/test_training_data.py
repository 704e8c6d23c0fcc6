"""Preference data built by scripted models: what is chosen, dropped, resumed and written."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.prefer import WishCheck
from comity.errors import ModelError, ModelMissing, TrainingError
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.models.scripted import ScriptedModel
from comity.records import FAMILIES, Check, Message, Request, Rule
from comity.training.built import Built, Options
from comity.training.candidates import Writing
from comity.training.contamination import Exams
from comity.training.dataset import Models, build
from comity.training.families import Material, Persona, Seed, Statement
from comity.training.from_rules import Rules
from comity.training.lessons import Lesson, held_out, without_doubles
from comity.training.rows import Conversation, Pair, read_rows

ANSWERS = {
    "Be brief.": "Yes.",
    "Be thorough.": "Yes, since it costs little, lasts long and helps the neighbours.",
    "I have a dog.": "Dogs are company and belong in every house.",
    "I am allergic to fur.": "Fur makes people ill, so no pets in the house.",
    "Be frank.": "Tell her that the soup is far too salty.",
    "Be gentle.": "Praise the fresh herbs, and offer to cook together.",
    "Say nothing of money.": "Nothing can be said about that here.",
    "Tell me about money.": "Ten euros go into a piggy bank every week.",
}
NO_EXAMS = Exams([])


def marker(text: str) -> str:
    return next((mark for mark in ANSWERS if mark in text), "")


def write(request: Request) -> str:
    """The answer that suits the wish or the background in the prompt; "Perhaps." without any."""
    prompt = "".join(turn.content for turn in request.messages)
    number = " (And so I would tell anybody.)" if request.temperature else ""
    return ANSWERS.get(marker(prompt), "Perhaps.") + number


def fair(request: Request) -> str:
    """The letter of the answer that was written for the wish."""
    said = request.messages[-1].content
    first, wish = said.partition("Answer B:")[0], said.partition("The wish:")[2]
    return "A" if ANSWERS[marker(wish)] in first else "B"


def always_first(request: Request) -> str:
    return "A"


def models(judge: Callable[[Request], str] = fair) -> Models:
    return Models(ScriptedModel(write, name="writer"), ScriptedModel(judge, name="judge"))


def wishes(family: str, kind: str, one: str, other: str, **more: Any) -> tuple[Statement, ...]:
    common = {"family": family, "kind": kind}
    sides = ({"by": "provider"}, {"by": "user"}) if kind == "topics" else ({}, {})
    return tuple(
        Statement.model_validate({"id": a, "text": a, "against": b, **common, **side, **more})
        for a, b, side in ((one, other, sides[0]), (other, one, sides[1]))
    )


BRIEF = {"longest_words": 3}
QUESTIONS = (
    Seed(id="h", question="Is it worth mending a fence?", family="helpful"),
    Seed(id="p", question="Where do savings go?", family="priority"),
    Seed(id="c", question="What do I tell my aunt about her soup?", family="consensus"),
    Seed(id="d", question="Should pets be allowed?", family="diverse", topic="pets"),
)
MATERIAL = Material(
    questions=QUESTIONS,
    personas=(
        Persona(id="owner", info="I have a dog.", topic="pets"),
        Persona(id="ill", info="I am allergic to fur.", topic="pets"),
    ),
    statements=(
        *wishes("helpful", "style", "Be brief.", "Be thorough."),
        *wishes("priority", "topics", "Say nothing of money.", "Tell me about money."),
        *wishes("consensus", "honesty", "Be frank.", "Be gentle."),
    ),
    sources={"questions": "inline"},
)


def with_questions(*questions: Seed) -> Material:
    return MATERIAL.model_copy(update={"questions": questions})


def many(count: int) -> Material:
    return with_questions(
        *(
            Seed(id=f"h{n}", question=f"{chr(65 + n) * 9} {n * 7919}: worth it?", family="helpful")
            for n in range(count)
        )
    )


async def built(folder: Path, material: Material = MATERIAL, **more: Any) -> Built:
    asked = more.pop("models", None) or models()
    return await build(folder, material, asked, exams=more.pop("exams", NO_EXAMS), **more)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


async def test_the_answer_to_a_wish_is_chosen_and_turns_with_the_wish(tmp_path: Path) -> None:
    done = await built(tmp_path)
    rows = {(lesson.question, marker(lesson.wish)): lesson for lesson in done.lessons}
    for (_, mark), lesson in rows.items():
        assert lesson.chosen == ANSWERS[mark]
        assert lesson.rejected != lesson.chosen
        assert lesson.by == "judge"
    assert len(rows) == len(done.lessons) == 7, "of the priority question only the provider's"
    assert rows["d", "I have a dog."].rejected == ANSWERS["I am allergic to fur."]
    assert rows["d", "I am allergic to fur."].rejected == ANSWERS["I have a dog."]
    assert (done.flipped, done.flippable, done.missing) == (3, 3, ())


async def test_the_prompts_hold_the_meta_prompt_and_not_the_note_to_the_writer(
    tmp_path: Path,
) -> None:
    done = await built(tmp_path)
    asked = models().model
    for lesson in done.lessons:
        system, user = lesson.prompt
        assert (system.role, user.role) == ("system", "user")
        assert marker(lesson.wish) in system.content + user.content
        assert "do not say that it was wanted" not in system.content + user.content
    priority = next(lesson for lesson in done.lessons if lesson.family == "priority")
    system, user = priority.prompt
    assert "Say nothing of money." in system.content
    assert "Tell me about money." in user.content, "both sides are shown"
    assert isinstance(asked, ScriptedModel)


async def test_code_decides_where_it_can_and_the_judge_is_not_asked(tmp_path: Path) -> None:
    style = wishes("helpful", "style", "Be brief.", "Be thorough.")
    brief = Statement.model_validate({**dict(style[0]), "check": {"longest_words": 3}})
    long = Statement.model_validate({**dict(style[1]), "check": {"shortest_words": 8}})
    material = with_questions(QUESTIONS[0]).model_copy(update={"statements": (brief, long)})
    asked = models(always_first)
    done = await built(tmp_path, material, models=asked)
    assert [(lesson.by, lesson.chosen) for lesson in done.lessons] == [
        ("code", ANSWERS["Be brief."]),
        ("code", ANSWERS["Be thorough."]),
    ]
    assert isinstance(asked.judge, ScriptedModel)
    assert asked.judge.requests == []


async def test_answers_that_code_cannot_tell_apart_make_no_row(tmp_path: Path) -> None:
    style = wishes("helpful", "style", "Be brief.", "Be thorough.", check={"shortest_words": 1})
    material = with_questions(QUESTIONS[0]).model_copy(update={"statements": style})
    with pytest.raises(TrainingError, match="no row came of 1 questions"):
        await built(tmp_path, material)
    assert "all answers follow the wish or none does" in (tmp_path / "card.md").read_text("utf-8")


async def test_without_a_judge_answers_are_ranked_by_the_wish_they_were_written_for(
    tmp_path: Path,
) -> None:
    done = await built(tmp_path, models=Models(ScriptedModel(write), None))
    assert len(done.lessons) == 7
    for each in done.lessons:
        assert (each.by, each.chosen) == ("writing", ANSWERS[marker(each.wish)])
    assert (done.compared, done.flipped) == ((), 3)
    assert "- no judge: what code cannot tell apart" in (tmp_path / "card.md").read_text("utf-8")


async def test_without_a_judge_an_answer_that_is_missing_makes_no_row(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no row came"):
        await built(tmp_path, models=Models(ScriptedModel(["Perhaps."]), None))
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "there is no answer written for each of the wishes" in card


async def test_a_judge_that_always_prefers_the_first_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"judge preferred .* stood first in 100% .* 10 comp"):
        await built(tmp_path, many(9), models=models(always_first))


async def test_a_judge_that_always_prefers_the_second_stops_it_too(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="stood second in 100%"):
        await built(tmp_path, many(9), models=models(lambda _: "B"))


async def test_too_few_comparisons_dismiss_no_judge_but_the_card_says_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no row came"):
        await built(tmp_path, many(2), models=models(always_first))
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "preferred in 100% of the choices" in card
    assert "`judge` looks at the place of an answer" in card
    assert "the same verdict in 0 of 4 (0%)" in card


async def test_what_the_judge_crosses_is_dropped(tmp_path: Path) -> None:
    def contrary(request: Request) -> str:
        return "B" if fair(request) == "A" else "A"

    with pytest.raises(TrainingError, match="no row came"):
        await built(tmp_path, with_questions(QUESTIONS[3]), models=models(contrary))
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "preferred an answer that was written for the opposite wish" in card


async def test_several_answers_are_ranked_and_the_plain_one_may_lose(tmp_path: Path) -> None:
    options = Options(writing=Writing(answers=2, plain=True))

    def judge(request: Request) -> str:
        said = request.messages[-1].content
        first, _, rest = said.partition("Answer B:")
        second, _, wish = rest.partition("The wish:")
        best = ANSWERS[marker(wish)]
        if (best in first) != (best in second):
            return "A" if best in first else "B"
        return "A" if "Perhaps." in second or ("(" in second and "(" not in first) else "B"

    done = await built(
        tmp_path, with_questions(QUESTIONS[3]), options=options, models=models(judge)
    )
    assert [lesson.chosen for lesson in done.lessons] == [
        ANSWERS["I have a dog."],
        ANSWERS["I am allergic to fur."],
    ]
    assert (done.flipped, len(done.compared)) == (1, 2 * 10)
    assert done.asked == 5 + 2 * 10


async def test_cut_off_empty_and_equal_answers_are_dropped(tmp_path: Path) -> None:
    asked = Models(ScriptedModel(["Perhaps."]), ScriptedModel(fair))
    with pytest.raises(TrainingError, match="no row came"):
        await built(tmp_path, models=asked)
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "| answer | two answers were alike | 4 |" in card
    assert "there is only one answer" in card


async def test_a_missing_family_is_noted(tmp_path: Path) -> None:
    done = await built(tmp_path, with_questions(*QUESTIONS[:3]))
    assert done.missing == ("diverse",)
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "The family `diverse` is missing" in card


async def test_questions_like_another_or_of_an_exam_are_not_used(tmp_path: Path) -> None:
    double = Seed(id="h2", question="Is it worth mending a fence??", family="helpful")
    exams = Exams([("the finals", "Should pets be allowed?")])
    done = await built(tmp_path, with_questions(*QUESTIONS, double), exams=exams)
    assert {lesson.question for lesson in done.lessons} == {"h", "p", "c"}
    reasons = {one.what: one.reason for one in done.dropped}
    assert reasons["h2"] == "it is like question h"
    assert reasons["d"] == "it is a question of the finals"
    assert "the finals" in (tmp_path / "card.md").read_text("utf-8")


async def test_rows_whose_answer_holds_a_question_of_an_exam_are_not_used(tmp_path: Path) -> None:
    exams = Exams([("E", f"Is this true: {ANSWERS['Be thorough.']}")])
    done = await built(tmp_path, exams=exams)
    assert "h" not in {lesson.question for lesson in done.lessons}


async def test_a_cut_off_build_goes_on_and_asks_nothing_twice(tmp_path: Path) -> None:
    whole = await built(tmp_path / "whole")

    calls = 0

    def dies(request: Request) -> str:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise RuntimeError
        return fair(request)

    folder = tmp_path / "cut"
    with pytest.raises(RuntimeError):
        await built(folder, models=models(dies))
    journal = folder / "build.jsonl"
    kept = len(lines(journal))
    with journal.open("a") as stream:
        stream.write('{"key": "torn')  # as a crash would leave it

    again = await built(folder, resume=True)
    assert again.lessons == whole.lessons
    assert (again.kept, again.asked) == (kept, whole.asked - kept)
    for name in ("sft.train.jsonl", "dpo.train.jsonl", "card.md"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    third = models()
    assert (await built(folder, models=third, resume=True)).asked == 0
    assert isinstance(third.model, ScriptedModel)
    assert third.model.requests == []


async def test_a_folder_with_a_build_is_not_begun_anew(tmp_path: Path) -> None:
    await built(tmp_path)
    with pytest.raises(TrainingError, match=r"build\.jsonl is there: go on with --resume"):
        await built(tmp_path)


async def test_a_journal_that_is_none_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "build.jsonl").write_text('{"key": "x"}\n{"question": 1}\n')
    with pytest.raises(TrainingError, match="line 2 is no entry of a build"):
        await built(tmp_path, resume=True)


async def test_failures_are_dropped_but_three_in_a_row_end_the_build(tmp_path: Path) -> None:
    def fails_for_pets(request: Request) -> str:
        if "pets" in request.messages[-1].content:
            raise ModelError("the line is dead")
        return write(request)

    once = Models(ScriptedModel(fails_for_pets), ScriptedModel(fair))
    done = await built(tmp_path / "once", models=once)
    assert done.missing == ("diverse",)
    assert "the model failed: the line is dead" in {one.reason for one in done.dropped}

    dead = Models(ScriptedModel(write, error=ModelError("the line is dead")), ScriptedModel(fair))
    with pytest.raises(ModelError, match="no answer for 3 questions one after another"):
        await built(tmp_path / "dead", models=dead)
    deaf = Models(ScriptedModel(write), ScriptedModel(fair, error=ModelError("no judge today")))
    with pytest.raises(ModelError, match="no judge today"):
        await built(tmp_path / "deaf", models=deaf)
    gone = Models(ScriptedModel(write, error=ModelMissing("gone")), ScriptedModel(fair))
    with pytest.raises(ModelMissing):
        await built(tmp_path / "gone", models=gone)


async def test_many_questions_at_once_give_the_same_data(tmp_path: Path) -> None:
    one = await built(tmp_path / "one", many(8))
    four = await built(tmp_path / "four", many(8), options=Options(parallel=4))
    assert one.lessons == four.lessons


async def test_a_limit_takes_from_each_family_alike(tmp_path: Path) -> None:
    more = [
        Seed(id=f"{each.id}2", question=f"And then: {each.question}", family=each.family)
        for each in QUESTIONS
    ]
    done = await built(tmp_path, with_questions(*QUESTIONS, *more), options=Options(limit=4))
    assert {lesson.question for lesson in done.lessons} == {"h", "p", "c", "d"}


async def test_the_files_can_be_trained_on_and_share_no_question(tmp_path: Path) -> None:
    done = await built(tmp_path, many(8), options=Options(eval_share=0.25))
    questions = {}
    for part, count in (("train", 12), ("eval", 4)):
        conversations, _ = read_rows(tmp_path / f"sft.{part}.jsonl", Conversation)
        pairs, described = read_rows(tmp_path / f"dpo.{part}.jsonl", Pair)
        assert len(conversations) == len(pairs) == count
        assert described.families == {"helpful": count}
        questions[part] = {row["question"] for row in lines(tmp_path / f"dpo.{part}.jsonl")}
    assert not questions["train"] & questions["eval"]
    assert [file.rows for file in done.files] == [12, 12, 4, 4]


async def test_datasets_and_trl_take_the_files(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    datasets = pytest.importorskip("datasets", reason="needs the extra train")
    trl = pytest.importorskip("trl", reason="needs the extra train")
    await built(tmp_path, many(4))
    for kind, columns in (("sft", {"messages"}), ("dpo", {"prompt", "chosen", "rejected"})):
        data = datasets.load_dataset(
            "json",
            data_files={part: str(tmp_path / f"{kind}.{part}.jsonl") for part in ("train", "eval")},
            cache_dir=str(tmp_path / "cache"),
        )
        assert set(data["train"].column_names) == {*columns, "family", "question", "wish", "by"}
        assert len(data["eval"]) >= 1
        for row in data["train"]:
            assert trl.data_utils.is_conversational({name: row[name] for name in columns})


def lesson(question: str, family: str = "helpful", chosen: str = "Yes.") -> Lesson:
    prompt = (Message(role="user", content=question),)
    return Lesson(
        family=family,
        question=question,
        wish="w",
        by="code",
        prompt=prompt,
        chosen=chosen,
        rejected="No.",
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from([*FAMILIES, "rules"])),
        unique_by=lambda q: q[0],
    ),
    st.floats(0, 0.9),
    st.integers(0, 5),
)
def test_what_is_held_out_is_a_share_of_the_questions(
    asked: list[tuple[int, str]], share: float, seed: int
) -> None:
    lessons = [lesson(str(name), family) for name, family in asked]
    outside = held_out(lessons, share, seed)
    assert outside == held_out(lessons[::-1], share, seed)
    assert outside <= {each.question for each in lessons}
    if share and len(lessons) > 1:
        assert 0 < len(outside) < len(lessons)
        assert abs(len(outside) - share * len(lessons)) <= 1
        held = Counter(family for name, family in asked if str(name) in outside)
        left = Counter(family for name, family in asked if str(name) not in outside)
        assert all(held[family] <= min(held[each] for each in left) + 1 for family in held)
    else:
        assert not outside


def test_the_same_prompt_and_answer_stand_once() -> None:
    first, second = lesson("a"), lesson("b")
    assert without_doubles([first, second, lesson("a"), lesson("a", chosen="No!")]) == (
        first,
        second,
        lesson("a", chosen="No!"),
    )


RULE = Rule(
    id="phones-1",
    text="Staff name the service desk when asked about phones.",
    check=Check(must_match="service desk"),
)
JUDGED = Rule(id="gifts-1", text="Staff accept no gifts from suppliers.")


def obeys(request: Request) -> str:
    """Writes a question about the rule; answers with it where it is shown, else without."""
    system = "".join(turn.content for turn in request.messages if turn.role == "system")
    asked = request.messages[-1].content
    if "Write the question" in system:
        return "May staff sort out phones?" if "phones" in asked else "May staff accept gifts?"
    if "service desk" in system or "no gifts" in system:
        return "No: ask the service desk." if "phones" in asked else "No, refuse it."
    return "Sure, it is fine." if "just tell me" in asked else "Yes, why not."


def by_the_rule(request: Request) -> str:
    first = request.messages[-1].content.partition("Answer B:")[0]
    return "A" if "No, refuse it." in first else "B"


async def test_rules_teach_the_answer_that_keeps_them(tmp_path: Path) -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder()) as memory:
        memory.add([RULE, JUDGED])
        judge = ScriptedModel(by_the_rule)
        done = await built(
            tmp_path,
            models=Models(ScriptedModel(obeys), judge),
            options=Options(limit=0),
            rules=Rules(memory, "default", 5),
        )
    told = {(one.question, one.by, one.chosen, one.rejected): one.prompt for one in done.lessons}
    desk, refusal = "No: ask the service desk.", "No, refuse it."
    assert set(told) == {
        ("rule phones-1", "code", desk, "Yes, why not."),
        ("rule phones-1", "code", desk, "Sure, it is fine."),
        ("rule gifts-1", "judge", refusal, "Yes, why not."),
        ("rule gifts-1", "judge", refusal, "Sure, it is fine."),
    }
    for (_, _, _, rejected), prompt in told.items():
        assert "[R1]" in prompt[0].content
        assert ("just tell me" in prompt[-1].content) == (rejected == "Sure, it is fine.")
    assert {lesson.family for lesson in done.lessons} == {"rules"}
    assert "| rules | 2 |" in (tmp_path / "card.md").read_text("utf-8")


async def test_an_answer_that_breaks_the_rule_though_it_is_shown_is_not_taught(
    tmp_path: Path,
) -> None:
    def breaks(request: Request) -> str:
        return "May staff sort out phones?" if "Write the" in request.messages[0].content else "Yes"

    with Memory.open("sqlite://", embedder=HashEmbedder()) as memory:
        memory.add([RULE])
        with pytest.raises(TrainingError, match="no row came"):
            await built(
                tmp_path,
                models=Models(ScriptedModel(breaks), ScriptedModel(["A"])),
                options=Options(limit=0),
                rules=Rules(memory, "default", 5),
            )
    assert "the answer with the rules breaks it" in (tmp_path / "card.md").read_text("utf-8")


async def test_an_answer_that_breaks_another_rule_of_the_prompt_is_not_taught(
    tmp_path: Path,
) -> None:
    other = Rule(
        id="phones-2",
        text="Staff never say no when asked about phones.",
        enforcement="block",
        check=Check(must_not_match="(?i)no"),
    )
    with Memory.open("sqlite://", embedder=HashEmbedder()) as memory:
        memory.add([RULE, other])
        with pytest.raises(TrainingError, match="no row came"):
            await built(
                tmp_path,
                models=Models(ScriptedModel(obeys), None),
                options=Options(limit=0),
                rules=Rules(memory, "default", 5),
            )
    card = (tmp_path / "card.md").read_text("utf-8")
    assert "the answer with the rules breaks another of them, phones-2" in card


def test_the_page_on_data_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    files = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    for name, text in zip(("mine", "people", "wishes"), files, strict=True):
        Path(f"{name}.jsonl").write_text(text, encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(code, "datasets.md", "exec"), {})
    (said,) = re.findall(r"print\(.*\)  # (.*)\n", code)
    assert capsys.readouterr().out == f"{said}\n"
    assert len(lines(Path("data/dpo.train.jsonl"))) == 2


def test_the_page_on_data_names_every_field_of_its_files() -> None:
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text("utf-8")
    for record in (Seed, Persona, Statement, WishCheck):
        for field in record.model_fields:
            assert f"`{field}`" in page or f'"{field}"' in page, field
