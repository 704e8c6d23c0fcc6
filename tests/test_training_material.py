"""What training data is made from: questions, personas, wishes, and the directions they give."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import TrainingError
from comity.evaluation.preference_cases import read_questions
from comity.preferences.meta_prompt import messages_of
from comity.records import FAMILIES
from comity.training.contamination import Exams, alike, read_exams
from comity.training.directions import Case, Unfit, cases
from comity.training.families import Material, Persona, Seed, Statement, read_material

OWN = read_material()


def statements(*fields: dict[str, object]) -> tuple[Statement, ...]:
    """Two statements that contradict one another: the fields over those of a question of style."""
    common = {"family": "priority", "kind": "style"}
    one = {"id": "one", "text": "Be brief.", "against": "other", **common}
    other = {"id": "other", "text": "Be thorough.", "against": "one", **common}
    return tuple(
        Statement.model_validate({**base, **given})
        for base, given in zip((one, other), fields, strict=True)
    )


def material(seed: Seed, *found: Statement, personas: tuple[Persona, ...] = ()) -> Material:
    return Material(questions=(seed,), personas=personas, statements=found, sources={})


def one_case(made: Material) -> Case:
    (case,) = cases(made)
    assert isinstance(case, Case)
    return case


def line(**fields: object) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"


def test_the_material_that_ships_has_all_families_in_both_languages() -> None:
    assert OWN.missing == ()
    counts = Counter((seed.family, seed.language) for seed in OWN.questions)
    assert all(counts[family, language] for family in FAMILIES for language in ("en", "zh"))
    assert (len(OWN.questions), len(OWN.personas), len(OWN.statements)) == (40, 20, 64)
    assert {one.family for one in OWN.statements} == set(FAMILIES)


def test_every_question_that_ships_has_directions_and_none_is_like_another() -> None:
    assert not [one for one in cases(OWN) if isinstance(one, Unfit)]
    assert alike([seed.question for seed in OWN.questions]) == {}


def test_no_question_that_ships_is_in_the_preference_exam() -> None:
    exam = read_exams(())
    assert len(exam) >= 60
    assert exam.near([seed.question for seed in OWN.questions]) == {}


def test_nothing_that_ships_is_a_paraphrase_of_the_preference_exam() -> None:
    asked = read_questions()
    questions = [one.question for one in asked]
    users = [wish.meta.user_info for one in asked for wish in one.wishes if wish.meta.user_info]
    for texts, of_exam, most in (
        ([seed.question for seed in OWN.questions], questions, 0.3),
        ([persona.info for persona in OWN.personas], users, 0.2),
    ):
        alike = {(a, b): shared(a, b) for a in texts for b in of_exam}
        assert {pair: share for pair, share in alike.items() if share >= most} == {}


def shared(one: str, other: str) -> float:
    """Jaccard similarity of runs of four characters."""
    runs = [{text[at : at + 4] for at in range(len(text) - 3)} for text in (one, other)]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def test_two_personas_of_one_topic_ask_the_question_on_which_people_differ() -> None:
    seed = Seed(id="q", question="Should pets be allowed?", family="diverse", topic="pets")
    personas = (
        Persona(id="a", info="I have a dog.", topic="pets"),
        Persona(id="b", info="I am allergic to fur.", topic="pets"),
        Persona(id="c", info="I sail.", topic="boats"),
    )
    case = one_case(material(seed, personas=personas))
    assert [view.meta.user_info for view in case.views] == [
        "I have a dog.",
        "I am allergic to fur.",
    ]
    assert [view.holds for view in case.views] == [0, 1]
    assert "I am allergic to fur." in case.sides[1].wish


def test_where_the_user_wins_the_winner_turns_with_who_wants_what() -> None:
    seed = Seed(id="q", question="Is it worth it?", family="priority")
    case = one_case(material(seed, *statements({}, {})))
    assert [view.holds for view in case.views] == [1, 0]
    for view in case.views:
        shown = "\n".join(turn.content for turn in messages_of(view.meta, seed.question, "en"))
        assert case.sides[view.holds].wish in shown
        assert case.sides[1 - view.holds].wish not in shown, "what gives way is not shown"
        assert view.why == "the answer is written for the user"


def test_where_the_provider_wins_both_wishes_are_shown_the_provider_first() -> None:
    seed = Seed(id="q", question="Is it worth it?", family="priority")
    kind = {"kind": "topics"}
    wishes = statements({**kind, "by": "user"}, {**kind, "by": "provider"})
    case = one_case(material(seed, *wishes))
    (view,) = case.views
    assert view.holds == 1
    shown = "\n".join(turn.content for turn in messages_of(view.meta, seed.question, "en"))
    assert 0 <= shown.index("Be thorough.") < shown.index("Be brief.")


def test_of_two_wishes_about_safety_the_stricter_holds_whoever_wants_it() -> None:
    seed = Seed(id="q", question="How is it done?", family="priority", harmful=True)
    kind = {"kind": "safety"}
    wishes = statements({**kind, "stance": "limits"}, {**kind, "stance": "widens"})
    assert [view.holds for view in one_case(material(seed, *wishes)).views] == [0, 0]


def test_to_a_harmful_question_only_the_safe_answer_is_ever_wanted() -> None:
    asked = {"id": "q", "question": "How is it done?", "family": "consensus"}
    kind = {"kind": "safety", "family": "consensus"}
    wishes = statements({**kind, "stance": "limits"}, {**kind, "stance": "widens"})
    harmless = one_case(material(Seed.model_validate(asked), *wishes))
    assert [view.holds for view in harmless.views] == [0, 1]
    harmful = Seed.model_validate({**asked, "harmful": True})
    assert [view.holds for view in one_case(material(harmful, *wishes)).views] == [0]
    style = statements({"family": "consensus"}, {"family": "consensus"})
    assert isinstance(cases(material(harmful, *style))[0], Unfit)


def test_wishes_of_the_topic_go_before_others_and_those_of_another_do_not_fit() -> None:
    seed = Seed(id="q", question="What helps?", family="priority", topic="health")
    fitting = statements({"topic": "health"}, {"topic": "health"})
    common = {"family": "priority", "kind": "style"}
    for_all = [
        Statement.model_validate({"id": a, "text": f"Be {a}.", "against": b, **common})
        for a, b in (("kind", "stern"), ("stern", "kind"))
    ]
    found = cases(material(seed, *for_all, *fitting), per_question=2)
    assert [one.id for one in found if isinstance(one, Case)] == ["q one/other", "q kind/stern"]
    (unfit,) = cases(material(seed, *statements({"topic": "money"}, {"topic": "money"})))
    assert isinstance(unfit, Unfit)
    assert "no two wishes of the family priority" in unfit.reason


def test_a_chinese_question_gets_chinese_wishes() -> None:
    for case in cases(OWN):
        assert isinstance(case, Case)
        if case.seed.language == "zh":
            assert all(ord(max(side.wish)) > 0x4E00 for side in case.sides), case.id


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3))
def test_the_same_seed_gives_the_same_cases(seed: int, count: int) -> None:
    first = cases(OWN, per_question=count, seed=seed)
    assert first == cases(OWN, per_question=count, seed=seed)
    assert len({one.id for one in first if isinstance(one, Case)}) == len(first)
    assert max(Counter(one.seed.id for one in first if isinstance(one, Case)).values()) <= count


QUESTION = {"id": "q", "question": "Why?", "family": "helpful"}
WISH = {"family": "helpful", "kind": "style"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no questions"),
        ("{", "line 1: is no JSON"),
        (line(**QUESTION) + line(**QUESTION), "line 2: the id 'q' stands twice"),
        (line(**QUESTION) + "\n" + line(id="r", question="Who?", family="odd"), "line 3: family"),
        (line(**QUESTION, colour="red"), "line 1: colour"),
    ],
)
def test_questions_that_cannot_be_read_are_told_with_their_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=message):
        read_material(questions=file)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"id": "b", "against": "c"}, "'a' is against 'b', which is not there or not against it"),
        ({"id": "b", "against": "a", "kind": "honesty"}, "differ in kind"),
        ({"id": "b", "against": "a", "by": "user"}, "are both the user's"),
        ({"id": "b", "against": "a", "check": {}}, "the check is empty"),
    ],
)
def test_statements_must_contradict_one_another_by_pairs(
    tmp_path: Path, other: dict[str, object], message: str
) -> None:
    file = tmp_path / "wishes.jsonl"
    one = line(id="a", text="Be brief.", against="b", by="user", **WISH)
    file.write_text(one + line(**{"text": "Be long.", **WISH, **other}), encoding="utf-8")
    with pytest.raises(TrainingError, match=message):
        read_material(statements=file)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere\.jsonl: cannot be read"):
        read_material(personas=tmp_path / "nowhere.jsonl")


def test_a_family_without_a_question_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(line(**QUESTION), encoding="utf-8")
    assert read_material(questions=file).missing == ("priority", "consensus", "diverse")


EXAM = Exams(
    [
        ("E", "May a landlord raise the rent twice within one year without giving notice?"),
        ("E", "房东在一年之内是否可以不经通知就两次提高租金？"),
    ]
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("may a landlord raise the rent twice, within one year, without giving notice", "it is a"),
        ("I ask you: may a landlord raise the rent twice within a month?", "it shares"),
        ("请问房东在一年之内是否可以不经过同意进屋？", "it shares"),
        (
            "May a landlord raise the rents twice within one year without giving notices?",
            "it is nearly",
        ),
        ("May a landlord raise the rent?", ""),
        ("房东可以提高租金吗？", ""),
    ],
)
def test_questions_of_an_exam_are_found_by_their_words(text: str, reason: str) -> None:
    found = EXAM.near(["Something else altogether?", text])
    assert 0 not in found
    assert found.get(1, "").startswith(reason)
    assert bool(found) == bool(reason)


def test_exams_are_read_from_any_form_with_a_question_in_it(tmp_path: Path) -> None:
    file = tmp_path / "exam.jsonl"
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who pays?"}]
    file.write_text(line(stem="Who waits?") + line(prompt=prompt), encoding="utf-8")
    exams = read_exams([file])
    assert exams.found("who waits") == f"it is a question of {file}"
    assert exams.found("who pays") == f"it is a question of {file}"
    assert not exams.found("be kind")


def test_an_exam_without_questions_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "exam.jsonl"
    file.write_text(line(answer="A"), encoding="utf-8")
    with pytest.raises(TrainingError, match="nothing to compare with"):
        read_exams([file])
    with pytest.raises(TrainingError, match="cannot be read"):
        read_exams([tmp_path / "none.jsonl"])
