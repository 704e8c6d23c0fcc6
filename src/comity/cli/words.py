"""Differences of two texts, word by word; Chinese character by character."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import day, plain

if TYPE_CHECKING:
    from comity.memory.memory import FieldChange

_WORDS = re.compile(r"[\u3400-\u9fff]|\d+(?:[.,:]\d+)+|[^\W\u3400-\u9fff]+|\s+|.", re.DOTALL)
_KEPT = 60


def word_diff(old: str, new: str) -> str:
    """The new text with what went as `[-…-]` and what came as `{+…+}`, coloured on terminals.

    Long runs in which nothing changed are shortened to their ends.
    """
    before, after = _WORDS.findall(plain(old)), _WORDS.findall(plain(new))
    pieces: list[str] = []
    for kind, i1, i2, j1, j2 in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(_shortened("".join(before[i1:i2])))
            continue
        if i2 > i1:
            pieces.append(click.style(f"[-{''.join(before[i1:i2])}-]", fg="red"))
        if j2 > j1:
            pieces.append(click.style(f"{{+{''.join(after[j1:j2])}+}}", fg="green"))
    return "".join(pieces)


def _shortened(text: str) -> str:
    return text if len(text) <= 2 * _KEPT + 20 else f"{text[:_KEPT]} … {text[-_KEPT:]}"


def change_lines(changes: Iterable[FieldChange]) -> list[str]:
    """One line for each field that changed; the source's place in its document says nothing."""
    return [_line(change) for change in changes if change.field != "source"]


def _line(change: FieldChange) -> str:
    if change.field == "text":
        return f"text: {word_diff(change.old, change.new)}"
    return f"{change.field}: {shown(change.old)} -> {shown(change.new)}"


def shown(value: Any) -> str:
    """The value of a rule's field, as people read it."""
    if value is None or value in ("", ()):
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(plain, value))
    return day(value) if hasattr(value, "hour") else plain(str(value))
