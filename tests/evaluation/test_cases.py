"""Questions whose answer follows from the ruling: the answer is checked against all the rules."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from itertools import product
from typing import Any

import pytest

from comity.alignment.precedence import precedence, rule_on
from comity.documents.extract import extract
from comity.errors import UnknownPlace
from comity.evaluation.cases import boundary_questions
from comity.evaluation.circumstances import Letters
from comity.evaluation.conflicts import precedence_questions
from comity.evaluation.exams import Question, Rejected
from comity.evaluation.retire import review
from comity.memory.embed import HashEmbedder
from comity.memory.imports import commit_import, plan_import
from comity.memory.memory import Memory
from comity.memory.places import contains
from comity.memory.store import PlaceNames
from comity.memory.versions import in_force
from comity.records import Rule, Ruling, Scope
from comity.samples import sample_folder
from comity.wording import words_of
from conftest import Clock

LEASH = Rule(
    id="leash",
    text="Dogs are kept on a leash of two metres.",
    title="Dogs",
    article="Article 1",
    place="CN-SH",
    valid_from="2026-03-01",
)
CATS = Rule(
    id="cats",
    text="Cats stay at home at night.",
    title="Cats",
    place="CN-BJ",
    valid_from="2025-01-01",
)


class Samples:
    """The sample rules in a memory, and the questions on them."""

    def __init__(self) -> None:
        self.memory = Memory.open("sqlite://", embedder=HashEmbedder(64), clock=Clock())
        found = extract([sample_folder()])
        places = [PlaceNames(code=place.code, names=place.names) for place in found.places]
        commit_import(
            self.memory, plan_import(self.memory, found.rules, tenant="default", places=places)
        )
        self.histories = [
            [version.rule for version in self.memory.history(stored.rule.id)]
            for stored in self.memory.rules()
        ]
        self.boundary = list(boundary_questions(self.memory, seed=7))
        self.precedence = list(precedence_questions(self.memory, seed=7))
        self.ruling = cache(self._ruling)

    def _ruling(self, place: str, audience: tuple[str, ...], at: datetime) -> Ruling:
        """The ruling over every rule of the memory, found without index, mask or search."""
        holding = (in_force(history, at) for history in self.histories)
        return rule_on(
            rule
            for rule in holding
            if rule
            and contains(rule.place, place)
            and (not rule.audience or set(rule.audience) & set(audience))
        )

    def ruling_of(self, question: Question) -> Ruling:
        scope = question.scope
        assert scope
        assert scope.at
        assert len(scope.place) == 1
        return self.ruling(scope.place[0], scope.audience, scope.at)

    def holds(self, question: Question, option: str) -> bool:
        """Whether some rule that is kept says what the option says."""
        return any(shown(rule, option) for rule in self.ruling_of(question).kept)

    def rule_of(self, option: str) -> Rule | None:
        rules = (rule for history in self.histories for rule in history)
        return next((rule for rule in rules if shown(rule, option)), None)


def shown(rule: Rule, option: str) -> bool:
    return option.startswith(" ".join(rule.text.split())) and rule.article in option


def asked(found: list[Question | Rejected]) -> list[Question]:
    return [one for one in found if isinstance(one, Question)]


def rejected(found: list[Question | Rejected]) -> list[Rejected]:
    return [one for one in found if isinstance(one, Rejected)]


def right(question: Question) -> str:
    return question.options[question.letters.index(question.answer)]


def of_axis(found: list[Question | Rejected], axis: str) -> list[Question]:
    return [question for question in asked(found) if question.pair.endswith(f"/{axis}")]


@pytest.fixture(scope="module")
def samples() -> Iterator[Samples]:
    made = Samples()
    yield made
    made.memory.close()


def is_none(option: str) -> bool:
    return option in (words_of("cases", "en")["none"], words_of("cases", "zh")["none"])


def test_the_sample_rules_give_hundreds_of_questions_on_every_boundary(samples: Samples) -> None:
    axes = Counter(question.pair.rpartition("/")[2] for question in asked(samples.boundary))
    assert sum(axes.values()) >= 400
    assert min(axes[axis] for axis in ("from", "to", "place", "audience")) >= 20
    assert len(asked(samples.precedence)) >= 20


def test_the_right_option_is_right_and_the_others_are_not(samples: Samples) -> None:
    for question in asked(samples.boundary):
        options = [option for option in question.options if not is_none(option)]
        assert len(options) >= 2
        assert len(question.options) - len(options) == 1
        assert all(samples.rule_of(option) for option in options), question.id
        holding = [option for option in options if samples.holds(question, option)]
        assert len(holding) <= 1, question.id
        assert right(question) == holding[0] if holding else is_none(right(question)), question.id


def test_the_two_questions_of_a_pair_share_their_options_but_not_the_answer(
    samples: Samples,
) -> None:
    questions = asked(samples.boundary)
    for one, other in zip(questions[::2], questions[1::2], strict=True):
        assert one.pair == other.pair
        assert one.options == other.options
        assert one.answer != other.answer
        assert one.stem != other.stem


def test_every_letter_is_right_as_often(samples: Samples) -> None:
    for found in (samples.boundary, samples.precedence):
        letters = Counter(question.answer for question in asked(found))
        assert len(letters) == 4
        assert max(letters.values()) - min(letters.values()) <= 2


def test_ids_are_unique_and_every_question_says_who_made_it(samples: Samples) -> None:
    questions = asked(samples.boundary) + asked(samples.precedence)
    assert len({question.id for question in questions}) == len(questions)
    assert {question.origin for question in questions} == {"ruling"}
    assert all(question.analysis for question in questions)


def test_the_stem_says_date_and_place_in_words(samples: Samples) -> None:
    memory = samples.memory
    for question in asked(samples.boundary):
        assert question.scope
        assert question.scope.at
        day = question.scope.at
        assert f"{day.day} {day:%B} {day.year}" in question.stem or (
            f"{day.year}年{day.month}月{day.day}日" in question.stem
        )
        names = [memory.gazetteer().name(question.scope.place[0], lang) for lang in ("en", "zh")]
        assert any(name in question.stem for name in names)


def test_a_rule_without_reason_is_in_force_and_one_with_a_reason_is_not(samples: Samples) -> None:
    for question in asked(samples.boundary):
        kept = {rule.key for rule in samples.ruling_of(question).kept}
        for ref in question.rules:
            assert ((ref.id, ref.version) in kept) == (ref.reason == ""), question.id
        assert question.rules[0].id in question.id


def test_all_questions_are_active_as_long_as_nothing_changes(samples: Samples) -> None:
    questions = asked(samples.boundary) + asked(samples.precedence)
    assert [q.reason for q in review(questions, samples.memory) if q.status != "active"] == []


def test_the_rule_to_follow_and_its_reason_are_those_of_the_ruling(samples: Samples) -> None:
    for question in asked(samples.precedence):
        pair = [samples.memory.get(ref.id, version=ref.version) for ref in question.rules]
        lost = rule_on(pair).overruled[0]
        assert question.rules[0].id == lost.winner.id
        zh = "（1）" in question.stem
        said = words_of("cases", "zh" if zh else "en")
        number = 1 if shown_first(question, lost.winner) else 2
        reason = said["reasons"][lost.reason]
        assert right(question) == said["follow"]["one"].format(number=number, reason=reason)
        assert lost.winner.key in {rule.key for rule in samples.ruling_of(question).kept}


def shown_first(question: Question, rule: Rule) -> bool:
    first, second = question.stem.split("(2)" if "(2)" in question.stem else "（2）")
    text = " ".join(rule.text.split())
    assert (text in first) != (text in second)
    return text in first


def test_a_wrong_reason_for_the_right_rule_is_untrue(samples: Samples) -> None:
    steps = ("higher authority", "narrower place", "narrower audience", "later")
    for question in asked(samples.precedence):
        winner, loser = (samples.memory.get(ref.id, version=ref.version) for ref in question.rules)
        said = words_of("cases", "zh" if "（1）" in question.stem else "en")
        number = 1 if shown_first(question, winner) else 2
        keys = zip(steps, precedence(winner), precedence(loser), strict=True)
        true = [step for step, mine, theirs in keys if mine < theirs]
        for step in true:
            option = said["follow"]["one"].format(number=number, reason=said["reasons"][step])
            assert option not in question.options or option == right(question)


def test_every_reject_names_its_rule_and_says_why(samples: Samples) -> None:
    rejects = rejected(samples.boundary)
    assert rejects
    for reject in rejects:
        assert reject.stage == "form"
        assert all(reject.rules[0].id in reason for reason in reject.reasons)
    told = " ".join(reason for reject in rejects for reason in reject.reasons)
    assert "rule constitution/Article 11 overrules it (higher authority)" in told


def test_the_same_seed_gives_the_same_questions_and_another_gives_others(samples: Samples) -> None:
    again = list(boundary_questions(samples.memory, seed=7, count=20))
    assert asked(again) == asked(samples.boundary)[:20]
    assert asked(list(boundary_questions(samples.memory, seed=8, count=20))) != asked(again)


def test_a_count_is_kept_in_whole_pairs(samples: Samples) -> None:
    assert len(asked(list(boundary_questions(samples.memory, seed=1, count=5)))) == 4
    assert list(boundary_questions(samples.memory, seed=1, count=1)) == []
    assert len(asked(list(precedence_questions(samples.memory, seed=1, count=3)))) == 3


def test_domain_and_place_choose_the_rules(samples: Samples) -> None:
    found = asked(list(boundary_questions(samples.memory, seed=1, place="Tidewick", count=12)))
    about = [samples.memory.get(question.rules[0].id) for question in found]
    assert {rule.place for rule in about} == {"XA-NO/Tidewick"}
    found = asked(list(boundary_questions(samples.memory, seed=1, domain="alcohol")))
    assert found
    assert all(question.rules[0].id == "tidewick-fair/Article 1" for question in found)
    with pytest.raises(UnknownPlace):
        next(boundary_questions(samples.memory, seed=1, place="Nowhereville"))


def test_an_amended_rule_is_asked_about_in_both_versions(memory: Memory) -> None:
    memory.add([LEASH, CATS])
    first = of_axis(list(boundary_questions(memory, seed=1)), "from")
    assert [q.pair for q in first if "leash" in q.pair] == ["boundary/leash@1/from"] * 2
    memory.amend(
        "leash", {"text": "Dogs are kept on a leash of one metre.", "valid_from": "2026-07-01"}
    )
    after, before = (
        question
        for question in of_axis(list(boundary_questions(memory, seed=1)), "from")
        if question.pair == "boundary/leash@2/from"
    )
    assert "one metre" in right(after)
    assert "two metres" in right(before)
    assert "1 July 2026" in after.stem
    assert "30 June 2026" in before.stem


def test_a_repealed_rule_is_asked_about_up_to_its_last_day(memory: Memory) -> None:
    memory.add([LEASH, CATS])
    assert of_axis(list(boundary_questions(memory, seed=1)), "to") == []
    memory.repeal("leash", at=datetime.fromisoformat("2026-09-01T00:00+00:00"))
    last, gone = of_axis(list(boundary_questions(memory, seed=1)), "to")
    assert "31 August 2026" in last.stem
    assert "two metres" in right(last)
    assert "1 September 2026" in gone.stem
    assert is_none(right(gone))


def test_a_moment_within_a_day_is_asked_about_on_whole_days(memory: Memory) -> None:
    memory.add(
        [
            LEASH.model_copy(
                update={"valid_from": datetime.fromisoformat("2026-03-01T15:00+00:00")}
            ),
            CATS,
        ]
    )
    questions = of_axis(list(boundary_questions(memory, seed=1)), "from")
    stems = [question.stem for question in questions if "leash" in question.pair]
    assert "2 March 2026" in stems[0]
    assert "28 February 2026" in stems[1]


def test_a_rule_that_another_repeats_beyond_the_boundary_is_not_asked_about(memory: Memory) -> None:
    twin = LEASH.model_copy(update={"id": "old-leash", "valid_from": None})
    memory.add([LEASH, twin, CATS])
    reasons = [
        reason for r in rejected(list(boundary_questions(memory, seed=1))) for reason in r.reasons
    ]
    assert (
        "rule leash, version 1: from: rule old-leash, version 1, says the same beyond the boundary"
    ) in reasons


def test_a_version_that_changes_no_words_makes_no_boundary_in_time(memory: Memory) -> None:
    memory.add([LEASH, CATS])
    memory.amend("leash", {"mandatory": True, "valid_from": "2026-07-01"})
    found = list(boundary_questions(memory, seed=1))
    assert not [question for question in asked(found) if "leash@2/from" in question.pair]
    assert any("says the same" in reason for r in rejected(found) for reason in r.reasons)


def test_beyond_a_place_the_rule_of_the_next_one_is_right(memory: Memory) -> None:
    there = LEASH.model_copy(update={"id": "there", "text": "Dogs run free.", "place": "CN-BJ"})
    memory.add([LEASH, there])
    here, beyond = (
        question
        for question in of_axis(list(boundary_questions(memory, seed=1)), "place")
        if question.pair == "boundary/leash@1/place"
    )
    assert "in Shanghai" in here.stem
    assert "two metres" in right(here)
    assert "in Beijing" in beyond.stem
    assert "run free" in right(beyond)
    assert [ref.reason for ref in beyond.rules] == ["another place", ""]


def test_a_place_with_no_other_beside_it_is_left_for_the_wider_one(memory: Memory) -> None:
    inside = Rule(
        id="quiet", text="Drums are silent.", place="CN-SH/黄浦区", valid_from="2024-01-01"
    )
    later = Rule(id="flutes", text="Flutes are silent.", place="CN", valid_from="2040-01-01")
    memory.define_places([PlaceNames(code="CN-SH/黄浦区", names=("Huangpu", "黄浦区"))])
    memory.add([inside, later])
    here, around = [
        q for q in of_axis(list(boundary_questions(memory, seed=1)), "place") if "quiet" in q.pair
    ]
    assert here.scope
    assert around.scope
    assert (here.scope.place, around.scope.place) == (("CN-SH/黄浦区",), ("CN-SH",))
    assert "Drums" in right(here)
    assert is_none(right(around))


def test_somebody_else_is_a_private_person_where_the_memory_names_nobody(memory: Memory) -> None:
    staff = LEASH.model_copy(
        update={"id": "staff", "text": "Staff wear a badge.", "audience": ("Acme Corp",)}
    )
    memory.add([staff, CATS])
    member, other = of_axis(list(boundary_questions(memory, seed=1)), "audience")
    assert "Acme Corp" in member.stem
    assert "It concerns a private person." in other.stem
    assert other.scope
    assert other.scope.audience == ("private person",)
    assert is_none(right(other))


def test_a_chinese_rule_is_asked_about_in_chinese(memory: Memory) -> None:
    memory.add(
        [
            Rule(id="狗", text="遛狗应当牵绳。", place="CN-SH", valid_from="2026-03-01"),
            Rule(id="猫", text="猫夜间不得外出。", place="CN-BJ", valid_from="2026-03-01"),
        ]
    )
    after, before = [
        q for q in of_axis(list(boundary_questions(memory, seed=1)), "from") if "狗" in q.pair
    ]
    assert "2026年3月1日" in after.stem
    assert "2026年2月28日" in before.stem
    assert right(before) == words_of("cases", "zh")["none"]


LONG = " ".join(
    f"Sentence number {n} of this long rule says what follows from it." for n in range(9)
)


def test_a_long_rule_is_quoted_up_to_the_sentence_that_tells_it_apart(memory: Memory) -> None:
    memory.add([LEASH.model_copy(update={"text": f"Dogs sleep. Cats eat. {LONG}"}), CATS])
    memory.amend("leash", {"text": f"Dogs sleep. Cats run. {LONG}", "valid_from": "2026-07-01"})
    questions = asked(list(boundary_questions(memory, seed=1)))
    after, before = [q for q in questions if q.pair == "boundary/leash@2/from"]
    assert right(after) == "Dogs sleep. Cats run. … (Dogs, Article 1)"
    assert right(before) == "Dogs sleep. Cats eat. … (Dogs, Article 1)"


def test_rules_of_another_tenant_are_not_seen(memory: Memory) -> None:
    memory.add([LEASH, CATS])
    foreign = [
        rule.model_copy(update={"tenant": "other", "text": f"{rule.text} Secret."})
        for rule in (LEASH, CATS)
    ]
    memory.add(foreign)
    assert "Secret" not in "".join(q.query for q in asked(list(boundary_questions(memory, seed=1))))
    theirs = asked(list(boundary_questions(memory, seed=1, tenant="other")))
    assert all(question.scope and question.scope.tenant == "other" for question in theirs)
    assert "Secret" in theirs[0].query


def test_a_conflict_that_never_comes_up_is_rejected_with_the_reason(memory: Memory) -> None:
    ended = LEASH.model_copy(
        update={"id": "ended", "valid_from": None, "valid_to": LEASH.valid_from, "text": "No dogs."}
    )
    far = CATS.model_copy(update={"id": "far", "overrides": ("leash",)})
    memory.add([LEASH.model_copy(update={"overrides": ("ended",)}), ended, far])
    reasons = sorted(r.reasons[0] for r in rejected(list(precedence_questions(memory, seed=1))))
    assert [reason.partition(": ")[2] for reason in reasons] == [
        "there is no place in which both apply",
        "they are never in force at the same time",
    ]


def test_a_conflict_that_a_third_rule_decides_is_rejected(memory: Memory) -> None:
    first = LEASH.model_copy(update={"overrides": ("b",)})
    second = LEASH.model_copy(update={"id": "b", "text": "Dogs run free.", "authority": "code"})
    third = LEASH.model_copy(
        update={
            "id": "c",
            "text": "Dogs stay home.",
            "authority": "statute",
            "overrides": ("leash",),
        }
    )
    memory.add([first, second, third])
    found = list(precedence_questions(memory, seed=1))
    assert [question.id for question in asked(found)] == ["precedence/c@1/leash@1"]
    assert "a third rule decides" in rejected(found)[0].reasons[0]


def test_a_new_version_changes_who_is_followed(memory: Memory) -> None:
    memory.add(
        [
            LEASH,
            LEASH.model_copy(
                update={
                    "id": "b",
                    "text": "Dogs run free.",
                    "overrides": ("leash",),
                    "valid_from": None,
                    "authority": "code",
                }
            ),
        ]
    )
    (before,) = asked(list(precedence_questions(memory, seed=1)))
    assert before.rules[0].id == "leash"
    memory.amend(
        "b", {"authority": "statute", "valid_from": "2026-03-01", "text": "Dogs may run free."}
    )
    after = {q.id for q in asked(list(precedence_questions(memory, seed=1)))}
    assert "precedence/b@2/leash@1" in after


def test_letters_stay_balanced_whatever_is_right() -> None:
    letters = Letters(random.Random(3))
    used = Counter(letters.order(4, (0,)).index(0) for _ in range(40))
    assert set(used.values()) == {10}


def test_a_scope_carries_what_the_stem_says(memory: Memory) -> None:
    memory.add([LEASH, CATS])
    questions = [
        q for q in of_axis(list(boundary_questions(memory, seed=1)), "from") if "leash" in q.pair
    ]
    assert [question.scope for question in questions] == [
        Scope(place=("CN-SH",), at="2026-03-01T12:00"),
        Scope(place=("CN-SH",), at="2026-02-28T12:00"),
    ]
    assert questions[0].analysis.startswith(
        "Dogs, Article 1 (version 1) holds in this case: in Shanghai, in force from 1 March"
    )


def test_a_memory_without_rules_gives_no_questions(memory: Memory) -> None:
    assert list(boundary_questions(memory, seed=1)) == []
    assert list(precedence_questions(memory, seed=1)) == []


def test_a_single_rule_cannot_be_told_from_another(memory: Memory) -> None:
    memory.add(LEASH)
    found = list(boundary_questions(memory, seed=1))
    assert asked(found) == []
    assert sorted(reason for reject in rejected(found) for reason in reject.reasons) == [
        "rule leash, version 1: from: there is no other rule to tell it from",
        "rule leash, version 1: place: there is no other rule to tell it from",
    ]


def test_every_rule_and_every_reason_stands_in_two_options_of_a_precedence_question(
    memory: Memory,
) -> None:
    custom = LEASH.model_copy(
        update={"id": "custom", "text": "Dogs run free.", "authority": "custom"}
    )
    memory.add([LEASH, custom.model_copy(update={"overrides": ("leash",)})])
    found = [q for q in precedence_questions(memory, seed=1) if isinstance(q, Question)]
    assert found
    for each in found:
        rules, reasons = zip(*(option.split(", because ") for option in each.options), strict=True)
        assert sorted(Counter(rules).values()) == sorted(Counter(reasons).values()) == [2, 2]
        assert "from high to low: constitution, statute" in each.stem


def test_a_case_in_a_wide_place_is_in_no_part_of_it_that_a_rule_is_made_for(
    memory: Memory,
) -> None:
    country = LEASH.model_copy(update={"id": "country", "place": "CN", "text": "Cats wear bells."})
    memory.add([LEASH, country])
    pair = [
        q
        for q in boundary_questions(memory, seed=1)
        if isinstance(q, Question) and q.pair == "boundary/country@1/from"
    ]
    assert pair
    assert all("no part of that place" in question.stem for question in pair)


def test_a_rule_for_some_people_stands_beside_a_case_of_the_general_public(
    memory: Memory,
) -> None:
    staff = CATS.model_copy(
        update={"id": "staff", "text": "Staff wear a badge.", "audience": ("Acme Corp",)}
    )
    memory.add([LEASH, staff])
    pair = of_axis(list(boundary_questions(memory, seed=1)), "from")
    stems = [question.stem for question in pair if "leash" in question.pair]
    assert stems
    assert all("a member of the general public" in stem for stem in stems)


def test_only_rules_in_the_language_wanted_are_asked_about(memory: Memory) -> None:
    memory.add([LEASH, CATS])
    assert list(boundary_questions(memory, seed=1, language="zh")) == []
    assert list(boundary_questions(memory, seed=1, language="en"))


AHEAD = {  # of a rule that is ahead, on a par or behind in a step of precedence
    "authority": ("regulation", "policy", "custom"),
    "place": ("CN-SH", "CN", "CN"),
    "audience": (("hotels",), (), ()),
    "valid_from": ("2025-01-01", "2024-01-01", "2023-01-01"),
}


def advantages() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every way in which one rule may be ahead of another one, or behind, step by step."""
    for standing in product((0, 1, 2), repeat=4):
        one, other = {}, {}
        for (field, values), place in zip(AHEAD.items(), standing, strict=True):
            even = values[0] if place == 2 and field in ("place", "audience") else values[1]
            one[field], other[field] = values[place], even
        yield one, other


