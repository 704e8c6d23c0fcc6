"""What the gateway serves: upstreams by model, and how each tenant's answers are treated."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from pydantic import Field, ValidationError

from comity.alignment.aligner import Options
from comity.alignment.enforce import Deny
from comity.alignment.release import Release
from comity.errors import SettingsError
from comity.records import Part, Record
from comity.serving.upstream import Upstream


class Tenant(Record):
    """How one tenant's answers are treated."""

    release: Release | None = Field(None, description="When text leaves; as set, by default.")
    place: str = Field("", description="Place of a question that names none; as set, by default.")
    models: tuple[str, ...] = Field((), description="Models it may ask; empty is all.")
    requests_per_minute: int = Field(0, ge=0, description="For each key; 0 is no limit.")
    tokens_per_minute: int = Field(0, ge=0, description="For each key; 0 is no limit.")
    concurrent: int = Field(0, ge=0, description="Answers at once, for each key; 0 is no limit.")
    timeout: float | None = Field(None, gt=0, description="Seconds that one answer may take.")
    max_body_mb: float | None = Field(
        None, gt=0, description="Largest request for an answer, where the gateway's is larger."
    )
    fail_open: bool | tuple[Part, ...] = Field(
        False, description="What an answer goes without when it has failed: memory, checks, record."
    )
    deny_unchecked: Deny | None = Field(
        None, description="What is withheld unchecked under `block` rules; as set, by default."
    )

    @property
    def opens(self) -> frozenset[Part]:
        """The parts that an answer goes without when they have failed."""
        if isinstance(self.fail_open, bool):
            return frozenset(get_args(Part)) if self.fail_open else frozenset()
        return frozenset(self.fail_open)


class Gateway(Record):
    """The gateway's file."""

    upstreams: Mapping[str, Upstream] = Field(
        {}, description="By the name that clients ask for; `*` is any other."
    )
    tenants: Mapping[str, Tenant] = Field({}, description="By name; others have the defaults.")
    approval_above: str = Field(
        "", description="Rules of this rank and higher wait for a second person; empty is none."
    )
    max_body_mb: float = Field(10.0, gt=0, description="Largest request.")
    max_body_seconds: float = Field(60.0, gt=0, description="Longest that it may take to come.")
    max_in_progress: int = Field(
        1000, ge=0, description="Requests that each worker has in hand at once; 0 is no limit."
    )
    spool: str = Field(
        "", description="File where decisions wait while the record fails; beside the memory."
    )
    spool_mb: float = Field(100.0, gt=0, description="Largest size of that file.")
    grace: int = Field(
        25, ge=0, description="Seconds that running answers have when the gateway stops."
    )

    def options(self, tenant: str, options: Options) -> Options:
        """An aligner's options, with what is said of the tenant."""
        told = self.tenant(tenant)
        given = {
            "release": told.release,
            "place": told.place,
            "deny_unchecked": "never" if "checks" in told.opens else told.deny_unchecked,
        }
        return options.model_copy(update={name: value for name, value in given.items() if value})

    def tenant(self, name: str) -> Tenant:
        """How a tenant's answers are treated."""
        return self.tenants.get(name, Tenant())

    def upstream(self, model: str) -> Upstream | None:
        """Where the requests for a model go; None for an unknown one."""
        found = self.upstreams.get(model) or self.upstreams.get("*")
        if found is None or found.model:
            return found
        return found.model_copy(update={"model": model})


def read_gateway(file: Path) -> Gateway:
    """The gateway's file. Raises `SettingsError` with the field."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: is no valid TOML: {error}") from error
    try:
        return Gateway.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"{file}: {where}: {first['msg']}") from error
