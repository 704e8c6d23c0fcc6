"""What came of `comity exam generate`: how many drafts survived, why others did not, coverage."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comity.cli.output import note, say, say_table

if TYPE_CHECKING:
    from comity.evaluation.exams import Rejected
    from comity.evaluation.gather import Coverage, Wanted
    from comity.evaluation.generate import Generated
    from comity.memory.memory import Memory

_FIRST = 5  # uncovered rules that are shown


def summary(
    memory: Memory, wanted: Wanted, tried: Mapping[str, int], settled: Generated, out: Path
) -> dict[str, Any]:
    """What came of it, in the stable form of `--json`; `tried` counts by kind."""
    from comity.evaluation.gather import coverage
    from comity.evaluation.generate import rejected_file

    passed = Counter(str(question.kind) for question in settled.questions)
    return {
        "exam": str(out),
        "rejected_file": str(rejected_file(out)),
        "tried": len(settled.questions) + len(settled.rejected),
        "survived": len(settled.questions),
        "survived_share": settled.survived_share,
        "kinds": {
            kind: {
                "tried": number,
                "survived": passed[kind],
                "survived_share": passed[kind] / number if number else None,
            }
            for kind, number in tried.items()
        },
        "rejected": dict(Counter(str(each.stage) for each in settled.rejected).most_common()),
        "reasons": dict(_reasons(settled.rejected)),
        "coverage": _covered(coverage(memory, settled.questions, wanted.tenant)),
    }


def _reasons(rejected: Iterable[Rejected]) -> list[tuple[str, int]]:
    """How often each reason was given, names, numbers and quotations left out."""
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
    return re.sub(r"\b[A-H]\b|\d+(?:[.-]\d+)*", "…", reason)


def _covered(found: Coverage) -> dict[str, Any]:
    return {
        "covered": len(found.covered),
        "share": found.share,
        "uncovered": list(found.uncovered),
        "passed_over": dict(found.passed_over),
    }


def say_summary(found: Mapping[str, Any]) -> None:
    """Print a summary for people."""
    say(
        f"{found['survived']} of {found['tried']} survived ({_percent(found['survived_share'])}): "
        f"{found['exam']}"
    )
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


def _lacking(covered: Mapping[str, Any]) -> float | None:
    return None if covered["share"] is None else 1 - covered["share"]


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f} %"
