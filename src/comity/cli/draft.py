"""`comity add --draft`: single rules drafted from prose by the model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.output import note, progress_bar
from comity.cli.session import Session

if TYPE_CHECKING:
    from comity.documents.draft import Ask, Drafts
    from comity.documents.extract import Extraction
    from comity.documents.fields import RuleDefaults
    from comity.documents.read import Document
    from comity.memory.memory import Memory

_TABULAR = ("csv", "jsonl")


def drafted(
    session: Session, memory: Memory, paths: Sequence[Path], defaults: RuleDefaults
) -> Extraction:
    """Drafts from the documents' passages, each with the words that it came from.

    What the model could not do is told on stderr. Raises `DocumentError`, `ModelError`.
    """
    from comity.documents.duplicates import find_duplicates
    from comity.documents.extract import Extraction, ReadDocument, collect
    from comity.documents.read import read
    from comity.errors import DocumentError
    from comity.models.chat import complete

    if defaults.place:
        place = memory.gazetteer(session.settings.tenant).canonical(defaults.place)
        defaults = defaults.model_copy(update={"place": place})
    limit = int(session.settings.max_file_mb * 1e6)
    documents = [read(path, limit) for path in collect(paths)]
    for document in documents:
        if document.format in _TABULAR:
            raise DocumentError(document.path, "holds rules already: add it without --draft")
    ask = partial(complete, session.open_model())
    found = [asyncio.run(_draft(document, ask, defaults)) for document in documents]
    rules = tuple(rule for drafts in found for rule in drafts.rules)
    return Extraction(
        rules=rules,
        duplicates=tuple(find_duplicates(rules)),
        documents=tuple(
            ReadDocument(path=d.path, id=d.stem, sha256=d.sha256, rules=len(drafts.rules))
            for d, drafts in zip(documents, found, strict=True)
        ),
    )


async def _draft(document: Document, ask: Ask, defaults: RuleDefaults) -> Drafts:
    from comity.documents.draft import draft_rules
    from comity.documents.split import split
    from comity.records import Reply, Request

    passages = split(document)
    done = 0
    with progress_bar(f"drafting {document.path.name}", "passages") as progress:
        progress(0, len(passages))

        async def counted(request: Request) -> Reply:
            nonlocal done
            reply = await ask(request)
            done += 1
            progress(done, len(passages))
            return reply

        drafts = await draft_rules(document, passages, counted, defaults)
    for failure in drafts.failures:
        note(f"{document.path}, {failure.article or failure.title}: {failure.reason}")
    return drafts
