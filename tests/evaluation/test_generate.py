"""Exam questions written by a model from rules: which rules, what is asked, what becomes of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comity.errors import (
    ExamError,
    ModelError,
    ModelMissing,
    ModelTimeout,
    NotFound,
    UnknownPlace,
)
from comity.evaluation.exams import Question, Rejected, read_exam, write_exam
from comity.evaluation.gather import NEIGHBOUR, Wanted, coverage, gather
from comity.evaluation.generate import drafts, rejected_file, write_exam_files, write_made
from comity.evaluation.question_form import form_faults
from comity.evaluation.question_set import set_faults
from comity.evaluation.settle import Generated, Outcome, by_model, settle
from comity.evaluation.write import own_seeds, write, writer_version
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.memory.store import PlaceNames
from comity.models.chat import estimate_tokens
from comity.models.scripted import ScriptedModel
from comity.records import Reply, Request, Rule, RuleRef, Scope

THINGS = ("sledges", "kites", "canoes", "ladders", "looms", "bells", "kilns", "sundials", "stilts")


def rule(number: int, title: str = "Fair Act", **fields: object) -> Rule:
    thing = THINGS[number % len(THINGS)]
    text = f"Whoever lets {thing} to visitors returns the deposit within {number + 2} days."
    return Rule.model_validate(
        {"id": f"{title}/{number}", "title": title, "article": f"Article {number}", "text": text}
        | fields
    )


def written(stem: str, thing: str = "things", **changes: str) -> str:
    """The model's answer; answers about different things resemble one another in little."""
    fields = {"stem": stem, "right": f"Right: {thing}, {thing[::-1]}.", "analysis": "So it says."}
    fields |= {f"wrong_{n}": f"{thing[n:]} and {thing[::-1][n:]}: {n}." for n in (1, 2, 3)}
    return json.dumps(fields | changes)


JUDGED = {"critique": "Sound.", "stem": True, "one_right": True, "analysis": True, "answer": True}


def answering(*, stem: str = "What about {thing}?", **judged: bool | str) -> ScriptedModel:
    """Writes about the first rule's thing, judges as told, and takes the trial well."""

    def answer(request: Request) -> str:
        asked = request.messages[-1].content
        if request.choices:
            right = re.search(r"^([A-D])\. Right", asked, re.MULTILINE)
            return right.group(1) if right and "deposit within" in asked else "A"
        assert request.json_schema is not None
        if "critique" in request.json_schema["properties"]:
            return json.dumps(JUDGED | judged)
        found = re.search(r"\[1\].*?lets (\w+)", asked)
        thing = found.group(1) if found else "things"
        return written(stem.format(thing=thing), thing)

    return ScriptedModel(answer)


def writer_requests(model: ScriptedModel) -> list[Request]:
    return [r for r in model.requests if r.json_schema and "right" in r.json_schema["properties"]]


async def outcomes(
    memory: Memory, model: ScriptedModel, wanted: Wanted, *, judge: ScriptedModel | None = None
) -> list[Outcome]:
    """What became of all drafts, the rejected ones first."""
    found = [outcome async for _, outcome in drafts(memory, model, wanted, judge=judge)]
    settled = settle(found, wanted.seed)
    return [*settled.rejected, *settled.questions]


def ids(groups: list[tuple[Rule, ...]]) -> list[list[str]]:
    return [[each.id for each in group] for group in groups]


# Which rules


def test_only_rules_in_force_are_gathered_in_the_version_that_holds(memory: Memory) -> None:
    now = memory.clock()
    memory.add(
        [
            rule(1),
            rule(2, status="draft"),
            rule(3, valid_to=now - timedelta(days=1)),
            rule(4, valid_from=now + timedelta(days=1)),
            rule(5),
            rule(6),
        ]
    )
    memory.repeal("Fair Act/5")
    memory.amend("Fair Act/1", {"text": "Whoever lets sledges returns the deposit after 9 days."})
    memory.amend("Fair Act/6", {"valid_from": now + timedelta(days=9)})
    keys = {each.key for group in gather(memory, Wanted(count=9)) for each in group}
    assert keys == {("Fair Act/1", 2), ("Fair Act/6", 1)}


def test_domain_place_and_audience_narrow_what_is_drawn(memory: Memory) -> None:
    memory.add(
        [
            rule(1, place="CN-HN", domain="trade", audience=("Lettery",)),
            rule(2, place="CN", domain="trade", audience=("Lettery",)),
            rule(3, place="CN-HN", domain="noise", audience=("Lettery",)),
            rule(4, place="CN-HN", domain="trade"),
        ]
    )
    wanted = Wanted(count=3, place="Hunan", domain="Trade", audience=("lettery",))
    assert {group[0].id for group in gather(memory, wanted)} == {"Fair Act/1"}


