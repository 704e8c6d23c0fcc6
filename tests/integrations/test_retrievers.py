"""LangChain's and LlamaIndex's own chains and engines, over a memory here and a gateway there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from comity import Memory, Rule
from comity.errors import NotFound, SettingsError, StoreError
from comity.memory.embed import HashEmbedder
from comity.records import Source
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway
from test_gateway import served

QUESTION = "May dogs run free in the park?"
RULES = [
    Rule(
        id="sh/dogs",
        title="Park Order",
        article="Article 1",
        text="Dogs are kept on a leash in the park",
        place="CN-SH",
        authority="local",
        valid_from=datetime(2020, 1, 1, tzinfo=UTC),
        source=Source(document="park.md", sha256="0" * 64, start=0, end=9),
    ),
    Rule(id="bj/dogs", text="Dogs may run free in the park", place="CN-BJ"),
    Rule(id="guides", text="Guide dogs may run free in the park", audience="guide"),
    Rule(id="secret", text="Dogs of the other tenant run free in the park", tenant="other"),
]


@pytest.fixture
def rules(memory: Memory) -> Memory:
    memory.add(RULES[:3])
    memory.add(RULES[3])
    return memory


@pytest.fixture
def gateway() -> Iterator[tuple[str, Memory]]:
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        memory.add(RULES[:3])
        memory.add(RULES[3])
        with served(create_app(memory, Gateway())) as url:
            yield url, memory


def ids(found: Any) -> list[str]:
    return [each.metadata["id"] for each in found]


def test_a_langchain_chain_gets_the_rules_of_its_scope(rules: Memory) -> None:
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnablePassthrough

    from comity.integrations.langchain import ComityRetriever

    seen: list[Any] = []

    def noted(prompt: Any) -> Any:
        seen.append(prompt)
        return prompt

    retriever = ComityRetriever(memory=rules, search_kwargs={"place": "CN-SH"})
    chain = (
        {"rules": retriever, "question": RunnablePassthrough()}
        | ChatPromptTemplate.from_template("{rules} {question}")
        | noted
        | FakeListChatModel(responses=["On a leash."])
        | StrOutputParser()
    )
    assert chain.invoke(QUESTION) == "On a leash."
    assert "kept on a leash" in seen[0].to_string()
    assert "Dogs may run free" not in seen[0].to_string()


def test_a_langchain_document_says_what_its_rule_is(rules: Memory) -> None:
    from comity.integrations.langchain import ComityRetriever

    (found,) = ComityRetriever(memory=rules).invoke(QUESTION, place="CN-SH", k=1)
    assert (found.id, found.page_content) == ("sh/dogs@1", RULES[0].text)
    score = found.metadata.pop("score")
    assert score > 0
    assert found.metadata == {
        "id": "sh/dogs",
        "version": 1,
        "title": "Park Order",
        "article": "Article 1",
        "place": "CN-SH",
        "audience": [],
        "authority": "local",
        "valid_from": "2020-01-01T00:00:00+00:00",
        "valid_to": None,
        "source": "park.md",
    }


async def test_a_call_may_say_the_scope_anew_but_not_the_tenant(rules: Memory) -> None:
    from langchain_core.runnables import ConfigurableField

    from comity.integrations.langchain import ComityRetriever

    retriever = ComityRetriever(memory=rules, search_kwargs={"place": "CN-SH"})
    assert ids(retriever.invoke(QUESTION)) == ["sh/dogs"]
    assert ids(await retriever.ainvoke(QUESTION, place="CN-BJ")) == ["bj/dogs"]
    assert set(ids(retriever.invoke(QUESTION, audience="guide"))) == {"sh/dogs", "guides"}
    assert ids(retriever.invoke(QUESTION, at="2019-05-01")) == []
    field = retriever.configurable_fields(search_kwargs=ConfigurableField(id="scope"))
    config: Any = {"configurable": {"scope": {"place": "CN-BJ"}}}
    assert ids(field.invoke(QUESTION, config)) == ["bj/dogs"]
    with pytest.raises(SettingsError, match="tenant"):
        retriever.invoke(QUESTION, tenant="other")


async def test_a_llamaindex_engine_gets_the_rules_of_its_scope(rules: Memory) -> None:
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.schema import MetadataMode

    from comity.integrations.llamaindex import ComityRetriever

    retriever = ComityRetriever(rules, place="CN-SH")
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    answer = engine.query(QUESTION)
    assert "kept on a leash" in str(answer)
    (node,) = answer.source_nodes
    assert node.score is not None
    assert node.score > 0
    assert node.metadata["valid_from"] == "2020-01-01T00:00:00+00:00"
    assert "park.md" not in node.node.get_content(MetadataMode.LLM)
    assert [n.node.node_id for n in (await engine.aquery(QUESTION)).source_nodes] == ["sh/dogs@1"]
    elsewhere = await retriever.within(place="CN-BJ").aretrieve(QUESTION)
    assert [n.metadata["id"] for n in elsewhere] == ["bj/dogs"]


async def test_a_gateway_elsewhere_gives_the_rules_of_its_keys_tenant(
    gateway: tuple[str, Memory],
) -> None:
    from comity.integrations.langchain import ComityRetriever
    from comity.integrations.llamaindex import ComityRetriever as IndexRetriever

    url, memory = gateway
    key = create_key(memory, "default", "auditor").secret
    others = create_key(memory, "other", "auditor").secret
    retriever = ComityRetriever(url=url, key=SecretStr(key))
    here = ComityRetriever(memory=memory)
    scope: Any = {"place": "CN-SH", "audience": "guide", "k": 2}
    assert retriever.invoke(QUESTION, **scope) == here.invoke(QUESTION, **scope) != []
    assert ids(await retriever.ainvoke(QUESTION, place="CN-BJ")) == ["bj/dogs"]
    theirs = await IndexRetriever(url=url, key=others, tenant="default").aretrieve(QUESTION)
    assert [n.metadata["id"] for n in theirs] == ["secret"]


def test_what_a_gateway_refuses_says_why(gateway: tuple[str, Memory]) -> None:
    from comity.integrations.llamaindex import ComityRetriever

    url, memory = gateway
    client = create_key(memory, "default", "client").secret
    with pytest.raises(SettingsError, match="unknown or was revoked"):
        ComityRetriever(url=url, key="comity-wrong").retrieve(QUESTION)
    with pytest.raises(SettingsError, match="read rules"):
        ComityRetriever(url=url, key=client).retrieve(QUESTION)
    key = create_key(memory, "default", "auditor").secret
    with pytest.raises(NotFound, match="no revision 99"):
        ComityRetriever(url=url, key=key, as_of=99).retrieve(QUESTION)
    with pytest.raises(StoreError, match="cannot be reached"):
        ComityRetriever(url="http://127.0.0.1:9", key=key).retrieve(QUESTION)


def test_a_retriever_needs_rules_from_one_side_and_words_that_are_known(memory: Memory) -> None:
    from comity.integrations.llamaindex import ComityRetriever

    with pytest.raises(SettingsError, match="or the url and key"):
        ComityRetriever()
    with pytest.raises(SettingsError, match="or the url and key"):
        ComityRetriever(memory, url="http://localhost")
    with pytest.raises(SettingsError, match="plase"):
        ComityRetriever(memory, plase="CN")
