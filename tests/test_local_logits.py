"""The next tokens of a GGUF model: true, in step with plain generation, and one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comity.errors import ModelError, ModelMissing, ModelTimeout, SettingsError
from comity.models.chat import ChatModel, complete, open_model
from comity.models.local import LocalModel
from comity.models.local_logits import LocalSession
from comity.models.logits import LogitModel
from comity.models.pull import DEFAULT_MODEL
from comity.models.steer import steered
from comity.records import Message, Request

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("xllamacpp", reason="needs the extra local")

from contracts.chat_model import ChatModelContract
from tiny_gguf import write_gguf
from tiny_model import tiny_adapter, tiny_model

PLAIN = (Message(role="user", content="Say hello."),)
BRIEF = (Message(role="system", content="Be brief."), *PLAIN)
LONG = (Message(role="user", content="tell me what the rules say. " * 40),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", spread=0.5)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return write_gguf(folder, folder.with_suffix(".gguf"))


@pytest.fixture
def model(file: Path) -> Iterator[LocalModel]:
    model = LocalModel(file, context=2048, threads=1, repeatable=True, timeout=20)
    yield model
    model.close()


class TestTiny(ChatModelContract):
    @pytest.fixture
    def model(self, model: LocalModel) -> ChatModel:
        return model


def likeliest(session: LocalSession, steps: int, lead: int = 0) -> str:
    """What comes of always taking the token that the prompt `lead` makes likeliest."""
    for _ in range(steps):
        token = int(session.next()[lead].ids[0])
        if session.is_end(token):
            break
        session.push(token)
    session.close()
    return session.text


def whole(text: str) -> str:
    """Without marks for bytes that are no character: how many are written differs."""
    return text.replace("\ufffd", "")


async def plain(model: LocalModel, messages: tuple[Message, ...]) -> str:
    return whole((await complete(model, Request(messages=messages, max_tokens=30))).text)


def test_the_candidates_are_those_of_the_model_itself(folder: Path, model: LocalModel) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder)
    session = model.open_session([PLAIN, BRIEF])
    pushed: list[int] = []
    for _ in range(3):
        for told, messages in zip(session.next(), (PLAIN, BRIEF), strict=True):
            turns = [turn.model_dump() for turn in messages]
            written = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False
            )
            with torch.no_grad():
                logits = theirs(torch.tensor([[*tokenizer(written)["input_ids"], *pushed]])).logits
            scores = torch.log_softmax(logits[0, -1], -1).numpy()
            assert len(told.ids) > 100
            assert list(told.logprobs) == sorted(told.logprobs, reverse=True)
            assert np.abs(scores[told.ids] - told.logprobs).max() < 0.1
        pushed.append(int(session.next()[0].ids[5]))
        session.push(pushed[-1])
    session.close()


@pytest.mark.parametrize(("lead", "messages"), [(0, PLAIN), (1, BRIEF)])
async def test_the_likeliest_tokens_are_the_plain_answer(
    model: LocalModel, lead: int, messages: tuple[Message, ...]
) -> None:
    expected = await plain(model, messages)
    assert whole(likeliest(model.open_session([PLAIN, BRIEF]), 30, lead)) == expected != ""


async def test_steering_by_nothing_or_by_one_changes_nothing(model: LocalModel) -> None:
    asked = Request(messages=BRIEF, max_tokens=20)
    for strength, messages in ((0.0, PLAIN), (1.0, BRIEF)):
        said = await complete(steered(model, strength=strength), asked)
        assert whole(said.text) == whole((await complete(model, _of(asked, messages))).text)


def test_a_token_that_ends_the_answer_is_known_from_one_that_is_only_silent(
    folder: Path, model: LocalModel
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    session = model.open_session([PLAIN])
    before = session.next()
    assert session.is_end(tokenizer.eos_token_id)
    assert not session.is_end(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    assert not session.is_end(tokenizer.convert_tokens_to_ids("a"))
    assert session.next() is before
    session.close()


def test_half_a_character_is_kept_back(folder: Path, model: LocalModel) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    session = model.open_session([PLAIN])
    texts = []
    for token in tokenizer("é!")["input_ids"]:
        assert token in session.next()[0].ids
        session.push(token)
        texts.append(session.text)
    session.close()
    assert texts == ["", "é", "é!"]


def test_room_shrinks_with_every_token_and_counts_what_the_model_was_made_for(
    model: LocalModel,
) -> None:
    session = model.open_session([PLAIN, BRIEF])
    longest = max(session.prompt_tokens)
    assert session.prompt_tokens[0] < session.prompt_tokens[1] == longest
    # The model was made for 1024 tokens, whatever context is asked for.
    assert session.room == 1024 - 1 - longest
    session.push(int(session.next()[0].ids[0]))
    assert session.room == 1024 - 2 - longest
    session.close()


def test_the_context_can_be_filled_to_the_last_token(file: Path) -> None:
    model = LocalModel(file, context=256, threads=1)
    session = model.open_session([PLAIN])
    while session.room:
        session.push(int(session.next()[0].ids[0]))
    assert len(session.next()[0].ids) > 100
    session.close()
    with pytest.raises(ModelError, match=r"context of 256 tokens.*does not fit"):
        model.open_session([LONG])
    model.close()


def test_more_prompts_than_places_get_places(model: LocalModel) -> None:
    three = model.open_session([PLAIN, BRIEF, LONG])
    told = [list(next_.ids[:5]) for next_ in three.next()]
    three.close()
    alone = []
    for messages in (PLAIN, BRIEF, LONG):
        session = model.open_session([messages])
        alone.append(list(session.next()[0].ids[:5]))
        session.close()
    assert told == alone


def test_a_session_waits_for_the_one_before_it(model: LocalModel) -> None:
    first, second = model.open_session([PLAIN]), model.open_session([BRIEF])
    first.next()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.next)
        first.push(int(first.next()[0].ids[0]))
        first.next()
        assert not waiting.done()
        first.close()
        assert len(waiting.result(timeout=20)) == 1
    second.close()


def test_a_session_that_waits_can_be_given_up(model: LocalModel) -> None:
    first, second = model.open_session([PLAIN]), model.open_session([BRIEF])
    first.next()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.next)
        second.close()
        with pytest.raises(ModelError, match="has been closed"):
            waiting.result(timeout=20)
    first.next()
    first.close()


def test_who_waits_too_long_is_told_so(file: Path) -> None:
    model = LocalModel(file, context=256, threads=1, timeout=0.3)
    first = model.open_session([PLAIN])
    first.next()
    with pytest.raises(ModelTimeout, match="busy with other answers"):
        model.open_session([PLAIN]).next()
    first.close()
    assert model.open_session([PLAIN]).next()
    model.close()


async def test_a_closed_session_says_so_and_leaves_the_model_to_others(model: LocalModel) -> None:
    session = model.open_session([PLAIN])
    token = int(session.next()[0].ids[0])
    session.close()
    session.close()
    for call in (session.next, lambda: session.push(token)):
        with pytest.raises(ModelError, match="has been closed"):
            call()
    assert await plain(model, PLAIN) == await plain(model, PLAIN) != ""


def test_closing_from_another_thread_stops_a_long_prompt(file: Path) -> None:
    model = LocalModel(file, context=2048, threads=1)
    session = model.open_session([LONG])
    timer = threading.Timer(0.001, session.close)
    timer.start()
    with pytest.raises(ModelError, match="has been closed"):
        likeliest(session, 900)
    timer.join()
    other = model.open_session([PLAIN])
    assert other.next()
    other.close()
    model.close()


def test_a_token_that_was_not_offered_is_refused(model: LocalModel) -> None:
    session = model.open_session([PLAIN])
    session.next()
    with pytest.raises(ModelError, match="100000 is no token"):
        session.push(100000)
    session.close()


async def test_an_adapter_changes_the_answer_and_stands_in_the_name(
    folder: Path, file: Path, tmp_path: Path, model: LocalModel
) -> None:
    from comity.training.export import export_adapter

    adapter = export_adapter(tiny_adapter(folder, tmp_path / "peft"), tmp_path / "polite.gguf")
    assert open_model(f"local:{file}+{adapter}").name == "local:tiny+polite"
    adapted = LocalModel(file, adapter=adapter, context=256, threads=1, repeatable=True)
    assert isinstance(adapted, LogitModel)
    assert await plain(adapted, PLAIN) != await plain(model, PLAIN)
    adapted.close()


def test_a_missing_adapter_and_one_of_another_model_say_so(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelMissing, match=r"no adapter file .*none\.gguf; comity train export"):
        open_model(f"local:{file}+{tmp_path}/none.gguf")
    wrong = open_model(f"local:{file}+{file}")
    with pytest.raises(ModelError, match="trained on another model or is no LoRA adapter"):
        wrong.count_tokens("hello")
    assert capfd.readouterr() == ("", "")


def test_a_file_may_have_a_plus_in_its_name(file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a+b.gguf"
    odd.write_bytes(file.read_bytes())
    assert open_model(f"local:{odd}").name == "local:a+b"
    assert open_model(f"local:{odd}+{file}").name == f"local:a+b+{file.stem}"


@pytest.mark.parametrize("name", ["local+a.gguf", "local:+a.gguf"])
def test_an_adapter_alone_belongs_to_the_default_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMITY_CACHE", str(tmp_path))
    with pytest.raises(ModelMissing, match=f"model {DEFAULT_MODEL} is not in"):
        open_model(name)


def test_the_name_before_an_adapter_is_checked() -> None:
    with pytest.raises(SettingsError, match=f"did you mean '{DEFAULT_MODEL}'"):
        open_model(f"local:{DEFAULT_MODEL[:-1]}+a.gguf")
    with pytest.raises(ModelMissing, match=r"no model file none/a\+b\.gguf"):
        open_model("local:none/a+b.gguf")


def _of(request: Request, messages: tuple[Message, ...]) -> Request:
    return request.model_copy(update={"messages": messages})
