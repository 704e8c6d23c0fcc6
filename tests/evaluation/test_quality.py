"""The judge of a question, and the trial of it by a model that takes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from comity.errors import ModelError, ModelMissing, ModelTimeout
from comity.evaluation.exams import Question
from comity.evaluation.quality import (
    Trial,
    Verdict,
    judge_question,
    judge_version,
    trial,
    trial_version,
)
from comity.models.scripted import ScriptedModel
from comity.records import Reply, Request, Rule, Scope
from comity.wording import words_of

RULE = Rule(
    id="bells/2",
    title="Bell Order of Merrow",
    article="Article 2",
    text="Bells are silent from ten at night until six.",
    place="XA-ME",
    audience=("sextons",),
    valid_from=datetime(2031, 5, 1, tzinfo=UTC),
)
QUESTION = Question(
    id="q1",
    stem="Until when must the sexton in Merrow leave the bells alone?",
    options=("Until five", "Until six", "Until noon", "For ever"),
    answer="B",
    analysis="Option B is right: bells are silent until six.",
    scope=Scope(place=("XA-ME",), at=datetime(2031, 6, 1, tzinfo=UTC)),
)
GOOD = {
    "critique": "Only six fits.",
    "stem": True,
    "one_right": True,
    "analysis": True,
    "answer": True,
}


def says(**changes: object) -> ScriptedModel:
    return ScriptedModel([json.dumps({**GOOD, **changes})], name="judge-x")


async def verdict_of(model: ScriptedModel, question: Question = QUESTION) -> Verdict:
    return await judge_question(model, question, [RULE])


async def test_a_question_passes_when_all_four_checks_hold() -> None:
    verdict = await verdict_of(says())
    assert verdict.passed
    assert verdict.faults == ()
    assert (verdict.judge, verdict.critique) == ("judge-x", "Only six fits.")
    assert verdict.version == judge_version(words_of("quality", "en"))


@pytest.mark.parametrize("check", ["stem", "one_right", "analysis", "answer"])
async def test_one_check_that_does_not_hold_fails_the_question(check: str) -> None:
    verdict = await verdict_of(says(**{check: False}))
    assert not verdict.passed
    (fault,) = verdict.faults
    assert fault.startswith("The judge says: ")
    assert getattr(verdict, check) is False


async def test_the_judge_sees_rules_question_answer_and_analysis_in_one_call_at_zero() -> None:
    model = says()
    await verdict_of(model)
    (request,) = model.requests
    said = "\n".join(message.content for message in request.messages)
    for part in (
        "[1] Bell Order of Merrow Article 2 (place: XA-ME; binds: sextons; since 2031-05-01)",
        "Bells are silent from ten at night until six.",
        "Asked for: place: XA-ME; on 2031-06-01.",
        QUESTION.stem,
        "C. Until noon",
        "Answer by the author: B. Until six",
        QUESTION.analysis,
    ):
        assert part in said
    assert request.temperature == 0
    assert request.json_schema is not None


async def test_the_critique_is_written_before_the_verdicts() -> None:
    model = says()
    await verdict_of(model)
    schema = model.requests[0].json_schema or {}
    assert list(schema["properties"]) == ["critique", "stem", "one_right", "analysis", "answer"]
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "answer",
    [
        "All four are fine.",
        "",
        json.dumps({name: value for name, value in GOOD.items() if name != "answer"}),
        json.dumps({**GOOD, "answer": "yes"}),
        json.dumps({**GOOD, "answer": 1}),
        json.dumps({**GOOD, "critique": ""}),
        json.dumps({**GOOD, "more": True}),
    ],
)
async def test_a_judge_that_answers_off_schema_is_kept_as_failed(answer: str) -> None:
    verdict = await verdict_of(ScriptedModel([answer]))
    assert not verdict.passed
    assert "does not follow the schema" in verdict.failed
    assert verdict.faults == (f"The judge gave no verdict: {verdict.failed}",)


@pytest.mark.parametrize("error", [ModelMissing("no such model"), ModelError("refused")])
async def test_a_judge_that_cannot_be_asked_is_no_verdict_but_an_error(error: ModelError) -> None:
    with pytest.raises(type(error), match=str(error)):
        await verdict_of(ScriptedModel(["x"], error=error))
    with pytest.raises(ModelError, match="cut before its end"):
        await verdict_of(ScriptedModel([json.dumps(GOOD)], cut_after=1))
    with pytest.raises(type(error), match=str(error)):
        await trial(ScriptedModel(["B"], error=error), QUESTION, [RULE])


async def test_a_judge_whose_answer_reached_its_limit_is_kept_as_failed() -> None:
    class Cut(ScriptedModel):
        def _reply(self, request: Request, text: str) -> Reply:
            whole = super()._reply(request, text)
            return whole.model_copy(update={"finish_reason": "length"})

    verdict = await verdict_of(Cut([json.dumps(GOOD)]))
    assert (verdict.passed, "length" in verdict.failed) == (False, True)


async def test_a_judge_that_is_too_slow_is_kept_as_failed() -> None:
    verdict = await verdict_of(ScriptedModel([""], error=ModelTimeout("silent for 5 seconds")))
    assert (verdict.passed, verdict.failed) == (False, "silent for 5 seconds")


async def test_a_verdict_that_failed_passes_nothing_whatever_its_checks_say() -> None:
    claims = Verdict(
        stem=True, one_right=True, analysis=True, answer=True, judge="j", version="v", failed="why"
    )
    assert not claims.passed
    assert Verdict.model_validate_json(claims.model_dump_json()) == claims


async def test_a_chinese_question_is_judged_in_chinese() -> None:
    model = says()
    question = QUESTION.model_copy(
        update={"stem": "钟声应当停到几点？", "options": ("五点", "六点"), "analysis": ""}
    )
    verdict = await verdict_of(model, question)
    assert "命题人的解析：（无）" in model.requests[0].messages[1].content
    versions = [judge_version(words_of("quality", language)) for language in ("zh", "en")]
    assert verdict.version == versions[0] != versions[1]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_judges_version_changes_with_any_word_of_its_prompt(language: str) -> None:
    words = words_of("quality", language)
    changed = {**words, "judge": {**words["judge"], "no_analysis": "(nothing)"}}
    assert judge_version(words) != judge_version(changed)
    assert trial_version(words) == trial_version(changed)
    elsewhere = {**words, "trial": {"with_rules": "Else."}}
    assert judge_version(words) == judge_version(elsewhere)
    assert trial_version(words) != trial_version(elsewhere)


def test_both_languages_have_the_same_words() -> None:
    english, chinese = words_of("quality", "en"), words_of("quality", "zh")
    assert {name: set(table) for name, table in english.items()} == {
        name: set(table) for name, table in chinese.items()
    }


def taker(with_rules: str, alone: str) -> ScriptedModel:
    """Picks by the option's text with rules and alone, or always the same letter."""

    def answer(request: Request) -> str:
        asked = request.messages[-1].content
        picks = with_rules if RULE.text in asked else alone
        if len(picks) == 1:
            return picks
        return next(line[0] for line in asked.splitlines() if line.endswith(picks))

    return ScriptedModel(answer, name="taker")


