"""The option that a free text chose: the last resort where an endpoint offers nothing better.

A letter is read only from a conclusion ("Answer: C", "故选C", "C. …", "not A but B", a line that
is nothing but a letter, an option's own words), and only if all conclusions agree. A letter in
a word, an article, a name ("vitamin C", "A公司"), a question, a condition or a guess ("might be
C") is none. What stays doubtful is not read: a wrong reading falsifies a score, a missing one is
counted as not scored.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from comity.evaluation.exams import LETTERS
from comity.records import Record


class Reading(Record):
    """What was read from a text."""

    letter: str = Field("", description="The chosen option's letter; empty if not readable.")
    reason: str = Field("", description="Why it is not readable.")


Role = Literal["chosen", "right", "denied", "plain"]


class _Mention(NamedTuple):
    """One letter, or several in one breath, or an option's own words."""

    letters: frozenset[str]
    role: Role
    end: int  # where the text goes on after it


# Each option's own words are replaced by one character of Unicode's private use area, so that no
# letter inside them is taken for a label.
_WORDS = 0xE000
_MASK = "\ue000-\ue007"

_FILLER = r"(?:the\s+|letter\s+|option\s+|choice\s+|answer\s+|选项\s*|选择\s*)"
_MENTION = re.compile(
    rf"[{_MASK}]|(?<![A-Za-z0-9'&+#_])(?<![A-Za-z]\.)(?<![A-Za-z0-9]-)"
    r"(?:[A-HJ-Z]|[A-H]{2,8})(?![A-Za-z0-9'&+#_]|-[A-Za-z0-9]|\.[A-Z]\b)"
)
_JOIN = re.compile(
    r"\s*(?:[,、/&;和与或及]|,?\s*(?:and|or|nor)\b|以及|还是|as\s+well\s+as|)\s*"
    rf"(?:both\s+)?{_FILLER}?",
    re.I,
)
_OWN_CLAUSE = re.compile(r"\s+(?:is|was|does|has|would|can|cannot)\b|\s*(?:项|选项)?[错不正对是]")

# What may stand before a letter, and after an "A", that is a label rather than a word.
_BEFORE = re.compile(
    r"an?|answers?|are|as|be|because|been|being|both|but|choices?|choose|chose|chosen|conclusion|"
    r"either|eliminate|except|exclude|finally|for|from|guess|hence|if|instead|is|isn't|it|it's|"
    r"letter|like|likely|namely|neither|nor|not|of|only|opt|options?|or|out|over|pick(?:ed)?|"
    r"probably|rather|reject|say|select(?:ed)?|so|statement|than|that|that's|the|then|therefore|"
    r"think|thus|unlike|verdict|versus|was|were|while|whereas|whether|with|and|believe|definitely|"
    r"clearly|simply|just|[A-HJ-Z]",
    re.I,
)
_BEFORE_ZH = "见选是为非项择案和与及或即以除了故此而但有定论上述知在因不则对将把"
_AFTER_A = re.compile(
    rf"\s*(?:$|[{_MASK}.,;:!?)\]}}\"、。/|=>~—–\-&])|\s*(?:项|选|[和与或及因]|以及|还是|"
    r"是|为|正确|错|有误|不|对|符合|才|均|都|当选|最|而是|的?说法|的?表述)|"
    r"\s+(?:is|was|isn't|because|since|as|and|or|nor|but|not|rather|instead|than|would|seems?|"
    r"looks?|appears?|fits|cannot|can't|must\s+be|over|versus|which)\b",
    re.I,
)

_BECAUSE = r"(?:because|since|as|due\s+to|given|based\s+on|according|not|rather|instead|but)\b"
_HARD_END = (
    rf"\s*(?:项|选项)?(?:$|[.。;:!)\]}}—–|]|、(?!\s*[A-Z{_MASK}])|\s-|,?\s*{_BECAUSE}|"
    r",?\s*(?:因|由于|而不是|而非)|\s*\[|\s*\([^()]*\)\W*$)"
)
_SOFT_END = rf"(?:{_HARD_END}|\s*(?:项|选项)?(?:,|\s+(?:and|which|here|in\s+this\s+case)\b))"
_ENDS = re.compile(_SOFT_END, re.I)
_ENDS_HARD = re.compile(_HARD_END, re.I)

