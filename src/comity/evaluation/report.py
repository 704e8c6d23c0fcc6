"""The report on runs: one HTML page that needs nothing else, and one Markdown table.

Names, questions, rules and answers are shown as text, whatever they hold: the page has no
script, and its policy lets it load nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from pydantic import Field

from comity.errors import ExamError, MissingExtra
from comity.evaluation import report_tables as tables
from comity.evaluation.pictures import (
    Bar,
    BarGroup,
    Curve,
    Gain,
    accuracy_picture,
    gain_picture,
    recall_picture,
)
from comity.evaluation.published import published as published_table
from comity.evaluation.report_cases import ids_of, shortened, worse
from comity.evaluation.report_parts import Pair, Part, Sheet, by_rules, by_run, parts_of
from comity.evaluation.report_text import Table
from comity.evaluation.runs import Run
from comity.evaluation.score import Letters, Score, letters
from comity.records import VERBATIM, Record

if TYPE_CHECKING:
    from jinja2 import Template

SHOWN = 10
"""Questions shown of those that got worse, and of those that got better, in each comparison."""

_ONE_LETTER = 0.9  # share from which a model's answers are called one letter
_UNSHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKS = re.compile(r"([\\`*_\[\]<>|#&~$])")


class Picture(Record):
    """A picture and what it shows."""

    model_config = VERBATIM

    caption: str = Field(description="What it shows, and how to read it.")
    svg: str = Field(description="SVG for the inside of a page.")


class Report(Record):
    """What runs came to."""

    model_config = VERBATIM

    html: str = Field(description="One page, with styles and pictures inside.")
    markdown: str = Field(description="One table and short notes.")


def report(runs: Sequence[Run], *, published: bool = False) -> Report:
    """The report on one run, or on several side by side.

    With `published`, OPO's figures stand beside. Raises `ExamError` for no run, for a run named
    twice and for one that cannot be read, `MissingExtra` without the extra `exams`.
    """
    sheets = _sheets(runs)
    parts, pairs = parts_of(sheets), tuple(by_run(sheets))
    changed = (*pairs, *by_rules(parts))
    notes = (*_notes(parts), *_run_notes(pairs))
    html = page(
        title=f"Exam report: {', '.join(sheet.label for sheet in sheets)}",
        notes=notes,
        results=tables.accuracy(parts),
        pictures=tuple(_pictures(parts)),
        details=tuple(_details(sheets, parts, pairs, published=published)),
        worse=worse(changed, SHOWN),
        better=tables.better(changed, SHOWN),
        origin=tuple(_origin(sheets, parts)),
    )
    shown = [tables.between_runs(pairs)] if len(sheets) > 1 else []
    shown += [published_table(parts)] if published else []
    return Report(html=html, markdown=_markdown(sheets, parts, notes, shown))


def page(**shown: object) -> str:
    """The page that a report's parts make: those that the template names.

    Raises `MissingExtra` without the extra `exams`.
    """
    return _template().render(**{"better": None, "method": "", "worse_note": "", **shown})


def as_markdown(shown: Iterable[Table], notes: Sequence[str]) -> str:
    """Tables as Markdown, the first before the notes."""
    first, *others = shown
    blocks = [_markdown_table(first), _plain(first.note)]
    blocks.append("\n".join(f"- {_plain(note)}" for note in notes))
    for table in others:
        blocks += [f"{table.title}:", _markdown_table(table)] if table.rows else []
        blocks.append(_plain(table.note))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _sheets(runs: Sequence[Run]) -> list[Sheet]:
    if not runs:
        raise ExamError("there is no run to report on: name at least one run's folder")
    folders = Counter(run.folder.resolve() for run in runs)
    if twice := [str(folder) for folder, count in folders.items() if count > 1]:
        raise ExamError(f"{', '.join(twice)} is named twice: name each run once")
    names = Counter(run.folder.resolve().name for run in runs)
    sheets = []
    for run in runs:
        folder = run.folder.resolve()
        label = folder.name if names[folder.name] == 1 else str(run.folder)
        items = tuple(run.latest().values())
        sheets.append(Sheet(label=label, plan=run.plan, items=items))
    return sheets


def _details(
    sheets: Sequence[Sheet], parts: Sequence[Part], pairs: Sequence[Pair], *, published: bool
) -> Iterator[Table]:
    yield tables.pairs(parts)
    if len(sheets) > 1:
        yield tables.between_runs(pairs)
    if published:
        yield published_table(parts)
    yield tables.retrieval(parts)
    if len({item.kind for sheet in sheets for item in sheet.items}) > 1:
        yield tables.by_kind(parts)
    yield tables.letter_table(parts)
    yield tables.cost(parts)
    yield tables.not_scored(parts)


def _origin(sheets: Sequence[Sheet], parts: Sequence[Part]) -> Iterator[Table]:
    yield tables.what_was_run(sheets)
    yield tables.exams_taken(parts)
    yield tables.not_asked(parts)


def _notes(parts: Sequence[Part]) -> Iterator[str]:
    """What a reader has to know before the figures, a sentence each."""
    for part in parts:
        gain = part.paired("base", "comity")
        if gain.questions:
            yield f"{part.name}: {tables.reading(gain)}."
        yield from _warnings(part)
        if not part.finished:
            yield f"{part.name}: the run is not finished; continue it with --resume."


def _run_notes(pairs: Sequence[Pair]) -> Iterator[str]:
    """What changed from run to run, with the questions' ids."""
    for pair in pairs:
        if pair.worse:
            yield f"{pair.name}: got worse: {ids_of(pair.worse)}."
        if pair.better:
            yield f"{pair.name}: got better: {ids_of(pair.better)}."


