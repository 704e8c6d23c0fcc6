"""Which of two answers suits a wish better, and does one answer follow a wish or its opposite?

A model is asked twice, with the two texts in both orders, and says A or B; its probabilities are
kept where it tells them. A verdict that changes with the order is a tie, and is known as such:
how often the first was preferred shows a judge that looks at places instead of texts. What code
can tell of an answer (`WishCheck`), code decides. Whatever goes wrong is kept as `failed`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from comity.errors import ModelError, ModelMissing
from comity.material import as_material, words_in
from comity.memory.patterns import compiled
from comity.models.chat import ChatModel, complete
from comity.records import Message, Record, Request, Usage
from comity.wording import prompt_language, version_of, words_of

TIMEOUT = 300.0
"""Seconds that one of the two questions to the judge may take."""

_CHOICES = ("A", "B")
_FURTHEST = 20.0  # log-odds beyond which a model is simply certain
_ITEM = re.compile(r"^[ \t]*(?:[-*•·–]|\d{1,2}[.)、．)]|[((]\d{1,2}[))])[ \t]*\S", re.MULTILINE)
_HAN = re.compile("[\u4e00-\u9fff]")
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]+")

Place = Literal["one", "other"]


class WishCheck(Record):
    """What code can tell of an answer; at least one field is set."""

    language: Literal["", "en", "zh"] = Field(
        "", description="Script that outweighs: Chinese, or Latin (its languages are not told)."
    )
    longest_words: int = Field(0, ge=0, description="Most words; a Chinese character is one.")
    shortest_words: int = Field(0, ge=0, description="Fewest words.")
    listed: bool | None = Field(None, description="Whether it has a list of two items or more.")
    must_match: str = Field("", description="RE2 pattern that the answer must match.")
    must_not_match: str = Field("", description="RE2 pattern that it must not match.")

    @model_validator(mode="after")
    def _can_be_checked(self) -> Self:
        if self.model_dump(exclude_defaults=True) == {}:
            raise ValueError("the check is empty: set at least one of its fields")
        if self.longest_words and self.longest_words < self.shortest_words:
            raise ValueError(
                f"longest_words {self.longest_words} is less than shortest_words "
                f"{self.shortest_words}"
            )
        for name in ("must_match", "must_not_match"):
            if pattern := getattr(self, name):
                compiled(pattern)  # raises `ValueError` for what RE2 cannot use
        return self


class CodeVerdict(Record):
    """What a check found."""

    follows: bool = Field(description="Whether the answer does all that the check asks for.")
    problems: tuple[str, ...] = Field((), description="What it does not do.")


class Asked(Record):
    """One of the two orders, and what the judge said."""

    first: Place = Field(description="Which text stood first, as A.")
    chose: Place | Literal[""] = Field("", description="Which one the judge chose.")
    share: float | None = Field(
        None, ge=0, le=1, description="The judge's probability for `one`; None if it does not tell."
    )
    failed: str = Field("", description="Why there is no choice.")

    @property
    def chose_first(self) -> bool:
        """Whether the text that stood first was chosen."""
        return self.chose == self.first


class _Verdict(Record):
    """What both kinds of verdict hold."""

    by: Literal["code", "judge", "label", "nobody"] = Field(
        description="Who decided; `label`: somebody who labelled answers of an exam."
    )
    asked: tuple[Asked, ...] = Field((), description="Both orders, where a judge was asked.")
    share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Probability for the first text, from the mean log-odds of both orders: what "
        "a judge likes of a place in itself cancels out.",
    )
    reasons: tuple[str, ...] = Field((), description="What code found, or why it failed.")
    judge: str = Field("", description="Name of the judge, and version of its prompt.")
    usage: Usage = Field(Usage(), description="Tokens read and written.")

    @property
    def turned(self) -> bool:
        """Whether the judge's choice changed with the order."""
        return len({one.chose for one in self.asked if one.chose}) == 2


class Preferred(_Verdict):
    """Which of two answers suits a wish better."""

    winner: Literal["one", "other", "tie", "failed"] = Field(description="The better answer.")


class Followed(_Verdict):
    """Whether an answer follows a wish or its opposite."""

    verdict: Literal["wish", "opposite", "neither", "failed"] = Field(
        description="`neither` where the orders disagree, or code finds both or none followed."
    )


def word_count(text: str) -> int:
    """Words of a text; a Chinese character counts as one, marks as none."""
    return len(words_in(text).split())


