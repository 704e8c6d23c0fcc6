"""`comity add --draft`, with a model that drafts by a script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comity.cli.add import commit, plan_of
from comity.cli.draft import drafted
from comity.cli.session import Session
from comity.documents.fields import RuleDefaults
from comity.models.scripted import ScriptedModel
from comity.records import Request

PROSE = "Dogs stay on a lead. The market is old."


class DraftingSession(Session):
    """Its model finds one rule, and one that nobody wrote."""

    def open_model(self) -> ScriptedModel:
        def answer(_: Request) -> str:
            good = {"text": "Dogs must be on a lead.", "quotation": "Dogs stay on a lead."}
            bad = {"text": "Cats must be on a lead.", "quotation": "Cats stay on a lead."}
            return json.dumps({"rules": [good, bad]})

        return ScriptedModel(answer)


def test_drafts_are_added_once_and_leave_what_was_approved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMITY_EMBEDDER", "hash")
    path = tmp_path / "prose.md"
    path.write_text(PROSE, encoding="utf-8")
    session = DraftingSession()
    with session.open_memory(create=True) as memory:
        found = drafted(session, memory, [path], RuleDefaults(place="Hunan"))
        commit(session, memory, plan_of(session, memory, found, draft=True), "drafts", [])
        (stored,) = memory.rules()
        assert (stored.rule.status, stored.rule.place) == ("draft", "CN-HN")
        assert stored.rule.source is not None
        assert stored.rule.source.quotation == "Dogs stay on a lead."
        assert "'Cats stay on a lead.' does not stand in the passage" in capsys.readouterr().err
        memory.approve(stored.rule.id)
        again = drafted(session, memory, [path], RuleDefaults(place="Hunan"))
        assert plan_of(session, memory, again, draft=True).empty
