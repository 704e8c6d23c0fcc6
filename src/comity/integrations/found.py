"""Rules for a question, from a memory in this process or from a gateway elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from comity.errors import ComityError, NotFound, RuleError, SettingsError, StoreError
from comity.memory.memory import Memory
from comity.records import (
    DEFAULT_TENANT,
    WORLD,
    Hit,
    Labels,
    OptionalTime,
    Record,
    Rule,
    Scope,
)
from comity.retrieval.search import search

_TIMEOUT = 30.0


class Wanted(Record):
    """Which rules are wanted, and how many: what a call may say, the tenant apart."""

    place: Labels = Field((), description="Places; rules there and above apply.")
    audience: Labels = Field((), description="Labels that hold for the person asked about.")
    at: OptionalTime = Field(None, description="When the facts happened; None is now.")
    as_of: int | None = Field(None, ge=0, description="Revision of the memory; None is the latest.")
    k: int = Field(4, ge=1, le=100, description="How many rules.")

    def scope(self, tenant: str) -> Scope:
        """For whom, where and when; a question without a place is asked of the whole world."""
        return Scope(
            place=self.place or (WORLD,),
            audience=self.audience,
            at=self.at,
            as_of=self.as_of,
            tenant=tenant,
        )


def wanted(*given: Mapping[str, Any]) -> Wanted:
    """What is wanted, later words winning; None says nothing.

    Raises `SettingsError` for a word that is not known, or a value that cannot be used.
    """
    said = {name: value for each in given for name, value in each.items() if value is not None}
    try:
        return Wanted.model_validate(said)
    except ValueError as error:
        first = error.errors(include_url=False)[0] if hasattr(error, "errors") else None
        where = ".".join(map(str, first["loc"])) if first else "search"
        raise SettingsError(f"{where}: {first['msg'] if first else error}") from error


class Rules:
    """Where rules are searched: a memory of this process, or a gateway's `/rules/search`."""

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        url: str = "",
        key: str = "",
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        """Give `memory`, or `url` and `key`; a gateway's tenant is that of its key.

        The key's role must be one that may read rules, such as auditor. Raises `SettingsError`
        where both are given, or neither.
        """
        if (memory is None) == (not url):
            raise SettingsError("give the rules' memory, or the url and key of a gateway")
        self._memory, self._tenant = memory, tenant
        self._url = f"{url.rstrip('/').removesuffix('/v1')}/rules/search"
        self._headers = {"authorization": f"Bearer {key}"}

    def find(self, question: str, want: Wanted) -> list[Hit]:
        """The rules that apply, most similar first.

        Raises `NotFound` and `RuleError` for a scope that cannot be, `StoreError` where the
        memory or the gateway cannot be used, `SettingsError` for a key that may not do this.
        """
        if self._memory is not None:
            found = search(self._memory, question, want.scope(self._tenant), k=want.k)
            return list(found.hits)
        import httpx

        with httpx.Client(timeout=_TIMEOUT, headers=self._headers) as client:
            try:
                response = client.get(self._url, params=_query(question, want))
            except httpx.HTTPError as error:
                raise self._unreached(error) from error
        return self._hits(response.status_code, response.content)

    async def afind(self, question: str, want: Wanted) -> list[Hit]:
        """As `find`."""
        if self._memory is not None:
            import asyncio

            return await asyncio.to_thread(self.find, question, want)
        import httpx

        async with httpx.AsyncClient(timeout=_TIMEOUT, headers=self._headers) as client:
            try:
                response = await client.get(self._url, params=_query(question, want))
            except httpx.HTTPError as error:
                raise self._unreached(error) from error
        return self._hits(response.status_code, response.content)

    def _unreached(self, error: Exception) -> StoreError:
        return StoreError(f"the gateway at {self._url} cannot be reached: {error}")

    def _hits(self, status: int, raw: bytes) -> list[Hit]:
        import json

        try:
            told = json.loads(raw)
        except ValueError as error:
            raise StoreError(f"{self._url} answered {status}, and no JSON: no gateway?") from error
        if status != 200:
            raise _refused(status, told)
        return [
            Hit(
                rule=Rule.model_validate({k: v for k, v in one.items() if k != "score"}),
                score=one["score"],
            )
            for one in told
        ]


def _query(question: str, want: Wanted) -> dict[str, Any]:
    said = {
        "q": question,
        "place": list(want.place),
        "audience": list(want.audience),
        "at": _iso(want.at),
        "as_of": want.as_of,
        "k": want.k,
    }
    return {name: value for name, value in said.items() if value is not None}


def _refused(status: int, told: Any) -> ComityError:
    error = told.get("error") if isinstance(told, dict) else None
    said = str((error or {}).get("message") or f"the gateway answered {status}")
    kinds = {401: SettingsError, 403: SettingsError, 404: NotFound, 400: RuleError, 422: RuleError}
    return kinds.get(status, StoreError)(said)


def metadata_of(hit: Hit) -> dict[str, Any]:
    """What a document of another framework says of its rule: JSON values only."""
    rule = hit.rule
    return {
        "id": rule.id,
        "version": rule.version,
        "title": rule.title,
        "article": rule.article,
        "place": rule.place,
        "audience": list(rule.audience),
        "authority": rule.authority,
        "valid_from": _iso(rule.valid_from),
        "valid_to": _iso(rule.valid_to),
        "score": hit.score,
        "source": rule.source.document if rule.source else None,
    }


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
