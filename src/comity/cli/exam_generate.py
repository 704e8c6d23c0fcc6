"""`comity exam generate`: exams made from rules."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from comity.cli.exam_summary import say_summary, summary
from comity.cli.output import note, progress_bar, say_json
from comity.cli.session import Session, pass_session, settings_options
from comity.cli.values import json_option

if TYPE_CHECKING:
    from comity.evaluation.exams import Question
    from comity.evaluation.gather import Wanted
    from comity.evaluation.settle import Generated, Outcome
    from comity.memory.memory import Memory
    from comity.models.chat import ChatModel

_NAMED = 10  # known domains, places and audiences in a message
_LONGEST = 160  # characters of a reason on stderr; all of it is in the file


class KindsType(click.ParamType["tuple[str, ...]"]):
    """`scenario,concept,boundary,precedence`, or some of them."""

    name = "kinds"

    def convert(
        self,
        value: str | tuple[str, ...],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, ...]:
        """The kinds in a list with commas, in their usual order."""
        from comity.evaluation.from_rules import KINDS

        if isinstance(value, tuple):
            return value
        named = {part.strip() for part in value.split(",") if part.strip()}
        if not named or not named <= set(KINDS):
            self.fail(f"{value!r}: known are {', '.join(KINDS)}", param, ctx)
        return tuple(kind for kind in KINDS if kind in named)


@click.command("generate")
@click.option(
    "--count",
    type=click.IntRange(1),
    required=True,
    metavar="N",
    help="Drafts that are tried, shared evenly over the kinds; not all of them pass.",
)
@click.option(
    "--kinds",
    type=KindsType(),
    show_default="all",
    help="scenario and concept are written by the model; boundary and precedence need none.",
)
@click.option("--domain", default="", help="Only rules of this domain.")
@click.option("--place", default="", metavar="PLACE", help="Only rules of this place and inside.")
@click.option(
    "--audience", multiple=True, metavar="NAME", help="Only rules that bind this; repeatable."
)
@click.option(
    "--language",
    type=click.Choice(("en", "zh")),
    help="Of the model's questions, and of the rules that the others ask about.",
)
@click.option(
    "--max-rules",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    metavar="N",
    help="Rules shown to the model for one draft; more take longer.",
)
@click.option("--judge", metavar="MODEL", help="Model that judges, if not the one that writes.")
@click.option(
    "--seeds",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Exam whose questions are the examples, instead of Comity's own.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="EXAM.jsonl",
    help="Where the exam is written.",
)
@json_option
@settings_options("memory", "tenant", "embedder", "model", "base_url", "timeout", "seed")
@pass_session
def generate_command(
    session: Session,
    count: int,
    kinds: tuple[str, ...] | None,
    domain: str,
    place: str,
    audience: tuple[str, ...],
    language: str | None,
    max_rules: int,
    judge: str | None,
    seeds: Path | None,
    out: Path,
    as_json: bool,
) -> None:
    """Make an exam from the rules in force.

    The count is shared evenly over the kinds. There are at most as many precedence questions as
    there are conflicts; boundary questions come in pairs (before and after a date, inside and
    outside a place, for and against an audience) and fill up what precedence leaves of its share.
    Both follow from the rules' dates, places, audiences and ranks, without a model.

    Drafts that do not pass are kept beside the exam, in EXAM.rejected.jsonl, with the reasons.
    A run that is stopped goes on where it was when the same command is given again, and a larger
    count adds to it, as long as the rules stay the same. What somebody has flagged, retired, added
    or removed in the exam stays so, and so does what was mended in a question of the model.
    """
    from comity.evaluation.from_rules import BY_MODEL, KINDS, made, shared
    from comity.evaluation.generate import write_made

    _check_name(out)
    examples = _examples(seeds)
    kinds = kinds or KINDS
    shares = shared(count, kinds)
    with session.open_memory() as memory:
        wanted = _wanted(session, shares, max_rules, domain, place, audience, language)
        _check_matches(memory, wanted, kinds)
        follow = made(memory, wanted, shares)
        if any(kind in BY_MODEL for kind in kinds):
            settled = _written(session, memory, wanted, judge, examples, out, follow)
        else:
            settled = write_made(out, follow, wanted)
        found = summary(memory, wanted, kinds, settled, out)
    say_json(found) if as_json else say_summary(found)


def _check_name(out: Path) -> None:
    from comity.errors import ExamError

    if out.suffix.lower() != ".jsonl":
        raise ExamError(f"{out}: exams are written as JSON Lines; name it {out.stem or out}.jsonl")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExamError(f"{out} cannot be written: {error.strerror}") from error
    if not os.access(out.parent, os.W_OK):
        raise ExamError(f"{out} cannot be written: no permission to write in {out.parent}")


def _examples(seeds: Path | None) -> tuple[Question, ...]:
    """The questions of a file of examples. Raises `ExamError`."""
    from comity.errors import ExamError
    from comity.evaluation.exams import read_exam

    if seeds is None:
        return ()
    questions = read_exam(seeds).active
    short = next((question for question in questions if len(question.options) < 4), None)
    if short is not None:
        raise ExamError(f"{seeds}: question {short.id} has fewer than four options: no example")
    return questions


def _wanted(
    session: Session,
    shares: dict[str, int],
    max_rules: int,
    domain: str,
    place: str,
    audience: tuple[str, ...],
    language: str | None,
) -> Wanted:
    from comity.evaluation.from_rules import BY_MODEL
    from comity.evaluation.gather import Wanted
    from comity.records import WORLD

    by_model = [kind for kind in BY_MODEL if kind in shares]
    return Wanted.model_validate(
        {
            "count": sum(shares[kind] for kind in by_model) or 1,
            "kinds": by_model or BY_MODEL,
            "domain": domain,
            "place": place or WORLD,
            "audience": audience,
            "language": language or "",
            "seed": session.settings.seed or 0,
            "max_rules": max_rules,
            "tenant": session.settings.tenant,
        }
    )


def _check_matches(memory: Memory, wanted: Wanted, kinds: Sequence[str]) -> None:
    """Raises `ExamError` where no rule matches, with the domains and places that are known."""
    from comity.errors import ExamError
    from comity.evaluation.from_rules import BY_MODEL, matching
    from comity.records import Scope

    memory.check_scope(Scope(tenant=wanted.tenant))
    if matching(memory, wanted, spoken=not set(kinds) & set(BY_MODEL)):
        return
    rules = [stored.rule for stored in memory.rules(tenant=wanted.tenant)]
    known = {
        "domains": {rule.domain for rule in rules if rule.domain},
        "places": {rule.place for rule in rules},
        "audiences": {label for rule in rules for label in rule.audience},
    }
    told = "; ".join(f"{what}: {_some(sorted(names))}" for what, names in known.items())
    raise ExamError(f"no rule matches what is asked for; there are {told}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "none") + more


def _written(
    session: Session,
    memory: Memory,
    wanted: Wanted,
    judge: str | None,
    examples: Sequence[Question],
    out: Path,
    follow: Sequence[Outcome],
) -> Generated:
    """Have the model write its drafts, and put all questions into the exam."""
    from comity.evaluation.exams import Rejected
    from comity.evaluation.generate import write_exam_files

    model = session.open_model()
    judging = _judge(session, judge) if judge not in (None, session.settings.model) else None
    with progress_bar("drafts", "drafts") as advance:

        def tell(done: int, of: int, last: Outcome | None) -> None:
            if isinstance(last, Rejected):
                note(f"draft {done}, {last.stage}: {_short(last.reasons[0])}")
            advance(done, of)

        return asyncio.run(
            write_exam_files(
                out,
                memory,
                model,
                wanted,
                judge=judging,
                seeds=examples,
                made=follow,
                progress=tell,
            )
        )


def _judge(session: Session, name: str) -> ChatModel:
    """The judge, which has answered once: a run of hours must not fail for its address."""
    from comity.errors import ModelError, ModelNonsense
    from comity.models.chat import complete, open_model
    from comity.records import Message, Request

    settings = session.settings
    model = open_model(
        name,
        base_url=settings.base_url or None,
        api_key=settings.api_key.get_secret_value() or None,
        timeout=settings.timeout,
    )
    asked = Request(messages=(Message(role="user", content="Say yes."),), max_tokens=4)
    try:
        asyncio.run(complete(model, asked))
    except ModelNonsense:
        pass  # it answers, and that is all that is asked here
    except ModelError as error:
        raise type(error)(f"the judge {name} does not answer: {error}") from error
    return model


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