def code_verdict(check: WishCheck, answer: str) -> CodeVerdict:
    """Whether an answer does what a check asks for. An empty answer never does."""
    if not answer.strip():
        return CodeVerdict(follows=False, problems=("the answer is empty",))
    problems = tuple(_problems(check, answer))
    return CodeVerdict(follows=not problems, problems=problems)


def _problems(check: WishCheck, answer: str) -> Iterable[str]:
    words = word_count(answer)
    if check.longest_words and words > check.longest_words:
        yield f"it has {words} words, {check.longest_words} are the most"
    if words < check.shortest_words:
        yield f"it has {words} words, {check.shortest_words} are the fewest"
    if check.language and _script(answer) != check.language:
        yield f"it is not in the script of {check.language!r}"
    if check.listed is not None and check.listed != (len(_ITEM.findall(answer)) > 1):
        yield "it has no list" if check.listed else "it has a list"
    if check.must_match and not compiled(check.must_match).search(answer):
        yield f"nothing in it matches {check.must_match!r}"
    if check.must_not_match and (found := compiled(check.must_not_match).search(answer)):
        yield f"it says {found[0]!r}"


def _script(text: str) -> str:
    """`zh` or `en`, whichever has more words; empty where no letter is of either."""
    chinese, latin = len(_HAN.findall(text)), len(_LATIN.findall(text))
    return "" if not chinese + latin else "zh" if chinese > latin else "en"


async def preferred(
    model: ChatModel | None,
    question: str,
    wish: str,
    one: str,
    other: str,
    *,
    check: WishCheck | None = None,
    timeout: float = TIMEOUT,
) -> Preferred:
    """Which of two answers to a question suits a wish better.

    With a `check`, code decides: the answer that passes wins, and two that pass or fail alike tie.
    Without one `model` is asked, in both orders. Equal answers tie unasked. Raises `ModelMissing`
    if the model is not there, and `ValueError` where there is neither check nor model.
    """
    if check is not None:
        return _preferred_by_code(check, one, other)
    if model is None:
        raise ValueError(f"nobody can tell which answer suits {wish!r}: give a model or a check")
    if not one.strip() or not other.strip():
        return Preferred(winner="failed", by="nobody", reasons=("an answer is empty",))
    if words_in(one) == words_in(other):
        return Preferred(winner="tie", by="code", reasons=("the answers are the same",))
    language = prompt_language(question + wish)
    words = _words(language)["answers"]
    head = words["question"].format(question=as_material(question))
    tail = words["request"].format(wish=as_material(wish))

    def prompt(a: str, b: str) -> str:
        return "\n\n".join(
            (head, words["answers"].format(a=as_material(a), b=as_material(b)), tail)
        )

    turns, usage = await _both(model, words["instructions"], prompt, (one, other), timeout)
    told = _told(turns, model, language, usage)
    return Preferred(winner=_agreed(turns, "tie"), **told)


async def follows(
    model: ChatModel | None,
    question: str,
    answer: str,
    wish: str,
    opposite: str,
    *,
    check: WishCheck | None = None,
    opposite_check: WishCheck | None = None,
    timeout: float = TIMEOUT,
) -> Followed:
    """Does an answer follow a wish, or the opposite one?

    With a `check` of the wish code decides: an answer that fails it follows the opposite, or
    `neither` if `opposite_check` fails too; one that passes both is `neither`. Without a check
    `model` is asked which of the two wishes the answer was written for, in both orders. Raises
    what `preferred` raises.
    """
    if check is not None:
        return _followed_by_code(check, opposite_check, answer)
    if model is None:
        raise ValueError(f"nobody can tell whether {wish!r} is followed: give a model or a check")
    if not answer.strip():
        return Followed(verdict="failed", by="nobody", reasons=("the answer is empty",))
    language = prompt_language(question + wish)
    words = _words(language)["wishes"]
    head = words["question"].format(question=as_material(question), answer=as_material(answer))

    def prompt(a: str, b: str) -> str:
        wishes = words["wishes"].format(a=as_material(a), b=as_material(b))
        return "\n\n".join((head, wishes, words["request"]))

    turns, usage = await _both(model, words["instructions"], prompt, (wish, opposite), timeout)
    agreed = _agreed(turns, "neither")
    verdict = {"one": "wish", "other": "opposite"}.get(agreed, agreed)
    return Followed(verdict=verdict, **_told(turns, model, language, usage))


