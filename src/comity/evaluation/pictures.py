"""Pictures of a report, as SVG that stands inside the page.

Matplotlib lays them out; words and colours are put in afterwards: words because a name in any
script is then shown with the reader's own fonts, colours because they then follow the page's
style sheet (`var(--ink)`, `var(--base)` …), light or dark.
"""

from __future__ import annotations

import html
import io
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from comity.errors import MissingExtra
from comity.evaluation.runs import Mode
from comity.evaluation.score import Interval
from comity.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_WIDTH = 5.0  # inches; 72 units of the SVG each
_ROW = 0.2
_NAME_COLUMNS = 52  # of a name in a picture, a wide character taking two
_COLOURS = {
    "ink": "#010101",
    "faint": "#020202",
    "base": "#030303",
    "comity": "#040404",
    "oracle": "#050505",
    "worse": "#060606",
}
"""Stand-ins for the page's colours while the picture is drawn."""

_MARKERS: Mapping[Mode, str] = {"base": "o", "comity": "s", "oracle": "D"}
_LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_LINE_COLOURS = ("comity", "oracle", "base", "worse", "ink")
_POINTS = ("o", "s", "D", "^", "v", "P")


class Bar(Record):
    """A share with its interval."""

    mode: Mode = Field(description="Which mode; decides colour and marker.")
    share: float | None = Field(description="Between 0 and 1; None where nothing was scored.")
    interval: Interval | None = Field(None, description="Its interval.")


class BarGroup(Record):
    """The bars of one exam."""

    name: str = Field(description="Name of the exam.")
    bars: tuple[Bar, ...] = Field(description="One for each mode.")
    chance: float | None = Field(None, description="Accuracy of always giving the same letter.")


class Gain(Record):
    """A difference with its interval."""

    name: str = Field(description="Name of the exam.")
    difference: float = Field(description="Between -1 and 1.")
    interval: Interval = Field(description="Its interval.")


class Curve(Record):
    """Recall against token budget."""

    name: str = Field(description="Name of the exam.")
    at: dict[int, float] = Field(description="Recall at each budget, in tokens.")


def accuracy_picture(groups: Sequence[BarGroup]) -> str:
    """Accuracy by mode, with intervals; a tick marks the commonest letter's share.

    Raises `MissingExtra` without matplotlib, as the other pictures do.
    """
    picture = _Picture(sum(1.5 + len(group.bars) for group in groups) * _ROW)
    axes = picture.axes(right=0.86)
    row = 0.0
    for group in groups:
        picture.write(axes, 0, row, group.name, bold=True)
        row = _draw_bars(picture, axes, group, row + 1) + 0.5
    _percent_axis(picture, axes, 0, 100, row - 0.5)
    return picture.svg("Accuracy by exam and mode with 95 % intervals")


def gain_picture(
    gains: Sequence[Gain],
    title: str = "Gain over base by exam, in percentage points, with 95 % intervals",
) -> str:
    """The gain of each exam in percentage points, with its interval and a line at none."""
    picture = _Picture(2.2 * len(gains) * _ROW)
    axes = picture.axes(right=0.86)
    reach = max(max(-g.interval.low, g.interval.high) for g in gains) * 100 * 1.08
    for number, gain in enumerate(gains):
        row = 2.2 * number
        colour = "worse" if gain.difference < 0 else "comity"
        picture.write(axes, -reach, row, gain.name, bold=True)
        axes.plot([0, 0], [row + 0.5, row + 1.5], color=_COLOURS["ink"], linewidth=1)
        _whisker(axes, gain.difference, gain.interval, row + 1, colour, "s")
        picture.write(axes, reach, row + 1, f"  {_signed(gain.difference * 100, '.1f')}")
    _percent_axis(picture, axes, -reach, reach, 2.2 * len(gains) - 0.6)
    return picture.svg(title)


def recall_picture(curves: Sequence[Curve]) -> str:
    """Share of the gold rules that fit into a token budget: one line for each exam."""
    picture = _Picture(2.6 + len(curves) * _ROW)
    legend = (len(curves) + 0.6) * _ROW
    axes = picture.axes(right=0.96, left=0.12, above=legend, below=0.5)
    step = _ROW / (axes.get_position().height * picture.height)
    for number, curve in enumerate(curves):
        budgets = sorted(curve.at)
        for line in axes.plot(budgets, [100 * curve.at[budget] for budget in budgets]):
            _style(line, number)
        y = 1 + (len(curves) - number) * step
        for line in axes.plot([0.0, 0.07], [y, y], transform=axes.transAxes):
            _style(line, number)
        name = picture.words(curve.name)
        axes.text(0.1, y, name, transform=axes.transAxes, va="center", color=_COLOURS["ink"])
    axes.set_ylim(0, 100)
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens of rules")
    axes.set_yticks(range(0, 101, 20), [f"{value} %" for value in range(0, 101, 20)])
    return picture.svg("Share of the gold rules that fit into a token budget")


