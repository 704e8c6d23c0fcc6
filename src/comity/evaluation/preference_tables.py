"""The tables of a preference exam's report, as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean

from comity.evaluation.preference_labelled import Labels
from comity.evaluation.preference_labels import agreement
from comity.evaluation.preference_runs import PreferenceItem, PreferenceMode, PreferencePlan
from comity.evaluation.preference_score import (
    Broken,
    Flips,
    Follow,
    Gain,
    Grouping,
    asked_in,
    broken,
    flips,
    follow,
    follow_in,
    gain,
    groups,
    judge_checks,
    leanings,
    rule_change,
    without_priority,
)
from comity.evaluation.report_text import NONE, Table, p_value, percent, points
from comity.evaluation.score import Interval

Items = Sequence[PreferenceItem]

COMPARED: tuple[PreferenceMode, ...] = ("plain", "none")
"""With what each mode is compared."""


def followed(items: Items) -> Table:
    """How often wishes were followed in each mode, flips, and gains."""
    flipped = {one.mode: one for one in flips(items)}
    rows = [
        (
            one.mode,
            _share(one.share, one.interval, f"{one.followed} of {one.decided}"),
            percent(one.share_of_asked),
            _undecided(one),
            _flips(flipped[one.mode]),
            _plain_beside(items, one.mode),
            *(NONE if mode == one.mode else told(gain(items, mode, one.mode)) for mode in COMPARED),
        )
        for one in follow(items)
    ]
    return Table(
        title="Wishes followed",
        columns=(
            "mode",
            "followed",
            "of all asked",
            "not decided",
            "flipped",
            "plain, of the same",
            *(f"gain over {mode}" for mode in COMPARED),
        ),
        rows=tuple(rows),
        note="Followed: share of the decided verdicts, with Wilson's 95 % interval; of all asked: "
        "what is not decided counts as not followed. Flipped: share of the questions of which "
        "every wish was followed, first of those decided under every wish, then of all asked. "
        "Plain, of the same: followed in plain of the very questions that the mode was asked. "
        "Gains in percentage points over the wishes decided in both modes, with a 95 % interval "
        "from a bootstrap over questions; p is McNemar's, exact."
        if rows
        else "No question was asked yet.",
    )


def by_group(items: Items) -> Table:
    """The same, by family, by whether the wish was said, and by who decides."""
    told_apart: tuple[tuple[Grouping, str], ...] = (
        ("decided_by", "decided by"),
        ("family", "family"),
        ("explicit", "wish"),
    )
    rows = [
        (
            f"{name}: {group}",
            one.mode,
            _share(one.share, one.interval, f"{one.followed} of {one.decided}"),
            _undecided(one),
            NONE if one.mode == "plain" else told(gain(some, "plain", one.mode)),
        )
        for by, name in told_apart
        for group, some in groups(items, by).items()
        for one in follow(some, group)
    ]
    return Table(
        title="By kind of wish",
        columns=("wishes", "mode", "followed", "not decided", "gain over plain"),
        rows=tuple(rows),
        words=2,
        note="Groups are small: see the intervals, which hold for each figure alone.",
    )


def other_counts(items: Items) -> Table:
    """The gain over plain, counted in other ways: what a reader may doubt of the first."""
    ways: tuple[tuple[str, Callable[[PreferenceMode], Gain]], ...] = (
        ("decided by code alone", lambda mode: gain(_by_code(items), "plain", mode)),
        ("undecided as not followed", lambda mode: of_all_asked(items, mode)),
        ("without family priority", lambda mode: gain(without_priority(items), "plain", mode)),
    )
    modes = [one.mode for one in follow(items) if one.mode not in COMPARED]
    rows = [(mode, way, told(count(mode))) for mode in modes for way, count in ways]
    return Table(
        title="The gain over plain, counted otherwise",
        columns=("mode", "wishes", "gain over plain"),
        rows=tuple(rows),
        words=2,
        note="By code alone: no judge and no label has a say. In family priority a matrix tells "
        "whether provider or user is followed, and plain never sees it."
        if rows
        else "No mode was put beside plain.",
    )


def of_all_asked(items: Items, mode: PreferenceMode) -> Gain:
    """The gain over plain where what is not decided counts as not followed."""
    return gain(items, "plain", mode, undecided="not followed")


def _by_code(items: Items) -> Items:
    return groups(items, "decided_by").get("code", ())


def rules(items: Items) -> Table:
    """How often a rule was broken, without the wish and with it."""
    rows = [_rule_row(items, one) for one in broken(items)]
    return Table(
        title="Rules broken",
        columns=("mode", "broken", "rule in force", "change", "newly broken", "no longer broken"),
        rows=tuple(rows),
        note="`none` is the same question under the same rules without the wish. Change in "
        "percentage points, over the same cases, with Agresti and Min's 95 % interval; code "
        "decides whether an answer breaks the rule. So few cases prove no absence of harm: the "
        "upper end of the interval is what they leave possible."
        if rows
        else "No rule case was asked.",
    )


def judge_table(items: Items) -> Table:
    """Whether the judge looks at the texts or at their places."""
    found = judge_checks(items)
    row = (
        str(found.verdicts),
        percent(found.consistency),
        str(found.first_twice),
        str(found.second_twice),
        str(found.failed),
    )
    return Table(
        title="The judge",
        columns=("verdicts", "same in both orders", "first twice", "second twice", "failed"),
        rows=(row,),
        words=0,
        note="Each answer is judged in both orders of the two wishes. First twice: what stood "
        "first was chosen both times, whatever it was; such verdicts decide nothing.",
    )


def label_table(judged: Items, labels: Labels) -> Table:
    """How far code, and the judge in whose place they stand, agree with labels."""
    rows = [
        (
            who,
            str(found.labelled),
            str(found.neither),
            str(found.decided),
            _share(found.share, found.interval, f"{found.agreed} of {found.decided}"),
        )
        for who, found in agreement(judged, labels.labelled).items()
        if found.labelled or found.neither
    ]
    return Table(
        title=f"Agreement with the {labels.whose}",
        columns=("verdicts of", "wish or opposite", "neither", "decided by both", "the same"),
        rows=tuple(rows),
        note="Answers by their label, then those that were also decided by code or by the judge, "
        "in whose place the labels stand; the same: of those decided by both, with Wilson's 95 % "
        "interval."
        if rows
        else f"The {labels.whose} are of no answer here.",
    )


def leaning_table(items: Items) -> Table:
    """The judge's probabilities."""
    rows = [
        (
            one.mode,
            str(one.answers),
            percent(one.share),
            NONE if one.gain is None else points(one.gain),
            NONE
            if one.interval is None
            else f"{points(one.interval.low)} to {points(one.interval.high)}",
        )
        for one in leanings(items)
    ]
    return Table(
        title="How far the judge leans to the wish",
        columns=("mode", "answers", "mean probability", "points over plain", "95 %"),
        rows=tuple(rows),
        note="The judge's probability that the answer was written for the wish, from the mean "
        "log-odds of both orders: a liking for a place cancels out, and verdicts that turn with "
        "the order count by how far they lean. Points over plain: wish by wish, with a bootstrap "
        "over questions."
        if rows
        else "The judge told no probabilities.",
    )


