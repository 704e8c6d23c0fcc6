from __future__ import annotations

import asyncio
import json

import pytest

from comity.documents.draft import Ask, Drafts, draft_rules
from comity.documents.fields import RuleDefaults
from comity.documents.split import split
from comity.errors import ModelMissing, ModelTimeout
from comity.records import Reply, Request
from data_documents import document

PROSE = document(
    "On visitors\n\nWe like guests, but they\nsign the book, and nobody lets them into the\n"
    "laboratory.\n\nThe book lies at the door."
)
PASSAGES = split(PROSE)


def answering(*answers: str | Exception, finish_reason: str = "stop") -> Ask:
    """A model that gives these answers in turn."""
    left = list(answers)

    async def ask(request: Request) -> Reply:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Reply(text=answer, finish_reason=finish_reason)

    return ask


def drafted(*rules: tuple[str, str]) -> str:
    return json.dumps({"rules": [{"text": text, "quotation": words} for text, words in rules]})


NONE = drafted()


async def drafts(*answers: str | Exception, **defaults: str) -> Drafts:
    return await draft_rules(PROSE, PASSAGES, answering(*answers), RuleDefaults(**defaults))


async def test_a_drafted_rule_carries_the_words_it_came_from() -> None:
    answer = drafted(("Guests sign the visitors' book.", "they sign the book"))
    result = await drafts(answer, NONE, place="XA")
    (rule,) = result.rules
    assert (rule.status, rule.place, rule.title) == ("draft", "XA", "On visitors")
    assert rule.source is not None
    assert rule.source.quotation == "they\nsign the book"
    assert PROSE.text[rule.source.start : rule.source.end] == rule.source.quotation
    assert result.failures == ()


async def test_a_quotation_that_does_not_stand_in_the_passage_is_refused_and_reported() -> None:
    answer = drafted(("Guests pay.", "guests pay five crowns"), ("Guests sign.", "sign the book"))
    result = await drafts(answer, NONE)
    assert [rule.text for rule in result.rules] == ["Guests sign."]
    (failure,) = result.failures
    assert "'guests pay five crowns' does not stand in the passage" in failure.reason
    assert (failure.start, failure.end) == (PASSAGES[0].start, PASSAGES[0].end)


async def test_the_words_of_another_passage_are_no_quotation() -> None:
    result = await drafts(drafted(("The book is at the door.", "lies at the door")), NONE)
    assert result.rules == ()
    assert len(result.failures) == 1


@pytest.mark.parametrize(
    "answer", ["I found no rules.", "{}", '{"rules": [{"text": "x"}]}', drafted(("", "guests"))]
)
async def test_an_answer_off_the_schema_is_a_failure_of_its_passage(answer: str) -> None:
    result = await drafts(answer, drafted(("The book lies there.", "The book lies")))
    assert len(result.rules) == 1
    assert "does not follow the schema" in result.failures[0].reason


async def test_an_answer_that_was_cut_off_is_a_failure() -> None:
    ask = answering(NONE, NONE, finish_reason="length")
    result = await draft_rules(PROSE, PASSAGES, ask)
    assert ["cut off" in failure.reason for failure in result.failures] == [True, True]


async def test_a_timeout_is_a_failure_and_a_missing_model_an_error() -> None:
    result = await drafts(ModelTimeout("no answer in 60 s"), NONE)
    assert result.failures[0].reason == "no answer in 60 s"
    with pytest.raises(ModelMissing):
        await drafts(ModelMissing("no model; run: comity models pull"), NONE)


async def test_the_request_asks_for_the_schema_and_delimits_the_passage() -> None:
    seen: list[Request] = []

    async def ask(request: Request) -> Reply:
        seen.append(request)
        return Reply(text=NONE)

    await draft_rules(PROSE, PASSAGES, ask)
    assert len(seen) == len(PASSAGES) == 2
    assert seen[0].json_schema is not None
    assert PASSAGES[0].text in seen[0].messages[-1].content


async def test_no_more_passages_are_asked_about_at_once_than_allowed() -> None:
    running, most = 0, 0

    async def ask(request: Request) -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Reply(text=NONE)

    await draft_rules(PROSE, PASSAGES * 5, ask, at_once=3)
    assert most == 3
