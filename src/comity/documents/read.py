"""From a file to its text, cleaned: PDF, DOCX, HTML, Markdown, plain text, CSV, JSON Lines.

DOCX and HTML become Markdown (headings as `#`, list items as `-` and `1.`), through mammoth and
markdownify: the two libraries that markitdown itself uses for them, without its start-up time.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from comity.documents.clean import normalise
from comity.documents.encoding import decode
from comity.documents.pdf import pdf_text
from comity.errors import DocumentError
from comity.records import Record

Format = Literal["pdf", "docx", "html", "markdown", "text", "csv", "jsonl"]

FORMATS: dict[str, Format] = {
    ".pdf": "pdf",
    ".docx": "docx",
    ".html": "html",
    ".htm": "html",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
MARKUP: frozenset[Format] = frozenset({"docx", "html", "markdown"})
"""Formats whose text marks headings with `#`."""

MAX_BYTES = 50_000_000
"""Largest file that is read, unless the setting `max_file_mb` says otherwise."""

MAX_UNPACKED = 200_000_000
"""Bytes that a DOCX file, which is an archive, may unpack to."""

_FRONT_MATTER = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)\n", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]\n]+)\]\([^)\s]*(?: \"[^\"\n]*\")?\)")
_EMPHASIS = re.compile(r"(?<![\w*])(\*\*|__)(?=\S)(.+?)(?<=\S)\1(?!\w)")


class Document(Record):
    """A file's text, cleaned."""

    model_config = ConfigDict(str_strip_whitespace=False)

    path: Path = Field(description="Where the file is.")
    sha256: str = Field(description="SHA-256 of the file's bytes, in hex.")
    format: Format = Field(description="What kind of file it is.")
    text: str = Field(description="Its text; character spans of sources refer to this.")
    pages: tuple[int, ...] = Field((), description="Offset at which each page starts (PDF).")

    @property
    def name(self) -> str:
        """The file's name after its folder's: tells files of one name apart on any machine."""
        return "/".join(os.path.abspath(self.path).split(os.sep)[-2:])

    @property
    def stem(self) -> str:
        """The file's name without its extension."""
        return self.path.stem

    @property
    def has_lines(self) -> bool:
        """Whether line N of the text is line N of the file."""
        return self.format in ("markdown", "text", "csv", "jsonl")

    def where(self, offset: int) -> str:
        """Where a character of the text stands, in words: `line 12`, `page 3`."""
        if self.pages:
            return f"page {sum(start <= offset for start in self.pages)}"
        return f"line {self.line_of(offset)}" if self.has_lines else f"character {offset}"

    def line_of(self, offset: int) -> int:
        """Number of the line, from 1, in which a character of the text stands."""
        return self.text.count("\n", 0, offset) + 1


def format_of(path: Path) -> Format:
    """The format that the file's extension names; `DocumentError` if it is none of ours."""
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    problem = f"has an unknown format ({suffix or 'no extension'})"
    if suffix in (".doc", ".rtf", ".odt", ".wps"):
        raise DocumentError(path, f"{problem}; save it as .docx and add that")
    raise DocumentError(path, f"{problem}; readable are {', '.join(FORMATS)}")


def read(path: Path, max_bytes: int = MAX_BYTES) -> Document:
    """Read a file.

    Raises `DocumentError`, naming the file and what to do: missing, over `max_bytes` (refused
    before it is read), of an unknown format, encrypted, damaged, without text, undecodable.
    """
    format_of(path)  # before anything is read
    return read_bytes(path, _bytes(path, max_bytes))


def read_bytes(path: Path, data: bytes) -> Document:
    """A file's bytes as a document; `path` only names it. Raises as `read` does."""
    kind = format_of(path)
    pages: tuple[int, ...] = ()
    if kind == "pdf":
        text, pages = pdf_text(path, data)
    else:
        text = _text(path, kind, data)
    if not text.strip():
        raise DocumentError(path, "is empty: there is no text in it to make rules from")
    digest = hashlib.sha256(data).hexdigest()
    return Document(path=path, sha256=digest, format=kind, text=text, pages=pages)


def _bytes(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DocumentError(path, "is no regular file; name a file or a folder of files")
        if size > max_bytes:
            way = "add it with --stream" if format_of(path) in ("csv", "jsonl") else "split it"
            raise DocumentError(
                path,
                f"has {size / 1e6:,.1f} MB, over the limit of {max_bytes / 1e6:,.1f} MB; "
                f"{way}, or raise the setting max_file_mb",
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DocumentError(path, "does not exist; check the path") from error
    except OSError as error:
        raise DocumentError(path, f"cannot be opened: {error.strerror}") from error


def _text(path: Path, kind: Format, data: bytes) -> str:
    if not data:
        return ""
    if kind == "docx":
        return normalise(_markdown(_docx_html(path, data)))
    text = decode(path, data)
    if kind == "html":
        return normalise(_markdown(text))
    if kind == "markdown":
        return normalise(_plain_markdown(text))
    return text.replace("\r\n", "\n") if kind in ("csv", "jsonl") else normalise(text)


def _docx_html(path: Path, data: bytes) -> str:
    from io import BytesIO
    from xml.parsers.expat import ExpatError
    from zipfile import BadZipFile, ZipFile
    from zlib import error as ZlibError

    import mammoth

    styles = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"
    try:
        with ZipFile(BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED:
            raise DocumentError(
                path,
                f"unpacks to {unpacked / 1e6:,.0f} MB, over the limit of {MAX_UNPACKED / 1e6:,.0f} "
                "MB; leave out its pictures, or save it as text",
            )
        return str(mammoth.convert_to_html(BytesIO(data), style_map=styles).value)
    except (
        *(BadZipFile, ExpatError, ZlibError),  # the archive, its XML, its compression
        *(KeyError, ValueError, OSError, EOFError, RuntimeError),  # what they raise on the way
    ) as error:
        if data.startswith(b"\xd0\xcf\x11\xe0"):
            problem = "is encrypted or an old .doc file; save it as .docx without a password"
        else:
            problem = f"is no readable DOCX file ({error}); it may be damaged: save it again"
        raise DocumentError(path, problem) from error


def _markdown(html: str) -> str:
    """HTML as Markdown without links, emphasis, scripts and navigation."""
    from bs4 import BeautifulSoup
    from markdownify import markdownify

    soup = BeautifulSoup(html, "lxml")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for tag in soup(["head", "script", "style", "nav", "template", "noscript"]):
        tag.decompose()
    text = markdownify(
        str(soup),
        heading_style="ATX",
        bullets="-",
        strip=["a", "b", "strong", "i", "em", "img", "code", "u", "sub", "sup"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    ).strip()
    return f"# {title}\n\n{text}" if title and text and not soup.find("h1") else text


def _plain_markdown(text: str) -> str:
    """Markdown without front matter, comments, links and bold marks; lines stay where they are."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = _FRONT_MATTER.sub(_blank_lines, text)
    text = _COMMENT.sub(_blank_lines, text)
    return _EMPHASIS.sub(r"\2", _LINK.sub(r"\1", text))


def _blank_lines(found: re.Match[str]) -> str:
    return "\n" * found[0].count("\n")
