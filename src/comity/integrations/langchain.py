"""A retriever for LangChain (extra `langchain`)."""

from __future__ import annotations

from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, PrivateAttr, SecretStr, model_validator

from comity.integrations.found import Rules, metadata_of, wanted
from comity.memory.memory import Memory
from comity.records import DEFAULT_TENANT, Hit


class ComityRetriever(BaseRetriever):
    """The rules that apply to a question, as documents; the most similar comes first.

    `search_kwargs` says for whom, where and when: `place`, `audience`, `at`, `as_of`, and how
    many (`k`). A call says it anew, by keyword (`retriever.invoke(question, place="CN")`) or in
    its config (see `configurable_fields`). The tenant is never a call's.
    """

    memory: Memory | None = Field(None, exclude=True)
    """Rules of this process; else those of the gateway at `url`."""
    url: str = ""
    key: SecretStr = SecretStr("")
    """A key of the gateway, of a role that may read rules."""
    tenant: str = DEFAULT_TENANT
    """Whose rules; of a gateway, it is the key's."""
    search_kwargs: dict[str, Any] = Field(default_factory=dict)
    _rules: Rules = PrivateAttr()

    @model_validator(mode="after")
    def _is_there(self) -> Self:
        wanted(self.search_kwargs)
        key = self.key.get_secret_value()
        self._rules = Rules(self.memory, url=self.url, key=key, tenant=self.tenant)
        return self

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **search_kwargs: Any
    ) -> list[Document]:
        want = wanted(self.search_kwargs, search_kwargs)
        return [_document(hit) for hit in self._rules.find(query, want)]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **search_kwargs: Any
    ) -> list[Document]:
        want = wanted(self.search_kwargs, search_kwargs)
        return [_document(hit) for hit in await self._rules.afind(query, want)]


def _document(hit: Hit) -> Document:
    name = f"{hit.rule.id}@{hit.rule.version}"
    return Document(id=name, page_content=hit.rule.text, metadata=metadata_of(hit))
