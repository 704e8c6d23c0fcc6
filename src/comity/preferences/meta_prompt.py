"""The meta-prompt: what provider and user want, as it stands between the rules and the question.

Three tiers as in MetaAlign (arXiv 2410.14184): system info, user info, user query; the first two
are the meta-prompt. The order is fixed: rules in force, then the provider, then the user, then
the question. The words and headings are our own choice; those of MetaAlign were not published.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import Field

from comity.material import as_material, harmless, words_in
from comity.preferences.foregone import WHY, WINNER, gives_way_to_rules, is_foregone
from comity.preferences.orders import gives_orders
from comity.preferences.priority import PriorityMatrix, Understands, weigh
from comity.preferences.statements import background, sentences, stated, without
from comity.records import (
    VERBATIM,
    Message,
    MetaPrompt,
    Preference,
    PreferenceKind,
    Record,
    Rule,
    Weighed,
)
from comity.wording import prompt_language, words_of

_MANNER = ("style", "language")  # how something is said, not what
_ENDS = (".", "!", "?", "。", "！", "？", "…", ":", "：")


MOST_WISHES = 50
"""Wishes of provider and user that one prompt heeds."""


class Aside(NamedTuple):
    """What is added to the user's last words, with the blank lines between; mostly one of both."""

    before: str = ""
    behind: str = ""


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
    ruled: bool = False,
) -> Framed:
    """Weigh all that a meta-prompt says, and what is stored of the user.

    Explicit wishes are read from both texts sentence by sentence, without a model. A sentence of
    the user's that gives orders stays out of the prompt, whether it is a wish or not; so does one
    that says what to conclude where the question is `ruled`: rules are in force for it.
    """
    user_info, refused = without_orders(meta.user_info)
    user_info, foregone = _without_foregone(user_info) if ruled else (user_info, ())
    provider, user = stated(meta.system_info, "provider"), stated(user_info, "user")
    wishes, over = _few((*provider, *stored, *meta.preferences, *user))
    if ruled:
        wishes, overruled = _under_rules(wishes, understands)
        foregone = (*foregone, *overruled)
    weighed = weigh(wishes, matrix=matrix, understands=understands)
    lost = {one.preference.text for one in weighed if _lost(one)}
    said = {one.text for one in provider}
    return Framed(
        system=without(meta.system_info, lost),
        background=background(user_info),
        weighed=(*weighed, *over, *refused, *foregone),
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


def _without_foregone(text: str) -> tuple[str, tuple[Weighed, ...]]:
    """A user's text without the sentences that say what to conclude, and these."""
    parts = sentences(text)
    foregone = [part for part in parts if is_foregone(part)]
    told = "".join(part for part in parts if part not in foregone).strip()
    return told, tuple(_overruled(Preference(text=part.strip())) for part in foregone)


def _under_rules(
    wishes: Iterable[Preference], understands: Understands | None
) -> tuple[list[Preference], list[Weighed]]:
    """The wishes that have a place where rules are in force, and what became of the others.

    These are left out before any are weighed, so that none of the provider's gives way to them.
    """
    known = [understands.understood(wish) if understands else wish for wish in wishes]
    lost = [
        wish
        for wish in known
        if wish.by == "user" and gives_way_to_rules(wish) and not gives_orders(wish.text)
    ]
    return [wish for wish in known if wish not in lost], [_overruled(wish) for wish in lost]


def _overruled(wish: Preference) -> Weighed:
    return Weighed(preference=wish, outcome="gives_way", winner=WINNER, reason=WHY)


def _refused(text: str, why: str) -> Weighed:
    return Weighed(preference=Preference(text=text.strip()), outcome="refused", reason=why)


def _lost(one: Weighed) -> bool:
    return one.preference.by == "provider" and one.outcome == "gives_way"


def _few(wishes: Iterable[Preference]) -> tuple[list[Preference], list[Weighed]]:
    """The wishes, each once, where it was last said; and what is too much for a prompt."""
    said: dict[tuple[str, str, str], Preference] = {}
    for one in wishes:
        key = (one.by, one.origin, words_in(one.text))
        said.pop(key, None)
        said[key] = one
    once = list(said.values())
    why = f"more than {MOST_WISHES} wishes"
    over = [Weighed(preference=one, outcome="refused", reason=why) for one in once[MOST_WISHES:]]
    return once[:MOST_WISHES], over


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


def messages_of(meta: MetaPrompt, question: str, language: str) -> tuple[Message, ...]:
    """A meta-prompt and a question as they are put where no rule is in force.

    An empty meta-prompt gives no system message. `language` is `zh` or `en`: that of the words
    around.
    """
    framed = frame(meta)
    system = "\n\n".join((*head(framed, language), *paragraphs(framed, language)))
    before, behind = aside(framed, language)
    asked = f"{before}{question}{behind}"
    turns = (Message(role="system", content=system),) if system else ()
    return (*turns, Message(role="user", content=asked))


def head(framed: Framed, language: str) -> list[str]:
    """What the system message begins with where it says nothing of rules but knows a person."""
    return [_words(language)["head"]] if framed.is_personal else []


def paragraphs(framed: Framed, language: str, *, ruled: bool = False) -> list[str]:
    """Of a framed meta-prompt, what stands in the system message: provider, then user.

    `ruled` says that rules are in force for the question: wishes about what is answered then
    stand here, behind the rules, and not in the user's turn, and no side is taken.
    """
    words = _words(language)
    parts = _of_provider(framed, words)
    if framed.background:
        parts.append(f"{words['background']}\n{as_material(framed.background)}")
    if framed.takes_sides and not ruled:
        parts.append(words["stance"])
    if what := [wish for wish in framed.wishes if ruled and wish.kind not in _MANNER]:
        parts.append("\n".join((words["wishes_ruled"], *_listed(what, words))))
    return parts


def aside(framed: Framed, language: str, *, ruled: bool = False) -> Aside:
    """What is added to the user's last turn: who they are, and what they want of the answer.

    These are the user's own words, so they stand where the user speaks, with no more weight than
    the question; and small models follow best what stands last (docs/design/prompt.md). Where
    the question is `ruled`, only wishes about how it is answered stand here, and the question
    last: what is answered is for the rules to say. Empty where nothing is left.
    """
    words = _words(language)
    about = "" if ruled else _one_line(framed.background)
    lines = [words["about_me"].format(text=about)] * bool(about)
    kept = [wish for wish in framed.wishes if not ruled or wish.kind in _MANNER]
    wanted = words["between"].join(_sentence(wish.text) for wish in kept)
    lines += [words["wishes"].format(text=wanted)] * bool(wanted)
    told = "\n".join(lines)
    if not told:
        return Aside()
    return Aside(before=f"{told}\n\n") if ruled else Aside(behind=f"\n\n{told}")


def _words(language: str) -> Mapping[str, Any]:
    return words_of("meta", language, package="comity.preferences")


def _sentence(text: str) -> str:
    """A wish on one line, with a mark at its end."""
    line = _one_line(text)
    return line if line.endswith(_ENDS) else line + ("。" if prompt_language(line) == "zh" else ".")


def _one_line(text: str) -> str:
    return " ".join(harmless(text).split())


def _of_provider(framed: Framed, words: Mapping[str, Any]) -> list[str]:
    added = "\n".join(_listed(framed.added, words))
    said = [part for part in (harmless(framed.system), added) if part]
    return [words["provider"], *said] if said else []


def _listed(wishes: Iterable[Preference], words: Mapping[str, Any]) -> list[str]:
    return [words["wish"].format(text=_one_line(wish.text)) for wish in wishes]
