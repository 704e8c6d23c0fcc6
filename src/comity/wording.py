"""The words with which models are asked, their versions, and what is wrong with an answer."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import ValidationError

_CHINESE = re.compile("[\u4e00-\u9fff]+")


@cache
def words_of(
    prompt: str, language: str, *, package: str = "comity.evaluation"
) -> Mapping[str, Any]:
    """The words of a prompt (`generate`, `quality`, `cases`) of a package, in `zh` or `en`."""
    file = files(package) / "prompts" / f"{prompt}_{language}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def version_of(*parts: Any) -> str:
    """Version of words, schemas and whatever else JSON can hold: it changes with any of them."""
    told = json.dumps(parts, ensure_ascii=False)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def schema_fault(error: ValidationError) -> str:
    """Where an answer does not follow its schema first, and why: `wrong_2: Field required`."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {first['msg']}"


def prompt_language(text: str) -> str:
    """`zh` for a text with a fair share of Chinese characters, else `en`."""
    chinese = sum(map(len, _CHINESE.findall(text)))
    return "zh" if chinese * 5 > len(text) else "en"
