"""The records that the steps of Comity hand to one another: frozen, typed, checked.

Times are aware `datetime`s in UTC; validity is half-open, `[valid_from, valid_to)`, and `None`
means without limit. A place is a path from wide to narrow (`world`, `CN`, `CN-HN`,
`CN-HN/长沙市`). An empty audience means everybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

WORLD = "world"
DEFAULT_TENANT = "default"

AUTHORITIES: tuple[str, ...] = (
    "constitution",
    "statute",
    "regulation",
    "local",
    "policy",
    "code",
    "custom",
    "preference",
)
"""The table of authorities, highest first. It is data: a memory can be opened with another."""

Enforcement = Literal["advise", "revise", "block"]
Status = Literal["draft", "active", "repealed"]


def parse_time(value: Any) -> Any:
    """Turn a date, a naive time or their ISO 8601 text into an aware time in UTC.

    A bare date is midnight UTC, and a time without a zone is taken as UTC. `None` and the
    empty string mean "no limit" and become `None`. Anything else is left for the caller's
    validation. Raises `ValueError` for text that is no ISO 8601 date or time, for a number, and
    for a time that UTC has no year for.
    """
    if value is None or value == "":
        return None
    if isinstance(value, int | float):
        raise ValueError("write a date as text, such as '2026-01-01'")
    if isinstance(value, str):
        value = _time_of(value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        try:
            return aware.astimezone(UTC)
        except OverflowError as error:
            raise ValueError(
                f"{aware.isoformat()} lies outside the years 1 to 9999 in UTC"
            ) from error
    return value


def _time_of(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no date or time: write 2026-07-01 or 2026-07-01T12:00+08:00"
        ) from error


def _labels(value: Any) -> Any:
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part for part in (piece.strip() for piece in value.split("|")) if part)
    if not isinstance(value, Iterable):
        return value
    return tuple(part for part in value if not isinstance(part, str) or part.strip())


Time = Annotated[datetime, BeforeValidator(parse_time)]
OptionalTime = Annotated[datetime | None, BeforeValidator(parse_time)]
Labels = Annotated[tuple[str, ...], BeforeValidator(_labels)]
"""Labels as a tuple; one string is split at `|`."""


class Record(BaseModel):
    """Base of all records: frozen, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


VERBATIM = ConfigDict(str_strip_whitespace=False)
"""For records of what was said: blanks at its ends belong to it."""


class Source(Record):
    """Where a rule's text came from."""

    document: str = Field(description="Name or path of the document.")
    sha256: str = Field(description="SHA-256 of the document's bytes, in hex.")
    start: int = Field(ge=0, description="First character of the rule in the document's text.")
    end: int = Field(ge=0, description="Character after the rule's last one.")
    quotation: str = Field("", description="The words that a drafted rule was extracted from.")


class Check(Record):
    """How an answer is checked against a rule: by code, or by a question to a judge model."""

    must_match: str = Field("", description="RE2 pattern that the answer must match.")
    must_not_match: str = Field("", description="RE2 pattern that the answer must not match.")
    must_contain: str = Field("", description="Sentence that the answer must hold, word by word.")
    longest: int = Field(0, ge=0, description="Longest answer in characters; 0 is any.")
    judge: str = Field("", description="Question for a judge model, answered passed or violated.")


class Rule(Record):
    """One norm in one version."""

    id: str = Field(
        min_length=1, max_length=400, description="Name of the norm, kept by its versions."
    )
    text: str = Field(min_length=1, description="The norm's own words.")
    version: int = Field(1, ge=1, description="1 for the first text, one up for every change.")
    title: str = Field("", description="Title of the document, with its chapters: `A > B`.")
    article: str = Field("", description="Name of the article: `第三条`, `Article 3`.")
    place: str = Field(WORLD, description="The rule applies there and in every place inside it.")
    audience: Labels = Field((), description="Labels of whom it binds; empty means everybody.")
    domain: str = Field("", description="Subject, such as `law` or `privacy`.")
    authority: str = Field("policy", description="Rank in the table of authorities.")
    valid_from: OptionalTime = Field(None, description="First moment at which it is in force.")
    valid_to: OptionalTime = Field(None, description="First moment at which it no longer is.")
    tenant: str = Field(DEFAULT_TENANT, min_length=1, description="Whose rule it is.")
    mandatory: bool = Field(False, description="Always put in force where it applies.")
    enforcement: Enforcement = Field("advise", description="What happens to a breach.")
    check: Check | None = Field(None, description="How an answer is checked, if it can be.")
    overrides: Labels = Field((), description="Ids of rules with which it conflicts.")
    source: Source | None = Field(None, description="The document it came from.")
    language: str = Field("", description="BCP 47 tag of the text: `zh`, `en`.")
    status: Status = Field("active", description="Draft rules wait for approval.")

    @model_validator(mode="after")
    def _validity_runs_forward(self) -> Self:
        since, until = self.valid_from, self.valid_to
        if since and until and until <= since:
            raise ValueError(f"valid_to {until:%Y-%m-%d} is not after valid_from {since:%Y-%m-%d}")
        return self

    @property
    def key(self) -> tuple[str, int]:
        """Id and version: what a record of a decision names."""
        return (self.id, self.version)

    @property
    def heading(self) -> str:
        """Title and article, as a reader would name the rule; the id where it has neither."""
        return " ".join(part for part in (self.title, self.article) if part) or self.id

    @property
    def indexed_text(self) -> str:
        """What is embedded and searched: heading and text."""
        return f"{self.title} {self.article} {self.text}".strip()

    @property
    def content_hash(self) -> str:
        """SHA-256 over everything that a change of the rule could change, version apart."""
        return hashlib.sha256(
            self.model_dump_json(exclude={"version", "tenant"}).encode()
        ).hexdigest()


