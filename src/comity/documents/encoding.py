"""From bytes to text: UTF-8, UTF-16 with its mark, GB18030, Windows-1252."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from comity.errors import DocumentError

TRIED = ("UTF-8", "UTF-16 (with byte order mark)", "GB18030", "Windows-1252")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")


def decode(path: Path, data: bytes) -> str:
    """Decode a text file.

    A byte order mark decides; then UTF-8; then the better of GB18030 and Windows-1252. Raises
    `DocumentError` naming the first byte that is not UTF-8 where none fits, or where the file
    is UTF-8 with a few damaged bytes (guessing another encoding would turn it into nonsense).
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strictly(path, data, encoding)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _guess(path, data, error)
    if "\x00" in text:
        position = data.index(0)
        raise DocumentError(path, f"byte {position} is zero: this is no text file")
    return text


def _strictly(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise DocumentError(
            path,
            f"its byte order mark says {name}, but byte {error.start} does not fit; "
            "save the file again as UTF-8",
        ) from error


def _guess(path: Path, data: bytes, failure: UnicodeDecodeError) -> str:
    if not _is_damaged_utf8(data) and 0 not in data:
        from charset_normalizer import from_bytes

        best = from_bytes(data, cp_isolation=["gb18030", "cp1252"]).best()
        if best is not None:
            return str(best)
    raise DocumentError(
        path,
        f"cannot be decoded: byte {failure.start} (0x{data[failure.start]:02x}) is not UTF-8; "
        f"tried {', '.join(TRIED)}. Save the file as UTF-8",
    ) from failure


def _is_damaged_utf8(data: bytes) -> bool:
    wrong = data.decode("utf-8", errors="replace").count("\ufffd")
    return len(_MULTIBYTE.findall(data)) > 4 * wrong
