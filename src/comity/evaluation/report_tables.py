"""The tables of a report, as text; how they look is the template's matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from comity.evaluation.report_cases import ids_of, names_of, question_of, shortened
from comity.evaluation.report_parts import Pair, Part, Sheet
from comity.evaluation.report_text import NONE, Table, p_value, percent, points
from comity.evaluation.runs import MODES, Mode, Plan
from comity.evaluation.score import (
    Change,
    Cost,
    Paired,
    Recall,
    Score,
    Spread,
    costs,
    letters,
    of,
    overhead_share,
    recalls,
    scores_by_kind,
)

SIGNIFICANT = 0.05
_PASSWORD = re.compile(r"(://[^/@:]*):[^/@]*@")
_LINES = 100  # shown of what was not asked
_REASONS = 8  # shown of the reasons of one exam and mode; the rest is counted


def what_was_run(sheets: Sequence[Sheet]) -> Table:
    """The runs, with what decided their answers."""
    rows = [
        (
            sheet.label,
            "\n".join(filter(None, (sheet.plan.model, sheet.plan.endpoint))),
            _memory(sheet.plan),
            f"{sheet.plan.started:%Y-%m-%d %H:%M} UTC",
            "all" if sheet.plan.limit is None else f"{sheet.plan.limit} of each exam",
            str(sheet.plan.seed),
            "\n".join(f"{name}: {value}" for name, value in _options(sheet.plan)) or NONE,
        )
        for sheet in sheets
    ]
    columns = ("run", "model", "memory", "started", "sample", "seed", "options")
    return Table(title="What was run", columns=columns, rows=tuple(rows), words=len(columns))


def exams_taken(parts: Sequence[Part]) -> Table:
    """The exam files, and how much of them was asked."""
    rows = [
        (
            part.name,
            part.taken.path,
            part.taken.sha256,
            _progress(part),
            str(sum(item.reused for item in part.items)),
            str(len(part.taken.left_out)),
            str(len(part.taken.retired)),
        )
        for part in parts
    ]
    columns = (
        "exam",
        "file",
        "SHA-256",
        "answers, of planned",
        "taken over",
        "left out",
        "retired",
    )
    return Table(title="The exams", columns=columns, rows=tuple(rows), words=4)


def accuracy(parts: Sequence[Part]) -> Table:
    """Accuracy of each exam and mode, the gain over base, and the gap to the oracle."""
    rows = [
        (
            part.name,
            *(_accuracy(part.scores.get(mode)) for mode in MODES),
            _gain(part.paired("base", "comity")),
            _gain(part.paired("oracle", "comity"), p=False),
        )
        for part in parts
    ]
    return Table(
        title="Accuracy",
        columns=("exam", *MODES, "gain over base", "gap to oracle"),
        rows=tuple(rows),
        note="In brackets the 95 % interval. Gain and gap in percentage points, over the questions "
        "that both modes answered; p is McNemar's, exact.",
    )


def pairs(parts: Sequence[Part]) -> Table:
    """Gains and gaps, question by question."""
    rows = [
        (part.name, f"{before} → {after}", *_paired_cells(found))
        for part in parts
        for before, after in _PAIRS
        if (found := part.paired(before, after)).questions
    ]
    return Table(
        title="Question by question",
        columns=("exam", "change", *_PAIRED),
        rows=tuple(rows),
        words=2,
        note="Gained: wrong before and right after. Lost: right before and wrong after."
        if rows
        else "No question was scored in two modes.",
    )


def between_runs(found: Iterable[Pair]) -> Table:
    """The first run against each later one, over the questions that both asked."""
    rows = [
        (pair.exam, pair.mode, " → ".join(pair.labels), *_paired_cells(pair.paired))
        for pair in found
    ]
    return Table(
        title="From run to run",
        columns=("exam", "mode", "change", *_PAIRED),
        rows=tuple(rows),
        words=3,
        note="" if rows else "No question was scored in two runs.",
    )


def retrieval(parts: Sequence[Part]) -> Table:
    """Mean recall of the gold rules."""
    found = list(recall_of(parts))
    budgets = sorted({budget for _, recall in found for budget in recall.at})
    rows = [
        (
            name,
            recall.mode,
            str(recall.questions),
            percent(recall.found),
            percent(recall.sent),
            *(percent(recall.at.get(budget)) for budget in budgets),
        )
        for name, recall in found
    ]
    return Table(
        title="Gold rules found and sent",
        columns=("exam", "mode", "questions", "found", "sent", *map(str, budgets)),
        rows=tuple(rows),
        words=2,
        note="Mean share of the rules that a question was made from: among what search found, in "
        "the prompt, and (the columns headed by a number) within so many tokens of rules."
        if rows
        else "No question names the rules that it was made from.",
    )


def cost(parts: Sequence[Part]) -> Table:
    """Tokens and seconds per question."""
    rows = [
        (part.name, found.mode, *_cost_cells(found))
        for part in parts
        for found in costs(part.items)
    ]
    return Table(
        title="Tokens and seconds per question",
        columns=("exam", "mode", "tokens read", "of rules", "written", "seconds", "of the model"),
        rows=tuple(rows),
        words=2,
        note=" ".join((_COST_NOTE, *_overheads(parts))),
    )


def not_scored(parts: Sequence[Part]) -> Table:
    """Answers without a letter, by reason."""
    rows = [
        (part.name, score.mode, reason, str(count))
        for part in parts
        for score in part.scores.values()
        for reason, count in _reasons(score)
    ]
    return Table(
        title="Not scored",
        columns=("exam", "mode", "reason", "answers"),
        rows=tuple(rows),
        words=3,
        note="" if rows else "Every answer was scored.",
    )


def not_asked(parts: Sequence[Part]) -> Table:
    """Lines of the exam files that were left out, and questions retired since a rule changed."""
    rows = [row for part in parts for row in _not_asked(part)]
    note = "" if rows else "No line was left out, and no question is retired."
    return Table(
        title="Not asked",
        columns=("exam", "where", "question", "why"),
        rows=tuple(rows[:_LINES]),
        words=4,
        note=f"{len(rows) - _LINES} more are not shown." if len(rows) > _LINES else note,
    )


def by_kind(parts: Sequence[Part]) -> Table:
    """Accuracy by the questions' kind."""
    rows = []
    for part in parts:
        kinds: dict[str, dict[Mode, Score]] = {}
        for score in scores_by_kind(part.items):
            kinds.setdefault(score.kind, {})[score.mode] = score
        rows += [
            (part.name, kind, *(_accuracy(found.get(mode)) for mode in MODES))
            for kind, found in sorted(kinds.items())
        ]
    return Table(
        title="By kind of question", columns=("exam", "kind", *MODES), rows=tuple(rows), words=2
    )