def test_another_tenants_rules_are_not_seen(memory: Memory) -> None:
    memory.add(rule(1))
    memory.add(rule(2, tenant="guild"))
    assert ids(list(gather(memory, Wanted(count=1, tenant="guild")))) == [["Fair Act/2"]]
    with pytest.raises(NotFound, match="no tenant 'nobody'"):
        gather(memory, Wanted(count=1, tenant="nobody"))


def test_every_document_has_its_turn_before_the_longest_has_a_second(memory: Memory) -> None:
    long = [rule(n, "Long Act") for n in range(30)]
    memory.add([*long, rule(1, "Short Act"), rule(1, "Other Act")])
    drawn = [group[0].title for group in gather(memory, Wanted(count=6, seed=4))]
    assert sorted(drawn[:3]) == ["Long Act", "Other Act", "Short Act"]
    assert set(drawn[3:]) == {"Long Act"}


def test_when_all_rules_have_been_drawn_they_are_drawn_anew(memory: Memory) -> None:
    memory.add([rule(1), rule(2), rule(3)])
    drawn = Counter(group[0].id for group in gather(memory, Wanted(count=7)))
    assert sorted(drawn.values()) == [2, 2, 3]


def test_neighbours_are_the_nearest_of_the_same_document(memory: Memory) -> None:
    anchor = rule(1, text="Whoever keeps bees registers every hive at the town hall by May.")
    near = rule(2, text="Whoever keeps bees marks every hive with the number of the town hall.")
    nearer_elsewhere = anchor.model_copy(update={"id": "x", "title": "Hive Act"})
    far = rule(3, text="Lamps on boats burn from dusk to dawn in all the canals and ports.")
    memory.add([anchor, far, near, nearer_elsewhere])
    groups = {group[0].id: group for group in gather(memory, Wanted(count=4, max_rules=2))}
    assert [each.id for each in groups["Fair Act/1"]] == ["Fair Act/1", "Fair Act/2"]
    assert [each.id for each in groups["x"]] == ["x"]


def test_a_title_that_two_places_share_is_two_documents(memory: Memory) -> None:
    memory.add([rule(1, place="CN-HN"), rule(2, place="CN-HB"), rule(3, place="CN-HN")])
    for group in gather(memory, Wanted(count=3)):
        assert len({each.place for each in group}) == 1
    places = [document.place for document in coverage(memory, ()).documents]
    assert places == ["CN-HB", "CN-HN"]


def test_a_rule_for_some_is_no_neighbour_of_one_for_everybody(memory: Memory) -> None:
    memory.add([rule(1), rule(2, audience=("porters",))])
    groups = {group[0].id: len(group) for group in gather(memory, Wanted(count=2))}
    assert groups == {"Fair Act/1": 1, "Fair Act/2": 2}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(max_rules=st.integers(1, 6), max_tokens=st.integers(25, 150), seed=st.integers(0, 2**32))
def test_a_group_keeps_to_its_limits_and_holds_no_rule_twice(
    memory: Memory, max_rules: int, max_tokens: int, seed: int
) -> None:
    if memory.revision == 0:
        memory.add([rule(n, title) for n in range(7) for title in ("Fair Act", "Loan Act")])
    wanted = Wanted(count=9, seed=seed, max_rules=max_rules, max_tokens=max_tokens)
    groups = list(gather(memory, wanted))
    assert len(groups) == 9
    for group in groups:
        assert 1 <= len(group) <= max_rules
        assert sum(estimate_tokens(each.text) for each in group) <= max_tokens
        assert len({each.id for each in group}) == len(group)
        assert len({each.title for each in group}) == 1
    assert ids(groups) == ids(list(gather(memory, wanted)))
    more = wanted.model_copy(update={"count": 12})
    assert ids(list(gather(memory, more)))[:9] == ids(groups)


def test_another_seed_draws_otherwise(memory: Memory) -> None:
    memory.add([rule(n) for n in range(9)])
    draws = {str(ids(list(gather(memory, Wanted(count=5, seed=seed))))) for seed in range(5)}
    assert len(draws) > 1


@pytest.mark.parametrize(
    "text", ["Chapter of fairs", "“Hive” means a box for bees.", "集市管理办法"]
)
def test_a_rule_that_says_too_little_is_passed_over_with_the_reason(
    memory: Memory, text: str
) -> None:
    memory.add([rule(1), rule(2, text=text)])
    assert {group[0].id for group in gather(memory, Wanted(count=4))} == {"Fair Act/1"}
    assert "says too little" in coverage(memory, ()).passed_over["Fair Act/2"]