_ADVERBS = r"(?:(?:therefore|thus|hence|then|clearly|simply|probably|likely|definitely|still)\s+)*"
_BEGINS = re.compile(
    r"(?:^|[^\w\s]|\b(?:is|are|be|it|says?|states?|that|must|should)|[是为选应由])\s*$", re.I
)
_ANSWER_CUE = re.compile(
    r"(?:(?:\b(?:answer|verdict|conclusion|my\s+choice|my\s+selection)|"
    r"\b(?:correct|right|best|final|appropriate|only)\s+(?:option|choice|letter|one))\b"
    r"(?:\s+(?:to|for|of|in|here|that|this|the|question|case|should|would|must|has|be))*"
    rf"\s*{_ADVERBS}(?:is|be|:|=|-+>?|→)+\s*:?\s*{_ADVERBS}|"
    r"\b(?:choose|chose|select(?:ed)?|pick(?:ed)?|go(?:ing)?\s+with|opt(?:ed)?\s+for)\s*:?\s+|"
    r"^\W*(?:final\s+)?(?:answer|choice)\s+|"
    r"(?:答案|结论|正确的?(?:选项|选择|说法|做法|表述)?的?)"
    r"\s*(?:应该|应当|应|只能|必须|就|显然)?\s*(?:[是为选:]\s*)+|答案\s*|选择?(?!项)\s*:?\s*)"
    rf"{_FILLER}{{0,2}}$",
    re.I,
)
_SO_CUE = re.compile(
    r"(?:\b(?:so|therefore|thus|hence|consequently|in\s+conclusion|finally|overall|ultimately)\b"
    r"\s*[,:]?\s*(?:(?:it|this|that)(?:'s|\s+(?:is|must\s+be|has\s+to\s+be|should\s+be))\s+)?|"
    rf"\b(?:it|that)(?:'s|\s+(?:is|must\s+be|has\s+to\s+be|should\s+be))\s+{_ADVERBS}|"
    r"\bI(?:'d|\s+would)?\s+(?:think|say|believe|guess)\s*:?\s*|"
    r"(?:因此|所以|故|综上(?:所述)?|总之|可见|由此可知)\s*[,:]?\s*(?:应当?|应该)?\s*[是为选]?\s*)"
    rf"{_FILLER}{{0,2}}$",
    re.I,
)
_BUT_CUE = re.compile(rf"(?:\bbut(?:\s+rather)?|而是|而应?当?选)\s*{_FILLER}?$", re.I)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|than|over|instead\s+of|except|without|unlike|against|"
    r"exclud(?:e|es|ed|ing)|eliminat(?:e|es|ed|ing)|reject(?:s|ed|ing)?|rul(?:e|es|ed|ing)\s+out)"
    r"|n't|不是|并非|而非|而不是|排除|除了?|非|不应?当?能?可?)"
    rf"\s*(?:be\s+|是\s*|选择?\s*|为\s*|both\s+|either\s+)?{_FILLER}{{0,2}}$",
    re.I,
)
_WRONG_AFTER = re.compile(
    r"\s*(?:项|选项)?(?:的?说法|的?表述)?\s*(?:(?:(?:is|are|was|were|seems?|looks?|must\s+be)\s+"
    r"(?:(?:also|both|clearly|therefore|simply|all|then|the|an?|only)\s+)*"
    r"(?:wrong|incorrect|false|not\b|inaccurate|out\b|ruled\s+out|excluded|eliminated|untrue|"
    r"impossible|invalid|worst|distractor|too\b))|wrong\b|incorrect\b|isn't|aren't|cannot|can't|"
    r",?\s*which\s+is\s+(?:wrong|incorrect|false)|doesn't|does\s+not|contradicts|violates|是?[均都也]?(?:错|不正确|不对|不符|不选|不是|不成立|"
    r"不当|不合|有误|排除|不应))",
    re.I,
)
_ANSWER_AFTER = re.compile(
    r"\s*(?:项|选项)?\s*(?:(?:is|must\s+be|would\s+be)\s+(?:(?:therefore|clearly|thus)\s+)*"
    r"(?:the|my)\s+(?:(?:only|single|correct|right|best|most|appropriate|proper|final)\s+){0,3}"
    r"(?:answer|choice|option)\b|(?:才?是|为)(?:本题的?)?(?:正确的?)?(?:答案|选项)|符合题意|当选)",
    re.I,
)
_RIGHT_AFTER = re.compile(
    r"\s*(?:项|选项)?\s*(?:(?:is|are|seems?|looks?|appears?|fits)\s+(?:(?:therefore|clearly|both|"
    r"indeed|most|the|also|all)\s+)*(?:correct|right|best|better|appropriate|suitable|accurate|"
    r"true)(?:\s+(?:one|here|statement))?|(?:的?说法|的?表述)?[均都才]?(?:是|为|最)?"
    rf"(?:正确|对|恰当|合适|准确)的?){_SOFT_END}",
    re.I,
)

