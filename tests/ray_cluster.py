"""Run by tests/test_ray.py in a process of its own: a cluster of two nodes, one of which is killed.

Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from click.testing import CliRunner
from ray.cluster_utils import Cluster

from comity.cli import cli
from comity.evaluation.run import Job, execute_elsewhere
from comity.evaluation.runs import Item, Run
from comity.memory.bulk import Embedded, bulk_import
from comity.memory.embed import HashEmbedder
from comity.memory.memory import Memory
from comity.ray_workers import RayWorkers
from comity.records import Rule
from comity.workers import WorkerLost

_BATCH = 64  # texts of one job
_PATIENCE = 120  # seconds
_KILLED = "killed"  # the file that says so, in the folder of what was done


def note(done: Path, node: str) -> None:
    """Note that a job is done on a node. Behind its second a node waits until one was killed, so
    that there is work left then, however late the other began; the killed one waits for its end,
    which its processes may outlive by a second."""
    (done / f"{node}-{time.time_ns()}").touch()
    own = sum(file.name.startswith(node) for file in done.iterdir())
    until = time.monotonic() + _PATIENCE
    while own > 2 and time.monotonic() < until and killed_in(done) in ("", node):
        time.sleep(0.02)


def killed_in(done: Path) -> str:
    """The node that was killed, if one was."""
    file = done / _KILLED
    return file.read_text() if file.exists() else ""


def nodes_in(done: Path) -> set[str]:
    """The nodes that have worked."""
    return {file.name.partition("-")[0] for file in done.iterdir()} - {_KILLED}


def embedding(done: Path) -> Callable[[Sequence[str]], Embedded]:
    """An embedder that notes on which node it worked."""
    embedder = HashEmbedder(64)
    node = ray.get_runtime_context().get_node_id()

    def embed(texts: Sequence[str]) -> Embedded:
        note(done, node)
        return Embedded(embedder.id, embedder.embed_passages(texts))

    return embed


def kill_one_of(cluster: Any, node: Any, done: Path) -> threading.Thread:
    """Kill a node as soon as two have worked."""

    def kill() -> None:
        while len(nodes_in(done)) < 2:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        (done / _KILLED).write_text(node.node_id)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def broken() -> Callable[[int], int]:
    """What a node does that lacks a package."""
    raise ImportError("no such package here")


def never_begun() -> dict[str, object]:
    """What is said of workers that cannot begin; without it they would be begun for ever."""
    with RayWorkers[int, int](broken, count=1) as workers:
        workers.submit(1)
        try:
            workers.done()
        except WorkerLost as error:
            return {"never_begun": str(error)}
    return {"never_begun": ""}


def bulk(cluster: Any, folder: Path) -> dict[str, object]:
    """An import in whose course a node dies."""
    node = cluster.add_node(num_cpus=1)
    done = folder / "done"
    done.mkdir()
    rules = [Rule(id=f"r{n}", text=f"rule number {n}") for n in range(60 * _BATCH)]
    killer = kill_one_of(cluster, node, done)
    with Memory.open("sqlite://", embedder=HashEmbedder(64)) as memory:
        with RayWorkers[Sequence[str], Embedded](partial(embedding, done), count=2) as workers:
            report = bulk_import(memory, rules, batch=500, workers=workers)
            lost = workers.lost
        killer.join()
        ids = [stored.rule.id for stored in memory.store.rows_after(0)]
        wanted = memory.vectors.want(memory.embedder, [rule.indexed_text for rule in rules])
    return {
        "added": report.added,
        "as_given": ids == [rule.id for rule in rules],
        "missing": len(wanted.missing),
        "nodes": len(nodes_in(done)),
        "lost": lost,
    }


def exam(cluster: Any, folder: Path) -> dict[str, object]:
    """`comity add --ray` and `comity exam run --ray`, and the run in whose course a node dies."""
    os.chdir(folder)
    rules = "".join(json.dumps({"id": f"r{n}", "text": f"Rule {n}"}) + "\n" for n in range(5))
    Path("rules.jsonl").write_text(rules)
    rows = "".join(f"{n},What does rule {n} say?,One,Two,Three,A,\n" for n in range(40))
    Path("exam.csv").write_text("id,question,A,B,C,answer,principle\n" + rows)
    run = ("exam", "run", "--questions", "exam.csv", "--modes", "base,comity", "--out", "run")
    said = [
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
        for arguments in (("add", "rules.jsonl", "--ray"), (*run, "--parallel", "1", "--ray"))
    ]
    kept = [item.key for item in Run.read(Path("run")).items()]
    done = folder / "asked"
    done.mkdir()
    again = _Lost(folder / "run", done)
    node = cluster.add_node(num_cpus=1)
    killer = kill_one_of(cluster, node, done)
    with RayWorkers[Job, Item](again.asking, count=2) as workers:
        second = again.run(folder / "second", workers)
    killer.join()
    return {
        "codes": [each.exit_code for each in said],
        "output": [each.output[-500:] for each in said],
        "items": len(kept),
        "keys": len(set(kept)),
        "second": len(second),
        "second_lost": workers.lost,
        "second_keys": len(set(second)),
    }


class _Lost:
    """The same run once more, answered slowly, with a note of each node that did."""

    def __init__(self, folder: Path, done: Path) -> None:
        self._first = Run.read(folder)
        self._done = done

    def asking(self) -> Callable[[Job], Item]:
        node = ray.get_runtime_context().get_node_id()
        items = {item.key: item for item in self._first.items()}

        def ask(job: Job) -> Item:
            note(self._done, node)
            return items[job.key]

        return ask

    def run(self, folder: Path, workers: RayWorkers[Job, Item]) -> list[object]:
        from comity.evaluation.exams import read_exam
        from comity.evaluation.run import jobs

        questions = {"exam": read_exam(Path("exam.csv")).questions}
        todo = list(jobs(questions, ("base", "comity")))
        with Run.begin(folder, self._first.plan) as run:
            execute_elsewhere(run, todo, workers)
            return [item.key for item in run.items()]


def main() -> None:
    """Both parts, one after the other, in the folder that is named."""
    folder = Path(sys.argv[1])
    cluster: Any = Cluster(
        initialize_head=True,
        connect=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False},
    )
    try:
        found = never_begun() | bulk(cluster, folder) | exam(cluster, folder)
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