def test_a_rule_that_gives_way_wherever_it_applies_is_passed_over(memory: Memory) -> None:
    memory.add(
        [
            rule(1, authority="custom"),
            rule(2, authority="statute", overrides=("Fair Act/1",)),
            rule(3, authority="custom"),
            rule(4, authority="statute", overrides=("Fair Act/3",), place="CN-HN"),
        ]
    )
    groups = list(gather(memory, Wanted(count=6)))
    assert {group[0].id for group in groups} == {"Fair Act/2", "Fair Act/3", "Fair Act/4"}
    assert "Fair Act/1" not in {each.id for group in groups for each in group}
    reason = coverage(memory, ()).passed_over["Fair Act/1"]
    assert reason == "gives way to 'Fair Act/2' wherever it applies: higher authority"


def test_where_no_rule_is_left_the_error_says_why(memory: Memory) -> None:
    memory.add([rule(1, domain="trade"), rule(2, text="Bees.", domain="bees")])
    with pytest.raises(ExamError, match="2 rules are in force, 1 of them match"):
        gather(memory, Wanted(count=1, domain="bees"))
    with pytest.raises(UnknownPlace):
        gather(memory, Wanted(count=1, place="Atlantis"))


# Coverage


def test_coverage_counts_only_questions_on_the_version_in_force(memory: Memory) -> None:
    memory.add([rule(1), rule(2), rule(3), rule(4, "Loan Act")])
    memory.amend("Fair Act/2", {"text": "Whoever lets canoes keeps the deposit for nine days."})
    questions = [
        question("1", [("Fair Act/1", 1)]),
        question("2", [("Fair Act/2", 1)]),
        question("3", [("Fair Act/3", 1)], status="retired"),
    ]
    found = coverage(memory, questions)
    assert found.covered == ("Fair Act/1",)
    assert found.uncovered == ("Fair Act/2", "Fair Act/3", "Loan Act/4")
    assert [(d.document, len(d.covered), len(d.uncovered)) for d in found.documents] == [
        ("Fair Act", 1, 2),
        ("Loan Act", 0, 1),
    ]
    assert found.share == 0.25


def test_a_question_covers_its_first_rule_and_one_on_two_rules_both(memory: Memory) -> None:
    memory.add([rule(1), rule(2), rule(3), rule(4)])
    refs = [("Fair Act/1", 1), ("Fair Act/2", 1)]
    for kind in ("scenario", "concept", "boundary"):
        asked = question("1", refs, kind=kind)
        assert coverage(memory, [asked]).covered == ("Fair Act/1",)
    for kind in ("precedence", "given"):
        asked = question("1", refs, kind=kind)
        assert coverage(memory, [asked]).covered == ("Fair Act/1", "Fair Act/2")


def test_coverage_is_of_the_rules_that_were_asked_for(memory: Memory) -> None:
    memory.add(
        [rule(1), rule(2, domain="bees"), rule(3, place="CN-HN"), rule(4, audience=("porters",))]
    )
    memory.add(rule(5, tenant="guild"))

    def uncovered(**asked: object) -> tuple[str, ...]:
        wanted = Wanted.model_validate({"count": 1} | asked)
        return coverage(memory, (), wanted).uncovered

    assert len(uncovered()) == 4
    assert uncovered(domain="bees") == ("Fair Act/2",)
    assert uncovered(place="Hunan") == ("Fair Act/3",)
    assert uncovered(audience=("porters",)) == ("Fair Act/4",)
    assert uncovered(tenant="guild") == ("Fair Act/5",)


def test_coverage_of_no_rules_is_no_share(memory: Memory) -> None:
    assert coverage(memory, ()).share is None


def question(name: str, rules: list[tuple[str, int]], **fields: object) -> Question:
    refs = [RuleRef(id=rule_id, version=version) for rule_id, version in rules]
    options = ("Within three days.", "Within four days.", "Within five days.")
    given = {"id": name, "stem": f"{THINGS[len(name)]}: {name}?", "options": options, "answer": "A"}
    return Question.model_validate(given | {"rules": refs} | fields)


# Writing one


async def test_a_question_names_its_rule_versions_its_scope_and_its_origin() -> None:
    rules = [rule(1, version=3, place="CN-HN", audience=("Lettery",)), rule(2, place="CN-HN")]
    wanted = Wanted(count=1, seed=5, kinds=("concept",))
    model = answering()
    made = await write(model, rules, wanted, number=2)
    assert isinstance(made, Question)
    assert [(ref.id, ref.version) for ref in made.rules] == [("Fair Act/1", 3), ("Fair Act/2", 1)]
    assert made.scope == Scope(place="CN-HN", audience=("Lettery",))
    assert [ref.reason for ref in made.rules] == ["", NEIGHBOUR]
    assert made.origin == f"scripted, prompt {writer_version('en')}, seed 5, draft 2"
    assert (made.id, made.kind) == ("5-0002", "concept")
    assert made.options[made.letters.index(made.answer)].startswith("Right")


async def test_a_rule_for_everybody_everywhere_gives_no_scope() -> None:
    made = await write(answering(), [rule(1)], Wanted(count=1), number=1)
    assert isinstance(made, Question)
    assert made.scope is None