_CLAUSE = re.compile(r"[,:;]|\b(?:so|therefore|thus|hence|but)\b|因此|所以|故|而是", re.I)
_THEREFORE = re.compile(r"\b(?:so|therefore|thus|hence)\b|因此|所以|故|综上", re.I)
_CONDITION = re.compile(r"\b(?:if|unless|whether|suppose|assuming)\b|如果|假如|倘若|若|是否", re.I)
_NEGATION = re.compile(
    r"\b(?:not|cannot|never|no|neither|nor|without|unable|unsure|doubt\w*|disagree|reject\w*|wrong|"
    r"incorrect|false|hardly|unlikely|refuse)\b|n't\b|[不未非无没莫否别]|错误",
    re.I,
)
_GUESS = re.compile(
    r"\b(?:could|might|may|maybe|perhaps|possibl[ey]|some|others|most\s+people|many|first|initially|"
    r"originally|tempt(?:ing|ed)|worst|(?<!at\s)least)\b|(?<!最)(?<!最有)可能|也许|或许|大概",
    re.I,
)
_DOUBT_AFTER = re.compile(r"\?|\s*,?\s*(?:if|unless)\b", re.I)
_SECOND_THOUGHTS = re.compile(
    r"(?:[^\w\s]|\n)\s*actually\b|"
    r"\b(?:wait|hold\s+on|on\s+second\s+thoughts?|correction|scratch\s+that|hmm|also\s+(?:be|correct|right|"
    r"acceptable|possible|fits?))\b|更正|等等|等一下|也(?:是?正确|对|可以|可能|符合|行)",
    re.I,
)
_ALONE = re.compile(
    r"(?:(?:the|my|final|option|choice|letter|answer|it's|it\s+is|i\s+think|i\s+say|sure|yes|选项|"
    r"选择?|项|答案|[是为])\b|[\s\W])*",
    re.I,
)
_SEGMENT = re.compile(rf"[,—–-]\s*{_FILLER}?$", re.I)

_FIELD = re.compile(
    r"""["'](?:final_)?(?:answer|choice|option|letter|选项|选择|答案)["']\s*:\s*"""
    r"""(?:\[([^\]]*)\]|"([^"]*)"|'([^']*)')""",
    re.I,
)
_TAG = re.compile(r"<\s*(?:final_)?(?:answer|choice)\s*>|\\boxed\s*\{(?:\\text\s*\{)?", re.I)
_ENCLOSED = re.compile(
    r"(?<![A-Za-z0-9])[(\[【「『《\"'“‘{<]\s*([A-Za-z])\s*[.:]?\s*[)\]】」』》\"'”’}>](?![A-Za-z])"
)
_SMALL = re.compile(r"((?:answer|choice|答案)\s*[:是为]\s*)([a-h])(?=\W*$)", re.I | re.M)
_LIST_LABEL = re.compile(
    r"(?:^[^\w\n]*|(?<=[。;.!])[ \t]*)(?:[Oo]ption\s+|选项)?"
    r"([A-Z])\s*(?:项|选项)?\s*[.):,、][ \t]*(?=\S)",
    re.M,
)
_SENTENCE = re.compile(r"(?:[^\n。;!?.]|\.(?=[^\s.]))*[\n。;!?.]?")
_BARE = re.compile(r"\W*(?:(?:answer|choice|答案)\W{1,3})?([a-z])[^\w?]*", re.I)


