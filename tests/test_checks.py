"""What code and a judge find in an answer, and what is said of what nobody checked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.alignment.checks import Judge, by_code, check, needs_judge
from comity.errors import ModelError, RuleError
from comity.memory.patterns import check_patterns
from comity.models.scripted import ScriptedModel
from comity.records import Check, Enforcement, Finding, Rule


def rule(name: str, enforcement: Enforcement = "block", **how: Any) -> Rule:
    made = Check.model_validate(how) if how else None
    return Rule(id=name, text=f"Keep to {name}.", enforcement=enforcement, check=made)


async def outcomes(answer: str, *rules: Rule, judge: Judge | None = None) -> list[Finding]:
    return list(await check("Why?", answer, rules, rules, judge))


def judging(**verdicts: str) -> Judge:
    """Judges by the numbers of the criteria; quotes the answer's first word."""

    def answer(request: object) -> str:
        said = {
            name: {"critique": f"{name} it is.", "quotation": "Half", "verdict": verdict}
            for name, verdict in verdicts.items()
        }
        return json.dumps(said)

    return Judge(ScriptedModel(answer, name="judge-1"))


@pytest.mark.parametrize(
    ("how", "answer", "reason"),
    [
        ({"must_not_match": r"(?i)\d+ ?mg"}, "Take 20 MG a day.", "it says '20 MG'"),
        ({"must_match": r"0800"}, "Call us.", "nothing in it matches '0800'"),
        ({"must_contain": "Ask a  doctor."}, "Ask nobody.", "it does not say 'Ask a  doctor.'"),
        ({"longest": 5}, "Too long", "it is longer than 5 characters"),
    ],
)
async def test_code_finds_what_breaks_a_rule(how: dict[str, Any], answer: str, reason: str) -> None:
    (found,) = await outcomes(answer, rule("r", **how))
    assert (found.outcome, found.by, found.reason) == ("violated", "code", reason)
    assert (found.rule, found.version, found.enforcement) == ("r", 1, "block")


@pytest.mark.parametrize(
    ("how", "answer"),
    [
        ({"must_not_match": r"\d+ ?mg"}, "Take it twice."),
        ({"must_match": r"0800"}, "Call 0800."),
        ({"must_contain": "Ask a doctor."}, "So: ask  a\ndoctor. Soon."),
        ({"longest": 5}, "Short"),
    ],
)
async def test_code_says_passed_only_of_what_it_checked(how: dict[str, Any], answer: str) -> None:
    (found,) = await outcomes(answer, rule("r", **how))
    assert (found.outcome, found.by, found.reason) == ("passed", "code", "")


async def test_a_rule_that_only_advises_is_not_checked_at_all() -> None:
    assert await outcomes("20 mg", rule("r", "advise", must_not_match="mg")) == []


async def test_without_a_judge_what_code_cannot_tell_is_not_checked() -> None:
    both = rule("both", must_match="Half", judge="Is it kind?")
    plain, asked = await outcomes("Half", rule("plain"), both)
    assert (plain.outcome, plain.by) == ("not_checked", "nobody")
    assert (asked.outcome, asked.reason) == ("not_checked", "no judge model is set")


async def test_a_judge_is_asked_once_about_all_rules_that_code_leaves_to_it() -> None:
    judge = judging(C1="passed", C2="violated")
    rules = [
        rule("plain"),
        rule("code", must_not_match="x"),
        rule("both", must_match="Half", judge="Is it kind?"),
        rule("broken", must_match="Whole", judge="Is it kind?"),
    ]
    found = await outcomes("Half an answer", *rules, judge=judge)
    told = {each.rule: (each.outcome, each.by) for each in found}
    assert told == {
        "plain": ("passed", "judge"),
        "code": ("passed", "code"),
        "both": ("violated", "judge"),
        "broken": ("violated", "code"),
    }
    both = next(each for each in found if each.rule == "both")
    assert (both.critique, both.quotation) == ("C2 it is.", "Half")
    assert both.judge.startswith("judge-1, en-")
    assert isinstance(judge.model, ScriptedModel)
    assert len(judge.model.requests) == 1


@pytest.mark.parametrize(
    "model",
    [
        ScriptedModel("no JSON"),
        ScriptedModel("", error=ModelError("unreachable")),
        ScriptedModel(["{}"], delay=5),
    ],
    ids=["off-schema", "down", "late"],
)
async def test_a_judge_that_fails_is_a_finding_and_no_pass(model: ScriptedModel) -> None:
    (found,) = await outcomes("Half", rule("r"), judge=Judge(model, timeout=0.05))
    assert (found.outcome, found.by) == ("failed", "nobody")
    assert found.reason


async def test_a_verdict_on_words_that_the_answer_does_not_hold_is_failed() -> None:
    (found,) = await outcomes("Whole", rule("r"), judge=judging(C1="passed"))
    assert (found.outcome, found.reason) == ("failed", "the quotation is not in the answer")


async def test_a_citation_of_a_rule_that_was_not_given_is_a_finding() -> None:
    (found,) = await outcomes("So it is [R1], and [R7].", rule("r", "advise"))
    assert (found.rule, found.version, found.outcome) == ("[R7]", 0, "violated")
    assert found.reason == "the answer cites [R7], and was given 1 rules"


def test_a_beginning_breaks_what_it_says_and_not_what_it_may_still_say() -> None:
    rules = [rule("mg", must_not_match="mg"), rule("call", must_match="0800")]
    assert by_code("Take", rules) == ()
    assert [each.rule for each in by_code("Take 5 mg", rules)] == ["mg"]


@pytest.mark.parametrize("pattern", ["(", r"(?=look)", r"(a)\1", "a" * 2001])
def test_a_pattern_that_cannot_be_used_names_the_rule_and_the_field(pattern: str) -> None:
    with pytest.raises(RuleError, match=r"rule 'r': check\.must_match "):
        check_patterns(rule("r", must_match=pattern))


@given(st.text(), st.integers(1, 40))
def test_a_finding_is_passed_or_violated_as_the_length_says(answer: str, longest: int) -> None:
    (found, *_) = (*by_code(answer, [rule("r", longest=longest)]), None)
    assert (found is None) == (len(answer) <= longest)


def test_an_empty_check_leaves_the_rule_to_a_judge() -> None:
    assert needs_judge(Rule(id="r", text="Be kind.", check=Check()))
    assert not needs_judge(rule("r", longest=3))