async def test_the_right_letter_is_drawn_and_not_always_the_same() -> None:
    wanted = Wanted(count=1)
    made = [await write(answering(), [rule(1)], wanted, number=number) for number in range(1, 31)]
    assert len({each.answer for each in made if isinstance(each, Question)}) == 4


async def test_the_prompt_begins_the_same_and_ends_with_what_differs() -> None:
    model = answering()
    seed_question = own_seeds("en")[0]
    for number, names in ((1, ["Hollin Ford"]), (2, ["Brae"])):
        await write(
            model,
            [rule(number)],
            Wanted(count=1),
            examples=[seed_question],
            number=number,
            names=names,
        )
    first, second = model.requests
    assert first.messages[0] == second.messages[0]
    assert [message.role for message in first.messages] == ["system", "user", "assistant", "user"]
    assert seed_question.stem in first.messages[2].content
    assert "Hollin Ford" in first.messages[-1].content
    assert rule(1).text in first.messages[-1].content
    assert first.seed != second.seed
    assert first.temperature == 0.7
    assert len(" ".join(message.content for message in first.messages).split()) < 450


async def test_rules_in_chinese_are_asked_about_in_chinese() -> None:
    model = ScriptedModel(written("小禾什么时候退还押金？"))
    text = "出租雪橇的人应当在游客离开以后三日内退还押金。"
    made = await write(model, [rule(1, text=text)], Wanted(count=1), number=1)
    assert isinstance(made, Question)
    assert "你根据规则出考题" in model.requests[0].messages[0].content
    assert f"prompt {writer_version('zh')}, " in made.origin
    english = Wanted(count=1, language="en")
    await write(model, [rule(1, text=text)], english, number=1)
    assert "in English" in model.requests[1].messages[-1].content


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I would rather not.", "does not follow the schema: the whole"),
        (written("Why?", right=" "), "does not follow the schema: right"),
        ('{"stem": "Why?"}', "does not follow the schema: right"),
    ],
)
async def test_an_answer_off_schema_is_rejected_and_its_text_kept(text: str, reason: str) -> None:
    wanted = Wanted(count=1)
    made = await write(ScriptedModel(text), [rule(1)], wanted, number=1)
    assert isinstance(made, Rejected)
    assert (made.stage, made.text) == ("model", text)
    assert reason in made.reasons[0]
    assert made.rules == (RuleRef(id="Fair Act/1", version=1),)


class CutOff(ScriptedModel):
    """Ends every answer for want of tokens."""

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        async for item in super().stream(request):
            cut = {"finish_reason": "length"}
            yield item.model_copy(update=cut) if isinstance(item, Reply) else item


async def test_an_answer_that_was_cut_off_is_rejected_however_whole_it_looks() -> None:
    wanted = Wanted(count=1)
    model = CutOff(written("What about kites?"))
    made = await write(model, [rule(1)], wanted, number=1)
    assert isinstance(made, Rejected)
    assert "cut off after 500 tokens" in made.reasons[0]
    assert "What about kites?" in made.text


async def test_a_model_that_fails_makes_a_rejected_draft() -> None:
    model = ScriptedModel("", error=ModelTimeout("scripted was silent for 300 seconds"))
    made = await write(model, [rule(1)], Wanted(count=1), number=1)
    assert isinstance(made, Rejected)
    assert made.reasons == ("scripted was silent for 300 seconds",)


# All of them


async def test_every_draft_ends_as_a_question_or_rejected(memory: Memory) -> None:
    memory.add([rule(n) for n in range(9)])
    made = await outcomes(memory, answering(), Wanted(count=6))
    assert len(made) == 6
    assert all(isinstance(each, Question) for each in made)
    letters = Counter(each.answer for each in made if isinstance(each, Question))
    assert max(letters.values()) - min(letters[letter] for letter in "ABCD") <= 1


@pytest.mark.parametrize(
    ("model", "stage", "reason"),
    [
        (answering(stem="When is it due according to Article 1?"), "form", "Article 1"),
        (answering(one_right=False), "judge", "not exactly one option is right"),
        (answering(critique=""), "judge", "The judge gave no verdict"),
        (ScriptedModel("no JSON"), "model", "does not follow the schema"),
    ],
)
async def test_a_draft_is_rejected_at_its_stage_with_reasons(
    memory: Memory, model: ScriptedModel, stage: str, reason: str
) -> None:
    memory.add(rule(1))
    (made,) = await outcomes(memory, model, Wanted(count=1))
    assert isinstance(made, Rejected)
    assert made.stage == stage
    assert reason in " ".join(made.reasons)
    assert (made.question is None) == (stage == "model")
    assert made.kind in ("scenario", "concept")


