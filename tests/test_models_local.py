"""The model on this machine: contract and promises, where the default model has been pulled."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import cast

import pytest

from comity.errors import ModelError, ModelMissing
from comity.models.chat import ChatModel, complete
from comity.models.local import LocalModel
from comity.models.pull import model_path
from comity.records import Message, Reply, Request
from contracts.chat_model import CHOICE, GREETING, ChatModelContract, items


@pytest.fixture(scope="module")
def local() -> Iterator[LocalModel]:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    try:
        path = model_path()
    except ModelMissing as error:
        pytest.skip(str(error))
    model = LocalModel(path, context=1024, threads=1, repeatable=True)
    yield model
    model.close()


class TestLocal(ChatModelContract):
    @pytest.fixture
    def model(self, local: LocalModel) -> ChatModel:
        return local


async def test_the_same_request_gives_the_same_answer_to_the_last_bit(local: LocalModel) -> None:
    assert await complete(local, CHOICE) == await complete(local, CHOICE)
    sampled = GREETING.model_copy(update={"temperature": 1.5, "seed": 7})
    assert (await complete(local, sampled)).text == (await complete(local, sampled)).text


async def test_every_choice_is_scored_also_where_one_begins_another(local: LocalModel) -> None:
    choices = ("red", "red hot", "zebra")
    scores = (await complete(local, CHOICE.model_copy(update={"choices": choices}))).choice_logprobs
    assert scores is not None
    assert set(scores) == set(choices)
    assert sum(map(math.exp, scores.values())) <= 1


async def test_a_given_up_prompt_frees_the_model(local: LocalModel) -> None:
    endless = Request(messages=GREETING.messages, max_tokens=900, temperature=2.0, seed=1)
    stream = cast(AsyncGenerator[str | Reply, None], local.stream(endless))
    await anext(stream)
    await stream.aclose()
    begun = time.monotonic()
    await complete(local, GREETING)
    assert time.monotonic() - begun < 60


async def test_a_prompt_beyond_the_context_says_so(local: LocalModel) -> None:
    long = Request(messages=(Message(role="user", content="word " * 1500),))
    with pytest.raises(ModelError, match="1024 tokens"):
        await complete(local, long)


async def test_an_answer_that_reaches_its_limit_says_so(local: LocalModel) -> None:
    *_, reply = await items(local, GREETING.model_copy(update={"max_tokens": 2}))
    assert isinstance(reply, Reply)
    assert (reply.finish_reason, reply.usage.completion_tokens) == ("length", 2)


def test_nothing_of_llama_cpp_reaches_the_terminal(
    local: LocalModel, capfd: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(complete(local, GREETING))
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="comity models pull"):
        LocalModel(tmp_path / "none.gguf")


async def test_a_file_that_is_no_model_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelError, match="cannot be loaded"):
        await complete(LocalModel(path), GREETING)
    assert capfd.readouterr() == ("", "")
