"""The command line: `comity`."""

from comity.cli.entry import cli, main

__all__ = ["cli", "main"]