async def test_a_question_passes_that_needs_its_rules_and_can_be_answered_with_them() -> None:
    model = taker("Until six", "Until noon")
    tried = await trial(model, QUESTION, [RULE])
    assert tried.with_rules == ("Until six", "Until six")
    assert (tried.options_only, tried.faults) == (("Until noon",), ())
    assert all(request.choices == ("A", "B", "C", "D") for request in model.requests)


async def test_a_question_that_its_rules_do_not_answer_is_a_fault() -> None:
    tried = await trial(taker("Until noon", "Until noon"), QUESTION, [RULE])
    assert tried.with_rules == ("Until noon",)
    assert tried.faults == ("With its rules taker answers 'Until noon'.",)


async def test_a_right_letter_in_one_order_of_the_options_is_luck_and_a_fault() -> None:
    tried = await trial(taker("B", "Until noon"), QUESTION, [RULE])
    assert tried.with_rules[0] == "Until six" != tried.with_rules[1]
    assert len(tried.faults) == 1


async def test_a_right_option_that_is_found_in_every_order_is_a_fault() -> None:
    model = taker("Until six", "Until six")
    tried = await trial(model, QUESTION, [RULE])
    assert tried.options_only == ("Until six",) * 4
    assert tried.faults == ("taker finds the right option without stem and rules, in any order.",)
    alone = [request.messages[-1].content for request in model.requests[2:]]
    assert len(set(alone)) == 4
    assert not any(QUESTION.stem in text or RULE.text in text for text in alone)


async def test_a_letter_that_is_always_picked_finds_nothing() -> None:
    tried = await trial(taker("Until six", "B"), QUESTION, [RULE])
    assert tried.options_only == ("Until six", "Until noon")
    assert tried.faults == ()


async def test_a_trial_whose_model_is_too_slow_is_kept_and_is_no_pass() -> None:
    tried = await trial(ScriptedModel(["B"], error=ModelTimeout("silent")), QUESTION, [RULE])
    assert tried.faults == ("The trial failed: silent",)


async def test_a_trial_whose_model_names_no_letter_is_kept_and_is_no_pass() -> None:
    tried = await trial(ScriptedModel(["I would rather not say."]), QUESTION, [RULE])
    assert tried.faults[0].startswith("The trial failed: scripted chose no option")


def test_a_trial_without_guesses_is_no_pass() -> None:
    nothing = Trial(model="m", right="Until six", with_rules=("Until six", "Until six"))
    assert nothing.faults != ()
