"""What is said of provider and user: the options of `ask`, and what became of each wish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from comity.cli.output import note, say, say_table

if TYPE_CHECKING:
    from comity.memory.memory import Memory
    from comity.records import Decision, MetaPrompt, Weighed

_C = TypeVar("_C", bound=Callable[..., Any])
_FILE = "@"
_OUTCOMES = {"kept": "kept", "gives_way": "gives way", "refused": "refused"}


def _text_or_file(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """A text; `@FILE` is what the file holds."""
    if value is None:
        return ""
    if not value.startswith(_FILE):
        text = value
    else:
        try:
            text = Path(value[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(f"{value[1:]}: cannot be read", context, parameter) from error
    if not text.strip():
        raise click.BadParameter("is empty: leave it out", context, parameter)
    return text


def _not_empty(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    if not all(map(str.strip, values)):
        raise click.BadParameter("is empty: leave it out", context, parameter)
    return values


def about_user_options(command: _C) -> _C:
    """Options for what provider and user want."""
    for option in (
        click.option("--user", default="", metavar="NAME", help="Whose stored preferences count."),
        click.option(
            "--prefer",
            metavar="TEXT",
            multiple=True,
            callback=_not_empty,
            help="What the user wants of the answer, as `be brief` or `style: be brief`; "
            "repeatable.",
        ),
        click.option(
            "--user-info",
            metavar="TEXT",
            callback=_text_or_file,
            help="Who the user is and what they prefer; @FILE reads it from a file.",
        ),
        click.option(
            "--system-info",
            metavar="TEXT",
            callback=_text_or_file,
            help="What the provider wants of answers; @FILE reads it from a file.",
        ),
    ):
        command = option(command)
    return command


def meta_of(
    memory: Memory,
    tenant: str,
    system_info: str,
    user_info: str,
    prefer: Sequence[str],
    user: str,
) -> MetaPrompt:
    """The meta-prompt that the options give."""
    from comity.alignment.erasure import person_hash
    from comity.preferences.meta_prompt import as_wishes
    from comity.records import MetaPrompt

    return MetaPrompt(
        system_info=system_info,
        user_info=user_info,
        preferences=as_wishes("\n".join(" ".join(one.split()) for one in prefer)),
        person=person_hash(memory, tenant, user) if user else "",
    )


def say_wishes(decision: Decision) -> None:
    """A table of the wishes of provider and user, and what became of each."""
    if decision.inference_failed:
        note(f"no wish was inferred from what is said of the user: {decision.inference_failed}")
    if decision.preferences:
        say()
        say_wish_table(decision)


def say_wish_table(decision: Decision) -> None:
    """The wishes of a decision, and what became of each."""
    rows = [
        (
            one.preference.text,
            one.preference.by,
            one.preference.kind or "unknown",
            origin(one),
            _outcome(one),
        )
        for one in decision.preferences
    ]
    say_table(("wish", "whose", "kind", "from", "outcome"), rows)


def origin(one: Weighed) -> str:
    """Where a wish came from: `stated`, `stored (ID@VERSION)`, `inferred from "…"`."""
    wish = one.preference
    if wish.origin == "inferred":
        return f'inferred from "{wish.quotation}"'
    return f"stored ({wish.id}@{wish.version})" if wish.origin == "stored" else "stated"


def _outcome(one: Weighed) -> str:
    told = _OUTCOMES[one.outcome]
    if one.winner:
        told += f' to "{one.winner}"'
    return f"{told}: {one.reason}" if one.reason else told
