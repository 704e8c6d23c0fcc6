"""The folder of a run: what may start or go on there; its metrics and their plot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from comity.errors import TrainingError
from comity.training.folder import (
    Run,
    adapter_folder,
    begin,
    last_checkpoint,
    new_run,
    read_run,
    write_run,
)
from comity.training.metrics import add_line, cut_after, plot, read_lines
from comity.training.recipe import DpoRecipe, SftRecipe
from comity.training.rows import RowFile

ROWS = RowFile(path="dpo.train.jsonl", sha256="1" * 64, rows=3)
OTHER_ROWS = RowFile(path="dpo.train.jsonl", sha256="2" * 64, rows=3)


def a_run(recipe: DpoRecipe | None = None, rows: RowFile = ROWS, adapter: str = "") -> Run:
    return new_run("dpo", recipe or DpoRecipe(), rows, None, adapter_sha256=adapter)


def checkpoint(out: Path, step: int, *, whole: bool = True) -> Path:
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    state = '{"global_step": 1}' if whole else '{"global_st'
    (folder / "trainer_state.json").write_text(state, encoding="utf-8")
    return folder


def test_a_new_folder_starts_from_the_beginning(tmp_path: Path) -> None:
    run = a_run()
    assert begin(tmp_path / "new", run, resume=False) == (run, None)
    assert begin(tmp_path / "new", run, resume=True) == (run, None)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(TrainingError, match="holds something else; name a new folder"):
        begin(tmp_path, a_run(), resume=True)


def test_a_run_that_was_cut_off_says_how_to_go_on_and_goes_on_when_told(tmp_path: Path) -> None:
    write_run(tmp_path, a_run())
    checkpoint(tmp_path, 20)
    with pytest.raises(TrainingError, match=r"cut off: .* --resume goes on from step 20"):
        begin(tmp_path, a_run(), resume=False)
    begun = begin(tmp_path, a_run(), resume=True)
    assert begun.checkpoint == tmp_path / "checkpoint-20"
    assert len(begun.run.resumed) == 1


def test_a_checkpoint_that_was_cut_off_itself_is_passed_over(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, whole=False)
    (tmp_path / "checkpoint-12").mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_a_finished_run_is_given_as_it_is(tmp_path: Path) -> None:
    done = a_run().model_copy(update={"finished": datetime(2026, 5, 1, tzinfo=UTC), "steps": 7})
    write_run(tmp_path, done)
    assert begin(tmp_path, a_run(), resume=False).run == done
    assert read_run(tmp_path) == done


def test_another_recipe_or_other_data_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, a_run())
    for other, said in (
        (a_run(DpoRecipe(rank=4)), "another recipe: rank was 16, is now 4"),
        (a_run(rows=OTHER_ROWS), "the training rows changed"),
        (a_run(adapter="3"), "adapter it starts from changed"),
        (new_run("sft", SftRecipe(), ROWS, None), "holds a run of dpo"),
        (new_run("dpo", DpoRecipe(), ROWS, ROWS), "the held-out rows changed"),
    ):
        with pytest.raises(TrainingError, match=said):
            begin(tmp_path, other, resume=True)


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"training\.json: is no record of a run"):
        read_run(tmp_path)


def test_the_adapter_of_a_run_is_found_and_that_of_an_unfinished_one_refused(
    tmp_path: Path,
) -> None:
    write_run(tmp_path, a_run())
    with pytest.raises(TrainingError, match="has not finished"):
        adapter_folder(tmp_path)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert adapter_folder(tmp_path) == tmp_path / "adapter"
    assert adapter_folder(tmp_path / "adapter") == tmp_path / "adapter"
    with pytest.raises(TrainingError, match="it holds none"):
        adapter_folder(tmp_path / "elsewhere")


def test_metrics_come_line_by_line_and_are_cut_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        add_line(path, step, {"loss": 1 / step, "grad_norm": float("nan"), "note": "x"})
    cut_after(path, 2)
    assert read_lines(path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]


def test_a_line_of_metrics_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo', encoding="utf-8")
    assert read_lines(path) == [{"step": 1, "loss": 2.0}]
    path.write_text('{"step": 1, "lo\n{"step": 2, "loss": 2.0}\n', encoding="utf-8")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl, line 1: is no JSON"):
        read_lines(path)


def test_the_plot_is_a_picture_with_a_panel_for_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra train")
    losses = [{"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": 1.0}]
    margins = [{"step": 1.0, "rewards/margins": 0.1}]
    plot(tmp_path / "one.png", losses, "a run")
    plot(tmp_path / "two.png", losses + margins, "a run")
    heights = [
        int.from_bytes((tmp_path / name).read_bytes()[20:24], "big")
        for name in ("one.png", "two.png")
    ]
    assert heights[1] == 2 * heights[0]
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
