"""A Milvus server: where it is, and the collection there that a memory's index is."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from comity.errors import EmbedderError, MissingExtra, SettingsError, StoreError
from comity.memory.milvus_collection import SECONDS, SECONDS_TO_LOAD, MilvusCollection, told
from comity.memory.milvus_entries import MOST_BYTES, MOST_LABELS

FORMAT = "1"
KIND = "milvus:"
_DIGITS = 32  # of a digest
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]{0,199}")
_PARAMETER = re.compile("[A-Za-z0-9_.]{1,40}")
_SEARCHING = frozenset({"ef", "nprobe", "search_list", "reorder_k", "level"})


class Address(NamedTuple):
    """Where an index lies, and how its vectors are indexed."""

    server: str
    """`http://host:19530`, or https."""
    database: str = ""
    collection: str = ""
    """Empty: named after the memory."""
    vectors: str = ""
    """Milvus's name of an index type; empty: what suits the server."""
    building: tuple[tuple[str, int | str], ...] = ()
    searching: tuple[tuple[str, int | str], ...] = ()


def address_of(index: str) -> Address:
    """The address of `milvus:http://host:19530/database?collection=…&vectors=HNSW&M=16&ef=128`.

    Everything after the port may be left out. Raises `SettingsError`.
    """
    url = _url(index)
    if url is None or url.scheme not in ("http", "https") or url.fragment or url.username:
        raise SettingsError(
            "index milvus:…: write milvus:http://HOST:19530, and the token as COMITY_INDEX_TOKEN"
        )
    given = dict(parse_qsl(url.query, keep_blank_values=True))
    collection, database = given.pop("collection", ""), url.path.strip("/")
    wrong = [name for name in (collection, database) if name and not _NAME.fullmatch(name)]
    for item in given.items():
        wrong += [part for part in item if not _PARAMETER.fullmatch(part)]
    if wrong:
        raise SettingsError(
            f"index {index!r}: {wrong[0]!r} is no name that Milvus takes (letters, digits, _)"
        )
    vectors = given.pop("vectors", "")
    parameters = [(key, int(v) if v.isdecimal() else v) for key, v in given.items()]
    return Address(
        server=f"{url.scheme}://{url.netloc}",
        database=database,
        collection=collection,
        vectors=vectors,
        building=tuple(item for item in parameters if item[0] not in _SEARCHING),
        searching=tuple(item for item in parameters if item[0] in _SEARCHING),
    )


def _url(index: str) -> SplitResult | None:
    """What follows `milvus:`; None where it names no host, or a port that is none."""
    try:
        url = urlsplit(index.removeprefix(KIND))
        return url if url.hostname and url.port != 0 else None
    except ValueError:
        return None


