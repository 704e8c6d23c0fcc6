"""Answers that somebody else's model writes: checked and recorded here, as our own are.

Whoever asks that model puts `case.prompt` before it; whoever has its answer asks `settle_written`
whether it may be released. Nothing has left by then, so that the verdict is on the whole answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from comity.alignment.aligner import Aligner, Case, Options, Stopwatch
from comity.alignment.enforce import Ask
from comity.memory.memory import Memory
from comity.models.chat import ChatModel, complete, estimate_tokens
from comity.records import Answer, Message, Reply, Request, Usage


class WrittenElsewhere:
    """Stands for a model that another system asks: it counts tokens, and answers nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def stream(self, request: Request) -> AsyncIterator[str | Reply]:
        """Never called: `settle_written` asks the model that it was given."""
        raise NotImplementedError(f"{self.name} is asked by another system")

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, estimated on the safe side."""
        return estimate_tokens(text)


def aligner_elsewhere(
    memory: Memory,
    options: Options,
    *,
    name: str,
    judge: ChatModel | None = None,
    rewrites: bool = False,
) -> Aligner:
    """An aligner for the answers of a model that another system asks and calls `name`.

    Where nobody `rewrites` an answer that breaks a `revise` rule, the breach is recorded and the
    answer released; one that breaks a `block` rule is withheld all the same.
    """
    if not rewrites:
        options = options.model_copy(update={"rounds": 0})
    return Aligner(memory, WrittenElsewhere(name), options, judge=judge)


def asker(model: ChatModel, options: Options) -> Ask:
    """Has `model` rewrite what breaks a rule."""

    async def ask(messages: tuple[Message, ...]) -> Reply:
        request = Request(
            messages=messages, max_tokens=options.max_tokens, temperature=options.temperature
        )
        return await complete(model, request)

    return ask


async def settle_written(
    aligner: Aligner,
    case: Case,
    text: str,
    *,
    model: str = "",
    finish_reason: str = "stop",
    usage: Usage = Usage(),  # noqa: B008 - frozen
    ask: Ask | None = None,
) -> Answer:
    """What may be released of an answer that is whole and has not left, and its record.

    Raises `ModelError` of `ask`, which rewrites, and `StoreError` where the record fails:
    nothing may be released then.
    """
    reply = Reply(
        text=text, model=model or aligner.model.name, finish_reason=finish_reason, usage=usage
    )
    gate = aligner.gate(case)  # takes nothing, since nothing has left
    return await aligner.settle(case, reply, gate, ask or _nobody, Stopwatch())


async def _nobody(_: tuple[Message, ...]) -> Reply:
    raise NotImplementedError("give `ask` to an aligner that rewrites")
