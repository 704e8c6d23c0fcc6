"""Ids of the rules of one document: they hold while other parts of the document change.

- An article is `document/Article 3`. Where a later chapter uses the name again, its article is
  `document/chapter/Article 3`, so that adding an annex renames nothing.
- A numbered clause or list item without a word such as Article is `document/heading/1`.
- The first paragraph under a heading is `document/heading`: amended, it keeps its id.
- Other paragraphs and list items are named after their words (`document/p-1a2b3c4d`): counting
  them would rename all that follow an insertion. Amended, such a rule is gone and another added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count

from comity.documents.read import Document
from comity.documents.rows import text_name
from comity.documents.split import Passage
from comity.errors import DocumentError

LONGEST_ID = 400
_PART = re.compile(r" \(\d+/\d+\)$")


def article_name(article: str) -> str:
    """The article's name without the part of it: `Article 3` for `Article 3 (2/3)`."""
    return _PART.sub("", article)


def ids_of(document: Document, document_id: str, passages: Sequence[Passage]) -> list[str]:
    """One id for each passage, all different.

    Raises `DocumentError` where two articles of one chapter have the same name.
    """
    taken: dict[str, Passage] = {}
    return [_take(document, document_id, passage, taken) for passage in passages]


def _take(document: Document, document_id: str, passage: Passage, taken: dict[str, Passage]) -> str:
    for name in _names(passage):
        id_ = f"{document_id}/{name}"
        if len(id_) <= LONGEST_ID and id_ not in taken:
            taken[id_] = passage
            return id_
        if passage.kind == "article" and id_ in taken and taken[id_].title == passage.title:
            break
    if passage.kind == "article":
        raise _doubled(document, passage, taken)
    named = f"{document_id[: LONGEST_ID - 30]}/{text_name(passage.text)}"
    id_ = next(i for n in count(1) if (i := f"{named}~{n}" if n > 1 else named) not in taken)
    taken[id_] = passage
    return id_


def _names(passage: Passage) -> list[str]:
    """Names to try, best first."""
    chapters = "/".join(passage.title.split(" > ")[1:])
    if passage.kind in ("article", "preamble"):
        return [passage.article, f"{chapters}/{passage.article}"] if chapters else [passage.article]
    if passage.article:
        own = "." in article_name(passage.article) or not chapters
        return [passage.article if own else f"{chapters}/{passage.article}"]
    return [chapters] if chapters and passage.kind == "paragraph" else []


def _doubled(document: Document, passage: Passage, taken: dict[str, Passage]) -> DocumentError:
    named = [other for other in taken.values() if other.article == passage.article]
    places = [document.where(other.start) for other in (*named[-1:], passage)]
    line = document.line_of(passage.start) if document.has_lines else None
    return DocumentError(
        document.path,
        f"{passage.article} stands twice in the same chapter: {' and '.join(places)}; "
        "give the second part a heading of its own, or split the file",
        line=line,
    )