def letter_table(parts: Sequence[Part]) -> Table:
    """Right and chosen letters."""
    rows = []
    for part in parts:
        for found in letters(part.items):
            always = f"always {found.majority}: {percent(found.majority_share)}"
            rows.append((part.name, "right", _spelt(found.right), always))
            rows += [
                (part.name, mode, _spelt(counts), _favourite(counts))
                for mode, counts in found.chosen.items()
            ]
    return Table(
        title="Letters",
        columns=("exam", "mode", "how often each", "most frequent"),
        rows=tuple(rows),
        words=4,
        note="What always giving the most frequent right letter would score, and how far a model "
        "leans to one letter.",
    )


def better(found: Iterable[Pair], limit: int) -> Table:
    """The questions first wrong, then right: some of each pair, and the ids of the rest."""
    rows, rest = [], []
    for pair in found:
        rows += [_better_row(pair.name, change) for change in pair.better[:limit]]
        if more := pair.better[limit:]:
            rest.append(f"{pair.name}, not shown: {ids_of(more)}.")
    return Table(
        title="What got better",
        columns=("exam", "question", "letter", "rules sent", "begins"),
        rows=tuple(rows),
        words=5,
        note=" ".join(rest) if rows else "No question did.",
    )


def recall_of(parts: Sequence[Part]) -> Iterator[tuple[str, Recall]]:
    """Recalls with the name under which they are shown."""
    for part in parts:
        for recall in recalls(part.items):
            yield part.name, recall


def reading(found: Paired) -> str:
    """A gain in words."""
    difference, interval = found.difference, found.interval
    if difference is None or interval is None:
        return "nothing was scored in both modes"
    clear = "better with the rules" if difference > 0 else "worse with the rules"
    if found.p >= SIGNIFICANT:
        clear = "no clear difference" if interval.low <= 0 <= interval.high else f"perhaps {clear}"
    return (
        f"{points(difference)} points over {found.questions} questions "
        f"({points(interval.low)} to {points(interval.high)}, {p_value(found.p)}): {clear}"
    )


