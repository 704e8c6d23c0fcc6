"""JSON that can be written again: what comes in from outside is read so, and nothing else."""

from __future__ import annotations

import json
import math
from typing import Any

_DEEPEST = 100  # lists and objects in one another; tools' schemas reach some 20


def read_json(raw: bytes | bytearray) -> Any:
    """The value of a JSON text in UTF-8; of a name given twice the last one counts.

    Raises `ValueError` for what is no JSON, for NaN, Infinity and numbers as large, for halves of
    surrogate pairs, and for what is nested deeper than 100.
    """
    text = raw.decode()
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(_too_deep()) from error
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(value)
    if "\\u" in text:
        _check_text(value)
    return value


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no number that JSON has")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        if not inner:
            return
        level = inner
    raise ValueError(_too_deep())


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it escapes half of a surrogate pair, which is no text") from error


def _too_deep() -> str:
    return f"lists and objects are nested deeper than {_DEEPEST}"
