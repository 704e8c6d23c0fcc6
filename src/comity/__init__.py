"""Comity: any chatbot in line with the norms that hold here, now and for this person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comity.alignment.aligner import Aligner, Options
    from comity.errors import ComityError
    from comity.memory.memory import Memory
    from comity.records import Answer, Decision, Message, Rule, Ruling, Scope

__all__ = [
    "Aligner",
    "Answer",
    "ComityError",
    "Decision",
    "Memory",
    "Message",
    "Options",
    "Rule",
    "Ruling",
    "Scope",
]

_HOMES = {
    "Aligner": "comity.alignment.aligner",
    "ComityError": "comity.errors",
    "Memory": "comity.memory.memory",
    "Options": "comity.alignment.aligner",
}


def __getattr__(name: str) -> object:
    """A name of `__all__`, loaded where it is first used, so that `comity --help` stays quick."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "comity.records")), name)