_COST_NOTE = (
    "Median; in brackets mean and ninetieth percentile. Tokens and seconds are the sum over all "
    "orders of the options in which a question was asked."
)
_PAIRS: tuple[tuple[Mode, Mode], ...] = (
    ("base", "comity"),
    ("base", "oracle"),
    ("oracle", "comity"),
)
_PAIRED = ("questions", "both right", "gained", "lost", "both wrong", "points", "95 %", "p")


def _paired_cells(found: Paired) -> tuple[str, ...]:
    counts = (found.questions, found.both_right, found.gained, found.lost, found.both_wrong)
    if found.difference is None or found.interval is None:
        return (*map(str, counts), NONE, NONE, NONE)
    return (
        *map(str, counts),
        points(found.difference),
        f"{points(found.interval.low)} to {points(found.interval.high)}",
        p_value(found.p).removeprefix("p ").removeprefix("= "),
    )


def _memory(plan: Plan) -> str:
    if not plan.memory:
        return NONE
    revision = f"revision {plan.revision}" if plan.revision is not None else ""
    parts = (_PASSWORD.sub(r"\1:…@", plan.memory), revision, plan.embedder)
    return "\n".join(filter(None, parts))


def _options(plan: Plan) -> Iterator[tuple[str, object]]:
    yield "modes", ", ".join(plan.modes)
    if plan.place:
        yield "place", plan.place
    yield from plan.options.items()
    if plan.version:
        yield "Comity", plan.version


def _not_asked(part: Part) -> Iterator[tuple[str, ...]]:
    for line in part.taken.left_out:
        yield part.name, f"line {line.line}", line.question, f"left out: {line.reason}"
    for question, why in part.taken.retired.items():
        yield part.name, NONE, question, f"retired: {why}"


def _progress(part: Part) -> str:
    done = {mode: len(of(part.items, part.exam, mode)) for mode in part.sheet.plan.modes}
    planned = len(part.taken.questions)
    if set(done.values()) == {planned}:
        return f"{planned} of {planned}"
    counted = ", ".join(f"{mode} {count}" for mode, count in done.items())
    return ("" if part.finished else "unfinished: ") + f"{counted}, of {planned}"


def _accuracy(score: Score | None) -> str:
    if score is None:
        return NONE
    if score.accuracy is None or score.interval is None:
        return f"nothing scored\n0 of {score.asked}"
    low, high = 100 * score.interval.low, 100 * score.interval.high
    counted = f"{score.right} of {score.scored}"
    missing = score.asked - score.scored
    skipped = f"\n{missing} not scored" if missing else ""
    return f"{percent(score.accuracy)}\n({low:.1f} to {high:.1f})\n{counted}{skipped}"


def _gain(found: Paired, *, p: bool = True) -> str:
    if found.difference is None or found.interval is None:
        return NONE
    ends = f"({points(found.interval.low)} to {points(found.interval.high)})"
    return f"{points(found.difference)}\n{ends}" + (f"\n{p_value(found.p)}" if p else "")


def _cost_cells(found: Cost) -> tuple[str, ...]:
    return (
        *(_spread(spread, 0) for spread in (found.read, found.rules, found.written)),
        *(_spread(spread, 2) for spread in (found.seconds, found.model_seconds)),
    )


def _spread(found: Spread | None, digits: int) -> str:
    if found is None:
        return NONE
    return f"{found.median:.{digits}f}\n({found.mean:.{digits}f}, {found.p90:.{digits}f})"


def _overheads(parts: Sequence[Part]) -> Iterator[str]:
    sheets = {part.sheet.label: part.sheet for part in parts}
    for label, sheet in sheets.items():
        share = overhead_share(sheet.items)
        if share is not None:
            name = f" of {label}" if len(sheets) > 1 else ""
            yield f"The harness{name} took {100 * share:.2f} % of the model's time besides."


def _reasons(score: Score) -> list[tuple[str, int]]:
    reasons = list(score.not_scored.items())
    rest = reasons[_REASONS:]
    if rest:
        told = (f"{len(rest)} other reasons", sum(count for _, count in rest))
        return [*reasons[:_REASONS], told]
    return reasons


def _spelt(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{letter} {count}" for letter, count in counts.items())


def _favourite(counts: Mapping[str, int]) -> str:
    letter = max(counts, key=lambda each: counts[each])
    share = counts[letter] / sum(counts.values())
    return f"{letter} and no other" if len(counts) == 1 else f"{letter}: {percent(share)}"


def _better_row(name: str, change: Change) -> tuple[str, ...]:
    before, after = change.before, change.after
    letters = f"{before.letter} → {after.letter}"
    return name, after.question, letters, names_of(after.sent), shortened(question_of(before.asked))
