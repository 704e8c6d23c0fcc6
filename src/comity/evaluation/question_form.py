"""What code can tell about the form of one exam question, without a model.

The checks are meant to be right rather than many: words that question and rule must share (terms,
names, numbers) are no fault, only a whole sentence or a long run of them is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from comity.evaluation.exams import Question
from comity.records import Rule

# Lengths are weights: a Chinese character is 1, a word of another script 2, a number nothing.
# In 252 published law questions of a stronger model, the longest run that the right option
# shares with its rules weighs 13 in the middle, 30 at the 90th percentile and 36 at the 95th.
SENTENCE = 16
RUN = 36
STANDS_OUT = 2.5
STANDS_OUT_BY = 16
_GIVEN_AWAY = 10

_TOKEN = re.compile(r"[\u3400-\u9fff]|\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*|\x00")
_SENTENCES = re.compile(r"[。！？；!?;\n]+|\.(?=\s|$)")
_LABEL = re.compile(r"\s*[(（]?[A-H][.．、:：)）]")
_OPTIONS_IN_STEM = re.compile(r"(?<!\w)A[.．、:：)）].+?(?<!\w)B[.．、:：)）]", re.DOTALL)
_QUOTED_TITLE = re.compile(r"《[^》]*》")
_PROMPT_MARK = re.compile(r"\[R?\d+\]")

_COUNTED = r"(?:first|second|third|fourth|last|longest|shortest)"
ORDINAL = re.compile(
    rf"\bthe {_COUNTED} (?:option|answer|choice)\b"
    r"|第[一二三四五1-5]个?(?:选项|答案)|[最较][长短]的选项",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:all|none|both|any|either|neither|each) of the (?:above|below|foregoing|preceding"
    r"|(?:other )?(?:options|answers|choices))\b"
    r"|\b(?:above|previous|preceding|other) (?:options|answers|choices)\b"
    r"|^(?:以上|上述|前述)(?:[都均全皆]|各项|选项|所有|说法|答案|[两三]项)"
    r"|(?:其他|其它|其余)(?:选项|各项|[两三]项)"
    r"|^(?:全部|[都均皆全])(?:不|是)?(?:对|错|正确|错误|可以|符合)的?$",
    re.IGNORECASE,
)
_NAMES_LETTERS = re.compile(
    r"(?i:\b(?:option|answer|choice)s?) ?[(]?[A-H]\b"
    r"|选项[A-H](?![A-Za-z])|(?<![A-Za-z])[A-H](?:选项|项(?!目))"
    r"|^(?:(?i:only|both|either|neither) )?[A-H]"
    r"(?:\s*(?:,|、|和|与|或|及|(?:and|or|nor)\b)\s*[A-H])+"
    r"(?:\s*(?:only|(?:are|is) (?:both )?(?:right|correct|wrong)|都?[对错]|[都均]?(?:正确|错误)))?$"
)

_CONNECTIVE = re.compile(
    r"因为|由于|(?<!\d)[,，、;；:：]|[,，、;；:：](?!\d)|\b(?:because|since|the|an?)\b",
    re.IGNORECASE,
)

_NOUN_ZH = r"(?:规定|规则|法条|条文|条款|条例|办法|守则|准则|材料|文件|文字|段落|内容)"
_NOUN_EN = (
    r"(?:rules?|articles?|laws?|texts?|passages?|provisions?|regulations?|sections?|clauses?"
    r"|excerpts?|documents?|material)"
)
_POINTS_OUTSIDE = re.compile(
    rf"(?:上述|以上|上面的?|前述|下述|所给的?|给定的?){_NOUN_ZH}|本(?:法|条例|办法|规定|守则|准则|条)(?![人院律])"
    rf"|\b(?:above|given|provided|preceding|foregoing|aforementioned) {_NOUN_EN}\b"
    rf"|\b{_NOUN_EN} (?:above|below|given|provided)\b"
    rf"|\b(?:this|these) {_NOUN_EN}\b",
    re.IGNORECASE,
)
_ANTECEDENT = re.compile(rf"{_NOUN_ZH}|《|\b{_NOUN_EN}\b", re.IGNORECASE)
_BARE_ARTICLE = re.compile(
    r"(?:根据|依据|按照|依照|违反|适用)(?:第[一二三四五六七八九十百零\d]+条|规则\s*[\d一二三四])"
    r"|\b(?:according to|under|pursuant to|in line with|based on|per)\s+"
    r"(?:article|section|rule|paragraph|clause|§)\s*\d+(?:\([^)]*\))?(?!\s*(?:of|in)\b)",
    re.IGNORECASE,
)


def form_faults(
    question: Question,
    rules: Sequence[Rule],
    *,
    names: Sequence[str] = (),
    others: Sequence[str] = (),
) -> tuple[str, ...]:
    """The faults of a question's form, against the rules it was made from.

    `names` are names of the place or organisation, one of which the stem must hold; none means
    that it need not. `others` are names in the stem of something else, which may hold such a name
    (海南藏族自治州 is not in 海南). Each fault is a sentence that says what is wrong, and where.
    """
    return (
        *_unusable_options(question),
        *_options_that_point(question),
        *_length_that_tells(question),
        *_stem_with_options(question),
        *_stem_not_alone(question, rules),
        *_stem_without_name(question, names, others),
        *_copies(question, rules, names),
    )


def plain(text: str) -> str:
    """The text without differences of width, case, spacing and marks at its ends."""
    folded = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    while folded and _is_mark(folded[-1]):
        folded = folded[:-1]
    return folded


def points_at_options(text: str) -> bool:
    """Whether an option names others, by letter, by position, or all of them."""
    return any(pattern.search(text.strip(" .。")) for pattern in (ORDINAL, _OTHERS, _NAMES_LETTERS))


def _is_mark(character: str) -> bool:
    return character not in "%°'\"" and unicodedata.category(character).startswith("P")


def _lettered(question: Question) -> Iterator[tuple[str, str]]:
    return zip(question.letters, question.options, strict=True)


def _unusable_options(question: Question) -> Iterator[str]:
    first: dict[str, str] = {}
    for letter, option in _lettered(question):
        words = plain(_CONNECTIVE.sub(" ", option))
        if not plain(option):
            yield f"Option {letter} is empty."
        elif words in first:
            yield f"Option {letter} says the same as option {first[words]}."
        first.setdefault(words, letter)
    labelled = [letter for letter, option in _lettered(question) if _LABEL.match(option)]
    if len(labelled) > 1:  # one alone may be an initial
        yield f"Options {', '.join(labelled)} begin with a letter of their own."


def _options_that_point(question: Question) -> Iterator[str]:
    for letter, option in _lettered(question):
        if points_at_options(option):
            yield f"Option {letter} names other options by letter or position: {_short(option)!r}."


def _length_that_tells(question: Question) -> Iterator[str]:
    weights = {letter: _weight(_tokens(option)) for letter, option in _lettered(question)}
    right = weights.pop(question.answer)
    low, high = min(weights.values()), max(weights.values())
    if right >= STANDS_OUT * high and right - high >= STANDS_OUT_BY:
        yield f"The right option {question.answer} is much longer than all the others."
    if low >= STANDS_OUT * right and low - right >= STANDS_OUT_BY:
        yield f"The right option {question.answer} is much shorter than all the others."


def _stem_with_options(question: Question) -> Iterator[str]:
    if _OPTIONS_IN_STEM.search(question.stem):
        yield "The stem lists options of its own."
    stem = plain(question.stem)
    told = [letter for letter, option in _lettered(question) if (plain(option) or "\0") in stem]
    right = question.options[question.letters.index(question.answer)]
    if told == [question.answer] and _weight(_tokens(right)) >= _GIVEN_AWAY:
        yield f"The stem holds the words of the right option {question.answer}."


def _stem_not_alone(question: Question, rules: Sequence[Rule]) -> Iterator[str]:
    for text, where in ((question.stem, "stem"), (question.options_text, "options")):
        if mark := _PROMPT_MARK.search(text):
            yield f"The {where} names a rule as {mark.group()}, which only the writer has seen."
    titled = _holds_title(question.stem, rules)
    for found in _POINTS_OUTSIDE.finditer(question.stem):
        if not titled and not _ANTECEDENT.search(question.stem[: found.start()]):
            yield f"The stem says {found.group()!r} and does not say which that is."
            return
    if not titled and (bare := _BARE_ARTICLE.search(question.stem)):
        yield f"The stem says {bare.group()!r} without the title of the document."


def _holds_title(stem: str, rules: Iterable[Rule]) -> bool:
    words = plain(stem)
    return "《" in stem or any(plain(title) in words for title in _titles(rules))


def _titles(rules: Iterable[Rule]) -> set[str]:
    parts = (part.strip() for rule in rules for part in rule.title.split(">"))
    return {part for part in parts if plain(part)}


def _stem_without_name(
    question: Question, names: Sequence[str], others: Sequence[str]
) -> Iterator[str]:
    wanted = [name for name in names if name.strip()]
    stem = question.stem
    for other in others:
        if any(_holds_name(other, name) for name in wanted):
            stem = stem.replace(other, "\0")
    if wanted and not any(_holds_name(stem, name) for name in wanted):
        yield f"The stem names no place or organisation; it should name {' or '.join(wanted)}."


def _holds_name(text: str, name: str) -> bool:
    words = r"\s+".join(re.escape(word) for word in _folded(name).split())
    before = r"(?<![a-z0-9])" if re.match(r"[a-z0-9]", _folded(name).strip()) else ""
    return re.search(before + words, _folded(text)) is not None


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _copies(question: Question, rules: Sequence[Rule], names: Sequence[str]) -> Iterator[str]:
    hidden = sorted({*_titles(rules), *names}, key=len, reverse=True)
    parts = [("The stem", question.stem)]
    parts += [(f"Option {letter}", option) for letter, option in _lettered(question)]
    texts = [(where, _tokens(_without(text, hidden))) for where, text in parts]
    for rule in rules:
        body = _without(rule.text, hidden)
        sentences = [_tokens(one) for one in _SENTENCES.split(body)]
        whole = [one for one in sentences if _weight(one) >= SENTENCE]
        run_of = SequenceMatcher(None, autojunk=False)
        run_of.set_seq2(_tokens(body))
        for where, words in texts:
            if any(_within(one, words) for one in whole):
                yield f"{where} repeats a whole sentence of {rule.heading}."
                continue
            run_of.set_seq1(words)
            best = run_of.find_longest_match()
            run = words[best.a : best.a + best.size]
            if _weight(run) >= RUN:
                shown = _short(_shown(run))
                yield f"{where} repeats a long run of words of {rule.heading}: {shown!r}."


def _without(text: str, names: Iterable[str]) -> str:
    """The text with names and quoted titles cut out: sharing them is no copying."""
    text = _QUOTED_TITLE.sub("\0", text)
    for name in names:
        text = re.sub(re.escape(name), "\0", text, flags=re.IGNORECASE)
    return text


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(_folded(text))


def _weight(tokens: Iterable[str]) -> int:
    return sum(_weight_of(token) for token in tokens)


def _weight_of(token: str) -> int:
    if token == "\0" or token[0].isdigit():
        return 0
    return 1 if "\u3400" <= token <= "\u9fff" else 2


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    return f"\1{chr(1).join(part)}\1" in f"\1{chr(1).join(whole)}\1"


def _shown(tokens: Sequence[str]) -> str:
    joined = " ".join(tokens).replace("\0", "…")
    return re.sub(r"(?<=[\u3400-\u9fff]) (?=[\u3400-\u9fff])", "", joined)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
