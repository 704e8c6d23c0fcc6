"""How a question is put in each mode, and how its letter is told."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comity.errors import ModelError, ModelGarbled, ModelNonsense, NotFound, UnknownPlace
from comity.evaluation.ask import ExamOptions, Put, Told, put, tell
from comity.evaluation.exams import Question
from comity.evaluation.runs import BUDGETS, MODES, Mode
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.memory.store import PlaceNames
from comity.models.chat import ChatModel, estimate_tokens
from comity.models.scripted import ScriptedModel
from comity.records import Message, Reply, Request, Rule, RuleRef, Scope, Usage
from conftest import Clock

ELM, OAK = "XA-NO/Elm", "XA-NO/Oak"
PLACES = tuple(
    PlaceNames(code=code, names=(name,))
    for code, name in {"XA": "Arl", "XA-NO": "Norl", ELM: "Elm", OAK: "Oak"}.items()
)
RULES = (
    Rule(id="leash", text="Dogs are kept on a leash.", place="XA-NO", authority="statute"),
    Rule(id="free", text="Dogs run free here.", place=ELM, authority="local", overrides=("leash",)),
    Rule(id="oak", text="Dogs wear a bell.", place=OAK, authority="local"),
    Rule(id="bread", text="Bread is weighed.", place="XA-NO", authority="statute"),
)
PRINCIPLE = "犬法规定：<第一条：犬只须系绳。> <第二条：犬只须佩铃。>"


def question(stem: str = "May dogs run free in Elm?", **fields: Any) -> Question:
    given: dict[str, Any] = {"id": "q", "options": ("Yes", "No", "At noon"), "answer": "B"}
    return Question(stem=stem, **given | fields)


@pytest.fixture
def town(memory: Memory) -> Memory:
    memory.define_places(PLACES)
    memory.add(RULES)
    return memory


def asked(mode: Mode, memory: Memory | None, about: Question, **options: Any) -> Put:
    return put(about, mode, memory, estimate_tokens, ExamOptions(**options))


def ids(rules: Sequence[Rule]) -> list[str]:
    return [rule.id for rule in rules]


def prompt(made: Put) -> str:
    return "\n".join(message.content for message in made.messages)


# What is put


def test_the_base_has_no_rules_and_needs_no_memory(town: Memory) -> None:
    made = asked("base", town, question())
    assert made == asked("base", None, question())
    assert (made.rules, made.hits, made.scope, made.revision) == ((), (), None, None)
    assert made.messages[-1].content == (
        "May dogs run free in Elm?\nA. Yes\nB. No\nC. At noon\n\nLetter of the right option:"
    )
    assert "Rules" not in prompt(made)


def test_comity_puts_what_scope_search_and_ruling_give(town: Memory) -> None:
    made = asked("comity", town, question())
    assert made.scope is not None
    assert made.scope.place == (ELM,)
    assert (made.revision, set(ids(made.rules))) == (town.revision, {"leash", "bread"})
    assert [(lost.rule.id, lost.winner.id) for lost in made.ruling.overruled] == [("free", "leash")]
    assert set(ids([hit.rule for hit in made.hits])) == {"leash", "free", "bread"}
    assert "Rules in force:" in prompt(made)
    assert "Dogs are kept on a leash." in prompt(made)


def test_an_overruled_rule_is_never_in_the_prompt(town: Memory) -> None:
    assert "Dogs run free here." not in prompt(asked("comity", town, question()))


@pytest.mark.parametrize(("place", "bell"), [("Oak", True), ("Elm", False), ("Norl", False)])
def test_the_place_in_the_questions_words_decides(town: Memory, place: str, bell: bool) -> None:
    made = asked("comity", town, question(f"Do dogs wear a bell in {place}?"))
    assert ("Dogs wear a bell." in prompt(made)) is bell
    assert ("oak" in ids([hit.rule for hit in made.hits])) is bell


def test_a_question_that_names_no_place_has_the_default_one(town: Memory) -> None:
    about = question("Do dogs wear a bell?")
    assert ids(asked("comity", town, about).rules) == []
    assert "oak" in ids(asked("comity", town, about, place=OAK).rules)


@pytest.mark.parametrize("stem", ["Do cats sleep in France?", "法国的猫可以睡觉吗？"])
@pytest.mark.parametrize("budget", [0, 1000])
def test_a_question_for_which_no_rule_is_found_or_fits_is_put_as_without_rules(
    town: Memory, stem: str, budget: int
) -> None:
    about = question(stem, scope=Scope(place=OAK if budget == 0 else "FR"))
    made = asked("comity", town, about, budget=budget)
    assert (made.rules, made.rules_text) == ((), "")
    assert made.messages == asked("base", None, about).messages


def test_the_oracle_of_a_case_in_which_no_rule_applies_is_the_bare_question(town: Memory) -> None:
    about = question(rules=(RuleRef(id="oak", version=1, reason="another place"),))
    assert asked("oracle", town, about).messages == asked("base", None, about).messages


def test_a_place_that_the_caller_gave_is_not_left_by_the_questions_words(town: Memory) -> None:
    about = question("Do dogs wear a bell in Oak?", scope=Scope(place=ELM))
    assert "oak" not in ids(asked("comity", town, about).rules)


def test_a_place_that_nobody_knows_is_an_error(town: Memory) -> None:
    with pytest.raises(UnknownPlace):
        asked("comity", town, question(scope=Scope(place="XA-QQ")))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([ELM, OAK, "XA-NO"]), min_size=1, max_size=8),
    st.sampled_from(["Elm", "Oak"]),
    st.integers(0, 120),
)
def test_rules_of_another_place_are_never_in_the_prompt_whatever_the_budget(
    places: list[str], place: str, budget: int
) -> None:
    with Memory.open("sqlite://", embedder=HashEmbedder(16)) as memory:
        memory.define_places(PLACES)
        memory.add([Rule(id=f"{n}", text=f"Dogs {n}", place=p) for n, p in enumerate(places)])
        made = asked("comity", memory, question(f"Dogs in {place}?"), budget=budget)
    assert {rule.place for rule in made.rules} <= {f"XA-NO/{place}", "XA-NO"}
    assert made.rule_tokens <= budget
    assert {rule.key for rule in made.rules} | {rule.key for rule in made.left_out} == {
        rule.key for rule in made.ruling.kept
    }


def test_the_moment_in_the_questions_scope_decides_the_version(town: Memory) -> None:
    town.amend("oak", {"text": "Dogs wear two bells.", "valid_from": "2031-01-01"})
    for at, text in (("2030-12-31", "wear a bell"), ("2031-01-01", "wear two bells")):
        about = question("What do dogs wear in Oak?", scope=Scope(at=at))
        said = prompt(asked("comity", town, about))
        assert [part for part in ("wear a bell", "wear two bells") if part in said] == [text]


def test_the_oracle_has_exactly_the_tied_rules_in_their_version(town: Memory) -> None:
    town.amend("oak", {"text": "Dogs wear two bells."})
    tied = (RuleRef(id="bread", version=1), RuleRef(id="oak", version=1))
    made = asked("oracle", town, question(rules=tied))
    assert [rule.key for rule in made.rules] == [("bread", 1), ("oak", 1)]
    assert "Dogs wear a bell." in prompt(made)
    assert "Dogs are kept on a leash." not in prompt(made)
    assert (made.hits, made.revision) == ((), town.revision)


def test_the_oracle_has_gold_rules_whatever_they_cost(town: Memory) -> None:
    about = question(rules=(RuleRef(id="bread", version=1), RuleRef(id="oak", version=1)))
    assert len(asked("oracle", town, about, budget=0).rules) == 2


def test_the_oracle_leaves_out_what_does_not_apply_in_the_case(town: Memory) -> None:
    tied = (RuleRef(id="bread", version=1, reason="other place"), RuleRef(id="oak", version=1))
    assert ids(asked("oracle", town, question(rules=tied)).rules) == ["oak"]


@pytest.mark.parametrize("with_memory", [True, False])
def test_the_oracle_reads_the_principle_with_and_without_a_memory(
    town: Memory, with_memory: bool
) -> None:
    about = question("在Elm，犬只须系绳吗？", principle=PRINCIPLE)
    made = asked("oracle", town if with_memory else None, about)
    assert [rule.text for rule in made.rules] == ["犬只须系绳。", "犬只须佩铃。"]
    for text in ("犬只须系绳。", "犬只须佩铃。", "根据以上规则"):
        assert text in made.messages[-1].content


def test_the_oracle_names_a_rule_that_the_memory_does_not_have(town: Memory) -> None:
    with pytest.raises(NotFound, match="oak"):
        asked("oracle", town, question(rules=(RuleRef(id="oak", version=9),)))


def test_comity_without_a_memory_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a memory"):
        asked("comity", None, question())


def test_the_question_comes_last_and_in_the_same_words_in_every_mode(town: Memory) -> None:
    about = question(rules=(RuleRef(id="oak", version=1),))
    made = [asked(mode, town, about) for mode in MODES]
    end = f"{about.stem}\n{about.options_text}\n\nLetter of the right option:"
    assert len({each.messages[0] for each in made}) == 1
    assert all(each.messages[1].content.endswith(end) for each in made)
    assert len({each.sha256 for each in made}) == 3


def test_the_same_rules_make_the_same_prompt_whatever_the_day(town: Memory, clock: Clock) -> None:
    before = asked("comity", town, question())
    clock.advance(days=400)
    town.add(Rule(id="far", text="Cats sleep.", place="FR"))
    after = asked("comity", town, question())
    assert after.sha256 == before.sha256
    assert (after.scope, after.revision) != (before.scope, before.revision)
    town.amend("leash", {"text": "Dogs are kept on a short leash."})
    assert asked("comity", town, question()).sha256 != before.sha256


def test_the_budget_is_an_option(town: Memory) -> None:
    none = asked("comity", town, question(), budget=0)
    assert (none.rules, set(ids(none.left_out))) == ((), {"leash", "bread"})


def test_the_share_of_gold_rules_within_each_budget_only_grows(town: Memory) -> None:
    tied = (RuleRef(id="leash", version=1), RuleRef(id="oak", version=1))
    found = asked("comity", town, question(rules=tied)).gold_at
    assert tuple(found) == BUDGETS
    assert list(found.values()) == sorted(found.values())
    assert found[2000] == 0.5  # the other one is in force elsewhere
    assert asked("comity", town, question()).gold_at == {}


def test_gold_that_was_replaced_with_the_same_text_is_found_in_its_new_version(
    town: Memory,
) -> None:
    about = question(rules=(RuleRef(id="leash", version=1),))
    town.amend("leash", {"title": "Dog act"})
    made = asked("comity", town, about)
    assert [(ref.id, ref.version) for ref in made.gold] == [("leash", 2)]
    assert (made.gold_found, made.gold_sent, made.gold_at[2000]) == (1.0, 1.0, 1.0)
    town.amend("leash", {"text": "Dogs are kept on a short leash."})
    assert asked("comity", town, about).gold_found == 0.0


def test_gold_that_the_memory_does_not_know_is_not_found(town: Memory) -> None:
    about = question(rules=(RuleRef(id="leash", version=1), RuleRef(id="gone", version=2)))
    assert asked("comity", town, about).gold_found == 0.5


# How the letter is told


class Writer:
    """Refuses to choose, as an endpoint without constrained output would, and writes `text`."""

    name = "writer"

    def __init__(
        self, text: str, error: Exception | None = None, finish_reason: str = "stop"
    ) -> None:
        self.text, self.error, self.finish_reason = text, error, finish_reason
        self.requests: list[Request] = []

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        self.requests.append(request)
        if request.choices:
            raise ModelNonsense("writer: chose none of the letters")
        if self.error:
            raise self.error
        yield self.text
        usage = Usage(prompt_tokens=9, completion_tokens=4)
        yield Reply(text=self.text, usage=usage, finish_reason=self.finish_reason)

    def count_tokens(self, text: str) -> int:
        return estimate_tokens(text)


class Chooser(Writer):
    """Keeps to the letters, but tells no log-probabilities."""

    async def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        self.requests.append(request)
        yield self.text
        yield Reply(text=self.text)


ASKED = (Message(role="user", content="Dogs?"),)


async def told(model: ChatModel) -> Told:
    return await tell(model, question(), ASKED)


def test_a_letter_told_by_log_probabilities_comes_with_them() -> None:
    model = ScriptedModel(["B"], confidence=0.8)
    answer = asyncio.run(told(model))
    assert (answer.letter, answer.by, answer.not_scored) == ("B", "logprobs", "")
    assert answer.logprobs["B"] == pytest.approx(math.log(0.8))
    assert set(answer.logprobs) == {"A", "B", "C"}
    assert [request.choices for request in model.requests] == [("A", "B", "C")]


def test_a_letter_told_by_constrained_output_has_no_log_probabilities() -> None:
    model = Chooser("C")
    answer = asyncio.run(told(model))
    assert (answer.letter, answer.by, answer.logprobs) == ("C", "constrained", {})
    assert len(model.requests) == 1


def test_text_is_the_last_resort() -> None:
    model = Writer("The answer is not A but B")
    answer = asyncio.run(told(model))
    assert (answer.letter, answer.by, answer.not_scored) == ("B", "text", "")
    assert answer.reply.usage.prompt_tokens == 9
    assert [bool(request.choices) for request in model.requests] == [True, False]
    assert {request.messages for request in model.requests} == {ASKED}


@pytest.mark.parametrize("text", ["Dogs bark.", "It is A or B.", ""])
def test_an_answer_that_cannot_be_read_is_not_scored_and_says_why(text: str) -> None:
    answer = asyncio.run(told(Writer(text)))
    assert (answer.letter, answer.by, answer.reply.text) == ("", "", text)
    assert answer.not_scored


@pytest.mark.parametrize(
    ("text", "letter", "reason"),
    [
        ("B\n\nThe rule says that", "B", ""),
        ("Answer: B\nFor", "B", ""),
        ("The answer is B. Or is", "", "B may not be its last word"),
        ("Let me think.\nThe answer is B.\nBut", "", "B may not be its last word"),
        ("Let me think", "", "no letter"),
    ],
)
def test_an_answer_that_was_cut_counts_only_if_its_first_line_says_the_letter(
    text: str, letter: str, reason: str
) -> None:
    model = Writer(text, finish_reason="length")
    answer = asyncio.run(tell(model, question(), ASKED, max_tokens=7))
    cut = "; the answer was cut at its longest: raise --max-tokens"
    assert (answer.letter, answer.not_scored) == (letter, reason and reason + cut)
    assert model.requests[-1].max_tokens == 7


def test_what_is_no_answer_of_a_chat_model_is_a_failure() -> None:
    garbled = ModelGarbled("writer: answered with text/html")
    for model in (ScriptedModel(["A"], error=garbled), Writer("", garbled)):
        with pytest.raises(ModelGarbled):
            asyncio.run(told(model))


def test_a_model_that_writes_nonsense_twice_is_not_scored_and_says_why() -> None:
    answer = asyncio.run(told(Writer("", ModelNonsense("writer: an empty answer"))))
    assert (answer.letter, answer.not_scored) == ("", "writer: an empty answer")


@pytest.mark.parametrize(
    "model",
    [
        lambda: ScriptedModel(["A"], error=ModelError("scripted: down")),
        lambda: Writer("", ModelError("writer: down")),
    ],
)
def test_a_model_that_fails_is_no_answer(model: Callable[[], ChatModel]) -> None:
    with pytest.raises(ModelError, match="down"):
        asyncio.run(told(model()))


def test_a_seed_goes_to_the_model() -> None:
    model = Writer("B")
    asyncio.run(tell(model, question(), ASKED, seed=7))
    assert [request.seed for request in model.requests] == [7, 7]
