"""Citations: which rules an answer names, and where."""

from __future__ import annotations

import re
from collections.abc import Sequence

from comity.records import Citation, Rule

_MARK = re.compile(r"[\[【［]\s*(\d{1,4}(?:\s*[,，、;]\s*\d{1,4})*)\s*[\]】］]")


def cite(text: str, rules: Sequence[Rule]) -> tuple[Citation, ...]:
    """The rules that an answer cites by number, in the order of their first mark.

    Rule `[1]` is the first of `rules`. Several numbers may stand in one mark, and full-width
    brackets count; a number that no rule has is passed over.
    """
    found: dict[int, Citation] = {}
    for mark in _MARK.finditer(text):
        for number in map(int, re.findall(r"\d+", mark[1])):
            if 1 <= number <= len(rules) and number not in found:
                found[number] = citation(number, rules[number - 1], mark.start(), mark.end())
    return tuple(found.values())


def citation(number: int, rule: Rule, start: int | None, end: int | None) -> Citation:
    """A citation of a rule by its number in the prompt."""
    return Citation(
        id=rule.id,
        version=rule.version,
        title=rule.title,
        article=rule.article,
        valid_from=rule.valid_from,
        valid_to=rule.valid_to,
        label=f"[{number}]",
        start=start,
        end=end,
    )
