"""Places: codes as paths, and the gazetteer that finds them under their names.

A code runs from wide to narrow: `world`, `CN` (ISO 3166-1), `CN-HN` (ISO 3166-2, always right
beneath its country, also where ISO nests subdivisions), `CN-HN/长沙市`, `CN-HN/长沙市/岳麓区`.
Taiwan, Hong Kong and Macau go by their ISO 3166-1 codes `TW`, `HK`, `MO`. Groups of countries
such as the EU can be declared as places of a memory's own, but have no members here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

from pydantic import Field

from comity.cache import cache_folder
from comity.errors import UnknownPlace
from comity.memory.mentions import Mention, Span, collapse, in_hyphened, only, resolve, stands
from comity.memory.names import Fold, in_word, lengths_by_start
from comity.memory.place_names import ALONE, Entry, Table, load_table
from comity.memory.place_paths import CODE, ancestors, contains, depth, parent
from comity.records import WORLD, Labels, Record

__all__ = [
    "Gazetteer",
    "Mention",
    "OwnPlace",
    "ancestors",
    "contains",
    "depth",
    "parent",
]

_SUBDIVISION = re.compile("[A-Z]{2}-[A-Z0-9]{1,3}")
_FEW = 6
OWN_CHINA = {"CN-TW": "TW", "CN-HK": "HK", "CN-MO": "MO"}


class OwnPlace(Record):
    """A place that the memory itself declares."""

    code: str = Field(
        pattern=f"^(?:{CODE.pattern})$", description="Where it is: `XA`, `XA-N/Holm`."
    )
    names: Labels = Field((), description="What it is called, in any language; the first is shown.")


class Canonical(Protocol):
    """Knows the codes of places."""

    def canonical(self, name_or_code: str) -> str:
        """The code of a place given by a code or a name. Raises `UnknownPlace`."""
        ...


class Gazetteer:
    """Finds places by code or name; knows the world's and the memory's own.

    The world's names are loaded at the first question (a few hundredths of a second; once for
    each version of the packages they are compiled, which takes about a second). `cache` is the
    folder that keeps them, by default the user's; the folder is an optimisation only.
    """

    def __init__(self, own: Iterable[OwnPlace] = (), *, cache: Path | None = None) -> None:
        self._own = tuple(own)
        self._cache = cache
        self._fold = Fold()

    @property
    def own(self) -> tuple[OwnPlace, ...]:
        """The places that the memory declares."""
        return self._own

    def with_own(self, own: Iterable[OwnPlace]) -> Gazetteer:
        """A gazetteer that knows these places too. Raises `UnknownPlace` for one that lies in a
        place which nobody knows or declares."""
        wider = Gazetteer((*self._own, *own), cache=self._cache)
        wider._check_own()
        return wider

    def canonical(self, name_or_code: str) -> str:
        """The code of a place given by its code, in any case, or by a Chinese or English name.

        `山东青岛`, `Paris, France` and `CN-HN/长沙` are read from their parts. Where several places
        share a name, the one of the higher level is meant: 吉林 is the province. Raises
        `UnknownPlace`, with a suggestion, for what nobody knows.
        """
        given = name_or_code.strip()
        code = self._by_code(given) or self._by_name(given) or self._by_parts(given)
        if code is None:
            raise UnknownPlace(self._unknown(given))
        return code

    def name(self, code: str, language: str = "en") -> str:
        """What to call a place in `en` or `zh`. Raises `UnknownPlace` for an unknown code."""
        shown = self._own_shown.get(code) or self._world.shown.get(code)
        if shown is None:
            raise UnknownPlace(self._unknown(code))
        return shown.split("\n")[1 if language.lower().startswith("zh") else 0]

    def find(self, text: str) -> tuple[Mention, ...]:
        """The places a text names, left to right, without overlaps, each the narrowest of its run.

        At each position the longest name counts: 浙江西部 is Zhejiang, 海南藏族自治州 lies in
        Qinghai. A name that is shared or is an everyday word counts only beside, or in some cases
        along with, a place around it: 北京市朝阳区. `Georgia` alone is the country, and the
        state where something in the United States is named. Inside an organisation's name a
        place counts as well (北京大学): one place too many only widens a scope.
        """
        return tuple(collapse(text, resolve(text, list(self._spans(text)))))

    @cached_property
    def _world(self) -> Table:
        return load_table(self._cache or cache_folder())

    @cached_property
    def _own_shown(self) -> dict[str, str]:
        self._check_own()
        return {place.code: _shown(place) for place in self._own}

    def _check_own(self) -> None:
        declared = {place.code for place in self._own}
        for place in self._own:
            above = parent(place.code)
            if above not in (None, WORLD) and above not in declared | self._world.shown.keys():
                raise UnknownPlace(
                    f"place {place.code} lies in {above}, which nobody knows: declare {above} too"
                )

    @cached_property
    def _own_names(self) -> dict[str, list[Entry]]:
        names: dict[str, list[Entry]] = {}
        for place in self._own:
            if place.code in self._own_shown:
                # a lower-case code is read segment by segment: the last one is a name too
                for name in {*place.names, place.code.rpartition("/")[2]}:
                    names.setdefault(self._key(name), []).append((-1, ALONE, place.code))
        return names

    @cached_property
    def _lengths(self) -> Mapping[str, list[int]]:
        merged = dict(self._world.lengths)
        for start, own in lengths_by_start(self._own_names).items():
            merged[start] = sorted({*own, *merged.get(start, ())}, reverse=True)
        return merged

    def _key(self, name: str) -> str:
        return self._fold.name(name)

    def _entries(self, key: str) -> list[Entry]:
        return self._own_names.get(key, []) + self._world.entries(key)

    def _by_code(self, given: str) -> str | None:
        for code in (given, given.upper(), given.lower()):
            if code in self._own_shown or code in self._world.shown or code in OWN_CHINA:
                return OWN_CHINA.get(code, code)
        head, *rest = given.split("/")
        code_or_none = self._by_code(head) if rest else None
        for segment in rest:
            code_or_none = self._inside(code_or_none, segment) if code_or_none else None
        return code_or_none

    def _inside(self, wide: str, name: str) -> str | None:
        entries = [
            e for e in self._entries(self._key(name)) if e[2] != wide and contains(wide, e[2])
        ]
        return only(entries)

    def _by_name(self, given: str) -> str | None:
        return only(self._entries(self._key(given)))

    def _by_parts(self, given: str) -> str | None:
        narrow, comma, wide = given.rpartition(",")
        if comma and (around := self._by_name(wide)):
            return self._inside(around, narrow)
        for cut in range(len(given) - 2, 1, -1):
            around = self._by_name(given[:cut])
            if around and (code := self._inside(around, given[cut:])):
                return code
        return None

    def _spans(self, text: str) -> Iterator[Span]:
        folded, known = text.translate(self._fold), self._lengths
        end = 0
        for start in range(len(text) - 1):
            lengths = known.get(folded[start : start + 2])
            if not lengths or start < end or in_hyphened(text, start, end):
                continue
            if span := self._span_at(text, folded, start, lengths):
                end = span.end
                yield span

    def _span_at(self, text: str, folded: str, start: int, lengths: list[int]) -> Span | None:
        if text[start].islower() or (start and in_word(text[start]) and in_word(text[start - 1])):
            return None
        for length in lengths:
            end, key = start + length, folded[start : start + length]
            known = key in self._world.names or key in self._own_names
            if known and len(key) == length and stands(text, start, end):
                return Span(start, end, self._entries(key))
        return None

    def _unknown(self, given: str) -> str:
        shared = sorted({entry[2] for entry in self._entries(self._key(given))})
        if shared:
            return f"{given!r} names several places: give the code of one, {_list(shared)}"
        head, slash, rest = given.rpartition("/")
        above = self._by_code(head) if slash else None
        alone = self._near(rest, above) if above else self._near(given, WORLD)
        near = self._beside(given) or ([alone] if alone else [])
        guess = f": did you mean {' or '.join(map(self._title, near))}?" if near else "."
        what = f"{self._title(above)} has no place" if above else "no place is"
        return (
            f"{what} known as {rest if above else given!r}{guess} A place of the memory's own is "
            "declared in documents.toml ([[place]] with code and names) or with `comity places add`"
        )

    def _title(self, code: str) -> str:
        names = dict.fromkeys((self.name(code), self.name(code, "zh")))
        return f"{code} ({', '.join(names)})"

    def _beside(self, given: str) -> list[str]:
        """For a code of a subdivision that is not there: those that begin as it does."""
        code = given.upper()
        if not _SUBDIVISION.fullmatch(code):
            return []
        return [
            known
            for known in sorted(self._world.shown)
            if _SUBDIVISION.fullmatch(known) and known[:4] == code[:4]
        ][:_FEW]

    def _near(self, given: str, above: str) -> str | None:
        from difflib import get_close_matches

        key = self._key(given)
        codes = {self._key(code): code for code in (*self._world.shown, *self._own_shown)}
        known = codes.keys() | self._own_names.keys() | self._world.names.keys()
        alike = [name for name in known if abs(len(name) - len(key)) <= 3 and name[:1] == key[:1]]
        for name in get_close_matches(key, sorted(alike), n=5, cutoff=0.7):
            code = codes.get(name) or self._inside(above, name)
            if code and contains(above, code):
                return code
        return None


def _list(codes: list[str]) -> str:
    return ", ".join(codes[:5]) + (" …" if len(codes) > 5 else "")


def _shown(place: OwnPlace) -> str:
    names = place.names or (place.code.rpartition("/")[2],)
    latin = next((name for name in names if name.isascii()), names[0])
    chinese = next((name for name in names if not name.isascii()), names[0])
    return f"{latin}\n{chinese}"