class Scope(Record):
    """For whom, where and when a question is asked: decides which rules can apply."""

    place: Labels = Field((), description="Places of the question; rules there and above apply.")
    audience: Labels = Field((), description="Labels that hold for the person asked about.")
    at: OptionalTime = Field(None, description="When the facts happened; None is now.")
    as_of: int | None = Field(None, ge=0, description="Revision of the memory; None is the latest.")
    tenant: str = Field(DEFAULT_TENANT, min_length=1, description="Whose rules may be read.")


FoundBy = Literal["question", "rewritten", "earlier", "heard"]
"""What found a rule: the last turns, these as a model rewrote them, earlier turns, or what others
said."""


class Hit(Record):
    """A rule found by search."""

    rule: Rule = Field(description="The rule, in the version that is in force.")
    score: float = Field(description="Fused score; comparable within one search only.")
    by: FoundBy = Field("question", description="What found it: see `FoundBy`.")


class Overruled(Record):
    """A rule that applied but gave way to another."""

    rule: Rule = Field(description="The rule that gave way.")
    winner: Rule = Field(description="The rule it gave way to.")
    reason: str = Field(description="Why: `higher authority`, `narrower place`, `later`, …")


class Ruling(Record):
    """The rules in force for one question."""

    kept: tuple[Rule, ...] = Field((), description="In order of precedence, highest first.")
    overruled: tuple[Overruled, ...] = Field((), description="Each with its winner and reason.")


class Message(Record):
    """One turn of a conversation."""

    model_config = VERBATIM

    role: Literal["system", "user", "assistant"] = Field(description="Who speaks.")
    content: str = Field(description="What is said.")


PreferenceKind = Literal[
    "safety", "helpfulness", "honesty", "style", "language", "opinion", "topics"
]
"""What a preference is about; `topics` are limits of what is talked about."""

Stance = Literal["limits", "widens", "other"]
"""Whether a preference asks for less than is usual (`limits`), for more, or for another thing."""

Family = Literal["priority", "helpful", "consensus", "diverse"]
"""MetaAlign's families of preferences (arXiv 2410.14184): provider and user disagree; degrees and
kinds of help; values that all share; questions on which people differ."""

FAMILIES: tuple[Family, ...] = get_args(Family)


class Preference(Record):
    """One thing that a provider or a user would like of the answers."""

    text: str = Field(min_length=1, description="The wish, in its owner's words.")
    kind: PreferenceKind | Literal[""] = Field("", description="What it is about; empty: unknown.")
    stance: Stance = Field("other", description="Whether it limits or widens what may be said.")
    by: Literal["provider", "user"] = Field("user", description="Whose wish it is.")
    origin: Literal["stated", "stored", "inferred"] = Field(
        "stated", description="Said with the question, kept in the memory, or read between lines."
    )
    quotation: str = Field("", description="The words that an inferred one was inferred from.")
    id: str = Field("", description="Id of a stored one.")
    version: int = Field(0, ge=0, description="Version of a stored one; 0 for others.")


class MetaPrompt(Record):
    """What stands before a question besides rules: MetaAlign's system info and user info."""

    model_config = VERBATIM

    system_info: str = Field("", description="What the provider wants, in its own words.")
    user_info: str = Field("", description="Who the user is and what they prefer.")
    preferences: tuple[Preference, ...] = Field((), description="Wishes of either, one by one.")
    person: str = Field("", description="Keyed hash of the user, whose stored wishes count.")


class Weighed(Record):
    """What became of a preference, and why."""

    preference: Preference = Field(description="The preference.")
    outcome: Literal["kept", "gives_way", "refused"] = Field(
        description="In the prompt, or left out: it gives way to another, or gives orders."
    )
    winner: str = Field("", description="What it gives way to: the words of a wish, or the rules.")
    reason: str = Field("", description="Why, as the priority matrix says it, or why the rules do.")


