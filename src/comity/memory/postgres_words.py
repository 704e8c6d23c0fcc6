"""Texts on their way to PostgreSQL and back: it keeps every character but NUL.

A NUL is written as two others, and read back as itself. Nothing else changes, but for the
character that marks it, which no text in use has (U+10FFFF is no character at all).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

_MARK = "\U0010ffff"
_MARK_BYTES = _MARK.encode()


def without_nul(text: str) -> str:
    """The text as it can be kept."""
    if "\x00" in text or _MARK in text:
        return text.replace(_MARK, _MARK + "1").replace("\x00", _MARK + "0")
    return text


def with_nul(text: str) -> str:
    """The text of `without_nul`."""
    if _MARK in text:
        return text.replace(_MARK + "0", "\x00").replace(_MARK + "1", _MARK)
    return text


def adapt(connection: psycopg.Connection[Any]) -> None:
    """Have all texts of a connection written and read so."""
    from psycopg.types.string import StrDumper, TextLoader

    class Dumper(StrDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(without_nul(obj))

    class Loader(TextLoader):
        def load(self, data: Any) -> Any:
            found = super().load(data)
            return with_nul(found) if isinstance(found, str) else found

    connection.adapters.register_dumper(str, Dumper)
    connection.adapters.register_loader("text", Loader)