def test_whatever_speaks_for_either_rule_there_are_four_different_options(memory: Memory) -> None:
    pairs = list(advantages())
    for number, (one, other) in enumerate(pairs):
        for name, fields, overrides in (("a", one, (f"b{number}",)), ("b", other, ())):
            text = f"Item {number} is handled by way {name} whenever it comes up."
            memory.add(Rule(id=f"{name}{number}", text=text, overrides=overrides, **fields))
    found = asked(list(precedence_questions(memory, seed=1)))
    assert len(found) == len(pairs) == 81
    for question in found:
        rules, reasons = zip(*(text.split(", because ") for text in question.options), strict=True)
        assert sorted(Counter(rules).values()) == sorted(Counter(reasons).values()) == [2, 2]


def test_a_version_that_is_ahead_in_every_step_is_the_newer_one(memory: Memory) -> None:
    memory.add(CATS.model_copy(update={"place": "CN", "authority": "policy"}))
    better = {"place": "CN-SH", "authority": "statute", "audience": ("hotels",)}
    memory.amend("cats", better | {"text": "Cats wear bells.", "valid_from": "2026-01-01"})
    (question,) = asked(list(precedence_questions(memory, seed=1)))
    assert "newer version" in right(question)
    assert sum("it states itself" in option for option in question.options) == 2


