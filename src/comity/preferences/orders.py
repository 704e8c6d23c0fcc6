"""Texts of a user that give orders against the rules, where wishes were expected.

This is no wall, and cannot be one: whoever knows the word lists writes around them. The wall is
that preferences rank below rules, stand in the prompt as a user's words, and that answers are
checked. What this does is keep plain attempts out of the prompt and on the record.
"""

from __future__ import annotations

import re
from functools import cache

from comity.preferences.words import any_of, closed_up, data_of, folded

_LANGUAGES = ("en", "zh", "de", "fr", "es")


def gives_orders(text: str) -> str:
    """Why a text is an order against the rules and no wish; empty for a wish.

    Read in English, Chinese, German, French and Spanish by word lists (`data/orders.toml`), with
    full-width letters, unseen characters, accents and words spelt out letter by letter folded.
    """
    plain = closed_up(folded(text))
    for why, patterns in _marks():
        if patterns.search(plain):
            return why
    bare = _harmless().sub(" … ", " ".join(plain.split()))
    return next((why for why, patterns in _orders() if patterns.search(bare)), "")


@cache
def _marks() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Marks of turns and rules: patterns that need no word's edge."""
    from comity.memory.patterns import compiled

    data = data_of("orders")
    return tuple((data[f"{name}_why"], compiled("|".join(data[name]))) for name in ("raw", "label"))


@cache
def _orders() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Reasons and what each is found by, language by language."""
    data = data_of("orders")
    return tuple(
        (why, any_of(_filled(pattern, data["words"][language]) for pattern in patterns))
        for language in _LANGUAGES
        for why, patterns in data["orders"][language].items()
    )


def _filled(pattern: str, words: dict[str, str]) -> str:
    for name, listed in words.items():
        pattern = pattern.replace(f"{{{name}}}", listed)
    return pattern


@cache
def _harmless() -> re.Pattern[str]:
    harmless = data_of("orders")["harmless"]
    return any_of(pattern for language in _LANGUAGES for pattern in harmless[language])
