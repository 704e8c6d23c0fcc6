"""What a training run is told, from a file and options."""

from __future__ import annotations

from pathlib import Path

import pytest

from comity.errors import TrainingError
from comity.training.recipe import RECIPES, DpoRecipe, Recipe, SftRecipe, load_recipe


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_options_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = recipe_file(tmp_path, 'rank = 4\nbeta = 0.3\ntargets = ["q_proj"]\n')
    recipe = load_recipe(DpoRecipe, file=file, options={"rank": "8"})
    assert (recipe.rank, recipe.beta, recipe.targets) == (8, 0.3, ("q_proj",))
    assert recipe.alpha == DpoRecipe().alpha


def test_layers_can_be_named_with_commas() -> None:
    assert load_recipe(SftRecipe, options={"targets": "q_proj, v_proj"}).targets == (
        "q_proj",
        "v_proj",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat = 1", "unknown key 'learning_rat': did you mean learning_rate"),
        ("zzz = 1", "known are base"),
        ("rank = 0", "recipe.toml: rank: Input should be greater than or equal to 1"),
        ("rank =", "is no valid TOML"),
        ("beta = 1", "unknown key 'beta'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TrainingError) as raised:
        load_recipe(SftRecipe, file=recipe_file(tmp_path, text))
    assert said in str(raised.value)


def test_a_file_that_is_not_there_and_a_wrong_option_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none\.toml: cannot be read"):
        load_recipe(SftRecipe, file=tmp_path / "none.toml")
    with pytest.raises(TrainingError, match=r"option --learning-rate: .*given 'fast'"):
        load_recipe(SftRecipe, options={"learning_rate": "fast"})
    with pytest.raises(TrainingError, match=r"option --dtype: .*given 'float64'"):
        load_recipe(SftRecipe, options={"dtype": "float64"})


@pytest.mark.parametrize("kind", RECIPES.values())
def test_every_field_is_explained_and_has_a_default(kind: type[Recipe]) -> None:
    assert all(field.description for field in kind.model_fields.values())
    assert kind() == kind.model_validate(kind().model_dump(mode="json"))
