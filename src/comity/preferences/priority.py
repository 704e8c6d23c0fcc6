"""The priority matrix: who wins where provider and user want different things.

MetaAlign (arXiv 2410.14184) decides such conflicts by a matrix whose cells were not published;
the cells here are our own choice, and data (`data/priority.toml`). Rules in force stand above
all preferences and are not weighed: a preference never enters a ruling.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, Protocol, get_args

from pydantic import Field, TypeAdapter, ValidationError

from comity.errors import SettingsError
from comity.preferences.disagree import disagree
from comity.preferences.orders import gives_orders
from comity.records import Preference, PreferenceKind, Record, Stance, Weighed

Side = Literal["provider", "user"]
_OTHERWISE = "otherwise"
_ORIGINS = ("stated", "stored", "inferred")  # of one user's wishes, the firmer goes first


class Cell(Record):
    """Who wins one kind of disagreement."""

    winner: Side = Field(description="Whose wish holds.")
    because: str = Field(min_length=1, description="Why, as the record says it.")


class Understands(Protocol):
    """Finds kind and stance of a preference that has none."""

    def understood(self, preference: Preference) -> Preference:
        """The preference with its kind and stance."""


class PriorityMatrix:
    """Who wins, for each kind of preference and each pair of stances."""

    def __init__(self, cells: Mapping[str, Mapping[str, Cell]]) -> None:
        """`cells` by kind, then by `PROVIDER/USER` stances or `otherwise`.

        Raises `ValueError` for an unknown kind or stance, and where a kind has no `otherwise`.
        """
        kinds = get_args(PreferenceKind)
        for kind in kinds:
            if _OTHERWISE not in cells.get(kind, {}):
                raise ValueError(f"{kind}: the matrix has no cell `{_OTHERWISE}`")
        for kind, row in cells.items():
            if kind not in kinds:
                raise ValueError(f"{kind}: no kind of preference; known are {', '.join(kinds)}")
            for name in row:
                _check_cell(kind, name)
        self._cells = cells

    def cell(self, provider: Preference, user: Preference) -> Cell:
        """Who wins between two wishes of one kind; it must be known."""
        row = self._cells[provider.kind]
        return row.get(f"{provider.stance}/{user.stance}", row[_OTHERWISE])


def _check_cell(kind: str, name: str) -> None:
    stances = get_args(Stance)
    parts = name.split("/")
    if name != _OTHERWISE and (len(parts) != 2 or not set(parts) <= set(stances)):
        raise ValueError(
            f"{kind}: no cell {name!r}; write PROVIDER/USER, each of {', '.join(stances)}"
        )


def read_matrix(path: Path) -> PriorityMatrix:
    """The matrix of a TOML file. Raises `SettingsError`, naming the file and what is wrong."""
    try:
        return _matrix_of(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"{path}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


@cache
def default_matrix() -> PriorityMatrix:
    """The matrix that comes with Comity."""
    file = files("comity.preferences") / "data" / "priority.toml"
    return _matrix_of(file.read_text(encoding="utf-8"))


def _matrix_of(text: str) -> PriorityMatrix:
    told = tomllib.loads(text)
    return PriorityMatrix(TypeAdapter(dict[str, dict[str, Cell]]).validate_python(told))


def weigh(
    preferences: Sequence[Preference],
    *,
    matrix: PriorityMatrix | None = None,
    understands: Understands | None = None,
) -> tuple[Weighed, ...]:
    """What becomes of each wish of provider and user, in the order given.

    A user's text that gives orders is refused. Of two wishes of one user that contradict one
    another the stated goes before the stored and the stored before the inferred; of equals the
    later holds. Where provider and user disagree about one kind of thing the matrix decides.
    Wishes that no code can see to disagree are all kept: the prompt says who goes first.
    """
    matrix = matrix or default_matrix()
    known = [understands.understood(each) if understands else each for each in preferences]
    lost: dict[int, Weighed] = {}
    for number, one in enumerate(known):
        if one.by == "user" and (why := gives_orders(one.text)):
            lost[number] = Weighed(preference=one, outcome="refused", reason=why)
    _between_users(known, lost)
    _between_both(known, lost, matrix)
    return tuple(
        lost.get(number) or Weighed(preference=one, outcome="kept")
        for number, one in enumerate(known)
    )


def _between_users(known: Sequence[Preference], lost: dict[int, Weighed]) -> None:
    """Let all but the firmest of a user's contradicting wishes give way."""
    mine = [n for n, one in enumerate(known) if one.by == "user" and n not in lost]
    firmest = sorted(mine, key=lambda n: (_ORIGINS.index(known[n].origin), -n))
    for at, number in enumerate(firmest):
        one = known[number]
        for winner in firmest[:at]:
            other = known[winner]
            if winner not in lost and _same_kind(one, other) and disagree(one, other):
                firmer = one.origin != other.origin
                reason = f"a wish that was {other.origin}" if firmer else "the user's later wish"
                lost[number] = _gives_way(one, other, f"it contradicts {reason}")
                break


def _between_both(
    known: Sequence[Preference], lost: dict[int, Weighed], matrix: PriorityMatrix
) -> None:
    """Let the matrix decide between each wish of the provider and each of the user.

    First what the user loses: a wish that is not kept itself takes none of the provider's away.
    """
    sides: tuple[Side, Side] = ("provider", "user")
    for winning in sides:
        for p, provider in enumerate(known):
            for u, user in enumerate(known):
                if {p, u} & lost.keys() or (provider.by, user.by) != sides:
                    continue
                if not _same_kind(provider, user) or not disagree(provider, user):
                    continue
                cell = matrix.cell(provider, user)
                if cell.winner == winning == "provider":
                    lost[u] = _gives_way(user, provider, cell.because)
                elif cell.winner == winning:
                    lost[p] = _gives_way(provider, user, cell.because)


def _same_kind(one: Preference, other: Preference) -> bool:
    return bool(one.kind) and one.kind == other.kind


def _gives_way(one: Preference, winner: Preference, reason: str) -> Weighed:
    return Weighed(preference=one, outcome="gives_way", winner=winner.text, reason=reason)
