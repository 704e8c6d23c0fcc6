"""Builders of small files for the tests of `comity.documents`."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from comity.documents.read import Document, Format


def document(text: str, format: Format = "text", name: str = "bylaws.txt") -> Document:
    """A document as `read` would give it."""
    return Document(path=Path("rules") / name, sha256="0" * 64, format=format, text=text)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    """Write a text file and give its path back."""
    path.write_bytes(text.encode(encoding))
    return path


def pdf(
    pages: Sequence[Sequence[str]], head: str = "", *, password: str = "", chinese: bool = False
) -> bytes:
    """A PDF with these lines on its pages, a running head and a page number on each."""
    from reportlab.lib.pagesizes import A5
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfgen.canvas import Canvas

    pdfmetrics.registerFont(UnicodeCIDFont("STSong-Light"))
    font = "STSong-Light" if chinese else "Helvetica"
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=A5, encrypt=password or None)
    for number, lines in enumerate(pages, 1):
        canvas.setFont(font, 10)
        canvas.drawString(40, 570, head)
        canvas.drawString(200, 20, f"- {number} -")
        y = 530
        for line in lines:
            canvas.drawString(40, y, line)
            y -= 14 if line else 8
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def image_pdf() -> bytes:
    """A PDF of one page that shows a shape and no text."""
    from reportlab.pdfgen.canvas import Canvas

    buffer = BytesIO()
    canvas = Canvas(buffer)
    canvas.rect(50, 50, 200, 200, fill=1)
    canvas.save()
    return buffer.getvalue()


def docx(parts: Sequence[tuple[str, str]]) -> bytes:
    """A DOCX of (style, text) pairs, such as ("Heading 1", "General") and ("List Bullet", "…")."""
    import docx as python_docx

    made = python_docx.Document()
    for style, text in parts:
        made.add_paragraph(text, style=style)
    buffer = BytesIO()
    made.save(buffer)
    return buffer.getvalue()
