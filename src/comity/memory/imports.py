"""Imports: what a set of documents would change in a memory, and doing it as one revision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from pydantic import Field

from comity.errors import DuplicateRule, RuleError
from comity.memory.index import Progress
from comity.memory.memory import Memory, succeed
from comity.memory.places import Canonical, Gazetteer, OwnPlace
from comity.memory.store import PlaceNames, StoredRule
from comity.records import Record, Rule

_SUGGESTED = 10


class Changed(NamedTuple):
    """A rule whose text or fields a document changes."""

    old: Rule
    new: Rule


class UnknownOverride(NamedTuple):
    """A rule that declares a conflict with one that is not there."""

    rule: str
    overrides: str
    near: tuple[str, ...]


class ImportPlan(Record):
    """What an import would do; nothing of it is done yet."""

    tenant: str = Field(description="Whose rules are imported.")
    added: tuple[Rule, ...] = Field((), description="First versions of new rules.")
    changed: tuple[Changed, ...] = Field((), description="Rules that get a new version.")
    gone: tuple[Rule, ...] = Field((), description="Rules that their document no longer has.")
    unchanged: int = Field(0, ge=0, description="How many versions are there already.")
    places: tuple[PlaceNames, ...] = Field((), description="Places to define or rename.")
    unknown_overrides: tuple[UnknownOverride, ...] = Field(
        (), description="Conflicts with rules that neither the memory nor the import has."
    )

    @property
    def empty(self) -> bool:
        """Whether the import would change nothing."""
        return not (self.added or self.changed or self.gone or self.places)


def plan_import(
    memory: Memory,
    rules: Sequence[Rule],
    *,
    tenant: str,
    places: Iterable[PlaceNames] = (),
    waits: Callable[[Rule], bool] = lambda _: False,
) -> ImportPlan:
    """Compare rules read from documents with what the memory holds.

    A rule of version 1 states the whole rule; a row of a later version states what changes, and
    inherits the other fields. A rule that is in the memory but no longer in a document that
    brought it is gone. What `waits` for approval comes as a draft.

    Raises `RuleError` for a rule that cannot be taken and for a document that has none of the
    rules which one of its name brought, `DuplicateRule` for one that stands twice.
    """
    refuse_doubles(rules)
    known = memory.store.places(tenant)
    new_places = tuple(place for place in places if place not in known)
    gazetteer = _with(memory.gazetteer(tenant), new_places)
    chains: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        chains[rule.id].append(rule.model_copy(update={"tenant": tenant}))
    imports = imports_of(memory, tenant)
    planned = [
        plan_rule(memory, chain, gazetteer, imports, draft=any(map(waits, chain)))
        for chain in chains.values()
    ]
    added = tuple(rule for plan in planned for rule in plan.added)
    changed = tuple(change for plan in planned for change in plan.changed)
    new = [*added, *(change.new for change in changed)]
    return ImportPlan(
        tenant=tenant,
        added=added,
        changed=changed,
        unchanged=sum(plan.unchanged for plan in planned),
        gone=tuple(_gone(memory, tenant, rules, imports)),
        places=new_places,
        unknown_overrides=tuple(_unknown_overrides(memory, tenant, new)),
    )


def commit_import(
    memory: Memory,
    plan: ImportPlan,
    *,
    author: str = "",
    note: str = "",
    progress: Progress | None = None,
    committed: Callable[[int], object] | None = None,
) -> int:
    """Do what a plan says as one revision; rules that are gone are repealed from now on.

    `progress` is called with the rules embedded and to be embedded, `committed` with the revision
    as soon as it is durable. An import interrupted before has changed nothing; planned again, it
    goes on with the vectors it had made.
    """
    if plan.empty:
        return memory.revision
    now = memory.clock()
    repeals = [
        succeed(rule, {"status": "repealed", "valid_from": now, "valid_to": None})
        for rule in plan.gone
    ]
    new = [*plan.added, *(change.new for change in plan.changed), *repeals]
    revision = memory.write(
        "import",
        sorted(new, key=lambda rule: rule.version),
        tenant=plan.tenant,
        places=plan.places,
        author=author,
        note=note,
        progress=progress,
    )
    if committed:
        committed(revision)
    memory.index.catch_up()
    memory.index.save()
    return revision


class RulePlan(NamedTuple):
    """What becomes of one rule."""

    added: list[Rule]
    changed: list[Changed]
    unchanged: int


def refuse_doubles(rules: Sequence[Rule]) -> None:
    """Raises `DuplicateRule` for a rule that stands twice in one version."""
    seen: dict[tuple[str, int], Rule] = {}
    for rule in rules:
        if (first := seen.setdefault(rule.key, rule)) is not rule:
            raise DuplicateRule(
                f"rule {rule.id!r} stands twice in version {rule.version}: in "
                f"{_document(first) or 'no document'} and in {_document(rule) or 'no document'}; "
                "give one of them another id, or the next version"
            )


def imports_of(memory: Memory, tenant: str) -> set[int]:
    """Numbers of the revisions that were not made by hand."""
    return {made.number for made in memory.store.revisions(tenant) if made.kind == "import"}


def plan_rule(
    memory: Memory,
    chain: Sequence[Rule],
    gazetteer: Canonical,
    imports: set[int],
    *,
    draft: bool,
) -> RulePlan:
    """What becomes of the versions that a document states of one rule; `imports` are the numbers
    of the revisions that imports made. Raises `RuleError`.
    """
    history = memory.store.history(chain[0].tenant, chain[0].id)
    stored = [version.rule for version in history]
    imported = [version.rule for version in history if version.revision in imports]
    incoming = [memory.checked(rule, gazetteer) for rule in sorted(chain, key=_version)]
    plan, unchanged = RulePlan([], [], 0), 0
    last = stored[-1] if stored else None
    for rule in incoming:
        there = _counterpart(rule, incoming, imported, stored)
        said = rule
        if draft and rule.status == "active":
            rule = rule.model_copy(update={"status": "draft"})
            if there is not None and there.status != "repealed":
                said = rule.model_copy(update={"status": there.status})  # approved since, perhaps
        # behind a change every later version is stated again, or the change would outlive it
        if there is not None and not plan.changed and _says_the_same(said, there):
            unchanged += 1
        elif last is None:
            last = _first_version(rule)
            plan.added.append(last)
        else:
            new = memory.checked(succeed(last, _given(rule)), gazetteer)
            plan.changed.append(Changed(last, new))
            last = new
    return plan._replace(unchanged=unchanged)


def _version(rule: Rule) -> int:
    return rule.version


def _document(rule: Rule) -> str:
    return rule.source.document if rule.source else ""


def _first_version(rule: Rule) -> Rule:
    if rule.version > 1:
        raise RuleError(
            f"rule {rule.id!r}: version {rule.version} amends a rule that neither the memory nor "
            "this import has: add its first version too"
        )
    return rule


def _given(rule: Rule) -> dict[str, object]:
    """What a row states: everything, or for an amendment the fields that it names."""
    names = rule.model_fields_set if rule.version > 1 else Rule.model_fields.keys()
    return {name: getattr(rule, name) for name in names if name not in ("id", "version", "tenant")}


def _counterpart(
    rule: Rule, incoming: Sequence[Rule], imported: Sequence[Rule], stored: Sequence[Rule]
) -> Rule | None:
    """The stored version that the same document gave when it was last imported.

    Versions made by hand do not count, so that a document which has not changed does not undo
    them.
    """
    before = [old for old in imported if _document(old) == _document(rule)]
    siblings = [other for other in incoming if _document(other) == _document(rule)]
    if not before:
        same_number = [old for old in stored if old.version == rule.version]
        return same_number[0] if same_number else None
    before = before[-len(siblings) :]
    place = siblings.index(rule)
    return before[place] if place < len(before) else None


def _says_the_same(rule: Rule, stored: Rule) -> bool:
    return all(
        value == getattr(stored, name) for name, value in _given(rule).items() if name != "source"
    )


def _gone(memory: Memory, tenant: str, rules: Sequence[Rule], imports: set[int]) -> list[Rule]:
    incoming: dict[str, set[str]] = defaultdict(set)
    for rule in rules:
        incoming[_listing(rule)].add(rule.id)
    ids = {rule.id for rule in rules}
    brought: dict[str, list[Rule]] = defaultdict(list)
    for stored in memory.store.latest(tenant):
        brought[_origin(memory, stored, imports)].append(stored.rule)
    gone: list[Rule] = []
    for document in incoming.keys() - {""}:
        held = [rule for rule in brought[document] if rule.status != "repealed"]
        if held and incoming[document].isdisjoint(rule.id for rule in brought[document]):
            raise _another_document(document, held)
        gone += [rule for rule in held if rule.id not in ids]
    return sorted(gone, key=lambda rule: rule.id)


def _another_document(document: str, held: Sequence[Rule]) -> RuleError:
    names = ", ".join(rule.id for rule in held[:3]) + (", …" if len(held) > 3 else "")
    return RuleError(
        f"{document} has none of the rules that a document of this name brought before ({names}): "
        "if it is another document, rename the file or its folder; if it takes the place of that "
        "one, repeal those rules first (comity rules repeal)"
    )


def _origin(memory: Memory, newest: StoredRule, imports: set[int]) -> str:
    """The document that listed a rule's last imported version; empty for a rule made by hand."""
    if newest.revision in imports or newest.rule.version == 1:
        return _listing(newest.rule)
    history = memory.store.history(newest.rule.tenant, newest.rule.id)
    brought = [version.rule for version in history if _document(version.rule)]
    return _listing(brought[-1]) if brought else ""


def _listing(rule: Rule) -> str:
    """The document that has the rule as its own; one drafted from its words is none of these."""
    return "" if rule.source and rule.source.quotation else _document(rule)


def _unknown_overrides(
    memory: Memory, tenant: str, new: Sequence[Rule]
) -> Iterator[UnknownOverride]:
    named = [(rule.id, overridden) for rule in new for overridden in rule.overrides]
    if not named:
        return
    known = {stored.rule.id for stored in memory.store.latest(tenant)} | {r.id for r in new}
    unknown = [pair for pair in dict.fromkeys(named) if pair[1] not in known]
    for position, (rule_id, overridden) in enumerate(unknown):
        # comparing with all ids takes its time, and nobody reads more of these
        near = get_close_matches(overridden, known, n=3) if position < _SUGGESTED else []
        yield UnknownOverride(rule_id, overridden, tuple(near))


def _with(gazetteer: Gazetteer, places: Sequence[PlaceNames]) -> Gazetteer:
    new = [OwnPlace(code=place.code, names=place.names) for place in places]
    return gazetteer.with_own(new) if new else gazetteer
