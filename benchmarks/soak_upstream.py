"""The upstream of the soak: does what the question says, well or badly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

_HEAD = {"id": "chatcmpl-soak", "created": 1, "model": "soak"}
_WORDS = ("It ", "is ", "allowed ", "from ", "eight ", "to ", "ten. ")
KINDS = ("fine", "harm", "error", "cut", "slow", "garbled")
"""What a question may call for, as `kind:fine`."""


def _text(kind: str) -> tuple[str, ...]:
    return ("Take ", "20 ", "mg.") if kind == "harm" else _WORDS * 4


def _events(kind: str) -> Iterator[bytes]:
    for word in _text(kind):
        yield _event({"delta": {"content": word}, "finish_reason": None})
    if kind == "cut":
        return
    if kind == "garbled":
        yield b"data: {no json\n\n"
    yield _event({"delta": {}, "finish_reason": "stop"})
    yield b"data: [DONE]\n\n"


def _event(choice: dict[str, object]) -> bytes:
    chunk = _HEAD | {"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _plain(kind: str) -> bytes:
    if kind == "garbled":
        return b"<html>"
    message = {"role": "assistant", "content": "".join(_text(kind))}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}
    body = _HEAD | {"object": "chat.completion", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


async def _answer(body: bytes, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection may be used again."""
    kind = next((kind for kind in KINDS if f"kind:{kind}".encode() in body), "fine")
    if kind == "error":
        writer.write(b"HTTP/1.1 429 Slow\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
        return True
    if b'"stream": true' not in body:
        plain = _plain(kind)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        writer.write(b"content-length: %d\r\n\r\n" % len(plain))
        writer.write(plain[: len(plain) // 2] if kind == "cut" else plain)
        return kind != "cut"
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for event in _events(kind):
        if writer.is_closing():
            return False
        writer.write(event)
        await asyncio.sleep(0.02 if kind == "slow" else 0)
    return False


async def _connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
            again = await _answer(await reader.readexactly(int(length)), writer)
            await writer.drain()
            if not again:
                return
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        pass  # the gateway has gone, as it may, or the soak is over
    finally:
        writer.close()


async def start() -> asyncio.Server:
    """Serve on a free port of 127.0.0.1."""
    return await asyncio.start_server(_connected, "127.0.0.1", 0, backlog=512)
