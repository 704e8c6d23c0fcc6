"""The option `--ray`: work is done by a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

_ADDRESS = re.compile(r"auto|local|ray://\S+|[\w.\-\[\]:]+:\d+")
_C = TypeVar("_C", bound=Callable[..., Any])


class RayAddress(click.ParamType[str]):
    """Where a Ray cluster is; empty where none is named."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address. A file's name in its place is refused, since it was meant as a file."""
        if value and not _ADDRESS.fullmatch(value):
            self.fail(
                f"{value!r} is no address of a Ray cluster: write --ray=HOST:PORT, and --ray "
                "without one behind all files",
                param,
                ctx,
            )
        return value


def ray_option(text: str) -> Callable[[_C], _C]:
    """`--ray [ADDRESS]`: None where it is not given, empty where it is without an address."""
    return click.option(
        "--ray", is_flag=False, flag_value="", type=RayAddress(), metavar="[ADDRESS]", help=text
    )
