"""The gateway as it is benchmarked: the real application over generated rules."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI

from benchmarks.speed import generated_memory, known_questions
from comity.alignment.aligner import Options
from comity.memory.embed import Embedder, open_embedder
from comity.memory.memory import Memory
from comity.serving.app import create_app
from comity.serving.auth import create_key
from comity.serving.config import Gateway
from comity.serving.supervisor import run_several
from comity.serving.upstream import Upstream
from comity.serving.worker import Worker, bind, serve
from comity.settings import Settings


def fill(folder: Path, rules: int, *, real: bool) -> str:
    """Make the memory where it is missing, and give the secret of a new client's key."""
    url = url_of(folder, real=real)
    if not Path(url.removeprefix("sqlite:///")).exists():
        generated_memory(url, rules, _embedder(real=real))
    with Memory.open(url, embedder=_embedder(real=real)) as memory:
        return create_key(memory, "default", "client").secret


def url_of(folder: Path, *, real: bool) -> str:
    """Where the memory lies; vectors of the two embedders do not mix."""
    return f"sqlite:///{folder / ('real.db' if real else 'generated.db')}"


def _embedder(*, real: bool) -> Embedder:
    return open_embedder("e5") if real else known_questions()


class _Benchmarked(Worker):
    """A worker whose embedder has the vectors of the questions at hand, or is the real one."""

    real: bool

    @contextmanager
    def app(self) -> Iterator[FastAPI]:
        """The application over the memory of generated rules."""
        with Memory.open(self.settings.memory, embedder=_embedder(real=self.real)) as memory:
            memory.index.catch_up()
            yield create_app(memory, self.gateway, self.options)


def main() -> None:
    """Serve, as a process of its own and as `comity serve` does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--real-embedder", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    worker = _Benchmarked(
        settings=Settings(memory=url_of(given.folder, real=given.real_embedder)),
        gateway=Gateway(upstreams={"*": Upstream(base_url=given.upstream)}),
        options=Options(),
        real=given.real_embedder,
    )
    with bind("127.0.0.1", given.port) as listener:
        if given.workers > 1:
            run_several(worker, listener, given.workers, lambda: None)
        else:
            serve(worker, listener, lambda: None)


if __name__ == "__main__":
    main()
