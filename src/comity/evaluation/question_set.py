"""What concerns a set of questions: those that ask the same, and right letters spread evenly.

To even out the letters, the right option is moved and the others keep their order. Letters that
the analysis mentions ("Option B", "选项B", "B项") are moved along. Where it cannot be told whether
a letter is an option or a name (`B公司`), or options name one another, the question keeps its
order and the others make up for it: better a less even set than a wrong analysis.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from comity.documents.duplicates import find_duplicates
from comity.evaluation.exams import Question
from comity.evaluation.question_form import ORDINAL, plain, points_at_options
from comity.records import Rule

NEAR = 0.8
"""Jaccard similarity of runs of four characters from which two questions are the same."""

_EDGE, _END = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_LETTER = rf"{_EDGE}[A-H]{_END}"
_ONE = rf"[(（]?{_LETTER}[)）]?"
_LIST = rf"{_ONE}(?:\s*(?:[,、，和与及或&/]|\b(?:and|or|nor)\b|以及)+\s*{_ONE})*"
_VERB = (
    r"(?:is|are|was|were|says|states|allows|contradicts|violates|misreads|ignores|confuses|fits"
    r"|follows|describes|omits|would|cannot|correctly|wrongly|does not)"
)
_MENTION = re.compile(
    rf"(?:\b[Oo]ptions?|\b[Aa]nswers?|\b[Cc]hoices?|选项|答案|选择?|排除)"
    rf"\s*(?:is|are|as|为|是)?\s*[:：]?\s*{_LIST}"
    rf"|{_LIST}\s*(?:项(?!目)|选项|[两三]项|[都均是不]?(?:正确|错误|符合)|[对错](?=[，。；,;\s]|$)|\s{_VERB}\b)"
    rf"|(?:^|(?<=[\n;；。.]))\s*{_LETTER}\s*[.．:：、)）]"
    rf"|[(（]{_LETTER}[)）]",
    re.MULTILINE,
)
_LONE = re.compile(rf"{_EDGE}[A-HＡ-Ｈ]{_END}")
# "A tenant may": an article, before a word that is no verb ("A omits the deadline")
_ARTICLE = re.compile(r"A\s+(?![aeio])\w*(?<![^s]s)\b")
# "Section B", "Company C": a letter after a word that leads to no option is a name's
_NAME = re.compile(
    r"\b(?!(?:options?|answers?|choices?|is|are|as|and|or|nor|but|not|only|also|both|either|neither"
    r"|because|since|so|that|while|whereas|if|though|hence|thus|therefore|then|why|than|to|by|with"
    r"|unlike|like|against|of|in|pick|choose)\b)"
    rf"[a-z]+\s+(?-i:({_LETTER}))",
    re.IGNORECASE,
)
_SMALL = re.compile(r"\b(?:options?|choices?|answers?)\s+[(]?[a-h]\b", re.IGNORECASE)


def set_faults(questions: Sequence[Question], *, near: float = NEAR) -> dict[str, str]:
    """The questions that ask what an earlier one asks, by id, each with the reason.

    Two are the same when they are asked for the same scope and their stems and options, in any
    order, share `near` of their runs of four characters. Questions of one pair differ in a
    single circumstance and may resemble each other, but not be equal. Raises `ValueError` if
    two questions have the same id.
    """
    if len({question.id for question in questions}) < len(questions):
        raise ValueError("two questions have the same id: give each its own")
    found = dict(_equal(questions))
    groups: dict[str, list[Question]] = {}
    for question in questions:
        if question.id not in found:
            groups.setdefault(_scope_key(question), []).append(question)
    for group in groups.values():
        found.update(_near(group, near))
    return {question.id: found[question.id] for question in questions if question.id in found}


def balanced(
    questions: Sequence[Question], seed: int, *, fixed: Collection[str] = ()
) -> tuple[Question, ...]:
    """The questions, in their order, with options reordered so that the right letters are even.

    Those whose id is `fixed` stay as they are, and the others make up for them. Where all
    questions have equally many options and none must keep its order, no letter is right more than
    once more than another. The same questions and seed give the same result.
    """
    draw = random.Random(seed)
    result = list(questions)
    stays = [question.id in fixed or keeps_order(question) for question in questions]
    used = Counter(questions[at].answer for at in range(len(questions)) if stays[at])
    free = [at for at in range(len(questions)) if not stays[at]]
    # those with the fewest letters choose first, for the others can make up for them
    for at in sorted(free, key=lambda at: (len(questions[at].options), draw.random())):
        letters = questions[at].letters
        target = min(letters, key=lambda letter: (used[letter], draw.random()))
        used[target] += 1
        result[at] = with_answer_at(questions[at], target)
    return tuple(result)


def turns_freely(question: Question) -> bool:
    """Whether the options can be put in any order without a word becoming wrong."""
    asked = "\n".join((question.stem, *question.options))
    return not (
        any(points_at_options(option) for option in question.options)
        or ORDINAL.search(asked) is not None
        or _lone_letters(asked)
    )


def keeps_order(question: Question) -> bool:
    """Whether reordering could make the question or its analysis wrong, or unlike its pair's."""
    return bool(question.pair) or not turns_freely(question) or _is_unsure(question.analysis)