async def test_a_question_that_the_rules_do_not_answer_fails_the_trial(memory: Memory) -> None:
    memory.add(rule(1))
    judge = ScriptedModel(
        lambda request: "D" if request.choices else json.dumps(JUDGED), name="judge"
    )
    wanted = Wanted(count=4)
    made = await outcomes(memory, answering(), wanted, judge=judge)
    stages = {each.stage for each in made if isinstance(each, Rejected)}
    assert "answer" in stages
    assert stages <= {"answer", "set"}


async def test_a_stem_that_asks_the_same_again_is_rejected_in_the_set(memory: Memory) -> None:
    memory.add(rule(1))
    made = await outcomes(memory, answering(), Wanted(count=3))
    rejected = [each for each in made if isinstance(each, Rejected)]
    assert [each.stage for each in rejected] == ["set", "set"]
    assert all(each.question for each in rejected)
    assert len(made) == 3


async def test_the_stem_must_name_the_place_in_any_of_its_names(memory: Memory) -> None:
    memory.define_places([PlaceNames(code="XB", names=("Verrow", "Verrow Isles"))])
    memory.add(rule(1, place="XB"))
    wanted = Wanted(count=1)
    (bad,) = await outcomes(memory, answering(), wanted)
    (good,) = await outcomes(
        memory, answering(stem="When, in the Verrow Isles, is it due?"), wanted
    )
    assert isinstance(bad, Rejected)
    assert bad.stage == "form"
    assert isinstance(good, Question)


async def test_a_place_whose_name_another_one_holds_is_not_named(memory: Memory) -> None:
    memory.define_places([PlaceNames(code="XB", names=("Verrow",))])
    memory.define_places([PlaceNames(code="XC", names=("Verrow Major",))])
    memory.add(rule(1, place="XB"))
    stems = ("When, in Verrow Major, is it due?", "When is it due from Verrow to Verrow Major?")
    made = [await outcomes(memory, answering(stem=stem), Wanted(count=1)) for stem in stems]
    assert [isinstance(each, Question) for (each,) in made] == [False, True]


async def test_a_stem_may_name_a_place_inside_that_of_the_rule(memory: Memory) -> None:
    memory.add(rule(1, place="CN-HN"))
    model = answering(stem="Wil in Changsha: what about {thing}?")
    (made,) = await outcomes(memory, model, Wanted(count=1))
    assert isinstance(made, Question)


async def test_the_organisation_that_a_rule_binds_is_given_to_be_named(memory: Memory) -> None:
    memory.add(rule(1, place="CN-HN", audience=("Lettery Works",)))
    model = answering(stem="When does Lettery Works give it back?")
    (made,) = await outcomes(memory, model, Wanted(count=1))
    assert isinstance(made, Question)
    assert (
        "It is about Lettery Works; the stem says so.\n"
        in writer_requests(model)[0].messages[-1].content
    )


async def test_seed_questions_of_the_callers_own_are_the_examples(memory: Memory) -> None:
    memory.add(rule(1))
    model = answering()
    own = question("own", [("x", 1)])
    async for _ in drafts(memory, model, Wanted(count=1), seeds=[own]):
        pass
    assert "ladders: own?" in writer_requests(model)[0].messages[2].content


@pytest.mark.parametrize("kind", ["scenario", "concept"])
async def test_the_example_is_of_the_kind_that_is_wanted(memory: Memory, kind: str) -> None:
    memory.add([rule(n) for n in range(6)])
    model = answering()
    await outcomes(memory, model, Wanted.model_validate({"count": 24, "kinds": [kind]}))
    stems = {seed.stem for seed in own_seeds("en") if seed.kind == kind}
    shown = [json.loads(request.messages[2].content)["stem"] for request in writer_requests(model)]
    assert len(shown) == 24
    assert set(shown) <= stems
    assert len(set(shown)) > 1
    assert len(set(shown[:9])) == 1  # drafts in a row share it, for the prefix cache


async def test_a_model_that_is_gone_stops_the_work_after_three_drafts(memory: Memory) -> None:
    memory.add([rule(n) for n in range(9)])
    gone = ScriptedModel("", error=ModelError("connection refused"))
    with pytest.raises(ModelError, match="no answer for 3 drafts one after another: connection"):
        await outcomes(memory, gone, Wanted(count=9))
    assert len(gone.requests) == 3
    missing = ScriptedModel("", error=ModelMissing("run: comity models pull"))
    with pytest.raises(ModelMissing):
        await outcomes(memory, missing, Wanted(count=1))


class Outage(ScriptedModel):
    """Refuses the requests of these numbers, from 1."""

    def __init__(self, refused: range, model: ScriptedModel) -> None:
        super().__init__(model._answer)
        self._refused = refused

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        if len(self.requests) + 1 in self._refused:
            self.requests.append(request)
            raise ModelError("connection refused")
        async for item in super().stream(request):
            yield item


