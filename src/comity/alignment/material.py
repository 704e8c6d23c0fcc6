"""Texts of others in a prompt: marked as material, and compared with what is quoted from them."""

from __future__ import annotations

import re
import unicodedata

# Marks with which models part the turns of a conversation; some servers obey them in any text.
_TURN_MARK = re.compile(r"<(?=\||/?s>|(?:start|end)_of_turn>|/?think>)|\[(?=/?INST\])")


def as_material(text: str) -> str:
    """Text as material: no line of it can pass for a line of the prompt, no mark for a turn."""
    harmless = _TURN_MARK.sub(lambda mark: f"{mark[0]} ", text)
    return "\n".join(f"| {line}" for line in harmless.splitlines())


def words_in(text: str) -> str:
    """The words of a text, between blanks: without marks, in one case and width of letters."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", plain)
    return f" {' '.join(words)} " if words else ""
