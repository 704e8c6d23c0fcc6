"""SFT and DPO with a tiny model: it learns, goes on after a cut, and refuses what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from comity.cli import cli
from comity.errors import ModelMissing, TrainingError
from comity.models.chat import complete, open_model
from comity.records import Message, Request
from comity.training.base import load_base
from comity.training.dpo import train_dpo
from comity.training.folder import Look, last_checkpoint, read_run
from comity.training.held_out import log_likelihood
from comity.training.loop import Report
from comity.training.metrics import read_lines
from comity.training.recipe import DpoRecipe, SftRecipe
from comity.training.sft import train_sft
from pairs_to_learn import HELD_OUT, LEARNT, conversations, pairs, write_data, write_lines
from tiny_model import tiny_adapter, tiny_model

torch = pytest.importorskip("torch", reason="needs the extra train")

STEPS = 24
QUICK: dict[str, Any] = {
    "dtype": "float32",
    "rank": 8,
    "alpha": 16,
    "dropout": 0.0,
    "learning_rate": 5e-3,
    "warmup": 0,
    "batch": 10,
    "accumulate": 1,
    "log_every": 1,
    "save_every": 8,
    "max_steps": STEPS,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Many threads only wait for one another on matrices this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds `base`, a tiny model with firm opinions, and `data`."""
    folder = tmp_path_factory.mktemp("training")
    tiny_model(folder / "base", spread=0.3)
    write_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def sft(folder: Path) -> Path:
    """A run of SFT that has finished."""
    train_sft(folder / "data", folder / "sft", SftRecipe(base=str(folder / "base"), **QUICK))
    return folder / "sft"


def dpo_recipe(folder: Path, **changes: Any) -> DpoRecipe:
    fields = {"base": str(folder / "base"), "adapter": str(folder / "sft"), **QUICK}
    return DpoRecipe.model_validate(fields | changes)


@pytest.fixture(scope="module")
def dpo(folder: Path, sft: Path) -> Path:
    """A run of DPO that goes on from SFT and was never cut off."""
    train_dpo(folder / "data", folder / "dpo", dpo_recipe(folder))
    return folder / "dpo"


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def looks(run: Path) -> tuple[Look, Look]:
    record = read_run(run)
    assert record is not None
    assert record.before is not None
    assert record.after is not None
    return record.before, record.after


def test_sft_lowers_the_loss_on_held_out_answers(sft: Path) -> None:
    before, after = looks(sft)
    assert before.loss is not None
    assert after.loss is not None
    assert after.loss < before.loss / 2
    assert before.rows == after.rows == 8


def test_the_loss_of_sft_is_that_of_the_answers_alone(folder: Path, sft: Path) -> None:
    base = load_base(str(folder / "base"), dtype="float32")
    tokenizer: Any = base.tokenizer
    likelihoods, tokens = [], 0
    for row in conversations(HELD_OUT):
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False)
        whole = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        asked = tokenizer(f"{prompt}<|im_start|>assistant\n").input_ids
        answer = tokenizer(whole).input_ids[len(asked) :]
        likelihoods.append(log_likelihood(base.model, asked, answer, 1024))
        tokens += len(answer)
    assert looks(sft)[0].loss == pytest.approx(-sum(likelihoods) / tokens, rel=1e-4)


def test_dpo_widens_the_margin_between_chosen_and_rejected_on_held_out_pairs(dpo: Path) -> None:
    before, after = looks(dpo)
    assert before.margin is not None
    assert after.margin is not None
    assert after.margin > before.margin + 1
    assert after.accuracy == 1.0


async def test_the_trained_adapter_answers_as_any_model_does(folder: Path, dpo: Path) -> None:
    model = open_model(f"hf:{folder / 'base'}+{dpo / 'adapter'}")
    for pair in pairs(HELD_OUT[:1]):
        asked = tuple(Message.model_validate(each) for each in pair["prompt"])
        reply = await complete(model, Request(messages=asked, max_tokens=8))
        assert reply.text == pair["chosen"][0]["content"]


def test_dpo_without_sft_learns_the_rule_from_nothing(folder: Path) -> None:
    out = folder / "dpo-alone"
    train_dpo(folder / "data", out, dpo_recipe(folder, adapter="", beta=0.3))
    before, after = looks(out)
    assert before.accuracy == 0.5  # one word is the likelier under either preference
    assert after.accuracy is not None
    assert after.accuracy > 0.5
    assert after.margin is not None
    assert after.margin > (before.margin or 0) + 1


