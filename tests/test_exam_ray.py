"""What a worker of `comity exam run --ray` is given, without a cluster."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from comity.cli.exam_ray import examiners
from comity.cli.session import Session
from comity.errors import ExamError
from comity.evaluation.ask import ExamOptions
from comity.evaluation.exams import Question
from comity.evaluation.run import Job
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.records import Rule

JOB = Job("exam", Question(id="q", stem="Dogs?", options=("Yes", "No"), answer="A"), "comity")


def filled(url: str) -> Memory:
    memory = Memory.open(url, embedder=HashEmbedder(256))
    memory.add(Rule(id="a", text="Dogs are kept on a lead"))
    return memory


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(tmp_path)
    session = Session()
    session.given = {"memory": "sqlite:///rules.db", "embedder": "hash", "model": "scripted"}
    return session


def test_a_worker_in_another_folder_asks_with_the_memory_of_the_command(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(session.settings.memory) as memory:
        sent = pickle.dumps(examiners(session, memory, ExamOptions(), {}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    examine = pickle.loads(sent)()
    items = [examine(JOB) for _ in range(2)]
    assert [(item.key, [hit.id for hit in item.hits]) for item in items] == [(JOB.key, ["a"])] * 2
    examine.args[0].close()


def test_a_worker_refuses_another_memory_at_the_same_address(session: Session) -> None:
    with filled(session.settings.memory) as memory:
        make = examiners(session, memory, ExamOptions(), {})
    Path("rules.db").rename("kept.db")
    filled(session.settings.memory).close()
    with pytest.raises(ExamError, match=r"rules\.db on .* is another memory than the one"):
        make()