async def test_a_judge_that_is_gone_stops_the_work_after_three_drafts(memory: Memory) -> None:
    memory.add([rule(n) for n in range(9)])
    gone = ScriptedModel("", error=ModelError("connection refused"))
    with pytest.raises(ModelError, match=r"3 drafts.*The judge failed: connection refused"):
        await outcomes(memory, answering(), Wanted(count=9), judge=gone)
    missing = ScriptedModel("", error=ModelMissing("run: comity models pull"))
    with pytest.raises(ModelMissing):
        await outcomes(memory, answering(), Wanted(count=1), judge=missing)


@pytest.mark.parametrize("judging", [False, True], ids=["writer", "judge"])
async def test_drafts_that_no_model_answered_are_tried_again(
    memory: Memory, tmp_path: Path, judging: bool
) -> None:
    memory.add([rule(n) for n in range(6)])
    wanted, path = Wanted(count=4), tmp_path / "fair.jsonl"
    whole = await write_exam_files(tmp_path / "whole.jsonl", memory, answering(), wanted)
    flaky = Outage(range(1, 3), answering())
    writer, judge = (answering(), flaky) if judging else (flaky, answering())
    first = await write_exam_files(path, memory, writer, wanted, judge=judge)
    assert len(first.questions) == 2
    assert ["refused" in each.reasons[0] for each in first.rejected] == [True, True]
    assert [each.stage for each in first.rejected] == ["judge" if judging else "model"] * 2
    again = await write_exam_files(path, memory, writer, wanted, judge=judge)
    assert {each.id for each in again.questions} == {each.id for each in whole.questions}
    assert again.rejected == ()
    assert rejected_file(path).read_text("utf-8") == ""


async def test_drafts_that_are_done_leave_the_others_as_they_are(memory: Memory) -> None:
    memory.add([rule(n) for n in range(9)])
    wanted = Wanted(count=5)
    whole = [each async for each in drafts(memory, answering(), wanted)]
    rest = [each async for each in drafts(memory, answering(), wanted, done={1, 3})]
    assert rest == [(number, each) for number, each in whole if number not in (1, 3)]


def test_the_share_that_survived_is_of_the_drafts() -> None:
    failed = Rejected(kind="concept", stage="model", reasons=("silent",))
    two = [question(name, [], kind="scenario") for name in ("1", "ladder")]
    boundary = question("code!", [], kind="boundary")
    ambiguous = Rejected(kind="precedence", **AMBIGUOUS)
    settled = settle([*two, failed, failed, boundary, ambiguous], seed=0)
    assert (settled.survived_share, settled.drafts) == (0.5, 4)
    assert Generated(questions=settled.questions[2:]).survived_share is None


def test_a_draft_that_comes_late_does_not_oust_the_one_that_it_resembles() -> None:
    late, there = (question(name, [], kind="scenario", stem="When?") for name in ("1", "2"))
    mended = there.model_copy(update={"analysis": "Mended."})
    settled = settle([late, there], seed=0, there={"2": mended}, given={"2"})
    assert settled.questions == (mended,)
    assert settle([late, there], seed=0).questions[0].id == "1"


AMBIGUOUS: Any = {"stage": "form", "reasons": ("ambiguous",)}


def test_a_rejected_draft_of_an_earlier_version_is_the_models_by_stage_or_question() -> None:
    written = question("1", [], kind="concept")
    assert by_model(Rejected(stage="model", reasons=("silent",)))
    assert by_model(Rejected(question=written, **AMBIGUOUS))
    assert not by_model(Rejected(**AMBIGUOUS))
    assert not by_model(Rejected(question=question("2", [], kind="boundary"), **AMBIGUOUS))


# Files


