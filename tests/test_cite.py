"""Which rules an answer names, by marks or by their words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity import Aligner, Memory, Scope
from comity.alignment.cite import Cited, cite
from comity.alignment.miscited import NO_RULE, Given, MemoryBook, miscited
from comity.alignment.named import Named, named_in
from comity.models.scripted import ScriptedModel
from comity.records import Rule
from conftest import Clock

RULES = [
    Rule.model_validate(
        {"id": name, "text": "x", "title": f"Title {name}", "article": "第一条", "version": 2}
        | {"valid_from": "2020-01-01", "valid_to": "2030-01-01"}
    )
    for name in "abc"
]


def ids(cited: Cited) -> list[str]:
    return [citation.id for citation in cited.citations]


def test_a_citation_holds_what_a_reader_needs() -> None:
    text = "Dogs need a leash [R2]."
    [citation] = cite(text, RULES).citations
    assert (citation.id, citation.version) == ("b", 2)
    assert (citation.label, citation.by) == ("[R2]", "mark")
    assert (citation.title, citation.article) == ("Title b", "第一条")
    assert (citation.valid_from, citation.valid_to) == (RULES[1].valid_from, RULES[1].valid_to)
    assert text[citation.start : citation.end] == "[R2]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing", []),
        ("[R2] then [R1], and [R2] again", ["b", "a"]),
        ("[2] then [1], and [2] again", ["b", "a"]),
        ("[R1, R3]", ["a", "c"]),
        ("[1, R3]", ["a", "c"]),
        ("［R2］和【R1、R3】", ["b", "a", "c"]),
        ("［2］和【1、3】", ["b", "a", "c"]),
        ("[２]和[ 3 ]", ["b", "c"]),
        ("[2] and [ R3 ]", ["c"]),
        ("[1, R3] and [2]", ["a", "c"]),
        ("[R0] [R4] [99] [-1] [1.5] [a] [R] [RR1] [R1 and R2]", []),
        ("see (R1), R1 and 1", []),
        ("[R1][2]", ["a"]),
        ("[R9][2]", []),
        ("[R01]", ["a"]),
        ("[" + "9" * 10_000 + "]", []),
        ("[R1", []),
    ],
)
def test_only_marks_of_rules_that_are_there_count(text: str, expected: list[str]) -> None:
    assert ids(cite(text, RULES)) == expected


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("[R1] and [R3]", ()),
        ("[R9]", ("[R9]",)),
        ("[R4] [R9] [R4] [R2]", ("[R4]", "[R9]")),
        ("国办发[2021]15号 [R1]", ()),
        ("see note [7]; so no [R2]", ()),
        ("[9] and [4]", ("[9]", "[4]")),
        ("【R1、R7】", ("[R7]",)),
        ("[R0]", ("[R0]",)),
        ("[R2.5] [note]", ()),
    ],
)
def test_marks_that_name_no_rule_are_told_once_each(text: str, unknown: tuple[str, ...]) -> None:
    assert cite(text, RULES).unknown == unknown


def test_without_rules_nothing_is_cited() -> None:
    assert cite("Dogs need a leash [R1].", []) == ((), ("[R1]",))


LEASH = Rule(id="leash", text="Dogs must be kept on a leash in the market square.")
SHOPS = Rule(id="shops", text="Shops must close by 20:00 on weekdays, and pay a fine of 200 euros.")
FIRES = Rule(id="fires", text="Fireworks are forbidden within twenty metres of a school.")
ENGLISH = [LEASH, SHOPS, FIRES]

DOGS_ZH = Rule(id="犬只", text="携带犬只外出的，应当使用牵引带并由成年人牵领。", title="养犬规定")
SHOPS_ZH = Rule(id="商店", text="商店工作日应当在二十时前关门，违者罚款二百元。")
NOISE_ZH = Rule(id="噪声", text="每日22时至次日6时不得使用产生噪声的设备。")
CHINESE = [DOGS_ZH, SHOPS_ZH, NOISE_ZH]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dogs must be kept on a leash in the market square.", ["leash"]),
        ("In the market square, dogs must always be on a LEASH!", ["leash"]),
        ("Shops must close by 20:00 on weekdays.", ["shops"]),
        ("携带犬只外出应当使用牵引带，由成年人牵领。", ["犬只"]),
        ("商店工作日应当在二十时前关门。", ["商店"]),
        ("每日22时至次日6时不得使用产生噪声的设备", ["噪声"]),
    ],
)
def test_an_answer_without_marks_cites_the_rule_that_it_repeats(
    text: str, expected: list[str]
) -> None:
    rules = [*ENGLISH, *CHINESE]
    cited = cite(text, rules)
    assert ids(cited) == expected
    assert cited.unknown == ()
    [citation] = cited.citations
    number = [rule.id for rule in rules].index(citation.id) + 1
    assert (citation.by, citation.label) == ("words", f"[R{number}]")
    assert text[citation.start : citation.end] == text


@pytest.mark.parametrize(
    "text",
    [
        "Shops must close by 21:00 on weekdays.",
        "Shops must close by 8pm on weekdays.",
        "Shops must pay a fine of 300 euros on weekdays.",
        "Fireworks are forbidden within thirty metres of a school.",
        "商店工作日应当在二十一时前关门。",
        "商店工作日应当在21时前关门。",
        "商店工作日应当在九时前关门。",
        "商店违者罚款三百元。",
        "每日23时至次日6时不得使用产生噪声的设备。",
    ],
)
def test_a_sentence_with_another_number_than_the_rules_does_not_repeat_it(text: str) -> None:
    assert cite(text, [*ENGLISH, *CHINESE]) == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "The museum opens its doors to visitors every morning.",
        "A cyclist must carry a lamp at night in the old town.",
        "No.",
        "Yes, they must.",
        "可以。",
        "应当在前。",
        "博物馆每天上午向公众免费开放。",
        "?!…\n。",
        "",
    ],
)
def test_an_unrelated_or_a_bare_sentence_cites_nothing(text: str) -> None:
    assert cite(text, [*ENGLISH, *CHINESE]) == ((), ())


def test_three_fifths_of_a_sentences_words_are_enough_and_fewer_are_not() -> None:
    rule = Rule(id="r", text="alpha beta gamma delta epsilon zeta")
    assert ids(cite("alpha beta gamma other words", [rule])) == ["r"]
    assert ids(cite("alpha beta gamma other words more", [rule])) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "I looked it up. Shops must close by 20:00 on weekdays. So a shop breaks the law.\n"
            "Dogs must be kept on a leash in the market square. Shops must close on weekdays.",
            {
                "shops": "Shops must close by 20:00 on weekdays.",
                "leash": "Dogs must be kept on a leash in the market square.",
            },
        ),
        (
            "经查：\n商店工作日应当在二十时前关门。携带犬只外出的，应当使用牵引带！所以不可以。",
            {
                "商店": "商店工作日应当在二十时前关门。",
                "犬只": "携带犬只外出的，应当使用牵引带！",
            },
        ),
    ],
)
def test_sentences_of_two_rules_are_two_citations_in_the_order_of_the_answer(
    text: str, expected: dict[str, str]
) -> None:
    found = cite(text, [*ENGLISH, *CHINESE]).citations
    assert {each.id: text[each.start : each.end] for each in found} == expected
    assert [each.id for each in found] == list(expected)


def test_a_sentence_cites_the_rule_that_it_shares_most_with() -> None:
    near = Rule(
        id="near", text="Dogs must be kept on a leash in the park and on the market square."
    )
    exact = Rule(id="exact", text="Dogs must be kept on a leash in the park.")
    assert ids(cite("Dogs must be kept on a short leash on the market square", [exact, near])) == [
        "near"
    ]
    assert ids(cite("Dogs must be kept on a leash in the park.", [exact, near])) == ["exact"]


def test_a_known_mark_leaves_no_room_for_guesses_but_an_unknown_one_does() -> None:
    text = "Dogs must be kept on a leash in the market square {}. Shops close [{}]."
    marked = cite(text.format("[R9]", "R2"), ENGLISH)
    assert [(each.id, each.by) for each in marked.citations] == [("shops", "mark")]
    assert marked.unknown == ("[R9]",)
    guessed = cite(text.format("[R9]", "R8"), ENGLISH)
    assert [(each.id, each.by) for each in guessed.citations] == [("leash", "words")]
    assert guessed.unknown == ("[R9]", "[R8]")


@given(st.text(alphabet="[]【】R0123456789, 、 a", max_size=80))
def test_every_mark_stands_where_it_says(text: str) -> None:
    for citation in cite(text, RULES).citations:
        mark = text[citation.start : citation.end]
        assert (citation.by, mark[0] in "[【") == ("mark", True)
        assert citation.label.strip("[R]") in mark


@given(st.lists(st.sampled_from([*(r.text for r in ENGLISH), "So no.", "\n", " ", "为什么？"])))
def test_every_repeated_sentence_stands_where_it_says(parts: list[str]) -> None:
    text = "".join(parts)
    found = cite(text, ENGLISH).citations
    by_text = {rule.id: rule.text for rule in ENGLISH}
    assert [each.start for each in found] == sorted(each.start for each in found)
    assert len({each.id for each in found}) == len(found)
    for each in found:
        assert by_text[each.id] in text[each.start : each.end]


def test_a_long_answer_without_an_end_is_read_at_once() -> None:
    assert cite("a!b " * 50_000, ENGLISH) == ((), ())
    assert cite("a!b" * 50_000, ENGLISH) == ((), ())


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Under the Drone Act > Part I, Article 4 it is not allowed.", ["four"]),
        ("The Drone Act, Article 4, forbids it.", ["four"]),
        ("The Drone Act, Article 41, forbids it.", []),
        ("Article 4 of another act forbids it.", []),
        ("依照《夜市办法》第三条，不可以。", ["third"]),
        ("依照《夜市办法》第三条之一，不可以。", []),
    ],
)
def test_a_rule_named_by_document_and_article_is_cited(answer: str, expected: list[str]) -> None:
    named = [
        Rule(id="four", text="No flying.", title="Drone Act > Part I", article="Article 4"),
        Rule(id="third", text="关门。", title="夜市办法", article="第三条"),
    ]
    citations = cite(answer, named).citations
    assert [citation.id for citation in citations] == expected
    assert {citation.by for citation in citations} <= {"words"}


def names(text: str) -> list[tuple[str, str]]:
    return [(each.title, each.article.number if each.article else "") for each in named_in(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("依照《夜市办法》第三条，不可以。", [("夜市办法", "3")]),
        (
            "《劳动法》第三条、第十条和第五条第二款，《民法典》第一百零二条之一",
            [("劳动法", "3"), ("劳动法", "10"), ("劳动法", "5"), ("民法典", "102-1")],
        ),
        ("根据第12条和第三条", [("", "12"), ("", "3")]),
        ("《红楼梦》里没有。", [("红楼梦", "")]),
        ("Under the Drone Act, Article 4, no.", [("Drone Act", "4")]),
        ("Article 4(2) of the Cat Act; see § 5.", [("Cat Act", "4"), ("", "5")]),
        ("Art. 9, article 9 and Section 2.1", [("", "9"), ("", "2.1")]),
        ("Article IX holds.", [("", "9")]),
        ("The Chat Policy says so.", [("Chat Policy", "")]),
        ("国办发[2021]15号", []),
        ("an article in the paper, 3 sections, Rule 1", []),
        ("", []),
    ],
)
def test_documents_and_articles_are_found_in_a_text(
    text: str, expected: list[tuple[str, str]]
) -> None:
    assert names(text) == expected


@given(st.text(alphabet="第一二十3条之《》法§ ArticleSecof the,、(Act)", max_size=200))
def test_what_is_named_stands_in_the_text(text: str) -> None:
    for each in named_in(text):
        assert all(part in text for part in (each.title, *each.words.split("》 ")[-1:]))


@pytest.mark.parametrize("part", ["《", "§", "第一", "Article 1 ", "Aa of the ", "《法》第", "A "])
def test_names_are_found_in_a_long_text_at_once(part: str) -> None:
    assert len(named_in(part * 20_000)) <= 1


def kept_in(memory: Memory, *ids: str) -> Given:
    rules = tuple(memory.get(each) for each in ids)
    return Given(rules, rules)


@pytest.fixture
def book(memory: Memory, clock: Clock) -> Memory:
    """A memory with two acts, of which some rules were amended, repealed or hold elsewhere."""
    act = {"title": "Drone Act > Part I", "place": "CN-SH"}
    memory.add(
        [
            Rule.model_validate(
                {"id": "four", "text": "Drones fly below 120 metres.", "article": "Article 4"} | act
            ),
            Rule.model_validate(
                {"id": "nine", "text": "Pilots carry a licence.", "article": "Article 9"} | act
            ),
            Rule(id="cats", text="Cats stay inside.", title="Cat Act", article="Article 4"),
            Rule(id="house", text="No ball games in the yard.", title="House Rules"),
            Rule(
                id="劳动", text="依照本法第九条。", title="中华人民共和国劳动法", article="第三条"
            ),
        ]
    )
    memory.add(Rule(id="x", text="x", title="Rival Act", article="Article 1", tenant="rival"))
    clock.advance(days=1)
    memory.amend("four", {"text": "Drones fly below 90 metres."})
    memory.amend("cats", {"article": "Article 5"})
    memory.repeal("nine")
    return memory


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Drones fly below 90 metres [R1], says Article 4 of the Drone Act.", []),
        ("By the Drone Act > Part I, Article 4, they do. Article 4 is clear.", []),
        ("The Drone Act, Article 9, asks for a licence.", [("nine", 2)]),
        ("The Cat Act, Article 4, says so.", [("cats", 1)]),
        ("The Cat Act, Article 5, says so.", []),
        ("The House Rules say so.", [("house", 1)]),
        ("The Moon Act, Article 7, says so.", [(NO_RULE, 0)]),
        ("The Rival Act, Article 1, says so.", [(NO_RULE, 0)]),
        ("The Moon Act says so.", []),
        ("Article 12 says so. § 5 too.", [(NO_RULE, 0), (NO_RULE, 0)]),
        ("Drones fly below 120 metres.", [("four", 1)]),
        ("Drones fly below 120 metres [R1].", [("four", 1)]),
        ("Drones fly below 200 metres.", []),
        ("依照《劳动法》第三条和第九条。", []),
        ("依照《劳动法》第十条。", [(NO_RULE, 0)]),
        ("依照第十条。", [(NO_RULE, 0)]),
        ("依照《中华人民共和国劳动法》。", []),
        ("No. [R9] [R4]", [("[R9]", 0), ("[R4]", 0)]),
        ("Yes, you may.", []),
    ],
)
def test_a_citation_of_what_is_no_kept_rule_in_its_current_version_is_a_finding(
    book: Memory, answer: str, found: list[tuple[str, int]]
) -> None:
    given = kept_in(book, "four", "cats", "劳动")
    findings = miscited("May I?", answer, given, MemoryBook(book, "default"))
    assert [(each.rule, each.version) for each in findings] == found
    assert all((each.outcome, each.by) == ("violated", "code") for each in findings)
    assert all(each.reason and each.quotation in answer for each in findings)


def test_what_the_question_brought_up_is_a_finding_only_where_the_memory_knows_it(
    book: Memory,
) -> None:
    given, mine = kept_in(book, "four"), MemoryBook(book, "default")
    asked = (
        "Does § 5 of my lease hold, or Article 7 of the Moon Act, or Article 9 of the Drone Act?"
    )
    assert miscited(asked, "§ 5 holds, and the Moon Act, Article 7.", given, mine) == ()
    [finding] = miscited(asked, "The Drone Act, Article 9, holds.", given, mine)
    assert finding.rule == "nine"
    assert "not in force" in finding.reason


def test_a_document_of_which_no_rule_is_kept_is_a_finding(book: Memory) -> None:
    [finding] = miscited(
        "?", "By the Cat Act, no.", kept_in(book, "four"), MemoryBook(book, "default")
    )
    assert (finding.rule, finding.version, finding.quotation) == (NO_RULE, 0, "Cat Act")
    assert "no rule is in force" in finding.reason


def test_what_was_kept_and_left_out_of_the_prompt_may_be_named(book: Memory) -> None:
    kept = kept_in(book, "four", "cats").kept
    answer = "The Cat Act, Article 5, says so."
    assert miscited("?", answer, Given(kept, kept[:1]), MemoryBook(book, "default")) == ()


def test_without_amended_rules_and_names_the_memory_is_not_asked() -> None:
    class Closed:
        def before(self, rule: Rule) -> list[Rule]:
            raise AssertionError(rule.id)

        def titled(self, named: Named) -> list[Rule]:
            raise AssertionError(named.words)

    rules = (Rule(id="a", text="Dogs on a leash.", title="Dog Act", article="Article 1"),)
    answer = "Dogs on a leash [R1], says Article 1 of the Dog Act."
    assert miscited("?", answer, Given(rules, rules), Closed()) == ()


async def test_a_wrong_citation_is_on_record_and_nothing_is_withheld(book: Memory) -> None:
    model = ScriptedModel(["Drones fly below 120 metres. So says the Drone Act, Article 9."])
    answer = await Aligner(book, model).answer("How high do drones fly?", Scope(place="CN-SH"))
    found = {(each.rule, each.version) for each in answer.decision.findings}
    assert {("nine", 2), ("four", 1)} <= found
    assert not answer.decision.withheld
