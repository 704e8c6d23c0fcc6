"""From fields, as a file or a manifest gives them, to a rule; with errors that name the place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from comity.errors import DocumentError, RuleError, UnknownPlace
from comity.memory.patterns import check_patterns
from comity.records import Enforcement, Labels, OptionalTime, Record, Rule, Status

PlaceOf = Callable[[str], str]
"""Canonical code of a place's code or name; raises `UnknownPlace`."""


class RuleDefaults(Record):
    """What holds for every rule of an import that does not say otherwise; None is not given."""

    place: str | None = Field(None, description="Code or name of the place.")
    audience: Labels | None = Field(None, description="Labels of whom the rules bind.")
    domain: str | None = Field(None, description="Subject.")
    authority: str | None = Field(None, description="Rank in the table of authorities.")
    valid_from: OptionalTime = Field(None, description="First moment in force.")
    valid_to: OptionalTime = Field(None, description="First moment no longer in force.")
    tenant: str | None = Field(None, description="Whose rules they are.")
    mandatory: bool | None = Field(None, description="Always put in force where they apply.")
    enforcement: Enforcement | None = Field(None, description="What happens to a breach.")
    language: str | None = Field(None, description="BCP 47 tag of the texts.")
    status: Status | None = Field(None, description="`draft` for rules that wait for approval.")

    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return {name: getattr(self, name) for name in self._named()}

    def _named(self) -> list[str]:
        return [n for n in RuleDefaults.model_fields if getattr(self, n) not in (None, ())]


class DeclaredPlace(Record):
    """A place that a manifest declares."""

    code: str = Field(min_length=1, description="Its path: `XA`, `XA-NO`, `XA-NO/Tidewick`.")
    names: tuple[str, ...] = Field((), description="What it is called.")


class Row(NamedTuple):
    """The fields of one rule, and where in which file they stand."""

    fields: dict[str, Any]
    path: Path
    line: int | None
    where: str


class Places:
    """Codes of places: those declared in manifests first, then what `place_of` knows."""

    def __init__(self, declared: Iterable[DeclaredPlace], place_of: PlaceOf) -> None:
        self._declared = {
            name.casefold(): place.code for place in declared for name in (place.code, *place.names)
        }
        self._place_of = place_of
        self._known: dict[str, str | UnknownPlace] = {}

    def canonical(self, name: str) -> str:
        """Code of a place; raises `UnknownPlace` with a suggestion."""
        if name not in self._known:
            self._known[name] = self._look_up(name)
        found = self._known[name]
        if isinstance(found, UnknownPlace):
            raise found
        return found

    def _look_up(self, name: str) -> str | UnknownPlace:
        declared = self._declared.get(name.strip().casefold())
        if declared is not None:
            return declared
        try:
            return self._place_of(name)
        except UnknownPlace as error:
            near = get_close_matches(name.casefold(), self._declared, n=1)
            hint = f"; the manifest declares {self._declared[near[0]]}" if near else ""
            return UnknownPlace(f"{error}{hint}")


def unknown_names(given: Iterable[str], known: Iterable[str], kind: str) -> str:
    """A sentence on the names that are not known, with near ones; empty if all are known."""
    known = list(known)
    wrong = [str(name) for name in given if name not in known]
    if not wrong:
        return ""
    said = [f"{name!r}{_did_you_mean(name, known)}" for name in wrong]
    return f"unknown {kind} {', '.join(said)}; known are {', '.join(known)}"


def _did_you_mean(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def rule_of(row: Row, places: Places) -> Rule:
    """Make the rule, with only the given fields set.

    Raises `DocumentError`, naming file and line, for an unknown place or a field whose value
    cannot be used.
    """
    fields = {name: value for name, value in row.fields.items() if value is not None or _open(name)}
    try:
        if isinstance(fields.get("place"), str):
            fields["place"] = places.canonical(fields["place"])
        rule = Rule.model_validate(fields)
        check_patterns(rule)
        return rule
    except UnknownPlace as error:
        raise DocumentError(row.path, f"place: {error}", line=row.line) from error
    except RuleError as error:
        raise DocumentError(row.path, str(error), line=row.line) from error
    except ValidationError as error:
        problem = explain(error)
        if "text" not in fields and fields.get("status") == "repealed":
            problem = (
                "a repeal without text needs the rule's earlier version in the same import; "
                f"for a rule that the memory holds, use: comity rules repeal {fields.get('id')!r}"
            )
        name = fields.get("id", "")
        about = f"rule {name}: " if name else ""
        raise DocumentError(row.path, f"{about}{problem}", line=row.line) from error


def _open(name: str) -> bool:
    """Whether an explicit null means something: validity without limit."""
    return name in ("valid_from", "valid_to")


def explain(error: ValidationError) -> str:
    """What is wrong with which field, in one line."""
    return "; ".join(_one(detail) for detail in error.errors(include_url=False))


def _one(detail: Mapping[str, Any]) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    field = ".".join(str(part) for part in detail["loc"])
    if not field:
        return message
    given = detail.get("input")
    shown = f" (given {str(given)[:60]!r})" if isinstance(given, str | int | float) else ""
    return f"{field}: {message}{shown}"
