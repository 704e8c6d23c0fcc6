"""Bringing documents into a memory, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from comity.errors import DuplicateRule, RuleError, UnknownPlace
from comity.memory.embed import HashEmbedder
from comity.memory.imports import ImportPlan, commit_import, plan_import
from comity.memory.memory import Memory
from comity.memory.store import PlaceNames
from comity.records import Rule, Scope, Source
from comity.retrieval.search import search
from conftest import Clock


def row(rule_id: str, text: str, document: str = "laws.md", **fields: object) -> Rule:
    source = Source(document=document, sha256=f"{hash(text) % 2**32:064x}", start=0, end=9)
    return Rule.model_validate({"id": rule_id, "text": text, "source": source} | fields)


def bring(memory: Memory, *rules: Rule) -> ImportPlan:
    plan = plan_import(memory, rules, tenant="default")
    commit_import(memory, plan)
    return plan


def shape(plan: ImportPlan) -> tuple[int, int, int, int]:
    return (len(plan.added), len(plan.changed), len(plan.gone), plan.unchanged)


def test_an_import_is_one_revision_and_the_same_again_changes_nothing(memory: Memory) -> None:
    rules = [row(f"r{n}", f"dogs {n}") for n in range(5)]
    assert shape(bring(memory, *rules)) == (5, 0, 0, 0)
    assert memory.revision == 1
    again = bring(memory, *rules)
    assert again.empty
    assert shape(again) == (0, 0, 0, 5)
    assert memory.revision == 1


def test_another_file_hash_alone_changes_nothing(memory: Memory) -> None:
    bring(memory, row("a", "dogs"))
    moved = row("a", "dogs").model_copy(
        update={"source": Source(document="laws.md", sha256="f" * 64, start=7, end=9)}
    )
    assert plan_import(memory, [moved], tenant="default").empty


def test_a_changed_text_is_a_new_version(memory: Memory) -> None:
    bring(memory, row("a", "dogs"), row("b", "cats"))
    plan = bring(memory, row("a", "wolves"), row("b", "cats"))
    assert shape(plan) == (0, 1, 0, 1)
    assert (plan.changed[0].old.text, plan.changed[0].new.text) == ("dogs", "wolves")
    assert memory.get("a").version == 2
    assert memory.get("b").version == 1


def test_an_article_that_is_gone_is_repealed_from_now_on(memory: Memory, clock: Clock) -> None:
    bring(memory, row("a", "dogs"), row("b", "cats"))
    before = clock.now
    now = clock.advance(days=1)
    plan = bring(memory, row("a", "dogs"))
    assert [rule.id for rule in plan.gone] == ["b"]
    assert memory.get("b").status == "repealed"
    assert [hit.rule.id for hit in search(memory, "cats", Scope(at=now)).hits] == ["a"]
    assert len(search(memory, "cats", Scope(at=before)).hits) == 2
    assert bring(memory, row("a", "dogs")).empty
    assert shape(bring(memory, row("a", "dogs"), row("b", "cats"))) == (0, 1, 0, 1)
    assert memory.get("b").status == "active"


def test_rules_of_other_documents_and_by_hand_are_not_gone(memory: Memory) -> None:
    bring(memory, row("a", "dogs"))
    memory.add(Rule(id="hand", text="x"))
    bring(memory, row("b", "cats", "other.md"))
    assert bring(memory, row("a", "dogs")).empty


def test_a_rule_that_moved_to_another_document_is_not_gone_with_the_first(memory: Memory) -> None:
    bring(memory, row("a", "dogs"), row("b", "cats"))
    bring(memory, row("b", "cats and kittens", "other.md"))
    assert bring(memory, row("a", "dogs")).empty
    assert memory.get("b").status == "active"


@pytest.mark.parametrize("by_hand", ["amend", "repeal", "approve"])
def test_what_was_done_by_hand_is_not_undone_by_an_unchanged_document(
    memory: Memory, clock: Clock, by_hand: str
) -> None:
    status = "draft" if by_hand == "approve" else "active"
    rules = [row("a", "dogs", status=status), row("b", "cats")]
    bring(memory, *rules)
    clock.advance(days=1)
    if by_hand == "amend":
        memory.amend("a", {"text": "wolves"})
    elif by_hand == "repeal":
        memory.repeal("a")
    else:
        memory.approve("a")
    after = memory.get("a")
    assert bring(memory, *rules).empty
    assert memory.get("a") == after
    changed = bring(memory, row("a", "foxes", status=status), row("b", "cats"))
    assert shape(changed) == (0, 1, 0, 1)
    assert memory.get("a").text == "foxes"


def test_a_rule_amended_by_hand_goes_with_its_document(memory: Memory, clock: Clock) -> None:
    bring(memory, row("a", "dogs"), row("b", "cats"))
    clock.advance(days=1)
    memory.amend("b", {"text": "lions"})
    assert [rule.id for rule in bring(memory, row("a", "dogs")).gone] == ["b"]


def test_rules_drafted_from_a_document_are_not_gone_from_it(memory: Memory) -> None:
    draft = row("d", "dogs", status="draft")
    assert draft.source is not None
    quoted = draft.source.model_copy(update={"quotation": "no dogs"})
    bring(memory, *(draft.model_copy(update={"id": n, "source": quoted}) for n in ("d", "e")))
    memory.approve("e")
    plan = bring(memory, row("a", "dogs"))
    assert shape(plan) == (1, 0, 0, 0)
    assert [stored.rule.status for stored in memory.rules()] == ["active", "draft", "active"]


def test_a_document_that_shares_no_rule_with_its_namesake_is_refused(memory: Memory) -> None:
    bring(memory, row("a", "dogs", "x/rules.jsonl"), row("b", "cats", "x/rules.jsonl"))
    with pytest.raises(RuleError, match=r"x/rules\.jsonl has none .*\(a, b\).*rename the file"):
        plan_import(memory, [row("c", "foxes", "x/rules.jsonl")], tenant="default")
    for rule_id in ("a", "b"):
        memory.repeal(rule_id)
    assert shape(bring(memory, row("c", "foxes", "x/rules.jsonl"))) == (1, 0, 0, 0)


def test_a_conflict_with_a_rule_that_is_not_there_is_reported(memory: Memory) -> None:
    bring(memory, row("leash-law", "dogs"))
    rules = (
        row("b", "cats", "other.md", overrides=("leash-lew", "c", "leash-law")),
        row("c", "foxes", "other.md", overrides=("zzz",)),
    )
    plan = bring(memory, *rules)
    assert plan.unknown_overrides == (("b", "leash-lew", ("leash-law",)), ("c", "zzz", ()))
    assert bring(memory, *rules).unknown_overrides == ()


def test_the_revision_is_told_before_the_index_follows(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(memory.index, "catch_up", stop)
    plan = plan_import(memory, [row("a", "dogs")], tenant="default")
    committed: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        commit_import(memory, plan, committed=committed.append)
    assert committed == [1]


def test_a_document_that_goes_back_is_noticed(memory: Memory) -> None:
    for text, version in (("A", 1), ("B", 2), ("A", 3)):
        bring(memory, row("a", text))
        assert (memory.get("a").text, memory.get("a").version) == (text, version)
        assert bring(memory, row("a", text)).empty


CHAIN = (
    row("a", "dogs at seven", valid_from="2020-01-01", title="Dogs", mandatory=True),
    row("a", "dogs at eight", version=2, valid_from="2025-01-01"),
    row("a", "dogs at eight", version=3, valid_from="2027-01-01", status="repealed"),
)


def test_later_versions_inherit_what_they_do_not_state(memory: Memory) -> None:
    bring(memory, *reversed(CHAIN))
    assert memory.revision == 1
    versions = [stored.rule for stored in memory.history("a")]
    assert [rule.title for rule in versions] == ["Dogs"] * 3
    assert all(rule.mandatory for rule in versions)
    assert [rule.status for rule in versions] == ["active", "active", "repealed"]
    assert bring(memory, *CHAIN).empty
    assert shape(plan_import(memory, CHAIN, tenant="default")) == (0, 0, 0, 3)


def test_a_version_added_at_the_end_is_one_change(memory: Memory) -> None:
    bring(memory, *CHAIN[:2])
    assert shape(bring(memory, *CHAIN)) == (0, 1, 0, 2)
    assert bring(memory, *CHAIN).empty


def test_a_changed_first_version_leaves_the_later_ones_in_force(memory: Memory) -> None:
    bring(memory, *CHAIN[:2])
    corrected = [CHAIN[0].model_copy(update={"text": "dogs at six"}), CHAIN[1]]
    bring(memory, *corrected)

    def text(at: str) -> list[str]:
        scope = Scope.model_validate({"at": at})
        return [hit.rule.text for hit in search(memory, "dogs", scope).hits]

    assert text("2021-01-01") == ["dogs at six"]
    assert text("2026-01-01") == ["dogs at eight"]
    assert bring(memory, *corrected).empty


def test_a_later_version_without_a_first_is_refused(memory: Memory) -> None:
    with pytest.raises(RuleError, match="add its first version too"):
        bring(memory, CHAIN[1])
    assert memory.revision == 0


def test_the_same_id_twice_is_refused_and_names_both_documents(memory: Memory) -> None:
    with pytest.raises(DuplicateRule, match=r"'a'.*laws\.md.*other\.md"):
        bring(memory, row("a", "dogs"), row("a", "cats", "other.md"))
    assert memory.revision == 0


def test_places_come_with_the_rules_that_lie_in_them(memory: Memory) -> None:
    rule = row("a", "dogs", place="XA-N/Holm")
    with pytest.raises(UnknownPlace):
        plan_import(memory, [rule], tenant="default")
    codes = (("XA", "Aurelia"), ("XA-N", "North"), ("XA-N/Holm", "Holm"))
    places = [PlaceNames(code=code, names=(name,)) for code, name in codes]
    plan = plan_import(memory, [rule], tenant="default", places=places)
    assert commit_import(memory, plan) == 1
    assert memory.get("a").place == "XA-N/Holm"
    assert plan_import(memory, [rule], tenant="default", places=places).empty


def test_a_tenant_imports_for_itself(memory: Memory) -> None:
    plan = plan_import(memory, [row("a", "dogs")], tenant="other")
    commit_import(memory, plan)
    assert memory.get("a", tenant="other").tenant == "other"
    assert memory.rules() == []


def test_a_plan_that_another_change_overtook_is_refused_whole(memory: Memory) -> None:
    plan = plan_import(memory, [row("a", "dogs"), row("b", "cats")], tenant="default")
    memory.add(Rule(id="b", text="x"))
    with pytest.raises(DuplicateRule, match="'b'"):
        commit_import(memory, plan)
    assert [stored.rule.id for stored in memory.rules()] == ["b"]


class Interruptible(HashEmbedder):
    """Counts what it embeds, and stops after some texts as Ctrl-C would."""

    def __init__(self, stop_after: int) -> None:
        super().__init__(32)
        self.done, self.stop_after = 0, stop_after

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.done + len(texts) > self.stop_after:
            raise KeyboardInterrupt
        self.done += len(texts)
        return super().embed_passages(texts)


def test_an_interrupted_import_changed_nothing_and_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/rules.db"
    rules = [row(f"r{n}", f"dogs {n}") for n in range(300)]
    first = Interruptible(stop_after=200)
    with Memory.open(url, embedder=first) as memory, pytest.raises(KeyboardInterrupt):
        bring(memory, *rules)
    assert 0 < first.done <= 200
    second = Interruptible(stop_after=10_000)
    seen: list[tuple[int, int]] = []
    with Memory.open(url, embedder=second) as memory:
        assert memory.revision == 0
        plan = plan_import(memory, rules, tenant="default")
        commit_import(memory, plan, progress=lambda done, of: seen.append((done, of)))
        assert memory.revision == 1
        assert len(memory.rules()) == 300
    assert second.done == 300 - first.done
    assert seen[-1] == (300, 300)
