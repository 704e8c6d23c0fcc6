"""LanceDB and milvus-lite, used as their users would: vectors beside columns, the scope a filter.

Both get the columns that decide a scope, one row for each rule version, and one filter for each
question. What a scope is, is worked out beforehand: neither knows places in places or versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.made_vectors import Vectors
from benchmarks.scale.setup import K, stored
from comity.memory.places import ancestors
from comity.memory.store import to_micros
from comity.records import Scope

_ALWAYS, _NEVER = -(2**62), 2**62
_BATCH = 5_000


class Rows(NamedTuple):
    """The columns that decide a scope, one entry for each row of the book."""

    tenant: list[str]
    place: list[str]
    starts: NDArray[np.int64]
    """Microseconds since 1970."""
    ended: NDArray[np.int64]
    """When the rule ends, or a later version takes its place."""
    active: NDArray[np.bool_]
    bound: NDArray[np.bool_]
    """Whether it binds some audience only."""

    def admitted(self, scope: Scope) -> NDArray[np.bool_]:
        """Which rows the filter admits: to see that it is the scope of a search."""
        names = set(places_of(scope))
        inside = np.array([place in names for place in self.place])
        own = np.array([tenant == scope.tenant for tenant in self.tenant])
        at = at_of(scope)
        admitted: NDArray[np.bool_] = (
            inside & own & self.active & ~self.bound & (self.starts <= at) & (self.ended > at)
        )
        return admitted


def places_of(scope: Scope) -> list[str]:
    """The places whose rules apply."""
    return sorted({place for named in scope.place for place in ancestors(named)})


def at_of(scope: Scope) -> int:
    """When the facts are, in microseconds since 1970."""
    if scope.at is None:
        raise ValueError("made questions have a time")
    return to_micros(scope.at)


def read_rows(book: Path, rules: int) -> Rows:
    """The columns of a memory's rules."""
    columns = Rows(
        [],
        [],
        np.zeros(rules, np.int64),
        np.zeros(rules, np.int64),
        np.zeros(rules, np.bool_),
        np.zeros(rules, np.bool_),
    )
    versions: dict[tuple[str, str], list[int]] = {}
    for at, rule in enumerate(stored(book, rules)):
        columns.tenant.append(rule.tenant)
        columns.place.append(rule.place)
        columns.starts[at] = to_micros(rule.valid_from) if rule.valid_from else _ALWAYS
        columns.ended[at] = to_micros(rule.valid_to) if rule.valid_to else _NEVER
        columns.active[at] = rule.status == "active"
        columns.bound[at] = bool(rule.audience)
        earlier = versions.setdefault((rule.tenant, rule.id), [])
        if rule.status != "draft":
            for before in earlier:
                columns.ended[before] = min(columns.ended[before], columns.starts[at])
        earlier.append(at)
    return columns


def _module(name: str) -> Any:
    """A package that need not be there, without its types."""
    return import_module(name)


class Peer(NamedTuple):
    """One way of another store to find rules."""

    name: str
    build: float
    """Seconds that its index took, the rows read in not counted."""
    search: Callable[[int], list[int]]
    """Rows of the 20 nearest in the scope of a question of this number."""


class Asked(NamedTuple):
    """What all stores are given and asked."""

    rows: Rows
    vectors: Vectors
    """Of the rules, in the order of their rows: (n, dimension)."""
    queries: Vectors
    scopes: Sequence[Scope]


def lancedb(folder: Path, asked: Asked) -> Iterator[Peer]:
    """LanceDB without an index, then with each type that fits; one is good until the next."""
    lancedb, pyarrow = _module("lancedb"), _module("pyarrow")
    columns = {name: pyarrow.array(getattr(asked.rows, name)) for name in Rows._fields}
    flat = pyarrow.array(np.ascontiguousarray(asked.vectors).reshape(-1))
    dimension = asked.vectors.shape[1]
    columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, dimension)
    columns["row"] = pyarrow.array(np.arange(1, len(asked.vectors) + 1))
    database = lancedb.connect(folder / "lancedb")
    table: Any = database.create_table("rules", pyarrow.table(columns), mode="overwrite")
    kinds = _module("lancedb.index")
    for column in ("tenant", "place"):
        table.create_index(column, config=kinds.Bitmap())
    filters = [_sql(scope) for scope in asked.scopes]

    def search(number: int) -> list[int]:
        query = table.search(asked.queries[number]).distance_type("dot").where(filters[number])
        found: list[int] = query.select(["row", "_distance"]).limit(K).to_arrow()["row"].to_pylist()
        return found

    indexes = {"no index": None, "IVF_SQ": kinds.IvfSq, "IVF_HNSW_SQ": kinds.HnswSq}
    for name, kind in indexes.items():
        start = time.perf_counter()
        if kind:
            table.create_index("vector", config=kind(distance_type="dot"))
        built = time.perf_counter() - start
        yield Peer(f"lancedb {lancedb.__version__}, {name}", built, search)


