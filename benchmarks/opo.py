"""The data and the retrieval method of OPO (Align on the Fly, arXiv 2312.15907), for comparison.

The data is not part of this project: name its folder with `--data` or COMITY_OPO_DATA. It has
`rules/{law,professional_morality}.jsonl` and `questions/a_{law,professional_morality}.csv`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from comity.evaluation.exams import read_exam
from comity.evaluation.gold import tie
from comity.records import Rule

SETS = {"law": "law", "company": "professional_morality"}


class Question(NamedTuple):
    """An exam question with the rules it was made from."""

    text: str
    gold: frozenset[str]


def rule_files(data: Path) -> list[Path]:
    """The rule files of a data folder."""
    return [data / "rules" / f"{name}.jsonl" for name in SETS.values()]


def questions(data: Path, name: str, rules: Sequence[Rule]) -> list[Question]:
    """All questions of a set that name gold rules; text is the stem with its options."""
    exam = read_exam(data / "questions" / f"a_{SETS[name]}.csv")
    return [
        Question(question.query, frozenset(ref.id for ref in question.rules))
        for question in tie(exam.questions, rules)
        if question.rules
    ]


class OpoRetriever:
    """OPO's way: exact L2 over everything, top-k = dimension, place filter after that.

    A law passes when it is nationwide or its place's name stands in the question as a substring;
    company rules are not filtered. Packing is greedy and stops at the first that does not fit.
    """

    def __init__(self, rules: Sequence[Rule], locations: Sequence[str], vectors: Any) -> None:
        import faiss

        self.rules = rules
        self.locations = locations
        self.index = faiss.IndexFlatL2(vectors.shape[1])
        self.index.add(vectors)

    def ranked(self, question: str, vector: NDArray[np.float32]) -> list[Rule]:
        """Rules that pass, nearest first."""
        _, found = self.index.search(vector[np.newaxis], len(vector))
        return [
            self.rules[i]
            for i in found[0]
            if i >= 0
            and (
                self.rules[i].audience
                or self.locations[i] == "全国"
                or self.locations[i] in question
            )
        ]

    @staticmethod
    def pack(ranked: Sequence[Rule], budget: int, cost: Callable[[Rule], int]) -> list[Rule]:
        """Rules in order until the first that does not fit."""
        packed: list[Rule] = []
        for rule in ranked:
            budget -= cost(rule)
            if budget < 0:
                break
            packed.append(rule)
        return packed
