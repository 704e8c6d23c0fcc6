"""The questions that got worse, with what led to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import exp

from pydantic import Field

from comity.evaluation.ask import exam_words
from comity.evaluation.report_parts import Pair
from comity.evaluation.runs import Item
from comity.evaluation.score import Change
from comity.records import VERBATIM, Message, Record, RuleRef

_BEGINNING = 140  # characters of a long text in a list


class Case(Record):
    """A question that got worse, with everything that led to it."""

    model_config = VERBATIM

    title: str = Field(description="Exam, question and run.")
    letters: str = Field(description="Right letter, and those given.")
    question: str = Field(description="As it was put, without the rules.")
    facts: tuple[tuple[str, str], ...] = Field(description="Name and lines of what was ruled.")
    prompt: str = Field(description="What the model was sent when it was wrong.")
    said: str = Field("", description="What the model wrote, where that is more than a letter.")


class Cases(Record):
    """The questions of an exam that got worse."""

    name: str = Field(description="Name of the exam, and what is compared.")
    cases: tuple[Case, ...] = Field(description="The first of them.")
    rest: str = Field("", description="Ids of the others.")


def worse(pairs: Iterable[Pair], limit: int) -> list[Cases]:
    """The questions first right, then wrong: some of each pair, and the ids of the rest."""
    return [
        Cases(
            name=pair.name,
            cases=tuple(_case(pair, change) for change in pair.worse[:limit]),
            rest=ids_of(pair.worse[limit:]),
        )
        for pair in pairs
        if pair.worse
    ]


def ids_of(changes: Iterable[Change]) -> str:
    """The questions that changed, by id."""
    return ", ".join(change.after.question for change in changes)


def question_of(asked: Sequence[Message]) -> str:
    """The question in a prompt: what the user said last, after the rules if there are any."""
    said = next((m.content for m in reversed(asked) if m.role == "user"), "")
    for language in ("en", "zh"):
        said = said.rpartition(f"{exam_words(language)['by_rules']}\n")[2]
    return said


def _name(ref: RuleRef) -> str:
    return f"{ref.id}@{ref.version}"


def names_of(refs: Iterable[RuleRef]) -> str:
    """Rules by id and version."""
    return ", ".join(map(_name, refs))


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _BEGINNING else line[: _BEGINNING - 1] + "…"


def _case(pair: Pair, change: Change) -> Case:
    before, after = change.before, change.after
    first, second = pair.labels
    facts = {
        "Rules sent before": names_of(before.sent),
        "Rules sent": names_of(after.sent),
        "Gold rules": "\n".join(_gold(after)),
        "Ruling": names_of(after.kept),
        "Overruled": "\n".join(
            f"{_name(ref)} gave way to {ref.winner} ({ref.reason})" for ref in after.overruled
        ),
        "Left out for want of room": names_of(after.left_out),
        "Scope": _scope(after),
        "Chances": _chances({first: before, second: after}),
    }
    said = after.text.strip()
    return Case(
        title=f"{pair.name}: {before.question}",
        letters=f"right {before.answer}, {first} {before.letter}, {second} {after.letter}",
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


def _chances(items: Mapping[str, Item]) -> str:
    lines = []
    for name, item in items.items():
        if item.logprobs:
            told = (f"{letter} {100 * exp(p):.0f} %" for letter, p in sorted(item.logprobs.items()))
            lines.append(f"{name}: {', '.join(told)}")
    return "\n".join(lines)
