"""What came of `comity exam generate`: how many drafts survived, why others did not, coverage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.cli.output import note, say, say_table

if TYPE_CHECKING:
    from comity.evaluation.exams import Rejected
    from comity.evaluation.gather import Coverage, Wanted
    from comity.evaluation.settle import Generated
    from comity.memory.memory import Memory

_FIRST = 5  # uncovered rules that are shown


def summary(
    memory: Memory, wanted: Wanted, kinds: Sequence[str], settled: Generated, out: Path
) -> dict[str, Any]:
    """What came of the drafts of some kinds, in the stable form of `--json`."""
    from comity.evaluation.from_rules import BY_MODEL
    from comity.evaluation.gather import coverage
    from comity.evaluation.generate import rejected_file

    passed = Counter(str(question.kind) for question in settled.questions)
    tried = passed + Counter(str(each.kind) for each in settled.rejected)

    def counted(*kinds: str) -> dict[str, Any]:
        survived, of = sum(passed[kind] for kind in kinds), sum(tried[kind] for kind in kinds)
        return {"tried": of, "survived": survived, "survived_share": survived / of if of else None}

    return {
        "exam": str(out),
        "rejected_file": str(rejected_file(out)),
        **counted(*kinds),
        "by_model": counted(*(kind for kind in kinds if kind in BY_MODEL)),
        "kinds": {kind: counted(kind) for kind in kinds},
        "rejected": dict(Counter(str(each.stage) for each in settled.rejected).most_common()),
        "reasons": dict(_reasons(settled.rejected)),
        "coverage": _covered(coverage(memory, settled.questions, wanted)),
    }


def _reasons(rejected: Iterable[Rejected]) -> list[tuple[str, int]]:
    """How often each reason was given, rules, numbers and quotations left out."""
    told = Counter(
        f"{each.stage}: {_general(reason)}"
        for each in rejected
        for reason in each.reasons
        if not reason.startswith("Its words:")
    )
    return told.most_common()


def _general(reason: str) -> str:
    reason = re.sub(r"^rule .+?, version \d+: ", "", reason)
    reason = re.sub(r"\brule \S+( \S+)?(?=[ ,:] ?(?:overrules|version))", "a rule", reason)
    reason = re.sub(r"(?<=question ).+$", "another", reason)
    reason = re.sub(r"(?<= of ).*: '.*'\.?$|'[^']*'", "…", reason)
    reason = re.sub(r"(?<=sentence of ).+$|(?<=should name ).+$", "…", reason)
    # letters and numbers by themselves: those in a model's name stay
    return re.sub(r"(?<![\w:.-])(?:[A-H]|\d+(?:[.-]\d+)*)(?![\w:-])", "…", reason)


def _covered(found: Coverage) -> dict[str, Any]:
    return {
        "covered": len(found.covered),
        "share": found.share,
        "uncovered": list(found.uncovered),
        "passed_over": dict(found.passed_over),
    }


def say_summary(found: Mapping[str, Any]) -> None:
    """Print a summary for people."""
    say(f"{_headline(found)}: {found['exam']}")
    say_table(
        ("kind", "tried", "survived", "share"),
        [
            (kind, one["tried"], one["survived"], _percent(one["survived_share"]))
            for kind, one in found["kinds"].items()
        ],
    )
    if found["reasons"]:
        say_table(
            ("times", "stage and reason"),
            [(times, reason) for reason, times in found["reasons"].items()],
        )
        note(f"every rejected draft, with what was said of it: {found['rejected_file']}")
    covered = found["coverage"]
    without = covered["uncovered"]
    say(
        f"rules in force without a question: {len(without)} of "
        f"{len(without) + covered['covered']} ({_percent(_lacking(covered))})"
        + (f", such as {', '.join(without[:_FIRST])}" if without else "")
    )
    if covered["passed_over"]:
        note(f"{len(covered['passed_over'])} more say too little or always give way (see --json)")


def _headline(found: Mapping[str, Any]) -> str:
    written = found["by_model"]
    told = []
    if written["tried"]:
        told.append(
            f"{written['survived']} of {written['tried']} drafts of the model survived "
            f"({_percent(written['survived_share'])})"
        )
    if follow := found["survived"] - written["survived"]:
        told.append(f"{follow} question{'s follow' if follow > 1 else ' follows'} from the rules")
    return "; ".join(told) or "no questions"


def _lacking(covered: Mapping[str, Any]) -> float | None:
    return None if covered["share"] is None else 1 - covered["share"]


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
