"""For one question, meta-prompts that pull in different directions.

That the same answers are ranked differently under them is what MetaAlign trains on (arXiv
2410.14184). A case has two sides, each with a wish, and views: each view is a meta-prompt as the
model will be shown it, and the side whose wish holds under it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Literal

from pydantic import Field

from comity.alignment.prefer import WishCheck
from comity.preferences.priority import default_matrix
from comity.records import Family, MetaPrompt, Preference, Record
from comity.training.families import Material, Persona, Seed, Statement, opposites
from comity.wording import words_of


class Side(Record):
    """One of two wishes that contradict one another."""

    wish: str = Field(description="The wish, as a judge is told it.")
    writing: MetaPrompt = Field(description="The meta-prompt under which an answer is written.")
    check: WishCheck | None = Field(None, description="How code tells whether it is followed.")


class View(Record):
    """A meta-prompt as the trained model is shown it."""

    meta: MetaPrompt = Field(description="What stands before the question.")
    holds: Literal[0, 1] = Field(description="The side whose wish the answer must follow.")
    why: str = Field("", description="Why this side, where the two stand in one meta-prompt.")


class Case(Record):
    """A question under wishes that contradict one another."""

    id: str = Field(description="Id of the question, and which pair of wishes.")
    seed: Seed = Field(description="The question.")
    sides: tuple[Side, Side] = Field(description="The two wishes.")
    views: tuple[View, ...] = Field(min_length=1, description="The meta-prompts.")

    @property
    def family(self) -> Family:
        """The question's family."""
        return self.seed.family


class Unfit(Record):
    """A question that no case can be made for."""

    question: str = Field(description="Id of the question.")
    reason: str = Field(description="Why.")


def cases(material: Material, *, per_question: int = 1, seed: int = 0) -> tuple[Case | Unfit, ...]:
    """For each question, cases of at most `per_question` pairs of wishes, those of its topic first.

    The same material and seed give the same cases. Wishes and personas are in the language of
    the question. Of a harmful question only the side of a wish that limits for safety's sake is
    ever wanted.
    """
    return tuple(
        case
        for question in material.questions
        for case in _of(question, material, per_question, seed)
    )


def _of(seed: Seed, material: Material, count: int, draw: int) -> Iterator[Case | Unfit]:
    order = random.Random(f"wishes {draw} {seed.id}")
    differ = seed.family == "diverse" and not seed.harmful
    by_personas = _by_personas(seed, material.personas, order) if differ else iter(())
    every = chain(by_personas, _by_statements(seed, material.statements, order))
    reason = f"no two wishes of the family {seed.family} in its language fit it"
    yield from tuple(islice(every, count)) or (Unfit(question=seed.id, reason=reason),)


def _by_personas(seed: Seed, personas: Sequence[Persona], order: random.Random) -> Iterator[Case]:
    """Cases of two people who see the question's topic differently."""
    fit = [one for one in personas if one.topic == seed.topic and one.language == seed.language]
    pairs = [(a, b) for at, a in enumerate(fit) for b in fit[at + 1 :]]
    order.shuffle(pairs)
    words = words_of("data", seed.language, package="comity.training")
    for pair in pairs:
        metas = [MetaPrompt(user_info=one.info) for one in pair]
        first, second = (
            Side(wish=words["stance"].format(info=one.info), writing=meta)
            for one, meta in zip(pair, metas, strict=True)
        )
        yield Case(
            id=f"{seed.id} {pair[0].id}/{pair[1].id}",
            seed=seed,
            sides=(first, second),
            views=(View(meta=metas[0], holds=0), View(meta=metas[1], holds=1)),
        )


def _by_statements(
    seed: Seed, statements: Sequence[Statement], order: random.Random
) -> Iterator[Case]:
    """Cases of two statements, those of the question's topic first."""
    own = [one for one in statements if one.family == seed.family]
    pairs = [pair for pair in opposites(own) if _fits(pair[0], seed)]
    order.shuffle(pairs)
    pairs.sort(key=lambda pair: pair[0].topic != seed.topic)
    for one, other in pairs:
        sides = (one, other)
        views = [v for v in _views(one, other) if not seed.harmful or _is_safe(sides[v.holds])]
        if views:
            yield Case(
                id=f"{seed.id} {one.id}/{other.id}",
                seed=seed,
                sides=(_side(one), _side(other)),
                views=tuple(views),
            )


def _is_safe(one: Statement) -> bool:
    """Whether an answer to a harmful question may be taught that follows the wish."""
    return one.kind == "safety" and one.stance == "limits"


def _fits(one: Statement, seed: Seed) -> bool:
    return one.language == seed.language and one.topic in ("", seed.topic)


def _side(one: Statement) -> Side:
    writing = MetaPrompt(preferences=(one.preference(_speaker(one)),))
    return Side(wish=one.text, writing=writing, check=one.check)


def _speaker(one: Statement) -> Literal["provider", "user"]:
    """Who says it where it stands alone: values are the provider's, other wishes the user's."""
    return one.by or ("provider" if one.family == "consensus" else "user")


def _views(one: Statement, other: Statement) -> tuple[View, ...]:
    if one.family == "priority":
        orders: tuple[tuple[Statement, Statement, Literal[0, 1]], ...]
        orders = ((one, other, 0), (other, one, 1))
        return tuple(
            _disputed(provider, user, side)
            for provider, user, side in orders
            if provider.by != "user" and user.by != "provider"
        )
    first, second = (
        MetaPrompt(preferences=(each.preference(_speaker(each)),)) for each in (one, other)
    )
    return (View(meta=first, holds=0), View(meta=second, holds=1))


def _disputed(provider: Statement, user: Statement, side: Literal[0, 1]) -> View:
    """Provider against user: who wins is the priority matrix' word. `side` is the provider's.

    Where the provider wins, both wishes are shown: no code sees every conflict, and the model
    must know whom to follow. Where the user wins, the provider's wish is left out, as it is when
    questions are answered: else the prompt would say one thing and the answer do the other.
    """
    theirs, users = provider.preference("provider"), user.preference("user")
    cell = default_matrix().cell(theirs, users)
    if cell.winner == "user":
        return View(meta=MetaPrompt(preferences=(users,)), holds=_other(side), why=cell.because)
    unweighed = Preference(text=user.text)  # of no kind: nothing weighs it against the provider's
    meta = MetaPrompt(system_info=provider.text, preferences=(unweighed,))
    return View(meta=meta, holds=side, why=cell.because)


def _other(side: Literal[0, 1]) -> Literal[0, 1]:
    return 1 if side == 0 else 0
