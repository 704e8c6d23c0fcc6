"""Patterns of a rule's check: RE2, which reads any text in linear time."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from comity.errors import RuleError
from comity.records import Rule

if TYPE_CHECKING:
    import re

LONGEST = 2000
"""Characters of a pattern, at most."""


@lru_cache(maxsize=4096)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, ready to search. Raises `ValueError` for one that RE2 cannot use."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        ready: re.Pattern[str] = re2.compile(pattern, options)
    except re2.error as error:
        told = error.args[0] if error.args else "unknown error"
        raise ValueError(told.decode() if isinstance(told, bytes) else str(told)) from error
    return ready


def check_patterns(rule: Rule) -> None:
    """Raises `RuleError` for a pattern of the rule's check that cannot be used."""
    for name in ("must_match", "must_not_match"):
        pattern: str = getattr(rule.check, name) if rule.check else ""
        if len(pattern) > LONGEST:
            raise RuleError(
                f"rule {rule.id!r}: check.{name} has {len(pattern)} characters, {LONGEST} are the "
                "most: split it over several rules"
            )
        if pattern:
            try:
                compiled(pattern)
            except ValueError as error:
                raise RuleError(
                    f"rule {rule.id!r}: check.{name} is no RE2 pattern: {error} (RE2 knows no "
                    "look-around and no back-references)"
                ) from error
