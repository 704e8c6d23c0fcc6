"""The preference exam: how questions are put, judged, kept and continued."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from comity.alignment.aligner import Options
from comity.errors import ExamError, ModelError, SettingsError
from comity.evaluation.preference_ask import (
    Examinee,
    all_words,
    model_of,
    provider_words,
    put_rule_case,
    put_wish,
)
from comity.evaluation.preference_cases import PreferenceQuestion, RuleCase, asked_digest
from comity.evaluation.preference_exam import dear_ones, execute, jobs
from comity.evaluation.preference_runs import (
    ITEMS,
    PREFERENCE_MODES,
    PreferenceMode,
    PreferencePlan,
    PreferenceRun,
)
from comity.evaluation.preference_score import broken, flips, follow, judge_checks
from comity.evaluation.preference_words import words_by_mode
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.models.scripted import ScriptedModel
from comity.records import Check, Preference, Request, Rule

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
BASIC: tuple[PreferenceMode, ...] = ("none", "plain", "meta_prompt")


def question(**fields: Any) -> PreferenceQuestion:
    """Brief or at length, decided by code; the provider says the same to both."""
    brief, long = (
        {
            "meta": {"system_info": "You sell bread.", "preferences": [{"text": text}]},
            "explicit": True,
            "family": "helpful",
            "wish": text,
            "check": check,
        }
        for text, check in (
            ("Be brief.", {"longest_words": 3}),
            ("Explain at length.", {"shortest_words": 4}),
        )
    )
    given = {"id": "bread", "question": "Why does bread rise?", "wishes": [brief, long]}
    return PreferenceQuestion.model_validate(given | fields)


def opinions() -> PreferenceQuestion:
    """For or against, decided by a judge."""
    wishes = [
        {
            "meta": {"user_info": f"I {feel} noise."},
            "explicit": False,
            "family": "diverse",
            "wish": f"The answer is {side} fireworks.",
        }
        for feel, side in (("love", "for"), ("hate", "against"))
    ]
    return PreferenceQuestion.model_validate(
        {"id": "noise", "question": "Should there be fireworks?", "wishes": wishes}
    )


CASE = RuleCase.model_validate(
    {
        "id": "leash",
        "rule": "leash",
        "question": "May my dog run free in the park?",
        "scope": {"at": "2026-07-01"},
        "meta": {"preferences": [{"text": "Be generous to dogs."}]},
        "check": {"must_not_match": "(?i)^yes"},
    }
)


def obeys(request: Request) -> str:
    """Writes what the prompt wishes, and breaks rules for who wants a yes."""
    said = "\n".join(turn.content for turn in request.messages)
    if request.json_schema is not None:
        return '{"inferred": []}'
    if "dog" in request.messages[-1].content:
        return "Yes, it may." if "generous to dogs" in said else "No, keep it on a leash."
    if "fireworks" in request.messages[-1].content:
        return "I am for them." if "love" in said else "I am against them."
    return "Yeast." if "Be brief" in said else "Yeast makes gas, and the gas makes the dough rise."


def reads(request: Request) -> str:
    """A judge that reads: chooses the wish that speaks of the answer's side."""
    text = request.messages[-1].content
    side = "against" if "I am against" in text else "for"
    first, second = text.find(f"is {side} fireworks"), text.rfind(" fireworks.")
    return "A" if first + len(f"is {side}") < second else "B"


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory.open("sqlite://", embedder=HashEmbedder()) as opened:
        opened.add([Rule(id="leash", text="Dogs in the park are kept on a leash.")])
        yield opened


def examinee(memory: Memory, model: ScriptedModel | None = None) -> Examinee:
    return Examinee(
        model=model or ScriptedModel(obeys), memory=memory, options=Options(max_tokens=40)
    )


