"""docs/preferences.md: its example runs and prints what it says, its table is the matrix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from comity.preferences.priority import default_matrix
from comity.records import Preference, PreferenceKind, Stance

PAGE = (Path(__file__).parents[1] / "docs" / "preferences.md").read_text(encoding="utf-8")


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    said = re.findall(r"^# (.*)$", example, re.M)
    exec(compile(example, "preferences.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [line.strip() for line in said] != []


@pytest.mark.parametrize("kind", get_args(PreferenceKind))
def test_the_table_names_first_who_wins_in_most_cells(kind: PreferenceKind) -> None:
    (row,) = re.findall(rf"^\| {kind} \| (.*) \|$", PAGE, re.M)
    stances: tuple[Stance, ...] = get_args(Stance)
    won = [
        default_matrix()
        .cell(
            Preference(text="one", kind=kind, stance=provider, by="provider"),
            Preference(text="two", kind=kind, stance=user),
        )
        .winner
        for provider in stances
        for user in stances
    ]
    if kind == "safety":
        assert row == "the stricter of the two"
        return
    most = "provider" if won.count("provider") > len(won) / 2 else "user"
    assert row.startswith(f"the {most}")
    assert (row == f"the {most}") == (len(set(won)) == 1)
