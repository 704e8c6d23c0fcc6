"""How choices are scored by a local server: in one reading where that tells all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from comity.models.local import _score


class Server:
    """Tells `top` for the first token; forced answers are worth -9 a token."""

    def __init__(self, top: Mapping[str, float]) -> None:
        self.top = top
        self.forced: list[str] = []

    def handle_chat_completions(
        self, body: Mapping[str, Any], hand: Callable[[Mapping[str, Any]], bool] | None = None
    ) -> Mapping[str, Any]:
        usage = {"prompt_tokens": 12, "completion_tokens": 1}
        if hand is None:
            self.forced.append(body["grammar"])
            token = {"bytes": [1], "logprob": -9.0}
            return {"choices": [{"logprobs": {"content": [token]}}], "usage": usage}
        likeliest = [{"token": token, "logprob": value} for token, value in self.top.items()]
        hand({"choices": [{"logprobs": {"content": [{"top_logprobs": likeliest}]}}]})
        hand({"choices": [], "usage": usage})
        return {}


def scored(server: Server, choices: tuple[str, ...]) -> Mapping[str, Any]:
    handed: list[Mapping[str, Any]] = []

    def hand(chunk: Mapping[str, Any]) -> bool:
        handed.append(chunk)
        return False

    _score(server, {"messages": []}, choices, hand)
    return handed[-1]


def test_letters_are_scored_in_one_reading() -> None:
    server = Server({"B": -0.2, "A": -2.0, " A": -1.0, "The": -3.0})
    last = scored(server, ("A", "B"))
    assert last["scores"] == {"A": -2.0, "B": -0.2}
    assert last["tokens"] == {"prompt_tokens": 12, "completion_tokens": 1}
    assert server.forced == []


@pytest.mark.parametrize("choices", [("A", "C"), ("A", "AB"), ("passed", "A")])
def test_what_one_token_does_not_tell_is_forced(choices: tuple[str, ...]) -> None:
    server = Server({"A": -0.2, "AB": -0.3, "pass": -0.5})
    last = scored(server, choices)
    assert last["scores"] == dict.fromkeys(choices, -9.0)
    assert len(server.forced) == 2
