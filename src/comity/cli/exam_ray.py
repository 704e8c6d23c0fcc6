"""`comity exam run --ray`: questions put by the workers of a Ray cluster."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from comity.cli.session import Session
from comity.errors import ExamError

if TYPE_CHECKING:
    from comity.evaluation.ask import ExamOptions
    from comity.evaluation.run import Examiner, Job
    from comity.evaluation.runs import Item, Key
    from comity.memory.memory import Memory
    from comity.settings import Loaded
    from comity.workers import Make


def examiners(
    session: Session, memory: Memory | None, options: ExamOptions, earlier: Mapping[Key, Item]
) -> Make[Job, Item]:
    """For workers: each opens the memory (if one is searched) and the model of the session."""
    from comity.memory.memory import path_of

    settings = session.settings
    path = path_of(settings.memory)
    if path is not None:  # the workers have other working directories
        absolute = {"memory": f"sqlite:///{Path(path).absolute()}"}
        settings = settings.model_copy(update=absolute)
    identity = memory.store.identity() if memory else ""
    loaded = session.loaded._replace(settings=settings)
    return partial(_open, loaded, identity, options, dict(earlier))


def _open(
    loaded: Loaded, identity: str, options: ExamOptions, earlier: Mapping[Key, Item]
) -> Callable[[Job], Item]:
    from comity.evaluation.run import Examiner

    session = Session()
    session.loaded = loaded
    memory = session.open_memory() if identity else None
    if memory and memory.store.identity() != identity:
        raise ExamError(
            f"{loaded.settings.memory} on {platform.node()} is another memory than the one that "
            "the run was begun with: put it on a disk that all nodes share, or use PostgreSQL"
        )
    examiner = Examiner(session.open_model(), memory, options, earlier)
    # one loop for all questions: a model's connections belong to it
    return partial(_examine, asyncio.Runner(), examiner)


def _examine(runner: asyncio.Runner, examiner: Examiner, job: Job) -> Item:
    from comity.evaluation.run import examine

    return runner.run(examine(job, examiner))
