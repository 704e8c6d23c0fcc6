"""Texts of others in a prompt: marked as material, and compared with what is quoted from them."""

from __future__ import annotations

import re
import unicodedata

# Marks with which models part the turns of a conversation; some servers obey them in any text.
_TURN_MARK = re.compile(r"<(?=\||/?s>|(?:start|end)_of_turn>|/?think>)|\[(?=/?INST\])")

# A mark such as [R2] or [1, R2], in any of the brackets that `cite` reads, whole or cut off.
_MARKED = r"\s\dRrＲｒ,，、;；"
_RULE_MARK = re.compile(
    rf"[\[【［](?=[{_MARKED}]{{0,40}}?[RrＲｒ]\s{{0,9}}\d)([{_MARKED}]*)([\]】］]?)"
)
# What turns the direction of writing, has no width, or spells hidden text (Unicode's tags).
_UNSEEN = re.compile("[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_NO_LETTER = re.compile(f"{_UNSEEN.pattern[:-1]}{_CONTROL.pattern[1:-1]}<[【［]")


def harmless(text: str) -> str:
    """Text of one line or several that may stand among the rules of a prompt.

    No mark in it passes for a rule's or for the end of a turn, and nothing in it is unseen.
    """
    if not _NO_LETTER.search(text):
        return text  # as nearly all rules are
    seen = _CONTROL.sub(" ", _UNSEEN.sub("", "\n".join(text.splitlines())))
    unturned = _TURN_MARK.sub(lambda mark: f"{mark[0]} ", seen)
    return _RULE_MARK.sub(lambda mark: f"({mark[1]}{')' * bool(mark[2])}", unturned)


def as_material(text: str) -> str:
    """Text as material: no line of it can pass for a line of the prompt, no mark for a turn."""
    harmless = _TURN_MARK.sub(lambda mark: f"{mark[0]} ", text)
    return "\n".join(f"| {line}" for line in harmless.splitlines())


def words_in(text: str) -> str:
    """The words of a text, between blanks: without marks, in one case and width of letters."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+", plain)
    return f" {' '.join(words)} " if words else ""
