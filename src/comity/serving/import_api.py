"""Bulk import over HTTP: one document as the request's body, one revision or none.

The same way as `comity add`, for a single document: what the body holds is read, and nothing
else: no path, address or manifest is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool

from comity.documents.apart import read_apart
from comity.documents.duplicates import Duplicate
from comity.documents.extract import Extraction, extract_document
from comity.documents.fields import RuleDefaults, explain
from comity.documents.read import FORMATS
from comity.errors import DocumentError
from comity.memory.imports import Changed, ImportPlan, commit_import, plan_import
from comity.memory.memory import differences
from comity.memory.versions import due, in_force
from comity.records import Record, Rule
from comity.serving.approval import ever_waited, waits
from comity.serving.asked import Asked, Editor, aware
from comity.serving.wire import Refused

_MOST_RULES = 5000
_NAME = re.compile(r"(?:(?!\.)[^/\\\x00-\x1f\x7f]{1,100}/)?(?!\.)[^/\\\x00-\x1f\x7f]{1,200}")
_ALONE = "import"  # the folder of a name that has none

IMPORT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The document itself, as bytes.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""What FastAPI cannot tell of the route."""


class Version(Record):
    """A version of a rule."""

    id: str
    version: int


class ChangedRule(Version):
    """A rule that the document changes."""

    fields: dict[str, dict[str, Any]] = Field(description="What differs, as old and new.")


class UnknownConflict(Record):
    """A rule that declares a conflict with one that is not there."""

    rule: str
    overrides: str
    near: tuple[str, ...] = Field((), description="Ids that look like it.")


class Imported(Record):
    """What an import does, or would do."""

    revision: int = Field(description="Revision of the memory, behind the import.")
    committed: bool = Field(description="Whether anything was changed; never in a dry run.")
    document: str = Field(description="Name by which the document is known.")
    added: tuple[Version, ...] = Field(description="New rules.")
    changed: tuple[ChangedRule, ...] = Field(description="Rules with a new version.")
    gone: tuple[Version, ...] = Field(description="Repealed: the document no longer has them.")
    drafts: tuple[str, ...] = Field(description="Ids, of these, that wait for approval.")
    unchanged: int = Field(description="Versions that are there already.")
    unknown_overrides: tuple[UnknownConflict, ...] = ()
    duplicates: tuple[Duplicate, ...] = Field((), description="Rules that say the same.")


async def import_rules(
    request: Request,
    who: Editor,
    name: Annotated[
        str,
        Query(
            min_length=1,
            max_length=300,
            description="The document's name, such as by-laws/harbour.md: with its folder, if it "
            "has one, it is known by it, and its ending tells the format.",
        ),
    ],
    place: Annotated[str, Query(description="Code or name of the place.")] = "",
    audience: Annotated[list[str], Query()] = [],  # noqa: B006 - FastAPI copies it
    domain: Annotated[str, Query(description="Subject.")] = "",
    authority: Annotated[str, Query(description="Rank.")] = "",
    since: Annotated[datetime | None, Query(alias="from", description="First moment.")] = None,
    until: Annotated[
        datetime | None, Query(alias="to", description="Moment after the last.")
    ] = None,
    dry_run: Annotated[bool, Query(description="Tell what would be done, and do nothing.")] = False,
    seen: Annotated[
        int | None, Query(ge=0, le=2**53, description="Revision of the dry run; 409 for another.")
    ] = None,
    note: Annotated[str, Query(max_length=2000, description="Why.")] = "",
) -> Imported:
    """Add a document's rules as one revision, all or none; what it no longer has is repealed.

    Rules of a high rank come as drafts. At most 5,000 rules; more with `comity add`.
    """
    path = _path(name)
    defaults = _defaults(
        who,
        place=place,
        audience=tuple(audience),
        domain=domain,
        authority=authority,
        valid_from=aware(since),
        valid_to=aware(until),
    )
    body = await request.body()

    def work() -> Imported:
        revision = who.memory.revision
        if seen not in (None, revision):
            raise Refused(
                409,
                f"the memory is at revision {revision}, not {seen}: make the dry run again",
                param="seen",
            )
        extraction = _read(who, path, body, defaults)
        plan = _planned(who, extraction)
        if not dry_run:
            revision = commit_import(who.memory, plan, author=who.key, note=note or path.name)
        return _told(extraction, plan, revision, committed=not dry_run)

    return await run_in_threadpool(work)


def _path(name: str) -> Path:
    """The document's name as a path of two parts, which nobody opens."""
    if not _NAME.fullmatch(name):
        said = "name must be a file's name, or a folder's and a file's: by-laws/harbour.md"
        raise Refused(422, said, param="name")
    path = Path(name if "/" in name else f"{_ALONE}/{name}")
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise Refused(415, f"name: {path.name!r} has no format that is read: {known}", param="name")
    return path