def _warnings(part: Part) -> Iterator[str]:
    if not part.items:
        yield f"{part.name}: nothing scored: no question was asked yet."
        return
    (spread,) = letters(part.items)
    modes: dict[str, list[str]] = {}
    for mode, score in part.scores.items():
        for warning in _weaknesses(score, spread):
            modes.setdefault(warning, []).append(mode)
    for warning, where in modes.items():
        yield f"{part.name}, {', '.join(where)}: {warning}."


def _weaknesses(score: Score, spread: Letters) -> Iterator[str]:
    if score.interval is None:
        reasons = "; ".join(f"{why} ({count})" for why, count in score.not_scored.items())
        yield f"nothing scored: {shortened(reasons)}"
        return
    chosen = spread.chosen[score.mode]
    favourite = max(chosen, key=lambda letter: chosen[letter])
    share = chosen[favourite] / score.scored
    if share >= _ONE_LETTER and score.scored > 1:
        yield f"{100 * share:.0f} % of the answers are {favourite}"
    if score.interval.low <= spread.majority_share:
        always = f"{100 * spread.majority_share:.1f} %"
        yield f"not clearly better than always {spread.majority} ({always})"


def _pictures(parts: Sequence[Part]) -> Iterator[Picture]:
    if groups := [_bar_group(part) for part in parts if part.items]:
        yield Picture(
            caption="Accuracy by mode, with 95 % intervals. The dotted line is the score of always "
            "giving the letter that is right most often.",
            svg=accuracy_picture(groups),
        )
    if gains := list(_gains(parts)):
        yield Picture(
            caption="Gain of comity over base in percentage points, with 95 % intervals. An "
            "interval that holds 0 shows no clear difference.",
            svg=gain_picture(gains),
        )
    curves = [
        Curve(name=f"{name} ({recall.mode})", at=recall.at)
        for name, recall in tables.recall_of(parts)
        if recall.at
    ]
    if curves:
        yield Picture(
            caption="Share of the gold rules that fit into a budget of tokens.",
            svg=recall_picture(curves),
        )


def _bar_group(part: Part) -> BarGroup:
    (spread,) = letters(part.items)
    bars = [
        Bar(mode=mode, share=score.accuracy, interval=score.interval)
        for mode, score in part.scores.items()
    ]
    return BarGroup(name=part.name, bars=tuple(bars), chance=spread.majority_share)


def _gains(parts: Sequence[Part]) -> Iterator[Gain]:
    for part in parts:
        found = part.paired("base", "comity")
        if found.difference is not None and found.interval is not None:
            yield Gain(name=part.name, difference=found.difference, interval=found.interval)


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtra("the report", "exams") from error
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    source = files(__package__).joinpath("templates/report.html.j2").read_text("utf-8")
    return environment.from_string(source)


def _shown(value: object) -> object:
    """Text without characters that no page may hold, or that turn its direction round."""
    from markupsafe import Markup

    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSHOWN.sub("\ufffd", value)
    return value


def _markdown(
    sheets: Sequence[Sheet], parts: Sequence[Part], notes: Sequence[str], more: Sequence[Table]
) -> str:
    table = tables.accuracy(parts)
    blocks = [_markdown_table(table), _plain(table.note)]
    blocks.append("\n".join(f"- {_plain(note)}" for note in notes))
    blocks.append("\n".join(f"- {_plain(line)}" for line in _provenance(sheets)))
    for shown in more:
        blocks += [f"{shown.title}:", _markdown_table(shown)] if shown.rows else []
        blocks.append(_plain(shown.note))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _provenance(sheets: Sequence[Sheet]) -> Iterator[str]:
    for sheet in sheets:
        plan = sheet.plan
        sample = "all questions" if plan.limit is None else f"{plan.limit} questions of each exam"
        memory = f", memory at revision {plan.revision}" if plan.revision is not None else ""
        exams = ", ".join(f"{exam.name} (SHA-256 {exam.sha256[:12]})" for exam in plan.exams)
        yield (
            f"Run {sheet.label}: {plan.model}{memory}, {plan.started:%Y-%m-%d}, {sample}, "
            f"seed {plan.seed}; {exams}."
        )


def _markdown_table(table: Table) -> str:
    ruler = ["---" if n < table.words else "---:" for n in range(len(table.columns))]
    rows = [table.columns, *table.rows]
    lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join(ruler) + " |", *lines[1:]])


def _plain(text: str) -> str:
    """Text as Markdown that shows it as it is, on one line."""
    return _MARKS.sub(r"\\\1", _UNSHOWN.sub("\ufffd", " ".join(text.split())))
