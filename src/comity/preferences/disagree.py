"""Whether two wishes contradict one another, by the aspects that their words tell of.

Where code cannot tell, the answer is no: both wishes then stand in the prompt, and with them the
order in which they hold.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from comity.preferences.aspects import cues_in
from comity.preferences.words import any_of, closed_up, data_of, folded
from comity.records import Preference

_HELD = ("safety", "honesty")  # of these a stricter and a laxer wish always contradict


def disagree(provider: Preference, user: Preference) -> bool:
    """Whether two wishes of one kind cannot both be followed; False where words do not tell.

    Wishes of two kinds that are both known never disagree here.
    """
    if provider.kind and user.kind and provider.kind != user.kind:
        return False
    one, other = provider.text, user.text
    return (
        _opposed(one, other)
        or _other_languages(provider, user)
        or _about_the_same(provider, user)
        or _held(provider, user)
    )


def _opposed(one: str, other: str) -> bool:
    """Whether an aspect has one value here and another there; about one thing, if both name one."""
    mine, yours = _values(one), _values(other)
    return any(
        mine[aspect].isdisjoint(yours[aspect]) and (aspect != "opinion" or _overlap(one, other))
        for aspect in mine.keys() & yours.keys()
    )


def _values(text: str) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for cue in cues_in(text):
        if cue.aspect:
            values.setdefault(cue.aspect, set()).add(cue.value)
    return values


def _other_languages(provider: Preference, user: Preference) -> bool:
    if "language" not in (provider.kind or user.kind):
        return False
    mine, yours = languages_in(provider.text), languages_in(user.text)
    return bool(mine and yours) and mine.isdisjoint(yours)


def languages_in(text: str) -> frozenset[str]:
    """The languages that a wish names for answers, as BCP 47 tags: `de`, `zh`."""
    plain = closed_up(folded(text))
    return frozenset(tag for tag, names in _languages().items() if names.search(plain))


def _about_the_same(provider: Preference, user: Preference) -> bool:
    """Whether one wish keeps away from a subject that the other asks for."""
    stances = {_stance(provider), _stance(user)}
    if "topics" not in (provider.kind or user.kind) or "limits" not in stances or len(stances) < 2:
        return False
    limits, asks = (provider, user) if _stance(provider) == "limits" else (user, provider)
    if _is_only(limits.text):
        return bool(subjects(asks.text)) and subjects(limits.text).isdisjoint(subjects(asks.text))
    return not subjects(limits.text).isdisjoint(subjects(asks.text)) or _is_anything(asks.text)


def _stance(preference: Preference) -> str:
    if preference.stance != "other":
        return preference.stance
    return next((cue.stance for cue in cues_in(preference.text) if cue.kind == "topics"), "other")


def _held(provider: Preference, user: Preference) -> bool:
    return provider.kind in _HELD and {provider.stance, user.stance} == {"limits", "widens"}


def _overlap(one: str, other: str) -> bool:
    mine, yours = subjects(one), subjects(other)
    return not mine or not yours or not mine.isdisjoint(yours)


@lru_cache(maxsize=1024)
def subjects(text: str) -> frozenset[str]:
    """The words of a wish that name its subject: without those that all wishes have."""
    plain = _names().sub(" ", closed_up(folded(text)))
    latin = re.findall(r"[a-z]{3,}", plain)
    han = [
        run[at : at + 2]
        for run in re.findall("[\u3400-\u9fff]+", plain)
        for at in range(len(run) - 1)
    ]
    return frozenset([_stem(word) for word in latin] + han)


def _stem(word: str) -> str:
    """A word without the ending that tells one from many, cut at six letters."""
    return re.sub("(?:ies|es|s|y|e|n|en)$", "", word)[:6]


def _is_only(text: str) -> bool:
    return _patterns("only").search(closed_up(folded(text))) is not None


def _is_anything(text: str) -> bool:
    return _patterns("anything").search(closed_up(folded(text))) is not None


@cache
def _patterns(name: str) -> re.Pattern[str]:
    return any_of(data_of("subjects")[name])


def _names() -> re.Pattern[str]:
    return _patterns("common")


@cache
def _languages() -> dict[str, re.Pattern[str]]:
    return {tag: any_of(names) for tag, names in data_of("subjects")["languages"].items()}