def test_a_run_leaves_its_record_metrics_a_plot_and_one_adapter(folder: Path, dpo: Path) -> None:
    record = json.loads((dpo / "training.json").read_bytes())
    assert record["steps"] == STEPS
    assert record["train"]["families"] == {
        "consensus": 4, "diverse": 4, "helpful": 6, "priority": 6
    }  # fmt: skip
    assert set(record["versions"]) >= {"torch", "trl", "peft", "transformers"}
    assert (dpo / "metrics.png").read_bytes()[:4] == b"\x89PNG"
    margins = [line for line in read_lines(dpo / "metrics.jsonl") if "rewards/margins" in line]
    assert [line["step"] for line in margins] == list(range(1, STEPS + 1))
    assert not (dpo / "adapter" / "ref").exists()
    config = json.loads((dpo / "adapter" / "adapter_config.json").read_bytes())
    assert config["r"] == QUICK["rank"]
    assert config["base_model_name_or_path"] == str(folder / "base")


def test_the_same_seed_gives_the_same_losses_and_another_gives_others(
    folder: Path, sft: Path
) -> None:
    recipe = SftRecipe(base=str(folder / "base"), **QUICK)
    again = folder / "sft-again"
    train_sft(folder / "data", again, recipe)
    other = folder / "sft-other"
    train_sft(folder / "data", other, recipe.model_copy(update={"seed": 1}))
    assert weights(again) == weights(sft)
    assert weights(other) != weights(sft)


