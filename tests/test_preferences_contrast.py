"""What is left of a request without its user's wishes."""

from __future__ import annotations

import pytest

from comity.models.chat import complete
from comity.models.steer import steered
from comity.preferences.contrast import without_user
from comity.preferences.meta_prompt import Framed, aside, paragraphs
from comity.records import Message, Preference, Request, Weighed
from letter_model import LetterModel

PROVIDER = Framed(system="Speak of gardens only.")
SHORT = Preference(text="Keep answers short.", kind="style", stance="limits")
BOTH = Framed(
    system=PROVIDER.system,
    background="I keep bees on my roof.",
    weighed=(Weighed(preference=SHORT, outcome="kept"),),
)


def asked(framed: Framed, language: str, *, ruled: bool = False) -> Request:
    rules = ("Rules in force:", "[R1] Hives must be registered.")
    system = "\n\n".join((*rules, *paragraphs(framed, language, ruled=ruled)))
    before, behind = aside(framed, language, ruled=ruled)
    question = Message(role="user", content=f"{before}May I keep a hive?{behind}")
    return Request(messages=(Message(role="system", content=system), question), max_tokens=9)


@pytest.mark.parametrize("ruled", [False, True])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_rules_and_provider_stay_and_the_user_goes(language: str, ruled: bool) -> None:
    request = asked(BOTH, language, ruled=ruled)
    assert "bees" in request.messages[0].content
    assert "Keep answers short." in request.messages[1].content
    assert without_user(request) == asked(PROVIDER, language)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_request_of_nobody_in_particular_stays_as_it_is(language: str) -> None:
    assert without_user(asked(PROVIDER, language)) == asked(PROVIDER, language)


async def test_without_anything_of_a_user_a_steered_model_answers_as_it_always_does() -> None:
    model = LetterModel()
    request = asked(PROVIDER, "en")
    reply = await complete(steered(model, strength=2, without=without_user), request)
    assert reply.text == (await complete(model, request)).text


async def test_at_strength_0_an_answer_is_the_one_that_anybody_gets() -> None:
    model = LetterModel()
    reply = await complete(steered(model, strength=0, without=without_user), asked(BOTH, "en"))
    assert reply.text == (await complete(model, asked(PROVIDER, "en"))).text
