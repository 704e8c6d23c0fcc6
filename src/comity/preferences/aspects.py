"""What the words of a wish tell of it: cues of kind, stance and aspects (`data/aspects.toml`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache

from pydantic import Field, TypeAdapter

from comity.preferences.words import any_of, closed_up, data_of, folded
from comity.records import PreferenceKind, Record, Stance

READ = 600
"""Characters of a wish that are read: it is a sentence or two, and the lists are long."""

_GAP = r"(?:[ ,]+[\w'-]+){0,3}?[ ]+"
_HAN_GAP = "[^,。!?;、 ]{0,6}?"


class Cue(Record):
    """One way to tell what a wish is about."""

    kind: PreferenceKind = Field(description="What a wish with these words is about.")
    stance: Stance = Field(description="Whether it limits or widens.")
    aspect: str = Field("", description="Of two wishes with one aspect, the values are compared.")
    value: str = Field("", description="What the wish wants of the aspect.")
    negated: str = Field("", description="Value that is wanted where a negation goes before.")
    words: tuple[str, ...] = Field(min_length=1, description="RE2 patterns, whole words.")


class Found(Record):
    """A cue that a wish has: a piece of what it wants."""

    kind: PreferenceKind = Field(description="What it is about.")
    stance: Stance = Field(description="Whether it limits or widens.")
    aspect: str = Field("", description="Aspect, if the cue has one.")
    value: str = Field("", description="Wanted value of the aspect.")
    length: int = Field(ge=0, description="Letters that were read as the cue.")


@lru_cache(maxsize=1024)
def cues_in(text: str) -> tuple[Found, ...]:
    """The cues of a wish, the negated ones as what they then mean, longest words first.

    Of a longer text the first `READ` characters are read.
    """
    plain = " ".join(closed_up(folded(text[:READ])).split())
    found = [one for cue in cues() for one in _found(cue, plain)]
    return tuple(sorted(found, key=lambda one: -one.length))


def _found(cue: Cue, plain: str) -> Iterator[Found]:
    """What a cue tells of a text: words after a negation first, the others from what is left."""
    bare, negated = _patterns(cue)
    for match in negated.finditer(plain):
        if opposite := _opposite(cue):
            yield _as_found(opposite, match)
    for match in bare.finditer(negated.sub(" ", plain)):
        yield _as_found(cue, match)


def _as_found(cue: Cue, match: re.Match[str]) -> Found:
    return Found(
        kind=cue.kind,
        stance=cue.stance,
        aspect=cue.aspect,
        value=cue.value,
        length=match.end() - match.start(),
    )


def _opposite(cue: Cue) -> Cue | None:
    values = (other for other in cues() if other.aspect == cue.aspect)
    return next((other for other in values if cue.negated and other.value == cue.negated), None)


@cache
def cues() -> tuple[Cue, ...]:
    """The cues of the data file. Raises pydantic's `ValidationError` for a wrong one."""
    return TypeAdapter(tuple[Cue, ...]).validate_python(data_of("aspects")["cue"])


@cache
def _patterns(cue: Cue) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds a cue, and what finds it after a negation (nothing, if that means nothing)."""
    if not cue.negated:
        return any_of(cue.words), any_of(())
    negations = data_of("aspects")["negations"]
    han = [word for word in negations if _is_han(word)]
    latin = [word for word in negations if not _is_han(word)]
    after = (
        *(f"(?:{'|'.join(latin)}){_GAP}(?:{word})" for word in cue.words if not _is_han(word)),
        *(f"(?:{'|'.join(han)}){_HAN_GAP}(?:{word})" for word in cue.words if _is_han(word)),
    )
    return any_of(cue.words), any_of(after)


def _is_han(word: str) -> bool:
    return re.search("[\u3400-\u9fff]", word) is not None