class _Picture:
    """A figure, and the words that are put into it when it is done."""

    def __init__(self, height: float) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingExtra("the report", "exams") from error
        self.height = height + 0.35
        self._figure: Figure = Figure(figsize=(_WIDTH, self.height))
        self._words: list[str] = []

    def axes(
        self, right: float, left: float = 0.04, above: float = 0.06, below: float = 0.35
    ) -> Axes:
        """The plot; left and right edge are shares of the width, the room around it inches."""
        bottom, top = below / self.height, 1 - above / self.height
        axes = self._figure.add_axes((left, bottom, right - left, top - bottom))
        axes.patch.set_visible(False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_COLOURS["faint"])
        axes.tick_params(color=_COLOURS["faint"], labelcolor=_COLOURS["ink"], labelsize=10)
        axes.grid(axis="x", color=_COLOURS["faint"], linewidth=0.4)
        axes.xaxis.label.set_color(_COLOURS["ink"])
        return axes

    def words(self, text: str) -> str:
        """A stand-in for words, exchanged when the picture is done."""
        self._words.append(text)
        return f"@{len(self._words) - 1}@"

    def write(self, axes: Axes, x: float, y: float, text: str, *, bold: bool = False) -> None:
        """Words that begin at a point of the plot."""
        weight = "bold" if bold else "normal"
        axes.text(x, y, self.words(text), va="center", fontweight=weight, color=_COLOURS["ink"])

    def svg(self, title: str) -> str:
        """The picture, for the inside of a page."""
        import matplotlib

        stream = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
            self._figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        return _for_page(stream.getvalue(), title, self._words)


def _style(line: Line2D, number: int) -> None:
    line.set_color(_COLOURS[_LINE_COLOURS[number % len(_LINE_COLOURS)]])
    line.set_linestyle(_LINES[number // len(_LINE_COLOURS) % len(_LINES)])
    line.set_marker(_POINTS[number % len(_POINTS)])
    line.set_markersize(3.5)
    line.set_linewidth(1.4)
    line.set_clip_on(False)


def _draw_bars(picture: _Picture, axes: Axes, group: BarGroup, row: float) -> float:
    last = row + len(group.bars)
    if group.chance is not None and any(bar.share is not None for bar in group.bars):
        line = ([100 * group.chance] * 2, [row - 0.4, last - 0.6])
        axes.plot(*line, color=_COLOURS["ink"], linewidth=1, linestyle=(0, (1, 1.2)))
    for bar in group.bars:
        if bar.share is None or bar.interval is None:
            picture.write(axes, 0, row, f"{bar.mode}: nothing scored")
        else:
            _whisker(axes, bar.share, bar.interval, row, bar.mode, _MARKERS[bar.mode])
            picture.write(axes, 100, row, f"  {bar.share * 100:.1f} %")
        row += 1
    return row


def _whisker(
    axes: Axes, value: float, interval: Interval, row: float, colour: str, marker: str
) -> None:
    ends, paint = (100 * interval.low, 100 * interval.high), _COLOURS[colour]
    axes.plot(ends, (row, row), color=paint, linewidth=3.2, alpha=0.45, clip_on=False)
    axes.plot([100 * value], [row], color=paint, marker=marker, markersize=5.5, clip_on=False)


def _percent_axis(picture: _Picture, axes: Axes, low: float, high: float, rows: float) -> None:
    axes.set_xlim(low, high)
    axes.set_ylim(rows, -0.6)
    axes.set_yticks([])
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    axes.set_xticks(ticks, [_signed(t, "g") if low < 0 else f"{t:g} %" for t in ticks])


def _signed(points: float, form: str) -> str:
    return f"{points:+{form}}".replace("-", "−") if points else "0"


def _for_page(svg: str, title: str, words: Sequence[str]) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # an id may stand in a page only once
    svg = re.sub(r"font-family: [^;\"]*;?|\bfont: [^;\"]*;?", _font_size, svg)
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', _opening(title), svg, count=1)
    for name, stand_in in _COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return re.sub(r"@(\d+)@", lambda found: _word(words[int(found[1])]), svg)


def _font_size(declaration: re.Match[str]) -> str:
    """What is to be kept of a font: its size and weight, not its family."""
    if declaration[0].startswith("font-family"):
        return ""
    size = re.search(r"[\d.]+px", declaration[0])
    bold = "font-weight: bold; " if re.search(r"\b(bold|[6-9]00)\b", declaration[0]) else ""
    return bold + (f"font-size: {size[0]};" if size else "")


def _opening(title: str) -> str:
    name = html.escape(title)
    attributes = 'xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
    return rf'<svg {attributes} aria-label="{name}" viewBox="\1">'


def _word(text: str) -> str:
    width = 0
    for number, char in enumerate(text):
        width += 1 + (unicodedata.east_asian_width(char) in "WF")
        if width > _NAME_COLUMNS:
            return html.escape(text[: number - 1]) + "…"
    return html.escape(text).replace(" ", "\u00a0")  # an SVG drops blanks at the ends
