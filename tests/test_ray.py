"""Work on a Ray cluster of two nodes, one of which is killed: nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from comity.cli.ray import RayAddress
from comity.errors import SettingsError
from comity.ray_workers import RayWorkers

TESTS = Path(__file__).parent


@pytest.mark.parametrize("address", ["", "auto", "local", "10.0.0.1:6379", "ray://head:10001"])
def test_an_address_is_taken(address: str) -> None:
    assert RayAddress().convert(address, None, None) == address


@pytest.mark.parametrize("file", ["rules.jsonl", "laws/", "C:\\rules.csv"])
def test_a_file_in_the_place_of_an_address_is_refused(file: str) -> None:
    with pytest.raises(click.BadParameter, match="--ray without one behind all files"):
        RayAddress().convert(file, None, None)


def squaring() -> Callable[[int], int]:
    return lambda number: number * number


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_told_of_at_once(address: str) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(SettingsError, match=rf"answers at {address} .*ray start --head"):
        RayWorkers(squaring, address)


def test_imports_and_exams_outlive_a_node(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    environ = os.environ | {
        "PYTHONPATH": str(TESTS),
        "COMITY_MEMORY": "sqlite:///rules.db",
        "COMITY_EMBEDDER": "hash",
        "COMITY_MODEL": "scripted",
        "COMITY_CONFIG": "",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(
        [sys.executable, str(TESTS / "ray_cluster.py"), str(tmp_path)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert "the same version" in found["never_begun"]
    assert "no such package here" in found["never_begun"]
    assert (found["added"], found["as_given"], found["missing"]) == (3840, True, 0)
    assert (found["nodes"], found["lost"]) == (2, 1)
    assert found["codes"] == [0, 0], found["output"]
    assert (found["items"], found["keys"]) == (80, 80)
    assert (found["second"], found["second_keys"], found["second_lost"]) == (80, 80, 1)
