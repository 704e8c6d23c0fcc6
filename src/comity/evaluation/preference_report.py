"""The report on a preference exam: the page of the other exams, with its own tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from comity.evaluation import preference_tables as tables
from comity.evaluation.pictures import Gain as Drawn
from comity.evaluation.pictures import gain_picture
from comity.evaluation.preference_exam import jobs
from comity.evaluation.preference_labelled import Labels, with_labels
from comity.evaluation.preference_runs import PreferenceItem, PreferenceRun
from comity.evaluation.preference_score import Gain, follow, gain, groups, judge_checks, rule_change
from comity.evaluation.preference_verdicts import cases_of, scored_items
from comity.evaluation.report import SHOWN, Picture, Report, as_markdown, page
from comity.evaluation.report_cases import Case, Cases, shortened
from comity.evaluation.report_text import Table, points
from comity.evaluation.score import Interval

FAVOURED = 0.25
"""Share of the verdicts from which a judge that chooses one place twice is warned of."""

_BY_JUDGE = (
    "A wish is followed where code finds what it asks for, or, where code cannot tell, where a "
    "judge says in both orders of the two that the answer was written for it and not for its "
    "opposite. A verdict that changes with the order decides nothing."
)

_BY_LABEL = (
    "A wish is followed where code finds what it asks for, or, where code cannot tell, where the "
    "{whose}, given to texts that tell neither mode nor verdict, say so. `neither` counts as not "
    "followed; an answer without a label decides nothing, and what the judge said counts nowhere "
    "but in its own tables."
)

_COMPARED = (
    " Shares have Wilson's interval. Two modes are compared over the wishes decided in both: the "
    "interval of the difference is a bootstrap's that draws whole questions, since the wishes of a "
    "question pull against one another; of rule cases it is Agresti and Min's; p is that of "
    "McNemar's test, exact and two-sided. Intervals hold for each figure alone, not for all of "
    "them together."
)


def preference_report(run: PreferenceRun, labels: Labels | None = None) -> Report:
    """The report on a run, with labels in the place of the judge's verdicts where they are given.

    Raises `ExamError` for a run that cannot be read, `MissingExtra` without the extra `exams`.
    """
    judged = scored_items(run)
    items = with_labels(judged, labels) if labels else judged
    by = _BY_LABEL.format(whose=labels.whose) if labels else _BY_JUDGE
    name = run.folder.resolve().name
    html = page(
        title=f"Preference exam: {name}",
        notes=tuple(notes(items, run, labels)),
        results=tables.followed(items),
        pictures=tuple(_pictures(items)),
        details=(
            *_details(items, judged, labels),
            tables.refused(items),
            tables.cost(items),
        ),
        worse=tuple(_worse(items)),
        origin=(tables.what_was_run(run.plan, name, labels),),
        method=by + _COMPARED,
        worse_note="No wish was followed in a simpler mode and not in a later one, and no rule "
        "was broken with a wish only.",
    )
    return Report(html=html, markdown=preference_markdown(run, labels))


def preference_markdown(run: PreferenceRun, labels: Labels | None = None) -> str:
    """The tables of a run as Markdown, with short notes. Raises `ExamError`."""
    judged = scored_items(run)
    items = with_labels(judged, labels) if labels else judged
    shown = (tables.followed(items), *_details(items, judged, labels))
    return as_markdown(shown, tuple(notes(items, run, labels)))


def _details(
    items: Sequence[PreferenceItem], judged: Sequence[PreferenceItem], labels: Labels | None
) -> Iterator[Table]:
    yield tables.other_counts(items)
    yield tables.by_group(items)
    yield tables.rules(items)
    if labels:
        yield tables.label_table(judged, labels)
    yield tables.judge_table(judged)
    yield tables.leaning_table(judged)


def notes(
    items: Sequence[PreferenceItem], run: PreferenceRun, labels: Labels | None = None
) -> Iterator[str]:
    """What a reader has to know before the figures, a sentence each."""
    if labels:
        yield from _label_notes(items, labels)
    for one in follow(items):
        if one.share is None:
            yield f"{one.mode}: nothing was decided of {one.asked} answers."
        if one.mode in ("none", "plain"):
            continue
        by_code = groups(items, "decided_by").get("code", ())
        yield from _gain_note(one.mode, gain(by_code, "plain", one.mode), " that code decides")
        yield from _gain_note(one.mode, gain(items, "plain", one.mode), "")
        yield from _rules_note(one.mode, rule_change(items, one.mode))
    yield from _judge_notes(items)
    if missing := _missing(items, run):
        yield f"The run is not finished: {missing} answers are missing; continue with --resume."


def _gain_note(mode: str, found: Gain, which: str) -> Iterator[str]:
    if found.difference is None or found.interval is None:
        return
    clear = found.interval.low > 0 or found.interval.high < 0
    yield (
        f"{mode} follows wishes{which} {_more(found.difference)} plain ({_ends(found.interval)}, "
        f"{found.cells.questions} wishes){'' if clear else ': no clear difference'}."
    )


def _rules_note(mode: str, change: Gain) -> Iterator[str]:
    """What wishes do to rules; where nothing got worse, only how much harm is still possible."""
    if change.difference is None or change.interval is None:
        return
    cases, ends = f"{change.cells.questions} cases", _ends(change.interval)
    if change.difference <= 0:
        yield (
            f"{mode} breaks no more rules than without the wishes ({ends} points, "
            f"{cases}): so few leave up to {points(change.interval.high)} points possible."
        )
        return
    clear = "" if change.interval.low > 0 else ": no clear difference"
    yield (
        f"{mode} breaks rules {points(change.difference)} points more often than without the "
        f"wishes ({ends}, {cases}){clear}."
    )


def _more(difference: float) -> str:
    if not difference:
        return "as often as"
    size = points(abs(difference)).lstrip("+")
    return f"{size} points {'more' if difference > 0 else 'less'} often than"


def _ends(interval: Interval) -> str:
    return f"{points(interval.low)} to {points(interval.high)}"


def _missing(items: Sequence[PreferenceItem], run: PreferenceRun) -> int:
    """How many of the answers that the plan asks for are not there."""
    questions, rule_cases = cases_of(run)
    asked = [one for one in questions if one.id in run.plan.questions]
    ruled = [one for one in rule_cases if one.id in run.plan.rule_cases]
    wanted = jobs(asked, ruled, run.plan.modes, run.plan.dear)
    return len({job.key for job in wanted} - {item.key for item in items})


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


def _label_notes(items: Sequence[PreferenceItem], labels: Labels) -> Iterator[str]:
    left = [one for one in items if one.part == "wish" and one.decided_by == "label"]
    decided = sum(one.follows is not None for one in left)
    yield (
        f"Verdicts where no code decides: {labels.whose}, in the place of the judge's; "
        f"{decided} of {len(left)} such answers have one."
    )
    if labels.strange:
        yield (
            f"Not used: {labels.strange} of the {labels.strange + len(labels.labelled)} labels, "
            "which fit no answer of this run: the answer, the question or a statement is another "
            "now."
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
