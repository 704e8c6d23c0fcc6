"""What an Inspect log tells of one question: scope, ruling, and recall of its gold rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comity.evaluation.ask import Put
from comity.records import Rule


def ruling_told(prepared: Put) -> dict[str, Any]:
    """How a question was put, as JSON for a sample's metadata.

    `gold_found` and `gold_sent` are shares of the gold rules among the hits and in the prompt,
    between 0 and 1, and None where the question names none or the mode does not search.
    """
    return {
        "mode": prepared.mode,
        "scope": prepared.scope.model_dump(mode="json") if prepared.scope else None,
        "revision": prepared.revision,
        "kept": [_rule_told(rule) for rule in prepared.ruling.kept],
        "overruled": [
            _rule_told(lost.rule) | {"reason": lost.reason, "winner": lost.winner.id}
            for lost in prepared.ruling.overruled
        ],
        "left_out": [_rule_told(rule) for rule in prepared.left_out],
        "hits": [
            {"id": hit.rule.id, "version": hit.rule.version, "score": round(hit.score, 4)}
            for hit in prepared.hits
        ],
        "rule_tokens": prepared.rule_tokens,
        "gold": [{"id": ref.id, "version": ref.version} for ref in prepared.gold],
        "gold_found": prepared.gold_found,
        "gold_sent": prepared.gold_sent,
        "prompt_sha256": prepared.sha256,
    }


def ruling_text(prepared: Put) -> str:
    """The same for a reader, in Markdown; in mode `base` it says that no rules were given."""
    if prepared.mode == "base":
        return "Mode base: no rules."
    return "\n".join(_lines(prepared))


def _rule_told(rule: Rule) -> dict[str, Any]:
    named = {"id": rule.id, "version": rule.version, "heading": rule.heading}
    return named | {"place": rule.place, "authority": rule.authority, "text": rule.text}


def _lines(prepared: Put) -> Iterator[str]:
    yield f"Mode {prepared.mode}: {_scope_text(prepared)}{_recall_text(prepared)}\n"
    yield f"**Kept** ({prepared.rule_tokens} tokens in the prompt)\n"
    left_out = {rule.key for rule in prepared.left_out}
    for number, rule in enumerate(prepared.ruling.kept, start=1):
        note = ", *left out by the budget*" if rule.key in left_out else ""
        yield f"{number}. {_named(rule)}{note}"
    if not prepared.ruling.kept:
        yield "none"
    if prepared.ruling.overruled:
        yield "\n**Overruled**\n"
    for lost in prepared.ruling.overruled:
        yield f"- {_named(lost.rule)}, gives way to `{lost.winner.id}`: {lost.reason}"


def _scope_text(prepared: Put) -> str:
    parts = []
    if scope := prepared.scope:
        parts.append(f"in {' and '.join(f'`{place}`' for place in scope.place)}")
        parts += [f"for {', '.join(scope.audience)}"] if scope.audience else []
        parts += [f"at {scope.at:%Y-%m-%d %H:%M} UTC"] if scope.at else []
    parts += [f"revision {prepared.revision}"] if prepared.revision is not None else []
    return ", ".join(parts)


def _recall_text(prepared: Put) -> str:
    if prepared.gold_found is None:
        return ""
    return f"; gold rules: {prepared.gold_found:.0%} found, {prepared.gold_sent:.0%} in the prompt"


def _named(rule: Rule) -> str:
    """Heading, id, version, authority and place of a rule."""
    return f"{rule.heading} (`{rule.id}`, version {rule.version}, {rule.authority}, `{rule.place}`)"
