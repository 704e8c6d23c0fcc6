"""The page on training: its Python runs as it says, and its commands are ones that there are."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from comity.cli import cli
from comity.training.recipe import RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:accelerate .*-m )?comity (train .*)$", PAGE, re.M)


def test_the_example_runs_and_prints_what_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(example, "training.md", "exec"), {})
    said = re.findall(r"print\(.*\)  # (.*)", example)
    assert capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_has_the_options_that_it_names(line: str) -> None:
    command: click.Command = cli
    words = shlex.split(line)
    while isinstance(command, click.Group):
        name = words.pop(0)
        assert name in command.commands, line
        command = command.commands[name]
    command.make_context("comity", words)


def test_the_recipe_of_the_page_has_keys_of_both_kinds_of_runs() -> None:
    (recipe,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    for kind in RECIPES.values():
        kind.model_validate(tomllib.loads(recipe))


def test_the_page_tells_the_recipes_defaults() -> None:
    sft, dpo = RECIPES["sft"](), RECIPES["dpo"]()
    assert f"LoRA of rank {sft.rank} " in PAGE
    assert (sft.learning_rate, sft.epochs, dpo.learning_rate, dpo.epochs) == (1e-4, 2, 1e-5, 1)
    assert sft.batch * sft.accumulate == dpo.batch * dpo.accumulate == 16
