"""Word lists as data: folded text, and patterns that find words in it in linear time.

A text is folded before it is read: one width and case of letters, no accents, nothing unseen, so
that `Réponds`, `REPONDS` and full-width letters are one word. The patterns of the data files are
RE2, written in lower case; accents in them are folded as well.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from comity.memory.patterns import compiled

_HAN = re.compile("[\u3400-\u9fff]")
_ACCENTS = re.compile("[\u0300-\u036f]")
_APOSTROPHES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'", "\u00b4": "'"})
# "i g n o r e" and "i.g.n.o.r.e": four letters or more, each by itself.
_SPACED = re.compile(r"(?<![a-z])[a-z](?:[ .\-_*][a-z]){3,}(?![a-z])")
# Letters of other alphabets that look like Latin ones, in words that mix both.
_ALIKE = str.maketrans("аеорсухіјѕԁһкмтвнαορνικτ", "aeopcyxijsdhkmtbhaopvikt")
_WORD = re.compile("[a-z\u0370-\u04ff]+")
_LATIN = re.compile("[a-z]")


def folded(text: str) -> str:
    """The text as patterns read it: folded letters, straight apostrophes, nothing unseen.

    Blanks stay as they are but for their kind; lengths may change.
    """
    seen = "".join(
        letter
        for letter in unicodedata.normalize("NFKC", text.translate(_APOSTROPHES))
        if unicodedata.category(letter) not in ("Cf", "Cs", "Co", "Cn")
    )
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", seen.casefold()))
    return _WORD.sub(_unmixed, unicodedata.normalize("NFC", bare))


def _unmixed(word: re.Match[str]) -> str:
    """A word with the Latin letters that others in it look like, if it has Latin ones."""
    return word[0].translate(_ALIKE) if _LATIN.search(word[0]) else word[0]


def closed_up(text: str) -> str:
    """Folded text in which words that were spelt letter by letter are whole again."""
    return _SPACED.sub(lambda word: re.sub(r"[ .\-_*]", "", word[0]), text)


@cache
def data_of(name: str) -> Mapping[str, Any]:
    """A data file of this package, `data/NAME.toml`."""
    file = files("comity.preferences") / "data" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """One RE2 pattern that finds any of these as whole words in folded text.

    Words of scripts without blanks between words are found anywhere. Raises `ValueError` for a
    pattern that RE2 cannot use.
    """
    return compiled("|".join(_whole(pattern) for pattern in patterns) or r"[^\s\S]")


def _whole(pattern: str) -> str:
    bare = _ACCENTS.sub("", unicodedata.normalize("NFKD", pattern)).replace("ß", "ss")
    bare = unicodedata.normalize("NFC", bare)
    return f"(?:{bare})" if _HAN.search(bare) else rf"\b(?:{bare})\b"
