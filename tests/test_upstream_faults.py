"""What the gateway makes of an upstream that is slow, broken or strange, byte by byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raw_upstream import (
    HEAD,
    STREAM,
    Running,
    event,
    gateway,
    piece,
    plain,
    reply,
    says,
)

TEXT = "Etwas Wärme 🌡. Mehr."
HARM = "Nimm 20 mg. Mehr."


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    with gateway() as running:
        yield running


@pytest.fixture(scope="module")
def window() -> Iterator[Running]:
    with gateway(release="window") as running:
        yield running


class Told:
    """What a client got: text, the last `finish_reason`, or the error."""

    def __init__(self) -> None:
        self.text, self.finish, self.error = "", "", ""
        self.calls: list[Any] = []
        self.done = False

    @property
    def verdict(self) -> tuple[str, str, bool]:
        """What has to be the same for a stream and a plain answer."""
        if self.error or self.finish == "content_filter":
            return ("", self.finish, bool(self.error))
        return (self.text, self.finish, False)


def plainly(running: Running) -> Told:
    answer = running.ask()
    body, told = answer.json(), Told()
    if "error" in body:
        if body["error"]["code"] == "content_filter":
            told.finish = "content_filter"
        else:
            told.error = body["error"]["message"]
            assert answer.status_code >= 429
        return told
    choice = body["choices"][0]
    told.text, told.finish = choice["message"]["content"] or "", choice["finish_reason"]
    return told


def streaming(running: Running) -> Told:
    told = Told()
    for line in running.ask(stream=True).text.splitlines():
        if line == "data: [DONE]":
            told.done = True
        elif line.startswith("data: "):
            _add(told, json.loads(line[6:]))
        elif line.startswith("{"):
            _add(told, json.loads(line))
    assert told.done != bool(told.error)
    assert not told.done or told.finish
    return told


def _add(told: Told, body: Any) -> None:
    if "error" in body:
        told.error = body["error"]["message"]
        return
    for choice in body["choices"]:
        told.text += choice["delta"].get("content") or ""
        told.finish = choice["finish_reason"] or told.finish


def sent(text: str) -> bytes:
    return STREAM + b"".join(says(text))


@pytest.mark.parametrize("text", [TEXT, HARM], ids=["fine", "harm"])
@pytest.mark.parametrize("which", ["strict", "window"])
def test_a_stream_that_is_cut_at_any_byte_is_an_error_or_the_plain_answers_verdict(
    request: pytest.FixtureRequest, which: str, text: str
) -> None:
    running: Running = request.getfixturevalue(which)
    running.upstream.script = lambda body: [plain({"content": text})]
    whole = plainly(running)
    chunks = [{"delta": {"content": text}}, {"delta": {}, "finish_reason": "stop"}]
    raw = STREAM + b"".join(event({"choices": [each]}) for each in chunks) + event("[DONE]")
    ends = 0
    for cut in range(len(STREAM), len(raw) + 1):
        running.upstream.script = lambda body, cut=cut: [raw[:cut], None]  # type: ignore[misc]
        told = streaming(running)
        assert told.error or told.verdict == whole.verdict
        assert "20 mg" not in told.text + told.error
        ends += not told.error
    assert ends >= 1


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, len(sent(TEXT))), max_size=6))
@pytest.mark.parametrize("text", [TEXT, HARM], ids=["fine", "harm"])
def test_however_the_network_cuts_a_stream_the_verdict_is_the_plain_answers(
    strict: Running, text: str, cuts: list[int]
) -> None:
    strict.upstream.script = lambda body: [plain({"content": text})]
    whole, raw = plainly(strict), sent(text)
    at = [0, *sorted(cuts), len(raw)]
    parts = [raw[a:b] for a, b in itertools.pairwise(at) if a < b]
    steps = [step for part in parts for step in (part, 0.001)]
    strict.upstream.script = lambda body: [*steps, None]
    assert streaming(strict).verdict == whole.verdict


def test_a_plain_answer_that_is_cut_is_an_error(strict: Running) -> None:
    raw = plain({"content": "Yes."})
    start = raw.index(b"\r\n\r\n") + 4
    for cut in range(start, len(raw), 5):
        strict.upstream.script = lambda body, cut=cut: [raw[:cut], None]  # type: ignore[misc]
        assert plainly(strict).error
    unbounded = raw.replace(b"content-length", b"x-length")
    for cut in range(start, len(unbounded), 5):
        strict.upstream.script = (
            lambda body, cut=cut: [unbounded[:cut], None]  # type: ignore[misc]
        )
        assert plainly(strict).error


def test_half_an_answer_is_not_told_in_its_error(strict: Running) -> None:
    raw = plain({"content": HARM}).partition(b"\r\n\r\n")[2]
    for cut in range(1, len(raw)):
        strict.upstream.script = lambda body, cut=cut: [reply(raw[:cut])]  # type: ignore[misc]
        assert "mg" not in plainly(strict).error
    page = b"<html><title>A proxy of the house</title></html>"
    strict.upstream.script = lambda body: [reply(page, "text/html")]
    assert "A proxy of the house" in plainly(strict).error


@pytest.mark.parametrize(
    "events",
    [
        [b": a comment\n\n", *says(TEXT), b": one more\n\n"],
        [each.replace(b"\n", b"\r\n") for each in says(TEXT)],
        [each.replace(b"data: ", b"data:") for each in says(TEXT)],
        [b"event: message\nid: 7\nretry: 10\n" + each for each in says(TEXT)],
        [*says(TEXT), *says("20 mg")],
        [b"data: {\ndata: " + each[7:] for each in says(TEXT)[:-1]] + [event("[DONE]")],
        [event({**HEAD, "choices": []}), event({**HEAD, "choices": None}), *says(TEXT)],
        [event(piece(None)), event(piece({"content": None})), *says(TEXT)],
        [event(piece({"role": "assistant", "content": ""})), *says(TEXT)],
        [
            *says(TEXT)[:-1],
            event({**HEAD, "choices": [], "usage": {"prompt_tokens": -4}}),
            event("[DONE]"),
        ],
    ],
    ids=[
        "comments",
        "crlf",
        "no blank",
        "other fields",
        "more behind the end",
        "two data lines",
        "no choices at first",
        "null delta",
        "role first",
        "negative usage",
    ],
)
def test_a_stream_of_unusual_form_is_read_as_it_is_meant(
    strict: Running, events: list[bytes]
) -> None:
    strict.upstream.script = lambda body: [STREAM, *events, None]
    told = streaming(strict)
    assert (told.text, told.finish, told.error) == (TEXT, "stop", "")


FIRST = event(piece({"content": "Yes"}))
END = [event(piece({}, "stop")), event("[DONE]")]


@pytest.mark.parametrize(
    "events",
    [
        [FIRST, b"data: {broken\n\n", *END],
        [FIRST, b"data: \xff\xfe\n\n", *END],
        [FIRST, b'data: "text"\n\n', *END],
        [FIRST, event("[DONE]")],
        [event("[DONE]")],
        [],
        [*END[:1]],
        [FIRST, event({"error": {"message": "out of memory"}}), *END],
        [FIRST, event({"error": "out of memory"}), *END],
        [event(piece({"content": 7})), *END],
        [event(piece({"content": ["a"]})), *END],
        [event(piece("text")), *END],
        [event(piece({"content": "x"}, index="0")), *END],
        [event(piece({"content": "x"}, index=-1)), *END],
        [event(piece({"content": "x"}, index=10**9)), *END],
        [event(piece({"content": "x"}, finish=1)), *END],
        [event({**HEAD, "choices": {"0": 1}}), *END],
        [event({**HEAD, "choices": [None]}), *END],
        [event(piece({"tool_calls": "x"})), *END],
        [event(piece({"tool_calls": [None]})), *END],
        [event(piece({"tool_calls": [{"index": 0, "function": {"arguments": 1}}]})), *END],
        [event(piece({"tool_calls": [{"type": "custom", "custom": {"input": "20 mg"}}]})), *END],
        [FIRST, event({**HEAD, "choices": [], "usage": [1]}), *END],
        [FIRST, b'data: {"choices": [], "created": 1e999}\n\n', *END],
        [event(r'{"choices": [{"delta": {"content": "\ud83d"}}]}'), *END],
        [b"data: " + b"[" * 5000 + b"]" * 5000 + b"\n\n", *END],
    ],
)
@pytest.mark.parametrize("which", ["strict", "window"])
def test_a_stream_that_cannot_be_understood_is_an_error_and_never_a_clean_end(
    request: pytest.FixtureRequest, which: str, events: list[bytes]
) -> None:
    running: Running = request.getfixturevalue(which)
    before = len(running.decisions())
    running.upstream.script = lambda body: [STREAM, *events, None]
    assert streaming(running).error
    assert all(decision.finish_reason == "broken_off" for decision in running.decisions()[before:])


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        {"choices": None},
        {"choices": {}},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "text"}]},
        {"choices": [{"message": {"content": 7}}]},
        {"choices": [{"message": {"content": [7]}}]},
        {"choices": [{"message": {"content": [{"type": "image"}]}}]},
        {"choices": [{"index": "0", "message": {"content": "x"}}]},
        {"choices": [{"message": {"content": "x"}, "finish_reason": 1}]},
        {"choices": [{"message": {"tool_calls": 1}}]},
        {"choices": [{"message": {"tool_calls": [{"function": None}]}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {"name": 1}}]}}]},
        {"choices": [{"message": {"tool_calls": [{"custom": {"input": "20 mg"}}]}}]},
        {"choices": [{"message": {"content": "x"}}], "usage": 1},
        {"choices": [{"message": {"content": "x"}}] * 1000},
        {"error": {"message": "no"}},
    ],
)
def test_a_plain_answer_that_cannot_be_understood_is_a_502(strict: Running, answer: Any) -> None:
    strict.upstream.script = lambda body: [reply(json.dumps(answer).encode())]
    before = len(strict.decisions())
    told = strict.ask()
    assert told.status_code == 502
    assert len(strict.decisions()) == before


def test_text_that_no_check_reads_does_not_leave(strict: Running) -> None:
    message = {
        "content": "Yes.",
        "reasoning_content": "20 mg",
        "audio": {"transcript": "20 mg"},
        "function_call": {"name": "give", "arguments": "20 mg"},
    }
    strict.upstream.script = lambda body: [plain(message, text="20 mg")]
    told = strict.ask()
    assert told.json()["choices"][0]["message"]["content"] == "Yes."
    assert "20 mg" not in told.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_in_its_own_field_is_checked_and_passed_on(strict: Running, stream: bool) -> None:
    def answered(refusal: str) -> str:
        deltas = [event(piece({"refusal": part})) for part in (refusal[:5], refusal[5:])]
        strict.upstream.script = lambda body: (
            [STREAM, *deltas, *END, None]
            if body["stream"]
            else [plain({"content": None, "refusal": refusal})]
        )
        return strict.ask(stream=stream).text

    assert '"refusal": "I must not."' in answered("I must not.").replace('":"', '": "')
    assert "20 mg" not in answered("Not even 20 mg.")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "body", "more", "expected", "message"),
    [
        ("429 Slow", b'{"error": {"message": "slow down"}}', ["retry-after: 7"], 429, "slow down"),
        ("429 Slow", b'{"error": "slow down"}', ["retry-after: 7"], 429, "slow down"),
        ("500 Oops", b"<html>oops</html>", [], 500, "answered 500"),
        ("503 Busy", b"", [], 503, "answered 503"),
        ("401 No", b'{"error": {"message": "Bad key sk-12"}}', [], 502, "gateway's key"),
        ("302 Found", b"", ["location: http://127.0.0.1:1/"], 502, "302"),
        ("200 OK", b"<html>hello</html>", [], 502, "endpoint"),
        ("204 No Content", b"", [], 502, "204"),
        ("400 Bad", b'{"error": {"message": 5, "code": {"a": 1}}}', [], 400, "5"),
        ("400 Bad", b"[" * 9000, [], 400, "answered 400"),
    ],
)
def test_what_the_upstream_refuses_is_told_in_openais_form(
    strict: Running,
    status: str,
    body: bytes,
    more: list[str],
    expected: int,
    message: str,
    stream: bool,
) -> None:
    raw = reply(body, "text/html", status, more)
    strict.upstream.script = lambda _: [raw[:-9], 0.01, raw[-9:]]
    told = strict.ask(stream=stream)
    assert told.status_code == expected
    error = told.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert "sk-12" not in told.text
    assert told.headers.get("retry-after") == ("7" if more and "retry" in more[0] else None)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "raw",
    [
        [None],
        [b"HTTP/1.1 200 O", None],
        [b"nonsense\r\n\r\n", None],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n", None],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ndata: \r\n", None],
        [b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope"],
        [b"HTTP/1.1 200 OK\r\n" + b"x-many: " + b"y" * 200_000 + b"\r\n\r\n", None],
    ],
    ids=["nothing", "half a line", "nonsense", "chunk size", "cut chunk", "gzip", "long header"],
)
def test_a_broken_connection_is_a_502(strict: Running, raw: list[Any], stream: bool) -> None:
    strict.upstream.script = lambda body: raw
    told = strict.ask(stream=stream)
    assert told.status_code == 502
    assert told.json()["error"]["type"] == "upstream_error"


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_sends_without_end_is_cut_off(strict: Running, stream: bool) -> None:
    start = STREAM + b'data: {"a": "' if stream else STREAM.replace(b"event-stream", b"plain")
    strict.upstream.script = lambda body: [start, *(b"x" * 1_000_000 for _ in range(40))]
    told = strict.ask(stream=stream)
    assert told.status_code == 502
    assert "16 MB" in told.json()["error"]["message"]


def test_an_event_of_a_megabyte_is_read(strict: Running) -> None:
    text = "ä" * 500_000
    strict.upstream.script = lambda body: [STREAM, event(piece({"content": text})), *END, None]
    assert streaming(strict).text == text


def test_silence_is_a_504_before_the_first_byte_and_an_error_later() -> None:
    with gateway(silent=0.2, release="observe") as running:
        for steps in ([3.0], [STREAM, 3.0]):
            running.upstream.script = lambda body, steps=steps: steps  # type: ignore[misc]
            told = running.ask(stream=True)
            assert told.status_code == 504
        running.upstream.script = lambda body: [STREAM, FIRST, 3.0]
        told_late = streaming(running)
        assert (told_late.text, told_late.done) == ("Yes", False)
        assert "silent" in told_late.error
        running.wait_for(lambda: running.upstream.open == 0)
        assert running.upstream.broken == 3
        (decision,) = running.decisions()
        assert (decision.answer, decision.finish_reason) == ("Yes", "broken_off")