def plan(**fields: Any) -> PreferencePlan:
    given: dict[str, Any] = {
        "model": "m",
        "judge": "j",
        "modes": BASIC,
        "cases_sha256": "ab",
        "rule_cases_sha256": "cd",
        "questions": ("bread", "noise"),
        "rule_cases": ("leash",),
        "started": NOW,
    }
    return PreferencePlan(**given | fields)


def sit(
    folder: Path,
    memory: Memory,
    *,
    modes: Sequence[PreferenceMode] = BASIC,
    judge: ScriptedModel | None = None,
    model: ScriptedModel | None = None,
    questions: Sequence[PreferenceQuestion] | None = None,
    resume: bool = False,
    adapter: bool = False,
) -> PreferenceRun:
    """The whole exam, run in a folder."""
    todo = list(jobs(questions or (question(), opinions()), (CASE,), modes))
    with PreferenceRun.begin(folder, plan(modes=tuple(modes)), resume=resume) as run:
        who = examinee(memory, model)._replace(adapter=ScriptedModel(obeys) if adapter else None)
        asyncio.run(execute(run, todo, who, judge or ScriptedModel(reads)))
    return run


def test_every_mode_gets_the_same_words_and_none_only_the_providers(memory: Memory) -> None:
    asked = question()
    sent = {
        mode: asyncio.run(put_wish(examinee(memory), asked, 0, mode)).asked[-1] for mode in BASIC
    }
    said = {mode: [turn.content for turn in turns] for mode, turns in sent.items()}
    assert said["none"] == ["You sell bread.", "Why does bread rise?"]
    assert said["plain"] == ["You sell bread.\nBe brief.", "Why does bread rise?"]
    system, user = said["meta_prompt"]
    assert "You sell bread." in system
    assert user.startswith("How I want the answer: Be brief.")
    assert user.endswith("\n\nWhy does bread rise?")


def test_the_plain_prompt_says_all_of_the_provider_then_all_of_the_user() -> None:
    meta = (
        question()
        .wishes[0]
        .meta.model_copy(
            update={
                "user_info": "I am a baker.",
                "preferences": (
                    Preference(text="Be brief."),
                    Preference(text="Speak of bread only.", by="provider"),
                ),
            }
        )
    )
    assert provider_words(meta) == "You sell bread.\nSpeak of bread only."
    assert all_words(meta).splitlines()[2:] == ["I am a baker.", "Be brief."]


def test_without_wishes_a_rule_case_is_put_under_the_same_rules(memory: Memory) -> None:
    bare, wished = (
        "\n".join(
            turn.content
            for turn in asyncio.run(put_rule_case(examinee(memory), CASE, mode)).asked[-1]
        )
        for mode in ("none", "meta_prompt")
    )
    assert "Dogs in the park are kept on a leash." in bare
    assert "Dogs in the park are kept on a leash." in wished
    assert ("generous to dogs" in bare, "generous to dogs" in wished) == (False, True)


def test_a_model_that_follows_wishes_gains_and_flips(tmp_path: Path, memory: Memory) -> None:
    items = sit(tmp_path / "run", memory).latest().values()
    shares = {one.mode: (one.share, one.decided) for one in follow(items)}
    assert shares == {"none": (0.5, 4), "plain": (1.0, 4), "meta_prompt": (1.0, 4)}
    assert {one.mode: one.rate for one in flips(items)} == {
        "none": 0.0,
        "plain": 1.0,
        "meta_prompt": 1.0,
    }
    assert judge_checks(items).consistency == 1.0


def test_a_rule_broken_for_a_wish_is_found(tmp_path: Path, memory: Memory) -> None:
    items = sit(tmp_path / "run", memory).latest().values()
    found = {one.mode: (one.broken, one.asked, one.in_force) for one in broken(items)}
    assert found == {"none": (0, 1, 1), "meta_prompt": (1, 1, 1)}


def test_the_question_alone_is_asked_once_where_the_provider_says_the_same(
    tmp_path: Path, memory: Memory
) -> None:
    model = ScriptedModel(obeys)
    run = sit(tmp_path / "run", memory, modes=("none",), model=model, questions=[question()])
    wishes = [item for item in run.items() if item.part == "wish"]
    assert [item.reused for item in wishes] == [False, True]
    assert [item.follows for item in wishes] == [False, True]
    assert len(model.requests) == 2  # the other is the rule case


