"""Whether the packages of the extra `train` are there."""

from __future__ import annotations

from importlib.util import find_spec

from comity.errors import MissingExtra

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "gguf",
    "peft",
    "trl",
    "matplotlib",
)


def check_extra(what: str) -> None:
    """Raises `MissingExtra` for `what` where a package of the extra is not installed."""
    if not all(map(find_spec, _PACKAGES)):
        raise MissingExtra(what, "train")
