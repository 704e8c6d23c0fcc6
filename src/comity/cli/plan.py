"""What an import would do, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from comity.cli.output import note, plain, say, say_table
from comity.cli.words import change_lines

if TYPE_CHECKING:
    from comity.documents.extract import Extraction
    from comity.memory.imports import Changed, ImportPlan
    from comity.records import Rule

_NAMED = 10
_DIFFS = 50


def announce(extraction: Extraction) -> None:
    """Show what was read: the documents, files passed over, and rules that say the same."""
    if len(extraction.documents) <= 3 * _NAMED:
        rows = [(d.path.name, d.id, d.rules) for d in extraction.documents]
        say_table(("document", "id", "rules"), rows)
    else:
        say(f"{len(extraction.rules)} rules in {len(extraction.documents)} documents")
    if extraction.skipped:
        names = _some(path.name for path in extraction.skipped)
        note(f"not read, for their format is not known: {names}")
    for duplicate in extraction.duplicates[:_NAMED]:
        alike = "says the same as" if duplicate.kind == "exact" else "is nearly the same as"
        note(f"duplicate: {duplicate.id} {alike} {duplicate.of} ({duplicate.similarity:.0%})")
    more = len(extraction.duplicates) - _NAMED
    if more > 0:
        note(f"duplicate: {more} more (comity add --dry-run --json lists them all)")


def announce_plan(plan: ImportPlan) -> None:
    """Show what the import would do, with a diff for each rule that it changes."""
    if plan.empty:
        say(f"nothing to change: all {plan.unchanged} rules are there")
        return
    if plan.places:
        say(f"places: {_some(place.code for place in plan.places)}")
    changes = changes_of_held(plan)
    if plan.added:
        later = len(plan.changed) - len(changes)
        more = f", and {later} later versions of them" if later else ""
        say(f"new: {len(plan.added)} rules{more}: {_ids(plan.added)}")
    if changes:
        say(f"changed: {len(changes)} rules")
        for change in changes[:_DIFFS]:
            _say_change(change)
        if len(changes) > _DIFFS:
            say(f"  … and {len(changes) - _DIFFS} more")
    if plan.gone:
        say(f"gone from their document, to be repealed: {len(plan.gone)} rules: {_ids(plan.gone)}")
    if plan.unchanged:
        say(f"unchanged: {plan.unchanged} rules")
    _note_unknown_overrides(plan)


def _note_unknown_overrides(plan: ImportPlan) -> None:
    for unknown in plan.unknown_overrides[:_NAMED]:
        near = f": did you mean {', '.join(unknown.near)}?" if unknown.near else ""
        note(
            f"{unknown.rule} overrides {unknown.overrides!r}, which neither the memory nor this "
            f"import has{near}"
        )
    more = len(plan.unknown_overrides) - _NAMED
    if more > 0:
        note(f"overrides: {more} more (comity add --dry-run --json lists them all)")


def changes_of_held(plan: ImportPlan) -> list[Changed]:
    """The changes of rules that the memory holds already: those to ask about."""
    new = {rule.id for rule in plan.added}
    return [change for change in plan.changed if change.new.id not in new]


def _say_change(change: Changed) -> None:
    from comity.memory.memory import differences

    say(f"  {change.new.id}, version {change.old.version} -> {change.new.version}")
    for line in change_lines(differences(change.old, change.new)):
        click.echo(f"    {line}")


def _ids(rules: Sequence[Rule]) -> str:
    return _some(rule.id for rule in rules)


def _some(names: Iterable[str]) -> str:
    listed = [plain(name) for name in names]
    more = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" … and {more} more" if more > 0 else "")


def plan_as_json(
    plan: ImportPlan, extraction: Extraction, revision: int, *, committed: bool
) -> dict[str, Any]:
    """The plan as an object; `revision` is the memory's, `committed` is false in a dry run."""
    return {
        "revision": revision,
        "committed": committed and not plan.empty,
        "added": [_ref(rule) for rule in plan.added],
        "changed": [_change(change) for change in plan.changed],
        "gone": [_ref(rule) for rule in plan.gone],
        "unchanged": plan.unchanged,
        "places": [place.model_dump(mode="json") for place in plan.places],
        "documents": [document.model_dump(mode="json") for document in extraction.documents],
        "unknown_overrides": [unknown._asdict() for unknown in plan.unknown_overrides],
        "duplicates": [duplicate.model_dump(mode="json") for duplicate in extraction.duplicates],
        "skipped": [str(path) for path in extraction.skipped],
    }


def _ref(rule: Rule) -> dict[str, Any]:
    return {"id": rule.id, "version": rule.version}


def _change(change: Changed) -> dict[str, Any]:
    from comity.memory.memory import differences

    old, new = change.old.model_dump(mode="json"), change.new.model_dump(mode="json")
    names = [difference.field for difference in differences(change.old, change.new)]
    fields = {name: {"old": old[name], "new": new[name]} for name in names}
    return _ref(change.new) | {"fields": fields}
