"""A benchmark's table and its JSON file."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

from pydantic import BaseModel, Field
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
_BEGIN, _END = "<!-- {name}: begin -->", "<!-- {name}: end -->"


class Measure(BaseModel):
    """One measured figure."""

    measure: str = Field(description="Name, such as `law.recall_at_5`.")
    value: float = Field(description="What was measured.")
    unit: str = Field(description="Its unit.")
    goal: str = Field("", description="What it should reach.")
    peer: float | None = Field(None, description="The peer's figure, from the same run.")
    peer_name: str = Field("", description="Who the peer is.")
    note: str = Field("", description="Sample, seed and conditions.")
    machine: str = Field("", description="Where it was measured.")


def machine() -> str:
    """Processor, cores and Python of this machine."""
    cpu = platform.processor() or platform.machine()
    for line in _cpuinfo():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def publish(name: str, measures: list[Measure]) -> None:
    """Print the table, write `results/NAME.json`, and put the table into the README here."""
    here = machine()
    rows = [measure.model_copy(update={"machine": here}) for measure in measures]
    table = Table(title=f"{name} ({here})")
    for column in ("measure", "value", "unit", "goal", "peer", "who", "note"):
        table.add_column(column, overflow="fold")
    for row in rows:
        peer = "" if row.peer is None else f"{row.peer:.4g}"
        table.add_row(
            row.measure, f"{row.value:.4g}", row.unit, row.goal, peer, row.peer_name, row.note
        )
    Console(width=150).print(table)
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(
        json.dumps([row.model_dump() for row in rows], ensure_ascii=False, indent=1) + "\n"
    )
    README.write_text(with_table(README.read_text(encoding="utf-8"), name), encoding="utf-8")
    print(f"written: {file} and {README.name}")


def with_table(page: str, name: str) -> str:
    """The page with the table of `results/NAME.json` between its marks."""
    begin, end = _BEGIN.format(name=name), _END.format(name=name)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{_markdown(name)}{end}{after}"


def _markdown(name: str) -> str:
    rows = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    lines = [
        f"Machine: {rows[0]['machine']}.",
        "",
        "| measure | value | unit | goal | peer | who | note |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        peer = "" if row["peer"] is None else f"{row['peer']:.4g}"
        cells = (row["measure"], f"{row['value']:.4g}", row["unit"], row["goal"], peer)
        lines.append(f"| {' | '.join((*cells, row['peer_name'], row['note']))} |")
    return "\n".join(lines) + "\n"
