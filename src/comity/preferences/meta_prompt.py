"""The meta-prompt: what provider and user want, as it stands between the rules and the question.

Three tiers as in MetaAlign (arXiv 2410.14184): system info, user info, user query; the first two
are the meta-prompt. The order is fixed: rules in force, then the provider, then the user, then
the question. The words and headings are our own choice; those of MetaAlign were not published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import Field

from comity.material import as_material, harmless
from comity.preferences.orders import gives_orders
from comity.preferences.priority import PriorityMatrix, Understands, weigh
from comity.preferences.statements import background, sentences, stated
from comity.records import VERBATIM, MetaPrompt, Preference, PreferenceKind, Record, Rule, Weighed
from comity.wording import words_of


class Framed(Record):
    """A meta-prompt after weighing: what of it stands in the prompt."""

    model_config = VERBATIM

    system: str = Field("", description="The provider's text, without what gave way.")
    background: str = Field("", description="What the user told of themselves, without orders.")
    weighed: tuple[Weighed, ...] = Field((), description="Every wish, and what became of it.")
    added: tuple[Preference, ...] = Field(
        (), description="The provider's kept wishes that its text does not hold."
    )

    @property
    def wishes(self) -> tuple[Preference, ...]:
        """The user's wishes that are kept."""
        return tuple(one.preference for one in self.weighed if _kept(one, "user"))

    @property
    def is_personal(self) -> bool:
        """Whether anything in it is of the user."""
        return bool(self.background or self.wishes)

    @property
    def takes_sides(self) -> bool:
        """Whether the user's background decides where people differ."""
        return bool(self.background) and not any(
            _kept(one, "provider")
            and one.preference.kind == "opinion"
            and one.preference.stance == "limits"
            for one in self.weighed
        )


def frame(
    meta: MetaPrompt,
    stored: Iterable[Preference] = (),
    *,
    matrix: PriorityMatrix | None = None,
    understands: Understands | None = None,
) -> Framed:
    """Weigh all that a meta-prompt says, and what is stored of the user.

    Explicit wishes are read from both texts sentence by sentence, without a model. A sentence of
    the user's that gives orders stays out of the prompt, whether it is a wish or not.
    """
    user_info, refused = without_orders(meta.user_info)
    provider, user = stated(meta.system_info, "provider"), stated(user_info, "user")
    weighed = weigh(
        (*provider, *stored, *meta.preferences, *user), matrix=matrix, understands=understands
    )
    system = _without(meta.system_info, weighed)
    said = {one.text for one in provider}
    return Framed(
        system=system,
        background=background(user_info),
        weighed=(*weighed, *refused),
        added=tuple(
            one.preference
            for one in weighed
            if _kept(one, "provider") and one.preference.text not in said
        ),
    )


def without_orders(text: str) -> tuple[str, tuple[Weighed, ...]]:
    """A user's text without the sentences that give orders, and what became of these.

    Nothing is left of a text that gives one only as a whole.
    """
    kept: list[str] = []
    refused: list[Weighed] = []
    for sentence in sentences(text):
        if why := gives_orders(sentence):
            refused.append(_refused(sentence, why))
        else:
            kept.append(sentence)
    told = "".join(kept)
    if why := gives_orders(told):
        return "", (*refused, _refused(told, why))
    return told.strip(), tuple(refused)


def _refused(text: str, why: str) -> Weighed:
    return Weighed(preference=Preference(text=text.strip()), outcome="refused", reason=why)


def _without(text: str, weighed: Sequence[Weighed]) -> str:
    """The provider's text without the sentences that gave way."""
    for one in weighed:
        if one.preference.by == "provider" and one.outcome == "gives_way":
            text = text.replace(one.preference.text, "", 1)
    return text.strip()


def _kept(one: Weighed, by: str) -> bool:
    return one.preference.by == by and one.outcome == "kept"


def preference_of(rule: Rule) -> Preference:
    """A wish as the memory keeps it: a rule of authority `preference`, its kind in `domain`."""
    kind = rule.domain if rule.domain in get_args(PreferenceKind) else ""
    return Preference.model_validate(
        {"text": rule.text, "kind": kind, "origin": "stored", "id": rule.id}
        | {"version": rule.version}
    )


def as_wishes(text: str) -> tuple[Preference, ...]:
    """The user's wishes of a text that has one on each line; `KIND: …` says what one is about."""
    wishes = []
    for line in filter(None, map(str.strip, text.splitlines())):
        kind, _, rest = line.partition(":")
        named = kind.strip().casefold() in get_args(PreferenceKind) and bool(rest.strip())
        told = {"kind": kind.strip().casefold(), "text": rest} if named else {"text": line}
        wishes.append(Preference.model_validate(told))
    return tuple(wishes)


def render(meta: MetaPrompt, language: str) -> str:
    """System info, user info and wishes as they stand in a prompt; empty for an empty one.

    `language` is `zh` or `en`: that of the headings.
    """
    return "\n\n".join(paragraphs(frame(meta), language))


def paragraphs(framed: Framed, language: str) -> list[str]:
    """The paragraphs of a framed meta-prompt: the provider's, then the user's."""
    words = words_of("meta", language, package="comity.preferences")
    parts = _of_provider(framed, words)
    if framed.background:
        parts.append(f"{words['background']}\n{as_material(framed.background)}")
    if framed.takes_sides:
        parts.append(words["stance"])
    if framed.wishes:
        parts.append("\n".join((words["wishes"], *_listed(framed.wishes, words))))
    return parts


def _of_provider(framed: Framed, words: Mapping[str, Any]) -> list[str]:
    added = "\n".join(_listed(framed.added, words))
    said = [part for part in (harmless(framed.system), added) if part]
    return [words["provider"], *said] if said else []


def _listed(wishes: Iterable[Preference], words: Mapping[str, Any]) -> list[str]:
    return [words["wish"].format(text=" ".join(harmless(wish.text).split())) for wish in wishes]
