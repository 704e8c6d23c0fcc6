"""Output: tables and notes for people, JSON for programs.

Results go to stdout, notes and progress to stderr. Text from rules, questions and models is
printed as it is, never read as markup, and without control characters, which could steer a
terminal.
"""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from datetime import datetime

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NOTE_EVERY = 5.0  # seconds between lines of progress; ever longer in long work
_NOTE_SELDOM = 60.0
_SLOW = 60.0  # seconds left from which the time left is said
Progress = Callable[[int, int], None]


def plain(text: str) -> str:
    """The text with each control character replaced, line ends and tabs apart."""
    return _CONTROL.sub("\ufffd", text)


def say(text: str = "", *, bold: bool = False) -> None:
    """Print a result for people."""
    click.echo(click.style(plain(text), bold=True) if bold else plain(text))


def note(text: str) -> None:
    """Print a note beside the result."""
    click.echo(plain(text), err=True)


def counted(number: int, noun: str) -> str:
    """A number of things: `1 rule`, `2,000 rules`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def say_json(value: Any) -> None:
    """Print a result for programs: JSON, and nothing else, on stdout."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    click.echo(json.dumps(value, ensure_ascii=not unicode, indent=2))


def day(moment: datetime | None) -> str:
    """A time as people read it: the date alone where it is midnight UTC."""
    if moment is None:
        return ""
    whole = (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
    return f"{moment:%Y-%m-%d}" if whole else f"{moment:%Y-%m-%d %H:%M} UTC"


def validity(valid_from: datetime | None, valid_to: datetime | None) -> str:
    """A half-open validity in words."""
    if valid_from and valid_to:
        return f"{day(valid_from)} until {day(valid_to)}"
    if valid_from:
        return f"from {day(valid_from)}"
    return f"until {day(valid_to)}" if valid_to else "always"


def say_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: fitted to the terminal, else as wide as it is, with nothing cut."""
    cells = [[plain(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _say_rich_table(columns, cells)
        return
    flat = [list(columns), *([" ".join(cell.split()) for cell in row] for row in cells)]
    widths = [max(map(_width, column)) for column in zip(*flat, strict=True)]
    for row in flat:
        padded = (cell + " " * (w - _width(cell)) for cell, w in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _width(text: str) -> int:
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def _say_rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    with console.capture() as captured:
        console.print(table)
    click.echo(captured.get(), nl=False)


def say_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Print names and values below one another; empty values are left out."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        if value:
            lines = plain(value).splitlines() or [""]
            indent = "\n" + " " * (width + 2)
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {indent.join(lines)}")


@contextmanager
def progress_bar(what: str, unit: str = "rules") -> Iterator[Progress]:
    """A bar on stderr, with rate and time left; a line now and then where that is no terminal."""
    if not sys.stderr.isatty():
        yield _lines(what, unit)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, rate="", visible=False)
        rate = _Rate(unit)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=rate(done), visible=done < total)

        yield advance


class _Rate:
    """How fast it goes, from the second report on; what was there at the first is not counted."""

    def __init__(self, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._unit = unit
        self._clock = clock
        self._start: tuple[float, int] | None = None
        self._each: float | None = None

    def seconds_for(self, more: int) -> float | None:
        """How long so many more will take; None before there is a rate."""
        return None if self._each is None else self._each * more

    def __call__(self, done: int) -> str:
        now = self._clock()
        if self._start is None or done < self._start[1]:
            self._start = (now, done)
        seconds, made = now - self._start[0], done - self._start[1]
        if not made or seconds <= 0:
            return ""
        self._each = seconds / made
        if self._unit == "bytes":
            return f"{made / seconds / 1e6:.1f} MB/s"
        if made < seconds:
            return f"{seconds / made:.0f} s each"
        return f"{made / seconds:.0f} {self._unit} a second"


def _lines(what: str, unit: str, clock: Callable[[], float] = time.monotonic) -> Progress:
    rate = _Rate(unit, clock)
    begun = last = clock()

    def advance(done: int, total: int) -> None:
        nonlocal last
        words, now = rate(done), clock()
        if now - last >= min(_NOTE_SELDOM, max(_NOTE_EVERY, (now - begun) / 20)):
            last = now
            said = (f"{what}: {done} of {total}", words, _time_left(rate.seconds_for(total - done)))
            note(", ".join(filter(None, said)))

    return advance


def _time_left(seconds: float | None) -> str:
    if seconds is None or seconds < _SLOW:
        return ""
    minutes = round(seconds / 60)
    hours = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"about {hours} left"


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """A sign on stderr that work goes on, gone when the function given is called."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console

    status = Console(stderr=True).status(what)
    status.start()
    try:
        yield status.stop
    finally:
        status.stop()