class MilvusServer:
    """A connection to a server. Methods raise `StoreError` where it cannot be used."""

    def __init__(self, address: Address, token: str = "") -> None:
        """Connect. Raises `MissingExtra` and `StoreError`."""
        self.address = address
        self._where = f"Milvus at {address.server}"
        client = _client()
        with told(self._where):
            self._client: Any = client(
                uri=address.server, token=token, db_name=address.database, timeout=SECONDS
            )
            self._lite = "lite" in self._client.get_server_version()

    def open(self, memory: str, embedder: str, dimension: int) -> MilvusCollection:
        """The collection of a memory of this identity, loaded; made if it is not there.

        Each one made has a name of its own, so that nobody takes one that is being filled for
        the one that was dropped. Raises `EmbedderError` for a collection of another embedder,
        and `StoreError` for one of another memory or version of Comity.
        """
        with told(self._where):
            names = self._names(memory)
            name = names[0] if names else f"{self._stem(memory)}_{secrets.token_hex(4)}"
            if not names:
                self._make(name, memory, embedder, dimension)
            properties = self._client.describe_collection(name)["properties"]
            self._check(name, properties, memory, embedder)
            missing = self._indexes(frozenset(self._client.list_indexes(name)))
            if len(missing):
                # the collection is empty: there is nothing to wait for
                self._client.create_index(name, missing, sync=False, timeout=SECONDS)
        collection = MilvusCollection(
            self._client, name, self._where, dimension, dict(self.address.searching)
        )
        collection.load()
        return collection

    def described(self, memory: str) -> dict[str, Any]:
        """What the index of a memory was built from; empty where there is none."""
        with told(self._where):
            for name in self._names(memory):
                properties = self._client.describe_collection(name)["properties"]
                collection = MilvusCollection(self._client, name, self._where, 1, {})
                collection.load()
                return {
                    "index_revision": collection.mark().revision,
                    "embedder": properties.get("comity.embedder", ""),
                    "collection": name,
                    "server": self.address.server,
                }
        return {}

    def drop(self, memory: str) -> None:
        """Delete the collection of a memory; harmless where there is none."""
        with told(self._where):
            for name in self._names(memory):
                self._client.drop_collection(name)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()

    def _stem(self, memory: str) -> str:
        return self.address.collection or f"comity_{memory}"

    def _names(self, memory: str) -> list[str]:
        own = re.compile(rf"{re.escape(self._stem(memory))}_[0-9a-f]{{8}}")
        return sorted(name for name in self._client.list_collections() if own.fullmatch(name))

    def _check(self, name: str, found: Mapping[str, str], memory: str, embedder: str) -> None:
        where = f"the collection {name} in {self._where}"
        if found.get("comity.format") != FORMAT or found.get("comity.memory") != memory:
            raise StoreError(
                f"{where} belongs to another memory or version of Comity: name another one "
                "(…?collection=NAME), or drop it"
            )
        if (built := found.get("comity.embedder")) != embedder:
            raise EmbedderError(
                f"{where} was built with the embedder {built!r}, not {embedder!r}: use that one, "
                "or run: comity index rebuild"
            )

    def _make(self, name: str, memory: str, embedder: str, dimension: int) -> None:
        self._client.create_collection(
            name,
            schema=_schema(dimension),
            properties={
                "comity.format": FORMAT,
                "comity.memory": memory,
                "comity.embedder": embedder,
            },
            consistency_level="Strong",
            timeout=SECONDS_TO_LOAD,
        )

    def _indexes(self, made: frozenset[str]) -> Any:
        """The indexes that a collection has not yet: whoever made it may have been killed."""
        # milvus-lite's graph knows nothing of narrow scopes: there, exact is what never starves
        dense = self.address.vectors or ("FLAT" if self._lite else "AUTOINDEX")
        scalars = () if self._lite else ("place", "labels", "overrides", "row")
        words = {"bm25_k1": 1.2, "bm25_b": 0.75}  # as in `lexical`
        wanted: list[tuple[str, str, str, Mapping[str, Any]]] = [
            ("vector", dense, "IP", dict(self.address.building)),
            ("sparse", "SPARSE_INVERTED_INDEX", "BM25", words),
            *((field, "INVERTED", "", {}) for field in scalars),
        ]
        indexes = _client().prepare_index_params()
        for field, kind, metric, params in wanted:
            if field not in made:
                extra = {"metric_type": metric, "params": params} if metric else {}
                indexes.add_index(field, index_name=field, index_type=kind, **extra)
        return indexes


def _client() -> Any:
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise MissingExtra("an index in Milvus", "milvus") from error
    # it logs each error with its traceback, before the one that tells what to do
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return MilvusClient


def _schema(dimension: int) -> Any:
    from pymilvus import DataType, Function, FunctionType

    schema = _client().create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("tenant", DataType.VARCHAR, max_length=_DIGITS, is_partition_key=True)
    schema.add_field("place", DataType.VARCHAR, max_length=_DIGITS)
    for field in ("row", "known_from", "known_to", "starts", "ended"):
        schema.add_field(field, DataType.INT64)
    for field in ("everybody", "mandatory"):
        schema.add_field(field, DataType.BOOL)
    for field in ("labels", "overrides"):
        schema.add_field(
            field,
            DataType.ARRAY,
            element_type=DataType.VARCHAR,
            max_length=_DIGITS,
            max_capacity=MOST_LABELS,
        )
    schema.add_field("note", DataType.VARCHAR, max_length=MOST_BYTES)
    schema.add_field("words", DataType.VARCHAR, max_length=MOST_BYTES, enable_analyzer=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    schema.add_function(
        Function(
            name="bm25",
            function_type=FunctionType.BM25,
            input_field_names=["words"],
            output_field_names=["sparse"],
        )
    )
    return schema
