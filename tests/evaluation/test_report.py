"""The report: what it tells, that it needs nothing else, and that it shows text as text."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from comity.cli.exam_report import report_command
from comity.errors import ExamError, MissingExtra
from comity.evaluation.exams import LeftOut
from comity.evaluation.pictures import Curve, recall_picture
from comity.evaluation.report import SHOWN, report
from comity.evaluation.runs import MODES, ExamTaken, Item, Mode, Plan, Run
from comity.records import Message, RuleRef, Usage

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
EVIL = "</pre><script src='http://evil.example/x.js'></script><img src=x onerror=alert(1)>"


def taken(name: str, count: int, **fields: Any) -> ExamTaken:
    questions = tuple(f"q{n}" for n in range(count))
    return ExamTaken(
        name=name, path=f"exams/{name}.csv", sha256="ab" * 32, questions=questions, **fields
    )


def item(exam: str, number: int, mode: Mode, letter: str, **fields: Any) -> Item:
    """An item whose right letter is A, B, A, B …"""
    rules = "" if mode == "base" else "[R1] Dogs on a lead.\n"
    given: dict[str, Any] = {
        "exam": exam,
        "question": f"q{number}",
        "question_sha256": f"{exam} {number}",
        "mode": mode,
        "asked": (Message(role="user", content=f"{rules}What of dog {number}?\nA. Yes\nB. No"),),
        "asked_sha256": "",
        "answer": "AB"[number % 2],
        "letter": letter,
        "not_scored": "" if letter else "two letters: A | B",
        "text": letter,
        "at": NOW,
    }
    return Item(**given | fields)


def right(number: int) -> str:
    return "AB"[number % 2]


def wrong(number: int) -> str:
    return "BA"[number % 2]


def made(folder: Path, exams: Sequence[ExamTaken], items: Sequence[Item], **fields: Any) -> Run:
    given: dict[str, Any] = {
        "model": "scripted",
        "modes": MODES,
        "exams": tuple(exams),
        "memory": "sqlite:///rules.db",
        "revision": 7,
        "limit": 20,
        "seed": 11,
        "started": NOW,
    }
    with Run.begin(folder, Plan(**given | fields)) as run:
        for each in items:
            run.append(each)
    return run


def items_of(exam: str, base: int, comity: int, oracle: int, count: int = 20) -> list[Item]:
    """The first so many questions are right in each mode."""
    rights: dict[Mode, int] = {"base": base, "comity": comity, "oracle": oracle}
    gold = (RuleRef(id="dogs", version=2), RuleRef(id="cats", version=1))
    return [
        item(
            exam,
            n,
            mode,
            right(n) if n < rights[mode] else wrong(n),
            gold=gold,
            sent=gold[:1] if mode == "comity" else (),
            hits=gold[:1] if mode == "comity" else (),
            gold_found=0.5 if mode == "comity" else None,
            gold_sent=0.5 if mode == "comity" else None,
            gold_at={100: 0.25, 400: 0.5} if mode == "comity" else {},
            usage=Usage(prompt_tokens=100 + n, completion_tokens=1),
            seconds={"prepare": 0.01, "model": 1.0, "total": 1.015},
        )
        for mode in MODES
        for n in range(count)
    ]


@pytest.fixture
def pets(tmp_path: Path) -> Run:
    return made(tmp_path / "first", [taken("pets", 20)], items_of("pets", 8, 16, 18))


class Page(HTMLParser):
    """Tags with their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_table_tells_accuracy_interval_gain_and_gap(pets: Run) -> None:
    row = next(line for line in report([pets]).markdown.splitlines() if line.startswith("| pets"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "pets",
        "40.0 % (21.9 to 61.3) 8 of 20",
        "80.0 % (58.4 to 91.9) 16 of 20",
        "90.0 % (69.9 to 97.2) 18 of 20",
        "+40.0 (+14.4 to +58.4) p = 0.008",
        "−10.0 (−24.0 to +5.9)",
    ]


def test_the_page_tells_the_same_figures_as_the_table(pets: Run) -> None:
    made_report = report([pets])
    text = " ".join(Page(made_report.html).text.split())
    for figures in ("40.0 % (21.9 to 61.3) 8 of 20", "+40.0 (+14.4 to +58.4) p = 0.008"):
        assert figures in text
        assert figures in made_report.markdown


def test_the_first_sentence_tells_whether_the_rules_helped(tmp_path: Path) -> None:
    exams = [taken("good", 20), taken("bad", 20), taken("even", 20), taken("maybe", 20)]
    items = [
        *items_of("good", 8, 16, 18),
        *items_of("bad", 16, 8, 18),
        *items_of("even", 10, 11, 10),
        *items_of("maybe", 10, 15, 15),
    ]
    told = report([made(tmp_path / "run", exams, items)]).markdown
    assert re.search(r"- good: .*: better with the rules\.", told)
    assert re.search(r"- bad: .*: worse with the rules\.", told)
    assert re.search(r"- even: .*: no clear difference\.", told)
    assert re.search(r"- maybe: .*: perhaps better with the rules\.", told)


def test_what_was_run_is_told(pets: Run) -> None:
    made_report = report([pets])
    for fact in ("scripted", "sqlite:///rules.db", "revision 7", "20 of each exam", "ab" * 32):
        assert fact in Page(made_report.html).text
    assert "memory at revision 7, 2030-01-02, 20 questions of each exam, seed 11" in (
        made_report.markdown
    )


def test_a_password_in_the_memorys_url_is_not_told(tmp_path: Path) -> None:
    url = "postgresql://ada:secret@db/rules"
    page = report([made(tmp_path / "run", [taken("pets", 1)], [], memory=url)]).html
    assert "postgresql://ada:…@db/rules" in page
    assert "secret" not in page


def test_the_page_holds_recall_cost_and_overhead(pets: Run) -> None:
    text = " ".join(Page(report([pets]).html).text.split())
    assert "pets comity 20 50.0 % 50.0 % 25.0 % 50.0 %" in text
    assert "pets base 110 (110, 117) – 1 (1, 1) 1.01 (1.01, 1.01) 1.00 (1.00, 1.00)" in text
    assert "The harness took 1.50 % of the model's time besides." in text


def test_the_page_loads_nothing_and_runs_nothing(pets: Run) -> None:
    page = report([pets], published=True).html
    tags = Page(page).tags
    assert {"script", "img", "link", "iframe", "object", "a"}.isdisjoint(tag for tag, _ in tags)
    links = [
        value
        for _, attributes in tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data")
    ]
    assert links
    assert all(value and value.startswith("#") for value in links)
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\((?!#)", page)


def test_an_id_stands_in_the_page_only_once(pets: Run) -> None:
    ids = [
        attributes["id"] for _, attributes in Page(report([pets]).html).tags if "id" in attributes
    ]
    assert ids
    assert len(ids) == len(set(ids))


def test_markup_in_questions_rules_and_answers_is_shown_as_text(tmp_path: Path) -> None:
    asked = (Message(role="user", content=f"Rule: {EVIL}\nWhich? {EVIL}"),)
    items = [
        item("pets", 0, "base", "A", asked=asked),
        item(
            "pets",
            0,
            "comity",
            "B",
            asked=asked,
            text=f"B {EVIL}",
            kept=(RuleRef(id=EVIL, version=1),),
        ),
        item("pets", 1, "base", "", not_scored=EVIL),
        item("pets", 1, "comity", "B", asked=asked),
    ]
    exam = taken("pets", 2, retired={EVIL: EVIL}, left_out=(LeftOut(line=3, reason=EVIL),))
    made_report = report(
        [made(tmp_path / "run", [exam], items, model=EVIL, modes=("base", "comity"))]
    )
    page = Page(made_report.html)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(EVIL) >= 9
    assert not re.search(r"(?<!\\)<", made_report.markdown)


def test_characters_that_turn_the_text_round_or_break_a_page_are_replaced(tmp_path: Path) -> None:
    items = [
        item("pets", 0, "base", "A"),
        item("pets", 0, "comity", "B", text="B \u202eevil\x00\x1b[2J"),
    ]
    made_report = report([made(tmp_path / "run", [taken("pets", 1)], items)])
    assert "B \ufffdevil\ufffd\ufffd[2J" in made_report.html
    assert not re.search("[\x00\x1b\u202e]", made_report.html)


def test_an_exam_of_which_nothing_was_scored_says_so_and_why(tmp_path: Path) -> None:
    items = [item("pets", n, mode, "", not_scored="timed out") for n in range(3) for mode in MODES]
    made_report = report([made(tmp_path / "run", [taken("pets", 3)], items)])
    assert "- pets, base, comity, oracle: nothing scored: timed out (3)." in made_report.markdown
    assert "| pets | nothing scored 0 of 3 | nothing scored 0 of 3 |" in made_report.markdown
    assert "nan" not in made_report.markdown
    assert "0.0 %" not in made_report.markdown
    assert "base: nothing scored" in made_report.html.replace("\u00a0", " ")


def test_an_exam_that_was_not_begun_has_no_score(tmp_path: Path) -> None:
    run = made(tmp_path / "run", [taken("pets", 3)], [])
    made_report = report([run])
    assert "- pets: nothing scored: no question was asked yet." in made_report.markdown
    assert "<svg" not in made_report.html


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    run = made(tmp_path / "run", [taken("pets", 20)], items_of("pets", 8, 16, 18)[:45])
    made_report = report([run])
    assert "- pets: the run is not finished; continue it with --resume." in (
        made_report.markdown.replace("\\", "")
    )
    assert "unfinished: base 20, comity 20, oracle 5, of 20" in made_report.html


def test_a_run_is_finished_without_oracle_for_questions_that_have_no_gold_rules(
    tmp_path: Path,
) -> None:
    items = [item("pets", 0, mode, "A") for mode in ("base", "comity")]
    page = report([made(tmp_path / "run", [taken("pets", 1)], items)]).html
    assert "base 1, comity 1, oracle 0, of 1" in page
    assert "finished" not in page


def test_a_model_that_always_gives_one_letter_is_told_of(tmp_path: Path) -> None:
    items = [item("pets", n, "base", "B") for n in range(8)]
    told = report([made(tmp_path / "run", [taken("pets", 8)], items, modes=("base",))]).markdown
    assert "- pets, base: 100 % of the answers are B." in told
    assert "- pets, base: not clearly better than always A (50.0 %)." in told


def test_what_got_worse_shows_question_rules_and_both_letters(tmp_path: Path) -> None:
    gold = tuple(RuleRef(id=name, version=1) for name in ("sent", "found", "lost"))
    after = item(
        "pets",
        0,
        "comity",
        "B",
        gold=gold,
        hits=gold[:2],
        sent=gold[:1],
        kept=gold[:1],
        overruled=(RuleRef(id="old", version=3, winner="sent", reason="higher authority"),),
    )
    run = made(tmp_path / "run", [taken("pets", 1)], [item("pets", 0, "base", "A"), after])
    text = Page(report([run]).html).text
    assert "right A, base A, comity B" in text
    assert "What of dog 0?\nA. Yes\nB. No" in text
    assert "[R1] Dogs on a lead." in text
    assert "sent@1: sent\nfound@1: found, not sent\nlost@1: not found" in text
    assert "old@3 gave way to sent (higher authority)" in text


def test_many_that_got_worse_are_capped_and_the_rest_counted(tmp_path: Path) -> None:
    count = SHOWN + 5
    run = made(tmp_path / "run", [taken("pets", count)], items_of("pets", count, 0, 0, count))
    page = Page(report([run]).html)
    assert sum(tag == "details" for tag, _ in page.tags) == SHOWN
    rest = ", ".join(f"q{number}" for number in range(SHOWN, count))
    assert f"pets, not shown: {rest}." in page.text


def test_what_was_left_out_and_retired_is_told(tmp_path: Path) -> None:
    exam = taken(
        "pets",
        1,
        left_out=(LeftOut(line=9, question="q9", reason="the same question stands on line 2"),),
        retired={"q7": "dogs is in version 2"},
    )
    run = made(tmp_path / "run", [exam], [item("pets", 0, "base", "A")])
    text = " ".join(Page(report([run]).html).text.split())
    assert "line 9 q9 left out: the same question stands on line 2" in text
    assert "q7 retired: dogs is in version 2" in text


def test_kinds_of_questions_are_shown_where_there_are_several(tmp_path: Path, pets: Run) -> None:
    items = [item("pets", 0, "base", "A", kind="boundary"), item("pets", 1, "base", "A")]
    run = made(tmp_path / "run", [taken("pets", 2)], items)
    assert "pets boundary 100.0 %" in " ".join(Page(report([run]).html).text.split())
    assert "By kind of question" not in report([pets]).html


def test_runs_stand_side_by_side_and_are_compared(tmp_path: Path, pets: Run) -> None:
    other = made(tmp_path / "second", [taken("pets", 20)], items_of("pets", 8, 20, 20))
    made_report = report([pets, other])
    rows = [line.split(" |")[0] for line in made_report.markdown.splitlines() if "| pets ·" in line]
    assert rows == ["| pets · first", "| pets · second"]
    text = " ".join(Page(made_report.html).text.split())
    assert "pets comity first → second 20 16 4 0 0 +20.0" in text


def test_what_got_worse_from_run_to_run_is_named_and_shown(tmp_path: Path) -> None:
    asked = (
        Message(
            role="user",
            content="Rules in force:\n\n1. Dogs on a lead.\n\n"
            "By the rules above, answer the following question.\nWhat of dog 3?",
        ),
    )
    modes: tuple[Mode, ...] = ("comity",)
    first = [item("pets", n, "comity", right(n) if n else wrong(n), asked=asked) for n in range(5)]
    first[3] = first[3].model_copy(update={"sent": (RuleRef(id="dogs", version=1),)})
    later = [item("pets", n, "comity", wrong(n) if n == 3 else right(n)) for n in range(5)]
    runs = [
        made(tmp_path / name, [taken("pets", 5)], items, modes=modes)
        for name, items in (("monday", first), ("tuesday", later))
    ]
    made_report = report(runs)
    pair = "pets, comity, monday → tuesday"
    for note in (f"- {pair}: got worse: q3.", f"- {pair}: got better: q0."):
        assert note in made_report.markdown
    row = "| pets | comity | monday → tuesday | 5 | 3 | 1 | 1 | 0 | 0.0 |"
    assert row in made_report.markdown
    text = " ".join(Page(made_report.html).text.split())
    assert f"{pair}: q3 right B, monday B, tuesday A What of dog 3? Rules sent beforedogs@1" in text
    assert "[user] [R1] Dogs on a lead. What of dog 3? A. Yes B. No" in text
    assert f"{pair} q0 B → A What of dog 3?" in text


def test_answers_taken_over_are_counted(tmp_path: Path) -> None:
    items = [item("pets", n, "base", "A", reused=n > 0) for n in range(3)]
    run = made(tmp_path / "run", [taken("pets", 3)], items, modes=("base",))
    text = " ".join(Page(report([run]).html).text.split())
    assert f"{'ab' * 32} 3 of 3 2 0 0" in text


def test_a_run_is_finished_only_with_the_oracle_of_every_question_that_names_rules(
    tmp_path: Path,
) -> None:
    exam = taken("pets", 2, with_gold=("q1",))
    items = [item("pets", n, mode, "A") for n in range(2) for mode in MODES[:2]]
    for oracle, finished in (([], False), ([item("pets", 1, "oracle", "A")], True)):
        run = made(tmp_path / f"{finished}", [exam], [*items, *oracle])
        assert ("the run is not finished" not in report([run]).markdown) is finished


def test_runs_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    runs = [
        made(tmp_path / place / "run", [taken("pets", 20)], items_of("pets", 8, 16, 18))
        for place in ("a", "b")
    ]
    told = report(runs).markdown.replace("\\", "")
    assert f"pets · {tmp_path}/a/run" in told
    assert f"pets · {tmp_path}/b/run" in told


def test_a_run_named_twice_is_refused(pets: Run) -> None:
    with pytest.raises(ExamError, match="first is named twice"):
        report([pets, Run.read(pets.folder)])


def test_no_run_at_all_is_refused() -> None:
    with pytest.raises(ExamError, match="no run"):
        report([])


def test_opos_figures_stand_beside_where_they_are_asked_for(tmp_path: Path, pets: Run) -> None:
    run = made(tmp_path / "run", [taken("a_law", 20)], items_of("a_law", 8, 16, 18))
    told = report([run], published=True).markdown.replace("\\", "")
    assert "| a_law | GPT-4 | OPO | 84.43 % | 94.65 % | 97.81 % | +10.22 |" in told
    assert "| a_law | scripted | this run (run) | 40.0 % | 80.0 % | 90.0 % | +40.0 |" in told
    assert "arXiv 2312.15907" in told
    assert "GPT-4" not in report([run]).html
    assert "None of these exams bears the name" in report([pets], published=True).markdown


def test_pictures_show_names_in_any_script_and_with_any_sign(tmp_path: Path) -> None:
    name = "职业道德 $x$ <b>"
    run = made(tmp_path / "run", [taken(name, 20)], items_of(name, 8, 16, 18))
    page = report([run]).html
    words = re.findall(r"<text[^>]*>([^<]*)</text>", page)
    assert words.count("职业道德\u00a0$x$\u00a0&lt;b&gt;") == 2
    assert sum(tag == "svg" for tag, _ in Page(page).tags) == 3
    assert "var(--comity)" in page


def test_a_long_name_is_shortened_in_pictures() -> None:
    svg = recall_picture([Curve(name="道" * 40, at={100: 0.5})])
    assert "道" * 25 + "…" in svg
    assert "道" * 27 not in svg


def test_the_same_runs_make_the_same_page(pets: Run) -> None:
    assert report([pets]) == report([pets])


def test_signs_of_markdown_do_not_break_the_table(tmp_path: Path) -> None:
    name = "a|b\n*c*"
    run = made(tmp_path / "run", [taken(name, 20)], items_of(name, 8, 16, 18))
    assert "| a\\|b \\*c\\* | 40.0 %" in report([run]).markdown


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_a_missing_package_names_its_extra(
    package: str, pets: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"the report needs .*pip install 'comity\[exams\]'"):
        report([pets])


def run_command(folder: Path, *arguments: str) -> Result:
    page = str(folder / "page.html")
    return CliRunner().invoke(report_command, [*arguments, "--out", page])


def test_the_command_writes_the_page_and_prints_the_table(tmp_path: Path, pets: Run) -> None:
    result = run_command(tmp_path, str(pets.folder))
    assert result.exit_code == 0, result.output
    assert result.stdout == report([pets]).markdown
    assert (tmp_path / "page.html").read_text("utf-8") == report([pets]).html
    assert "page.html" in result.stderr


@pytest.mark.parametrize(
    ("floor", "code", "told"),
    [
        ("pets.comity=80", 0, ""),
        ("pets.comity=80.01", 1, "first: 80.00 % is less than 80.01 % (20 of 20 scored)"),
        ("pets.base=41", 1, "first: 40.00 % is less than 41 %"),
        ("dogs.base=1", 1, "dogs.base is in none of the runs (there are: pets.base, pets.comity"),
    ],
)
def test_an_accuracy_below_its_floor_fails_the_command(
    tmp_path: Path, pets: Run, floor: str, code: int, told: str
) -> None:
    result = run_command(tmp_path, str(pets.folder), "--fail-under", floor)
    assert result.exit_code == code
    assert told in result.stderr
    assert (tmp_path / "page.html").exists()


def test_nothing_scored_is_below_every_floor(tmp_path: Path) -> None:
    run = made(tmp_path / "run", [taken("v1.2", 1)], [item("v1.2", 0, "comity", "")])
    result = run_command(tmp_path, str(run.folder), "--fail-under", "v1.2.comity=0")
    assert result.exit_code == 1
    assert "run: nothing was scored, and 0 % is asked for" in result.stderr


@pytest.mark.parametrize(("missing", "code"), [(1, 0), (2, 1), (9, 1)])
def test_an_accuracy_of_which_more_than_a_tenth_is_missing_is_below_every_floor(
    tmp_path: Path, missing: int, code: int
) -> None:
    items = [item("pets", n, "comity", right(n) if n >= missing else "") for n in range(10)]
    run = made(tmp_path / "run", [taken("pets", 10)], items)
    result = run_command(tmp_path, str(run.folder), "--fail-under", "pets.comity=0")
    assert result.exit_code == code
    assert (f"only {10 - missing} of 10 scored" in result.stderr) is bool(code)


@pytest.mark.parametrize(
    "floor",
    ["pets", "pets=70", "pets.comity", "pets.best=7", "pets.base=x", "pets.base=101", ".base=3"],
)
def test_a_floor_that_cannot_be_read_is_refused(tmp_path: Path, pets: Run, floor: str) -> None:
    result = run_command(tmp_path, str(pets.folder), "--fail-under", floor)
    assert result.exit_code == 2
    assert "is no SET.MODE=PERCENT" in result.stderr


def test_a_folder_without_a_run_is_told_of(tmp_path: Path) -> None:
    result = run_command(tmp_path, str(tmp_path))
    assert isinstance(result.exception, ExamError)
    assert "has no run.json" in str(result.exception)


def test_a_page_that_cannot_be_written_is_told_of(tmp_path: Path, pets: Run) -> None:
    out = str(tmp_path / "nowhere" / "page.html")
    result = CliRunner().invoke(report_command, [str(pets.folder), "--out", out])
    assert isinstance(result.exception, ExamError)
    assert "cannot be written" in str(result.exception)
