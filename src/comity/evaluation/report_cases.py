"""The questions that got worse, with what led to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp

from pydantic import Field

from comity.evaluation.report_parts import Part
from comity.evaluation.runs import Item
from comity.evaluation.score import Change, got_worse
from comity.records import VERBATIM, Message, Record, RuleRef

_BEGINNING = 140  # characters of a long text in a list


class Case(Record):
    """A question that got worse, with everything that led to it."""

    model_config = VERBATIM

    title: str = Field(description="Exam, question and run.")
    letters: str = Field(description="Right letter, and those given.")
    question: str = Field(description="As it was put without rules: stem and options.")
    facts: tuple[tuple[str, str], ...] = Field(description="Name and lines of what was ruled.")
    prompt: str = Field(description="What the model was sent with the rules.")
    said: str = Field("", description="What the model wrote, where that is more than a letter.")


class Cases(Record):
    """The questions of an exam that got worse."""

    exam: str = Field(description="Name of the exam, and of the run where there are several.")
    cases: tuple[Case, ...] = Field(description="The first of them.")
    rest: int = Field(0, ge=0, description="How many more there are.")


def worse(parts: Sequence[Part], limit: int) -> list[Cases]:
    """The questions right without rules and wrong with those of the pipeline: some per exam."""
    groups = []
    for part in parts:
        changes = got_worse(*part.in_modes("base", "comity"))
        if changes:
            cases = tuple(_case(part.name, change) for change in changes[:limit])
            groups.append(Cases(exam=part.name, cases=cases, rest=max(0, len(changes) - limit)))
    return groups


def question_of(asked: Sequence[Message]) -> str:
    """The question in a prompt: what the user said last."""
    return next((m.content for m in reversed(asked) if m.role == "user"), "")


def _name(ref: RuleRef) -> str:
    return f"{ref.id}@{ref.version}"


def names_of(refs: Iterable[RuleRef]) -> str:
    """Rules by id and version."""
    return ", ".join(map(_name, refs))


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _BEGINNING else line[: _BEGINNING - 1] + "…"


def _case(name: str, change: Change) -> Case:
    before, after = change.before, change.after
    facts = {
        "Rules sent": names_of(after.sent),
        "Gold rules": "\n".join(_gold(after)),
        "Ruling": names_of(after.kept),
        "Overruled": "\n".join(
            f"{_name(ref)} gave way to {ref.winner} ({ref.reason})" for ref in after.overruled
        ),
        "Left out for want of room": names_of(after.left_out),
        "Scope": _scope(after),
        "Chances": _chances(before, after),
    }
    said = after.text.strip()
    return Case(
        title=f"{name}: {before.question}",
        letters=f"right {before.answer}, base {before.letter}, comity {after.letter}",
        question=question_of(before.asked),
        facts=tuple((name, told) for name, told in facts.items() if told),
        prompt="\n\n".join(f"[{message.role}]\n{message.content}" for message in after.asked),
        said=said if said != after.letter else "",
    )


def _gold(item: Item) -> Iterator[str]:
    sent, hits = ({_name(ref) for ref in refs} for refs in (item.sent, item.hits))
    for ref in item.gold:
        name = _name(ref)
        where = "sent" if name in sent else "found, not sent" if name in hits else "not found"
        yield f"{name}: {where}"


def _scope(item: Item) -> str:
    if item.scope is None:
        return ""
    place, audience = ", ".join(item.scope.place), ", ".join(item.scope.audience)
    at = f"{item.scope.at:%Y-%m-%d}" if item.scope.at else ""
    return "; ".join(filter(None, (place, audience, at)))


def _chances(before: Item, after: Item) -> str:
    lines = []
    for item in (before, after):
        if item.logprobs:
            told = (f"{letter} {100 * exp(p):.0f} %" for letter, p in sorted(item.logprobs.items()))
            lines.append(f"{item.mode}: {', '.join(told)}")
    return "\n".join(lines)
