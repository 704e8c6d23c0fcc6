"""Kinds of values that options and arguments take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from datetime import datetime


class Moment(click.ParamType[Any]):
    """An ISO 8601 date or time; a bare date is midnight UTC."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | None:
        """The aware time; None for an empty text."""
        from comity.records import parse_time

        try:
            moment: datetime | None = parse_time(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return moment


class Question(click.ParamType[str]):
    """A text that is not empty."""

    name = "question"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text without bytes that are no UTF-8."""
        text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace").strip()
        if not text:
            self.fail("is empty: write it in quotation marks", param, ctx)
        return text


MOMENT = Moment()
QUESTION = Question()

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for programs.")