def _is_unsure(analysis: str) -> bool:
    """Whether the analysis may name an option in a way that is not understood."""
    rest = _MENTION.sub(" ", analysis)
    return (
        ORDINAL.search(analysis) is not None
        or any(not _ARTICLE.match(analysis, name.start(1)) for name in _NAME.finditer(analysis))
        or _SMALL.search(rest) is not None
        or _lone_letters(rest)
    )


def with_answer_at(question: Question, target: str) -> Question:
    """The question with its right option at `target`, and its analysis' letters moved along."""
    old = list(question.letters)
    order = [letter for letter in old if letter != question.answer]
    order.insert(old.index(target), question.answer)
    moved = dict(zip(order, old, strict=True))
    return question.model_copy(
        update={
            "options": tuple(question.options[old.index(letter)] for letter in order),
            "answer": target,
            "analysis": _relettered(question.analysis, moved),
        }
    )


def _relettered(analysis: str, moved: Mapping[str, str]) -> str:
    def mapped(mention: re.Match[str]) -> str:
        return re.sub(_LETTER, lambda one: moved.get(one.group(), one.group()), mention.group())

    return _MENTION.sub(mapped, analysis)


def _lone_letters(text: str) -> bool:
    """Whether a letter stands by itself and is not the English article."""
    return any(not _ARTICLE.match(text, lone.start()) for lone in _LONE.finditer(text))


def _equal(questions: Sequence[Question]) -> Iterator[tuple[str, str]]:
    first: dict[tuple[str, str], str] = {}
    for question in questions:
        key = (_scope_key(question), _asked(question))
        of = first.setdefault(key, question.id)
        if of != question.id:
            yield question.id, f"It asks the same as question {of}."


def _near(questions: Sequence[Question], near: float) -> Iterator[tuple[str, str]]:
    """Those that resemble an earlier one; a pair is taken as versions of one text."""
    texts = [
        Rule(
            id=f"pair {question.pair}" if question.pair else f"question {number}",
            version=number,
            text=_asked(question),
        )
        for number, question in enumerate(questions, start=1)
    ]
    for one in find_duplicates(texts, near):
        question, of = questions[one.version - 1], questions[one.of_version - 1]
        yield question.id, f"It resembles question {of.id} (similarity {one.similarity:.2f})."


def _scope_key(question: Question) -> str:
    return question.scope.model_dump_json() if question.scope else ""


def _asked(question: Question) -> str:
    return "\n".join((plain(question.stem), *sorted(plain(option) for option in question.options)))