def test_two_rules_that_override_each_other_are_one_conflict(memory: Memory) -> None:
    custom = {"id": "custom", "text": "Dogs run free.", "authority": "custom"}
    memory.add(
        [
            LEASH.model_copy(update={"overrides": ("custom",)}),
            LEASH.model_copy(update={"overrides": ("leash",), **custom}),
        ]
    )
    found = list(precedence_questions(memory, seed=1))
    assert [question.id for question in asked(found)] == ["precedence/leash@1/custom@1"]


@pytest.mark.parametrize(
    ("audience", "scope", "told"),
    [
        (
            ("Acme Corp", "vets"),
            ("Acme Corp", "vets"),
            "It concerns a person who belongs to Acme Corp. "
            "The same person is there in the role of vets, too.",
        ),
        (("guards", "Vets|Guards"), ("guards",), "It concerns a person in the role of guards."),
    ],
)
def test_a_conflict_of_rules_for_two_circles_tells_of_somebody_in_both(
    memory: Memory, audience: tuple[str, str], scope: tuple[str, ...], told: str
) -> None:
    one = LEASH.model_dump() | {"audience": audience[0], "overrides": ("b",)}
    other = LEASH.model_dump() | {"id": "b", "text": "Dogs run free.", "audience": audience[1]}
    memory.add([Rule.model_validate(one), Rule.model_validate(other)])
    (question,) = asked(list(precedence_questions(memory, seed=1)))
    assert question.scope
    assert question.scope.audience == scope
    assert question.stem.partition(" Two rules")[0].endswith(f"Shanghai. {told}")