def cost(items: Items) -> Table:
    """Tokens and seconds of an answer, by mode."""
    modes = dict.fromkeys((item.part, item.mode) for item in items)
    rows = [
        (("wishes" if part == "wish" else "rules"), mode, *_cost(some))
        for part, mode in modes
        if (
            some := [
                item for item in items if (item.part, item.mode) == (part, mode) and not item.reused
            ]
        )
    ]
    return Table(
        title="Tokens and seconds per answer",
        columns=("part", "mode", "answers", "tokens read", "written", "seconds", "of the judge"),
        rows=tuple(rows),
        words=2,
        note="Means. Tokens are those of the answer's own calls, as the model counts them.",
    )


def refused(items: Items) -> Table:
    """Wishes that gave way or were refused, and why."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for item in items:
        for one in item.preferences:
            if one.outcome != "kept":
                key = (item.question, one.preference.text, one.outcome, one.reason)
                counts[key] = counts.get(key, 0) + 1
    rows = [(*key, str(count)) for key, count in sorted(counts.items())]
    return Table(
        title="Wishes left out",
        columns=("question", "wish", "outcome", "why", "answers"),
        rows=tuple(rows),
        words=4,
        note="" if rows else "No wish gave way or was refused.",
    )


def what_was_run(plan: PreferencePlan, name: str, labels: Labels | None = None) -> Table:
    """What decided the answers, and whose labels the verdicts where there are any."""
    told = {
        "run": name,
        "model": plan.model,
        "judge": plan.judge,
        "in place of the judge": labels.whose if labels else "",
        "adapter": plan.adapter,
        "modes": ", ".join(plan.modes),
        "questions": f"{len(plan.questions)} (SHA-256 of all {plan.cases_sha256[:12]})",
        "rule cases": f"{len(plan.rule_cases)} (SHA-256 of all {plan.rule_cases_sha256[:12]})",
        "in refined and contrast": f"{len(plan.dear)} of both",
        "memory": f"revision {plan.revision}",
        "judge's prompts": ", ".join(plan.prompts),
        "seed": str(plan.seed),
        "started": f"{plan.started:%Y-%m-%d %H:%M} UTC",
        "Comity": plan.version,
        **{name: str(value) for name, value in plan.options.items()},
    }
    rows = tuple((name, value) for name, value in told.items() if value)
    return Table(title="What was run", columns=("what", "value"), rows=rows, words=2)


def told(found: Gain) -> str:
    """A gain with its interval and p, each on a line."""
    if found.difference is None or found.interval is None:
        return NONE
    ends = f"({points(found.interval.low)} to {points(found.interval.high)})"
    counted = f"{found.cells.gained} gained, {found.cells.lost} lost of {found.cells.questions}"
    return f"{points(found.difference)}\n{ends}\n{counted}\n{p_value(found.cells.p)}"


def changed(items: Iterable[PreferenceItem], mode: PreferenceMode) -> tuple[list[str], list[str]]:
    """Ids of the rule cases broken only with the wish, and only without it."""
    some = [item for item in items if item.part == "rule"]
    before = {item.question: item.broken for item in some if item.mode == "none"}
    after = {item.question: item.broken for item in some if item.mode == mode}
    pairs = [(name, before.get(name), now) for name, now in after.items()]
    newly = [name for name, was, now in pairs if was is False and now]
    no_longer = [name for name, was, now in pairs if was and now is False]
    return newly, no_longer


def _rule_row(items: Items, one: Broken) -> tuple[str, ...]:
    share = _share(one.share, one.interval, f"{one.broken} of {one.scored}")
    in_force = f"{one.in_force} of {one.asked}"
    if one.mode == "none":
        return (one.mode, share, in_force, NONE, NONE, NONE)
    newly, no_longer = changed(items, one.mode)
    names = (", ".join(some) or NONE for some in (newly, no_longer))
    return (one.mode, share, in_force, told(rule_change(items, one.mode)), *names)


def _share(share: float | None, interval: Interval | None, counted: str) -> str:
    if share is None or interval is None:
        return "nothing decided"
    return f"{percent(share)}\n({100 * interval.low:.1f} to {100 * interval.high:.1f})\n{counted}"


def _undecided(one: Follow) -> str:
    return f"{one.turned} turned\n{one.failed} failed\nof {one.asked}"


def _flips(one: Flips) -> str:
    decided = _share(one.rate, one.interval, f"{one.flipped} of {one.questions}")
    return f"{decided}\n{percent(one.rate_of_asked)} of {one.asked} asked"


def _plain_beside(items: Items, mode: PreferenceMode) -> str:
    plain = follow_in(asked_in(items, mode), "plain")
    if mode in COMPARED or plain is None:
        return NONE
    return _share(plain.share, plain.interval, f"{plain.followed} of {plain.decided}")


def _cost(items: Items) -> Iterator[str]:
    yield str(len(items))
    yield f"{fmean(item.usage.prompt_tokens for item in items):.0f}"
    yield f"{fmean(item.usage.completion_tokens for item in items):.0f}"
    for name in ("answer", "judge"):
        known = [item.seconds[name] for item in items if name in item.seconds]
        yield f"{fmean(known):.1f}" if known else NONE
