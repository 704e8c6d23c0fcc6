"""Places: codes as paths, canonical codes, and places found in running text."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from comity.errors import UnknownPlace
from comity.memory.place_names import compile_table
from comity.memory.places import Gazetteer, OwnPlace, ancestors, contains, depth, parent

CODES = (
    "world", "CN", "CN-HN", "CN-HN/长沙市", "CN-HN/长沙市/岳麓区", "CN-HE", "CN-HE/石家庄市",
    "US", "US-CA", "US-CA/Saint", "US-CA/Saint-Denis", "FR", "FR/Saint", "FR/Saint-Denis",
    "XA", "XA-N/Holm", "EU", "C", "CN-H",
)  # fmt: skip


@pytest.fixture(scope="module")
def gazetteer(tmp_path_factory: pytest.TempPathFactory) -> Gazetteer:
    return Gazetteer(cache=tmp_path_factory.mktemp("cache"))


# Paths


def test_the_parent_of_a_place_is_the_place_right_around_it() -> None:
    assert parent("world") is None
    assert parent("CN") == "world"
    assert parent("CN-HN") == "CN"
    assert parent("GB-LND") == "GB"
    assert parent("CN-HN/长沙市") == "CN-HN"
    assert parent("CN-HN/长沙市/岳麓区") == "CN-HN/长沙市"
    assert parent("FR/Saint-Denis") == "FR"


def test_ancestors_run_from_the_world_to_the_place_itself() -> None:
    assert ancestors("CN-HN/长沙市") == ("world", "CN", "CN-HN", "CN-HN/长沙市")
    assert ancestors("world") == ("world",)


def test_depth_counts_the_levels_below_the_world() -> None:
    assert [depth(code) for code in ("world", "CN", "CN-HN", "CN-HN/长沙市")] == [0, 1, 2, 3]


def test_a_rule_of_a_province_does_not_reach_its_neighbour_or_its_country() -> None:
    assert contains("CN-HN", "CN-HN/长沙市")
    assert not contains("CN-HN", "CN-HE")
    assert not contains("CN-HN", "CN")
    assert not contains("FR/Saint", "FR/Saint-Denis")


@given(st.sampled_from(CODES), st.sampled_from(CODES), st.sampled_from(CODES))
def test_containment_is_a_partial_order(a: str, b: str, c: str) -> None:
    assert contains(a, a)
    assert not (contains(a, b) and contains(b, a)) or a == b
    assert not (contains(a, b) and contains(b, c)) or contains(a, c)


@given(st.sampled_from(CODES), st.sampled_from(CODES))
def test_containment_says_the_same_as_the_ancestors(wide: str, narrow: str) -> None:
    assert contains(wide, narrow) == (wide in ancestors(narrow))


# Canonical codes


@pytest.mark.parametrize(
    ("given_name", "code"),
    [
        ("world", "world"),
        ("全国", "CN"),
        ("中国", "CN"),
        ("cn", "CN"),
        ("cn-hn", "CN-HN"),
        ("CN-HN", "CN-HN"),
        ("青海", "CN-QH"),
        ("青海省", "CN-QH"),
        ("河南省", "CN-HA"),
        ("吉林", "CN-JL"),
        ("新疆", "CN-XJ"),
        ("内蒙古", "CN-NM"),
        ("山东青岛", "CN-SD/青岛市"),
        ("云南文山", "CN-YN/文山壮族苗族自治州"),
        ("内蒙古呼和浩特", "CN-NM/呼和浩特市"),
        ("长沙市", "CN-HN/长沙市"),
        ("长沙", "CN-HN/长沙市"),
        ("CN-HN/长沙", "CN-HN/长沙市"),
        ("CN-HN/岳麓区", "CN-HN/长沙市/岳麓区"),
        ("北京市朝阳区", "CN-BJ/朝阳区"),
        ("仙桃市", "CN-HB/仙桃市"),
        ("Hunan", "CN-HN"),
        ("HUNAN", "CN-HN"),
        ("Shanghai", "CN-SH"),
        ("Changsha", "CN-HN/长沙市"),
        ("CN-TW", "TW"),
        ("香港", "HK"),
        ("California", "US-CA"),
        ("加利福尼亚", "US-CA"),
        ("Germany", "DE"),
        ("德国", "DE"),
        ("Bavaria", "DE-BY"),
        ("Munich", "DE-BY/Munich"),
        ("Berlin", "DE-BE"),
        ("Québec", "CA-QC"),
        ("quebec", "CA-QC"),
        ("Que\u0301bec", "CA-QC"),
        ("us-ca/los angeles", "US-CA/Los Angeles"),
        ("Paris", "FR-IDF/Paris"),
        ("Paris, France", "FR-IDF/Paris"),
        ("London", "GB-ENG/London"),
        ("Yokohama", "JP/Yokohama"),
        ("Ｇｅｒｍａｎｙ", "DE"),
        ("Georgia", "GE"),
    ],
)
def test_names_and_codes_lead_to_the_canonical_code(
    gazetteer: Gazetteer, given_name: str, code: str
) -> None:
    assert gazetteer.canonical(given_name) == code


def test_every_canonical_code_is_its_own_canonical_code(gazetteer: Gazetteer) -> None:
    codes = ("CN-QH/海南藏族自治州", "US-CA/San Francisco", "FR-IDF/Paris", "JP-13", "GB-LND")
    assert [gazetteer.canonical(code) for code in codes] == list(codes)


def test_a_misspelt_place_is_refused_with_a_suggestion(gazetteer: Gazetteer) -> None:
    with pytest.raises(UnknownPlace, match=r"did you mean CN-HN \(Hunan, 湖南省\)\?"):
        gazetteer.canonical("Hunann")


def test_a_new_place_below_a_known_one_is_refused_and_the_error_says_how_to_declare_it(
    gazetteer: Gazetteer,
) -> None:
    with pytest.raises(UnknownPlace, match=r"US-CA \(California.*\) has no place known as 'Small"):
        gazetteer.canonical("US-CA/Smallville")
    with pytest.raises(UnknownPlace, match="comity places add"):
        gazetteer.canonical("US-CA/Smallville")
    wider = gazetteer.with_own([OwnPlace(code="US-CA/Smallville", names=("Smallville",))])
    assert wider.canonical("us-ca/smallville") == "US-CA/Smallville"


def test_a_name_of_several_equal_places_is_refused_with_their_codes(gazetteer: Gazetteer) -> None:
    with pytest.raises(UnknownPlace, match=r"several places.*US-IL/Springfield"):
        gazetteer.canonical("Springfield")


@pytest.mark.parametrize("nothing", ["", "  ", "/", "CN/", "XQ", "Nowhere at all", "CN-HN/", ","])
def test_what_nobody_knows_is_refused(gazetteer: Gazetteer, nothing: str) -> None:
    with pytest.raises(UnknownPlace):
        gazetteer.canonical(nothing)


@given(text=st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_text_at_all_is_a_place_or_an_unknown_place(gazetteer: Gazetteer, text: str) -> None:
    try:
        code = gazetteer.canonical(text)
    except UnknownPlace:
        return
    assert gazetteer.canonical(code) == code


# A memory's own places


ARLENIA = (
    OwnPlace(code="XA", names=("Arlenia", "阿莲国")),
    OwnPlace(code="XA-NO/Tidewick", names=("Tidewick", "潮湾")),
    OwnPlace(code="XA-NO", names=("Norlan",)),
)


def test_own_places_are_found_in_any_language_and_in_any_order_of_declaration(
    gazetteer: Gazetteer,
) -> None:
    own = gazetteer.with_own(ARLENIA)
    assert own.own == ARLENIA
    assert own.canonical("潮湾") == "XA-NO/Tidewick"
    assert own.canonical("xa") == "XA"
    found = own.find("May I fish in Tidewick, Norlan, or in 北京?")
    assert [mention.code for mention in found] == ["XA-NO/Tidewick", "CN-BJ"]


def test_an_own_name_wins_over_the_worlds(gazetteer: Gazetteer) -> None:
    own = gazetteer.with_own([*ARLENIA, OwnPlace(code="XA-NO/Paris", names=("Paris",))])
    assert own.canonical("Paris") == "XA-NO/Paris"
    assert [mention.code for mention in own.find("in Paris")] == ["XA-NO/Paris"]


def test_an_own_place_in_a_place_nobody_knows_is_refused(gazetteer: Gazetteer) -> None:
    with pytest.raises(UnknownPlace, match="declare XB-N too"):
        gazetteer.with_own([OwnPlace(code="XB-N/Holm")])


def test_the_european_union_is_a_place_only_where_it_is_declared(gazetteer: Gazetteer) -> None:
    with pytest.raises(UnknownPlace):
        gazetteer.canonical("EU")
    own = gazetteer.with_own([OwnPlace(code="EU", names=("European Union", "欧盟"))])
    assert own.canonical("欧盟") == "EU"
    assert not contains("EU", "FR")


def test_a_code_that_is_no_path_is_refused() -> None:
    for code in ("arlenia", "X", "XA/", "XA//Holm", "XA-NO/ Holm", ""):
        with pytest.raises(ValidationError):
            OwnPlace(code=code)


# Names to show


def test_places_are_shown_in_english_and_chinese(gazetteer: Gazetteer) -> None:
    assert gazetteer.name("CN-HN") == "Hunan"
    assert gazetteer.name("CN-HN", "zh-CN") == "湖南省"
    assert gazetteer.name("DE", "zh") == "德国"
    assert gazetteer.name("CN-HN/长沙市") == "Changsha"
    own = gazetteer.with_own(ARLENIA)
    assert (own.name("XA"), own.name("XA", "zh")) == ("Arlenia", "阿莲国")


def test_an_unknown_code_has_no_name(gazetteer: Gazetteer) -> None:
    with pytest.raises(UnknownPlace):
        gazetteer.name("CN-XX")


# Places in running text


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("浙江西部的农田", ["CN-ZJ"]),
        ("海南藏族自治州的牧场", ["CN-QH/海南藏族自治州"]),
        ("海南州的牧场", ["CN-QH/海南藏族自治州"]),
        ("海南的海滩", ["CN-HI"]),
        ("在长沙市开店", ["CN-HN/长沙市"]),
        ("在长沙开店", ["CN-HN/长沙市"]),
        ("吉林市的住户", ["CN-JL/吉林市"]),
        ("吉林省的住户", ["CN-JL"]),
        ("吉林市场的变化", ["CN-JL"]),
        ("朝阳在升起", []),
        ("朝阳区的住户", []),
        ("北京市朝阳区", ["CN-BJ/朝阳区"]),
        ("北京朝阳", ["CN-BJ/朝阳区"]),
        ("在北京，他住朝阳区", ["CN-BJ", "CN-BJ/朝阳区"]),
        ("辽宁朝阳", ["CN-LN/朝阳市"]),
        ("河南南阳", ["CN-HA/南阳市"]),
        ("河南省某市", ["CN-HA"]),
        ("重庆市", ["CN-CQ"]),
        ("湖南省长沙市岳麓区", ["CN-HN/长沙市/岳麓区"]),
        ("天津河北两地", ["CN-TJ", "CN-HE"]),
        ("天津市河北区", ["CN-TJ/河北区"]),
        ("河北区域经济", ["CN-HE"]),
        ("东方红，上街去", []),
        ("东方市", ["CN-HI/东方市"]),
        ("安徽黄山", ["CN-AH/黄山市"]),
        ("黄山归来", []),
        ("开封信件", []),
        ("昆山的工厂和乐清的工厂", ["CN-JS/苏州市/昆山市", "CN-ZJ/温州市/乐清市"]),
        ("重大安全事故", []),
        ("中华人民共和国资源税法", ["CN"]),
        ("广西资源", ["CN-GX/桂林市/资源县"]),
        ("马鞍山市养犬管理条例", ["CN-AH/马鞍山市"]),
        ("黄河南岸与太湖南岸", []),
        ("其中国有企业", []),
        ("发展中国家与道德国家", []),
        ("工作日本人到场，10日本人未到", []),
        ("沿海地区参加纳税", []),
        ("中国家庭", ["CN"]),
        ("北京大学", ["CN-BJ"]),
        ("中国注册会计师协会", ["CN"]),
        ("德国、法国、美国和日本", ["DE", "FR", "US", "JP"]),
        ("巴黎和东京", ["FR-IDF/Paris", "JP-13"]),
        ("Georgia", ["GE"]),
        ("Atlanta, Georgia", ["US-GA/Atlanta"]),
        ("Georgia and Alabama, in the United States", ["US-GA", "US-AL", "US"]),
        ("a flat in Tbilisi, Georgia", ["GE-TB"]),
        ("Nice work in Reading, he said, was a Victoria Mobile", []),
        ("Nice, France", ["FR-PAC/Nice"]),
        ("Reading, England", ["GB-ENG/Reading"]),
        ("London, Ontario", ["CA-ON/London"]),
        ("Springfield", []),
        ("Springfield, Illinois", ["US-IL/Springfield"]),
        ("Los Angeles, California", ["US-CA/Los Angeles"]),
        ("New Yorkers like New York City", ["US-NY/New York City"]),
        ("Chinese and Germanic", []),
        ("let us go to the US, or the UK", ["US", "GB"]),
        ("California's coast", ["US-CA"]),
        ("Owens-Illinois makes glass", []),
        ("the China-Germany trade", ["CN", "DE"]),
        ("去California旅行", ["US-CA"]),
        ("from Istanbul to Suzhou", ["TR-34", "CN-JS/苏州市"]),
        ("韩国首尔与英国伦敦", ["KR/Seoul", "GB-ENG/London"]),
        ("a Chinese firm in Shenzhen, Guangdong", ["CN-GD/深圳市"]),
        ("the Western Province of Central Park", []),
        ("上海市浦东新区与深圳市南山区", ["CN-SH/浦东新区", "CN-GD/深圳市/南山区"]),
        ("香港特别行政区和台湾地区", ["HK", "TW"]),
        ("", []),
    ],
)
def test_text_names_these_places(gazetteer: Gazetteer, text: str, codes: list[str]) -> None:
    assert [mention.code for mention in gazetteer.find(text)] == codes


PIECES = st.sampled_from(
    ("湖南省", "长沙市", "朝阳区", "北京", "海南", "藏族自治州", "国", "市场", "江西部", "浙",
     " ", ", ", "Paris", "Georgia", "New York", "-", "in ", "Ｐａｒｉｓ",
     "ß", "İ", "\n", "某人", "Illinois")
)  # fmt: skip


@given(st.lists(PIECES | st.text(max_size=4), max_size=12).map("".join))
@settings(max_examples=150, deadline=None)
def test_mentions_slice_back_and_never_overlap(gazetteer: Gazetteer, text: str) -> None:
    end = 0
    for mention in gazetteer.find(text):
        assert end <= mention.start < mention.end <= len(text)
        assert text[mention.start : mention.end] == mention.name
        assert gazetteer.canonical(mention.code) == mention.code
        end = mention.end


@given(
    st.sampled_from(
        [
            "湖南省",
            "长沙市",
            "海南藏族自治州",
            "文山壮族苗族自治州",
            "德国",
            "深圳",
            "Germany",
            "Ohio",
        ]
    ),
    st.sampled_from(["", "某人在", "他说：", "(", "we met in "]),
    st.sampled_from(["", "，他说", "的公司", ")", " yesterday"]),
)
def test_a_known_name_between_neutral_words_is_found(
    gazetteer: Gazetteer, name: str, before: str, after: str
) -> None:
    (mention,) = gazetteer.find(before + name + after)
    assert (mention.name, mention.start) == (name, len(before))
    assert mention.code == gazetteer.canonical(name)


# The compiled table and its cache


def test_names_read_from_the_cache_are_those_that_were_compiled(tmp_path: Path) -> None:
    Gazetteer(cache=tmp_path).canonical("长沙")
    (file,) = tmp_path.glob("places-*.json")
    assert json.loads(file.read_bytes()) == json.loads(json.dumps(compile_table()))


def test_a_broken_or_unwritable_cache_changes_no_answer(tmp_path: Path) -> None:
    Gazetteer(cache=tmp_path).canonical("长沙")
    (file,) = tmp_path.glob("places-*.json")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / file.name).write_text("[1, 2, 3]")
    assert Gazetteer(cache=broken).canonical("长沙") == "CN-HN/长沙市"
    assert [found.name for found in broken.iterdir()] == [file.name]
    assert Gazetteer(cache=file / "under-a-file").canonical("长沙") == "CN-HN/长沙市"


def test_the_places_of_generated_law_questions_are_found_in_their_words(
    gazetteer: Gazetteer,
) -> None:
    data = os.environ.get("COMITY_OPO_DATA")
    if not data or not Path(data, "questions", "a_law.csv").exists():
        pytest.skip("COMITY_OPO_DATA does not name a folder with questions/a_law.csv")
    with Path(data, "questions", "a_law.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["location"]]
    covered = 0
    for row in rows:
        found = gazetteer.find(" ".join(row[key] for key in ("question", "A", "B", "C", "D")))
        gold = gazetteer.canonical(row["location"])
        covered += any(contains(gold, mention.code) for mention in found)
    assert covered / len(rows) >= 0.97


def test_an_unknown_code_of_a_subdivision_suggests_those_that_begin_alike() -> None:
    with pytest.raises(UnknownPlace, match=r"CN-HA .* CN-HN") as refused:
        Gazetteer().canonical("CN-HX")
    assert "CN-XZ" not in str(refused.value)
