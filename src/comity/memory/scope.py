"""Which rules can apply: a table of columns, one row per rule version, and masks over it.

A rule applies in its place and in every place inside it, binds its audience, and is in force
for facts at a moment within its validity, as long as no later version has taken its place. A
mask is decided by these alone and comes before any ranking.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.memory.moments import ALWAYS, NEVER_ENDS, Moments, in_force
from comity.memory.places import ancestors
from comity.memory.store import StoredRule, to_micros
from comity.records import Scope

_WORTH_A_THREAD = 50_000  # rows; below that starting one costs more than it saves
_SCOPES_KEPT = 32  # each of a byte a rule
_COLUMNS: dict[str, Any] = {
    "row": np.int64,
    "kind": np.int32,
    "revision": np.int32,
    "starts": np.int64,
    "ends": np.int64,
    "ended": np.int64,
    "in_force": np.bool_,
    "mandatory": np.bool_,
}


class _Kind(NamedTuple):
    """What a mask decides by beside time: rows of equal kind apply to the same scopes."""

    tenant: str
    place: str
    audience: tuple[str, ...]


class _Succession(NamedTuple):
    """From `since` on, a version gives way to one that a revision brought."""

    position: int
    revision: int
    since: int


class ScopeMask(NamedTuple):
    """The rows that can apply in one scope."""

    rows: NDArray[np.bool_]
    """One flag per position that the table had; later ones are not in the mask."""
    kinds: tuple[int, ...]
    """The kinds that the scope admits: a coarse filter for engines that know no row masks."""
    revision: int = 0
    """Revision of the memory that the mask was made of."""

    @property
    def side_by_side(self) -> bool:
        """Whether meaning and words are worth being searched at the same time."""
        return len(self.rows) >= _WORTH_A_THREAD

    def digest(self) -> bytes:
        """Names the rows: two scopes that admit the same rules have the same one."""
        flags: Any = np.packbits(self.rows)
        return hashlib.sha256(len(self.rows).to_bytes(8, "big") + flags.tobytes()).digest()


class ScopeTable:
    """Columns over all rule versions of a memory, in the order of their rows.

    A *position* is an index into these columns, and into an index's vectors and postings. All
    arrays have one entry per position; times are microseconds since 1970 UTC.
    """

    def __init__(self) -> None:
        self._size = 0
        self._columns = {name: np.empty(0, dtype) for name, dtype in _COLUMNS.items()}
        self._kinds: list[_Kind] = []
        self._kind_numbers: dict[_Kind, int] = {}
        self._kind_labels: list[frozenset[str]] = []
        self._kinds_of_place: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._successions: list[_Succession] = []
        self._succession_rows = np.empty((0, 3), np.int64)  # the same, made when asked for
        self._overriders: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._mandatory = np.empty(0, np.int64)
        self._labels: dict[str, frozenset[str]] = defaultdict(frozenset)
        self._moments = Moments()
        self._flags: OrderedDict[tuple[int, ...], NDArray[np.bool_]] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    @property
    def last_row(self) -> int:
        """The book's row of the last position; 0 for an empty table."""
        return int(self._columns["row"][self._size - 1]) if self._size else 0

    @property
    def kinds(self) -> NDArray[np.int32]:
        """Kind number of each position."""
        kinds: NDArray[np.int32] = self._columns["kind"][: self._size]
        return kinds

    def append(self, stored: StoredRule, earlier: Sequence[int] = ()) -> int:
        """Add a rule version and give its position.

        `earlier` holds the book's rows of the earlier versions of the same rule.
        """
        self.extend([stored], self.prepare([stored]), {stored.row: earlier})
        return self._size - 1

    def prepare(self, batch: Sequence[StoredRule]) -> list[int]:
        """Make room for rule versions, and give the number of each one's kind.

        Masks may be made meanwhile: they know nothing of it.
        """
        self._reserve(self._size + len(batch))
        return [self._number_of(_Kind(s.rule.tenant, s.rule.place, s.rule.audience)) for s in batch]

    def extend(
        self,
        batch: Sequence[StoredRule],
        kinds: Sequence[int],
        earlier: Mapping[int, Sequence[int]],
    ) -> None:
        """Add what was prepared.

        `earlier` holds by row the book's rows of the earlier versions of the same rule.
        """
        rules = [stored.rule for stored in batch]
        ends = [to_micros(r.valid_to) if r.valid_to else NEVER_ENDS for r in rules]
        starts = [to_micros(r.valid_from) if r.valid_from else ALWAYS for r in rules]
        values: dict[str, Sequence[int]] = {
            "row": [stored.row for stored in batch],
            "kind": kinds,
            "revision": [stored.revision for stored in batch],
            "starts": starts,
            "ends": ends,
            "ended": ends,
            "in_force": [rule.status == "active" for rule in rules],
            "mandatory": [rule.mandatory for rule in rules],
        }
        first = self._size
        for name, value in values.items():
            self._columns[name][first : first + len(batch)] = value
        mandatory = [first + at for at, rule in enumerate(rules) if rule.mandatory]
        if mandatory:
            self._mandatory = np.concatenate((self._mandatory, np.array(mandatory, np.int64)))
        self._size += len(batch)
        ended: list[int] = []
        for position, (stored, since) in enumerate(zip(batch, starts, strict=True), start=first):
            rule = stored.rule
            before = earlier.get(stored.row, ())
            if before and rule.status != "draft":
                ended += self._succeed(self.positions(before), stored.revision, since)
            for overridden in rule.overrides:
                self._overriders[rule.tenant, overridden].append(position)
        self._moments.change(
            {name: column[: self._size] for name, column in self._columns.items()},
            np.array([*ended, *range(first, self._size)], np.int64),
        )

    def _reserve(self, size: int) -> None:
        if size > len(self._columns["row"]):
            room = max(1024, size, len(self._columns["row"]) * 3 // 2)
            self._columns = {
                name: np.concatenate((column, np.zeros(room - len(column), column.dtype)))
                for name, column in self._columns.items()
            }

    def _number_of(self, kind: _Kind) -> int:
        number = self._kind_numbers.get(kind)
        if number is None:
            number = self._kind_numbers[kind] = len(self._kinds)
            self._kinds.append(kind)
            self._kind_labels.append(frozenset(label.casefold() for label in kind.audience))
            self._labels[kind.tenant] |= set(kind.audience)
            self._kinds_of_place[kind.tenant, kind.place].append(number)  # last: all is known now
        return number

    def _succeed(self, positions: NDArray[np.int64], revision: int, since: int) -> list[int]:
        ended = self._columns["ended"]
        for position in positions:
            self._successions.append(_Succession(int(position), revision, since))
            ended[position] = min(ended[position], since)
        return list(map(int, positions))

    def positions(self, rows: Iterable[int]) -> NDArray[np.int64]:
        """Positions of rows of the book, which must be in the table."""
        wanted = np.fromiter(rows, np.int64)
        found = np.searchsorted(self._columns["row"][: self._size], wanted)
        return found.astype(np.int64)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the book at positions."""
        rows: NDArray[np.int64] = self._columns["row"][positions]
        return rows

    def mask(self, scope: Scope) -> ScopeMask:
        """The positions whose rule can apply in the scope."""
        kinds = tuple(self._admitted(scope))
        at = to_micros(scope.at or datetime.now(UTC))
        columns = {name: column[: self._size] for name, column in self._columns.items()}
        if scope.as_of is None:
            return ScopeMask(self._of_kinds(kinds) & self._moments.at(at, columns), kinds)
        columns["ended"] = self._ended_as_of(scope.as_of)
        rows = self._of_kinds(kinds) & in_force(columns, at)
        rows &= columns["revision"] <= scope.as_of
        return ScopeMask(rows, kinds)

    def _of_kinds(self, kinds: tuple[int, ...]) -> NDArray[np.bool_]:
        """One flag a position; those of the last kinds asked for are kept."""
        known = self._flags.pop(kinds, np.empty(0, np.bool_))
        if len(known) < self._size:
            admitted = np.zeros(max(len(self._kinds), 1), np.bool_)
            admitted[list(kinds)] = True
            new = np.take(admitted, self._columns["kind"][len(known) : self._size])
            known = np.concatenate((known, new)) if len(known) else new
        self._flags[kinds] = known
        if len(self._flags) > _SCOPES_KEPT:
            self._flags.popitem(last=False)
        return known

    def _admitted(self, scope: Scope) -> list[int]:
        places = {place for named in scope.place for place in ancestors(named)} or {"world"}
        labels = frozenset(label.casefold() for label in scope.audience)
        return [
            number
            for place in sorted(places)
            for number in self._kinds_of_place.get((scope.tenant, place), ())
            if not (bound := self._kind_labels[number]) or not bound.isdisjoint(labels)
        ]

    def _ended_as_of(self, revision: int) -> NDArray[np.int64]:
        ended: NDArray[np.int64] = self._columns["ends"][: self._size].copy()
        if len(self._succession_rows) != len(self._successions):
            self._succession_rows = np.array(self._successions, np.int64).reshape(-1, 3)
        known = self._succession_rows[self._succession_rows[:, 1] <= revision]
        np.minimum.at(ended, known[:, 0], known[:, 2])
        return ended

    def mandatory(self, mask: ScopeMask) -> NDArray[np.int64]:
        """Positions in the mask whose rule is mandatory."""
        known = self._mandatory[self._mandatory < len(mask.rows)]
        found: NDArray[np.int64] = known[mask.rows[known]]
        return found

    def overriders(self, tenant: str, rule_id: str, mask: ScopeMask) -> list[int]:
        """Positions in the mask whose rule declares a conflict with the rule of this id."""
        positions = self._overriders.get((tenant, rule_id), ())
        return [p for p in positions if p < len(mask.rows) and mask.rows[p]]

    def audiences(self, tenant: str) -> frozenset[str]:
        """All labels that the tenant's rules name."""
        return self._labels.get(tenant, frozenset())

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Everything needed to load the table again: arrays, and JSON-ready data.

        It stays what it is while rules are added.
        """
        arrays = {name: column[: self._size] for name, column in self._columns.items()}
        arrays["ended"] = arrays["ended"].copy()  # alone in being changed where it stands
        arrays["successions"] = np.array(self._successions, np.int64).reshape(-1, 3)
        overriders = [[*key, positions[:]] for key, positions in self._overriders.items()]
        return arrays, {"kinds": self._kinds[:], "overriders": overriders}

    @classmethod
    def from_state(cls, arrays: dict[str, NDArray[Any]], data: dict[str, Any]) -> ScopeTable:
        """The table of `state`."""
        table = cls()
        table._columns = {name: arrays[name] for name in _COLUMNS}
        table._size = len(table._columns["row"])
        table._mandatory = np.flatnonzero(table._columns["mandatory"])
        for tenant, place, audience in data["kinds"]:
            table._number_of(_Kind(tenant, place, tuple(audience)))
        table._successions = [_Succession(*change) for change in arrays["successions"].tolist()]
        for tenant, rule_id, positions in data["overriders"]:
            table._overriders[tenant, rule_id] = positions
        table._reserve(table._size + 1)
        return table