class Usage(Record):
    """Tokens of one call to a model."""

    prompt_tokens: int = Field(0, ge=0, description="Tokens read.")
    completion_tokens: int = Field(0, ge=0, description="Tokens written.")


Rewriting = Literal["none", "rewrite", "decompose", "disambiguate"]
"""How a question was rewritten for the search: not, in other words, in parts, or made plain."""


class Rewritten(Record):
    """What a model had searched besides a question."""

    model_config = VERBATIM

    kind: Rewriting = Field("none", description="How the question was rewritten.")
    queries: tuple[str, ...] = Field((), description="What was searched besides the question.")
    model: str = Field("", description="Name of the model.")
    prompt: str = Field("", description="Language and hash of the prompt and its schema.")
    failed: str = Field("", description="Why there is no query; empty where the model gave some.")
    usage: Usage = Field(Usage(), description="Tokens read and written.")


class Request(Record):
    """What a chat model is asked."""

    messages: tuple[Message, ...] = Field(min_length=1, description="The conversation so far.")
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(0.0, ge=0.0, description="0 is greedy.")
    seed: int | None = Field(None, description="For sampling that can be repeated.")
    json_schema: dict[str, Any] | None = Field(None, description="Constrains the answer to JSON.")
    choices: Labels = Field((), description="Constrains the answer to one of these words.")


class Reply(Record):
    """What a chat model answered."""

    model_config = VERBATIM

    text: str = Field(description="The whole answer.")
    model: str = Field("", description="Name of the model that answered.")
    finish_reason: str = Field("stop", description="`stop`, `length` or `content_filter`.")
    usage: Usage = Field(Usage(), description="Tokens read and written.")
    choice_logprobs: dict[str, float] | None = Field(
        None, description="Natural log-probability of each of the request's choices, if known."
    )


Part = Literal["memory", "checks", "record"]
"""A part of the gateway that can fail: rules and search, the judge, the decision record."""

Outcome = Literal["passed", "violated", "not_applicable", "not_checked", "failed"]


class Finding(Record):
    """What became of one check of an answer."""

    rule: str = Field(description="Id of the rule that was checked; a mark that names none.")
    version: int = Field(ge=0, description="Its version; 0 where there is no such rule.")
    outcome: Outcome = Field(description="What was not checked, or failed, never counts as passed.")
    by: Literal["code", "judge", "nobody"] = Field("nobody", description="Who decided.")
    reason: str = Field("", description="What matched, or why it was not checked.")
    enforcement: Enforcement = Field("advise", description="What a breach of the rule leads to.")
    critique: str = Field("", description="What the judge wrote before its verdict.")
    quotation: str = Field("", description="Words of the answer on which the verdict rests.")
    judge: str = Field("", description="Name of the judge, and version of its prompt.")


class Attempt(Record):
    """One version of an answer, and what its checks found."""

    model_config = VERBATIM

    text: str = Field(description="The answer as the model wrote it.")
    findings: tuple[Finding, ...] = Field((), description="One for each rule that was checked.")
    liked: float | None = Field(
        None, description="Share of the votes against the first version, for the wishes (0 to 1)."
    )
    critique: str = Field("", description="The model's own, from which this version was written.")


class Citation(Record):
    """A rule that an answer names, and where in the answer it does so."""

    id: str = Field(description="Id of the rule.")
    version: int = Field(ge=1, description="Its version.")
    title: str = Field("", description="Title of the document.")
    article: str = Field("", description="Article.")
    valid_from: OptionalTime = Field(None, description="First moment at which it is in force.")
    valid_to: OptionalTime = Field(None, description="First moment at which it no longer is.")
    label: str = Field(description="The rule's mark in the prompt, such as `[R1]`.")
    start: int = Field(ge=0, description="First character in the answer: of the mark or sentence.")
    end: int = Field(ge=0, description="Character after its last one.")
    by: Literal["mark", "words"] = Field(
        "mark", description="The answer's own mark, or words that a sentence repeats."
    )


class RuleRef(Record):
    """A rule version in a decision record, with its score where search found it."""

    id: str = Field(description="Id of the rule.")
    version: int = Field(ge=1, description="Its version.")
    score: float | None = Field(None, description="Search score.")
    reason: str = Field("", description="Why it was overruled; of a hit: what else found it.")
    winner: str = Field("", description="Id of the rule that it gave way to.")


class SuspectedPair(Record):
    """Two kept rules that a judge found to contradict one another, and no owner has decided on."""

    id: str = Field(description="Name of the finding.")
    one: str = Field(description="Id of the first rule.")
    one_version: int = Field(ge=1, description="Its version.")
    other: str = Field(description="Id of the second rule.")
    other_version: int = Field(ge=1, description="Its version.")
    judge: str = Field("", description="Name of the model that judged.")


