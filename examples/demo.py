"""The main job, shown with the real local model: `make demo` runs this.

Every step is a command that you can type yourself. With `--compare` the model's answer without
rules stands before each answer under the rules.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile

QUESTION = "Until what hour may a bar play music outdoors?"
TIDEWICK, PELLHAVEN = "XA-NO/Tidewick", "XA-SO/Pellhaven"
SHORT_PROMPTS = {"COMITY_HITS": "8", "COMITY_BUDGET": "300", "COMITY_MAX_TOKENS": "120"}
COMITY = [sys.executable, "-m", "comity"]


def main() -> None:
    """Run the steps in a memory of their own, which is deleted at the end."""
    compare = ["--compare"] if "--compare" in sys.argv[1:] else []
    with tempfile.TemporaryDirectory(prefix="comity-demo-") as folder:
        for name in [name for name in os.environ if name.startswith("COMITY_")]:
            if name != "COMITY_CACHE":  # where the model lies; all else would change the demo
                del os.environ[name]
        os.chdir(folder)  # where no comity.toml is
        os.environ["COMITY_MEMORY"] = "sqlite:///rules.db"
        os.environ |= SHORT_PROMPTS
        show("1. Load the sample rules of an imagined country, from its documents.")
        comity("init")
        show("2. The same question, in two towns and at two dates.")
        settings = " ".join(f"{name}={value}" for name, value in SHORT_PROMPTS.items())
        print(f"(With {settings}: short prompts, for a model on two cores.)", flush=True)
        for place, date in (
            (TIDEWICK, "2026-05-15"),
            (PELLHAVEN, "2026-05-15"),
            (TIDEWICK, "2026-07-15"),
            (PELLHAVEN, "2026-09-15"),
        ):
            comity("ask", QUESTION, "--place", place, "--at", date, *compare)
        show("3. Tidewick amends its rule. The next answer follows it.")
        text = (
            "Bars in Tidewick may play music outdoors until 21:00. "
            "After 21:00, outdoor music is forbidden."
        )
        comity("rules", "amend", "tidewick/Article 6", "--text", text, "--note", "quiet nights")
        comity("ask", QUESTION, "--place", TIDEWICK, *compare)
        show("4. The record of that answer: which rule, in which version, did what.")
        comity("decisions", "show", last_decision())
        comity("decisions", "verify")
        os.chdir("/")


def show(title: str) -> None:
    """Print a heading."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


def comity(*arguments: str) -> None:
    """Print a command as one would type it, and run it."""
    print(f"\n$ comity {shlex.join(arguments)}", flush=True)
    subprocess.run([*COMITY, *arguments], check=True)


def last_decision() -> str:
    """The id of the newest decision."""
    listed = subprocess.run(
        [*COMITY, "decisions", "list", "--json"], check=True, capture_output=True, text=True
    )
    decisions = json.loads(listed.stdout)
    return str(max(decisions, key=lambda decision: decision["made_at"])["id"])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:  # the command has said what is wrong
        sys.exit(error.returncode)
