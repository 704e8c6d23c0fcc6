"""A decision in two parts: what is chained for ever, and the personal texts, which may go.

The chained part holds a salted SHA-256 of the texts, their commitment. While the texts are there
they are checked against it; once they are erased, with their salt, nothing leads back to them.
Which fields are personal is said here, field by field, and in docs/privacy.md.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from comity.records import Decision, Erasure

PERSONAL = (
    "question",
    "turns",
    "heard",
    "rewritten",
    "answer",
    "prompt_sha256",
    "unknown_marks",
    "person",
    "user_info",
    "preferences",
    "inference_failed",
    "opened_why",
    "refining_failed",
)
"""Fields of a decision that come from the user or the model. A hash of a short prompt is one."""
PERSONAL_OF_ATTEMPT = ("text", "critique")
"""Fields of an attempt that the model wrote."""
PERSONAL_OF_FINDING = ("reason", "critique", "quotation")
"""Fields of a finding that quote the answer or tell of it."""
UNCHAINED = {"hash", "salt", "erased_at"}
"""What is told beside the chained record."""

_BEFORE = "0" * 64  # stands where the hash of the entry before comes

Parts = tuple[dict[str, Any], dict[str, Any]]


class Sealed(NamedTuple):
    """A decision as a book of record keeps it."""

    decision: Decision
    record: str
    """The chained part as JSON."""
    texts: str = ""
    """The personal texts as JSON; empty where the record holds them itself."""


Sealer = Callable[[str], Sealed]
"""Seals a decision behind the entry with this hash ("" for none)."""

SealErasure = Callable[[str, Sequence[str], Mapping[str, str]], Erasure]
"""Makes the entry of an erasure: hash of the entry before, ids of decisions, remainders."""


class TextBook(Protocol):
    """The personal texts of a book of record. Raises `StoreError` when the storage fails."""

    def erase(self, tenant: str, ids: Sequence[str], seal: SealErasure) -> Erasure | None:
        """Erase the texts of decisions, with an entry in their chain: both, or nothing.

        Those erased already are passed over; None where no other is left. Raises `NotFound` for
        an unknown one, and `MemoryDamaged` for one whose texts have gone without an erasure.
        """

    def purge(self) -> None:
        """Overwrite what was erased in every file of the memory; durable when it returns.

        Raises `StoreError` where another program reads for so long that it cannot.
        """

    def held_before(self, tenant: str, time: datetime) -> list[str]:
        """Ids of the decisions made before a time whose texts are there, oldest first."""

    def held_of(self, tenant: str, person: str) -> list[str]:
        """Ids of the decisions with the keyed hash of a person, oldest first."""

    def person_key(self) -> bytes:
        """What the names of persons are hashed with: random, this memory's own."""


def parted(data: Mapping[str, Any]) -> Parts:
    """A decision as JSON data, taken apart: what is chained, and the personal texts."""
    record = dict(data)
    texts = {name: record.pop(name) for name in PERSONAL if name in record}
    if "findings" in record:
        record["findings"], texts["findings"] = _each(record["findings"], _finding_parted)
    if "attempts" in record:
        record["attempts"], texts["attempts"] = _each(record["attempts"], _attempt_parted)
    return record, texts


def _each(
    items: Sequence[dict[str, Any]], part: Callable[[dict[str, Any]], Parts]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    pairs = [part(item) for item in items]
    return [record for record, _ in pairs], [texts for _, texts in pairs]


def _finding_parted(finding: dict[str, Any]) -> Parts:
    names: tuple[str, ...] = PERSONAL_OF_FINDING
    if not finding["version"]:
        names = ("rule", *names)  # no rule's id, but a mark of the answer
    return (
        {name: value for name, value in finding.items() if name not in names},
        {name: finding[name] for name in names if name in finding},
    )


def _attempt_parted(attempt: dict[str, Any]) -> Parts:
    findings, texts = _each(attempt.get("findings", ()), _finding_parted)
    said = {name: attempt[name] for name in PERSONAL_OF_ATTEMPT if name in attempt}
    left = {"liked": attempt["liked"]} if "liked" in attempt else {}
    return left | {"findings": findings}, said | {"findings": texts}


def joined(record: Mapping[str, Any], texts: Mapping[str, Any]) -> dict[str, Any]:
    """What `parted` took apart; without the texts (`{}`) their fields are empty."""
    data = {"question": "", **record, **{k: v for k, v in texts.items() if k in PERSONAL}}
    if "findings" in record:
        data["findings"] = _findings(record["findings"], texts.get("findings"))
    if "attempts" in record:
        attempts = record["attempts"]
        data["attempts"] = [
            {"text": ""}
            | attempt
            | {name: told[name] for name in PERSONAL_OF_ATTEMPT if name in told}
            | {"findings": _findings(attempt["findings"], told.get("findings"))}
            for attempt, told in zip(
                attempts, texts.get("attempts", [{}] * len(attempts)), strict=True
            )
        ]
    return data


def _findings(
    records: Sequence[dict[str, Any]], texts: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    told = texts or [{}] * len(records)
    return [{"rule": ""} | record | more for record, more in zip(records, told, strict=True)]


def whole(decision: Decision) -> Sealed:
    """A decision whose record holds its texts itself, as the first ones did."""
    return Sealed(decision, decision.model_dump_json())


def sealer(decision: Decision) -> Sealer:
    """Seals a decision; all but the hash of its record is computed here, before it has its turn."""
    salt = secrets.token_hex(16)
    data = decision.model_dump(mode="json", exclude=UNCHAINED, exclude_defaults=True)
    record, texts = parted(data)
    written = _canonical(texts)
    commitment = _sha256(salt + written)
    whole = _canonical(record | {"commitment": commitment, "previous_hash": _BEFORE})
    head, key, tail = whole.partition(f'"previous_hash":"{_BEFORE}",')

    def seal(previous: str) -> Sealed:
        chained = f"{head}{key.replace(_BEFORE, previous) if previous else ''}{tail}"
        told = {
            "salt": salt,
            "commitment": commitment,
            "previous_hash": previous,
            "hash": _sha256(chained),
        }
        return Sealed(decision.model_copy(update=told), chained, written)

    return seal


class Hashes(NamedTuple):
    """What a decision's content amounts to."""

    record: str
    """SHA-256 of the chained part, in hex."""
    commitment: str
    """SHA-256 of salt and texts, in hex; of a record that holds its texts itself, empty."""


def hashes(entry: Decision | Erasure) -> Hashes:
    """The hashes of an entry's content, to compare with those it states.

    What has its default is left out, so that records made before a field was added still verify.
    """
    data = entry.model_dump(mode="json", exclude=UNCHAINED, exclude_defaults=True)
    if not isinstance(entry, Decision) or not entry.commitment:
        return Hashes(_sha256(_canonical(data)), "")
    record, texts = parted(data)
    return Hashes(_sha256(_canonical(record)), _sha256(entry.salt + _canonical(texts)))


def record_hash(entry: Decision | Erasure) -> str:
    """SHA-256 over what is chained of an entry but the hash itself, in hex."""
    return hashes(entry).record


def remainder(decision: Decision) -> Decision:
    """A decision without its personal texts."""
    data = decision.model_dump(mode="json", exclude={"salt"}, exclude_defaults=True)
    return Decision.model_validate(joined(parted(data)[0], {}))


def _canonical(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