async def test_an_exam_is_written_with_its_rejected_drafts_beside_it(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add([rule(1), rule(2)])
    seen: list[tuple[int, int, bool]] = []
    made = await write_exam_files(
        tmp_path / "new" / "fair.jsonl",
        memory,
        answering(),
        Wanted(count=3),
        progress=lambda done, of, last: seen.append((done, of, last is None)),
    )
    exam = read_exam(tmp_path / "new" / "fair.jsonl")
    assert exam.questions == made.questions
    assert len(exam.questions) == 2
    lines = (tmp_path / "new" / "fair.rejected.jsonl").read_text("utf-8").splitlines()
    assert [Rejected.model_validate_json(line) for line in lines] == list(made.rejected)
    assert seen == [(0, 3, True), (1, 3, False), (2, 3, False), (3, 3, False)]


async def test_questions_made_without_a_model_join_those_of_the_model(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add([rule(1), rule(2)])
    boundary = question("code", [("Fair Act/1", 1)], kind="boundary", pair="one")
    path = tmp_path / "fair.jsonl"
    settled = await write_exam_files(
        path, memory, answering(), Wanted(count=1), made=[boundary, boundary_twin(boundary)]
    )
    kinds = [each.kind for each in read_exam(path).questions]
    assert kinds[1:] == ["boundary"]
    assert kinds[0] in ("scenario", "concept")
    assert [(each.stage, each.reasons) for each in settled.rejected] == [
        ("set", ("It asks the same as question code.",))
    ]


def boundary_twin(question: Question) -> Question:
    return question.model_copy(update={"id": "twin"})


async def test_a_stopped_exam_goes_on_after_the_drafts_that_are_done(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add([rule(n) for n in range(6)])
    whole = await write_exam_files(tmp_path / "whole.jsonl", memory, answering(), Wanted(count=4))
    path, stopping = tmp_path / "fair.jsonl", answering()

    def stop(done: int, of: int, last: Outcome | None) -> None:
        if done == 2:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await write_exam_files(path, memory, stopping, Wanted(count=4), progress=stop)
    assert not path.exists()
    with (tmp_path / "fair.drafts.jsonl").open("a", encoding="utf-8") as torn:
        torn.write('{"number":3,"ques')
    going_on = answering()
    made = await write_exam_files(path, memory, going_on, Wanted(count=4))
    assert len(writer_requests(stopping)) == len(writer_requests(going_on)) == 2
    assert made == whole


async def test_a_larger_count_adds_to_a_finished_exam_and_a_smaller_one_takes_away(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add([rule(n) for n in range(6)])
    path, model = tmp_path / "fair.jsonl", answering()
    await write_exam_files(path, memory, model, Wanted(count=2))
    await write_exam_files(path, memory, model, Wanted(count=5))
    assert len(writer_requests(model)) == 5
    assert len(read_exam(path).questions) == 5
    await write_exam_files(path, memory, model, Wanted(count=1))
    assert len(read_exam(path).questions) == 1
    assert len(writer_requests(model)) == 5


async def test_drafts_begun_with_other_settings_are_not_continued(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add(rule(1))
    path = tmp_path / "fair.jsonl"
    await write_exam_files(path, memory, answering(), Wanted(count=1, seed=1))
    with pytest.raises(ExamError, match=r"other settings \(seed was 1\)"):
        await write_exam_files(path, memory, answering(), Wanted(count=1, seed=2))


async def test_drafts_are_not_continued_with_other_rules_examples_or_models(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add([rule(1), rule(2)])
    path, wanted = tmp_path / "fair.jsonl", Wanted(count=1)
    await write_exam_files(path, memory, answering(), wanted)
    own = question("own", [("x", 1)])
    with pytest.raises(ExamError, match=r"\(the examples were others\)"):
        await write_exam_files(path, memory, answering(), wanted, seeds=[own])
    with pytest.raises(ExamError, match=r"\(model was 'scripted'\): give the same"):
        write_made(path, [], wanted)
    with Memory.open("sqlite://", embedder=HashEmbedder(32), clock=memory.clock) as other:
        other.add([rule(1), rule(2)])
        with pytest.raises(ExamError, match=r"\(embedder was 'hash.*'\)"):
            await write_exam_files(path, other, answering(), wanted)
    memory.amend("Fair Act/2", {"text": "Whoever lets canoes keeps the deposit for nine days."})
    with pytest.raises(ExamError, match=r"\(the rules in force were others\)"):
        await write_exam_files(path, memory, answering(), wanted)


async def test_drafts_of_an_earlier_version_are_not_continued(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add([rule(1), rule(2)])
    path, file = tmp_path / "fair.jsonl", tmp_path / "fair.drafts.jsonl"
    await write_exam_files(path, memory, answering(), Wanted(count=1))
    head, *rest = file.read_text("utf-8").splitlines()
    old = {k: v for k, v in json.loads(head).items() if k not in ("seeds", "rules", "embedder")}
    file.write_text("\n".join((json.dumps(old), *rest, "")), encoding="utf-8")
    with pytest.raises(ExamError, match="not begun by this version of Comity"):
        await write_exam_files(path, memory, answering(), Wanted(count=2))


async def test_settings_that_led_to_no_draft_bind_nobody(memory: Memory, tmp_path: Path) -> None:
    memory.add(rule(1))
    path = tmp_path / "fair.jsonl"
    with pytest.raises(ExamError, match="no question can be made"):
        await write_exam_files(path, memory, answering(), Wanted(count=1, domain="bees"))
    assert (await write_exam_files(path, memory, answering(), Wanted(count=1))).questions


async def test_an_exam_from_elsewhere_is_not_written_over(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "fair.jsonl"
    path.write_text("mine\n", encoding="utf-8")
    with pytest.raises(ExamError, match="there already, without its drafts"):
        await write_exam_files(path, memory, answering(), Wanted(count=1))
    assert path.read_text("utf-8") == "mine\n"


async def test_one_process_at_a_time_writes_an_exam(memory: Memory, tmp_path: Path) -> None:
    memory.add(rule(1))
    with (
        FileLock(tmp_path / "fair.drafts.jsonl.lock"),
        pytest.raises(ExamError, match="written by another process"),
    ):
        await write_exam_files(tmp_path / "fair.jsonl", memory, answering(), Wanted(count=1))


@pytest.mark.parametrize("spoilt", ["?", '{"number":2}', ""], ids=["text", "empty", "repeated"])
async def test_a_damaged_line_is_named(memory: Memory, tmp_path: Path, spoilt: str) -> None:
    memory.add([rule(1), rule(2)])
    path = tmp_path / "fair.jsonl"
    await write_exam_files(path, memory, answering(), Wanted(count=2))
    file = tmp_path / "fair.drafts.jsonl"
    lines = file.read_text("utf-8").splitlines()
    file.write_text("\n".join((*lines[:2], spoilt or lines[1])) + "\n", encoding="utf-8")
    with pytest.raises(ExamError, match="line 3 is no draft: delete this line"):
        await write_exam_files(path, memory, answering(), Wanted(count=2))


# What somebody has made of an exam


async def test_a_larger_count_leaves_the_lines_that_are_there_as_they_are(
    memory: Memory, tmp_path: Path
) -> None:
    memory.add([rule(n) for n in range(9)])
    path, model = tmp_path / "fair.jsonl", answering()
    code = question("code", [], kind="boundary", origin="ruling", pair="one")
    await write_exam_files(path, memory, model, Wanted(count=4), made=[code])
    first, second, third, *_ = read_exam(path).questions
    doubted = {"status": "retired", "reason": "ambiguous: read by hand"}
    mended = [
        first.model_copy(update=doubted),
        second.model_copy(update={"analysis": "Mended."}),
        code.model_copy(update=doubted | {"stem": "Spoilt?"}),
        question("mine", []),
        third.model_copy(update={"id": "renamed"}),
    ]
    write_exam(path, mended)  # the third and the fourth one are gone
    made = await write_exam_files(path, memory, model, Wanted(count=7), made=[code])
    lines = {each.id: each for each in read_exam(path).questions}
    assert [lines[each.id] for each in mended if each.id != "code"] == [*mended[:2], *mended[3:]]
    assert lines["code"] == code.model_copy(update=doubted)
    assert len(lines) == 2 + 3 + 3
    assert third.id not in lines
    removed = [each for each in made.rejected if each.stage == "set"]
    assert [each.reasons for each in removed] == [("Its line was removed from the exam.",)] * 2
    letters = Counter(lines[each.id].answer for each in made.questions if each.id[:2] == "0-")
    assert max(letters.values()) <= 2
    await write_exam_files(path, memory, model, Wanted(count=7), made=[code])
    assert {each.id: each for each in read_exam(path).questions} == lines


async def test_an_exam_that_was_deleted_is_written_anew(memory: Memory, tmp_path: Path) -> None:
    memory.add([rule(n) for n in range(4)])
    path, model = tmp_path / "fair.jsonl", answering()
    await write_exam_files(path, memory, model, Wanted(count=2))
    path.write_text("", encoding="utf-8")
    assert (await write_exam_files(path, memory, model, Wanted(count=2))).questions == ()
    path.unlink()
    assert len((await write_exam_files(path, memory, model, Wanted(count=2))).questions) == 2
    assert len(writer_requests(model)) == 2


def test_questions_made_without_a_model_are_written_anew_but_for_what_somebody_said(
    tmp_path: Path,
) -> None:
    path, wanted = tmp_path / "fair.jsonl", Wanted(count=1)
    fields = {"kind": "boundary", "origin": "ruling"}
    made = [question("q" * n, [], pair=f"pair {n}", **fields) for n in range(1, 5)]
    write_made(path, made, wanted)
    said = {"status": "flagged", "reason": "odd"}
    overtaken = {"status": "retired", "reason": "rule x: version 1 was repealed by version 2"}
    write_exam(path, [made[0].model_copy(update=said), made[1].model_copy(update=overtaken)])
    write_made(path, [*made[:2], made[3]], wanted)
    assert read_exam(path).questions == (made[0].model_copy(update=said), made[1])
    write_made(path, made, wanted)
    assert [each.id for each in read_exam(path).questions] == ["q", "qq"]


# Own seeds


@pytest.mark.parametrize(("language", "least"), [("en", 12), ("zh", 6)])
def test_the_seed_questions_that_ship_pass_the_checks_of_form(language: str, least: int) -> None:
    seeds = own_seeds(language)
    assert len(seeds) >= least
    for seed in seeds:
        source = Rule(id=seed.id, text=seed.principle)
        assert form_faults(seed, [source]) == (), seed.id
        assert (len(seed.options), seed.scope) == (4, None)
    assert set_faults(seeds) == {}
    assert {seed.kind for seed in seeds} == {"scenario", "concept"}
    assert len({seed.answer for seed in seeds}) == 4
    assert all(seed.analysis for seed in seeds)
