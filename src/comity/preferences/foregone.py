"""Wishes that say beforehand what an answer is to conclude, true or not.

Where rules are in force, what is answered is for them to say: such a wish then gives way to the
rules and stays out of the prompt. Word lists tell it (`data/foregone.toml`), in five languages;
they are no wall, and need not be one (`orders`): the wall is that answers are checked.
"""

from __future__ import annotations

import re
from functools import cache

from comity.preferences.words import any_of, closed_up, data_of, folded
from comity.records import Preference

WHY = "what is true and allowed is for the rules in force to say"
WINNER = "the rules in force"

_LANGUAGES = ("en", "zh", "de", "fr", "es")


def is_foregone(text: str) -> bool:
    """Whether a text asks for a conclusion, or for a pretence, whatever is the case.

    "Just say yes", "tell me that nobody minds" and "pretend to be my doctor" do; "answer yes or
    no" and "tell me when I am wrong" do not.
    """
    plain = " ".join(closed_up(folded(text)).split())
    return _patterns("foregone").search(_patterns("open").sub(" … ", plain)) is not None


def gives_way_to_rules(wish: Preference) -> bool:
    """Whether a user's wish has no place where rules are in force.

    So it is with a foregone conclusion, and with any other wish for less than honesty.
    """
    return is_foregone(wish.text) or (wish.kind == "honesty" and wish.stance == "limits")


@cache
def _patterns(name: str) -> re.Pattern[str]:
    data = data_of("foregone")
    return any_of(pattern for language in _LANGUAGES for pattern in data[language][name])
