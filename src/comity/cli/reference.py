"""The reference of the command line, `docs/cli.md`, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator

import click

_HEAD = """# The command line

This page is made from the commands themselves: `comity reference > docs/cli.md`.
"""


def reference(root: click.Command) -> str:
    """Every command's help as Markdown, in the order of their names."""
    sections = [
        f"## `{' '.join(path)}`\n\n```text\n{_help(path, command)}\n```\n"
        for path, command in _commands(root, ("comity",))
    ]
    return "\n".join([_HEAD, *sections])


def _commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            if not child.hidden:
                yield from _commands(child, (*path, name))


def _help(path: tuple[str, ...], command: click.Command) -> str:
    settings = {"help_option_names": ["-h", "--help"], "terminal_width": 96}
    context = click.Context(command, info_name=" ".join(path), **settings)  # type: ignore[arg-type]
    lines = command.get_help(context).splitlines()
    return "\n".join(line.rstrip() for line in lines)


@click.command("reference", hidden=True)
@click.pass_context
def reference_command(context: click.Context) -> None:
    """Print docs/cli.md."""
    click.echo(reference(context.find_root().command), nl=False)