def start(folder: Path, out: Path, *launcher: str, **changes: Any) -> subprocess.Popen[bytes]:
    """The run of `dpo`, or one with changes, in a process of its own or those of a launcher."""
    recipe = dpo_recipe(folder, **changes).model_dump(mode="json")
    recipe["targets"] = ",".join(recipe["targets"])
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in recipe.items()
        if name != "gradient_checkpointing"
    ]
    command = [sys.executable, *launcher, "-m", "comity", "train", "dpo", str(folder / "data")]
    return subprocess.Popen(
        [*command, f"--out={out}", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def kill_after_step(process: subprocess.Popen[bytes], out: Path, step: int) -> None:
    """Kill the process once it has written the metrics of a step."""
    while process.poll() is None:
        lines = read_lines(out / "metrics.jsonl")
        if lines and lines[-1]["step"] >= step:
            process.kill()
        time.sleep(0.005)
    _, said = process.communicate()
    assert process.returncode < 0, said.decode()


def test_a_run_that_is_killed_goes_on_to_the_same_end(folder: Path, dpo: Path) -> None:
    out = folder / "dpo-killed"
    kill_after_step(start(folder, out), out, step=10)
    killed = read_run(out)
    assert killed is not None
    assert killed.finished is None
    assert last_checkpoint(out) is not None
    with pytest.raises(TrainingError, match="--resume goes on from step"):
        train_dpo(folder / "data", out, dpo_recipe(folder))
    told: list[str] = []
    recipe, report = dpo_recipe(folder), Report(told.append)
    resumed = train_dpo(folder / "data", out, recipe, resume=True, report=report)
    assert told in (["goes on from step 8"], ["goes on from step 16"])
    assert len(resumed.resumed) == 1
    assert weights(out) == weights(dpo)
    assert looks(out) == looks(dpo)
    losses, expected = (
        [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]
        for run in (out, dpo)
    )
    assert losses == expected


def test_two_processes_share_the_steps_and_only_the_first_writes(folder: Path, sft: Path) -> None:
    out = folder / "dpo-shared"
    # What accelerate launch starts on several GPUs.
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = start(folder, out, *launcher, batch=5, max_steps=2)
    told, said = process.communicate()
    assert process.returncode == 0, said.decode()
    assert told.count(b"finished") == 1
    run = read_run(out)
    assert run is not None
    assert (run.processes, run.steps) == (2, 2)
    steps = [line["step"] for line in read_lines(out / "metrics.jsonl") if "loss" in line]
    assert steps == [1, 2]
    alone = train_dpo(
        folder / "data", folder / "dpo-alone-2", dpo_recipe(folder, batch=10, max_steps=2)
    )
    for shared, by_one in ((run.before, alone.before), (run.after, alone.after)):
        assert shared is not None
        assert by_one is not None
        assert shared.rows == by_one.rows == 8
        assert shared.margin == pytest.approx(by_one.margin, rel=0.01)


def test_a_finished_run_is_not_made_again_and_another_recipe_is_refused(
    folder: Path, dpo: Path
) -> None:
    record = read_run(dpo)
    told: list[str] = []
    again = train_dpo(folder / "data", dpo, dpo_recipe(folder), report=Report(told.append))
    assert again == record
    assert told == [f"note: {dpo} holds this very run, and it has finished: nothing is done again"]
    with pytest.raises(TrainingError, match=r"another recipe: beta was 0\.1, is now 0\.5"):
        train_dpo(folder / "data", dpo, dpo_recipe(folder, beta=0.5), resume=True)


def test_an_adapter_that_no_run_made_can_be_gone_on_from(folder: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(folder / "base", tmp_path / "adapter", size=0.1)
    told: list[str] = []
    recipe = dpo_recipe(folder, adapter=str(adapter), max_steps=1, eval_every=1)
    run = train_dpo(folder / "data", tmp_path / "out", recipe, report=Report(told.append))
    assert told == [
        "a checkpoint every 8 steps; if cut off, the same command with --resume goes on"
    ]
    assert run.before != run.after
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_bytes())
    assert (config["r"], set(config["target_modules"])) == (4, {"q_proj", "v_proj"})
    lines = read_lines(tmp_path / "out" / "metrics.jsonl")
    assert any("eval_rewards/margins" in line for line in lines)


def test_missing_families_and_missing_held_out_rows_are_told(folder: Path, tmp_path: Path) -> None:
    rows = [row for row in conversations(LEARNT) if row["family"] != "consensus"]
    write_lines(tmp_path / "sft.train.jsonl", rows)
    told: list[str] = []
    recipe = SftRecipe.model_validate({"base": str(folder / "base"), **QUICK, "max_steps": 1})
    run = train_sft(tmp_path, tmp_path / "out", recipe, report=Report(told.append))
    assert "no rows of the families consensus:" in told[0]
    assert "no rows in" in told[1]
    assert (run.before, run.after) == (None, None)


def test_rows_whose_prompt_is_too_long_are_told_or_refused(folder: Path, tmp_path: Path) -> None:
    long = next(pairs(("tea " * 40,)))
    for number, rows in enumerate(([*pairs(("tea",)), long], [long])):
        data = tmp_path / str(number)
        data.mkdir()
        write_lines(data / "dpo.train.jsonl", rows)
    told: list[str] = []
    recipe = dpo_recipe(folder, adapter="", max_steps=1, max_length=100)
    run = train_dpo(tmp_path / "0", tmp_path / "out", recipe, report=Report(told.append))
    assert run.dropped == 1
    assert told[-1] == "note: 1 rows left out: their prompts fill 100 tokens"
    with pytest.raises(TrainingError, match="raise --max-length"):
        train_dpo(tmp_path / "1", tmp_path / "out1", recipe)


def test_what_cannot_be_trained_is_refused(folder: Path, tmp_path: Path) -> None:
    data = folder / "data"
    with pytest.raises(ModelMissing, match=r"no model './nowhere'"):
        train_dpo(data, tmp_path / "a", DpoRecipe(base="./nowhere"))
    with pytest.raises(TrainingError, match=r"nope.*not found in the base model"):
        train_dpo(data, tmp_path / "b", dpo_recipe(folder, adapter="", targets=("nope",)))
    with pytest.raises(TrainingError, match="no adapter there"):
        train_dpo(data, tmp_path / "c", dpo_recipe(folder, adapter=str(tmp_path)))
    with pytest.raises(TrainingError, match="is no folder; comity train data"):
        train_sft(tmp_path / "none", tmp_path / "d", SftRecipe())


def train(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["train", *map(str, arguments)])


def test_the_command_says_what_became_of_the_run(folder: Path, sft: Path) -> None:
    recipe = folder / "sft.toml"
    fields = SftRecipe(base=str(folder / "base"), **QUICK).model_dump(mode="json")
    recipe.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in fields.items()))
    told = train("sft", folder / "data", "--out", sft, "--recipe", recipe)
    assert told.exit_code == 0, told.output
    assert "24 steps" in told.stdout
    assert "of 8 held-out rows" in told.stdout
    as_json = train("sft", folder / "data", "--out", sft, "--recipe", recipe, "--json")
    assert json.loads(as_json.stdout)["steps"] == STEPS


def test_the_adapter_of_a_run_is_exported_for_llama_cpp(dpo: Path, tmp_path: Path) -> None:
    told = train("export", dpo, tmp_path / "mine.gguf")
    assert told.stdout == f"{tmp_path / 'mine.gguf'}\n"
    assert (tmp_path / "mine.gguf").read_bytes()[:4] == b"GGUF"


def test_the_command_names_what_is_wrong(folder: Path) -> None:
    told = train("dpo", folder / "data", "--out", folder / "x", "--batch", "none")
    assert told.exit_code == 9
    assert "option --batch: Input should be a valid integer" in told.stderr
    assert train("dpo", folder / "data", "--out", folder / "x", "--betta", "1").exit_code == 2
