"""What a user's wishes are contrasted with when answers are steered at the logits."""

from __future__ import annotations

from comity.models.steer import without_after
from comity.records import Message, Request
from comity.wording import words_of

_LANGUAGES = ("en", "zh")
_HEADINGS = ("background", "stance", "wishes_ruled")
_ASIDE = ("about_me", "wishes")


def without_user(request: Request) -> Request:
    """The request without the user's part of its meta-prompt; rules and provider stay.

    For `comity.models.steer.steered`: the answer is then moved by what the user wants alone,
    and no rule in force is made weaker or stronger. A request without such a part is as it was.
    """
    words = [words_of("meta", language, package="comity.preferences") for language in _LANGUAGES]
    headings = [str(some[name]) for some in words for name in _HEADINGS]
    begins = [str(some[name]).partition("{")[0] for some in words for name in _ASIDE]
    bare = without_after(*headings)(request)
    turns = tuple(_without_aside(turn, begins) for turn in bare.messages)
    return bare.model_copy(update={"messages": turns})


def _without_aside(turn: Message, begins: list[str]) -> Message:
    """A turn without its first or last paragraph, where that is what is told of the user."""
    if turn.role != "user":
        return turn
    first, _, rest = turn.content.partition("\n\n")
    said, _, last = turn.content.rpartition("\n\n")
    if last.startswith(tuple(begins)):
        return turn.model_copy(update={"content": said})
    if rest and first.startswith(tuple(begins)):
        return turn.model_copy(update={"content": rest})
    return turn
