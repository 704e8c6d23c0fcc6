"""The command group, and what becomes of errors, interrupts and broken pipes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from comity.cli.add import add_command, init_command
from comity.cli.ask import ask_command
from comity.cli.backup import backup_command, restore_command
from comity.cli.change import amend_command, approve_command, reject_command, repeal_command
from comity.cli.conflicts import conflicts_group
from comity.cli.decisions import decisions_group
from comity.cli.exam import exam_group
from comity.cli.index import index_group
from comity.cli.keys import keys_group
from comity.cli.mcp import mcp_command
from comity.cli.models import models_group
from comity.cli.output import note
from comity.cli.places import places_group
from comity.cli.preferences import preferences_group
from comity.cli.reference import reference_command
from comity.cli.rules import rules_group
from comity.cli.search import search_command
from comity.cli.serve import serve_command
from comity.cli.session import remember_config, settings_options
from comity.cli.settings import settings_command
from comity.cli.train import train_group
from comity.errors import ComityError

STOPPED = 130
BROKEN_PIPE = 141
UNEXPECTED = 70
_EPILOG = """\b
Exit codes:
  0    done
  1    refused, or a check did not hold
  2    wrong use, or a setting that cannot be used
  3    a document or rule cannot be taken
  4    a rule, revision, tenant, decision or memory is not there
  5    the memory cannot be used
  6    the embedder failed, or the index was built with another
  7    the model failed
  8    an exam, run or report cannot be used
  9    training data, a recipe or a training run cannot be used
  70   an unexpected error (COMITY_DEBUG=1 shows where)
  130  stopped by Ctrl-C

Settings come from comity.toml, variables COMITY_... and options, later ones winning; `comity
settings` shows them.
"""


class ComityGroup(click.Group):
    """A group whose errors are one line on stderr and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run the command line and exit."""
        sys.exit(self._run(args, prog_name, complete_var, extra))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; end quietly where the reader of stdout has gone (`| head`)."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            ctx.exit(_quietly_closed())
        return result

    def _run(
        self,
        args: Sequence[str] | None,
        prog_name: str | None,
        complete_var: str | None,
        extra: dict[str, Any],
    ) -> int:
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except (KeyboardInterrupt, click.Abort):
            note("stopped: what was acknowledged is kept, nothing else was changed")
            return STOPPED
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except ComityError as error:
            note(f"error: {error}")
            return error.exit_code
        except Exception as error:
            # the last resort: whoever runs a command gets a sentence, not a traceback
            return _unexpected(error)
        return code if isinstance(code, int) else 0


def _quietly_closed() -> int:
    # Python flushes stdout once more at exit, which would fail with the pipe again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _unexpected(error: Exception) -> int:
    if os.environ.get("COMITY_DEBUG"):
        traceback.print_exception(error)
    else:
        note(f"unexpected error: {type(error).__name__}: {error}")
        note("this should not happen; COMITY_DEBUG=1 shows where it did")
    return UNEXPECTED


@click.group(
    cls=ComityGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="comity", prog_name="comity")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Settings file instead of comity.toml.",
    expose_value=False,
    callback=remember_config,
)
@settings_options("memory", "tenant", "embedder", "model")
def cli() -> None:
    """Keep any chatbot in line with the rules that hold here, now and for this person."""


for _command in (
    init_command,
    add_command,
    rules_group,
    search_command,
    ask_command,
    decisions_group,
    exam_group,
    models_group,
    train_group,
    index_group,
    backup_command,
    restore_command,
    places_group,
    preferences_group,
    keys_group,
    serve_command,
    mcp_command,
    settings_command,
    reference_command,
):
    cli.add_command(_command)
for _command in (
    amend_command,
    repeal_command,
    approve_command,
    reject_command,
    conflicts_group,
):
    rules_group.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `comity` with the arguments given, or the process's own."""
    cli.main(arguments, prog_name="comity")
