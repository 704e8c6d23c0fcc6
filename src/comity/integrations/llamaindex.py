"""A retriever for LlamaIndex (extra `llamaindex`)."""

from __future__ import annotations

from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from comity.integrations.found import Rules, Wanted, metadata_of, wanted
from comity.memory.memory import Memory
from comity.records import DEFAULT_TENANT, Hit


class ComityRetriever(BaseRetriever):
    """The rules that apply to a question, as nodes with scores; the most similar comes first."""

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        url: str = "",
        key: str = "",
        tenant: str = DEFAULT_TENANT,
        **search_kwargs: Any,
    ) -> None:
        """Give `memory`, or `url` and `key` of a gateway (of a role that may read rules).

        `search_kwargs` says for whom, where and when: `place`, `audience`, `at`, `as_of`, and
        how many rules (`k`). Raises `SettingsError` for a word that is not known.
        """
        super().__init__()
        self._rules = Rules(memory, url=url, key=key, tenant=tenant)
        self._want = wanted(search_kwargs)

    def within(self, **search_kwargs: Any) -> ComityRetriever:
        """The same rules for somebody else, elsewhere or at another time: for one query."""
        return _Within(self._rules, wanted(self._want.model_dump(), search_kwargs))

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [_node(hit) for hit in self._rules.find(query_bundle.query_str, self._want)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [_node(hit) for hit in await self._rules.afind(query_bundle.query_str, self._want)]


class _Within(ComityRetriever):
    """A retriever of rules that another one has opened."""

    def __init__(self, rules: Rules, want: Wanted) -> None:
        BaseRetriever.__init__(self)
        self._rules, self._want = rules, want


def _node(hit: Hit) -> NodeWithScore:
    metadata = metadata_of(hit)
    node = TextNode(
        id_=f"{hit.rule.id}@{hit.rule.version}",
        text=hit.rule.text,
        metadata=metadata,
        # the model reads where a rule stands and holds, not how it was found
        excluded_llm_metadata_keys=["score", "source"],
    )
    return NodeWithScore(node=node, score=hit.score)
