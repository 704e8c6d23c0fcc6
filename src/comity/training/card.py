"""The data card: what a folder of preference data holds, how it was made, and what it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from comity.alignment.prefer import prefer_version
from comity.records import FAMILIES
from comity.training.built import Built, Dropped, Options
from comity.training.candidates import writing_version
from comity.training.contamination import NEAR, RUN, RUN_CHINESE, Exams
from comity.training.families import Material
from comity.training.lessons import held_out

_SHOWN = 5  # ids beside a reason
_LONGEST = 160


def card(
    built: Built, material: Material, model: str, judge: str, options: Options, exams: Exams
) -> str:
    """The card of a build as Markdown. The same build gives the same card."""
    parts = (
        _head(built),
        _rows(built, options),
        _way(built, material, model, judge, options),
        _judging(built, judge),
        _contamination(exams, built.dropped),
        _dropped(built.dropped),
        _licence(model),
    )
    return "\n".join(line for part in parts for line in part)


def _head(built: Built) -> Iterator[str]:
    yield "# Preference data\n"
    yield (
        f"{len(built.lessons)} rows for following preferences, built by `comity train data` "
        f"(Comity {version('comity')}) in the way of MetaAlign (arXiv 2410.14184): the same "
        "answers are ranked under meta-prompts that pull in different directions. MetaAlign "
        "published neither its priority matrix nor its sizes: those used here are Comity's own.\n"
    )
    for family in built.missing:
        yield f"**The family `{family}` is missing: there is no row of it.**\n"


def _rows(built: Built, options: Options) -> Iterator[str]:
    outside = held_out(built.lessons, options.eval_share, options.seed)
    yield "## Rows\n"
    yield "| family | questions | train | eval | by code | by the judge | as written |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for family in (*FAMILIES, "rules"):
        own = [lesson for lesson in built.lessons if lesson.family == family]
        held = sum(lesson.question in outside for lesson in own)
        questions = len({lesson.question for lesson in own})
        by = Counter(lesson.by for lesson in own)
        yield (
            f"| {family} | {questions} | {len(own) - held} | {held} | {by['code']} "
            f"| {by['judge']} | {by['writing']} |"
        )
    yield ""
    if not outside:
        yield "**Nothing is held out: there is one question at most, or the share is 0.**\n"
    yield "No question is in both parts. Each row names its `family`, `question`, `wish`, and `by`"
    yield "(`code`, `judge` or `writing`: who told its answers apart).\n"
    yield "| file | rows | SHA-256 |"
    yield "| --- | ---: | --- |"
    for file in built.files:
        yield f"| {file.name} | {file.rows} | `{file.sha256}` |"
    yield ""


def _way(
    built: Built, material: Material, model: str, judge: str, options: Options
) -> Iterator[str]:
    writing = options.writing
    yield "## How it was made\n"
    for name, source in material.sources.items():
        yield f"- {name}: {source}"
    yield f"- answers by `{model}`, words {writing_version()}: {writing.answers} under each wish"
    yield f"  (the first greedy), at most {writing.max_tokens} tokens"
    if judge:
        yield f"- judge: `{judge}`, words {prefer_version('en')} and {prefer_version('zh')}"
    else:
        yield "- no judge: what code cannot tell apart is ranked by the wish it was written for"
    yield f"- pairs of opposite wishes for each question: {options.per_question} at most"
    yield f"- seed {options.seed}; {built.asked + built.kept} calls to models"
    yield f"- the ranking turned with the wish for {built.flipped} of {built.flippable} questions"
    yield "  under two wishes\n"
    yield "Answers are written under a note to follow the wish strictly, which the prompts in the"
    yield "files do not have. Where provider and user disagree and the provider wins, both wishes"
    yield "stand in the prompt; where the user wins, the user's alone, as when questions are"
    yield "answered.\n"


def _judging(built: Built, judge: str) -> Iterator[str]:
    places = built.places
    by_code = sum(said.by == "code" for said in built.compared)
    failed = sum(said.winner == "failed" for said in built.compared)
    yield "## Agreement of the judge\n"
    yield f"{len(built.compared)} comparisons: {by_code} by code, {places.comparisons} by the judge"
    yield f"in both orders, {failed} failed.\n"
    if places.share_first is None:
        yield "The judge was not needed.\n"
        return
    agreed = places.comparisons - places.turned
    yield f"- both orders gave the same verdict in {_share(agreed, places.comparisons)}; the others"
    yield "  are ties, and make no row"
    yield f"- the answer that stood first was preferred in {places.share_first:.0%} of the choices"
    yield "  (a judge that looks at the answers alone: 50 %)\n"
    if places.uneven:
        yield f"**`{judge}` looks at the place of an answer: its ties are many, and what it did"
        yield "decide is to be looked at.**\n"


def _contamination(exams: Exams, dropped: Sequence[Dropped]) -> Iterator[str]:
    found = [one for one in dropped if "question of" in one.reason]
    yield "## Exams\n"
    yield f"Compared with {len(exams)} texts of exams ({', '.join(exams.names)}), by code and not"
    yield "by meaning: the same text in normal form; questions also nearly the same (Jaccard"
    yield f"similarity of runs of four characters, {NEAR}); a shared run of {RUN} words"
    yield f"({RUN_CHINESE} Chinese characters), in answers too. Paraphrases in other words are not"
    yield f"found. Dropped: {len(found)}.\n"


def _dropped(dropped: Sequence[Dropped]) -> Iterator[str]:
    yield "## What was dropped\n"
    if not dropped:
        yield "Nothing.\n"
        return
    counts = Counter((one.stage, _short(one.reason)) for one in dropped)
    yield "| at | reason | how often | of |"
    yield "| --- | --- | ---: | --- |"
    for (stage, reason), count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        ids = [one.what for one in dropped if (one.stage, _short(one.reason)) == (stage, reason)]
        named = ", ".join(dict.fromkeys(ids[:_SHOWN])) + (", …" if len(ids) > _SHOWN else "")
        yield f"| {stage} | {reason} | {count} | {named} |"
    yield ""


def _licence(model: str) -> Iterator[str]:
    yield "## Licence\n"
    yield f"The answers were written by `{model}`: whatever its licence and terms say of its output"
    yield "holds for them. Comity's own questions, personas and statements are under Apache-2.0;"
    yield "for those of others, and for rules of a memory, their owners' terms hold. Nobody has"
    yield "read the answers: some are wrong in what they say, for only the wish was judged.\n"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})"


def _short(reason: str) -> str:
    flat = " ".join(reason.split()).replace("|", "/")
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"
