"""`comity train`: SFT and DPO of a LoRA adapter, and its export for llama.cpp."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from comity.cli.output import note, progress_bar, say, say_fields, say_json
from comity.cli.train_data import data_command
from comity.cli.values import json_option

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from comity.training.folder import Look, Run
    from comity.training.loop import Report

_C = TypeVar("_C", bound=Callable[..., Any])


@click.group("train")
def train_group() -> None:
    """Teach a model to follow preferences and rules: data, SFT and DPO (extra train)."""


train_group.add_command(data_command)


class RecipeCommand(click.Command):
    """A command with one option for each field of its recipe; what is given comes by name.

    The recipe is that of the command's name; its record is loaded only where the command is
    used, so that others start fast.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own parameters, then the recipe's, then `--help`."""
        own = super().get_params(ctx)
        return [*own[:-1], *self.recipe_options, *own[-1:]]

    @cached_property
    def recipe_options(self) -> list[click.Parameter]:
        """The options of the recipe, in its order."""
        from comity.training.recipe import RECIPES

        fields = RECIPES[self.name or ""].model_fields.items()
        return [_option(name, field.annotation, field) for name, field in fields]


def _option(name: str, kind: Any, field: FieldInfo) -> click.Option:
    flag = f"--{name.replace('_', '-')}"
    switch = f"/--no-{name.replace('_', '-')}" if kind is bool else ""
    return click.Option(
        [f"{flag}{switch}", f"recipe_{name}"],
        metavar=None if switch else _metavar(kind),
        help=f"{field.description}{_default(field.default)}",
    )


def _metavar(kind: Any) -> str:
    return {int: "N", float: "X"}.get(kind, "NAME")


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return f"  [default: {','.join(value)}]"
    return f"  [default: {value}]" if value != "" and not isinstance(value, bool) else ""


def _shared(command: _C) -> _C:
    for decorate in (
        json_option,
        click.option("--resume", is_flag=True, help="Go on with a run that was cut off."),
        click.option(
            "--recipe",
            "file",
            metavar="FILE.toml",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Fields of the recipe, named as the options with _ for -; options win.",
        ),
        click.option(
            "--out",
            metavar="RUN",
            required=True,
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for checkpoints, metrics and the adapter.",
        ),
        click.argument("data", metavar="DATA", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


@train_group.command("sft", cls=RecipeCommand)
@_shared
def sft_command(
    data: Path, out: Path, file: Path | None, resume: bool, as_json: bool, **given: Any
) -> None:
    """Teach a model the answers of conversations: supervised fine-tuning of a LoRA adapter.

    DATA is a folder with sft.train.jsonl and sft.eval.jsonl, as `comity train data` writes it;
    only the last answer of each conversation is learnt. The adapter is written to RUN/adapter.
    Several GPUs: accelerate launch -m comity train sft …
    """
    from comity.training.recipe import SftRecipe, load_recipe
    from comity.training.sft import train_sft

    recipe = load_recipe(SftRecipe, file=file, options=_given(given))
    with _reporting(out) as report:
        run = train_sft(data, out, recipe, resume=resume, report=report)
    _say_run(run, out, as_json)


@train_group.command("dpo", cls=RecipeCommand)
@_shared
def dpo_command(
    data: Path, out: Path, file: Path | None, resume: bool, as_json: bool, **given: Any
) -> None:
    """Teach a model which of two answers is wanted: direct preference optimisation.

    DATA is a folder with dpo.train.jsonl and dpo.eval.jsonl, as `comity train data` writes it.
    --adapter goes on from a run of SFT: rank, alpha and targets are then that adapter's. The
    adapter is written to RUN/adapter. Several GPUs: accelerate launch -m comity train dpo …
    """
    from comity.training.dpo import train_dpo
    from comity.training.recipe import DpoRecipe, load_recipe

    recipe = load_recipe(DpoRecipe, file=file, options=_given(given))
    with _reporting(out) as report:
        run = train_dpo(data, out, recipe, resume=resume, report=report)
    _say_run(run, out, as_json)


@train_group.command("export")
@click.argument("adapter", metavar="ADAPTER", type=click.Path(path_type=Path))
@click.argument("out", metavar="FILE.gguf", type=click.Path(dir_okay=False, path_type=Path))
def export_command(adapter: Path, out: Path) -> None:
    """Write a trained adapter (its folder, or that of its run) as GGUF for llama.cpp.

    It is then used with its base, as in comity ask --model local+FILE.gguf.
    """
    from comity.training.export import export_adapter
    from comity.training.folder import adapter_folder

    say(f"{export_adapter(adapter_folder(adapter), out)}")


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix("recipe_"): value for name, value in options.items() if value is not None
    }


@contextmanager
def _reporting(out: Path) -> Iterator[Report]:
    """Notes and a bar on stderr, of the first process alone; how to go on after Ctrl-C."""
    from comity.training.loop import Report

    if not _is_first():
        yield Report()
        return
    try:
        with progress_bar("training", "steps") as advance:
            yield Report(tell=note, progress=advance)
    except KeyboardInterrupt:
        note(f"the checkpoints in {out} are kept; the same command with --resume goes on")
        raise


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say_run(run: Run, out: Path, as_json: bool) -> None:
    if not _is_first():
        return
    if as_json:
        say_json(run.model_dump(mode="json"))
        return
    finished = f"{run.finished:%Y-%m-%d %H:%M} UTC" if run.finished else ""
    say_fields(
        (
            ("finished", f"{finished}, {run.steps} steps in {run.seconds:.0f} s"),
            ("learnt", f"{run.train.rows - run.dropped} rows, {run.trained_weights:,} weights"),
            ("before", _shown(run.before)),
            ("after", _shown(run.after)),
            ("adapter", str(out / "adapter")),
            ("metrics", f"{out / 'metrics.jsonl'}, {out / 'metrics.png'}"),
        )
    )


def _shown(look: Look | None) -> str:
    if look is None:
        return ""
    loss = f"loss {look.loss:.3f}" if look.loss is not None else ""
    margin = f"margin {look.margin:.2f}" if look.margin is not None else ""
    share = f"chosen likelier in {look.accuracy:.0%}" if look.accuracy is not None else ""
    told = ", ".join(filter(None, (loss, margin, share)))
    return f"{told} of {look.rows} held-out rows"
