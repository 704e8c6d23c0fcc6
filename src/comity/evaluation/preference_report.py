"""The report on a preference exam: the page of the other exams, with its own tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from comity.evaluation import preference_tables as tables
from comity.evaluation.pictures import Gain as Drawn
from comity.evaluation.pictures import gain_picture
from comity.evaluation.preference_runs import PreferenceItem, PreferenceRun
from comity.evaluation.preference_score import follow, gain, judge_checks, rule_change
from comity.evaluation.report import SHOWN, Picture, Report, as_markdown, page
from comity.evaluation.report_cases import Case, Cases, shortened
from comity.evaluation.report_text import points

FAVOURED = 0.25
"""Share of the verdicts from which a judge that chooses one place twice is warned of."""

_METHOD = (
    "A wish is followed where code finds what it asks for, or, where code cannot tell, where a "
    "judge says in both orders of the two that the answer was written for it and not for its "
    "opposite. A verdict that changes with the order decides nothing. Shares have Wilson's "
    "interval. Two modes are compared over the wishes decided in both: the interval of the "
    "difference is a bootstrap's that draws whole questions, since the wishes of a question pull "
    "against one another; p is that of McNemar's test, exact and two-sided. Intervals hold for "
    "each figure alone, not for all of them together."
)


def preference_report(run: PreferenceRun) -> Report:
    """The report on a run. Raises `ExamError` for one that cannot be read, `MissingExtra` without
    the extra `exams`."""
    items = tuple(run.latest().values())
    name = run.folder.resolve().name
    html = page(
        title=f"Preference exam: {name}",
        notes=tuple(notes(items, run)),
        results=tables.followed(items),
        pictures=tuple(_pictures(items)),
        details=(
            tables.by_group(items),
            tables.rules(items),
            tables.judge_table(items),
            tables.leaning_table(items),
            tables.refused(items),
            tables.cost(items),
        ),
        worse=tuple(_worse(items)),
        origin=(tables.what_was_run(run.plan, name),),
        method=_METHOD,
        worse_note="No wish was followed in a simpler mode and not in a later one, and no rule "
        "was broken with a wish only.",
    )
    return Report(html=html, markdown=preference_markdown(run))


def preference_markdown(run: PreferenceRun) -> str:
    """The tables of a run as Markdown, with short notes. Raises `ExamError`."""
    items = tuple(run.latest().values())
    shown = (tables.followed(items), tables.by_group(items), tables.rules(items))
    judge = (tables.judge_table(items), tables.leaning_table(items))
    return as_markdown((*shown, *judge), tuple(notes(items, run)))


def notes(items: Sequence[PreferenceItem], run: PreferenceRun) -> Iterator[str]:
    """What a reader has to know before the figures, a sentence each."""
    for one in follow(items):
        if one.share is None:
            yield f"{one.mode}: nothing was decided of {one.asked} answers."
        if one.mode in ("none", "plain"):
            continue
        found = gain(items, "plain", one.mode)
        if found.difference is not None and found.interval is not None:
            clear = found.interval.low > 0 or found.interval.high < 0
            yield (
                f"{one.mode} follows wishes {points(found.difference)} points more often than "
                f"plain ({points(found.interval.low)} to {points(found.interval.high)}, "
                f"{found.cells.questions} wishes){'' if clear else ': no clear difference'}."
            )
        change = rule_change(items, one.mode)
        if change.difference is not None:
            yield (
                f"{one.mode} breaks rules {points(change.difference)} points more often than "
                "without the wishes."
            )
    yield from _judge_notes(items)
    expected = set(run.plan.modes)
    if expected - {item.mode for item in items}:
        yield "The run is not finished; continue it with --resume."


def _judge_notes(items: Sequence[PreferenceItem]) -> Iterator[str]:
    found = judge_checks(items)
    if found.failed:
        yield f"The judge gave no verdict on {found.failed} answers, which decide nothing."
    if found.consistency is None:
        return
    yield (
        f"The judge gave the same verdict in both orders in {100 * found.consistency:.1f} % of "
        f"{found.verdicts} answers."
    )
    for count, place in ((found.first_twice, "first"), (found.second_twice, "second")):
        if count >= FAVOURED * found.verdicts:
            yield (
                f"The judge chose what stood {place}, whatever it was, in {count} of "
                f"{found.verdicts} answers: what it decides stands on few answers; take another "
                "--judge."
            )


def _pictures(items: Sequence[PreferenceItem]) -> Iterator[Picture]:
    gains = []
    for one in follow(items):
        found = gain(items, "plain", one.mode)
        if one.mode != "plain" and found.difference is not None and found.interval is not None:
            drawn = Drawn(name=one.mode, difference=found.difference, interval=found.interval)
            gains.append(drawn)
    if gains:
        yield Picture(
            caption="Wishes followed more often than under the plain system prompt, in percentage "
            "points, with 95 % intervals. An interval that holds 0 shows no clear difference.",
            svg=gain_picture(gains, "Gain over the plain prompt by mode, with 95 % intervals"),
        )


def _worse(items: Sequence[PreferenceItem]) -> Iterator[Cases]:
    """Wishes followed in `plain` and not in a later mode, and rules broken only with a wish."""
    before = {
        (item.part, item.question, item.number): item
        for item in items
        if item.mode == ("plain" if item.part == "wish" else "none")
    }
    for mode in dict.fromkeys(item.mode for item in items):
        lost = [
            (earlier, item)
            for item in items
            if item.mode == mode
            and (earlier := before.get((item.part, item.question, item.number)))
            if _got_worse(earlier, item)
        ]
        if lost:
            rest = ", ".join(item.question for _, item in lost[SHOWN:])
            cases = tuple(_case(earlier, item) for earlier, item in lost[:SHOWN])
            yield Cases(name=mode, cases=cases, rest=rest)


def _got_worse(before: PreferenceItem, after: PreferenceItem) -> bool:
    if after.part == "rule":
        return before.broken is False and after.broken is True
    return before.follows is True and after.follows is False


def _case(before: PreferenceItem, item: PreferenceItem) -> Case:
    why = item.broken_why or "; ".join(item.followed.reasons if item.followed else ())
    question = item.asked[-1][-1].content if item.asked and item.asked[-1] else ""
    return Case(
        title=f"{item.mode}, {item.question}, wish {item.number + 1}",
        letters="rule broken" if item.part == "rule" else "not followed",
        question=question,
        facts=tuple(
            (name, text)
            for name, text in (
                (f"answer in {before.mode}", before.text),
                ("why", why or "the judge's verdict, in both orders"),
                ("wishes", "\n".join(_weighed(item))),
            )
            if text
        ),
        prompt="\n\n".join(f"{turn.role}: {turn.content}" for turn in item.asked[-1])
        if item.asked
        else "",
        said=item.text,
    )


def _weighed(item: PreferenceItem) -> Iterator[str]:
    for one in item.preferences:
        reason = f" ({one.reason})" if one.reason else ""
        yield f"{one.outcome}{reason}: {shortened(one.preference.text)}"