def read_letter(text: str, options: Sequence[str]) -> Reading:
    """The letter that `text` chose among `options`, whose first is A.

    An answer that names none, several, or one that is not an option is not readable, and the
    reading says why. Raises `ValueError` for fewer than two options or more than `LETTERS` has.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options: there must be 2 to {len(LETTERS)}")
    wordings = [_folded(option).strip(" .。;") for option in options]
    if any(len(wording) == 1 and wording.upper() in LETTERS for wording in wordings):
        return Reading(reason="the options are letters themselves")
    said = _after_thinking(_folded(text))
    if bare := _BARE.fullmatch(said):
        return _verdict(frozenset(bare[1].upper()), len(options))
    said = _without_list(_masked(_unwrapped(said), wordings))
    mentions = list(_mentions(said))
    return _decide(mentions, said, len(options))


def read_cut(text: str, options: Sequence[str]) -> Reading:
    """The letter of a text that was cut at its longest: only if the first line alone says it."""
    reading = read_letter(text, options)
    line, ended, _ = text.lstrip().partition("\n")
    if reading.letter and ended and read_letter(line, options) == reading:
        return reading
    why = reading.reason or f"{reading.letter} may not be its last word"
    return Reading(reason=f"{why}; the answer was cut at its longest: raise --max-tokens")


def _folded(text: str) -> str:
    """Full-width forms as ordinary ones, without marks that are not seen and private characters."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return "".join(char for char in plain if unicodedata.category(char) not in ("Cf", "Co"))


def _after_thinking(text: str) -> str:
    """What follows a reasoning model's thoughts; nothing where they were cut off."""
    _, closed, said = text.rpartition("</think>")
    return said if closed else text.partition("<think>")[0]


def _unwrapped(text: str) -> str:
    """JSON fields, tags, emphasis and brackets turned into plain sentences."""
    text = re.sub(r"[*`]|__|^[ \t]*(?:#+|>|[-•])[ \t]+", "", text, flags=re.M)
    text = _FIELD.sub(lambda field: f"\nanswer: {field[1] or field[2] or field[3]}\n", text)
    text = re.sub(r"</\s*(?:final_)?(?:answer|choice)\s*>", "\n", _TAG.sub("\nanswer: ", text))
    text = _SMALL.sub(lambda found: found[1] + found[2].upper(), text)
    return _ENCLOSED.sub(lambda found: f" {found[1].upper()} ", text)


def _masked(text: str, wordings: Sequence[str]) -> str:
    """The text with each option's own words replaced by its mark, the longest first."""
    for index in sorted(range(len(wordings)), key=lambda at: -len(wordings[at])):
        if wordings[index]:
            text = _pattern(wordings[index]).sub(chr(_WORDS + index), text)
    return text


def _pattern(wording: str) -> re.Pattern[str]:
    """An option's words; those of one short word only where a conclusion would stand."""
    words = r"\s+".join(re.escape(word) for word in wording.split())
    whole = rf"(?<![A-Za-z0-9]){words}(?![A-Za-z0-9])" if wording.isascii() else words
    if len(wording) >= (12 if wording.isascii() else 4) or " " in wording:
        return re.compile(whole, re.I)
    before = (
        r"(?:^|(?<=[\n:\"'“(])|(?<=\bis )|(?<=\bbe )|(?<=\bas )|(?<=[是为选:])|(?<=属于))[ \t]*"
    )
    return re.compile(rf"{before}{whole}(?=\s*(?:$|[\n.。!,;\"'”)]))", re.I)


def _without_list(text: str) -> str:
    """The text without labels of a list that goes through the options, and options under them."""
    if len({found[1] for found in _LIST_LABEL.finditer(text)}) < 2:
        return text
    return re.sub(rf"^[ \t]*[{_MASK}][^\w\n]*$", "", _LIST_LABEL.sub("", text), flags=re.M)


def _mentions(text: str) -> Iterator[_Mention]:
    """Every mention, sentence by sentence."""
    first = True
    for found in _SENTENCE.finditer(text):
        sentence = found[0].rstrip("\n")
        denied = False
        for start, end, letters, by_words in _groups(sentence):
            before, after = sentence[max(0, start - 120) : start], sentence[end : end + 80]
            sound = not sentence.rstrip().endswith("?") and _is_sound(before)
            role = _role(before, after, sound, first, denied)
            if by_words and after.startswith("、"):  # one of several things
                role = "plain"
            if role == "plain" and by_words and sound and _is_statement(before, after):
                role = "right"
            yield _Mention(letters, role, found.start() + end)
            denied = denied or role == "denied"
            first = False
        first = first and not sentence.strip()


def _groups(sentence: str) -> Iterator[tuple[int, int, frozenset[str], bool]]:
    """Mentions of a sentence; those joined by "and", "or" or a comma are one."""
    group: tuple[int, int, frozenset[str], bool] | None = None
    for found in _MENTION.finditer(sentence):
        by_words = found[0] >= chr(_WORDS)
        if not by_words and not _is_label(found, sentence):
            continue
        letters = frozenset(LETTERS[ord(found[0]) - _WORDS] if by_words else found[0])
        if group and _is_joined(sentence, group[1], found):
            group = (group[0], found.end(), group[2] | letters, group[3] and by_words)
            continue
        if group:
            yield group
        group = (found.start(), found.end(), letters, by_words)
    if group:
        yield group