class Decision(Record):
    """The record of one answer: which rule, in which version, did what.

    A field added later needs a default, and no default may change: the hash leaves out what has
    its default, so that a record keeps its hash when fields are added.
    """

    model_config = VERBATIM

    id: str = Field(description="Name of the decision.")
    tenant: str = Field(DEFAULT_TENANT, description="Whose decision it is.")
    made_at: Time = Field(description="When it was recorded.")
    revision: int = Field(ge=0, description="Revision of the memory that was in force.")
    scope: Scope = Field(description="For whom, where and when.")
    at_given: bool = Field(
        False, description="Whether the time of the facts was stated; else it is that of asking."
    )
    question: str = Field(description="The user's words: the last three turns.")
    turns: tuple[str, ...] = Field(
        (), description="All turns of the user, oldest first, where there are several."
    )
    heard: tuple[str, ...] = Field(
        (), description="What was searched of the assistant's turns and of tools' results."
    )
    rewritten: Rewritten | None = Field(
        None, description="What was searched besides the question, written by a model."
    )
    hits: tuple[RuleRef, ...] = Field((), description="What search found.")
    kept: tuple[RuleRef, ...] = Field((), description="The ruling, in order of precedence.")
    overruled: tuple[RuleRef, ...] = Field((), description="What gave way, to which, and why.")
    suspected: tuple[SuspectedPair, ...] = Field(
        (), description="Kept rules that may contradict one another; both were in force."
    )
    left_out: tuple[RuleRef, ...] = Field((), description="Kept rules that the budget left out.")
    prompt_sha256: str = Field("", description="SHA-256 of the messages sent.")
    model: str = Field("", description="Name of the model.")
    answer: str = Field("", description="The answer as released.")
    finish_reason: str = Field("stop", description="As in the model's reply.")
    citations: tuple[Citation, ...] = Field((), description="Rules that the answer names.")
    unknown_marks: Labels = Field((), description="Marks of no rule that the answer was given.")
    findings: tuple[Finding, ...] = Field((), description="What was checked, and what came of it.")
    attempts: tuple[Attempt, ...] = Field(
        (), description="What the model wrote, where that is not what was released."
    )
    refining_failed: str = Field("", description="Why refinement ended before its time.")
    withheld: bool = Field(False, description="Whether a rule kept the answer back.")
    disclosed: bool = Field(
        False, description="Whether text left before it was checked, and was found to break a rule."
    )
    release: str = Field("", description="When text left: strict, window or observe.")
    timings: dict[str, float] = Field({}, description="Seconds of each step.")
    usage: Usage = Field(Usage(), description="Tokens read and written.")
    person: str = Field("", description="Keyed hash of the name that a client gave its user.")
    user_info: str = Field("", description="What was said of the user.")
    preferences: tuple[Weighed, ...] = Field(
        (), description="Wishes of provider and user, and what became of each."
    )
    inference_failed: str = Field("", description="Why no wish could be inferred.")
    opened: tuple[Part, ...] = Field(
        (), description="What had failed, and this tenant lets answers go without."
    )
    opened_why: str = Field("", description="How it had failed.")
    salt: str = Field("", description="Random; gone with the texts when they are erased.")
    commitment: str = Field("", description="SHA-256 over the salt and the personal texts.")
    erased_at: OptionalTime = Field(None, description="When the personal texts were erased.")
    previous_hash: str = Field("", description="Hash of the entry before, in this tenant.")
    hash: str = Field(
        "", description="SHA-256 over what is above, with the commitment for the texts."
    )


class Erasure(Record):
    """An entry in the chain of decisions: of which ones the personal texts were erased, and why."""

    model_config = VERBATIM

    id: str = Field(description="Name of the entry.")
    tenant: str = Field(DEFAULT_TENANT, description="Whose decisions they are.")
    made_at: Time = Field(description="When they were erased.")
    revision: int = Field(ge=0, description="Revision of the memory then.")
    by: str = Field(description="Who erased them: a login name, or a key of the gateway.")
    reason: str = Field("", description="Why, in that person's words.")
    decisions: tuple[str, ...] = Field(min_length=1, description="Ids of the decisions.")
    remainders: dict[str, str] = Field(
        {}, description="SHA-256 of what is left of those whose texts stood in the chain itself."
    )
    previous_hash: str = Field("", description="Hash of the entry before, in this tenant.")
    hash: str = Field("", description="SHA-256 over all the fields above.")


class Answer(Record):
    """What a question gets."""

    model_config = VERBATIM

    text: str = Field(description="The answer.")
    citations: tuple[Citation, ...] = Field((), description="Rules that the answer names.")
    decision: Decision = Field(description="The record of how it came about.")
