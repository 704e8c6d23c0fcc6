"""An OpenAI-compatible endpoint that answers the same after a fixed delay, and costs little.

It is written on bare asyncio so that what is measured is the gateway before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json

_WORDS = ("It ", "is ", "allowed ", "from ", "eight ", "to ", "ten.")
_HEAD = {"id": "chatcmpl-mock", "created": 1, "model": "mock"}


def whole() -> bytes:
    """The plain answer."""
    message = {"role": "assistant", "content": "".join(_WORDS)}
    body = _HEAD | {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27},
    }
    return _reply(json.dumps(body).encode(), "application/json")


def streamed() -> bytes:
    """The same answer as server-sent events, sent at once after the delay."""
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in _WORDS), {}]
    events = []
    for number, delta in enumerate(deltas, start=1):
        finish = "stop" if number == len(deltas) else None
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        chunk = _HEAD | {"object": "chat.completion.chunk", "choices": [choice]}
        events.append(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    body = b"".join(_chunk(event) for event in (*events, b"data: [DONE]\n\n", b""))
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n" + (
        b"transfer-encoding: chunked\r\n\r\n" + body
    )


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _reply(body: bytes, kind: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve(port: int, delay: float) -> None:
    """Answer on 127.0.0.1 until cancelled; `delay` is in seconds."""
    plain, stream = whole(), streamed()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await _body(head, reader)
                await asyncio.sleep(delay)
                wants_stream = b'"stream":true' in body.replace(b" ", b"")
                writer.write(stream if wants_stream else plain)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=512)
    async with server:
        await server.serve_forever()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if b"content-length:" in head:
        length = head.split(b"content-length:")[1].split(b"\r\n")[0]
        return await reader.readexactly(int(length))
    parts = []
    while b"chunked" in head and (size := int(await reader.readline(), 16)):
        parts.append((await reader.readexactly(size + 2))[:-2])
    if b"chunked" in head:
        await reader.readline()
    return b"".join(parts)


def main() -> None:
    """Serve, as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.05, help="Seconds before each answer.")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.delay))


if __name__ == "__main__":
    main()