def test_a_judge_that_always_prefers_the_first_decides_nothing(
    tmp_path: Path, memory: Memory
) -> None:
    items = sit(tmp_path / "run", memory, judge=ScriptedModel(["A"])).latest().values()
    found = judge_checks(items)
    assert (found.verdicts, found.first_twice, found.consistency) == (6, 6, 0.0)
    judged = [item for item in items if item.question == "noise"]
    assert {item.follows for item in judged} == {None}
    assert [one.turned for one in follow(judged)] == [2, 2, 2]
    assert [one.share for one in follow(judged)] == [None, None, None]


def test_a_judge_that_fails_leaves_a_kept_verdict_and_the_run_goes_on(
    tmp_path: Path, memory: Memory
) -> None:
    judge = ScriptedModel(["A"], error=ModelError("the judge is out"))
    run = sit(tmp_path / "run", memory, judge=judge)
    failed = [item for item in run.items() if item.question == "noise"]
    assert len(failed) == 6
    assert all(item.followed and item.followed.verdict == "failed" for item in failed)
    assert all(item.followed and "judge is out" in item.followed.reasons[0] for item in failed)


def test_a_run_that_was_cut_off_goes_on_and_asks_nothing_twice(
    tmp_path: Path, memory: Memory
) -> None:
    answered = iter(range(5))

    def tires(request: Request) -> str:
        if next(answered, None) is None:
            raise ModelError("gone")
        return obeys(request)

    sit(tmp_path / "run", memory, modes=("adapter",), questions=[question()], adapter=True)
    with pytest.raises(ExamError, match=r"--resume.*gone") as stopped:
        sit(tmp_path / "run", memory, model=ScriptedModel(tires), resume=True)
    kept = [item for item in PreferenceRun.read(tmp_path / "run").items() if item.mode in BASIC]
    assert f"stopped after {len(kept)} of 14 answers" in str(stopped.value)
    file = tmp_path / "run" / ITEMS
    before = file.read_bytes()
    file.write_bytes(before + b'{"part": "wi')  # as a crash leaves it
    run = sit(tmp_path / "run", memory, resume=True)
    assert file.read_bytes().startswith(before)
    keys = [item.key for item in run.items()]
    assert len(keys) == len(set(keys)) == 14 + 3


def test_modes_may_come_on_and_nothing_else_may_differ(tmp_path: Path, memory: Memory) -> None:
    sit(tmp_path / "run", memory, modes=("none",))
    run = sit(tmp_path / "run", memory, modes=("plain",), resume=True)
    assert run.plan.modes == ("none", "plain")
    with pytest.raises(ExamError, match=r"begun otherwise .seed was 0, not 7."):
        PreferenceRun.begin(tmp_path / "run", plan(seed=7), resume=True)
    with pytest.raises(ExamError, match="questions held noise"):
        PreferenceRun.begin(tmp_path / "run", plan(questions=("bread",)), resume=True)
    with pytest.raises(ExamError, match="holds a run already"):
        PreferenceRun.begin(tmp_path / "run", plan())


def test_words_may_change_for_modes_that_come_on_and_for_no_others(tmp_path: Path) -> None:
    begun = plan(modes=("none", "meta_prompt"), words={"none": "a", "meta_prompt": "a"})
    PreferenceRun.begin(tmp_path / "run", begun).close()
    later = plan(modes=("refined",), words={"none": "a", "meta_prompt": "a", "refined": "b"})
    with PreferenceRun.begin(tmp_path / "run", later, resume=True) as run:
        assert run.plan.words == {"none": "a", "meta_prompt": "a", "refined": "b"}
    other = plan(modes=("contrast",), words={"none": "a", "meta_prompt": "c", "refined": "b"})
    with pytest.raises(ExamError, match="mode meta_prompt was answered under other words"):
        PreferenceRun.begin(tmp_path / "run", other, resume=True)


