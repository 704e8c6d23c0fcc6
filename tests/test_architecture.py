"""The shape of the package: who may import whom, and how large things get."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import comity

ROOT = Path(comity.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LAYERS = (
    {"records", "errors", "cache", "material", "wording", "workers", "ray_workers"},
    {"documents", "memory", "models", "samples"},
    {"retrieval", "preferences"},
    {"alignment"},
    {"settings", "cli", "evaluation", "integrations", "serving", "training"}
    | {"__init__", "__main__"},
)
HEAVY = ("faiss", "tantivy", "onnxruntime", "openai", "markitdown", "torch")


def layer_of(name: str) -> int:
    return next(level for level, names in enumerate(LAYERS) if name in names)


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def imported_parts(file: Path) -> Iterator[str]:
    for node in ast.walk(tree(file)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: import by the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("comity."))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_imports_its_own_layer_or_a_lower_one(file: Path) -> None:
    mine = part_of(file)
    for name in imported_parts(file):
        if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file():
            assert layer_of(name) <= layer_of(mine), f"{mine} imports {name}"


def test_records_and_errors_import_nothing_of_ours_but_one_another() -> None:
    assert set(imported_parts(ROOT / "errors.py")) == set()
    assert set(imported_parts(ROOT / "records.py")) <= {"errors"}


def test_memory_and_models_know_nothing_of_one_another() -> None:
    for file in FILES:
        if part_of(file) == "models":
            assert "memory" not in imported_parts(file), file
        if part_of(file) == "memory":
            assert "models" not in imported_parts(file), file


def test_the_top_has_at_most_a_dozen_names_and_all_are_there() -> None:
    assert len(comity.__all__) <= 12
    assert sorted(comity.__all__) == list(comity.__all__)
    for name in comity.__all__:
        assert getattr(comity, name).__module__.startswith("comity.")


def test_importing_comity_loads_nothing_heavy() -> None:
    code = f"import sys, comity; print([m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_stay_small(file: Path) -> None:
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 600
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 80, f"{node.name} has {length} lines"


def test_nothing_unfinished_is_left() -> None:
    for file in FILES:
        assert "TODO" not in file.read_text("utf-8"), file
