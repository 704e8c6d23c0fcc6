"""Cleaning of characters: widths, spaces, invisible marks. Lines stay lines, in their order."""

from __future__ import annotations

import re
import unicodedata

CJK = "\u3400-\u4dbf\u4e00-\u9fff"
_CJK = re.compile(f"[{CJK}]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff\x00-\x08\x0e-\x1f\x7f-\x9f]")
_NEWLINES = re.compile("\r\n?|[\n\x0b\x0c\u0085\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INNER_RUN = re.compile(r"(?<=\S)[ \t]+(?=\S)")

# Letters, digits and signs that mean the same in both widths. Chinese punctuation (，；：？！（）)
# is not among them: in Chinese text its full-width form is the right one.
_FULL_WIDTH = "".join(chr(c) for c in range(0xFF10, 0xFF1A)) + "".join(
    chr(c) for start in (0xFF21, 0xFF41) for c in range(start, start + 26)
)
_FULL_SIGNS = "＃＄％＆＊＋－／＜＝＞＠＼＿｜"
_HALF = {ord(c): ord(c) - 0xFEE0 for c in _FULL_WIDTH + _FULL_SIGNS}
_DOT_OF_NUMBER = re.compile("(?<=[0-9])．")
# Radicals and compatibility forms that PDF fonts hand out for everyday characters, and ligatures.
_COMPATIBLE = re.compile("[\u2e80-\u2fdf\uf900-\ufaff\ufb00-\ufb06]")


def normalise(text: str) -> str:
    """Normalise widths, spaces and invisible characters.

    Every kind of line end becomes `\\n`, so that line N stays line N. Indentation is kept (a
    tab is four spaces, an ideographic space two); other runs of spaces become one. Full-width
    letters, digits and signs become half-width; Chinese punctuation stays as it is.
    """
    text = _NEWLINES.sub("\n", text)
    text = _INVISIBLE.sub("", text).translate(_HALF)
    text = _DOT_OF_NUMBER.sub(".", text)
    text = _COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return "\n".join(_line(line) for line in text.split("\n"))


def _line(line: str) -> str:
    body = line.lstrip()
    indent = line[: len(line) - len(body)].replace("\t", "    ").replace("\u3000", "  ")
    body = _INNER_RUN.sub(" ", _SPACES.sub(" ", body.rstrip()))
    return _SPACES.sub(" ", indent) + body if body else ""


def language_of(text: str) -> str:
    """`zh` for a text with Chinese characters, else `en`."""
    return "zh" if _CJK.search(text) else "en"


def joint(before: str, after: str) -> str:
    """What stands between two halves of a broken line: nothing in Chinese, else a space."""
    if not before or not after:
        return ""
    chinese = re.compile(f"[{CJK}\u3000-\u303f\uff00-\uffef]")
    return "" if chinese.match(before[-1]) or chinese.match(after[0]) else " "
