"""What an Inspect log tells of a question, and Comity without Inspect."""

from __future__ import annotations

import subprocess
import sys

from comity.evaluation.ask import ExamOptions, Put, put
from comity.evaluation.exams import Question
from comity.evaluation.inspect_ruling import ruling_text, ruling_told
from comity.memory.memory import Memory
from comity.models.chat import estimate_tokens
from comity.records import Rule, RuleRef

LEAD = Rule(
    id="lead",
    title="By-laws",
    article="Article 1",
    text="Dogs must be kept on a lead in the market square.",
    authority="local",
)
FREE = Rule(
    id="free",
    title="Park code",
    text="Dogs may run free in the market square.",
    authority="code",
    overrides=("lead",),
)
ASKED = Question(
    id="q",
    stem="Must dogs be kept on a lead in the market square?",
    options=("Yes", "No"),
    answer="A",
    rules=(RuleRef(id="lead", version=1), RuleRef(id="gone", version=2)),
)


def prepared(memory: Memory, budget: int = 1000) -> Put:
    memory.add(LEAD)
    memory.add(FREE)
    return put(ASKED, "comity", memory, estimate_tokens, ExamOptions(budget=budget))


def test_a_ruling_names_what_is_kept_and_what_gave_way_to_what(memory: Memory) -> None:
    told = ruling_told(prepared(memory))
    assert [rule["id"] for rule in told["kept"]] == ["lead"]
    (lost,) = told["overruled"]
    assert (lost["id"], lost["reason"], lost["winner"]) == ("free", "higher authority", "lead")
    assert (told["mode"], told["revision"], told["scope"]["place"]) == ("comity", 2, ["world"])
    assert (told["gold_found"], told["gold_sent"]) == (0.5, 0.5)


def test_a_ruling_says_what_the_budget_left_out(memory: Memory) -> None:
    put_small = prepared(memory, budget=1)
    told = ruling_told(put_small)
    assert [rule["id"] for rule in told["left_out"]] == ["lead"]
    assert told["gold_sent"] == 0.0
    text = ruling_text(put_small)
    assert "1. By-laws Article 1 (`lead`, version 1, local, `world`), *left out by the budget*" in (
        text
    )


def test_a_ruling_is_told_to_a_reader(memory: Memory) -> None:
    text = ruling_text(prepared(memory))
    assert text.splitlines() == [
        "Mode comity: in `world`, at 2030-06-01 12:00 UTC, revision 2; "
        "gold rules: 50% found, 50% in the prompt",
        "",
        f"**Kept** ({prepared_tokens(text)} tokens in the prompt)",
        "",
        "1. By-laws Article 1 (`lead`, version 1, local, `world`)",
        "",
        "**Overruled**",
        "",
        "- Park code (`free`, version 1, code, `world`), gives way to `lead`: higher authority",
    ]


def prepared_tokens(text: str) -> int:
    return int(text.partition("**Kept** (")[2].partition(" ")[0])


def test_where_nothing_is_searched_no_recall_is_told(memory: Memory) -> None:
    base = put(ASKED, "base", None, estimate_tokens, ExamOptions())
    assert ruling_text(base) == "Mode base: no rules."
    assert ruling_told(base)["gold_found"] is None
    untied = ASKED.model_copy(update={"rules": ()})
    memory.add(LEAD)
    found = put(untied, "comity", memory, estimate_tokens, ExamOptions())
    assert "gold rules" not in ruling_text(found)


def test_without_inspect_the_tasks_name_the_package_to_install() -> None:
    code = (
        "import sys; sys.modules['inspect_ai'] = None\n"
        "from comity.errors import MissingExtra\n"
        "try:\n    import comity.evaluation.inspect_tasks\n"
        "except MissingExtra as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("pip install 'comity[inspect]'")
