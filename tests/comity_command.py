"""Runs `comity` in this process with the public fakes, on a memory of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from comity.cli import cli

BYLAWS = """# By-laws of Elmtown

Article 1
Dogs must be kept on a lead in the market square.

Article 2
Fireworks are forbidden between 22:00 and 07:00.

Article 3
Stalls in the market close at 18:00 [sharp].
"""


class Command:
    """`comity` with a memory and settings in one folder, and the cache of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "COMITY_MEMORY": f"sqlite:///{folder}/rules.db",
            "COMITY_CONFIG": "",
            "COMITY_EMBEDDER": "hash",
            "COMITY_MODEL": "scripted",
            "COMITY_AUTHOR": "Ada",
            "COMITY_DEBUG": "",
        }

    def __call__(self, *arguments: str, input: str | None = None) -> Result:
        """Run with these arguments, whatever the outcome."""
        return CliRunner().invoke(cli, arguments, env=self.environ, input=input)

    def done(self, *arguments: str) -> str:
        """Stdout of a run that must succeed."""
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        """What `--json` printed, nothing else being on stdout."""
        return json.loads(self.done(*arguments, "--json"))

    def write(self, name: str, text: str = BYLAWS) -> str:
        """A document in the folder, and its path."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return str(path)
