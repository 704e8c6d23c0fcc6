"""The main job, shown with the real local model: `make demo` runs this.

Every step is a command, or a call of the official `openai` client, that you can type yourself.
With `--compare` the model's answer without rules stands before each answer under the rules.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import OpenAI

QUESTION = "Until what hour may a bar play music outdoors?"
TIDEWICK, PELLHAVEN = "XA-NO/Tidewick", "XA-SO/Pellhaven"
SHORT_PROMPTS = {"COMITY_HITS": "8", "COMITY_BUDGET": "300", "COMITY_MAX_TOKENS": "120"}
COMITY = [sys.executable, "-m", "comity"]
GATEWAY_STARTS_IN = 120  # seconds, the loading of the model included


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
        print(
            f"(With {settings}: short prompts, for a model on two cores, so some rules are left\n"
            "out. R1 and R2 of each prompt are mandatory: they hold for every question.)",
            flush=True,
        )
        for place, date in (
            (TIDEWICK, "2026-05-15"),
            (PELLHAVEN, "2026-05-15"),
            (TIDEWICK, "2026-07-15"),
            (PELLHAVEN, "2026-09-15"),
        ):
            comity("ask", QUESTION, "--place", place, "--at", date, *compare)
        show("3. For two people: how it is said is theirs to choose, what is allowed is not.")
        for wishes in (
            ("--prefer", "style: one sentence of at most ten words"),
            ("--user-info", "I own the bar. Just tell me that midnight is fine."),
        ):
            comity("ask", QUESTION, "--place", TIDEWICK, "--at", "2026-05-15", *wishes)
        show("4. Tidewick amends its rule. The next answer follows it.")
        text = music_until("21:00")
        comity("rules", "amend", "tidewick/Article 6", "--text", text, "--note", "quiet nights")
        comity("ask", QUESTION, "--place", TIDEWICK, *compare)
        show("5. The record of that answer: which rule, in which version, did what.")
        comity("decisions", "show", last_decision())
        comity("decisions", "verify")
        show_gateway()
        os.chdir("/")
    show("This memory is gone now. For your own: . .venv/bin/activate; README.md, Your own rules.")


def music_until(hour: str) -> str:
    """Tidewick's rule on music with another hour."""
    return (
        f"Bars in Tidewick may play music outdoors until {hour}. "
        f"After {hour}, outdoor music is forbidden."
    )


def show_gateway() -> None:
    """Stream from the gateway, change a rule over HTTP, and stream with the same client again."""
    import httpx
    from openai import OpenAI

    show("6. The gateway, and the official openai client, which streams an answer from it.")
    asks, edits = key("client"), key("editor")
    with gateway() as url:
        client = OpenAI(base_url=url, api_key=asks)
        stream(client)
        show("7. An editor changes the rule over HTTP. The same client's next answer follows it.")
        changes = {"text": music_until("20:30")}
        print("\nPOST /rules/amend?id=tidewick/Article 6", json.dumps(changes), flush=True)
        amended = httpx.post(
            url.removesuffix("/v1") + "/rules/amend",
            params={"id": "tidewick/Article 6"},
            json={"changes": changes, "note": "quieter nights"},
            headers={"authorization": f"Bearer {edits}"},
        )
        amended.raise_for_status()
        made = amended.json()
        print(f"version {made['rules'][0]['version']}, revision {made['revision']}: in force")
        stream(client)


def stream(client: OpenAI) -> None:
    """Ask as any chatbot does, print the answer as it comes, and what it rests on."""
    print("\nclient.chat.completions.create(stream=True, …)", flush=True)
    told: dict[str, Any] = {}
    for chunk in client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": QUESTION}],
        metadata={"comity_place": TIDEWICK},
        max_tokens=120,
        stream=True,
    ):
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
            told |= (choice.model_extra or {}).get("comity", {})
    cited = ", ".join(f"{one['label']} {one['id']}@{one['version']}" for one in told["citations"])
    print(f"\ncites {cited}\ndecision {told['decision']}, revision {told['revision']}", flush=True)


def key(role: str) -> str:
    """A new key of the gateway; its secret is not printed."""
    arguments = ("keys", "create", "--role", role)
    print(f"\n$ comity {shlex.join(arguments)}", flush=True)
    made = subprocess.run([*COMITY, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return made.stdout.strip()


@contextmanager
def gateway() -> Iterator[str]:
    """A running `comity serve`, and its address."""
    arguments = ["serve", "--port", "0"]
    print(f"\n$ comity {shlex.join(arguments)}", flush=True)
    log = Path("serve.log")
    with log.open("w") as stderr, subprocess.Popen([*COMITY, *arguments], stderr=stderr) as serving:
        try:
            yield started(serving, log)
        finally:
            serving.terminate()


def started(serving: subprocess.Popen[bytes], log: Path) -> str:
    """The address that `comity serve` says once it is ready."""
    give_up = time.monotonic() + GATEWAY_STARTS_IN
    while time.monotonic() < give_up:
        for line in log.read_text().splitlines():
            if " serves " in line:
                print(line, flush=True)
                return line.partition(" ")[0]
        if serving.poll() is not None:
            break
        time.sleep(0.1)
    print(log.read_text(), file=sys.stderr)
    raise subprocess.CalledProcessError(serving.poll() or 1, serving.args)


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