def test_a_plan_that_kept_less_is_taken_as_it_is(tmp_path: Path) -> None:
    PreferenceRun.begin(tmp_path / "run", plan()).close()
    now = plan(words={"meta_prompt": "a"}, cases_asked="x", rule_cases_asked="y")
    with PreferenceRun.begin(tmp_path / "run", now, resume=True) as run:
        assert (run.plan.cases_asked, run.plan.words) == ("x", {})
    with pytest.raises(ExamError, match="cases_asked was x, not z"):
        PreferenceRun.begin(
            tmp_path / "run", now.model_copy(update={"cases_asked": "z"}), resume=True
        )


def test_a_check_is_no_part_of_what_was_asked() -> None:
    first = question()
    wishes = [one.model_copy(update={"check": None, "family": "diverse"}) for one in first.wishes]
    assert asked_digest([first]) == asked_digest([first.model_copy(update={"wishes": wishes})])
    put_otherwise = first.model_copy(update={"question": "Why does it?"})
    assert asked_digest([first]) != asked_digest([put_otherwise])
    wanted = [first.wishes[0].model_copy(update={"wish": "Short."}), first.wishes[1]]
    assert asked_digest([first]) != asked_digest([first.model_copy(update={"wishes": wanted})])
    assert asked_digest([CASE]) == asked_digest(
        [CASE.model_copy(update={"check": Check(must_match="no")})]
    )


def test_every_mode_that_the_aligner_puts_has_a_version_of_its_words() -> None:
    words = words_by_mode(rule_cases=True)
    assert set(words) == set(PREFERENCE_MODES) - {"plain"}
    assert len({words["none"], words["meta_prompt"], words["refined"]}) == 3
    assert "none" not in words_by_mode(rule_cases=False)


def test_one_process_writes_a_run_at_a_time(tmp_path: Path) -> None:
    with (
        PreferenceRun.begin(tmp_path / "run", plan()),
        pytest.raises(ExamError, match="another process"),
    ):
        PreferenceRun.begin(tmp_path / "run", plan(), resume=True)


def test_a_damaged_line_is_named(tmp_path: Path, memory: Memory) -> None:
    run = sit(tmp_path / "run", memory, modes=("none",))
    file = tmp_path / "run" / ITEMS
    file.write_bytes(b"{}\n" + file.read_bytes())
    with pytest.raises(ExamError, match=r"answers\.jsonl, line 1: part"):
        list(run.items())


def test_dear_modes_are_asked_a_drawn_share(memory: Memory) -> None:
    many = [question(id=f"q{n}") for n in range(10)]
    dear = dear_ones(many, (CASE,), 0.3, seed=1)
    assert len(dear) == 4
    assert dear == dear_ones(many, (CASE,), 0.3, seed=1)
    asked = list(jobs(many, (CASE,), ("plain", "contrast"), dear))
    assert sum(job.mode == "contrast" for job in asked) == 3 * 2 + 1
    assert sum(job.mode == "plain" for job in asked) == 10 * 2


def test_what_a_mode_lacks_is_said(memory: Memory) -> None:
    with pytest.raises(ExamError, match="--adapter-model"):
        model_of(examinee(memory), "adapter")
    with pytest.raises(SettingsError, match="does not tell its next token"):
        model_of(examinee(memory), "contrast")
    with pytest.raises(ExamError, match="no mode plain"):
        asyncio.run(put_rule_case(examinee(memory), CASE, "plain"))


def test_the_adapters_model_answers_in_its_mode(memory: Memory) -> None:
    trained = ScriptedModel(["Trained."], name="trained")
    put = asyncio.run(
        put_wish(examinee(memory)._replace(adapter=trained), question(), 0, "adapter")
    )
    assert (put.reply.text, put.reply.model) == ("Trained.", "trained")