def _defaults(who: Asked, **given: Any) -> RuleDefaults:
    """What holds for all rules that say nothing else. Raises `Refused` and `UnknownPlace`."""
    ranks = who.memory.authorities
    if given["authority"] and given["authority"] not in ranks:
        said = f"authority: {given['authority']!r} is none of {', '.join(ranks)}"
        raise Refused(422, said, param="authority")
    if given["valid_from"] and given["valid_to"] and given["valid_to"] <= given["valid_from"]:
        raise Refused(422, "to is not after from", param="to")
    if given["place"]:
        given["place"] = who.memory.gazetteer(who.tenant).canonical(given["place"])
    try:
        return RuleDefaults(**{name: value or None for name, value in given.items()})
    except ValidationError as error:
        raise Refused(422, explain(error)) from error


def _read(who: Asked, path: Path, body: bytes, defaults: RuleDefaults) -> Extraction:
    """The rules of the document. Raises `Refused` (422), naming its line."""
    held = who.memory.store

    def text_of(rule_id: str) -> str:
        versions = held.history(who.tenant, rule_id)
        return versions[-1].rule.text if versions else ""

    try:
        extraction = extract_document(
            read_apart(path, body),
            defaults,
            who.memory.gazetteer(who.tenant).canonical,
            text_of=text_of,
        )
    except DocumentError as error:
        raise Refused(422, str(error), param="body") from error
    if len(extraction.rules) > _MOST_RULES:
        said = f"{path.name} has {len(extraction.rules)} rules, {_MOST_RULES} are the most: "
        raise Refused(413, said + "split it, or use comity add", param="body")
    for rule in extraction.rules:
        if "tenant" in rule.model_fields_set and rule.tenant != who.tenant:
            said = f"rule {rule.id!r} is of another tenant than the key: leave its tenant out"
            raise Refused(422, said, param="body")
    return extraction


def _planned(who: Asked, extraction: Extraction) -> ImportPlan:
    """What the import would do, with drafts where a second person has to approve."""

    def high(rule: Rule) -> bool:
        return waits(who, rule.model_dump()) or ever_waited(who, rule.id)

    plan = plan_import(who.memory, extraction.rules, tenant=who.tenant, waits=high)
    new = [*plan.added, *(change.new for change in plan.changed)]
    _refuse_hidden(who, new)
    ended = [rule for rule in plan.gone if ever_waited(who, rule.id) and _holds(who, rule)]
    proposed = [
        Changed(rule, who.memory.ending(rule.id, None, who.tenant))
        for rule in ended
        if not (rule.status == "draft" and rule.valid_to)  # it is proposed already
    ]
    gone = tuple(rule for rule in plan.gone if rule not in ended)
    return plan.model_copy(update={"gone": gone, "changed": (*plan.changed, *proposed)})


def _holds(who: Asked, rule: Rule) -> bool:
    versions = [each.rule for each in who.memory.history(rule.id, tenant=who.tenant)]
    now = who.memory.clock()
    return bool(in_force(versions, now) or due(versions, now))


def _refuse_hidden(who: Asked, new: Sequence[Rule]) -> None:
    """Raises `Refused` for what one draft cannot show to who approves it."""
    seen: set[str] = set()
    for rule in new:
        if not (waits(who, rule.model_dump()) or ever_waited(who, rule.id)):
            continue
        if rule.status == "repealed":
            said = f"rule {rule.id!r} ranks high: POST /rules/repeal proposes its end"
            raise Refused(422, said, param="body")
        if rule.status == "active":  # nobody has drafted it, since it did not rank high then
            said = f"rule {rule.id!r} has got a draft of a high rank meanwhile: import again"
            raise Refused(409, said, param="body")
        if rule.id in seen:
            said = f"rule {rule.id!r} ranks high, and comes in several new versions: import them "
            raise Refused(422, said + "one by one, each approved before the next", param="body")
        seen.add(rule.id)


def _told(extraction: Extraction, plan: ImportPlan, revision: int, *, committed: bool) -> Imported:
    new = [*plan.added, *(change.new for change in plan.changed)]
    return Imported(
        revision=revision,
        committed=committed and not plan.empty,
        document=str(extraction.documents[0].path),
        added=tuple(map(_version, plan.added)),
        changed=tuple(map(_changed, plan.changed)),
        gone=tuple(map(_version, plan.gone)),
        drafts=tuple(rule.id for rule in new if rule.status == "draft"),
        unchanged=plan.unchanged,
        unknown_overrides=tuple(
            UnknownConflict(**unknown._asdict()) for unknown in plan.unknown_overrides
        ),
        duplicates=extraction.duplicates,
    )


def _version(rule: Rule) -> Version:
    return Version(id=rule.id, version=rule.version)


def _changed(change: Changed) -> ChangedRule:
    old, new = change.old.model_dump(mode="json"), change.new.model_dump(mode="json")
    names = [each.field for each in differences(change.old, change.new)]
    fields = {name: {"old": old[name], "new": new[name]} for name in names}
    return ChangedRule(id=change.new.id, version=change.new.version, fields=fields)