def _is_label(found: re.Match[str], sentence: str) -> bool:
    """Whether a capital letter is an option's label rather than a word or part of a name."""
    before = sentence[max(0, found.start() - 60) : found.start()]
    if len(found[0]) > 1:  # "AC": several options, if it follows a cue
        return list(found[0]) == sorted(set(found[0])) and bool(_ANSWER_CUE.search(before))
    word = re.search(r"([A-Za-z0-9']+|[\u4e00-\u9fff])\s*$", before)
    if word and not (_BEFORE.fullmatch(word[1]) or word[1] in _BEFORE_ZH):
        return False
    after = sentence[found.end() : found.end() + 20]
    if after[:1] >= "\u4e00" and not _ANSWER_CUE.search(before):
        return bool(_AFTER_A.match(after))
    return found[0] != "A" or bool(_AFTER_A.match(after))


def _is_joined(sentence: str, end: int, found: re.Match[str]) -> bool:
    between = sentence[end : found.start()]
    if not _JOIN.fullmatch(between):
        return False
    own_clause = _OWN_CLAUSE.match(sentence, found.end())
    return not (own_clause and re.fullmatch(r"\s*(?:[,;]|,?\s*and|,?\s*or)\s*", between))


def _is_sound(before: str) -> bool:
    """Whether what precedes a mention neither guesses, denies nor sets a condition."""
    clause = _CLAUSE.split(before)[-1]
    conditional = _CONDITION.search(before) and not _THEREFORE.search(before)
    return not (conditional or _NEGATION.search(clause) or _GUESS.search(clause))


def _role(before: str, after: str, sound: bool, first: bool, denied: bool) -> Role:
    """What a sentence says of a mention, from the words on both of its sides."""
    if _DENIED_BEFORE.search(before) or _WRONG_AFTER.match(after):
        return "denied"
    ends, ends_hard = _ENDS.match(after), _ENDS_HARD.match(after)
    if _DOUBT_AFTER.match(after):
        return "plain"
    if denied and ends and _BUT_CUE.search(before):
        return "chosen"
    if not sound:
        return "plain"
    alone = _ALONE.fullmatch(before) and (first or _ALONE.fullmatch(after))
    if ends_hard and (alone or _SO_CUE.search(before)):
        return "chosen"
    if (ends and _ANSWER_CUE.search(before)) or _ANSWER_AFTER.match(after):
        return "chosen"
    if _RIGHT_AFTER.match(after) or (ends_hard and _SEGMENT.search(before)):
        return "right"
    return "plain"


def _is_statement(before: str, after: str) -> bool:
    """Whether an option's own words are a statement rather than part of a longer one."""
    ends = _ENDS_HARD.match(after) and not after.startswith("、")
    return bool(ends and _BEGINS.search(before))


def _decide(mentions: Sequence[_Mention], said: str, count: int) -> Reading:
    chosen = _letters(mention for mention in mentions if mention.role == "chosen")
    if chosen:
        last = max(mention.end for mention in mentions if mention.role == "chosen")
        if len(chosen) == 1 and _SECOND_THOUGHTS.search(said, last):
            return Reading(reason=f"second thoughts about {min(chosen)}")
        return _verdict(chosen, count)
    if right := _letters(mention for mention in mentions if mention.role == "right"):
        doubted = _letters(mention for mention in mentions if mention.role == "plain")
        return _verdict(right | doubted, count)
    if not mentions:
        return Reading(reason="no letter")
    named = ", ".join(sorted(_letters(mentions)))
    return Reading(reason=f"no conclusion about {named}")


def _letters(mentions: Iterator[_Mention] | Sequence[_Mention]) -> frozenset[str]:
    return frozenset().union(*(mention.letters for mention in mentions))


def _verdict(letters: frozenset[str], count: int) -> Reading:
    named = ", ".join(sorted(letters))
    if len(letters) > 1:
        number = {2: "two", 3: "three", 4: "four"}.get(len(letters), str(len(letters)))
        return Reading(reason=f"{number} letters: {named}")
    if named not in LETTERS[:count]:
        return Reading(reason=f"{named} is none of the options")
    return Reading(letter=named)