def prefer_version(language: str) -> str:
    """Name of the prompts in a language (`zh` or `en`): changes with every word of them."""
    return f"{language}-{version_of(_words(language))}"


def _words(language: str) -> Mapping[str, Any]:
    return words_of("prefer", language, package="comity.alignment")


def _preferred_by_code(check: WishCheck, one: str, other: str) -> Preferred:
    mine, others = code_verdict(check, one), code_verdict(check, other)
    winner: Literal["one", "other", "tie"] = "tie"
    if mine.follows != others.follows:
        winner = "one" if mine.follows else "other"
    return Preferred(winner=winner, by="code", reasons=(*mine.problems, *others.problems))


def _followed_by_code(check: WishCheck, opposite: WishCheck | None, answer: str) -> Followed:
    mine = code_verdict(check, answer)
    against = not mine.follows if opposite is None else code_verdict(opposite, answer).follows
    verdict: Literal["wish", "opposite", "neither"] = "neither"
    if mine.follows != against:
        verdict = "wish" if mine.follows else "opposite"
    return Followed(verdict=verdict, by="code", reasons=mine.problems)


async def _both(
    model: ChatModel,
    instructions: str,
    prompt: Callable[[str, str], str],
    texts: tuple[str, str],
    timeout: float,
) -> tuple[tuple[Asked, ...], Usage]:
    """What the model says with the texts in either order; the second is not asked after a
    failure."""
    turns: list[Asked] = []
    read = written = 0
    orders: tuple[tuple[Place, tuple[str, str]], ...] = (("one", texts), ("other", texts[::-1]))
    for first, (a, b) in orders:
        request = Request(
            messages=(
                Message(role="system", content=instructions.strip()),
                Message(role="user", content=prompt(a, b)),
            ),
            max_tokens=4,
            choices=_CHOICES,
            seed=0,
        )
        asked, usage = await _ask(model, request, first, timeout)
        turns.append(asked)
        read, written = read + usage.prompt_tokens, written + usage.completion_tokens
        if asked.failed:
            break
    return tuple(turns), Usage(prompt_tokens=read, completion_tokens=written)


async def _ask(
    model: ChatModel, request: Request, first: Place, timeout: float
) -> tuple[Asked, Usage]:
    try:
        async with asyncio.timeout(timeout):
            reply = await complete(model, request)
    except TimeoutError:
        return Asked(first=first, failed=f"no verdict within {timeout:g} s"), Usage()
    except ModelMissing:
        raise  # it would be missing for every answer
    except ModelError as error:
        return Asked(first=first, failed=str(error)), Usage()
    if reply.text not in _CHOICES:
        return Asked(first=first, failed=f"the judge said {reply.text[:40]!r}"), reply.usage
    second: Place = "other" if first == "one" else "one"
    share = _share_of_a(reply.choice_logprobs)
    if share is not None and first == "other":
        share = 1 - share
    chose = first if reply.text == "A" else second
    return Asked(first=first, chose=chose, share=share), reply.usage


def _share_of_a(logprobs: Mapping[str, float] | None) -> float | None:
    """Probability of A among A and B."""
    if not logprobs or not set(_CHOICES) <= logprobs.keys():
        return None
    return _from_log_odds(logprobs["A"] - logprobs["B"])


def _from_log_odds(odds: float) -> float:
    bounded = min(max(odds, -_FURTHEST), _FURTHEST)
    return 1 / (1 + math.exp(-bounded))


def _share(turns: Iterable[Asked]) -> float | None:
    shares = [one.share for one in turns]
    known = [share for share in shares if share is not None]
    if len(known) < 2:
        return None
    return _from_log_odds(sum(math.log(share / (1 - share)) for share in known) / len(known))


def _agreed(turns: Iterable[Asked], otherwise: str) -> Any:
    """What both orders say; `otherwise` where they disagree, `failed` where one failed."""
    said = {one.chose for one in turns}
    if "" in said:
        return "failed"
    return said.pop() if len(said) == 1 else otherwise


def _told(
    turns: tuple[Asked, ...], model: ChatModel, language: str, usage: Usage
) -> dict[str, Any]:
    failed = tuple(one.failed for one in turns if one.failed)
    return {
        "by": "nobody" if failed else "judge",
        "asked": turns,
        "share": _share(turns),
        "reasons": failed,
        "judge": f"{model.name}, {prefer_version(language)}",
        "usage": usage,
    }
