"""Every error that Comity raises on purpose, in one tree.

ComityError
├── SettingsError          a setting is unknown or has a value that cannot be used
├── MissingExtra           an optional package is needed; the message names the pip command
├── DocumentError          a file cannot be read or split; names the file (and line)
├── RuleError              a rule is malformed; names the rule and the field
│   ├── UnknownPlace       a place code that nobody knows; suggests near ones
│   ├── UnknownAuthority   an authority that the table does not rank
│   └── DuplicateRule      the same id twice in one change, or an id already taken
├── NotFound               a rule, version, revision or decision that is not there
├── StoreError             the book of record or its index cannot be used
│   ├── MemoryTooNew       written by a newer Comity
│   ├── MemoryDamaged      a page, record or chain that does not verify
│   └── MemoryFull         no space left, or the disk failed: nothing was changed
├── ExamError              an exam file, run or report that cannot be used; names the line
├── TrainingError          training data, a recipe or a training run that cannot be used
├── EmbedderError          an embedder failed, or differs from the one an index was built with
└── ModelError             a chat model failed
    ├── ModelMissing       the model is not there; names the command that fetches it
    ├── ModelTimeout       the model did not answer in time
    └── ModelNonsense      the model's answer cannot be used (empty, off-schema)
        └── ModelGarbled   what came is no answer of a chat model (another content type, no JSON)

A message says what happened, with which rule, file or line, and what to do.
"""

from __future__ import annotations


class ComityError(Exception):
    """Root of all errors raised on purpose; `exit_code` is the command line's."""

    exit_code = 1


class SettingsError(ComityError):
    """A setting is unknown or has a value that cannot be used."""

    exit_code = 2


class MissingExtra(ComityError):
    """An optional package is needed for what was asked."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'comity[{extra}]'")


class DocumentError(ComityError):
    """A file cannot be read or split into rules."""

    exit_code = 3

    def __init__(self, path: object, problem: str, *, line: int | None = None) -> None:
        where = f"{path}, line {line}" if line is not None else str(path)
        super().__init__(f"{where}: {problem}")
        self.path = str(path)
        self.line = line
        self.problem = problem


class RuleError(ComityError):
    """A rule is malformed."""

    exit_code = 3


class UnknownPlace(RuleError):
    """A place code or name that neither ISO 3166 nor this memory knows."""


class UnknownAuthority(RuleError):
    """An authority that the table of authorities does not rank."""


class DuplicateRule(RuleError):
    """The same id twice in one change, or an id that is already taken."""


class NotFound(ComityError):
    """A rule, version, revision, tenant or decision that is not there."""

    exit_code = 4


class StoreError(ComityError):
    """The book of record or its index cannot be used."""

    exit_code = 5


class StoreUnreachable(StoreError):
    """The server of the book of record does not answer; the message names host and role."""

    outside = "the server of the memory cannot be reached"
    """What may be told to anybody."""


class MemoryTooNew(StoreError):
    """The memory was written by a newer Comity."""


class MemoryDamaged(StoreError):
    """A page, record or chain does not verify."""


class MemoryFull(StoreError):
    """The disk is full or failed; nothing was changed."""


class EmbedderError(ComityError):
    """An embedder failed, or is not the one that an index was built with."""

    exit_code = 6


class ExamError(ComityError):
    """An exam file, a run or a report cannot be used."""

    exit_code = 8


class TrainingError(ComityError):
    """Training data, a recipe or a training run cannot be used."""

    exit_code = 9


class ModelError(ComityError):
    """A chat model failed."""

    exit_code = 7


class ModelMissing(ModelError):
    """The model is not there."""


class ModelTimeout(ModelError):
    """The model did not answer in time."""


class ModelNonsense(ModelError):
    """The model's answer cannot be used."""


class ModelGarbled(ModelNonsense):
    """What came is no answer of a chat model: the address or the endpoint is wrong."""