def _sql(scope: Scope) -> str:
    """The scope as LanceDB's filter: made places and numbers only, nothing that a user typed."""
    places = ", ".join(f"'{place}'" for place in places_of(scope))
    at = at_of(scope)
    return (
        f"tenant = '{scope.tenant}' AND place IN ({places}) AND active AND NOT bound "
        f"AND starts <= {at} AND ended > {at}"
    )


def milvus_lite(folder: Path, asked: Asked) -> Iterator[Peer]:
    """milvus-lite without an index, then with each type that fits; one is good until the next."""
    version = _module("milvus_lite").__version__
    client = _module("pymilvus").MilvusClient(str(folder / "milvus.db"))
    _fill_milvus(client, asked)
    filters = [_expression(scope) for scope in asked.scopes]

    def search(number: int) -> list[int]:
        found = client.search(
            "rules", [asked.queries[number].tolist()], limit=K, filter=filters[number]
        )
        return [hit["row"] for hit in found[0]]

    try:
        for kind in ("FLAT", "IVF_SQ8", "HNSW"):
            start = time.perf_counter()
            _index_milvus(client, kind)
            built = time.perf_counter() - start
            yield Peer(f"milvus-lite {version}, {kind}", built, search)
    finally:
        client.close()


def _fill_milvus(client: Any, asked: Asked) -> None:
    kinds = _module("pymilvus").DataType
    schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", kinds.INT64, is_primary=True)
    schema.add_field("vector", kinds.FLOAT_VECTOR, dim=asked.vectors.shape[1])
    for name in ("tenant", "place"):
        schema.add_field(name, kinds.VARCHAR, max_length=200)
    for name in ("starts", "ended"):
        schema.add_field(name, kinds.INT64)
    for name in ("active", "bound"):
        schema.add_field(name, kinds.BOOL)
    if client.has_collection("rules"):
        client.drop_collection("rules")
    client.create_collection("rules", schema=schema)
    for first in range(0, len(asked.vectors), _BATCH):
        client.insert("rules", [_entity(asked, at) for at in _numbers(asked, first)])
    client.flush("rules")


def _numbers(asked: Asked, first: int) -> range:
    return range(first, min(first + _BATCH, len(asked.vectors)))


def _entity(asked: Asked, at: int) -> dict[str, Any]:
    rows = asked.rows
    return {
        "row": at + 1,
        "vector": asked.vectors[at].tolist(),
        "tenant": rows.tenant[at],
        "place": rows.place[at],
        "starts": int(rows.starts[at]),
        "ended": int(rows.ended[at]),
        "active": bool(rows.active[at]),
        "bound": bool(rows.bound[at]),
    }


def _index_milvus(client: Any, kind: str) -> None:
    if "vector" in client.list_indexes("rules"):
        client.release_collection("rules")
        client.drop_index("rules", "vector")
    parameters = client.prepare_index_params()
    parameters.add_index("vector", index_type=kind, metric_type="IP", params=_PARAMETERS[kind])
    client.create_index("rules", parameters)
    client.load_collection("rules")


_PARAMETERS: dict[str, dict[str, int]] = {
    "FLAT": {},
    "IVF_SQ8": {"nlist": 512},
    "HNSW": {"M": 16, "efConstruction": 200},
}


def _expression(scope: Scope) -> str:
    """The scope as Milvus' filter: made places and numbers only, nothing that a user typed."""
    places = ", ".join(f'"{place}"' for place in places_of(scope))
    at = at_of(scope)
    return (
        f'tenant == "{scope.tenant}" and place in [{places}] and active == true '
        f"and bound == false and starts <= {at} and ended > {at}"
    )
