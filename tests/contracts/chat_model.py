"""What every chat model promises. A test module makes a class of it and gives the model:

class TestMine(ChatModelContract):
    @pytest.fixture
    def model(self) -> ChatModel: ...
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from comity.models.chat import ChatModel, complete
from comity.records import Message, Reply, Request

SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
GREETING = Request(messages=(Message(role="user", content="Say hello."),), max_tokens=5)
CHOICE = Request(
    messages=(Message(role="user", content="Which is a colour? A: red, B: seven. One letter."),),
    choices=("A", "B"),
)


async def items(model: ChatModel, request: Request) -> list[str | Reply]:
    return [item async for item in model.stream(request)]


class ChatModelContract:
    @pytest.fixture
    def model(self) -> ChatModel:
        raise NotImplementedError("a contract test names its model")

    async def test_pieces_come_first_and_the_whole_reply_last(self, model: ChatModel) -> None:
        *pieces, reply = await items(model, GREETING)
        assert isinstance(reply, Reply)
        assert pieces
        assert "".join(cast(list[str], pieces)) == reply.text != ""

    async def test_a_reply_names_its_model_and_counts_its_tokens(self, model: ChatModel) -> None:
        reply = await complete(model, GREETING)
        assert reply.model == model.name
        assert reply.finish_reason in ("stop", "length")
        assert reply.usage.prompt_tokens > 0
        assert reply.usage.completion_tokens > 0

    async def test_choices_answer_with_one_of_them_and_only_their_scores(
        self, model: ChatModel
    ) -> None:
        reply = await complete(model, CHOICE)
        assert reply.text in CHOICE.choices
        if reply.choice_logprobs is not None:
            assert set(reply.choice_logprobs) <= set(CHOICE.choices)
            assert all(value <= 0 for value in reply.choice_logprobs.values())
            assert reply.text == max(reply.choice_logprobs, key=lambda c: reply.choice_logprobs[c])  # type: ignore[index]

    async def test_a_schema_answers_with_json(self, model: ChatModel) -> None:
        question = (Message(role="user", content="Is all well? Answer in JSON."),)
        reply = await complete(model, Request(messages=question, json_schema=SCHEMA))
        assert isinstance(json.loads(reply.text)["ok"], bool)

    async def test_several_requests_may_be_under_way_at_once(self, model: ChatModel) -> None:
        replies = await asyncio.gather(*(complete(model, GREETING) for _ in range(3)))
        assert all(reply.text for reply in replies)

    async def test_a_closed_stream_leaves_the_model_usable(self, model: ChatModel) -> None:
        stream = cast(AsyncGenerator[str | Reply, None], model.stream(GREETING))
        assert isinstance(await anext(stream), str)
        await stream.aclose()
        assert (await complete(model, GREETING)).text

    def test_tokens_are_counted_in_every_script(self, model: ChatModel) -> None:
        assert model.count_tokens("") == 0
        assert model.count_tokens("Dogs on a lead.") >= 3
        assert model.count_tokens("公园内遛犬应当使用牵引绳。") >= 5
        assert model.count_tokens("lead " * 100) > model.count_tokens("lead " * 10)

    def test_a_model_serves_one_event_loop_after_another(self, model: ChatModel) -> None:
        for _ in range(2):
            assert asyncio.run(complete(model, GREETING)).text
