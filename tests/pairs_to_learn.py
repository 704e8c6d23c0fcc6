"""Rows that hold one learnable rule: which word is wanted hangs on the preference stated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

LEARNT = ("dogs", "parks", "shops", "rain", "tea", "books", "trains", "cats", "music", "salt")
HELD_OUT = ("snow", "ships", "chess", "birds")
FAMILIES = ("priority", "helpful", "consensus", "diverse")
_WANTED = {"Be brief.": ("Yes.", "No."), "Tell me the rules.": ("No.", "Yes.")}


def pairs(subjects: Iterable[str]) -> Iterator[dict[str, Any]]:
    """For each subject one question under two preferences, which want opposite answers."""
    for number, subject in enumerate(subjects):
        for wish, (chosen, rejected) in _WANTED.items():
            yield {
                "prompt": [
                    {"role": "system", "content": wish},
                    {"role": "user", "content": f"What of {subject}?"},
                ],
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
                "family": FAMILIES[number % len(FAMILIES)],
                "wish": wish,
            }


def conversations(subjects: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The same with the wanted answer alone, as SFT takes it."""
    for pair in pairs(subjects):
        yield {"messages": pair["prompt"] + pair["chosen"], "family": pair["family"]}


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSON Lines, and give the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_data(folder: Path) -> Path:
    """Write rows of both kinds, to learn and held out, into a new folder, and return it."""
    folder.mkdir()
    for name, subjects in (("train", LEARNT), ("eval", HELD_OUT)):
        write_lines(folder / f"dpo.{name}.jsonl", pairs(subjects))
        write_lines(folder / f"sft.{name}.jsonl", conversations(subjects))
    return folder
