"""Versions of the words with which the preference exam's modes put their questions."""

from __future__ import annotations

from collections.abc import Mapping

from comity.alignment.compose import wording
from comity.evaluation.preference_runs import PreferenceMode
from comity.wording import version_of, words_of

_LANGUAGES = ("en", "zh")


def words_by_mode(*, rule_cases: bool) -> Mapping[PreferenceMode, str]:
    """Version of all words that stand around a question in each mode; it changes with any.

    `plain` has none of ours, and `none` only where `rule_cases` are put.
    """
    compose = [dict(wording(language)) for language in _LANGUAGES]
    meta = [dict(words_of("meta", one, package="comity.preferences")) for one in _LANGUAGES]
    refine = [dict(words_of("refine", one, package="comity.alignment")) for one in _LANGUAGES]
    aligned = version_of(compose, meta)
    found: dict[PreferenceMode, str] = {"none": version_of(compose)} if rule_cases else {}
    return found | {
        "meta_prompt": aligned,
        "refined": version_of(compose, meta, refine),
        "contrast": aligned,
        "adapter": aligned,
    }
